"""Whatever words and files hold, what comes of them is a result or one line."""

import contextlib
import inspect
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from command_line import SMALL, flowvae, is_refusal
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from made_runs import CONFIG, SPEC, contents, record

from flowvae import cli, training
from flowvae.config import Config, DataConfig, TrainingConfig
from flowvae.errors import UserError, check_range, quoted
from flowvae.figures import draw_curves
from flowvae.hub import model_card, save_pretrained
from flowvae.models.pixel_cnn import PixelCNNOptions
from flowvae.models.registry import build_model
from flowvae.models.vae import VAEOptions
from flowvae.parts import choices, names
from flowvae.reproduce import Row
from flowvae.runs import Run, load, read_metrics
from flowvae.runs.formats import written
from flowvae.runs.table import collect as collected
from flowvae.runs.table import comma_separated, markdown, write_table
from flowvae.tables import TABLES

LONG = "x" * 100_000
few = settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)

# Words.

ODD_WORDS = [
    *("", " ", "-", "--", ".", "/dev/null", "missing/\udcff", "plain\0", "\udcff", "é", "None", LONG),
    *("0", "-0", "-1", "1.5", "nan", "inf", "-inf", "1e308", "1e400"),
    *("1000000000", str(2**31), str(2**63), "1" + "0" * 400, "1" + "0" * 5000),
]


@pytest.fixture
def built(workspace, monkeypatch) -> Path:
    """The working directory, where models are built and not trained."""

    def build(run: Path, config: Config, resume: bool, device: str) -> bool:
        assert config.model is not None
        build_model(config.model, SPEC)
        return True

    monkeypatch.setattr(training, "train", build)
    return workspace


def is_result_or_refusal(*words: str) -> None:
    result = flowvae(*words)
    if result.code:
        is_refusal(result)
        assert len(result.err) < 1100


PARTS = [part for known in choices(VAEOptions).values() for part in known.values()]
SETTINGS = [
    f"--{name.replace('_', '-')}"
    for kind in (DataConfig, VAEOptions, TrainingConfig, PixelCNNOptions, *PARTS)
    for name in names(kind)
]


@few
@given(
    st.sampled_from(["vae", "planar-4", "realnvp-2", "iaf-4", "density-small", "cifar10", "pixelcnn"]),
    st.lists(st.tuples(st.sampled_from([*SETTINGS, "--out", "--resume"]), st.sampled_from(ODD_WORDS))),
)
def test_any_option_of_training_is_taken_or_refused(built, preset, options):
    is_result_or_refusal("train", preset, *(word for option in options for word in option))


@few
@given(
    st.sampled_from(["evaluate", "sample", "reconstruct", "interpolate", "table", "export"]),
    st.lists(st.sampled_from([*ODD_WORDS, "plain", "flow"]), max_size=2),
    st.data(),
)
def test_any_word_of_another_command_is_taken_or_refused(workspace, command, words, data):
    known = [f"--{name}" for name in inspect.signature(cli.COMMANDS[command]).parameters]
    options = data.draw(
        st.lists(st.tuples(st.sampled_from(known), st.sampled_from(ODD_WORDS)), min_size=1, max_size=2)
    )
    is_result_or_refusal(command, *words, *(word for option in options for word in option))


@pytest.mark.parametrize(
    ("words", "part"),
    [
        ("train vae --latent 1000000000", "latent is 1000000000; it must be 1 to 65,536"),
        ("train vae --latent 65536 --covariance full", "make it smaller"),
        ("train planar-4 --transformations 1000000000", "transformations is"),
        ("train vae --blocks 1000000000", "blocks is"),
        (f"train vae --steps {2**63}", "steps is"),
        (f"train vae --samples {2**63}", "samples is"),
        ("train vae --learning-rate 1e308", "learning_rate is"),
        ("train vae --free-bits inf", "free_bits is"),
        ("train vae --minutes inf", "minutes is"),
        (f"evaluate plain --samples {2**63} --images 3", "samples is"),
        (f"reproduce table1 --seeds {2**63}", "seeds is"),
        (f"reproduce table1 --workers {2**63}", "workers is"),
        (f"reproduce table1 --samples {2**63}", "samples is"),
        ("reproduce table1 --images 0", "images is"),
        (f"reproduce table1 --epochs {2**63}", "epochs is"),
        ("reproduce table1 --minutes 1e400", "minutes is"),
        ("demo --minutes inf --out new", "minutes is"),
        (f"explore plain --port {2**63}", "port is"),
        (f"train {LONG}", "no preset 'xxx"),
        (f"train vae --posterior {LONG}", "posterior is"),
        (f"evaluate {LONG}", "xxx"),
        ("evaluate plain\0", "null character"),
    ],
    ids=lambda value: value[:60].replace("\0", "0"),
)
def test_what_is_too_large_is_refused_before_memory_is_asked_for(words, part, built):
    before = contents(built)
    result = flowvae(*words.split(" "))
    is_refusal(result, part)
    assert len(result.err) < 1100
    assert contents(built) == before


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 7 bytes"),
        RuntimeError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError("Storage size calculation overflowed with sizes=[1, 2]"),
    ],
)
def test_a_lack_of_memory_is_one_line(error, workspace, monkeypatch):
    def fail(*arguments: Any, **options: Any) -> None:
        raise error

    monkeypatch.setattr(training, "train", fail)
    is_refusal(flowvae("train", "vae", "--data", "images.npz"), "memory", "smaller")


def test_a_budget_that_is_spent_at_once_ends_a_training(workspace):
    words = ["--data", "images.npz", "--minutes", "1e-320", "--track", "none", "--out", "run"]
    assert flowvae("train", "vae", *SMALL, *words).code == 0


def test_another_error_of_the_program_is_not_hidden(workspace, monkeypatch):
    def fail(*arguments: Any, **options: Any) -> None:
        raise RuntimeError("a mistake of ours")

    monkeypatch.setattr(training, "train", fail)
    with pytest.raises(RuntimeError, match="a mistake of ours"):
        flowvae("train", "vae", "--data", "images.npz")


def test_names_that_an_encoding_lacks_are_printed_all_the_same(workspace):
    folder = os.fsencode(workspace / "flow") + b"-\xff\xc3\xa9"
    os.rename(workspace / "flow", folder)
    for encoding in ("ascii", "utf-8"):
        done = subprocess.run(
            [sys.executable, "-m", "flowvae", "table", folder],
            env={**os.environ, "PYTHONIOENCODING": encoding},
            capture_output=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert b"flow-\\udcff" in done.stdout


# Files.

NUMBERS = st.one_of(
    st.integers(), st.floats(), st.sampled_from([10**400, -(10**400), 2**63, 1e308, 5e-324, 0, -1])
)
TEXT = st.text(st.characters(), max_size=5) | st.sampled_from(["\ud800", "a\0b", LONG])
VALUES = st.recursive(
    st.none() | st.booleans() | NUMBERS | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
DEEP = "[" * 100_000
NESTED = "[" * 900 + "]" * 900
WRITTEN = st.one_of(
    VALUES.map(json.dumps),
    st.sampled_from(
        [DEEP, NESTED, "1" + "0" * 5000, "1e400", "NaN", "-Infinity", "\ufeff{}", "", "{", "\0", LONG]
    ),
)


def objects(names: list[str]) -> st.SearchStrategy[str]:
    """JSON objects of which some names are known, as text."""
    pairs = st.lists(st.tuples(st.sampled_from(names) | TEXT, WRITTEN), max_size=6)
    return pairs.map(
        lambda pairs: "{" + ", ".join(f"{json.dumps(name)}: {text}" for name, text in pairs) + "}"
    )


@few
@given(st.data())
def test_any_configuration_is_read_or_refused(run, data):
    sections = written(CONFIG, SPEC, "vae")
    section = data.draw(st.sampled_from(["data", "model", "training"]))
    name = data.draw(st.sampled_from(list(sections[section])))
    mark = '"here"'
    where = data.draw(st.sampled_from([{**sections[section], name: "here"}, "here"]))
    text = json.dumps({**sections, section: where}).replace(mark, data.draw(WRITTEN))
    (run / "config.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(UserError):
        load(run)


@few
@given(VALUES | st.lists(st.integers(1, 2**66), min_size=3, max_size=3))
def test_any_shape_is_read_or_refused(run, shape):
    (run / "config.json").write_text(json.dumps({**written(CONFIG, SPEC, "vae"), "shape": shape}))
    with pytest.raises(UserError) as error:
        load(run)
    assert len(str(error.value)) < 1000


SCORES = {
    "reconstruction": 60.0,
    "kl": 20.0,
    "negative_elbo": 80.0,
    "nll": 78.5,
    "bits_per_dim": 1.5,
    "samples": 5,
    "images": 10,
    "seed": 0,
    "version": "1",
    "dataset": "mnist",
    "binarization": "static",
    "split": "test",
    "training_steps": 3,
}


@few
@given(objects([*SCORES, "name"]) | WRITTEN)
def test_any_evaluation_is_read_or_refused(run, text):
    (run / "evaluation.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(UserError):
        model_card(Run(run), "run")
    with contextlib.suppress(UserError):
        rows = collected([run])
        for name in ("table.md", "table.csv", "table.json"):
            write_table(rows, run / name)
        assert "run" in markdown(rows)
        assert "run" in comma_separated(rows)


@few
@given(st.lists(objects(["split", "step", "epoch", "seconds", "negative_elbo"]) | WRITTEN, max_size=3))
def test_any_metrics_are_read(run, lines):
    whole = json.loads(record(7))
    odd = [json.dumps({**whole, **json.loads(line)}) for line in lines if _is_object(line)]
    text = "\n".join([*lines, *odd, json.dumps(whole)])
    (run / "metrics.jsonl").write_text(text, encoding="utf-8", errors="surrogatepass")
    records = read_metrics(run)
    assert records[-1] == whole
    draw_curves({"run": records})
    row = Row("vae", TABLES["table1"]["vae"], 0, run.parent)
    (run.parent / "runs").mkdir(exist_ok=True)
    if not row.run.exists():
        row.run.symlink_to(run)
    row.state()


def _is_object(text: str) -> bool:
    with contextlib.suppress(ValueError, RecursionError):
        return isinstance(json.loads(text), dict)
    return False


@few
@given(objects(["asked", "validation", "negative_elbo", "original_reconstruction"]) | WRITTEN)
def test_any_result_of_a_row_is_read_or_refused(tmp_path, text):
    row = Row("vae", TABLES["table1"]["vae"], 0, tmp_path)
    row.result.write_text(text, encoding="utf-8", errors="surrogatepass")
    with contextlib.suppress(UserError):
        markdown([{**row.read(), "name": row.name}])


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (json.dumps({**SCORES, "nll": 10**400}), "nll is 1000"),
        (json.dumps({**SCORES, "nll": 7e77}).replace("7e+77", "1e400"), "not valid JSON"),
        (json.dumps({**SCORES, "new": [1]}), "new is [1]"),
        (json.dumps({**SCORES, LONG: [1]}), "... is [1]"),
        (json.dumps({**SCORES, "a\nb": [1]}), r"'a\nb' is [1]"),
        (json.dumps({"kl": 10.0}), "lacks dataset, binarization, split"),
        (json.dumps({**SCORES, "dataset": 7}), "dataset is 7"),
        ('{"nll": 1' + "0" * 5000 + "}", "not valid JSON"),
    ],
)
def test_an_evaluation_that_a_card_cannot_show_leaves_no_folder(text, part, run):
    (run / "evaluation.json").write_text(text)
    with pytest.raises(UserError, match=r"evaluation\.json") as error:
        save_pretrained(run, run.parent / "model")
    assert part in str(error.value)
    assert len(str(error.value)) < 1000
    assert "\n" not in str(error.value)
    assert not (run.parent / "model").exists()


def test_a_number_for_a_name_is_left_out(run):
    (run / "evaluation.json").write_text(json.dumps({**SCORES, "name": 7, "dataset": "\ud800"}))
    assert [row["name"] for row in collected([run])] == ["run"]


@pytest.mark.parametrize("name", ["config.json", "evaluation.json", "metrics.jsonl"])
def test_a_folder_in_place_of_a_file_is_one_line(name, run):
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    read = {"config.json": lambda run: Run(run).config, "metrics.jsonl": read_metrics}.get(
        name, lambda run: collected([run])
    )
    with pytest.raises(UserError, match="cannot be read"):
        read(run)


@pytest.mark.parametrize("command", ["evaluate", "interpolate", "table", "export"])
def test_a_link_to_itself_is_no_run(command, workspace):
    Path("loop").symlink_to("loop")
    is_refusal(flowvae(command, "loop"), "loop is not a directory")


def test_a_long_value_is_shortened():
    assert len(quoted(LONG)) < 110
    with pytest.raises(UserError, match=r"steps is nan; it must be 1 to 1,000"):
        check_range("steps", float("nan"), 1, 1000)
