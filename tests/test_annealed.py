"""Annealed importance sampling: laws of its moves, exact answers, and the command."""

import itertools
import json
import math
import shutil
from dataclasses import replace
from typing import Any, Unpack

import pytest
import torch
from command_line import contents, flowvae, is_refusal, succeeds, write_images
from linear_gaussian import (
    LATENT,
    NOISE,
    SHAPE,
    images_and_exact_value,
    likelihood_of,
    linear_gaussian,
)
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.distributions import MultivariateNormal, Normal

import flowvae as package
from flowvae.batch import Given, labelled
from flowvae.densities import BernoulliLikelihood, GaussianPosterior, StandardNormal, log_prob
from flowvae.errors import UserError
from flowvae.evaluation import annealed, annealed_likelihood
from flowvae.evaluation.annealed import Position, anneal, leapfrog, move, sigmoid_schedule
from flowvae.evaluation.annealed_likelihood import (
    Annealing,
    annealed_importance_sampling,
    bracket,
    dequantized,
    simulate,
)
from flowvae.models import VAE, Generating
from flowvae.models.gan import GANOptions
from flowvae.models.glo import GLOOptions
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.parts import from_dict
from flowvae.runs.table import collect


@pytest.fixture(autouse=True)
def all_at_once(monkeypatch):
    """Run the chains of all images together, which is faster for tiny models."""
    monkeypatch.setattr(annealed_likelihood, "PAIRS_AT_ONCE", 100_000)


def two_gaussians(z: Tensor) -> tuple[Tensor, Tensor]:
    """N(0, I), and a correlated Gaussian times e^3, in two dimensions."""
    first = Normal(z.new_zeros(2), z.new_ones(2)).log_prob(z).sum(-1)
    return first, TARGET.log_prob(z) + 3


TARGET = MultivariateNormal(
    torch.tensor([1.0, -0.5]).double(), torch.tensor([[0.5, 0.2], [0.2, 0.3]]).double()
)


def drawn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_schedule_is_symmetric_and_densest_at_its_ends():
    betas = sigmoid_schedule(100)
    steps = betas.diff()
    torch.testing.assert_close(betas + betas.flip(0), torch.ones(101).double())
    assert betas[0] == 0
    assert betas[-1] == 1
    assert (steps[:50].diff() > 0).all()


def test_the_leapfrog_is_reversible_and_conserves_energy_to_second_order():
    start, momentum = Position.at(drawn(5, 3, 2), two_gaussians), drawn(5, 3, 2, seed=1)

    def energy(position: Position, momentum: Tensor) -> Tensor:
        return momentum.square().sum(2) / 2 - position.log_density(0.4)

    errors = []
    for size in (0.1, 0.05):
        step = torch.full((3,), size).double()
        end, after = leapfrog(start, momentum, step, 0.4, round(1 / size), two_gaussians)
        errors.append((energy(end, after) - energy(start, momentum)).abs().mean())
        back, reversed_ = leapfrog(end, -after, step, 0.4, round(1 / size), two_gaussians)
        torch.testing.assert_close(back.z, start.z, atol=1e-12, rtol=0)
        torch.testing.assert_close(-reversed_, momentum, atol=1e-12, rtol=0)
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)


def test_the_leapfrog_preserves_volume():
    def moved(state: Tensor) -> Tensor:
        z, momentum = state.view(2, 1, 1, 2)
        end, after = leapfrog(Position.at(z, bent), momentum, torch.tensor([0.3]).double(), 0.7, 4, bent)
        return torch.cat([end.z.flatten(), after.flatten()])

    def bent(z: Tensor) -> tuple[Tensor, Tensor]:
        first = -z.square().sum(-1) / 2
        return first, first - (z[..., 0].square() - z[..., 1]).square()

    state, small = drawn(4), 1e-5
    columns = [
        (moved(state + small * unit) - moved(state - small * unit)) / (2 * small)
        for unit in torch.eye(4).double()
    ]
    assert torch.linalg.det(torch.stack(columns)).item() == pytest.approx(1, abs=1e-7)


def test_moves_leave_the_density_invariant():
    """Coarse steps, so that a fifth of the moves is rejected: without the rule, moments would differ."""
    noise = torch.Generator().manual_seed(3)
    chol = torch.linalg.cholesky(TARGET.covariance_matrix)
    position = Position.at(TARGET.loc + drawn(20_000, 1, 2) @ chol.mT, two_gaussians)
    shares = []
    for _ in range(5):
        position, probability = move(position, torch.tensor([0.7]).double(), 1.0, 3, two_gaussians, noise)
        shares.append(probability.mean().item())
    assert 0.5 < sum(shares) / 5 < 0.9
    z = position.z[:, 0]
    torch.testing.assert_close(z.mean(0), TARGET.loc, atol=0.02, rtol=0)
    torch.testing.assert_close(torch.cov(z.T), TARGET.covariance_matrix, atol=0.02, rtol=0)


def test_a_proposal_without_a_finite_density_is_rejected():
    def walled(z: Tensor) -> tuple[Tensor, Tensor]:
        first = -z.square().sum(-1) / 2
        return first, torch.where(z[..., 0] > 0, first, first * math.nan)

    position = Position.at(drawn(50, 4, 2).abs(), walled)
    for seed in range(10):
        noise = torch.Generator().manual_seed(seed)
        position, _ = move(position, torch.full((4,), 0.3).double(), 1.0, 5, walled, noise)
    assert (position.z[..., 0] > 0).all()


def test_first_step_sizes_are_uniform_within_a_fifth(monkeypatch):
    seen: list[Tensor] = []

    def recording(position, step_size, *arguments):
        seen.append(step_size)
        return move(position, step_size, *arguments)

    monkeypatch.setattr(annealed, "move", recording)
    noise = torch.Generator().manual_seed(0)
    start = torch.randn(1, 400, 2, dtype=torch.float64, generator=noise)
    anneal(start, two_gaussians, sigmoid_schedule(2), noise=noise)
    factors = seen[0] / annealed.FIRST_STEP
    assert 0.8 <= factors.min() < 0.81
    assert 1.19 < factors.max() <= 1.2
    assert factors.mean().item() == pytest.approx(1, abs=4 * 0.4 / math.sqrt(12 * 400))


def test_weights_estimate_the_normalizing_constant_in_both_directions():
    noise = torch.Generator().manual_seed(3)
    forward = anneal(drawn(2000, 4, 2), two_gaussians, sigmoid_schedule(100), noise=noise)
    estimate = forward.log_weights.logsumexp(0) - math.log(2000)
    torch.testing.assert_close(estimate, torch.full((4,), 3.0).double(), atol=0.05, rtol=0)
    chol = torch.linalg.cholesky(TARGET.covariance_matrix)
    exact = TARGET.loc + drawn(2000, 4, 2, seed=2) @ chol.mT
    backward = anneal(exact, two_gaussians, sigmoid_schedule(100).flip(0), noise=noise)
    estimate = math.log(2000) - backward.log_weights.logsumexp(0)
    torch.testing.assert_close(estimate, torch.full((4,), 3.0).double(), atol=0.05, rtol=0)
    assert (forward.acceptance - 0.65).abs().max() < 0.1


@pytest.mark.parametrize("start", ["prior", "posterior"])
def test_the_estimate_is_exact_for_a_linear_gaussian_model(start):
    model = linear_gaussian(exact=False, shift=0.5, stretch=0.6)  # a poor q(z|x), too narrow
    images, exact = images_and_exact_value(model, 3)
    annealing = Annealing(chains=1000, distributions=400, leapfrog_steps=3, start=start)
    found = annealed_importance_sampling(model, images, annealing, torch.Generator().manual_seed(0))
    assert found.log_prob.dtype == torch.float64
    torch.testing.assert_close(found.log_prob, exact, atol=0.05, rtol=0)


def test_few_distributions_bound_the_exact_value_from_both_sides():
    model = linear_gaussian(exact=False)
    annealing = Annealing(chains=2, distributions=6, leapfrog_steps=2, start="prior")
    weight = likelihood_of(model).weight.detach()
    torch.manual_seed(0)
    codes = torch.randn(400, LATENT).double()
    images = (codes @ weight.T + NOISE * torch.randn(400, len(weight)).double()).unflatten(1, SHAPE)
    covariance = weight @ weight.T + NOISE**2 * torch.eye(len(weight)).double()
    exact = MultivariateNormal(torch.zeros(len(weight)).double(), covariance).log_prob(images.flatten(1))
    found = bracket(model, images, codes, annealing)
    below, above = exact - found.lower, found.upper - exact
    error = below.std() / 20, above.std() / 20
    assert below.mean() > 3 * error[0], "there is something to bound"
    assert above.mean() > 3 * error[1]
    gap = found.upper.mean() - found.lower.mean()
    many = bracket(model, images[:20], codes[:20], Annealing(chains=16, distributions=150, start="prior"))
    assert abs((many.upper - many.lower).mean()) < 0.15 < gap


@torch.no_grad()
def integrated(
    model: Generating, images: Tensor, variance: float | None = None, **given: Unpack[Given]
) -> Tensor:
    """Sum p(x, z) over a grid of codes with one or two dimensions: log p(x), [B]."""
    axis = torch.linspace(-5, 5, 81, dtype=images.dtype)
    grid = torch.cartesian_prod(*[axis] * model.dimension).view(-1, 1, model.dimension)
    grid, own = grid.expand(-1, len(images), -1), labelled(given.get("labels"))
    density = model.image_density(variance, **own)(grid)
    joint = log_prob(density, images, given.get("observed")) + model.code_density(**own).log_prob(grid)
    return joint.double().logsumexp(0) + model.dimension * math.log(10 / 80)


class Bent(nn.Module):
    """Logits of four pixels that depend on a code nonlinearly."""

    def forward(self, z: Tensor) -> Tensor:
        x, y = z[:, 0], z[:, -1]
        return torch.stack([3 * x, x * y - 1, 2 * torch.sin(2 * y), 1 - x.square()], 1).view(-1, 1, 2, 2)


@pytest.mark.parametrize("dimension", [1, 2])
def test_the_estimate_equals_numerical_integration_with_a_bernoulli_likelihood(dimension):
    posterior = GaussianPosterior(4, dimension)
    likelihood = BernoulliLikelihood(Bent(), (1, 2, 2))
    model = VAE(nn.Flatten(), posterior, StandardNormal(dimension), likelihood).double()
    images = torch.tensor(list(itertools.product([0.0, 1.0], repeat=4)))[::5].double().view(-1, 1, 2, 2)
    exact = integrated(model, images)
    for start in ("prior", "posterior"):
        noise = torch.Generator().manual_seed(0)
        annealing = Annealing(chains=4000, distributions=60, leapfrog_steps=5, start=start)
        found = annealed_importance_sampling(model, images, annealing, noise)
        torch.testing.assert_close(found.log_prob, exact, atol=0.02, rtol=0)


def test_log_q_of_given_codes_is_that_of_the_draws():
    for flow in (
        {},
        {"posterior": "realnvp", "flow_of": "noise"},
        {"posterior": "realnvp", "flow_of": "code"},
    ):
        options = {**flow, **({"transformations": 2, "hidden": 8} if flow else {})}
        for covariance in ("diagonal", "full"):
            model = moved(package.vae((1, 8, 8), latent=3, features=8, covariance=covariance, **options))
            images = torch.rand(4, 1, 8, 8).round().double()
            with torch.no_grad():
                z, log_q = model.posterior(model.features(images), 5)
                torch.testing.assert_close(model.posterior_density(images)(z), log_q)


def moved(model: VAE) -> VAE:
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model.double().eval()


@pytest.mark.parametrize(
    "options",
    [
        {"prior": "realnvp", "prior_transformations": 2, "prior_hidden": 8},
        {"prior": "vamp", "pseudo_inputs": 4},
        {"classes": 3},
        {"classes": 3, "prior": "realnvp", "prior_transformations": 2, "prior_hidden": 8},
        {"likelihood": "causal", "causal_channels": 8, "causal_orders": 1},
        {"likelihood": "gaussian", "variance": 0.1},
        {"likelihood": "gaussian", "variance": 0.3, "networks": "dense", "widths": "9", "classes": 3},
    ],
    ids=lambda options: " ".join(map(str, options.values())),
)
def test_the_estimate_equals_numerical_integration(options):
    small = {} if "networks" in options else {"channels": 4}
    model = moved(package.vae((1, 8, 8), latent=2, features=8, **small, **options))
    images = torch.rand(2, 1, 8, 8, generator=torch.Generator().manual_seed(1)).round().double()
    given: Given = {"labels": torch.tensor([2, 0])} if "classes" in options else {}
    observed = torch.rand(images.shape, generator=torch.Generator().manual_seed(2)) < 0.7
    if options.get("likelihood") != "causal":
        given["observed"] = observed
    expected = integrated(model, images, **given)
    annealing = Annealing(chains=100, distributions=60, leapfrog_steps=5)
    found = annealed_importance_sampling(model, images, annealing, torch.Generator().manual_seed(0), **given)
    # Posteriors with several modes, whose shares of the chains vary.
    torch.testing.assert_close(found.log_prob, expected, atol=0.35, rtol=0)


@pytest.mark.parametrize("options", [GANOptions, GLOOptions])
def test_generators_have_a_density_of_a_given_variance(options):
    torch.manual_seed(0)
    spec = package.DataSpec((1, 8, 8), 256, training_images=20)
    model: Any = package.build_model(
        options(latent=2, features=8, networks=ConvolutionalOptions(channels=4)), spec
    )
    annealing = Annealing(chains=100, distributions=60, leapfrog_steps=5, variance=0.1)
    images, codes = simulate(model, 4, annealing)[::-1]
    torch.testing.assert_close(images.var(), torch.tensor(0.1), atol=0.05, rtol=0)
    found = bracket(model, images, codes, annealing)
    exact = integrated(model, images, 0.1)
    torch.testing.assert_close(found.lower, exact, atol=0.35, rtol=0)
    assert abs((found.upper - exact).mean()) < 0.35


def test_dequantized_pixels_are_uniform_in_the_interval_of_their_level():
    levels = torch.arange(256).view(1, 1, 16, 16)
    images = (levels / 255).expand(200, 1, 16, 16)
    inside = 256 * dequantized(images, torch.Generator().manual_seed(0)) - levels
    assert 0 <= inside.min() < 0.01
    assert 0.99 < inside.max() <= 1
    torch.testing.assert_close(inside.mean(), torch.tensor(0.5), atol=0.01, rtol=0)
    options: Any = {"likelihood": "gaussian", "features": 8, "channels": 4, "latent": 2}
    model, annealing = package.vae((1, 16, 16), **options), Annealing(2, 5)
    noise = torch.Generator().manual_seed(1)
    plain = annealed_importance_sampling(model, dequantized(images[:3], noise), annealing, noise)
    given = replace(annealing, dequantize=True)
    found = annealed_importance_sampling(model, images[:3], given, torch.Generator().manual_seed(1))
    torch.testing.assert_close(found.log_prob, plain.log_prob)


def test_mistakes_are_refused_in_one_line():
    images = torch.zeros(2, 1, 8, 8)
    small: Any = {"latent": 2, "features": 8, "channels": 4}
    vae = package.vae((1, 8, 8), **small)
    planar = package.vae((1, 8, 8), posterior="planar", transformations=2, **small)
    causal = package.vae((1, 8, 8), likelihood="causal", causal_channels=8, causal_orders=2, **small)
    gan = package.build_model(from_dict(GANOptions, small), package.DataSpec((1, 8, 8)))
    pixelcnn = package.build_model(PixelCNNOptions(causal_channels=8), package.DataSpec((1, 8, 8), 2))
    options: Any
    for model, options, said in (
        (vae, {"variance": 0.1}, "omit --variance"),
        (planar, {"start": "posterior"}, "choose --start prior"),
        (causal, {}, "--causal-orders 1"),
        (gan, {}, "give the --variance"),
        (gan, {"variance": 0.1, "start": "posterior"}, "choose --start prior"),
        (pixelcnn, {}, "choose --estimator importance"),
    ):
        with pytest.raises(UserError, match=said) as error:
            annealed_importance_sampling(model, images, Annealing(2, 3, **options))
        assert "\n" not in str(error.value)
    wrong: Any
    for wrong in ({"chains": 1}, {"distributions": 1}, {"variance": 0.0}, {"variance": math.nan}):
        with pytest.raises(UserError):
            Annealing(**wrong)
    assert annealed_importance_sampling(planar, images, Annealing(2, 3)).log_prob.isfinite().all(), (
        "from the prior"
    )


def test_chains_that_hardly_move_are_refused():
    model = package.build_model(
        GANOptions(latent=2, features=8, networks=ConvolutionalOptions(channels=4)),
        package.DataSpec((1, 8, 8)),
    )
    with pytest.raises(UserError, match=r"chains of 2 of 2 images .* beta = .*--distributions"):
        annealed_importance_sampling(model, torch.rand(2, 1, 8, 8), Annealing(4, 5, variance=1e-8))


def test_other_images_do_not_overwrite_an_annealed_evaluation(workspace):
    for name in ("ais", "ais-other"):
        shutil.copyfile(workspace / "images.npz", workspace / f"{name}.npz")
        result = flowvae("evaluate", "flow", "--data", f"{name}.npz", "--samples", 2)
        is_refusal(result, f"evaluation-{name}.json is a file of --estimator ais", f"rename {name}")
    assert not [*(workspace / "flow").glob("evaluation-*")]


AIS = ("--estimator", "ais", "--chains", 3, "--distributions", 12, "--leapfrog-steps", 3)


@pytest.mark.parametrize("run", ["plain", "flow"])
def test_evaluate_writes_its_own_files(workspace, run):
    before = contents(workspace)
    out = succeeds("evaluate", run, *AIS, "--images", 6, "--simulated", 4)
    assert "gap" in out
    after = contents(workspace)
    new = {f"{run}/evaluation-ais.json", f"{run}/scores-ais.safetensors"}
    assert after.keys() - before.keys() == new
    assert {name: after[name] for name in before} == before
    found = json.loads((workspace / run / "evaluation-ais.json").read_text())
    assert found["estimator"] == "ais"
    assert found["start"] == "posterior"
    assert (found["chains"], found["distributions"], found["images"], found["simulated"]) == (3, 12, 6, 4)
    assert "variance" not in found
    of_images = load_file(workspace / run / "scores-ais.safetensors")
    assert of_images["nll"].mean().item() == pytest.approx(found["nll"])
    succeeds("evaluate", run, "--samples", 500, "--images", 6)
    other = json.loads((workspace / run / "evaluation.json").read_text())
    assert found["nll"] == pytest.approx(other["nll"], abs=0.5)
    succeeds("evaluate", run, "--samples", 500, "--images", 9)
    (row,) = collect([workspace / run])
    annealed, nll = of_images["nll"], load_file(workspace / run / "scores.safetensors")["nll"]
    assert (row["images"], row["annealed_images"], row["annealed_nll"]) == (9, 6, found["nll"])
    assert row["annealed_difference"] == pytest.approx((annealed - nll[:6]).mean().item())
    assert row["gap"] == found["gap"]
    assert "-log p(x), annealed" in succeeds("table", run)
    prior = (*AIS, "--images", 6, "--simulated", 0, "--start", "prior", "--data", "images.npz")
    assert "gap" not in succeeds("evaluate", run, *prior)


def test_an_evaluation_that_was_stopped_is_continued_to_the_same_numbers(workspace, monkeypatch):
    words = ("evaluate", "plain", *AIS, "--images", 30, "--simulated", 25)
    monkeypatch.setattr(annealed_likelihood, "PAIRS_AT_ONCE", 64)
    succeeds(*words)
    whole = contents(workspace / "plain")
    for name in ("evaluation-ais.json", "scores-ais.safetensors"):
        (workspace / "plain" / name).unlink()
    started: list[int] = []
    plain_anneal = annealed_likelihood.anneal

    def stopping(*arguments: Any) -> Any:
        started.append(0)
        if len(started) in (2, 6):
            raise KeyboardInterrupt
        return plain_anneal(*arguments)

    monkeypatch.setattr(annealed_likelihood, "anneal", stopping)
    assert flowvae(*words).code == 130
    assert len(list((workspace / "plain").glob("*.unfinished.*"))) == 1
    assert flowvae(*words).code == 130, "among the simulated images"
    assert len(list((workspace / "plain").glob("*.unfinished.*"))) == 2
    succeeds(*words)
    assert contents(workspace / "plain") == whole
    # 21 images of 3 chains are a batch: 1 + 1 of images, then 1 + 1 simulated ones in both directions.
    assert len(started) == 8, "of which two were stopped"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--chains", 4), ("--estimator ais",)),
        (("--simulated", 4), ("--estimator ais",)),
        (("--estimator", "ais", "--samples", 4), ("--samples",)),
        (("--estimator", "ais", "--chains", 1), ("chains is 1",)),
        (("--estimator", "ais", "--distributions", 1), ("distributions is 1",)),
        (("--estimator", "ais", "--variance", 0.1), ("omit --variance",)),
        (("--estimator", "ais", "--dequantize"), ("take 2 values", "omit --dequantize")),
        (("--dequantize",), ("--estimator ais",)),
        (("--estimator", "ais", "--simulated", -1), ("simulated is -1",)),
        (("--estimator", "ais", "--images", 31), ("--images 1 to 30",)),
    ],
)
def test_options_without_effect_or_out_of_range_are_refused(workspace, words, said):
    before = contents(workspace)
    is_refusal(flowvae("evaluate", "flow", *words), *said)
    assert contents(workspace) == before


def test_a_gan_has_a_likelihood_of_a_given_variance(workspace):
    write_images(workspace / "grey.npz", levels=256)
    data = ("--data", "grey.npz", "--steps", 2, "--batch-size", 16, "--track", "none", "--out", "gan")
    succeeds("train", "gan-mnist", "--features", 8, "--channels", 4, "--latent", 2, *data)
    is_refusal(flowvae("evaluate", "gan", *AIS), "--variance")
    assert not (workspace / "gan" / "evaluation-ais.json").exists()
    succeeds("evaluate", "gan", *AIS, "--variance", 0.1, "--dequantize", "--images", 4, "--simulated", 2)
    found = json.loads((workspace / "gan" / "evaluation-ais.json").read_text())
    assert (found["variance"], found["dequantize"]) == (0.1, True)
    assert found["start"] == "prior"
    assert math.isfinite(found["gap"])
