"""Half precision and gradient checkpointing: what they may change, and what not."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from command_line import SMALL, SMALL_FLOW, flowvae, is_refusal, succeeds, write_images
from flow_constructors import FLOWS, context_for, event_of, make
from made_runs import moved_model
from torch import Tensor

from flowvae import devices
from flowvae.config import Config
from flowvae.densities import CausalLikelihood
from flowvae.flows import Flow, checkpoint_transformations
from flowvae.models.likelihoods import CausalLikelihoodOptions, LogisticMixtureOptions, LogisticOptions
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.posteriors import InverseAutoregressiveOptions, PlanarOptions, RealNVPOptions
from flowvae.models.priors import RealNVPPriorOptions
from flowvae.models.vae import MapOptions, VAEOptions, VectorOptions
from flowvae.runs import read_metrics

MODEL = VAEOptions(code=VectorOptions(features=8), networks=ConvolutionalOptions(channels=4), latent=4)
MODELS = {
    "gaussian": MODEL,
    "gaussian full": replace(MODEL, covariance="full"),
    "planar": replace(MODEL, posterior=PlanarOptions(transformations=4)),
    "realnvp": replace(MODEL, posterior=RealNVPOptions(transformations=4, hidden=8)),
    "iaf": replace(MODEL, posterior=InverseAutoregressiveOptions(transformations=2, hidden=8)),
    "realnvp of maps": replace(
        MODEL, posterior=RealNVPOptions(transformations=2, hidden=8), code=MapOptions()
    ),
    "realnvp prior": replace(MODEL, prior=RealNVPPriorOptions(prior_transformations=2, prior_hidden=8)),
    "causal": replace(MODEL, likelihood=CausalLikelihoodOptions(causal_channels=8, causal_blocks=1)),
    "logistic": replace(MODEL, likelihood=LogisticOptions()),
    "logistic-mixture": replace(MODEL, likelihood=LogisticMixtureOptions()),
}


@pytest.mark.parametrize("name", MODELS)
def test_log_densities_are_float32_while_networks_compute_in_bfloat16(name):
    torch.manual_seed(0)
    model = moved_model(Config(model=MODELS[name])).eval()
    images = torch.bernoulli(torch.full((6, 1, 8, 8), 0.5))
    with torch.no_grad():
        torch.manual_seed(1)
        full = model(images, 2)
        torch.manual_seed(1)
        with torch.autocast("cpu", torch.bfloat16):
            assert model.encoder(images).dtype == torch.bfloat16, "nothing is in half precision: no test"
            half = model(images, 2)
    for one, other in zip(full, half, strict=True):
        assert other.dtype == torch.float32
        torch.testing.assert_close(other, one, rtol=0.03, atol=0.5)
    assert not torch.equal(full.likelihood, half.likelihood)


@pytest.mark.parametrize("orders", [1, 4])
def test_all_maps_of_a_causal_network_are_in_half_precision(orders):
    likelihood = CausalLikelihoodOptions(causal_channels=8, causal_blocks=2, causal_orders=orders)
    model = moved_model(Config(model=replace(MODEL, likelihood=likelihood)))
    found = []
    assert isinstance(model.likelihood, CausalLikelihood)
    for block in model.likelihood.network.blocks:
        block.register_forward_hook(lambda block, given, maps: found.extend([given[0].dtype, maps.dtype]))
    with torch.autocast("cpu", torch.bfloat16):
        model(torch.zeros(2, 1, 8, 8))
    assert found == [torch.bfloat16] * 4


@pytest.mark.parametrize("name", ["planar-11-amortized", "real-nvp-weight-norm"])
def test_chains_at_once_are_in_full_precision_everywhere(name):
    flow = make(name).float()
    z = torch.randn(3, 4, *event_of(name))
    context = context_for(name, flow, 4)
    context = None if context is None else context.float()
    expected = flow(z, context)
    with torch.autocast("cpu", torch.bfloat16):
        found = flow(z, context)
    for one, other in zip(expected, found, strict=True):
        assert torch.equal(one, other)


CHAINS = (
    "chain",
    "real-nvp",
    "real-nvp-weight-norm",
    "realnvp-3",
    "iaf-3",
    "flat-maps-realnvp-3",
    "flat-maps-realnvp-2-weight-norm",
    "maps-chain",
)


def gradients(flow: Flow, z: Tensor, context: Tensor | None) -> tuple[list[Tensor], int]:
    """Of a sum of values and determinants, and how many numbers were kept for them."""
    kept = 0

    def pack(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.numel()
        return tensor

    inputs = [z.requires_grad_(), *flow.parameters()]
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        moved, log_determinant = flow(z, context)
    loss = (moved * torch.arange(moved.numel()).view_as(moved).cos()).sum() + log_determinant.sum()
    found = torch.autograd.grad(loss, inputs, allow_unused=True)
    return [torch.zeros(()) if each is None else each for each in (moved, *found)], kept


@pytest.mark.parametrize("name", CHAINS)
def test_checkpointed_chains_have_the_same_gradients_and_keep_less(name):
    flow = make(name).eval()
    z, context = torch.randn(3, 40, *event_of(name), dtype=torch.float64), context_for(name, flow, 40)
    expected, kept = gradients(flow, z, context)
    assert checkpoint_transformations(flow) == 1
    found, kept_of_checkpointed = gradients(flow, z, context)
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other, one)
    assert kept_of_checkpointed < 0.7 * kept


@pytest.mark.parametrize("name", CHAINS)
def test_checkpointed_inverse_undoes_forward(name):
    flow = make(name).eval()
    z, context = torch.randn(3, 4, *event_of(name), dtype=torch.float64), context_for(name, flow, 4)
    checkpoint_transformations(flow)
    moved, log_determinant = flow(z.requires_grad_(), context)
    back, of_inverse = flow.inverse(moved, context)
    torch.testing.assert_close(back, z, atol=1e-8, rtol=0)
    torch.testing.assert_close(of_inverse, -log_determinant, atol=1e-8, rtol=0)


@pytest.fixture
def train(tmp_path, monkeypatch) -> Callable[..., list[str]]:
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images.npz")

    def words(preset: str, *more: str) -> list[str]:
        data = ["--data", "images.npz", "--steps", "6", "--track", "none", "--out", "run"]
        return ["train", preset, *(SMALL if preset == "planar-4" else SMALL_FLOW), *data, *more]

    return words


def test_runs_train_in_bfloat16_and_are_validated_in_float32(train, tmp_path):
    succeeds(*train("realnvp-2", "--precision", "bfloat16"))
    succeeds("evaluate", "run", "--samples", "2", "--images", "5")
    assert all(torch.isfinite(torch.tensor(line["negative_elbo"])) for line in read_metrics(tmp_path / "run"))
    result = flowvae("train", "--resume", "run", "--precision", "float32", "--steps", "8")
    is_refusal(result, "started with precision = bfloat16")


@pytest.mark.parametrize(("slowdown", "warned"), [(0.3, False), (31.4, True)])
def test_a_device_that_emulates_bfloat16_is_warned_of(train, monkeypatch, slowdown, warned):
    monkeypatch.setattr(devices, "bfloat16_slowdown", lambda on: slowdown)
    said = flowvae(*train("realnvp-2", "--precision", "bfloat16")).err
    assert ("cpu emulates bfloat16, in which a product of matrices takes 31 times as long;" in said) == warned


def test_the_slowdown_of_bfloat16_is_a_ratio_of_times(monkeypatch):
    assert 0 < devices.bfloat16_slowdown(torch.device("cpu"), size=32) < float("inf")
    ticks = iter([0, 9, 0, 6, 0, 8, 0, 9, 0, 2, 0, 3])
    monkeypatch.setattr(devices.time, "perf_counter", lambda: next(ticks))
    assert devices.bfloat16_slowdown(torch.device("cpu"), size=2) == 3, "the fastest of three count"


def test_gradient_checkpointing_may_change_when_a_run_goes_on(train):
    succeeds(*train("realnvp-5", "--gradient-checkpointing"))
    succeeds("train", "--resume", "run", "--steps", "8", "--no-gradient-checkpointing")


def test_gradient_checkpointing_of_nothing_and_of_batch_norm_is_refused(train, tmp_path):
    is_refusal(flowvae(*train("planar-4", "--gradient-checkpointing")), "this model has none")
    words = ["--gradient-checkpointing", "--normalization", "batch"]
    is_refusal(flowvae(*train("realnvp-2", *words)), "statistics of batch norm", "--normalization weight")
    assert not (tmp_path / "run").exists()


def test_every_chain_of_the_table_is_tried():
    """All that can be checkpointed and have several transformations, but those with batch norm."""
    chains = {
        name
        for name in FLOWS
        if checkpoint_transformations(flow := make(name))
        and len(flow.unroll(torch.randn(1, 2, *event_of(name)).double(), context_for(name, flow, 2))) > 1
    }
    batch_norm = {name for name in chains if "batch-norm" in name}
    assert batch_norm == {"realnvp-3-batch-norm", "flat-maps-realnvp-1-batch-norm"}
    assert set(CHAINS) == chains - batch_norm
