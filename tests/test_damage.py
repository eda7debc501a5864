"""Damaged runs: every kind is one line that names the file."""

import copy
import json
import math
import os
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from made_runs import CONFIG, SPEC, contents, message, moved_model, record, trained_state
from tiny_runs import assert_equal

from flowvae.errors import UserError
from flowvae.hub import from_pretrained
from flowvae.parts import to_dict
from flowvae.runs import Run, load, load_weights, read_json, write_json
from flowvae.runs.formats import FORMAT, written
from flowvae.training.optimizer import Muon, adamw


def whole() -> dict[str, Any]:
    return json.loads(json.dumps(written(CONFIG, SPEC, "vae")))


def edited(section: str | None, **changes: Any) -> str:
    values = whole()
    (values if section is None else values[section]).update(changes)
    return json.dumps(values)


BAD_CONFIGS: dict[str, tuple[str | bytes, str]] = {
    "empty": ("", "JSON"),
    "truncated": (json.dumps(whole())[:100], "JSON"),
    "not text": (b"\xff\xfe\x00\x80", "JSON"),
    "nested too deep": ("[" * 100_000, "JSON"),
    "a list": ("[1, 2]", "expected names and values"),
    "a word": ('"vae"', "expected names and values"),
    "a later format": (edited(None, format=FORMAT + 1), "install a newer one"),
    "a format of no number": (edited(None, format="2"), "format is '2'"),
    "no system": (edited(None, system=None), "system is None"),
    "levels of words": (edited(None, levels="2"), "levels is '2'"),
    "negative classes": (edited(None, classes=-1), "classes is -1"),
    "no number of training images": (edited(None, training_images=None), "training_images is None"),
    "no shape": (edited(None, shape=None), "shape"),
    "shape of two": (edited(None, shape=[8, 8]), "shape"),
    "shape of words": (edited(None, shape=["1", "8", "8"]), "shape"),
    "negative shape": (edited(None, shape=[1, -8, 8]), "shape"),
    "unknown section": (edited(None, modle={}), "model"),
    "section that is a number": (edited(None, model=3), "3"),
    "unknown option": (edited("model", laten=3), "latent"),
    "word for a number": (edited("model", latent="three"), "latent"),
    "fraction for a count": (edited("model", latent=3.5), "latent"),
    "truth for a count": (edited("model", latent=True), "latent"),
    "null for a count": (edited("model", latent=None), "latent"),
    "list for a word": (edited("model", posterior=["realnvp"]), "posterior"),
    "unknown word": (edited("model", posterior="relnvp"), "realnvp"),
    "out of range": (edited("model", latent=0), "latent"),
    "contradiction": (edited("model", posterior="gaussian"), "has no effect with posterior gaussian"),
    "option of another part": (edited("model", pseudo_inputs=3), "choose vamp"),
    "covariance of a map": (edited("model", code="map", covariance="full"), "features has no effect"),
    "learning rate that is not a number": (edited("training", learning_rate=float("nan")), "JSON"),
    "budget that is not a number": (edited("training", minutes=float("nan")), "JSON"),
    "decay that is not a number": (edited("training", weight_decay=float("nan")), "JSON"),
    "negative budget": (edited("training", steps=-1), "steps"),
}


@pytest.mark.parametrize("damage", BAD_CONFIGS)
def test_a_damaged_configuration_is_one_line(damage, run):
    text, hint = BAD_CONFIGS[damage]
    (run / "config.json").write_bytes(text if isinstance(text, bytes) else text.encode())
    before = contents(run)
    with pytest.raises(UserError) as error:
        load(run)
    message(error, run / "config.json", hint)
    assert contents(run) == before


def test_any_value_anywhere_is_read_or_refused(run):
    """Every option with values of every kind: no other exception, and what is read has the right type."""
    for section in ("data", "model", "training"):
        for option, value in whole()[section].items():
            for other in (
                None,
                True,
                "",
                "x",
                -1,
                0,
                1,
                1.5,
                -0.5,
                float("nan"),
                10**18,
                [],
                {},
                [[1]],
                {"a": 1},
            ):
                (run / "config.json").write_text(edited(section, **{option: other}))
                try:
                    config = Run(run).config
                except UserError:
                    continue
                read = to_dict(getattr(config, section))[option]
                assert read == other
                # True is no 1; where nothing may be said, something may.
                assert type(read) is type(value) or None in (read, value) or option == "minutes"


OLD = json.loads((Path(__file__).parent / "golden" / "path_derivative" / "config.json").read_text())


@pytest.mark.parametrize("section", ["data", "model", "training", None])
def test_an_earlier_configuration_is_read_or_refused_whatever_it_holds(section, run):
    (run / "config.json").write_text(json.dumps(OLD))
    assert Run(run).config.training.steps == OLD["training"]["steps"]
    refused: list[str] = []
    for option in OLD if section is None else OLD[section]:
        for other in (None, True, "x", -1, 1.5, [], {}, [["model", 3]], {"a": 1}):
            changed = {option: other} if section is None else {section: {**OLD[section], option: other}}
            (run / "config.json").write_text(json.dumps({**OLD, **changed}))
            try:
                assert Run(run).spec.shape == (1, 8, 8)
            except UserError as error:
                refused.append(str(error))
    assert len(refused) > 5
    assert all(str(run / "config.json") in said and "\n" not in said for said in refused)


@pytest.mark.parametrize("folder", ["missing", "file", "empty"])
def test_what_is_no_run_is_said_to_be_none(folder, tmp_path):
    path = tmp_path / folder
    if folder == "file":
        path.write_text("")
    elif folder == "empty":
        path.mkdir()
    with pytest.raises(UserError) as error:
        load(path)
    message(error, path, "run")


def test_missing_weights_are_said_to_be_missing(run):
    (run / "model.safetensors").unlink()
    with pytest.raises(UserError) as error:
        load(run)
    message(error, run / "model.safetensors", "missing")


def weights_with(change: Callable[[dict[str, torch.Tensor]], Any]) -> Callable[[bytes], bytes]:
    def rewritten(before: bytes) -> bytes:
        weights = safetensors.torch.load(before)
        change(weights)
        return safetensors.torch.save(weights)

    return rewritten


NAME = "posterior.base.mean_and_log_scale.bias"
STATISTICS = "posterior.flow.flows.2.variance"

BAD_WEIGHTS: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "empty": (lambda before: b"", ""),
    "cut in the header": (lambda before: before[:50], ""),
    "cut in the numbers": (lambda before: before[:-4], ""),
    "longer": (lambda before: before + b"0", ""),
    "text": (lambda before: b"no weights at all, just a few words", ""),
    "header longer than the file": (lambda before: (2**60).to_bytes(8, "little") + before[8:], ""),
    "a pickle": (lambda before: pickle.dumps({"a": 1}), ""),
    "one missing": (weights_with(lambda weights: weights.pop(NAME)), NAME),
    "one too many": (weights_with(lambda weights: weights.update(surplus=torch.zeros(1))), "surplus"),
    "another shape": (weights_with(lambda weights: weights.update({NAME: torch.zeros(4)})), NAME),
    "no number": (weights_with(lambda weights: weights[NAME][0].fill_(math.nan)), f"{NAME} is not finite"),
    "infinite": (weights_with(lambda weights: weights[NAME][-1].fill_(-math.inf)), f"{NAME} is not finite"),
    "finite in a wider type alone": (
        weights_with(lambda weights: weights.update({NAME: weights[NAME].double() + 1e300})),
        f"{NAME} is not finite",
    ),
    "statistics that are no numbers": (
        weights_with(lambda weights: weights[STATISTICS].fill_(math.nan)),
        f"{STATISTICS} is not finite",
    ),
}


@pytest.mark.parametrize("damage", BAD_WEIGHTS)
def test_damaged_weights_are_one_line(damage, run):
    change, hint = BAD_WEIGHTS[damage]
    path = run / "model.safetensors"
    path.write_bytes(change(path.read_bytes()))
    before = contents(run)
    for read in (load, from_pretrained, lambda run: load_weights(run, CONFIG.model, moved_model())):
        with pytest.raises(UserError) as error:
            read(run)
        message(error, path, "damaged", hint)
    assert contents(run) == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_json_holds_no_number_that_is_not_finite(value, run):
    before = contents(run)
    with pytest.raises(UserError) as error:
        write_json(run / "evaluation.json", {"rows": [{"nll": value}]})
    message(error, run / "evaluation.json", "not finite")
    assert contents(run) == before
    (run / "evaluation.json").write_text(json.dumps({"nll": value}))
    with pytest.raises(UserError) as error:
        read_json(run / "evaluation.json")
    message(error, run / "evaluation.json", "not valid JSON")


def test_a_folder_in_place_of_the_weights_is_one_line(run):
    (run / "model.safetensors").unlink()
    (run / "model.safetensors").mkdir()
    with pytest.raises(UserError) as error:
        load(run)
    message(error, run / "model.safetensors")


class Malicious:
    """Unpickled, it makes a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.folder),)


def state_with(change: Callable[[dict[str, Any]], Any]) -> Callable[[Path], None]:
    def rewrite(path: Path) -> None:
        values = torch.load(path, weights_only=True)
        change(values)
        torch.save(values, path)

    return rewrite


BAD_STATES: dict[str, Callable[[Path], Any]] = {
    "empty": lambda path: path.write_bytes(b""),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "cut at the start": lambda path: path.write_bytes(path.read_bytes()[:60]),
    "text": lambda path: path.write_text("no state"),
    "a list": lambda path: torch.save([1, 2], path),
    "a tensor": lambda path: torch.save(torch.zeros(3), path),
    "code": lambda path: torch.save({"model": Malicious(path.parent / "made")}, path),
    "no model": state_with(lambda values: values.pop("model")),
    "no step": state_with(lambda values: values.pop("step")),
    "a word for the step": state_with(lambda values: values.update(step="nine")),
    "a word for the length": state_with(lambda values: values.update(metrics_bytes="nine")),
    "a number for the model": state_with(lambda values: values.update(model=3)),
    "a number for the optimizer": state_with(lambda values: values.update(optimizers=3)),
    "a number for a player": state_with(lambda values: values["optimizers"].update(model=3)),
    "a player too many": state_with(lambda values: values["optimizers"].update(critic={})),
    "an empty model": state_with(lambda values: values.update(model={})),
    "an empty optimizer": state_with(lambda values: values.update(optimizers={})),
    "a number for the sums": state_with(lambda values: values.update(sums=3)),
    "a sum of several numbers": state_with(lambda values: values["sums"].update(kl=torch.zeros(2))),
    "a sum that is not finite": state_with(lambda values: values["sums"].update(kl=torch.tensor(math.nan))),
    "a sum of no tensor": state_with(lambda values: values["sums"].update(kl=3.0)),
    "a part too many": state_with(lambda values: values.update(surplus=1)),
    **{
        f"{name} = {value!r}": state_with(lambda values, name=name, value=value: values.update({name: value}))
        for name, bad in {
            "step": (-5, True, 3.0, 10**400, None, torch.tensor(3)),
            "seconds": (math.nan, math.inf, -1.0, 1e300, 3, "nine"),
            "best": (math.nan, -math.inf, 80, None),
            "metrics_bytes": (-1, False, 2.0, 10**30),
            "summed_steps": (-1, False, 2.0, 10**30),
            "summed_seconds": (math.nan, -1.0, 3),
        }.items()
        for value in bad
    },
}


def optimizer_of(values: dict[str, Any]) -> dict[str, Any]:
    return values["optimizers"]["model"]


def first_moment(values: dict[str, Any], change: Callable[[torch.Tensor], Any]) -> None:
    state = optimizer_of(values)["state"][0]
    state["exp_avg"] = change(state["exp_avg"])


def option(name: str, value: Any) -> Callable[[Path], None]:
    return state_with(lambda values: optimizer_of(values)["param_groups"][0].update({name: value}))


# What PyTorch loads without a word. At best training goes wrong, at worst an optimizer writes past the end of
# its memory.
UNFIT_STATES: dict[str, tuple[Callable[[Path], Any], str]] = {
    "moment too short": (
        state_with(lambda values: first_moment(values, lambda old: old[:1])),
        "0.exp_avg has shape",
    ),
    "moment of one number": (
        state_with(lambda values: first_moment(values, lambda old: torch.zeros(()))),
        "0.exp_avg has shape",
    ),
    "moment of doubles": (
        state_with(lambda values: first_moment(values, torch.Tensor.double)),
        "0.exp_avg has type",
    ),
    "moment of integers": (
        state_with(lambda values: first_moment(values, torch.Tensor.int)),
        "0.exp_avg has type",
    ),
    "negative second moment": (
        state_with(lambda values: optimizer_of(values)["state"][0]["exp_avg_sq"].fill_(-1)),
        "model.state.0.exp_avg_sq is negative",
    ),
    "fewer steps than none": (
        state_with(lambda values: optimizer_of(values)["state"][0]["step"].fill_(-1)),
        "model.state.0.step is negative",
    ),
    "sparse moment": (
        state_with(lambda values: first_moment(values, torch.Tensor.to_sparse)),
        "0.exp_avg has layout",
    ),
    "moment that is not a number": (
        state_with(lambda values: first_moment(values, lambda old: old * math.nan)),
        "0.exp_avg is not finite",
    ),
    "moment that is a word": (
        state_with(lambda values: first_moment(values, lambda old: "word")),
        "0.exp_avg is a str",
    ),
    "no moment": (
        state_with(lambda values: optimizer_of(values)["state"][0].pop("exp_avg")),
        "0 has no exp_avg",
    ),
    "moment too many": (
        state_with(lambda values: optimizer_of(values)["state"][0].update(surplus=torch.zeros(1))),
        "'surplus'",
    ),
    "state of no parameter": (
        state_with(lambda values: optimizer_of(values)["state"].update({999: {}})),
        "999",
    ),
    "group too many": (state_with(lambda values: optimizer_of(values)["param_groups"].append({})), ""),
    "parameters in another order": (
        state_with(lambda values: optimizer_of(values)["param_groups"][0]["params"].reverse()),
        "params[0]",
    ),
    "decay that is not a number": (option("weight_decay", math.nan), "weight_decay"),
    "betas above one": (option("betas", (2.0, 3.0)), "betas"),
    "not fused": (option("fused", 7), "fused"),
    "option too many": (option("surplus", 1), "'surplus'"),
    "weights that are not finite": (
        state_with(lambda values: values["model"][NAME].fill_(math.inf)),
        f"model.{NAME} is not finite",
    ),
    "weights of doubles": (
        state_with(lambda values: values["model"].update({NAME: values["model"][NAME].double()})),
        f"model.{NAME} has type",
    ),
    "average that is not finite": (
        state_with(lambda values: values["average"][f"module.{NAME}"].fill_(math.nan)),
        f"average.module.{NAME} is not finite",
    ),
    "average of fewer updates than none": (
        state_with(lambda values: values["average"]["n_averaged"].fill_(-10)),
        "n_averaged is negative",
    ),
}


@pytest.mark.parametrize("damage", BAD_STATES)
def test_a_damaged_state_is_one_line(damage, run):
    path = run / "resume" / "state.pt"
    BAD_STATES[damage](path)
    before = contents(run)
    with pytest.raises(UserError) as error:
        trained_state(moved_model()).restore(run)
    message(error, path, "damaged")
    assert contents(run) == before
    assert not (path.parent / "made").exists(), "code in the file was run"


@pytest.mark.parametrize("name", ["config.json", "metrics.jsonl", "model.safetensors", "resume/state.pt"])
def test_a_pipe_is_not_waited_for(name, run):
    (run / name).unlink()
    os.mkfifo(run / name)
    read = {
        "metrics.jsonl": lambda: Run(run).records,
        "resume/state.pt": lambda: trained_state(moved_model()).restore(run),
    }
    with pytest.raises(UserError, match="not a regular file"):
        read.get(name, lambda: load(run))()


def test_a_state_in_another_form_of_pickles_is_refused_without_a_warning(run):
    path = run / "resume" / "state.pt"
    torch.save(torch.load(path, weights_only=True), path, pickle_protocol=4)
    with warnings.catch_warnings(record=True) as spilt:
        warnings.simplefilter("always")
        with pytest.raises(UserError, match="is damaged"):
            trained_state(moved_model()).restore(run)
    assert not spilt


@pytest.mark.parametrize("damage", UNFIT_STATES)
def test_a_state_that_does_not_fit_is_one_line_and_nothing_of_it_is_taken(damage, run):
    change, hint = UNFIT_STATES[damage]
    path = run / "resume" / "state.pt"
    change(path)
    before, state = contents(run), trained_state(moved_model())
    optimizer = state.players["model"].optimizer
    weights, moments = copy.deepcopy(state.model.state_dict()), str(optimizer.state_dict())
    with pytest.raises(UserError) as error:
        state.restore(run)
    message(error, path, "damaged", hint)
    assert contents(run) == before
    assert_equal(state.model.state_dict(), weights)
    assert str(optimizer.state_dict()) == moments


@pytest.mark.parametrize("make", [adamw, Muon])
def test_a_state_may_not_claim_more_memory_than_it_has(make, run):
    """Moments of the right shape, all entries on top of a single number, past which a fused step runs."""
    model = moved_model()
    state = trained_state(model, make(model.parameters(), 0.001, 0.0))
    with (run / "metrics.jsonl").open("ab") as metrics:
        state.save(run, metrics)

    def overlay(values: dict[str, Any]) -> None:
        for moments in optimizer_of(values)["state"].values():
            for name, value in moments.items():
                moments[name] = torch.zeros((1,) * value.ndim).expand(value.shape)

    state_with(overlay)(run / "resume" / "state.pt")
    state.restore(run)
    optimizer = state.players["model"].optimizer
    for moments in optimizer.state.values():
        for value in moments.values():
            assert value.untyped_storage().nbytes() >= 4 * value.numel()
    optimizer.step()


def test_a_state_of_the_time_when_a_model_was_one_player_is_resumed(run):
    path = run / "resume" / "state.pt"
    saved = trained_state(moved_model())
    saved.restore(run)
    state_with(lambda values: values.update(optimizer=values.pop("optimizers")["model"]))(path)
    fresh = trained_state(moved_model())
    fresh.restore(run)
    assert_equal(fresh.model.state_dict(), saved.model.state_dict())
    ours, theirs = (state.players["model"].optimizer.state_dict() for state in (fresh, saved))
    assert_equal(ours, theirs)


def test_a_state_of_the_time_before_sums_is_resumed(run):
    state_with(lambda values: [values.pop(name) for name in ("sums", "summed_steps", "summed_seconds")])(
        run / "resume" / "state.pt"
    )
    state = trained_state(moved_model())
    state.sums, state.summed_steps = {"kl": torch.tensor(3.0)}, 2
    state.restore(run)
    assert (state.sums, state.summed_steps, state.summed_seconds) == ({}, 0, 0.0)


def test_a_state_of_a_pytorch_with_fewer_options_is_resumed(run):
    path = run / "resume" / "state.pt"
    state_with(lambda values: optimizer_of(values)["param_groups"][0].pop("fused"))(path)
    trained_state(moved_model()).restore(run)


def test_a_best_that_no_validation_had_does_not_keep_weights_from_being_written(run):
    """Any number far below all scores would, and not -inf alone."""
    path = run / "resume" / "state.pt"
    state_with(lambda values: values.update(best=-1e300))(path)
    state = trained_state(moved_model())
    state.restore(run)
    assert state.best == -1e300, "there is nothing to compare it with"
    scored = [{**json.loads(record(step)), "split": "valid", "negative_elbo": 90.0 - step} for step in (1, 2)]
    with (run / "metrics.jsonl").open("ab") as metrics:
        metrics.writelines(json.dumps(line).encode() + b"\n" for line in scored)
    state.restore(run)
    assert state.best == 88.0
    state_with(lambda values: values.update(best=89.0))(path)
    state.restore(run)
    assert state.best == 89.0, "the last validation came after the state"


def test_the_state_of_another_model_is_refused(run):
    other = CONFIG.revised(latent=4)
    with pytest.raises(UserError) as error:
        trained_state(moved_model(other)).restore(run)
    message(error, run / "resume" / "state.pt")


def test_a_run_without_a_state_cannot_be_resumed(run):
    (run / "resume" / "state.pt").unlink()
    with pytest.raises(UserError) as error:
        trained_state(moved_model()).restore(run)
    message(error, run / "resume" / "state.pt", "missing")
