"""What ONNX Runtime makes of an exported model is what PyTorch makes of it."""

import importlib.util
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from command_line import flowvae, is_refusal, succeeds
from made_runs import CONFIG, SHAPE, moved_model
from torch import Tensor

from flowvae.config import Config, ModelConfig
from flowvae.errors import UserError
from flowvae.onnx import GivenNoise, export_onnx
from flowvae.runs import load_vae

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra onnx is not installed")
SMALL = ModelConfig(latent=3, features=8, channels=4, hidden=8)
MODELS = {
    "gaussian": SMALL,
    "planar": replace(SMALL, posterior="planar", transformations=12),
    "planar without context": replace(SMALL, posterior="planar", transformations=2, context=False),
    "realnvp": replace(SMALL, posterior="realnvp", transformations=2),
    "realnvp of noise, full covariance": replace(
        SMALL, posterior="realnvp", transformations=2, flow_of="noise", covariance="full"
    ),
    "realnvp, batch normalization": CONFIG.model,
    "realnvp, weight normalization": replace(
        SMALL, posterior="realnvp", transformations=1, normalization="weight", bounded=False
    ),
    "realnvp prior": replace(SMALL, prior="realnvp", prior_transformations=2),
    "iaf": replace(SMALL, posterior="iaf", transformations=2),
    "realnvp of maps": replace(SMALL, posterior="realnvp", transformations=2, code="map"),
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
    (size,) = model.prior().event_shape
    encoder, decoder, sampler = export_onnx(model, SHAPE, tmp_path / "onnx")
    for num_samples, num_images in ((1, 1), (4, 5)):  # other sizes than those of the export
        images = torch.bernoulli(torch.full((num_images, *SHAPE), 0.5))
        torch.manual_seed(7)
        with torch.no_grad():
            z, log_posterior = model.posterior(model.encoder(images), num_samples)
        torch.manual_seed(7)
        noise = torch.randn(num_samples, num_images, size)
        graph_z, graph_log_posterior = run_graph(encoder, images=images, noise=noise)
        assert_equal_to_1e_5(graph_z, z)
        assert_equal_to_1e_5(graph_log_posterior, log_posterior)
        (means,) = run_graph(decoder, z=z)
        assert_equal_to_1e_5(means, model.decode(z).mean.detach())

        torch.manual_seed(8)
        with torch.no_grad():
            sampled = model.sample(num_images)
        torch.manual_seed(8)
        (means,) = run_graph(sampler, noise=torch.normal(torch.zeros(num_images, size), 1.0))
        assert_equal_to_1e_5(means, sampled)


REFUSED = {
    "multinomial": replace(SMALL, prior="vamp", pseudo_inputs=2),
    "rand": replace(SMALL, likelihood="causal", causal_channels=4, causal_blocks=1),
}


@pytest.mark.parametrize("draw", REFUSED)
def test_other_noise_is_refused(draw, tmp_path):
    model = moved_model(Config(model=REFUSED[draw]))
    with pytest.raises(UserError, match=rf"draws with {draw}, .*use the model from Python$"):
        export_onnx(model, SHAPE, tmp_path / "onnx")
    assert not (tmp_path / "onnx").exists()


@pytest.mark.parametrize(
    "draw",
    [
        torch.randn_like,
        torch.rand_like,
        lambda x: x.normal_(),
        lambda x: x.uniform_(),
        lambda x: x.bernoulli(0.5),
        lambda x: torch.randperm(len(x)),
        lambda x: torch.distributions.Exponential(x + 1).rsample(),
        lambda x: torch.distributions.Laplace(x, x + 1).rsample(),
        lambda x: torch.distributions.Poisson(x).sample(),
    ],
)
def test_what_would_draw_noise_of_its_own_is_refused(draw):
    with GivenNoise(torch.zeros(3)), pytest.raises(UserError, match="draws with"):
        draw(torch.zeros(3))


def test_the_command_writes_graphs_into_the_run(workspace):
    files = {name: f"flow/onnx/{name}.onnx" for name in ("encoder", "decoder", "sampler")}
    assert succeeds("export", "flow", "--format", "onnx").split() == list(files.values())
    model = load_vae("flow")
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
