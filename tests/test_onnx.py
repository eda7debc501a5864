"""What ONNX Runtime makes of an exported model is what PyTorch makes of it."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import flowvae, is_refusal, succeeds
from made_runs import CONFIG, SHAPE, SPEC, moved_model
from torch import Tensor

from flowvae.batch import DataSpec
from flowvae.config import Config
from flowvae.errors import UserError
from flowvae.models import Inferring
from flowvae.models.likelihoods import CausalLikelihoodOptions
from flowvae.models.networks import ConvolutionalOptions
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.models.posteriors import InverseAutoregressiveOptions, PlanarOptions, RealNVPOptions
from flowvae.models.priors import NormalOptions, RealNVPPriorOptions, VampOptions
from flowvae.models.vae import MapOptions, VAEOptions, VectorOptions
from flowvae.onnx import export_onnx
from flowvae.runs import Run
from flowvae.runs.capability import needs

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
SMALL = VAEOptions(code=VectorOptions(features=8), networks=ConvolutionalOptions(channels=4), latent=3)
REAL_NVP = RealNVPOptions(transformations=2, hidden=8)
REAL_NVP_PRIOR = RealNVPPriorOptions(prior_transformations=2, prior_hidden=8)
MODELS = {
    "gaussian": SMALL,
    "planar": replace(SMALL, posterior=PlanarOptions(transformations=12)),
    "planar without context": replace(SMALL, posterior=PlanarOptions(transformations=2, context=False)),
    "realnvp": replace(SMALL, posterior=REAL_NVP),
    "realnvp of noise, full covariance": replace(
        SMALL, posterior=replace(REAL_NVP, flow_of="noise"), covariance="full"
    ),
    "realnvp, batch normalization": CONFIG.model,
    "realnvp, weight normalization": replace(
        SMALL, posterior=RealNVPOptions(transformations=1, hidden=8, normalization="weight", bounded=False)
    ),
    "realnvp prior": replace(SMALL, prior=REAL_NVP_PRIOR),
    "iaf": replace(SMALL, posterior=InverseAutoregressiveOptions(transformations=2, hidden=8)),
    "realnvp of maps": replace(SMALL, posterior=REAL_NVP, code=MapOptions()),
}


def run_graph(file: Path, **inputs: Tensor) -> list[Tensor]:
    session = onnxruntime.InferenceSession(file.read_bytes(), providers=["CPUExecutionProvider"])
    return [torch.from_numpy(array) for array in session.run(None, {k: v.numpy() for k, v in inputs.items()})]


def assert_equal_to_1e_5(ours: Tensor, theirs: Tensor) -> None:
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


# An export takes seconds: one posterior that is made of loops in the fast tests, all others beside them.
FAST = "realnvp"


@pytest.mark.parametrize(
    "posterior",
    [name if name == FAST else pytest.param(name, marks=pytest.mark.slow) for name in MODELS],
)
def test_graphs_give_what_the_model_gives(posterior, tmp_path):
    model = moved_model(Config(model=MODELS[posterior])).eval()
    size = model.dimension
    model.prior.train()  # each part is left in its mode
    encoder, decoder, sampler = export_onnx(model, SHAPE, tmp_path / "onnx")
    assert (model.prior.training, model.encoder.training) == (True, False)
    model.eval()
    for num_samples, num_images in ((1, 1), (4, 5)):  # other sizes than those of the export
        images = torch.bernoulli(torch.full((num_images, *SHAPE), 0.5))
        noise = torch.randn(num_samples, num_images, size)
        with torch.no_grad():
            z, log_posterior = model.posterior(model.encoder(images), num_samples, noise)
            decoded = torch.stack([model.decode(codes) for codes in z])
            sampled = model.sample(num_images, noise[0])
        graph_z, graph_log_posterior = run_graph(encoder, images=images, noise=noise)
        assert_equal_to_1e_5(graph_z, z)
        assert_equal_to_1e_5(graph_log_posterior, log_posterior)
        assert_equal_to_1e_5(run_graph(decoder, z=z)[0], decoded)
        assert_equal_to_1e_5(run_graph(sampler, noise=noise[0])[0], sampled)


@pytest.mark.slow
@pytest.mark.parametrize("posterior", ["gaussian", "realnvp of noise, full covariance"])
@pytest.mark.parametrize("prior", [NormalOptions(), REAL_NVP_PRIOR], ids=["normal", "realnvp"])
def test_graphs_of_a_conditional_model_take_labels(posterior, prior, tmp_path):
    config = Config(model=replace(MODELS[posterior], prior=prior, labels=True))
    model = moved_model(config, SPEC._replace(classes=4)).eval()
    encoder, decoder, sampler = export_onnx(model, SHAPE, tmp_path / "onnx")
    for labels in (torch.tensor([2]), torch.tensor([3, 0, 1, 3, 2])):
        images = torch.bernoulli(torch.full((len(labels), *SHAPE), 0.5))
        noise = torch.randn(4, len(labels), model.dimension)
        with torch.no_grad():
            z, log_posterior = model.posterior(model.features(images, labels=labels), 4, noise)
            decoded = torch.stack([model.decode(codes, labels=labels) for codes in z])
            sampled = model.sample(len(labels), noise[0], labels=labels)
        graph_z, graph_log_posterior = run_graph(encoder, images=images, noise=noise, labels=labels)
        assert_equal_to_1e_5(graph_z, z)
        assert_equal_to_1e_5(graph_log_posterior, log_posterior)
        assert_equal_to_1e_5(run_graph(decoder, z=z, labels=labels)[0], decoded)
        assert_equal_to_1e_5(run_graph(sampler, noise=noise[0], labels=labels)[0], sampled)


REFUSED = {
    "a component of its prior": replace(SMALL, prior=VampOptions(pseudo_inputs=2)),
    "pixels one by one": replace(
        SMALL, likelihood=CausalLikelihoodOptions(causal_channels=4, causal_blocks=1)
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_other_noise_is_refused(what, tmp_path):
    model = moved_model(Config(model=REFUSED[what]))
    with pytest.raises(UserError, match=rf"draws {what}, .*use the model from Python$"):
        export_onnx(model, SHAPE, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


def test_a_model_without_graphs_is_refused(tmp_path):
    model = PixelCNNOptions(causal_channels=4, causal_blocks=1).build(DataSpec(SHAPE))
    with pytest.raises(UserError, match="a CausalDensity has no graphs for ONNX; use flowvae export"):
        export_onnx(model, SHAPE, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize("name", ["gaussian", "realnvp, batch normalization", "realnvp prior", "iaf"])
def test_graphs_draw_no_noise_of_their_own(name):
    """Torch's generator stands still, and the same inputs give the same numbers."""
    model = moved_model(Config(model=MODELS[name])).eval()
    before = torch.get_rng_state()
    for graph in model.graphs(SHAPE).values():
        with torch.no_grad():
            one, other = (graph.module(*graph.inputs.values()) for _ in range(2))
        torch.testing.assert_close(one, other, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_command_writes_graphs_into_the_run(workspace):
    files = {name: f"plain/onnx/{name}.onnx" for name in ("encoder", "decoder", "sampler")}
    assert succeeds("export", "plain", "--format", "onnx").split() == list(files.values())
    model = needs(Inferring, Run("plain"))
    images = torch.bernoulli(torch.full((3, *SHAPE), 0.5))
    z, _ = run_graph(Path(files["encoder"]), images=images, noise=torch.zeros(1, 3, 3))  # its center
    (means,) = run_graph(Path(files["decoder"]), z=z)
    with torch.no_grad():
        assert_equal_to_1e_5(means[0], model.reconstruct(images))


@pytest.mark.parametrize("package", ["onnx", "onnxscript"])
def test_a_missing_package_is_said(package, workspace, monkeypatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == package else find(name))
    is_refusal(flowvae("export", "plain"), f"ONNX needs {package};", "pip install 'flowvae[onnx]'")
    assert not Path("plain/onnx").exists()
