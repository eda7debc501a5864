"""Configurations: what they refuse, and that they survive being written down."""

import dataclasses
import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import flowvae
from flowvae.batch import DataSpec
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.errors import UserError
from flowvae.evaluation import Annealing
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.models.posteriors import InverseAutoregressiveOptions, PlanarOptions, RealNVPOptions
from flowvae.models.real_nvp import RealNVPDensityOptions
from flowvae.models.registry import PRESETS, build_model, preset
from flowvae.models.vae import ELBO, ImportanceWeighted, VAEOptions, VectorOptions
from flowvae.parts import Part, available, choices, from_dict, names, ranged, revised, shaping, to_dict


@pytest.mark.parametrize("name", PRESETS)
def test_a_preset_survives_json(name):
    config = preset(name)
    for part in (config.data, config.model, config.training):
        assert from_dict(type(part), json.loads(json.dumps(to_dict(part)))) == part


def test_what_is_left_out_is_as_by_default():
    assert from_dict(TrainingConfig, {}) == TrainingConfig()
    assert from_dict(VAEOptions, {"latent": 7}) == VAEOptions(latent=7)
    assert from_dict(VAEOptions, {"posterior": "realnvp"}) == VAEOptions(RealNVPOptions())


DENSITIES = ("density-small", "density", "pixelcnn", "pixelrnn-row", "pixelrnn-diagonal")
"""Presets of the lowest likelihood for their time; the others are rows that are compared with each other."""

BINARY = [name for name, config in PRESETS.items() if config.data == DataConfig()]
ROWS = [name for name in BINARY if name not in (*DENSITIES, "semi-supervised", "semi-supervised-stacked")]


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
    *((VAEOptions, {name: 0}) for name in ("latent", "features", "channels", "samples")),
    *((VAEOptions, {name: -1}) for name in ("blocks", "kl_warm_up", "free_bits")),
    (VAEOptions, {"channels": 1}),
    (VAEOptions, {"free_bits": math.nan}),
    (VAEOptions, {"covariance": "full", "code": "map"}),
    (VAEOptions, {"covariance": "full", "prior": "vamp"}),
    *((VAEOptions, {"posterior": name, "transformations": 0}) for name in ("planar", "realnvp", "iaf")),
    *((VAEOptions, {"posterior": name, "hidden": 0}) for name in ("realnvp", "iaf")),
    *((VAEOptions, {"prior": "realnvp", name: 0}) for name in ("prior_transformations", "prior_hidden")),
    (VAEOptions, {"prior": "vamp", "pseudo_inputs": 0}),
    (VAEOptions, {"likelihood": "logistic-mixture", "components": 0}),
    *((VAEOptions, {"likelihood": "causal", "causal_orders": orders}) for orders in (0, 33)),
    *(
        (PixelCNNOptions, {name: value})
        for name, value in (("causal_channels", 0), ("causal_blocks", -1), ("causal_orders", 0))
    ),
    *(
        (kind, {"causal_dropout": value, **chosen})
        for value in (-0.1, 1.0, math.nan)
        for kind, chosen in ((VAEOptions, {"likelihood": "causal"}), (PixelCNNOptions, {}))
    ),
    *(
        (RealNVPDensityOptions, {name: value})
        for name, value in (("transformations", 0), ("hidden", 0), ("blocks", -1), ("samples", 0))
    ),
    *(
        (TrainingConfig, {name: value})
        for name in ("epochs", "steps", "minutes")
        for value in (0, -1, math.nan)
    ),
    *((TrainingConfig, {name: 0}) for name in ("batch_size", "validation_images")),
    *((TrainingConfig, {name: -1}) for name in ("learning_rate_warm_up", "weight_decay", "seed")),
    *(
        (TrainingConfig, {name: value})
        for name in ("learning_rate", "gradient_clipping")
        for value in (0, -1.0, math.nan)
    ),
    *((TrainingConfig, {name: value}) for name in ("averaging", "beta1") for value in (-0.1, 1.0, math.nan)),
    (TrainingConfig, {"seed": 2**63}),
    (DataConfig, {"image_size": 0}),
]


@pytest.mark.parametrize(("kind", "values"), OUT_OF_RANGE)
def test_a_value_out_of_range_is_one_line_that_names_it(kind, values):
    with pytest.raises(UserError) as error:
        from_dict(kind, values)
    assert "\n" not in str(error.value)
    assert any(name in str(error.value) for name in values)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainingConfig, {"precision": "bfloat"}, "precision is 'bfloat'; did you mean bfloat16"),
        (DataConfig, {"binarization": None}, "binarization is None; did you mean none"),
        (Annealing, {"start": "code"}, "start is 'code'; known: posterior, prior"),
        (Annealing, {"start": ["prior"]}, r"start is \['prior'\]"),
    ],
)
def test_words_are_checked_in_python_as_on_the_command_line(kind, values, message):
    with pytest.raises(UserError, match=message):
        kind(**values)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (TrainingConfig, {"batch_size": 2.5}, "batch_size is 2.5; expected int"),
        (TrainingConfig, {"compile": "no"}, "compile is 'no'; expected bool"),
        (DataConfig, {"data": Path("images.npz")}, "data is .*; expected str"),
        (DataConfig, {"value_range": (0.0,)}, r"value_range is \(0.0,\)"),
        (VAEOptions, {"posterior": "iaf"}, "posterior is 'iaf'; expected GaussianOptions or"),
        (RealNVPOptions, {"transformations": None}, "transformations is None; expected int"),
    ],
)
def test_types_are_checked_in_python_as_in_files(kind, values, message):
    with pytest.raises(UserError, match=message):
        kind(**values)


def test_numbers_may_be_those_of_numpy():
    steps, rate = np.int64(7), np.float32(0.5)
    for training in (
        TrainingConfig(steps=steps, learning_rate=rate),  # type: ignore[arg-type]
        TrainingConfig().with_budget(steps=steps),  # type: ignore[arg-type]
        Config().revised(steps=steps, learning_rate=rate).training,
    ):
        assert type(training.steps) is int
        assert type(training.learning_rate) is float
    assert DataConfig(value_range=[0, 1]).value_range == (0.0, 1.0)  # type: ignore[arg-type]


def test_a_range_is_declared_with_its_option():
    @dataclasses.dataclass(frozen=True)
    class Own(Part):
        name = "own"
        depth: int | None = ranged(3, 1, 5, training_only=True)

    for valid in (None, 1, 5):
        assert Own(valid).depth == valid
    for value in (0, 6):
        with pytest.raises(UserError, match=f"depth is {value}; it must be 1 to 5"):
            Own(value)
    assert shaping(Own()) == {}


@pytest.mark.parametrize(
    "make",
    [
        lambda: TrainingConfig(steps=math.nan),  # type: ignore[arg-type]
        lambda: VAEOptions(latent=0),
        lambda: VectorOptions(features=0),
        lambda: RealNVPOptions(transformations=0),
        lambda: ELBO(free_bits=-1.0),
        lambda: PixelCNNOptions(causal_orders=33),
    ],
)
def test_options_are_checked_when_they_are_made(make):
    with pytest.raises(UserError):
        make()


# Nothing to couple; a network too narrow for every dimension to see those before it.
IMPOSSIBLE: list[tuple[dict[str, Any], str]] = [
    ({"posterior": "realnvp", "latent": 1}, "latent is 1"),
    ({"prior": "realnvp", "latent": 1}, "latent is 1"),
    ({"posterior": "iaf", "latent": 40, "hidden": 38}, "hidden is 38"),
    ({"posterior": "iaf", "code": "map"}, "iaf needs a code that is a vector"),
    ({"posterior": "realnvp", "code": "map", "hidden": 6}, "hidden is 6"),
]


@pytest.mark.parametrize(("values", "expected"), IMPOSSIBLE)
def test_a_model_that_cannot_be_built_is_one_line(values, expected):
    with pytest.raises(UserError) as error:
        build_model(from_dict(VAEOptions, values), DataSpec((1, 8, 8)))
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


# What a part that was not chosen has.
WITHOUT_EFFECT: list[tuple[type, dict[str, Any], str]] = [
    (
        VAEOptions,
        {"transformations": 2},
        "no effect with posterior gaussian; remove it, or choose planar, realnvp or iaf",
    ),
    (VAEOptions, {"flow_of": "noise"}, "flow_of has no effect with posterior gaussian"),
    (VAEOptions, {"posterior": "planar", "hidden": 8}, "choose realnvp or iaf"),
    (VAEOptions, {"posterior": "iaf", "normalization": "weight"}, "or choose realnvp"),
    (VAEOptions, {"prior_transformations": 2}, "prior_transformations has no effect with prior normal"),
    (VAEOptions, {"prior": "realnvp", "pseudo_inputs": 2}, "or choose vamp"),
    (VAEOptions, {"causal_orders": 2}, "causal_orders has no effect with likelihood bernoulli"),
    (VAEOptions, {"code": "map", "features": 8}, "features has no effect with code map"),
    (VAEOptions, {"objective": "importance-weighted", "free_bits": 1.0}, "or choose elbo"),
    (PixelCNNOptions, {"posterior": "planar"}, "PixelCNNOptions has no option 'posterior'"),
    (RealNVPDensityOptions, {"likelihood": "causal"}, "RealNVPDensityOptions has no option 'likelihood'"),
]


@pytest.mark.parametrize(("kind", "values", "expected"), WITHOUT_EFFECT)
def test_an_option_without_effect_is_one_line_that_says_what_would_give_it_one(kind, values, expected):
    with pytest.raises(UserError) as error:
        from_dict(kind, values)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (VAEOptions, [], "VAEOptions is []"),
        (VAEOptions, 3, "VAEOptions is 3"),
        (VAEOptions, {"latnet": 3}, "did you mean latent?"),
        (VAEOptions, {"transformation": 3}, "did you mean transformations?"),
        (VAEOptions, {"latent": "3"}, "latent is '3'; expected int"),
        (VAEOptions, {"latent": 3.0}, "latent is 3.0; expected int"),
        (VAEOptions, {"latent": True}, "latent is True; expected int"),
        (VAEOptions, {"latent": None}, "latent is None; expected int"),
        (VAEOptions, {"posterior": "planar", "context": 1}, "context is 1; expected bool"),
        (VAEOptions, {"posterior": "relnvp"}, "posterior is 'relnvp'; did you mean realnvp?"),
        (VAEOptions, {"posterior": ["iaf"]}, "posterior is ['iaf']"),
        (VAEOptions, {"posterior": None}, "posterior is None"),
        (VAEOptions, {"covariance": "ful"}, "covariance is 'ful'; did you mean full?"),
        (DataConfig, {"data": 1}, "data is 1; expected str"),
        (TrainingConfig, {"steps": "many"}, "steps is 'many'; expected int or null"),
        (TrainingConfig, {"minutes": False}, "minutes is False; expected float or null"),
        (TrainingConfig, {"learning_rate": 10**400}, "expected float"),
        (TrainingConfig, {"steps": -3}, "steps is -3"),
    ],
)
def test_what_is_no_configuration_is_one_line_that_says_why(kind, values, expected):
    with pytest.raises(UserError) as error:
        from_dict(kind, values)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)


# Parts.


def test_what_shapes_a_model_leaves_out_what_matters_to_training_alone():
    one = VAEOptions(samples=3, kl_warm_up=9, objective=ImportanceWeighted())
    assert shaping(one) == shaping(VAEOptions())
    assert "objective" in to_dict(one)
    assert not {"objective", "samples", "kl_warm_up", "path_derivative", "free_bits"} & shaping(one).keys()
    assert shaping(VAEOptions(latent=3)) != shaping(VAEOptions())
    causal = from_dict(VAEOptions, {"likelihood": "causal", "causal_dropout": 0.5})
    assert shaping(causal) == shaping(from_dict(VAEOptions, {"likelihood": "causal"}))


def test_options_that_there_are_follow_from_the_parts_that_are_chosen():
    plain, flow = available(VAEOptions, {}), available(VAEOptions, {"posterior": "realnvp", "code": "map"})
    assert "features" in plain
    assert not {"transformations", "hidden"} & set(plain)
    assert {"transformations", "hidden"} <= set(flow)
    assert "features" not in flow
    for name in PRESETS:
        options = preset(name).model
        assert set(to_dict(options)) == set(available(type(options), to_dict(options))), name


@pytest.mark.parametrize("kind", [VAEOptions, PixelCNNOptions, RealNVPDensityOptions])
def test_names_of_options_are_those_of_one_place(kind):
    """Of the system itself and of at most one of the kinds of part; data and training have other ones."""
    of_kinds = [{name for part in known.values() for name in names(part)} for known in choices(kind).values()]
    everything = [*names(kind), *(name for found in of_kinds for name in found)]
    assert len(everything) == len(set(everything))
    assert not set(everything) & {*names(DataConfig), *names(TrainingConfig)}


def test_a_revision_keeps_what_both_parts_have():
    old = VAEOptions(
        RealNVPOptions(transformations=7, flow_of="noise", context=False, hidden=50, normalization="weight")
    )
    new = revised(old, {"posterior": "iaf"})
    assert new.posterior == InverseAutoregressiveOptions(
        transformations=7, flow_of="noise", context=False, hidden=50
    )
    planar = revised(new, {"posterior": "planar", "transformations": 3, "latent": 9})
    assert planar == VAEOptions(PlanarOptions(transformations=3, flow_of="noise", context=False), latent=9)
    assert revised(planar, {"posterior": "gaussian"}) == VAEOptions(latent=9)
    back = revised(VAEOptions(objective=ELBO(free_bits=3.0)), {"objective": "importance-weighted"})
    assert revised(back, {"objective": "elbo"}).objective == ELBO()
    with pytest.raises(UserError, match="hidden has no effect with posterior planar"):
        revised(old, {"posterior": "planar", "hidden": 3})
    assert revised(old, {}) == old


def test_a_configuration_is_revised_in_all_of_its_parts():
    config = preset("realnvp-5").revised(
        posterior="iaf", latent=10, data="images.npz", seed=4, batch_size=16, steps=9
    )
    assert config.data == DataConfig("images.npz")
    assert config.training == TrainingConfig(steps=9, seed=4, batch_size=16)
    assert isinstance(config.model, VAEOptions)
    assert (config.model.latent, config.model.covariance) == (10, "full")
    assert config.model.posterior == InverseAutoregressiveOptions(transformations=5, flow_of="noise")
    timed = preset("density-small").revised(epochs=2)
    assert (timed.training.epochs, timed.training.minutes) == (2, None), "a budget replaces all budgets"
    kept = preset("density-small").revised(seed=1)
    assert kept.training.minutes == preset("density-small").training.minutes
    with pytest.raises(UserError, match=r"no option 'latnet'; did you mean latent\?"):
        config.revised(latnet=3)
    with pytest.raises(UserError, match="no option latent; the model is not one of flowvae's systems"):
        Config().revised(latent=3)


def test_a_whole_number_is_read_where_a_fraction_may_stand():
    training = from_dict(TrainingConfig, {"minutes": 3, "learning_rate": 1})
    assert (training.minutes, training.learning_rate) == (3.0, 1.0)
    assert isinstance(training.minutes, float)


def test_a_new_budget_replaces_all_budgets_and_nothing_else():
    old = TrainingConfig(epochs=3, steps=100, minutes=5.0, seed=7, batch_size=16)
    assert old.with_budget(steps=9) == TrainingConfig(steps=9, seed=7, batch_size=16)
    with pytest.raises(UserError, match="minutes is -2"):
        old.with_budget(minutes=-2)


@pytest.mark.parametrize(
    "options", [Config(), DataConfig(), TrainingConfig(), VAEOptions(), RealNVPOptions(), PixelCNNOptions()]
)
def test_a_configuration_does_not_change(options):
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(options, dataclasses.fields(options)[0].name, None)


def test_the_package_lists_its_public_names():
    assert set(dir(flowvae)) == {*flowvae.__all__, "__version__"}
    for name in dir(flowvae):
        assert getattr(flowvae, name) is not None
    assert re.fullmatch(r"\d+\.\d+\.\d+", flowvae.__version__)
