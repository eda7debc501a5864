"""In Python, images that a model does not take are refused in one line, as on the command line."""

from typing import Any

import pytest
import torch
from system_table import TABLE
from torch import Tensor

import flowvae
from flowvae.batch import DataSpec
from flowvae.errors import UserError
from flowvae.models import Bounded, Classifying, Coded, Completing, Inferring, Model, Scored
from flowvae.models.registry import build_model

SHAPE = (1, 8, 12)


def built(name: str) -> Model:
    torch.manual_seed(0)
    row = TABLE[name]
    classes = 3 if "semi-supervised" in name or "labels" in name else 0
    model = build_model(row.options_of_system(), DataSpec(SHAPE, 2 if row.binary else 256, 5, classes))
    return model.eval()


BINARY = torch.rand(5, *SHAPE).round()
GREY = torch.rand(5, *SHAPE)
WITH_NAN = BINARY.clone()
WITH_NAN[0, 0, 0, 0] = torch.nan
WRONG = {
    "1 image": (BINARY[0], r"have the shape \[1, 8, 12\]; give the model images \[B, 1, 8, 12\]"),
    "turned": (BINARY.mT, r"have the shape \[5, 1, 12, 8\]; give the model images \[B, 1, 8, 12\]"),
    "bytes": (BINARY.byte(), "images are torch.uint8; give floats from 0 to 1"),
    "none": (BINARY[:0], "there are no images; give at least one"),
    "array": (BINARY.numpy(), "a ndarray is given as images; give a tensor"),
    "half": (BINARY.half(), "images are torch.float16, and the model's weights torch.float32"),
    "double": (BINARY.double(), "images are torch.float64, and the model's weights torch.float32"),
    "0 to 255": (BINARY * 255, "values from 0 to 255; scale them to 0 to 1"),
    "-1 to 1": (BINARY * 2 - 1, "values from -1 to 1; scale them to 0 to 1"),
    "nan": (WITH_NAN, "values from nan to nan"),
}


def doors(model: Model):
    """Every method and function that takes images from the user."""
    if isinstance(model, Scored | Bounded):
        yield lambda images: flowvae.log_marginal(model, images, 2)
        yield lambda images: flowvae.score(model, images, 2)
    if isinstance(model, Scored):
        yield model.log_prob
    if isinstance(model, Bounded):
        yield model.draws_for
    if isinstance(model, Coded):
        yield from (model.center, model.reconstruct, lambda images: model.path(images, images, 2))
    if isinstance(model, Classifying):
        yield from (model.classify, lambda images: flowvae.classify(model, images, 2))
    if isinstance(model, Inferring):
        yield from (model.encode, model.unroll)


EVERY_KIND = (
    *("vae", "vae-logistic", "pixelcnn", "realnvp", "glo"),
    *("semi-supervised", "semi-supervised-stacked", "bayesian-gan-few-labels"),
)


@pytest.mark.parametrize("wrong", list(WRONG))
@pytest.mark.parametrize("name", EVERY_KIND)
def test_wrong_images_are_refused_at_every_door(name, wrong):
    model = built(name)
    images, message = WRONG[wrong]
    for door in doors(model):
        with pytest.raises(UserError, match=message) as refused:
            door(images)
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", ["vae", "vae-vamp-of-maps", "vae-logistic", "realnvp", "glo"])
def test_wrong_codes_are_refused(name):
    model = built(name)
    assert isinstance(model, Coded)
    with torch.no_grad():
        codes = model.center(BINARY)
        assert model.decode(codes).shape == (5, *SHAPE)
    shape = rf"the model decodes \[B, {codes.shape[1]}\]"
    longer = torch.cat([codes, codes], 1)
    for wrong in (longer, codes[:, 1:], codes[0], codes[None]):
        with pytest.raises(UserError, match=shape):
            model.decode(wrong)
    with pytest.raises(UserError, match=r"codes are torch.float64, .* give codes.to\(torch.float32\)"):
        model.decode(codes.double())
    with pytest.raises(UserError, match="a ndarray is given as codes; give a tensor"):
        model.decode(codes.numpy())  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["vae", "pixelcnn"])
def test_grey_values_are_refused_by_models_of_binary_pixels(name):
    for door in doors(built(name)):
        with pytest.raises(UserError, match=r"values other than 0 and 1.*binarize them"):
            door(GREY)


@pytest.mark.parametrize("name", ["vae-logistic", "vae-mixture-of-maps", "realnvp"])
def test_values_off_the_grid_are_refused_by_models_of_8_bits(name):
    for door in doors(built(name)):
        with pytest.raises(UserError, match=r"the 256 levels k / 255.*round them"):
            door(GREY)
        door((GREY * 255).round() / 255)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_levels_are_recognized_in_every_type(dtype):
    levels = torch.arange(256).view(-1, 1, 1, 1).expand(-1, *SHAPE)
    built("vae-logistic").to(dtype).check((levels / 255).to(dtype))
    built("vae").to(dtype).check((levels % 2).to(dtype))


def test_half_precision_is_that_of_autocast():
    model, half = built("vae"), BINARY.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        model.check(half)
        with pytest.raises(UserError, match=r"torch\.float64"):
            model.check(BINARY.double())
    with pytest.raises(UserError, match=r"images are torch.float32, .* give images.to\(torch.float64\)"):
        model.double().check(BINARY)


def test_what_is_given_besides_images_is_checked():
    model = built("vae")
    with pytest.raises(UserError, match="a model takes no 'label'; did you mean labels"):
        flowvae.score(model, BINARY, 2, label=torch.zeros(5))  # type: ignore[call-arg]
    with pytest.raises(UserError, match="a list is given as observed; give a tensor"):
        flowvae.score(model, BINARY, 2, observed=[True])  # type: ignore[arg-type]


def test_nothing_depends_on_values_of_missing_pixels():
    model, conditional = built("vae"), flowvae.vae(SHAPE, latent=2, classes=3).eval()
    observed = torch.rand(5, *SHAPE) < 0.5
    others = BINARY.where(observed, 1 - BINARY)
    assert not torch.equal(others, BINARY)
    for seen in (BINARY, others):
        noise = torch.Generator().manual_seed(1)
        scores = flowvae.score(model, seen, 3, noise, observed=observed)["nll"]
        classes = flowvae.classify(conditional, seen, 3, noise, observed=observed)
        if seen is BINARY:
            first = scores, classes
    assert torch.equal(scores, first[0])
    assert torch.equal(classes, first[1])


@pytest.mark.parametrize("name", ["vae", "pixelcnn", "realnvp", "glo"])
def test_images_are_looked_at_in_inference_mode_as_without_gradients(name):
    model = built(name)
    for door in doors(model):
        found = []
        for mode in (torch.no_grad, torch.inference_mode):
            torch.manual_seed(0)
            with mode():
                found.append(door(BINARY.clone()))
        if isinstance(found[0], Tensor | dict):  # and not a function
            torch.testing.assert_close(*found, rtol=0, atol=0, equal_nan=True)


def test_none_of_what_may_be_given_is_nothing():
    model, noise = built("vae"), torch.Generator().manual_seed(1)
    nothing: dict[str, Any] = {"observed": None, "labels": None}
    scores = (flowvae.score(model, BINARY, 3, noise, **given)["nll"] for given in ({}, nothing))
    assert torch.equal(*scores)
    assert flowvae.log_marginal(model, BINARY, 3, **nothing).shape == (5,)  # type: ignore[arg-type]
    conditional = flowvae.vae(SHAPE, latent=2, classes=3).eval()
    assert list(flowvae.score(conditional, BINARY, 3, noise, **nothing)) == ["nll"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"observed": [True]}, "a list is given as observed; give a tensor"),
        ({"observed": BINARY}, r"observed is torch.float32 \[5, 1, 8, 12\]; give bool"),
        ({"observed": BINARY[:1] > 0}, r"observed is torch.bool \[1, 1, 8, 12\]; give bool \[5, 1, 8, 12\]"),
        ({"num_completions": 0}, "num_completions is 0; it must be 1 to"),
        ({"num_samples": 0}, "num_samples is 0; it must be 1 to"),
        ({"labels": torch.zeros(5, dtype=torch.int64)}, "the model is not conditional on them; omit them"),
    ],
)
@pytest.mark.parametrize("name", ["vae", "pixelcnn"])
def test_what_cannot_be_imputed_is_refused(name, given, message):
    model = built(name)
    assert isinstance(model, Completing)
    with pytest.raises(UserError, match=message):
        model.impute(BINARY, **{"observed": BINARY > 0, "num_samples": 2, **given})
    with pytest.raises(UserError, match="there are no images; give at least one"):
        model.impute(BINARY[:0], BINARY[:0] > 0)


def test_labels_alone_make_no_conditional_model():
    with pytest.raises(UserError, match="labels has no effect here; give the number of classes"):
        flowvae.vae(SHAPE, labels=True)


def test_a_model_without_levels_takes_any_grey():
    built("glo").check(GREY)


@pytest.mark.parametrize("shape", [(8, 8), (1, 0, 8), "1x8x8", (1, 2**20, 2**20), (1, 8.0, 8)])
def test_shapes_of_no_image_are_refused(shape):
    with pytest.raises(UserError, match=r"shape is .*; expected \[channels, height, width\]"):
        flowvae.vae(shape)
    with pytest.raises(UserError, match=r"shape is .*; expected \[channels, height, width\]"):
        build_model(TABLE["pixelcnn"].options_of_system(), DataSpec(shape, 2))


def test_a_shape_may_be_a_list():
    made = flowvae.vae([1, 8, 12], latent=2)  # type: ignore[arg-type]
    spec = DataSpec([1, 8, 12], 2)  # type: ignore[arg-type]
    for model in (made, build_model(TABLE["vae"].options_of_system(), spec)):
        model.check(BINARY)


def test_no_chunks_are_refused():
    for name in ("vae", "pixelcnn"):
        model = built(name)
        assert isinstance(model, Scored | Bounded)
        with pytest.raises(UserError, match="chunk is 0; it must be 1 to"):
            flowvae.log_marginal(model, BINARY, 2, chunk=0)


def test_one_level_is_none():
    with pytest.raises(UserError, match="levels is 1; it must be 2 to"):
        build_model(TABLE["vae"].options_of_system(), DataSpec(SHAPE, 1))


def test_a_model_of_parts_knows_its_shape():
    with pytest.raises(
        UserError, match=r"have the shape \[5, 1, 8, 12\]; give the model images \[B, 1, 8, 8\]"
    ):
        flowvae.vae((1, 8, 8), latent=2).encode(BINARY)
