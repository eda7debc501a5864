"""Every system, small, in enough variants that each option has a value other than its default somewhere."""

from pathlib import Path
from typing import Any, NamedTuple

from flowvae.config import Config, DataConfig, System, TrainingConfig
from flowvae.models import (
    Bounded,
    Classifying,
    Coded,
    Completing,
    Generating,
    Graphed,
    Inferring,
    Sampler,
    Scored,
)
from flowvae.models.registry import SYSTEMS
from flowvae.parts import from_dict

BATCH, STEPS = 32, 8
OF_AUTOENCODERS = {Sampler, Inferring, Coded, Bounded, Generating, Completing, Graphed}
BOUND = {"negative_elbo", "negative_elbo_standard_error", "samples"}
DENSITY = {"nll", "nll_standard_error"}
LIKELIHOOD = DENSITY | {"bits_per_dim"}
OF_CLASSES = {
    "class_error",
    "class_error_standard_error",
    "class_nll",
    "class_nll_standard_error",
    "calibration_error",
}
OF_CODES = {"reconstruction", "kl", "active_units"}


OF_CONDITIONAL = OF_CLASSES | {"conditional", "marginal_nll", "marginal_nll_standard_error"}
OF_SEMI_SUPERVISED = {"reconstruction", "kl"} | BOUND | LIKELIHOOD | OF_CLASSES


class Row(NamedTuple):
    """A system with options, by flat names; what its model can do, and by which numbers it is judged."""

    system: str
    options: dict[str, Any]
    can: set[type] = OF_AUTOENCODERS
    evaluated: set[str] = OF_CODES | BOUND | LIKELIHOOD
    """what an evaluation has beside what it was measured on"""
    best: str = "negative_elbo"
    binary: bool = True
    graphs: bool = False
    """whether it can be written as graphs"""

    def options_of_system(self) -> System:
        return from_dict(SYSTEMS[self.system], self.options)

    def config(self, data: Path, **training: Any) -> Config:
        given: dict[str, Any] = {"steps": STEPS, "batch_size": BATCH, "track": "none"}
        return Config(
            DataConfig(str(data), "dynamic" if self.binary else "none"),
            self.options_of_system(),
            TrainingConfig(**{**given, "learning_rate_warm_up": 5, **training}),
        )


SMALL = {"latent": 3, "features": 8, "channels": 4}
DENSE = {"networks": "dense", "widths": "6-7", "latent": 3, "features": 8}
MAPS = {"code": "map", "latent": 3, "channels": 4}

TABLE: dict[str, Row] = {
    "vae": Row("vae", SMALL, graphs=True),
    # The fused Gaussian of the flow's noise, with the path derivative that is the default.
    "vae-realnvp-of-noise": Row(
        "vae",
        {
            **SMALL,
            "posterior": "realnvp",
            "flow_of": "noise",
            "covariance": "full",
            "normalization": "weight",
            "transformations": 2,
            "hidden": 8,
            "prior": "realnvp",
            "prior_transformations": 2,
            "prior_hidden": 8,
            "prior_normalization": "act",
            "prior_bounded": False,
        },
        graphs=True,
    ),
    "vae-realnvp-batch-norm": Row(
        "vae",
        {
            **SMALL,
            "posterior": "realnvp",
            "normalization": "batch",
            "flow_batch_norm": True,
            "bounded": False,
            "hidden": 8,
            "transformations": 1,
            "blocks": 2,
        },
        graphs=True,
    ),
    "vae-planar-whole-gradient": Row(
        "vae",
        {
            **SMALL,
            "posterior": "planar",
            "context": False,
            "path_derivative": False,
            "free_bits": 1.0,
            "kl_warm_up": 3,
            "samples": 2,
        },
        graphs=True,
    ),
    "vae-iaf-importance-weighted": Row(
        "vae",
        {
            **SMALL,
            "posterior": "iaf",
            "transformations": 2,
            "hidden": 8,
            "objective": "importance-weighted",
            "samples": 3,
        },
        best="importance_weighted",
        graphs=True,
    ),
    "vae-causal": Row(
        "vae",
        {
            **SMALL,
            "likelihood": "causal",
            "causal_channels": 6,
            "causal_blocks": 1,
            "causal_dropout": 0.2,
            "causal_orders": 2,
        },
    ),
    "vae-causal-mixture": Row(
        "vae",
        {
            **MAPS,
            "likelihood": "causal",
            "causal_channels": 6,
            "causal_blocks": 1,
            "causal_orders": 2,
            "causal_components": 3,
        },
        binary=False,
    ),
    "vae-vamp-of-maps": Row("vae", {**MAPS, "prior": "vamp", "pseudo_inputs": 5}),
    "vae-logistic": Row("vae", {**SMALL, "likelihood": "logistic"}, binary=False, graphs=True),
    "vae-gaussian-dense": Row(
        "vae",
        {**DENSE, "likelihood": "gaussian", "variance": 0.02},
        evaluated=OF_CODES | BOUND | DENSITY,
        binary=False,
        graphs=True,
    ),
    "vae-mixture-of-maps": Row(
        "vae",
        {
            **MAPS,
            "likelihood": "logistic-mixture",
            "components": 2,
            "posterior": "realnvp",
            "transformations": 2,
            "hidden": 8,
            "normalization": "act",
        },
        binary=False,
        graphs=True,
    ),
    "vae-conditional": Row(
        "vae",
        {**SMALL, "labels": True},
        evaluated=OF_CODES | BOUND | LIKELIHOOD | OF_CONDITIONAL,
        graphs=True,
    ),
    "vae-conditional-realnvp-of-maps": Row(
        "vae",
        {
            **MAPS,
            "labels": True,
            "posterior": "realnvp",
            "transformations": 1,
            "hidden": 8,
            "prior": "realnvp",
            "prior_transformations": 2,
            "prior_hidden": 8,
        },
        evaluated=OF_CODES | BOUND | LIKELIHOOD | OF_CONDITIONAL,
        graphs=True,
    ),
    "pixelcnn-conditional": Row(
        "pixelcnn",
        {"labels": True, "causal_channels": 6, "causal_blocks": 1, "causal_orders": 2},
        can={Sampler, Scored, Completing},
        evaluated=LIKELIHOOD | OF_CONDITIONAL,
        best="nll",
    ),
    "realnvp-conditional": Row(
        "realnvp",
        {"labels": True, "hidden": 8, "transformations": 2},
        can={Sampler, Coded, Bounded},
        evaluated=BOUND | LIKELIHOOD | OF_CONDITIONAL,
        binary=False,
    ),
    "pixelcnn": Row(
        "pixelcnn",
        {"causal_channels": 6, "causal_blocks": 1, "causal_dropout": 0.2, "causal_orders": 3},
        can={Sampler, Scored, Completing},
        evaluated=LIKELIHOOD,
        best="nll",
    ),
    "pixelcnn-mixture": Row(
        "pixelcnn",
        {"causal_channels": 6, "causal_blocks": 1, "causal_orders": 2, "causal_components": 2},
        can={Sampler, Scored, Completing},
        evaluated=LIKELIHOOD,
        best="nll",
        binary=False,
    ),
    "pixelrnn-mixture": Row(
        "pixelrnn",
        {"layers": 1, "channels": 6, "patch": 1, "components": 2},
        can={Sampler, Scored, Completing},
        evaluated=LIKELIHOOD,
        best="nll",
        binary=False,
    ),
    "pixelrnn": Row(
        "pixelrnn",
        {"layers": 2, "channels": 6, "dropout": 0.2, "orders": 3},
        can={Sampler, Scored, Completing},
        evaluated=LIKELIHOOD,
        best="nll",
    ),
    "pixelrnn-row-conditional": Row(
        "pixelrnn",
        {"recurrence": "row", "layers": 1, "channels": 6, "patch": 1, "labels": True},
        can={Sampler, Scored, Completing},
        evaluated=LIKELIHOOD | OF_CONDITIONAL,
        best="nll",
    ),
    "realnvp": Row(
        "realnvp",
        {"hidden": 8, "transformations": 2},
        can={Sampler, Coded, Bounded},
        evaluated=BOUND | LIKELIHOOD,
        binary=False,
    ),
    "realnvp-importance-weighted": Row(
        "realnvp",
        {
            "hidden": 8,
            "transformations": 1,
            "blocks": 0,
            "normalization": "batch",
            "flow_batch_norm": True,
            "bounded": False,
            "objective": "importance-weighted",
            "samples": 2,
        },
        can={Sampler, Coded, Bounded},
        evaluated=BOUND | LIKELIHOOD,
        best="importance_weighted",
        binary=False,
    ),
    "gan": Row(
        "gan",
        {"latent": 2, "features": 8, "channels": 4, "blocks": 0, "gamma": 0.5},
        can={Sampler, Generating},
        evaluated={"energy_score", "energy_score_standard_error"},
        best="energy_score",
        binary=False,
    ),
    "gan-spectral": Row(
        "gan",
        {"latent": 2, "features": 8, "channels": 4, "regularization": "spectral", "scale": 3.0},
        can={Sampler, Generating},
        evaluated={"energy_score", "energy_score_standard_error"},
        best="energy_score",
        binary=False,
    ),
    "gan-dense": Row(
        "gan",
        DENSE,
        can={Sampler, Generating},
        evaluated={"energy_score", "energy_score_standard_error"},
        best="energy_score",
        binary=False,
    ),
    "bayesian-gan": Row(
        "bayesian-gan",
        {
            "latent": 2,
            "features": 8,
            "channels": 4,
            "blocks": 0,
            "generators": 3,
            "discriminators": 2,
            "prior_deviation": 2.0,
            "posterior_temperature": 0.5,
            "gamma": 0.5,
            "step_size": 2e-3,
            "friction": 0.5,
            "noise_estimate": 0.1,
            "burn_in": 2,
            "thinning": 2,
            "collected": 2,
        },
        can={Sampler},
        evaluated={"energy_score", "energy_score_standard_error"},
        best="energy_score",
        binary=False,
    ),
    "bayesian-gan-dense": Row(
        "bayesian-gan",
        {**DENSE, "burn_in": 2, "thinning": 2, "collected": 2, "share_batch": False},
        can={Sampler},
        evaluated={"energy_score", "energy_score_standard_error"},
        best="energy_score",
        binary=False,
    ),
    "bayesian-gan-few-labels": Row(
        "bayesian-gan",
        {
            **SMALL,
            "supervision": "few-labels",
            "labels_used": 10,
            "labelled_per_step": 4,
            "classification_weight": 2.0,
            "smoothness_weight": 1.0,
            "smoothness_radius": 0.5,
            "information_weight": 0.5,
            "gamma": 0.0,
            "burn_in": 4,
            "thinning": 2,
        },
        can={Sampler, Classifying},
        evaluated={"energy_score", "energy_score_standard_error"} | OF_CLASSES,
        best="energy_score",
        binary=False,
    ),
    "glo": Row(
        "glo",
        {"latent": 3, "features": 8, "channels": 4, "blocks": 2, "code_rate": 2.0, "code_steps": 3},
        can={Sampler, Coded, Generating},
        evaluated={"laplacian_loss", "laplacian_loss_standard_error"},
        best="laplacian_loss",
        binary=False,
    ),
    "glo-random": Row(
        "glo",
        {**DENSE, "code_start": "random"},
        can={Sampler, Coded, Generating},
        evaluated={"laplacian_loss", "laplacian_loss_standard_error"},
        best="laplacian_loss",
    ),
    "glo-realnvp": Row(
        "glo",
        {
            "latent": 3,
            "features": 8,
            "channels": 4,
            "code_density": "realnvp",
            "transformations": 2,
            "hidden": 8,
        },
        can={Sampler, Coded, Generating},
        evaluated={"laplacian_loss", "laplacian_loss_standard_error"},
        best="laplacian_loss",
        binary=False,
    ),
    "glo-mixture": Row(
        "glo",
        {**SMALL, "code_density": "mixture", "components": 5},
        can={Sampler, Coded, Generating},
        evaluated={"laplacian_loss", "laplacian_loss_standard_error"},
        best="laplacian_loss",
    ),
    "semi-supervised": Row(
        "semi-supervised",
        {
            **SMALL,
            "labels_used": 10,
            "labelled_per_step": 4,
            "classification_weight": 2.0,
            "smoothness_weight": 3.0,
            "smoothness_radius": 0.5,
            "information_weight": 4.0,
            "blocks": 2,
        },
        can={Sampler, Bounded, Classifying},
        evaluated=OF_SEMI_SUPERVISED,
        best="regularized_bound",
    ),
    "semi-supervised-stacked": Row(
        "semi-supervised",
        {**SMALL, "labels_used": 10, "inputs": "codes", "first_latent": 4},
        can={Sampler, Bounded, Classifying},
        evaluated=OF_SEMI_SUPERVISED,
    ),
    "semi-supervised-planar": Row(
        "semi-supervised",
        {**SMALL, "labels_used": 10, "posterior": "planar", "context": False},
        can={Sampler, Bounded, Classifying},
        evaluated=OF_SEMI_SUPERVISED,
    ),
    "semi-supervised-realnvp": Row(
        "semi-supervised",
        {
            **SMALL,
            "labels_used": 10,
            "posterior": "realnvp",
            "hidden": 8,
            "transformations": 2,
            "flow_of": "noise",
            "normalization": "weight",
            "likelihood": "logistic",
        },
        can={Sampler, Bounded, Classifying},
        evaluated=OF_SEMI_SUPERVISED,
        binary=False,
    ),
    "semi-supervised-iaf": Row(
        "semi-supervised",
        {
            **SMALL,
            "labels_used": 10,
            "posterior": "iaf",
            "hidden": 8,
            "bounded": False,
            "flow_batch_norm": True,
            "likelihood": "causal",
            "causal_channels": 6,
            "causal_blocks": 1,
            "causal_dropout": 0.2,
            "causal_orders": 2,
            "causal_components": 2,
        },
        can={Sampler, Bounded, Classifying},
        evaluated=OF_SEMI_SUPERVISED,
    ),
    "semi-supervised-gaussian": Row(
        "semi-supervised",
        {**SMALL, "labels_used": 10, "likelihood": "gaussian", "variance": 0.02},
        can={Sampler, Bounded, Classifying},
        evaluated=OF_SEMI_SUPERVISED - {"bits_per_dim"},
        binary=False,
    ),
    "semi-supervised-mixture": Row(
        "semi-supervised",
        {**SMALL, "labels_used": 10, "likelihood": "logistic-mixture", "components": 2},
        can={Sampler, Bounded, Classifying},
        evaluated=OF_SEMI_SUPERVISED,
        binary=False,
    ),
}
