"""Runs, which are directories: reading, writing and comparing them."""

from flowvae.runs.files import read_json, reason, replacing, write_json
from flowvae.runs.folder import (
    BEGUN,
    CONFIG,
    EVALUATION,
    WEIGHTS,
    Run,
    check_revision,
    claim,
    create,
    load,
    load_part,
    load_weights,
    revise,
    save_model,
    write_weights,
)
from flowvae.runs.metrics import METRICS, cut_metrics, first_number, judged_by, read_metrics

__all__ = [
    "BEGUN",
    "CONFIG",
    "EVALUATION",
    "METRICS",
    "WEIGHTS",
    "Run",
    "check_revision",
    "claim",
    "create",
    "cut_metrics",
    "first_number",
    "judged_by",
    "load",
    "load_part",
    "load_weights",
    "read_json",
    "read_metrics",
    "reason",
    "replacing",
    "revise",
    "save_model",
    "write_json",
    "write_weights",
]
