"""Models of images given their labels: densities per class, labels as arguments, and Bayes' rule."""

import itertools
import math
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command_line import contents, flowvae, is_refusal, succeeds
from made_runs import message
from torch import Tensor, nn

import flowvae as package
from flowvae.batch import Batch, DataSpec, Given, labelled
from flowvae.config import System
from flowvae.data import load_dataset
from flowvae.densities import NormalPerClass
from flowvae.errors import UserError
from flowvae.evaluation import (
    Annealing,
    evaluate,
    evaluate_annealed,
    inference_gaps,
    interpolate,
    log_marginal,
    path_quality,
    score,
)
from flowvae.evaluation.bayes import log_mixture, log_posterior, log_prob_of_classes
from flowvae.evaluation.report import choose_images
from flowvae.models import Bounded, Coded, Generating, Inferring, Model, Scored
from flowvae.models.causal_density import CausalDensity
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.models.real_nvp import RealNVPDensity, RealNVPDensityOptions
from flowvae.models.registry import build_model
from flowvae.models.vae import VAEOptions, vae
from flowvae.parts import from_dict

CLASSES, LEVELS = 3, 2
TINY = {"latent": 2, "features": 6, "channels": 4}
KINDS: dict[str, System] = {
    "normal": from_dict(VAEOptions, {**TINY, "labels": True}),
    "flows": from_dict(
        VAEOptions,
        {
            **TINY,
            "labels": True,
            "posterior": "realnvp",
            "hidden": 5,
            "transformations": 1,
            "flow_of": "noise",
            "covariance": "full",
            "prior": "realnvp",
            "prior_transformations": 2,
            "prior_hidden": 5,
        },
    ),
    "maps": from_dict(
        VAEOptions,
        {
            "code": "map",
            "latent": 2,
            "channels": 4,
            "labels": True,
            "posterior": "planar",
            "prior": "realnvp",
            "prior_hidden": 4,
            "prior_transformations": 2,
        },
    ),
    "causal": from_dict(
        VAEOptions,
        {**TINY, "labels": True, "likelihood": "causal", "causal_channels": 4, "causal_orders": 2},
    ),
    "pixelcnn": PixelCNNOptions(labels=True, causal_channels=4, causal_blocks=1, causal_orders=2),
    "realnvp": RealNVPDensityOptions(labels=True, hidden=4, transformations=2),
}


@pytest.fixture(params=KINDS)
def kind(request) -> str:
    return request.param


def built(options: System, shape: tuple[int, int, int] = (1, 8, 8), moved: float = 0.3) -> Any:
    """A model in double precision, with parameters moved away from their start."""
    torch.manual_seed(0)
    levels = 256 if isinstance(options, RealNVPDensityOptions) else LEVELS
    model = build_model(options, DataSpec(shape, levels, 100, CLASSES)).double().eval()
    model.initialize(binary(20, *shape))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += moved * torch.randn_like(parameter)
    return model


def binary(*shape: int) -> Tensor:
    return (torch.rand(*shape, generator=torch.Generator().manual_seed(1)) < 0.5).double()


def every_image(height: int, width: int) -> Tensor:
    pixels = itertools.product((0.0, 1.0), repeat=height * width)
    return torch.tensor(list(pixels), dtype=torch.float64).view(-1, 1, height, width)


def widened(model: Any) -> Any:
    """With posteriors wider than the prior, so that few weights are large."""
    linear = model.posterior.base if hasattr(model.posterior, "base") else model.posterior
    with torch.no_grad():
        linear.mean_and_log_scale.bias[2:] += 1.4
    return model


def log_prob(model: Any, images: Tensor, labels: Tensor, samples: int = 1, seed: int = 0) -> Tensor:
    noise = torch.Generator().manual_seed(seed)
    return log_marginal(model, images, samples, noise=noise, labels=labels)


def unconditional(options: System) -> System:
    return type(options)(**{**vars(options), "labels": False})


# Densities.


@pytest.mark.parametrize("label", range(CLASSES))
def test_the_probabilities_of_all_images_of_a_class_sum_to_one(label):
    images = every_image(2, 4)
    model = built(KINDS["pixelcnn"], (1, 2, 4))
    total = log_prob(model, images, torch.full((len(images),), label)).exp().sum()
    assert total.item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("name", ["normal", "flows", "causal"])
@pytest.mark.parametrize("label", range(CLASSES))
def test_the_estimates_for_all_images_of_a_class_sum_to_one(name, label):
    images = every_image(2, 2)
    model = widened(built(KINDS[name], (1, 2, 2), moved=0.1))
    total = log_prob(model, images, torch.full((len(images),), label), samples=4000).exp().sum()
    assert total.item() == pytest.approx(1, abs=0.05)


def test_every_class_has_a_density_of_its_own(kind):
    model, image = built(KINDS[kind]), binary(1, 1, 8, 8)
    found = [log_prob(model, image, torch.tensor([label])).item() for label in range(CLASSES)]
    assert len({round(value, 3) for value in found}) == CLASSES


def test_an_image_has_the_density_of_its_own_label_in_any_company(kind):
    model, images = built(KINDS[kind]), binary(4, 1, 8, 8)
    labels = torch.tensor([2, 0, 1, 2])
    if isinstance(model, Scored):
        together = model.log_prob(images, labels=labels)
        alone = [model.log_prob(images[i : i + 1], labels=labels[i : i + 1]) for i in range(4)]
    else:
        samples, size = 5, images.shape if kind == "realnvp" else (4, model.dimension)
        noise = torch.rand(samples, *size, dtype=torch.float64)
        if kind == "causal":
            model.likelihood._orders = lambda samples, images, noise: None  # draws one
        together = weights(model.draws_for(images, noise, labels=labels)(samples))
        alone = [
            weights(
                model.draws_for(images[i : i + 1], noise[:, i : i + 1], labels=labels[i : i + 1])(samples)
            )
            for i in range(4)
        ]
    torch.testing.assert_close(together, torch.cat(alone, dim=-1))


def weights(drawn: Any) -> Tensor:
    return drawn if isinstance(drawn, Tensor) else drawn.likelihood + drawn.prior - drawn.posterior


@pytest.mark.parametrize("name", ["realnvp"])
def test_a_flow_given_a_label_is_undone_by_the_same_label(name):
    model = built(KINDS[name], moved=0.05)
    assert isinstance(model, RealNVPDensity)
    values, labels = 0.1 + 0.8 * torch.rand(2, 3, 1, 8, 8).double(), torch.tensor([2, 0, 1])
    z, _ = model.normalize(values, labels)
    torch.testing.assert_close(model.generate(z, labels), values)
    assert (model.generate(z, labels.roll(1)) - values).abs().max() > 1e-3


def test_the_log_determinant_given_a_label_is_that_of_autograds_jacobian():
    model = built(KINDS["realnvp"], (1, 4, 4), moved=0.1)
    for label in range(CLASSES):
        values = 0.1 + 0.8 * torch.rand(1, 1, 1, 4, 4).double()
        labels = torch.tensor([label])
        noise_of = partial(model.normalize, labels=labels)
        jacobian = torch.autograd.functional.jacobian(lambda x, of=noise_of: of(x)[0].flatten(), values)
        expected = torch.linalg.slogdet(jacobian.view(16, 16)).logabsdet
        torch.testing.assert_close(model.normalize(values, labels)[1][0, 0], expected)


@pytest.mark.parametrize("name", ["normal", "flows", "maps"])
def test_draws_from_the_prior_of_a_class_have_its_density(name):
    """The mean of 1 / p over draws z of p, within a box, is the volume of the box times p's share of it."""
    prior = built(KINDS[name], moved=0.2).prior
    for label in range(CLASSES):
        labels = torch.full((1,), label)
        number = 20_000
        noise = torch.Generator().manual_seed(label)
        z = prior.sample(number, noise, labels=labels.expand(number))
        density = prior(labels.expand(number)).log_prob(z.unsqueeze(0))[0]
        # E[-log p(z)] by draws equals the entropy: for the normal prior in closed form.
        if isinstance(prior, NormalPerClass):
            log_scale = prior.mean_and_log_scale(labels).chunk(2, 1)[1]
            entropy = (log_scale + 0.5 * math.log(2 * math.pi * math.e)).sum()
            assert -density.mean().item() == pytest.approx(entropy.item(), abs=0.05)
        else:
            context = prior._context(labels.expand(number))
            plain, log_determinant = prior.flow(z.unsqueeze(0), context)
            torch.testing.assert_close(density, prior.base().log_prob(plain)[0] + log_determinant[0])
            assert plain.mean(1).abs().max() < 0.05


# The start: the label has no effect, and an unconditional model is what it was.


def test_a_new_conditional_model_is_the_unconditional_one(kind):
    options = KINDS[kind]
    model, plain = built(options, moved=0), built(unconditional(options), moved=0)
    theirs = plain.state_dict()
    assert all(
        torch.equal(value, theirs[name]) for name, value in model.state_dict().items() if name in theirs
    )
    added = {name: value for name, value in model.state_dict().items() if name not in theirs}
    assert added
    assert not any(value.any() for value in added.values())
    images, labels = binary(4, 1, 8, 8), torch.tensor([0, 1, 2, 0])
    scores = []
    for each, own in ((model, labels), (plain, None)):
        torch.manual_seed(3)
        with torch.no_grad():
            scores.append(each.validate(Batch(images, torch.arange(4), own)))
    for name, value in scores[0].items():
        torch.testing.assert_close(value, scores[1][name])
    drawn = [
        model.sample(4, torch.Generator().manual_seed(0), labels=labels),
        plain.sample(4, torch.Generator().manual_seed(0)),
    ]
    torch.testing.assert_close(*drawn)


def test_every_part_of_the_label_learns(kind):
    model = built(KINDS[kind], moved=0).train()
    batch = Batch(binary(6, 1, 8, 8), torch.arange(6), torch.tensor([0, 1, 2, 0, 1, 2]))
    for update in model.updates(batch, 1000):
        update.loss.backward()
    plain = set(built(unconditional(KINDS[kind])).state_dict())
    added = {name: each for name, each in model.named_parameters() if name not in plain}
    # What starts behind zeros, the contexts of flows, moves with the second step.
    torch.optim.SGD(model.parameters(), 0.01).step()
    for update in model.updates(batch, 1000):
        update.loss.backward()
    assert all(each.grad is not None and each.grad.any() for each in added.values())


# Labels as arguments.

WRONG = {
    "missing": (None, "labels are missing"),
    "beyond": (torch.tensor([0, 1, CLASSES, 0]), "a label is 3; the model has the classes 0 to 2"),
    "unknown": (torch.tensor([0, -1, 0, 0]), "a label is -1"),
    "floats": (torch.zeros(4), "labels are torch.float32; give torch.int64"),
    "narrow": (torch.zeros(4, dtype=torch.int32), "labels are torch.int32; give torch.int64"),
    "no tensor": ([0, 1, 2, 0], "labels are a list; give a tensor"),
    "few": (torch.zeros(3, dtype=torch.int64), "give one per image, [4]"),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_wrong_labels_are_refused_in_one_line(kind, wrong):
    labels, said = WRONG[wrong]
    model, images = built(KINDS[kind]), binary(4, 1, 8, 8)
    given: Any = labelled(labels)
    calls, kinds = [], type(model).__mro__
    if Scored in kinds:
        calls.append(lambda: model.log_prob(images, **given))
    if Bounded in kinds:
        calls.append(lambda: model.draws_for(images, **given))
    if Coded in kinds:
        calls += [
            lambda: model.center(images, **given),
            lambda: model.reconstruct(images, **given),
            lambda: model.path(images, images, 3, (given, given)),
            lambda: model.decode(model.center(images, labels=torch.zeros(4, dtype=torch.int64)), **given),
        ]
    if Inferring in kinds:
        calls += [
            lambda: model.encode(images, **given),
            lambda: model.unroll(images, **given),
            lambda: model.sample_codes(4, **given),
        ]
    if labels is not None:
        calls.append(lambda: model.sample(4, **given))
    if wrong != "missing":
        calls.append(lambda: score(model, images, 1, **given))
    for call in calls:
        with pytest.raises(UserError) as error:
            call()
        message(error, said)


def test_a_model_that_is_not_conditional_refuses_labels(kind):
    model = built(unconditional(KINDS[kind]))
    with pytest.raises(UserError) as error:
        model.sample(4, labels=torch.zeros(4, dtype=torch.int64))
    message(error, "not conditional")
    with pytest.raises(UserError) as error:
        score(model, binary(4, 1, 8, 8), 1, labels=torch.zeros(4, dtype=torch.int64))
    message(error, "not conditional")


def test_samples_without_labels_have_each_class_as_often():
    model = built(KINDS["normal"])
    noise = torch.Generator().manual_seed(0)
    labels = model.labels_to_sample(3000, None, noise, torch.zeros(()))
    assert labels is not None
    assert (labels.bincount() / 3000 - 1 / 3).abs().max() < 0.05
    assert model.sample(5).shape == (5, 1, 8, 8)


def test_labels_to_sample_are_where_the_model_is():
    model = built(KINDS["normal"])
    labels = model.labels_to_sample(2, torch.tensor([0, 1]), None, torch.zeros((), device="meta"))
    assert labels is not None
    assert labels.device.type == "meta"


def test_a_path_starts_with_the_first_label_and_ends_with_the_second():
    for name in ("normal", "realnvp"):
        model, images = built(KINDS[name], moved=0.1), binary(4, 1, 8, 8)
        labels = torch.tensor([0, 1]), torch.tensor([2, 2])
        given = Given(labels=labels[0]), Given(labels=labels[1])
        path = interpolate(model, images[:2], images[2:], steps=4, given=given)
        for end, own, few in ((0, labels[0], images[:2]), (-1, labels[1], images[2:])):
            torch.testing.assert_close(path[:, end], model.reconstruct(few, labels=own))


def test_measures_of_paths_and_gaps_take_labels():
    model, images = widened(built(KINDS["normal"], moved=0.1)), binary(4, 1, 8, 8)
    labels = torch.tensor([0, 1, 2, 0])
    gaps = inference_gaps(model, images, 8, steps=2, labels=labels)
    expected = log_marginal(model, images, 200, labels=labels)
    assert (gaps.negative_elbo + expected > -2).all()
    with pytest.raises(UserError, match="labels are missing"):
        inference_gaps(model, images, 8, steps=2)
    paths = images[None].expand(2, -1, -1, -1, -1)
    quality = path_quality(model, paths, 2, 5, labels=labels.expand(2, 4))
    assert quality.negative_log_marginal.shape == (2,)


def test_parts_of_ones_own_make_a_conditional_model():
    """A decoder of codes that end with the one-hot label."""
    model = vae(
        (1, 8, 8),
        latent=2,
        classes=CLASSES,
        decoder=nn.Sequential(nn.Linear(2 + CLASSES, 64), nn.Unflatten(1, (1, 8, 8))),
    )
    labels = torch.tensor([0, 2, 1])
    assert model.decode(torch.zeros(3, 2), labels=labels).flatten(1).unique(dim=0).shape[0] == 3
    assert not vae((1, 8, 8), latent=2).conditional


# Bayes' rule.


def test_the_classifier_is_bayes_rule_by_enumeration():
    model, images = built(KINDS["pixelcnn"], (1, 2, 4)), every_image(2, 4)
    assert isinstance(model, CausalDensity)
    found = log_prob_of_classes(model, images, CLASSES, num_samples=1)
    joint = torch.stack(
        [
            model.log_prob(images, labels=torch.full((len(images),), label)).exp() / CLASSES
            for label in range(CLASSES)
        ]
    )
    torch.testing.assert_close(log_mixture(found).exp(), joint.sum(0))
    torch.testing.assert_close(log_posterior(found).exp(), (joint / joint.sum(0)).t())
    assert log_mixture(found).exp().sum().item() == pytest.approx(1, abs=1e-9)


def test_an_image_without_a_label_has_the_score_of_the_mixture():
    for name in ("normal", "pixelcnn"):
        model, images = built(KINDS[name], (1, 2, 4), moved=0.1), every_image(2, 4)[::37]
        model = widened(model) if name == "normal" else model
        found = score(model, images, 3 * 2000, torch.Generator().manual_seed(0))
        of_classes = [
            score(model, images, 2000, torch.Generator().manual_seed(1), labels=torch.full((len(images),), y))
            for y in range(CLASSES)
        ]
        expected = -torch.stack([-each["nll"] for each in of_classes]).logsumexp(0) + math.log(CLASSES)
        torch.testing.assert_close(found["nll"], expected, rtol=0, atol=0.1)
        assert found.keys() == {"nll"}


@pytest.fixture(scope="module")
def workspace(halves, tmp_path_factory) -> Path:
    """A directory with a conditional run of each system; nothing may change them but an evaluation."""
    folder = tmp_path_factory.mktemp("conditional")
    small = ["--labels", "--data", halves, "--track", "none"]
    of_vae = ["--latent", 3, "--features", 8, "--channels", 8, "--steps", 120, "--learning-rate", 0.01]
    succeeds("train", "vae", *small, *of_vae, "--learning-rate-warm-up", 5, "--out", folder / "vae")
    of_cnn = ["--causal-channels", 6, "--causal-blocks", 1, "--causal-orders", 1, "--steps", 4]
    succeeds("train", "pixelcnn", *small, *of_cnn, "--out", folder / "pixelcnn")
    return folder


def test_an_evaluation_scores_images_given_their_labels(workspace):
    model, dataset = package.load(workspace / "pixelcnn"), package.Run(workspace / "pixelcnn").dataset
    assert isinstance(model, CausalDensity)
    found = evaluate(model, dataset, num_samples=1)
    batch = dataset.batch("test", torch.arange(40))
    assert batch.labels is not None
    with torch.no_grad():
        both = torch.stack(
            [model.log_prob(batch.images, labels=torch.full((40,), y)) for y in (0, 1)]
        ).double()
    own = both.gather(0, batch.labels[None])[0]
    assert found["conditional"] is True
    assert found["nll"] == pytest.approx(-own.mean().item(), abs=1e-5)
    marginal = both.logsumexp(0) - math.log(2)
    assert found["marginal_nll"] == pytest.approx(-marginal.mean().item(), abs=1e-5)
    assert found["class_nll"] == pytest.approx((both.logsumexp(0) - own).mean().item(), abs=1e-5)
    assert found["class_error"] == pytest.approx((both.argmax(0) != batch.labels).double().mean().item())


def test_a_trained_model_classifies_by_bayes_rule(workspace):
    table = succeeds("evaluate", workspace / "vae", "--samples", 20)
    assert "conditional" in table
    assert "-log p(x) of all classes" in table
    found = package.runs.read_json(workspace / "vae" / "evaluation.json")
    assert found["class_error"] < 0.2
    assert found["nll"] < found["marginal_nll"] + 0.1


def test_annealing_scores_images_given_their_labels(workspace):
    model, dataset = package.load(workspace / "vae"), package.Run(workspace / "vae").dataset
    assert isinstance(model, Generating)
    annealing = Annealing(chains=16, distributions=100, leapfrog_steps=3)
    found = evaluate_annealed(model, dataset, annealing, num_images=5)
    batch = dataset.batch("test", choose_images(dataset, "test", 5, seed=0))
    assert batch.labels is not None
    exact = []
    for image, label in zip(batch.images.split(1), batch.labels.split(1), strict=True):
        with torch.no_grad():
            z = model.code_density(label).sample(torch.Size([10_000]))  # [S, 1, D]: it has 3 dimensions
            exact.append(model.image_density(labels=label)(z).log_prob(image).logsumexp(0) - math.log(10_000))
    assert found["nll"] == pytest.approx(-torch.cat(exact).mean().item(), abs=0.15)


# The command line.


def test_samples_of_a_class_are_of_this_class(workspace, tmp_path):
    for label, bright in ((0, 0), (1, 4)):
        out = tmp_path / f"{label}.npz"
        said = succeeds("sample", workspace / "vae", "--images", 20, "--label", label, "--out", out)
        assert said.endswith("means of p(x|y, z)\n")
        images = np.load(out)["images"].reshape(20, 8, 8)
        sides = images[:, :, :4].mean(), images[:, :, 4:].mean()
        assert sides[bright // 4] > sides[1 - bright // 4] + 0.1
    succeeds("sample", workspace / "vae", "--images", 20, "--out", tmp_path / "any.npz")
    succeeds(
        "sample", workspace / "vae", "--show", "classes", "--images", 6, "--out", tmp_path / "classes.npz"
    )
    assert np.load(tmp_path / "classes.npz")["images"].shape[0] == 6
    succeeds("sample", workspace / "vae", "--show", "classes", "--images", 7, "--out", tmp_path / "three")
    assert len(list((tmp_path / "three").iterdir())) == 6, "three of each class"


def test_crossed_samples_of_a_class(halves, tmp_path):
    small = ["--latent", 3, "--features", 8, "--channels", 8, "--causal-channels", 6, "--causal-blocks", 1]
    words = [*small, "--labels", "--data", halves, "--track", "none", "--steps", 2, "--out", tmp_path / "run"]
    succeeds("train", "density-small", *words)
    for number in (7, 12):
        out = tmp_path / f"{number}.npz"
        shown = ["--show", "crossed", "--label", 1, "--images", number, "--out", out]
        succeeds("sample", tmp_path / "run", *shown)
        assert len(np.load(out)["images"]) == number


def test_codes_keep_their_labels(workspace, halves, tmp_path):
    codes, run = tmp_path / "codes.npz", workspace / "vae"
    succeeds("encode", run, halves, "--out", codes)
    labels = np.load(codes)["labels"]
    assert np.array_equal(labels, np.load(halves)["test_labels"])
    succeeds("decode", run, codes, "--out", tmp_path / "own.npz")
    succeeds("decode", run, codes, "--label", 1, "--out", tmp_path / "right.npz")
    own, right = (np.load(tmp_path / f"{name}.npz")["images"] for name in ("own", "right"))
    assert np.array_equal(own[labels == 1], right[labels == 1])
    assert not np.array_equal(own[labels == 0], right[labels == 0])
    succeeds("encode", run, halves, "--draws", 2, "--out", tmp_path / "codes.csv")
    assert (tmp_path / "codes.csv").read_text().startswith("name,label,draw,z0")
    succeeds("encode", run, halves, "--draws", 2, "--out", tmp_path / "draws.npz")
    succeeds("decode", run, tmp_path / "draws.npz", "--out", tmp_path / "draws-decoded.npz")


def test_images_are_scored_with_and_without_a_class(workspace, halves):
    plain = succeeds("score", workspace / "vae", halves, "--samples", 4).splitlines()
    given = succeeds("score", workspace / "vae", halves, "--samples", 4, "--label", "0").splitlines()
    assert len(plain) == len(given) == 41
    assert plain[0].split(",")[:2] == ["name", "nll"]
    assert given[0].split(",")[:3] == ["name", "negative_elbo", "nll"]


def test_images_are_classified_by_bayes_rule(workspace, halves):
    rows = succeeds("classify", workspace / "vae", halves, "--samples", 40).splitlines()
    assert rows[0] == "name,class,probability,log_q_0,log_q_1"
    predicted = np.array([int(row.split(",")[1]) for row in rows[1:]])
    assert (predicted == np.load(halves)["test_labels"]).mean() > 0.8


def test_hidden_pixels_are_filled_in_given_the_class(workspace):
    for name in ("vae", "pixelcnn"):
        model: Any = package.load(workspace / name)
        images, hidden = torch.zeros(2, 1, 8, 8), torch.zeros(2, 1, 8, 8, dtype=torch.bool)
        noise = torch.Generator().manual_seed(0)
        found = model.impute(images, hidden, 3, 400, noise, labels=torch.tensor([0, 1]))
        assert found.images.shape == (3, 2, 1, 8, 8)
        if name == "vae":
            left, right = found.mean[..., :4].mean((1, 2, 3)), found.mean[..., 4:].mean((1, 2, 3))
            assert left[0] > right[0]
            assert right[1] > left[1]
        with pytest.raises(UserError, match="labels are missing"):
            model.impute(images, hidden, 3, 10)


def test_pictures_of_a_conditional_run(workspace, tmp_path):
    run = workspace / "vae"
    succeeds("reconstruct", run, "--out", tmp_path / "r.png")
    for more in ([], ["--keep-label"]):
        succeeds("interpolate", run, "--pairs", 3, *more, "--out", tmp_path / "i.png")
    model, named = package.load(run), package.Run(run).dataset
    assert model.conditional
    assert named.test.labels is not None


def test_a_class_is_known_by_its_name(tmp_path):
    from PIL import Image

    random = np.random.default_rng(0)
    for name in ("left", "right"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(12):
            pixels = random.integers(0, 255, (8, 8)).astype(np.uint8)
            Image.fromarray(pixels).save(tmp_path / "data" / name / f"{number}.png")
    small = ["--latent", 3, "--features", 8, "--channels", 4, "--steps", 2, "--track", "none"]
    run = tmp_path / "run"
    succeeds("train", "vae", "--labels", "--data", tmp_path / "data", *small, "--out", run)
    for label in ("right", "1"):
        succeeds("sample", run, "--label", label, "--images", 4, "--out", tmp_path / f"{label}.npz")
    by_name, by_number = (np.load(tmp_path / f"{label}.npz")["images"] for label in ("right", "1"))
    assert np.array_equal(by_name, by_number)
    refused = flowvae("sample", run, "--label", "rihgt", "--out", tmp_path / "no.npz")
    is_refusal(refused, "label is 'rihgt'; did you mean right?")
    image = tmp_path / "data" / "left" / "0.png"
    is_refusal(flowvae("encode", run, image), "images have no labels; give --label")
    succeeds("encode", run, image, "--label", "left")
    assert succeeds("score", run, image, "--samples", 4).count("\n") == 2


@pytest.mark.parametrize(
    ("made", "said"),
    [
        ({}, "the training images have no labels"),
        ({"train_labels": np.zeros(20, int), "valid_labels": np.zeros(8, int)}, "have a single class"),
        ({"train_labels": np.arange(20) % 3 - 1, "valid_labels": np.zeros(8, int)}, "have no labels"),
        (
            {"train_labels": np.arange(20) + 0.5},
            "array train_labels, as classes are one whole number per image",
        ),
        ({"train_labels": 2 * (np.arange(20) % 2), "valid_labels": np.zeros(8, int)}, "class 1 of 3"),
        (
            {
                "train_labels": np.arange(20) % 2,
                "valid_labels": np.zeros(8, int),
                "test_labels": np.arange(8),
            },
            "the test split of data has images of class 7",
        ),
    ],
)
def test_labels_that_do_not_serve_are_refused_before_training(made, said, tmp_path):
    images = {
        split: np.random.default_rng(0).integers(0, 2, (count, 8, 8)).astype(np.uint8)
        for split, count in (("train", 20), ("valid", 8), ("test", 8))
    }
    if made:
        made = {"test_labels": np.zeros(8, int), **made}
    np.savez(tmp_path / "data.npz", **images, **made)
    before = contents(tmp_path)
    train = ["train", "vae", "--labels", "--data", tmp_path / "data.npz", "--steps", 2]
    is_refusal(flowvae(*train, "--out", tmp_path / "run"), said)
    assert contents(tmp_path) == before


def test_what_cannot_be_conditional_is_refused(workspace, halves, tmp_path):
    train = ["train", "vae", "--labels", "--data", halves, "--steps", 2, "--out", tmp_path / "run"]
    is_refusal(flowvae(*train, "--prior", "vamp"), "the vamp prior does not depend on labels")
    run = tmp_path / "plain"
    small = ["--latent", 3, "--features", 8, "--channels", 4, "--steps", 2, "--track", "none"]
    succeeds("train", "vae", "--data", halves, *small, "--out", run)
    is_refusal(flowvae("sample", run, "--label", 1), "not conditional on labels; omit --label")
    is_refusal(flowvae("sample", run, "--show", "classes"), "not conditional")
    is_refusal(flowvae("sample", workspace / "vae", "--label", 7), "label is '7'; known: 0, 1")
    np.savez(tmp_path / "unlabelled.npz", **{k: v for k, v in np.load(halves).items() if "labels" not in k})
    other = ["--data", tmp_path / "unlabelled.npz"]
    is_refusal(flowvae("evaluate", workspace / "vae", *other), "have no labels")
    is_refusal(flowvae("reconstruct", workspace / "vae", *other, "--images", 5), "have no labels")
    is_refusal(
        flowvae("interpolate", workspace / "vae", *other, "--pairs", 2, "--keep-label"), "omit --keep-label"
    )
    assert load_dataset(tmp_path / "unlabelled.npz").test.labels is None
    assert isinstance(package.load(run), Model)


# The explorer.


def test_views_show_a_class_of_a_conditional_run(workspace, tmp_path):
    pytest.importorskip("gradio", reason="the extra explore is not installed")
    from flowvae.explorer import images
    from flowvae.explorer.explored import open_runs
    from flowvae.explorer.views import fill_in, interpolate, plane, posterior, samples
    from flowvae.explorer.views import score as scores

    (run,) = open_runs([workspace / "vae"])
    assert run.class_names == ["0", "1"]
    assert [each.title for each in run.of_classes] == [f"{run.title}, class 0", f"{run.title}, class 1"]
    right = run.of_class(1)
    assert run.of_class(-1) is run
    assert right.sample_labels is not None
    assert right.sample_labels.unique().tolist() == [1]
    assert isinstance(right.model, Inferring)
    assert torch.equal(
        right.model.decode(torch.zeros(2, 3))[0],
        run.model.decode(torch.zeros(2, 3), labels=torch.tensor([1, 1]))[0],
    )
    drawn = images.to_text(run.test_image(0)), images.to_text(run.test_image(1))
    shown = plane.map_of(right, True, [])
    assert shown["run"] == right.title
    decoded = plane.decoder([run])({"run": right.title, "code": [0.0, 0.0, 0.0]})
    assert "image" in decoded
    assert decoded != plane.decoder([run])({"run": run.of_class(0).title, "code": [0.0, 0.0, 0.0]})
    strip: Any = interpolate._strip(right, *drawn)
    assert len(strip["scores"]) == interpolate.STEPS
    assert posterior._unrolled(right, drawn[0], 200, 0)["samples"] == 200
    assert "sample 1" in samples._sheet(run, 4, 1.0, 0)
    assert "sample 1" in samples._sheet(right, 4, 1.0, 0)
    assert "effective sample size" in fill_in._filled(
        right, f"{drawn[0]}|{fill_in._upper_half((1, 8, 8))}", 2, 50, 0
    )
    rows, _, of_classes = scores._numbers(run.model, run.test_image(0)[None], 4)
    assert [name for name, _, _ in rows] == ["-log p(x)"]
    assert of_classes is not None
    assert of_classes.exp().sum().item() == pytest.approx(1)
    assert run.class_name(int(of_classes.argmax())) in run.class_names


def test_missing_pixels_are_left_out_of_bayes_rule(workspace, tmp_path):
    """With only one half known, and it dark, the other half must have been bright."""
    images = np.zeros((2, 8, 8), np.uint8)
    observed = np.zeros((2, 8, 8), bool)
    observed[0, :, :4] = observed[1, :, 4:] = True
    splits = ("train", "valid", "test")
    arrays = dict.fromkeys(splits, images) | {f"{name}_observed": observed for name in splits}
    np.savez(tmp_path / "half.npz", allow_pickle=False, **arrays)
    rows = succeeds("classify", workspace / "vae", tmp_path / "half.npz", "--samples", 400).splitlines()[1:]
    dark_left, dark_right = (float(row.split(",")[4]) for row in rows)  # log p(right|x)
    assert dark_left > dark_right
