"""`flowvae export`: a run in the form of other programs."""

from pathlib import Path

from flowvae.hub import save_pretrained
from flowvae.onnx import export_onnx
from flowvae.runs import Run


def export_run(path: Path, format: str, out: Path | None = None) -> list[Path]:
    """Write the run's model into ``out``, as ONNX graphs ("onnx") or for the Hugging Face hub ("hub")."""
    run = Run(path)
    out = out or run.place_for(format)
    if format == "hub":
        return save_pretrained(path, out)
    return export_onnx(run.model, run.spec.shape, out)
