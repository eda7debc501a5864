"""Configurations: what they refuse, and that they survive being written down."""

import dataclasses
import json
import math
from typing import Any

import pytest

from flowvae.batch import DataSpec
from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.errors import UserError
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.models.posteriors import InverseAutoregressiveOptions, PlanarOptions, RealNVPOptions
from flowvae.models.real_nvp import RealNVPDensityOptions
from flowvae.models.registry import PRESETS, build_model, preset
from flowvae.models.vae import ELBO, ImportanceWeighted, VAEOptions, VectorOptions
from flowvae.parts import available, choices, from_dict, names, revised, shaping, to_dict



@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    config = preset(name)
    for part in (config.data, config.model, config.training):
        assert from_dict(type(part), json.loads(json.dumps(to_dict(part)))) == part


def test_what_is_left_out_is_as_by_default():
    assert from_dict(TrainingConfig, {}) == TrainingConfig()
    assert from_dict(VAEOptions, {"latent": 7}) == VAEOptions(latent=7)
    assert from_dict(VAEOptions, {"posterior": "realnvp"}) == VAEOptions(RealNVPOptions())


DENSITIES = ("density-small", "density", "pixelcnn")
"""Presets of the lowest likelihood for their time; the others are rows that are compared with each other."""

BINARY = [name for name, config in PRESETS.items() if config.data == DataConfig()]
ROWS = [name for name in BINARY if name not in DENSITIES]


@pytest.mark.parametrize("name", ROWS)
def test_the_number_in_a_presets_name_is_that_of_its_transformations(name):
    family, _, number = name.partition("-")
    model = preset(name).model
    assert isinstance(model, VAEOptions)
    assert getattr(model.posterior, "transformations", 0) == int(number or 0)
    assert model.posterior.name == {"vae": "gaussian"}.get(family, family)


def test_rows_differ_in_nothing_but_the_posterior():
    assert {"vae", "realnvp-20", "planar-40", "iaf-4"} <= set(ROWS)
    assert {preset(name).training for name in ROWS} == {TrainingConfig()}
    of_posterior = {"posterior": "gaussian", "covariance": "diagonal"}
    assert {revised(preset(name).model, of_posterior) for name in ROWS} == {VAEOptions()}


def test_a_misspelt_preset_names_the_nearest():
    with pytest.raises(UserError, match=r"no preset 'realnvp5'; did you mean realnvp-5\?"):
        preset("realnvp5")


OUT_OF_RANGE: list[tuple[type, dict[str, Any]]] = [
    *((ModelConfig, {name: 0}) for name in ("latent", "features", "channels", "hidden")),
    (ModelConfig, {"blocks": -1}),
    (ModelConfig, {"transformations": 2}),  # of a Gaussian
    (ModelConfig, {"flow_of": "noise"}),  # of a Gaussian
    (ModelConfig, {"covariance": "full", "code": "map"}),
    (ModelConfig, {"covariance": "full", "prior": "vamp"}),
    *((ModelConfig, {"posterior": name, "transformations": 0}) for name in ("planar", "realnvp", "iaf")),
    (ModelConfig, {"posterior": "realnvp", "transformations": 1, "latent": 1}),  # nothing to couple
    *(
        (TrainingConfig, {name: value})
        for name in ("epochs", "steps", "minutes")
        for value in (0, -1, math.nan)
    ),
    *((TrainingConfig, {name: 0}) for name in ("batch_size", "samples", "validation_images")),
    *(
        (TrainingConfig, {name: -1})
        for name in ("learning_rate_warm_up", "kl_warm_up", "free_bits", "weight_decay", "seed")
    ),
    *(
        (TrainingConfig, {name: value})
        for name in ("learning_rate", "gradient_clipping")
        for value in (0, -1.0, math.nan)
    ),
    *((TrainingConfig, {"averaging": value}) for value in (-0.1, 1.0, math.nan)),
    *((ModelConfig, {name: 0}) for name in ("pseudo_inputs", "causal_channels")),
    (ModelConfig, {"causal_blocks": -1}),
    *((ModelConfig, {"causal_orders": orders}) for orders in (0, 9)),
    (ModelConfig, {"prior_transformations": 2}),  # of a standard normal
    (ModelConfig, {"prior": "realnvp"}),
    (ModelConfig, {"prior": "realnvp", "prior_transformations": 1, "latent": 1}),
    *(
        (ModelConfig, {"causal_dropout": value, "family": family})
        for value in (-0.1, 1.0, math.nan)
        for family in ("vae", "pixelcnn")
    ),
    (ModelConfig, {"channels": 1}),
    (ModelConfig, {"family": "pixelcnn", "posterior": "planar"}),
    (ModelConfig, {"family": "realnvp", "transformations": 2, "likelihood": "causal"}),
    (TrainingConfig, {"free_bits": math.nan}),
    (TrainingConfig, {"seed": 2**63}),
    (TrainingConfig, {"free_bits": 1.0, "objective": "importance-weighted"}),
    (ModelConfig, {"posterior": "iaf", "transformations": 1, "latent": 40, "hidden": 38}),
]


@pytest.mark.parametrize(("kind", "values"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_one_line_that_names_it(kind, values):
    with pytest.raises(UserError) as error:
        kind(**values)
    assert "\n" not in str(error.value)
    assert any(name in str(error.value) for name in [*values, "transformations"])


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], "Config is []"),
        ({"modle": {}}, "did you mean model?"),
        ({"model": {"latnet": 3}}, "did you mean latent?"),
        ({"model": 3}, "ModelConfig is 3"),
        ({"model": {"latent": "3"}}, "latent is '3'; expected int"),
        ({"model": {"latent": 3.0}}, "latent is 3.0; expected int"),
        ({"model": {"latent": True}}, "latent is True; expected int"),
        ({"model": {"latent": None}}, "latent is None; expected int"),
        ({"model": {"context": 1}}, "context is 1; expected bool"),
        ({"model": {"posterior": "relnvp"}}, "posterior is 'relnvp'; did you mean realnvp?"),
        ({"model": {"posterior": ["iaf"]}}, "posterior is ['iaf']"),
        ({"data": {"data": 1}}, "data is 1; expected str"),
        ({"training": {"steps": "many"}}, "steps is 'many'; expected int or null"),
        ({"training": {"minutes": False}}, "minutes is False; expected float or null"),
        ({"training": {"learning_rate": 10**400}}, "expected float"),
        ({"training": {"steps": -3}}, "steps is -3"),
    ],
)
def test_what_is_no_configuration_is_one_line_that_says_why(values, expected):
    with pytest.raises(UserError) as error:
        from_dict(Config, values)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


def test_a_whole_number_is_read_where_a_fraction_may_stand():
    training = from_dict(TrainingConfig, {"minutes": 3, "learning_rate": 1})
    assert (training.minutes, training.learning_rate) == (3.0, 1.0)
    assert isinstance(training.minutes, float)


def test_a_new_budget_replaces_all_budgets_and_nothing_else():
    old = TrainingConfig(epochs=3, steps=100, minutes=5.0, seed=7, batch_size=16)
    assert old.with_budget(steps=9) == TrainingConfig(steps=9, seed=7, batch_size=16)
    with pytest.raises(UserError, match="minutes is -2"):
        old.with_budget(minutes=-2)


@pytest.mark.parametrize("config", [Config(), DataConfig(), ModelConfig(), TrainingConfig()])
def test_a_configuration_does_not_change(config):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(config, dataclasses.fields(config)[0].name, None)
