"""Fully connected networks: what they compute, and options that have no effect with them."""

import pytest
import torch
from command_line import flowvae, is_refusal, succeeds, write_images
from torch import nn

import flowvae as package
from flowvae.batch import DataSpec
from flowvae.models.networks import DenseOptions
from flowvae.models.registry import build_model, preset
from flowvae.networks import DenseDecoder, DenseEncoder


def widths(module: nn.Module) -> list[tuple[int, int]]:
    return [(each.in_features, each.out_features) for each in module.modules() if isinstance(each, nn.Linear)]


@pytest.mark.parametrize("kind", ["vae", "gan"])
@pytest.mark.parametrize(
    ("latent", "decoder"),
    [
        (50, [(50, 1024), (1024, 1024), (1024, 1024), (1024, 784)]),
        (10, [(10, 64), (64, 256), (256, 256), (256, 1024), (1024, 784)]),
    ],
)
def test_the_decoders_of_the_presets_have_the_published_widths(kind, latent, decoder):
    options = preset(f"wu-{kind}-{latent}").model
    assert options is not None
    model = build_model(options, DataSpec((1, 28, 28), 256))
    parts = {name: part for name, part in model.named_modules() if isinstance(part, DenseDecoder)}
    assert [widths(part) for part in parts.values()] == [decoder]
    encoder = next(part for part in model.modules() if isinstance(part, DenseEncoder))
    assert widths(encoder) == [(outputs, inputs) for inputs, outputs in reversed(decoder)][:-1]


def test_labels_have_no_effect_at_first():
    decoder = DenseDecoder(3, [8, 6], 2, (4, 5), classes=2)
    z, labels = torch.randn(7, 3), torch.eye(2)
    first, second = (decoder(torch.cat([z, label.expand(7, 2)], 1)) for label in labels)
    assert first.shape == (7, 2, 4, 5)
    assert torch.equal(first, second)
    first.square().sum().backward()
    layer = decoder.layers[0]
    assert isinstance(layer, nn.Linear)
    assert layer.weight.grad is not None
    assert layer.weight.grad[:, 3].abs().sum() > 0


def test_images_depend_on_each_pixel_and_code_alone():
    """No embedding depends on the rest of its batch."""
    encoder, images = DenseEncoder((2, 3, 4), [9, 5]), torch.rand(6, 2, 3, 4)
    torch.testing.assert_close(encoder(images)[:2], encoder(images[:2]))
    images.requires_grad_()
    encoder(images).sum().backward()
    assert images.grad is not None
    assert (images.grad != 0).all()


def test_widths_may_be_none():
    assert DenseOptions(widths="").hidden == []
    model = package.vae((1, 4, 4), networks="dense", widths="", features=5, latent=2)
    assert model.decode(torch.zeros(3, 2)).shape == (3, 1, 4, 4)


def test_options_without_effect_are_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "images.npz")
    words = ("train", "vae", "--data", "images.npz", "--steps", 1, "--out", "run")
    for options, said in (
        (("--networks", "dense", "--channels", 8), ("channels has no effect with networks dense",)),
        (("--widths", "8"), ("widths has no effect with networks convolutional",)),
        (("--networks", "dense", "--code", "map"), ("omit --code map",)),
        (("--networks", "dense", "--likelihood", "causal"), ("dense networks have no maps",)),
        (("--networks", "dense", "--widths", "8,9"), ("widths is '8,9'", "such as 256-256-1024")),
        (("--networks", "dense", "--widths", "8-0"), ("each must be 1 to",)),
        (("--variance", 0.1), ("variance has no effect with likelihood bernoulli",)),
        (("--likelihood", "gaussian", "--variance", 0), ("variance is 0.0",)),
    ):
        is_refusal(flowvae(*words, *options), *said)
    assert not (tmp_path / "run").exists()


def test_continuous_pixels_have_no_bits(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_images(tmp_path / "grey.npz", levels=256)
    data = ("--data", "grey.npz", "--steps", 3, "--batch-size", 16, "--track", "none", "--out", "run")
    small = ("--features", 8, "--widths", "9", "--latent", 2)
    succeeds("train", "wu-vae-10", *small, *data)
    printed = succeeds("evaluate", "run", "--samples", 20, "--images", 5)
    assert "-log p(x)" in printed
    assert "bits" not in printed
    assert "bits" not in succeeds("score", "run", "grey.npz", "--samples", 20)
