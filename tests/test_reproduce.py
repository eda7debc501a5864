"""The published table from one command: rows are made once, kept, and go on with a larger budget."""

import os
import signal
import threading
import time
from inspect import signature
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from command_line import contents, flowvae, is_refusal
from made_runs import CONFIG, SPEC

from flowvae import figures
from flowvae.cli import train
from flowvae.cli.studies import TAKEN, TAKEN_BY_TABLES, reproduce
from flowvae.errors import UserError
from flowvae.figure1 import reproduce_figure
from flowvae.reproduce import Budget, Row, _over_images, reproduce_table
from flowvae.runs import claim, read_json, read_metrics
from flowvae.tables import TABLES, Variant
from flowvae.training.finite import DIVERGED

VARIANTS = {"realnvp-2": TABLES["table1"]["realnvp-2"]}


@pytest.fixture
def data(tmp_path: Path) -> str:
    digits = np.random.default_rng(0).integers(0, 2, (150, 8, 8), dtype=np.uint8)
    path = tmp_path / "tiny.npz"
    np.savez(path, train=digits[:100], valid=digits[100:120], test=digits[120:])
    return str(path)


@pytest.mark.usefixtures("rows_in_this_process")
def test_rows_are_kept_go_on_and_are_drawn(tmp_path, data, capsys):
    folder = tmp_path / "table"

    def reproduce(epochs: int) -> None:
        reproduce_table(
            folder, Budget(epochs=epochs), variants=VARIANTS, data=data, num_samples=3, num_images=20
        )

    row = Row("realnvp-2", VARIANTS["realnvp-2"], 0, folder)
    claim(row.run, CONFIG, SPEC, "vae")
    (row.run / "notes.txt").write_text("a row that was killed at once begins again, and loses nothing")
    reproduce(epochs=3)
    assert (row.run / "notes.txt").exists()
    assert "warning: realnvp-2-seed0: -log p(x) cannot be trusted with S = 3" in capsys.readouterr().err
    result = read_json(row.result)
    assert {"negative_elbo", "nll", "nll_standard_error", "active_units", "training_seconds"} <= set(result)
    assert (result["asked"]["preset"], result["samples"], result["images"]) == ("realnvp-2", 3, 20)
    assert result["original_reconstruction"] == 60.57
    assert result["training_steps"] == 3
    assert len(result["validation"]) == 3
    table = (folder / "table.md").read_text()
    assert "realnvp-2-seed0" in table
    assert "60.57" in table
    assert (folder / "curves.png").stat().st_size > 1000

    written = row.result.stat().st_mtime_ns
    reproduce(epochs=3)
    assert row.result.stat().st_mtime_ns == written, "a finished row was made again"

    reproduce(epochs=5)
    assert read_json(row.result)["training_steps"] == 5
    assert [record["step"] for record in read_metrics(row.run) if record["split"] == "valid"] == [
        1,
        2,
        3,
        4,
        5,
    ]

    files = reproduce_figure([row.run, row.run], folder / "figure1.png", pairs=2, steps=4, num_samples=2)
    assert [file.suffix for file in files] == [".png", ".pdf", ".json"]
    numbers = read_json(files[2])["realnvp-2-seed0"]
    assert len(numbers) == 2
    assert all(strip["largest_step"] >= 1 and strip["mean_nll"] > 0 for strip in numbers)


def test_a_signal_stops_the_rows_which_save_themselves(tmp_path, data, request):
    folder = tmp_path / "table"
    row = Row("realnvp-2", VARIANTS["realnvp-2"], 0, folder)
    before = signal.getsignal(signal.SIGTERM)

    def reproduce(epochs: int) -> None:
        reproduce_table(
            folder, Budget(epochs=epochs), variants=VARIANTS, data=data, num_samples=3, num_images=20
        )

    def stop_it() -> None:
        while not read_metrics(row.run):
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=stop_it, daemon=True).start()
    with pytest.raises(KeyboardInterrupt):
        reproduce(epochs=1_000_000)
    assert signal.getsignal(signal.SIGTERM) is before
    assert "stopped at step" in row.log.read_text()
    assert not row.result.exists()
    steps = read_metrics(row.run)[-1]["step"]
    request.getfixturevalue("rows_in_this_process")
    reproduce(epochs=steps + 1)
    assert read_json(row.result)["training_steps"] == steps + 1


@pytest.mark.usefixtures("rows_in_this_process")
def test_a_row_whose_last_validation_was_quicker_than_planned_is_finished(tmp_path, data, monkeypatch):
    monkeypatch.setattr(Row, "state", lambda row: (0.9, None))
    folder = tmp_path / "table"
    reproduce_table(folder, Budget(epochs=1), variants=VARIANTS, data=data, num_samples=3, num_images=20)


@pytest.mark.usefixtures("rows_in_this_process")
def test_a_longer_training_is_not_taken_for_a_shorter_one(tmp_path, data):
    folder, request = tmp_path / "table", {"variants": VARIANTS, "num_samples": 3, "num_images": 20}
    reproduce_table(folder, Budget(epochs=2), data=data, **request)
    before = contents(folder)
    for budget in (Budget(epochs=1), Budget(minutes=1e-6)):
        with pytest.raises(UserError, match="realnvp-2-seed0 has taken 2 steps, more than this budget"):
            reproduce_table(folder, budget, data=data, **request)
    assert contents(folder) == before


@pytest.mark.usefixtures("rows_in_this_process")
def test_a_row_that_fails_is_named_with_its_log(tmp_path):
    log = tmp_path / "table" / "runs" / "vae-seed0.log"
    log.parent.mkdir(parents=True)
    log.write_text(f"{DIVERGED}, in an earlier attempt\n")
    with pytest.raises(UserError, match=r"1 row failed \(.*vae-seed0\.log: .*none\.npz.*\); run the"):
        reproduce_table(
            tmp_path / "table",
            Budget(epochs=1),
            variants={"vae": Variant("vae")},
            data=str(tmp_path / "none.npz"),
        )
    assert "none.npz" in log.read_text()
    assert not (tmp_path / "table" / "vae-seed0.json").exists()


@pytest.mark.usefixtures("rows_in_this_process")
def test_rows_of_other_data_are_not_taken_for_these(tmp_path, data):
    folder, request = tmp_path / "table", {"variants": VARIANTS, "num_samples": 2, "num_images": 10}
    reproduce_table(folder, Budget(epochs=1), data=data, **request)
    result = (folder / "realnvp-2-seed0.json").read_text()
    assert read_json(folder / "realnvp-2-seed0.json")["asked"]["data"] == "tiny.npz"
    other = tmp_path / "other.npz"
    other.write_bytes(Path(data).read_bytes())
    with pytest.raises(UserError, match=r"1 row failed .*was started with data"):
        reproduce_table(folder, Budget(epochs=2), data=str(other), **request)
    assert "was started with data" in (folder / "runs" / "realnvp-2-seed0.log").read_text()
    assert (folder / "realnvp-2-seed0.json").read_text() == result


@pytest.mark.usefixtures("rows_in_this_process")
def test_every_seed_is_a_row_and_the_curves_are_those_of_the_first(tmp_path, data, monkeypatch):
    drawn: list[str] = []
    monkeypatch.setattr(figures, "save_curves", lambda curves, path, over: drawn.extend([*curves, over]))
    reproduce_table(
        tmp_path, Budget(epochs=1), variants=VARIANTS, seeds=2, data=data, num_samples=2, num_images=10
    )
    rows = read_json(tmp_path / "table.json")
    assert [(row["name"], row["training_seed"]) for row in rows] == [
        ("realnvp-2-seed0", 0),
        ("realnvp-2-seed1", 1),
    ]
    assert rows[0]["negative_elbo"] != rows[1]["negative_elbo"]
    assert drawn == ["realnvp-2-seed0", "epochs"]


@pytest.mark.parametrize("wrong", [{"seeds": 0}, {"workers": 0}, {"budget": Budget(minutes=-1.0)}])
def test_impossible_wishes_are_refused_before_anything_is_written(tmp_path, wrong):
    with pytest.raises(UserError):
        reproduce_table(tmp_path / "table", **{"budget": Budget(epochs=1), **wrong})
    assert not (tmp_path / "table").exists()


@pytest.mark.usefixtures("rows_in_this_process")
def test_options_of_a_row_are_those_of_its_run_and_a_row_may_diverge(tmp_path, data):
    folder = tmp_path / "table"
    variants = {
        "unbounded": Variant("realnvp-2", "--no-bounded --hidden 8"),
        "wild": Variant("vae", "--learning-rate 1e18 --learning-rate-warm-up 0 --kl-warm-up 0"),
    }
    reproduce_table(
        folder, Budget(epochs=30), variants=variants, data=data, num_samples=2, num_images=10, workers=2
    )
    config = read_json(folder / "runs" / "unbounded-seed0" / "config.json")
    assert (config["model"]["bounded"], config["model"]["hidden"]) == (False, 8)
    assert read_json(folder / "unbounded-seed0.json")["asked"]["options"] == "--no-bounded --hidden 8"
    assert read_json(folder / "wild-seed0.json")["diverged"] is True
    table = (folder / "table.md").read_text()
    assert "wild-seed0 (diverged)" in table
    assert "unbounded-seed0" in table


@pytest.mark.parametrize("table", TABLES)
def test_rows_of_all_tables_are_configurations(table):
    for variant in TABLES[table].values():
        with pytest.raises(UserError, match="steps is -1"):
            train([variant.preset, *variant.options.split(), "--steps", "-1"])


def test_a_row_that_no_table_has_is_refused(tmp_path):
    result = flowvae("reproduce", "ablations", "--rows", "no-weight-nrom", "--out", tmp_path / "out")
    is_refusal(result, "ablations has no row 'no-weight-nrom'", "no-weight-norm")
    assert not (tmp_path / "out").exists()


VALUES = "rows vae|data no.npz|minutes 1|epochs 1|seeds 2|workers 2|samples 5|images 5|annealed 5|drawn 5"
VALUES += "|compared a b|labels 5|draws 2|first runs/vae|distributions 5"
OPTIONS = {name: values for name, *values in map(str.split, VALUES.split("|"))}


@pytest.mark.parametrize("what", ["table1", *TAKEN])
def test_options_that_a_study_would_ignore_are_refused(what, tmp_path):
    ignored = [name for name in OPTIONS if name not in TAKEN.get(what, TAKEN_BY_TABLES)]
    words = [word for name in ignored for word in (f"--{name}", *OPTIONS[name])]
    result = flowvae("reproduce", what, *words, "--out", tmp_path / "out")
    is_refusal(result, f"remove {', '.join(f'--{name}' for name in ignored)}\n")
    assert not (tmp_path / "out").exists()


def test_a_mistaken_name_is_said_before_its_options(tmp_path):
    result = flowvae("reproduce", "few-label", "--labels", 5, "--out", tmp_path / "out")
    is_refusal(result, "no table or file 'few-label'", "few-labels")


def test_every_option_of_a_study_is_known_to_some():
    options = {name for name in signature(reproduce).parameters if name not in ("what", "out")}
    assert options == {*TAKEN_BY_TABLES}.union(*TAKEN.values()) == {*OPTIONS}


def test_rows_that_differ_by_the_number_of_images_only_make_a_curve():
    def row(options: str, **scores: float) -> dict[str, Any]:
        return {"asked": {"preset": "vae", "options": options}, **scores}

    rows = [
        row("--training-images 100", nll=95.0),
        row("--latent 4 --training-images 100 --patience 0", nll=96.0),
        row("--training-images 1000", nll=90.0),
        row("--training-images 2000", diverged=True),
        row("--latent 4", nll=80.0),
    ]
    assert _over_images(rows) == {"vae": {100: 95.0, 1000: 90.0}, "vae --latent 4 --patience 0": {100: 96.0}}
