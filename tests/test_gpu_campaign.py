"""What is tried on an accelerator works on a CPU as well, and says so where there is no accelerator."""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1]))  # campaigns/ is not part of the package

from campaigns import gpu
from flowvae import devices


def test_everything_can_be_tried():
    found = gpu.tried(
        torch.device("cpu"), 6, ["gan-mnist"], ["realnvp-5"], [], ["planar", "maps-chain"], images=1
    )
    assert [row["precision"] for row in found["training"]] == ["float32", "bfloat16"]
    for row in found["laws"]:
        bound = 1e-4 if row["dtype"] == "float32" else 1e-12
        assert 0 <= row["value"] < bound
        assert 0 < row["determinant"] < bound
    assert "inverse" not in found["laws"][0]
    assert found["laws"][2]["inverse"] < 1e-4
    assert found["resuming"][0]["difference"] == 0
    assert found["resuming"][0]["tensors"] > 50
    assert found["likelihood"]["largest_difference"] == 0
    text = gpu.table({"device": "a CPU", "torch": torch.__version__, **found})
    assert "| `realnvp-5` | 0.0e+00 |" in text
    assert "| `gan-mnist` | bfloat16 |" in text


def test_without_an_accelerator_nothing_is_tried(monkeypatch, capsys):
    monkeypatch.setattr(devices, "device", lambda: torch.device("cpu"))
    assert gpu.run() is None
    assert capsys.readouterr().out == "PyTorch finds no accelerator here, so nothing was tried\n"
