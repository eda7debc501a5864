"""`flowvae demo`: two small models, trained, evaluated and compared."""

from pathlib import Path

from flowvae import figures, runs
from flowvae.commands.evaluating import evaluate_run
from flowvae.commands.picturing import picture_interpolations, picture_reconstructions, picture_samples
from flowvae.errors import UserError
from flowvae.models.registry import preset
from flowvae.runs.table import collect, markdown, write_table
from flowvae.training import train


def run_demo(minutes: float, out: Path) -> None:
    """Train ``vae`` and ``realnvp-2``, evaluate them, and write their table and pictures into ``out``."""
    if out.exists():
        raise UserError(f"{out} already exists; choose another --out, or remove it")
    trained = [out / name for name in ("vae", "realnvp-2")]
    for run in trained:
        if not train(run, preset(run.name).revised(minutes=minutes)):
            raise KeyboardInterrupt
    for run in trained:
        evaluate_run(run, num_samples=100, num_images=1000)
        picture_samples(run, 100, 0)
        picture_reconstructions(run, 50, 0)
    picture_interpolations(trained, 8, 10, 0, out / "interpolations.png")
    figures.save_curves({run.name: runs.read_metrics(run) for run in trained}, out / "curves.png")
    rows = collect(trained)
    for name in ("table.md", "table.json"):
        write_table(rows, out / name)
    print(markdown(rows), end="")
    for path in sorted(out.rglob("*.png")) + sorted(out.glob("table.*")):
        print(path)
