"""results/benchmarks.json, and the tables that docs/performance.md shows of it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from benchmarks import machine
from flowvae.runs import write_json

RESULTS = machine.REPOSITORY / "results" / "benchmarks.json"
PAGE = machine.REPOSITORY / "docs" / "performance.md"
BEGIN, END = "<!-- benchmarks: begin -->", "<!-- benchmarks: end -->"

# Each headline: what it says, how it is shown, what it should reach, and the part that measures it.
HEADLINES = {
    "planar_speedup": ("planar posterior: time of the fastest peer over ours", "{:.1f}", "≥ 5", "planar"),
    "coupling_speedup": (
        "Real NVP posterior: time of the fastest peer over ours",
        "{:.1f}",
        "≥ 3",
        "coupling",
    ),
    "coupling_over_matmul": (
        "Real NVP posterior: our time over that of its matrix products alone",
        "{:.1f}",
        "≤ 3",
        "coupling",
    ),
    "training_share_of_matmul": (
        "training step: share of the machine's matrix-product rate",
        "{:.0%}",
        "≥ 65%",
        "training",
    ),
    "likelihood_share_of_matmul": (
        "likelihood estimate: share of the machine's matrix-product rate",
        "{:.0%}",
        "≥ 70%",
        "likelihood",
    ),
    "mask_over_step": (
        "training step with missing pixels: its time over that without",
        "{:.2f}",
        "≤ 1.1",
        "missing",
    ),
    "imputation_share_over_likelihood": (
        "imputation: share of the matrix-product rate over that of the likelihood estimate",
        "{:.2f}",
        "≥ 1",
        "missing",
    ),
    "processes_training_speedup": (
        "training, B = 1,024: images/s of two processes over those of one, one thread each",
        "{:.2f}",
        "≥ 1.8",
        "processes",
    ),
    "processes_scoring_speedup": (
        "`evaluate`: images/s of two processes over those of one, one thread each",
        "{:.2f}",
        "≥ 1.8",
        "processes",
    ),
    "quality_lead_nats": (
        "test -ELBO after ten minutes: pythae's best with our networks minus our best, nats",
        "{:.2f}",
        "≥ 1.5",
        "quality",
    ),
    "help_seconds": ("`flowvae --help`, seconds", "{:.2f}", "< 1", "startup"),
}


def store(part: str, headlines: dict[str, float], details: dict[str, Any], path: Path = RESULTS) -> None:
    """Put a part's numbers in the place of those of its last run, and leave the others as they are."""
    results = read(path)
    everything = {**results.pop("details", {}), part: {"machine": machine.describe(), **details}}
    results = {**results, **headlines}
    ordered = {name: results[name] for name in HEADLINES if name in results}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, {**ordered, "details": everything})


def read(path: Path = RESULTS) -> dict[str, Any]:
    return json.loads(path.read_text()) if path.exists() else {}


def update_page(results: dict[str, Any], page: Path = PAGE) -> None:
    """Write the tables anew between the two markers of the page."""
    before, rest = page.read_text().split(BEGIN)
    _, after = rest.split(END)
    page.write_text(f"{before}{BEGIN}\n\n{tables(results)}\n{END}{after}")


def tables(results: dict[str, Any]) -> str:
    """Everything that was measured, as Markdown."""
    details = results.get("details", {})
    parts = [_headlines(results)]
    parts += [show(details[part]) for part, show in SECTIONS.items() if part in details]
    return "\n".join(parts)


def _table(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Markdown whose columns but the first are numbers."""
    head = "| " + " | ".join(titles) + " |\n|---" + "|---:" * (len(titles) - 1) + "|\n"
    return head + "".join("| " + " | ".join(row) + " |\n" for row in rows)


def _headlines(results: dict[str, Any]) -> str:
    rows = []
    for name, (what, form, goal, part) in HEADLINES.items():
        if name in results:
            date = results["details"][part]["machine"]["date"]
            rows.append([f"{what} (`{name}`)", form.format(results[name]), goal, date])
    return _table(["what", "measured", "goal", "on"], rows)


def _on(details: dict[str, Any]) -> str:
    on = details["machine"]
    return f"{on['processor']}, {on['threads']} threads, PyTorch {on['torch']}, {on['date']}"


def _planar(details: dict[str, Any]) -> str:
    sizes = f"D = {details['dimension']}, K = {details['transformations']}, B = {details['images']}, S = 1"
    text = [f"### Planar posterior\n\nMilliseconds, forward and backward, {sizes}. {_on(details)}.\n"]
    cases = {f"parameters from {name}": case for name, case in details["amortized"].items()}
    cases["parameters shared by all images"] = details["shared"]
    rows = [
        [name, case_name, f"{value:.2f}"]
        for case_name, case in cases.items()
        for name, value in case["milliseconds"].items()
    ]
    text.append(_table(["", "case", "ms"], rows))
    errors = [
        [name, f"{error['values']:.1e}", f"{error['gradients']:.1e}"]
        for name, error in details["relative_error"].items()
    ]
    text.append("Largest relative error in float32, against the textbook's loop in float64:\n")
    text.append(_table(["", "values", "gradients"], errors))
    ratios = [
        f"{many['samples']} samples of {name} take {many['ratio']:.1f} times as long as one"
        for name, many in details["many_samples"].items()
    ]
    text.append("; ".join(ratios) + ".\n")
    return "\n".join(text)


def _coupling(details: dict[str, Any]) -> str:
    sizes = f"D = {details['dimension']}, hidden {details['hidden']}, B = {details['images']}, S = 1"
    cases = details["cases"]
    names = list(dict.fromkeys(name for case in cases.values() for name in case["milliseconds"]))
    rows = [
        [name, *(_number(case["milliseconds"].get(name), "{:.2f}") for case in cases.values())]
        for name in names
    ]
    rows.append(["fastest peer over ours", *(f"{case['speedup']:.2f}" for case in cases.values())])
    rows.append(["ours over the products alone", *(f"{case['over_matmul']:.2f}" for case in cases.values())])
    return (
        f"### Real NVP posterior\n\nMilliseconds, forward and backward, {sizes}. {_on(details)}.\n\n"
        + _table(["", *cases], rows)
    )


def _training(details: dict[str, Any]) -> str:
    text = [f"### Training step\n\n{_on(details)}.\n"]
    rows, phases = [], []
    for name, preset in details["presets"].items():
        name = f"{name} in {preset['precision']}"
        for kind in ("eager", "compiled", "loop"):
            if measured := preset.get(kind):
                rate, share = measured["images_per_second"], measured["share_of_matmul"]
                label = {"eager": "step", "compiled": "step, compiled", "loop": "whole loop"}[kind]
                gflops = f"{preset['matmul_gflops']:.0f}"
                rows.append([f"{name}, {label}", f"{rate:.0f}", f"{share:.0%}", gflops])
        phases.append([name, *(f"{phase['share']:.1%}" for phase in preset["eager"]["phases"].values())])
        titles = ["share of a step", *preset["eager"]["phases"]]
    text.append(_table(["", "images/s", "share of the matrix-product rate", "that rate, GFLOP/s"], rows))
    text.append(_table(titles, phases))
    return "\n".join(text)


def _likelihood(details: dict[str, Any]) -> str:
    rows = [[name, f"{rate:.0f}"] for name, rate in details["samples_per_second"].items()]
    growth = [
        [str(row["samples"]), f"{row['seconds']:.2f}", f"{row['peak_megabytes']:.0f}"]
        for row in details["growth"]
    ]
    return "\n".join(
        [
            f"### Likelihood estimate\n\nS = {details['samples']}. {_on(details)}.\n",
            _table(["", "importance samples/s"], rows),
            f"{details['images']} images, each line in a process of its own:\n",
            _table(["S", "seconds", "peak memory, MB"], growth),
        ]
    )


def _missing(details: dict[str, Any]) -> str:
    rows = [
        [name, f"{rate:.0f}", f"{details['share_of_matmul'][name]:.0%}", f"{minutes:.1f}"]
        for (name, rate), minutes in zip(
            details["samples_per_second"].items(), details["minutes_for_1000_images"].values(), strict=True
        )
    ]
    steps = "; ".join(f"{kind} {value:.1f} ms" for kind, value in details["step_milliseconds"].items())
    return "\n".join(
        [
            f"### Missing pixels\n\n{float(details['mask']):.0%} of the pixels are missing; S = "
            f"{details['samples']}, {details['completions']} completions. {_on(details)}.\n",
            _table(
                ["", "samples/s", "share of the matrix-product rate", "minutes for 1,000 images"],
                rows,
            ),
            f"A training step, B = {details['batch_size']}, of the preset `vae`: {steps}.\n",
        ]
    )


def _processes(details: dict[str, Any]) -> str:
    rows = [
        [what, *(f"{rate:.0f}" for rate in row["images_per_second"]), f"{row['speedup']:.2f}",
         _number(row.get("predicted"), "{:.2f}")]
        for name, preset in details["presets"].items()
        for what, row in [
            *((f"{name}, training, B = {row['batch']}", row) for row in preset["training"]),
            (f"{name}, `evaluate`", preset["scoring"]),
        ]
    ]  # fmt: skip
    parts = [
        f"{name} {preset['fixed_milliseconds']:.1f} ms + B {preset['image_milliseconds']:.2f} ms, and "
        f"{preset['exchange_milliseconds']:.1f} ms for the exchange of "
        f"{preset['gradient_bytes'] / 1e6:.1f} MB"
        for name, preset in details["presets"].items()
    ]
    batches = list(details["clusters"][0]["speedups"])
    predictions = [
        [row["machines"], *(f"{row['speedups'][batch]:.1f}" for batch in batches)]
        for row in details["clusters"]
    ]
    operations = details["operations"]
    return "\n".join(
        [
            f"### Several processes\n\nOne thread for each process. {_on(details)}.\n",
            _table(["", "images/s, one", "two", "ratio", "model"], rows),
            "The most that two processes could gain on this machine: two independent trainings at the same "
            "time have "
            + "; ".join(
                f"{preset['independent_speedup']:.2f} times the images/s of one ({name}, the largest B)"
                for name, preset in details["presets"].items()
            )
            + ".\n",
            f"Seconds of a step by the [model](scaling.md#a-model-of-the-cost): {'; '.join(parts)}.\n",
            f"What it says of machines that were not measured, from assumed speeds and what was counted of "
            f"`vae` ({operations['calls']} calls a step, {operations['flops'] / 1e9:.2f} GFLOP an image): "
            "images/s over those of one GPU with the same B:\n",
            _table(["not measured", *(f"B = {int(batch):,}" for batch in batches)], predictions),
        ]
    )


def _operators(details: dict[str, Any]) -> str:
    lines = [
        f"- {name}: " + ", ".join(f"`{operator}` {share:.0%}" for operator, share in shares.items()) + "\n"
        for name, shares in details["shares"].items()
    ]
    return (
        "### Where the time goes\n\nShares of PyTorch's operators, each without what it calls. "
        f"{_on(details)}.\n\n" + "".join(lines)
    )


def _quality(details: dict[str, Any]) -> str:
    rows = [
        [
            f"{row['model']}, {row['system']}",
            "diverged" if "diverged_after_steps" in row else f"{row['negative_elbo']:.2f}",
            _number(row.get("standard_error"), "{:.2f}"),
            _number(row.get("reconstruction"), "{:.2f}"),
            _number(row.get("kl"), "{:.2f}"),
            _number(row.get("images_per_second"), "{:.0f}"),
            _number(row.get("invertible_share"), "{:.0%}"),
        ]
        for row in details["rows"].values()
    ]
    first = next(iter(details["rows"].values()))
    titles = ["", "-ELBO", "±", "-log p(x\\|z)", "KL", "images/s", "invertible"]
    return (
        f"### Quality per minute\n\n{first['minutes']:g} minutes each on static MNIST; nats on "
        f"{first['test_images']} test images, {first['samples']} samples each. {_on(first)}.\n\n"
        + _table(titles, rows)
    )


def _growth(details: dict[str, Any]) -> str:
    rows = [
        [varied, *(f"{curve['slope']:.2f}" for curve in families.values())]
        for varied, families in details["curves"].items()
    ]
    families = next(iter(details["curves"].values()))
    return (
        "### Growth\n\nSlope of log time over log size between the three largest sizes: 1 is linear. "
        f"{_on(details)}.\n\n" + _table(["", *families], rows)
    )


def _startup(details: dict[str, Any]) -> str:
    imports = details["import_seconds"]
    return (
        f"### Start and memory\n\n`import flowvae` takes {imports['beyond_torch']:.3f} s beyond torch's own "
        f"{imports['torch']:.2f} s, everything that it names {imports['all_names']:.2f} s. A default "
        f"training run uses {details['training_peak_megabytes']:.0f} MB at most. {_on(details)}.\n"
    )


def _number(value: float | None, form: str) -> str:
    return "" if value is None else form.format(value)


SECTIONS: dict[str, Callable[[dict[str, Any]], str]] = {
    "planar": _planar,
    "coupling": _coupling,
    "training": _training,
    "likelihood": _likelihood,
    "missing": _missing,
    "processes": _processes,
    "operators": _operators,
    "quality": _quality,
    "growth": _growth,
    "startup": _startup,
}
