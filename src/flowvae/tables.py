"""The rows of the published tables, and of a table of the user's own."""

from dataclasses import dataclass
from pathlib import Path

from flowvae.config_files import read_rows
from flowvae.errors import UserError, did_you_mean, quoted


@dataclass(frozen=True)
class Variant:
    """A preset, and the options of `flowvae train` that change it, separated by spaces."""

    preset: str
    options: str = ""
    data: str | None = None
    """data set of this row, whatever that of the others"""


def _presets(*names: str) -> dict[str, Variant]:
    return {name: Variant(name) for name in names}


_DIAGONAL, _FULL = "--covariance diagonal", "--covariance full"
_GAUSSIAN = f"--posterior gaussian {_DIAGONAL}"
_NORMAL = "--prior normal"
_INDEPENDENT = "--likelihood bernoulli"
# The networks and steps of the table of parts, smaller than those of the preset.
_STEPS = "--batch-size 64 --learning-rate 2e-3 --weight-decay 0.01"
_NETWORK = "--causal-channels 64 --causal-blocks 4"
_CAUSAL = f"{_NETWORK} --causal-dropout 0.15"
_FOUR_ORDERS = f"{_CAUSAL} --causal-orders 4"


def _smaller(*options: str) -> Variant:
    return Variant("density-small", " ".join((_STEPS, *options)))


TABLES: dict[str, dict[str, Variant]] = {
    # Posteriors by kind and number of transformations.
    "table1": _presets(
        "vae",
        *(f"planar-{k}" for k in (4, 10, 20, 40)),
        *(f"realnvp-{k}" for k in (2, 5, 10, 20)),
        "iaf-4",
    ),
    # Contribution of each part of the Real NVP couplings.
    "ablations": {
        "realnvp-10": Variant("realnvp-10"),
        "no-context": Variant("realnvp-10", "--no-context"),
        "no-weight-norm": Variant("realnvp-10", "--normalization none"),
        "batch-norm": Variant("realnvp-10", "--normalization batch"),
        "batch-norm-flow": Variant("realnvp-10", "--flow-batch-norm"),
        "unbounded-scale": Variant("realnvp-10", "--no-bounded"),
        # Batch norm always has the whole gradient.
        "whole-gradient": Variant("realnvp-10", "--no-path-derivative"),
        # Covariance of the Gaussian: diagonal with Real NVP; full with a planar flow, or without a flow.
        **{f"realnvp-{k}-diagonal": Variant(f"realnvp-{k}", _DIAGONAL) for k in (5, 10)},
        "gaussian-full": Variant("vae", _FULL),
        "planar-40-full": Variant("planar-40", _FULL),
        # A flow of codes, as of Rezende & Mohamed, instead of a flow of noise.
        **{
            f"realnvp-{k}-of-code": Variant(f"realnvp-{k}", f"--flow-of code {_DIAGONAL}")
            for k in (5, 10, 20)
        },
    },
    # Training of deep chains, without normalization in the conditioners and with each kind.
    "depth": {
        f"realnvp-{k}-{kind}": Variant("realnvp-10", f"--transformations {k} --normalization {kind}")
        for k in (8, 16, 32, 64)
        for kind in ("none", "weight", "batch", "act")
    },
    # Contributions of the parts, and of the training options, of the model with the best likelihood.
    "density": {
        "plain": _smaller(_INDEPENDENT, _GAUSSIAN, _NORMAL),
        "posterior-flow": _smaller(_INDEPENDENT, _NORMAL),
        "prior-flow": _smaller(_INDEPENDENT, _GAUSSIAN),
        "both-flows": _smaller(_INDEPENDENT),
        "causal-alone": _smaller(_FOUR_ORDERS, _GAUSSIAN, _NORMAL),
        "all-parts": _smaller(_FOUR_ORDERS),
        **_presets("pixelcnn", "pixelrnn-row", "pixelrnn-diagonal"),
        "no-averaging": _smaller(_FOUR_ORDERS, "--averaging 0"),
        "no-muon": _smaller(_FOUR_ORDERS, "--optimizer adamw"),
        "free-bits": _smaller(_FOUR_ORDERS, "--free-bits 4"),
        "one-order": _smaller(_CAUSAL, "--causal-orders 1"),
        "no-dropout": _smaller(_NETWORK, "--causal-orders 4 --causal-dropout 0"),
        "whole-gradient": _smaller(_FOUR_ORDERS, "--no-path-derivative"),
        "importance-weighted": _smaller(
            _FOUR_ORDERS, "--objective importance-weighted --samples 5 --no-path-derivative"
        ),
    },
    # Few training images, with and without the rule of `flowvae.training.overfitting`.
    "small-data": {
        f"realnvp-5-{count}{rule}": Variant("realnvp-5", f"--training-images {count}{option}")
        for count in (1000, 4000, 16000)
        for rule, option in (("", ""), ("-no-patience", " --patience 0"))
    },
    "cifar10": _presets(
        "cifar10", "cifar10-planar", "cifar10-realnvp", "cifar10-realnvp-prior", "realnvp-density-cifar10"
    ),
}


def read_variants(path: Path) -> dict[str, Variant]:
    """Read the rows of a table of the user's own from a YAML file (see `flowvae.config_files.read_rows`).

    Raises:
        UserError: if there is no such file, or a row is not valid.
    """
    if not path.exists():
        known = [*TABLES, "figure1", "few-labels", "missing", "systems", "wu-table1"]
        raise UserError(f"no table or file {quoted(str(path))}; {did_you_mean(str(path), known)}")
    return {name: Variant(*row) for name, row in read_rows(path).items()}


# -log p(x|z) in the original table of 2017, which has no other number.
ORIGINAL_RECONSTRUCTION = {
    "planar-4": 65.5,
    "planar-10": 68.9,
    "planar-20": 75.4,
    "planar-40": 83.4,
    "realnvp-2": 60.57,
    "realnvp-5": 75.56,
    "realnvp-10": 75.01,
    "realnvp-20": 81.37,
}
