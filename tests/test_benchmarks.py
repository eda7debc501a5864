"""The benchmarks run, on sizes so small that their numbers mean nothing, and say what they promise."""

import json
import math
import sys
from pathlib import Path

import pytest
import torch
from linear_gaussian import LATENT, images_and_exact_value, linear_gaussian

REPOSITORY = Path(__file__).parents[1]
sys.path.insert(0, str(REPOSITORY))  # benchmarks/ is not part of the package

from benchmarks import estimation, report  # noqa: E402  # the path first
from benchmarks.timing import by_turns, floating_point_operations  # noqa: E402  # the path first
from flowvae.evaluation.inference_gaps import fitted_posteriors  # noqa: E402  # the path first
from flowvae.models.registry import preset  # noqa: E402  # the path first

pytestmark = pytest.mark.filterwarnings("ignore")  # of the peers, about their own use of PyTorch
REASON = "a peer that is not installed; pip install flowvae[benchmark]"
torch.set_num_threads(1)


@pytest.fixture
def peers() -> None:
    for name in ("nflows", "normflows", "pyro", "pythae", "zuko"):
        pytest.importorskip(name, reason=REASON, exc_type=ImportError)


@pytest.fixture
def own_processes(monkeypatch) -> None:
    monkeypatch.chdir(REPOSITORY)


def test_by_turns_gives_each_candidate_its_turn():
    order: list[str] = []
    seconds = by_turns({"a": lambda: order.append("a"), "b": lambda: order.append("b")}, 3, at_least=0.0)
    assert set(seconds) == {"a", "b"}
    assert all(value > 0 for value in seconds.values())
    # A call to warm up and one measured: twice at the start, then in each of three rounds, begun in turn.
    assert "".join(order) == "aabb" + "aabb" + "bbaa" + "aabb"


def test_operations_are_those_of_the_products():
    a, b = torch.randn(3, 5), torch.randn(5, 7)
    assert floating_point_operations(lambda: a @ b) == 2 * 3 * 5 * 7


@pytest.mark.usefixtures("peers")
def test_planar():
    from benchmarks import planar

    headlines, details = planar.measure(5, 3, 8, features=(4, 6), samples=2, repeats=1)
    assert headlines["planar_speedup"] > 0
    assert details["amortized"]["4 features"]["speedup"] == headlines["planar_speedup"]
    ours, textbook = details["relative_error"].values()
    assert 0 < max(ours["values"], ours["gradients"]) < 1e-4
    assert textbook["values"] < 1e-4
    check_stored("planar", headlines, details)


@pytest.mark.usefixtures("peers")
def test_candidates_of_one_planar_case_have_the_same_number_of_parameters():
    from benchmarks import planar

    counts = {
        name: sum(parameter.numel() for parameter in candidate.parameters())
        for name, candidate in planar._amortized(features=4, dimension=5, transformations=3).items()
    }
    ours = counts.pop(planar.OURS)
    counts.pop(planar.TEXTBOOK)
    # Ours adds a set that all images share to what the linear layer gives.
    assert set(counts.values()) == {ours - 3 * (2 * 5 + 1)}


@pytest.mark.usefixtures("peers")
def test_coupling():
    from benchmarks import coupling

    headlines, details = coupling.measure(6, (1, 2), 8, features=(4, 5), hidden=7, repeats=1)
    assert set(headlines) == {"coupling_speedup", "coupling_over_matmul"}
    cases = details["cases"]
    assert list(cases) == [
        f"K = {k}, {context}" for k in (1, 2) for context in ("no context", "4 features", "5 features")
    ]
    counted = [case for name, case in cases.items() if "5 features" not in name]
    assert headlines["coupling_speedup"] == min(case["speedup"] for case in counted)
    assert headlines["coupling_over_matmul"] == max(case["over_matmul"] for case in counted)
    check_stored("coupling", headlines, details)


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("context", [True, False], ids=["with-context", "without-context"])
def test_coupling_peers_have_the_log_determinant_that_autograd_has(context):
    """And so the direction, the halves and the sizes that they are meant to have."""
    from benchmarks import coupling
    from benchmarks.posteriors import moved

    sizes = coupling.Sizes(dimension=4, couplings=2, features=3, hidden=5, context=context)
    for peer in coupling.PEERS.values():
        if context and peer in coupling.WITHOUT_CONTEXT:
            continue
        flow = moved(peer(sizes), by=0.5)
        z, features = torch.randn(1, 1, 4), torch.randn(1, 3)
        jacobian = torch.autograd.functional.jacobian(lambda x: flow(x, features)[0], z).view(4, 4)  # noqa: B023
        _, log_determinant = flow(z, features)
        torch.testing.assert_close(log_determinant.view(()), torch.linalg.slogdet(jacobian)[1])
        assert (jacobian.abs() > 1e-6).sum() > 4 + 4, "two couplings mix both halves"


@pytest.mark.usefixtures("peers")
def test_matrix_products_are_all_those_of_our_posterior():
    from benchmarks import coupling
    from benchmarks.posteriors import our_posterior
    from flowvae.models.posteriors import RealNVPOptions

    sizes = coupling.Sizes(dimension=6, couplings=4, features=4, hidden=7, context=True)
    options = RealNVPOptions(transformations=2, hidden=7)
    ours, features = our_posterior(options, 4, 6), torch.randn(8, 4, requires_grad=True)

    def call() -> None:
        z, log_density = ours(features)
        (z.sum() + log_density.sum()).backward()

    counted = floating_point_operations(call)
    assert floating_point_operations(coupling.matrix_products(sizes, 8)) == counted


def test_training():
    from benchmarks import training

    headlines, details = training.measure({"vae": "float32"}, 1, compiled=False, loop_steps=1, batch_size=2)
    result = details["presets"]["vae"]
    assert math.isclose(sum(phase["share"] for phase in result["eager"]["phases"].values()), 1)
    assert headlines["training_share_of_matmul"] == result["eager"]["share_of_matmul"] > 0
    assert result["loop"]["images_per_second"] > 0
    check_stored("training", headlines, details)


def test_training_in_half_precision():
    from benchmarks import training

    small = {"batch_size": 1, "causal_orders": 1, "causal_channels": 8, "causal_blocks": 1}
    step = training.step_of(preset("density-small").revised(precision="bfloat16", **small))
    logits = []
    step.state.model.get_submodule("likelihood.network.last").register_forward_hook(
        lambda module, inputs, output: logits.append(output.dtype)
    )
    step()
    assert logits == [torch.bfloat16]


@pytest.mark.usefixtures("peers")
def test_likelihood():
    from benchmarks import likelihood

    headlines, details = likelihood.measure(40, 2, (3,), (20,), pythae_images=2, repeats=1)
    assert headlines["likelihood_share_of_matmul"] > 0
    nll = details["nll"]
    # The same model: the estimates differ by their samples alone.
    assert abs(nll["flowvae"] - nll["pythae"]) < 0.05 * nll["flowvae"]
    assert details["growth"][0]["peak_megabytes"] > 50
    check_stored("likelihood", headlines, details)


def test_missing():
    from benchmarks import missing

    headlines, details = missing.measure(30, 2, 3, repeats=1, step_repeats=1, batch_size=4)
    assert headlines["mask_over_step"] > 0
    rates = details["samples_per_second"]
    assert set(rates) == {missing.LIKELIHOOD, *missing.IMPUTATION.values()}
    share = details["share_of_matmul"]
    others = [share[name] / share[missing.LIKELIHOOD] for name in missing.IMPUTATION.values()]
    assert headlines["imputation_share_over_likelihood"] == min(others)
    check_stored("missing", headlines, details)


@pytest.mark.usefixtures("peers")
def test_operators():
    from benchmarks import operators

    headlines, details = operators.measure(
        4, 4, planar=2, real_nvp=1, presets={"vae": "float32"}, num_samples=2, calls=1, largest=3
    )
    assert headlines == {}
    for shares in details["shares"].values():
        assert len(shares) == 3 + 2
        assert math.isclose(sum(shares.values()), 1)
        assert all(0 <= share < 1 for share in shares.values())
    assert any("convolution" in name for name in details["shares"]["training step, vae in float32"])
    check_stored("operators", headlines, details)


@pytest.mark.usefixtures("peers")
@pytest.mark.parametrize("kind", ["VAE", "VAE_LinNF", "VAE_IAF"])
def test_densities_of_pythae_models(kind):
    """-log q is that of the base less the log-determinant that autograd finds."""
    from benchmarks import pythae_models
    from benchmarks.posteriors import moved
    from flowvae.models.vae import vae

    ours = vae((1, 28, 28), latent=4, features=8, channels=4)
    model = pythae_models.with_our_networks(kind, ours)
    moved(model).double()
    z = torch.randn(6, 4).double()
    after, log_determinant = pythae_models.flow(model, z)
    for point, value in zip(z, log_determinant, strict=True):
        jacobian = torch.autograd.functional.jacobian(
            lambda x: pythae_models.flow(model, torch.stack([x, x]))[0][0], point
        )
        torch.testing.assert_close(value.double(), torch.linalg.slogdet(jacobian)[1], atol=1e-5, rtol=1e-5)
    assert (kind == "VAE") == torch.equal(after, z)
    images = (torch.rand(5, 1, 28, 28) > 0.5).double()
    bounded = pythae_models.BoundedPythae(model).eval()
    # The loss that pythae itself trains: the same -ELBO, in the mean over many samples.
    with torch.no_grad():
        densities = bounded.draws_for(images)(2000)
        negative_elbo = -(densities.likelihood + densities.prior - densities.posterior).mean()
        repeated = {"data": images.repeat(2000, 1, 1, 1)}
        loss = model(repeated).loss
    torch.testing.assert_close(negative_elbo, loss, rtol=5e-3, atol=0.2)


@pytest.mark.usefixtures("peers")
def test_quality(tmp_path, shared_data, monkeypatch):
    from benchmarks import quality

    monkeypatch.setenv("FLOWVAE_SHARED_DATA", str(shared_data))
    rows = ("vae", "pythae-vae-our-networks")
    settings = {"minutes": 1e-4, "folder": tmp_path, "test_images": 4, "validation_images": 4}
    headlines, details = quality.measure(rows, **settings)
    ours, pythaes = details["rows"].values()
    assert headlines["quality_lead_nats"] == pythaes["negative_elbo"] - ours["negative_elbo"]
    assert pythaes["images_seen"] == quality.BATCH_SIZE
    check_stored("quality", headlines, details)
    # Rows that are there are not measured again.
    monkeypatch.setattr(quality, "_train_ours", None)
    monkeypatch.setattr(quality, "_train_pythae", None)
    assert quality.measure(rows, **settings) == (headlines, details)


@pytest.mark.usefixtures("peers")
def test_quality_of_a_model_that_diverges(tmp_path, shared_data, monkeypatch):
    from benchmarks import quality

    monkeypatch.setenv("FLOWVAE_SHARED_DATA", str(shared_data))
    rows = ("pythae-vae-our-networks",)
    settings = {"minutes": 1.0, "folder": tmp_path, "validation_images": 4, "learning_rate": 1e6}
    headlines, details = quality.measure(rows, **settings)
    assert headlines == {}
    assert details["rows"][rows[0]]["diverged_after_steps"] < 50
    assert "diverged" in report.tables({"details": {"quality": details}})


def test_growth(tmp_path):
    from benchmarks import growth

    small = {
        "K": [growth.Size(K=k, D=4, B=2) for k in (1, 2, 3)],
        "S": [growth.Size(K=1, D=4, S=s, B=1) for s in (1, 2, 3)],
    }
    headlines, details = growth.measure(small, repeats=1, picture=tmp_path / "growth.png")
    assert headlines == {}
    assert set(details["curves"]) == {"K", "S"}
    assert (tmp_path / "growth.png").stat().st_size > 0
    check_stored("growth", headlines, details)


def test_slope_of_a_square_is_two():
    from benchmarks.growth import _slope

    assert math.isclose(_slope([2, 4, 8], [0.4, 1.6, 6.4]), 2)


@pytest.mark.slow
def test_processes():
    from benchmarks import processes

    headlines, details = processes.measure(("vae",), (8, 16), steps=26, images=(2, 4), rounds=1)
    assert all(value > 0 for value in headlines.values())
    check_stored("processes", headlines, details)


def test_a_ring_of_processes_costs_what_its_messages_do():
    from benchmarks.processes import Cost

    cost = Cost(fixed=1, per_image=0.1, gradient_bytes=80, latency=0.5, bandwidth=10)
    assert cost.seconds(40, 1) == 5
    assert cost.seconds(40, 4) == 1 + 1 + 6 * (0.5 + 80 / 4 / 10)
    assert math.isclose(cost.speedup(40, 4), 5 / 17)


@pytest.mark.slow
@pytest.mark.slow
def test_startup():
    from benchmarks import startup

    headlines, details = startup.measure(repeats=1, steps=1, validation_images=2)
    assert headlines["help_seconds"] > 0
    assert details["training_peak_megabytes"] > 100
    check_stored("startup", headlines, details)


def check_stored(part: str, headlines: dict, details: dict) -> None:
    """Its section of the page can be written, from what survives JSON."""
    own = {"machine": report.machine.describe(), "load_before": 0.5, **details}
    results = {**headlines, "details": {part: own}}
    text = report.tables(json.loads(json.dumps(results)))
    assert all(f"`{name}`" in text for name in headlines)
    assert "###" in text


def test_a_part_takes_the_place_of_its_last_run_alone(tmp_path):
    path = tmp_path / "results" / "benchmarks.json"
    report.store("planar", {"planar_speedup": 2.0}, {"first": 1}, path)
    report.store("startup", {"help_seconds": 0.5}, {}, path)
    report.store("planar", {"planar_speedup": 3.0}, {"second": 2}, path)
    results = report.read(path)
    assert list(results) == ["planar_speedup", "help_seconds", "details"]
    assert results["planar_speedup"] == 3.0
    assert set(results["details"]["planar"]) == {"machine", "second"}


def test_page_keeps_its_prose(tmp_path):
    page = tmp_path / "performance.md"
    page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    details = {"startup": {"machine": report.machine.describe(), **STARTUP}}
    report.update_page({"help_seconds": 0.25, "details": details}, page)
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("\nafter\n")
    assert "0.25" in text
    assert "old" not in text


STARTUP = {
    "import_seconds": {"torch": 1.0, "beyond_torch": 0.1, "all_names": 0.2},
    "training_peak_megabytes": 700.0,
}


@pytest.mark.parametrize("way", estimation.WAYS)
def test_every_way_of_drawing_samples_is_unbiased(way):
    """8 samples for each of 2,000 seeds: the mean weight is p(x), and every order is as frequent."""
    model = linear_gaussian(exact=False)
    image, exact = images_and_exact_value(model, 1)
    points = [estimation.WAYS[way](8, LATENT, 4, seed) for seed in range(2000)]
    noise, orders = (torch.stack(column, 1) for column in zip(*points, strict=True))
    assert (orders.flatten().bincount(minlength=4) / orders.numel() - 0.25).abs().max() < 0.02
    images = image.expand(2000, -1, -1, -1)
    weights = (estimation.log_weights(model, images, noise.double(), orders) - exact).exp().mean(0)
    assert abs(weights.mean() - 1) < 4 * weights.std() / 2000**0.5
    assert weights.std() > 0.01, "otherwise this would prove nothing"


def test_the_bias_of_ways_of_drawing_samples_is_measured(tmp_path, monkeypatch, capsys):
    for name, value in (("LARGEST", 64), ("SAMPLES", (16, 64)), ("MORE", 8), ("STEPS", 1)):
        monkeypatch.setattr(estimation, name, value)
    fits = list[None]()

    def fitting(*given):
        fits.append(None)
        return fitted_posteriors(*given)

    monkeypatch.setattr(estimation, "fitted_posteriors", fitting)
    monkeypatch.setattr(estimation.time, "process_time", lambda: 3.0 * len(fits))  # only fits take time
    words = ["estimation", "density-mnist", "--images", "3", "--out", str(tmp_path / "found.json")]
    monkeypatch.setattr("sys.argv", words)
    estimation.main()
    found = json.loads((tmp_path / "found.json").read_text())["density-mnist"]
    assert found["images"] == 3
    assert found["reference_samples"] == 5 * 64 + 8
    ways = found["ways"]
    assert ways.keys() == {*estimation.WAYS, estimation.FITTED}
    assert ways["plain"]["16"]["minus_plain"] == 0
    of_samples = {name: way["64"]["milliseconds_per_image"] for name, way in ways.items()}
    assert of_samples[estimation.FITTED] == 1000 * len(fits), "of 3 seconds a fit, for 3 images"
    assert of_samples["plain"] == 0
    assert all(abs(way["64"]["bias"]) < 1 for way in ways.values()), "two codes with each of 32 orders"
    assert "sobol      S =  64: bias " in capsys.readouterr().out
