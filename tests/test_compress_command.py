"""flowvae compress and decompress, end to end."""

import json
import os
import shutil
import subprocess
import sys
import zlib
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from command_line import NUM_TEST, flowvae, is_refusal, succeeds
from PIL import Image

from flowvae.commands import compressing
from flowvae.compression import container
from flowvae.compression.container import CHECKSUM, LENGTH, MAGIC, Block, checksum, packed, read, unpacked
from flowvae.errors import UserError

pytest.importorskip("constriction")


def restored(path: Path) -> np.ndarray:
    with np.load(path) as arrays:
        return arrays["images"]


def images_of(run: Path, data: str) -> np.ndarray:
    """What the model of the run sees of the test images."""
    from flowvae.data.named import named_images
    from flowvae.runs import Run

    opened = Run(run)
    return named_images([data], opened.spec, opened.config.data).images.numpy()


@pytest.mark.parametrize("run", ["flow", "plain"])
def test_images_return_bit_by_bit(workspace, run):
    said = succeeds("compress", run, "images.npz", "--out", "images.flowvae")
    assert said.startswith(f"images.flowvae: {NUM_TEST} images in ")
    assert "bits/dim" in said
    assert str(Path("images.flowvae").stat().st_size) in said.replace(",", "")
    assert succeeds("decompress", "images.flowvae", "--out", "back.npz") == "back.npz\n"
    assert np.array_equal(restored(Path("back.npz")), images_of(Path(run), "images.npz"))
    assert succeeds("decompress", "images.flowvae") == "images.flowvae-restored\n"
    image = np.asarray(Image.open("images.flowvae-restored/test/3.png")) / 255
    assert np.array_equal(image, restored(Path("back.npz"))[3, 0])
    assert sorted(path.name for path in Path().glob("*unfinished*")) == []


def test_another_process_with_other_threads_and_a_copy_of_the_run(workspace):
    succeeds("compress", "flow", "images.npz", "--out", "images.flowvae")
    shutil.copytree("flow", "elsewhere/moved")
    shutil.rmtree("flow")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "3"}
    words = ["decompress", "images.flowvae", "--out", "back.npz", "--run", "elsewhere/moved"]
    subprocess.run([sys.executable, "-m", "flowvae", *words], env=environment, check=True)
    assert np.array_equal(restored(Path("back.npz")), images_of(Path("elsewhere/moved"), "images.npz"))


def test_all_images_of_a_file_without_splits_return(workspace):
    pixels = np.random.default_rng(1).integers(0, 2, (15, 8, 8), dtype=np.uint8)
    np.save("mine.npy", pixels)
    assert succeeds("compress", "plain", "mine.npy", "--out", "all.flowvae").startswith(
        "all.flowvae: 15 images"
    )
    succeeds("decompress", "all.flowvae", "--out", "back.npz")
    assert np.array_equal(restored(Path("back.npz"))[:, 0], pixels)
    succeeds("decompress", "all.flowvae", "--out", "back")
    assert sorted(path.name for path in Path("back").iterdir()) == sorted(
        f"{place}.png" for place in range(15)
    )
    assert read(Path("all.flowvae"))[0].names == ""


def test_image_files_keep_their_names(workspace):
    Path("drawn").mkdir()
    for name in ("b.png", "a.png"):
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(f"drawn/{name}")
    succeeds("compress", "plain", "drawn", "--out", "two.flowvae")
    succeeds("decompress", "two.flowvae", "--out", "back")
    assert sorted(path.name for path in Path("back").iterdir()) == ["a.png", "b.png"]
    assert np.array_equal(np.asarray(Image.open("back/a.png")), np.eye(8, dtype=np.uint8) * 255)


def test_the_wrong_run_is_refused_by_name(workspace):
    succeeds("compress", "flow", "images.npz", "--out", "images.flowvae")
    is_refusal(
        flowvae("decompress", "images.flowvae", "--out", "back", "--run", "plain"),
        "images.flowvae was compressed with flow",
        "plain has other weights",
    )
    shutil.rmtree("flow")
    is_refusal(flowvae("decompress", "images.flowvae", "--out", "back"), "the run flow", "--run")
    assert not Path("back").exists()


def test_damaged_files_are_refused(workspace):
    succeeds("compress", "plain", "images.npz", "--out", "images.flowvae")
    content = Path("images.flowvae").read_bytes()
    for place in (40, len(content) // 2, len(content) - 1):
        changed = bytearray(content)
        changed[place] ^= 1
        Path("damaged").write_bytes(changed)
        is_refusal(flowvae("decompress", "damaged", "--out", "back"), "damaged is damaged or cut off")
    for size in (35, len(content) // 2, len(content) - 1):
        Path("cut").write_bytes(content[:size])
        is_refusal(flowvae("decompress", "cut", "--out", "back"), "cut is damaged or cut off")
    start = MAGIC + (4).to_bytes(LENGTH, "little") + b"none"
    Path("made").write_bytes(start + bytes.fromhex(checksum(start)))
    is_refusal(flowvae("decompress", "made", "--out", "back"), "made is damaged")
    Path("other").write_bytes(b"PNG")
    is_refusal(flowvae("decompress", "other", "--out", "back"), "other has no compressed images")
    assert not Path("back").exists()


@pytest.mark.parametrize(
    "changes",
    [
        {"samples": "3"},
        {"samples": 10**9},
        {"levels": 1},
        {"images": True},
        {"run": None},
        {"names": [1] * NUM_TEST},
        {"names": ["a"]},
        {"shape": [1, 8]},
        {"names": ["a\0", *map(str, range(NUM_TEST - 1))]},
        {"blocks": [[NUM_TEST, -1, 0, "", ""]]},
    ],
)
def test_headers_that_no_one_wrote_are_refused(workspace, changes):
    succeeds("compress", "plain", "images.npz", "--out", "images.flowvae")
    content = Path("images.flowvae").read_bytes()
    begin = len(MAGIC) + LENGTH
    end = begin + int.from_bytes(content[len(MAGIC) : begin], "little")
    text = zlib.compress(json.dumps({**json.loads(zlib.decompress(content[begin:end])), **changes}).encode())
    start = MAGIC + len(text).to_bytes(LENGTH, "little") + text
    Path("made").write_bytes(start + bytes.fromhex(checksum(start)) + content[end + CHECKSUM :])
    is_refusal(flowvae("decompress", "made", "--out", "back"))
    assert not Path("back").exists()


def test_headers_have_a_limit_within_which_what_is_written_can_be_read(workspace, monkeypatch):
    Path("drawn").mkdir()
    for number in range(9):
        Image.fromarray(np.eye(8, dtype=np.uint8) * 255).save(f"drawn/{number}{'n' * 200}.png")
    succeeds("compress", "plain", "drawn", "--out", "nine.flowvae")
    with monkeypatch.context() as patch:
        patch.setattr(container, "LONGEST_HEADER", 1500)
        patch.setattr(json, "loads", lambda text: pytest.fail("it was parsed"))
        is_refusal(
            flowvae("decompress", "nine.flowvae", "--out", "back"), "nine.flowvae has a header of more"
        )
    header, blocks = read(Path("nine.flowvae"))
    longest = len(json.dumps(asdict(header)))
    room = container.LONGEST_HEADER - container.LONGEST_NAMES
    for names, fits in ((longest + 100, True), (longest // 2, False)):
        monkeypatch.setattr(container, "LONGEST_NAMES", names)
        monkeypatch.setattr(container, "LONGEST_HEADER", names + room)
        if fits:
            assert unpacked(Path(), packed(header, blocks))[0] == header
        else:
            monkeypatch.setattr(compressing.Coding, "probe", lambda self: "0")
            monkeypatch.setattr(compressing.Coding, "compress", lambda *_: pytest.fail("it was compressed"))
            said = flowvae("compress", "plain", "drawn", "--out", "again.flowvae")
            is_refusal(said, "the names of 9 images take more than", "in several parts")
    assert not Path("again.flowvae").exists()


def test_words_that_end_in_zero_are_refused(workspace):
    succeeds("compress", "plain", "images.npz", "--out", "images.flowvae")
    header, (block,) = read(Path("images.flowvae"))
    words = np.append(block.words, np.uint32(0))
    Path("made").write_bytes(packed(header, [replace(block, words=words)]))
    is_refusal(flowvae("decompress", "made", "--out", "back"), "made is damaged")


def test_a_coder_that_finds_no_probability_is_refused(workspace, monkeypatch):
    succeeds("compress", "plain", "images.npz", "--out", "images.flowvae")

    def fail(*arguments: object) -> None:
        raise KeyError("Tried to encode symbol that has zero probability under the used entropy model.")

    monkeypatch.setattr(compressing.Coding, "decompress", fail)
    is_refusal(flowvae("decompress", "images.flowvae", "--out", "back"), "gives other images")


def test_paths_that_are_no_files(workspace):
    is_refusal(flowvae("decompress", "."), "Is a directory")
    is_refusal(flowvae("compress", "plain", "images.npz", "--out", "."), ". is not a file")
    os.mkfifo("pipe")
    is_refusal(flowvae("compress", "plain", "images.npz", "--out", "pipe"), "pipe is not a file")


def test_a_machine_that_computes_other_numbers_is_refused(workspace, monkeypatch):
    succeeds("compress", "plain", "images.npz", "--out", "images.flowvae")
    monkeypatch.setattr(compressing.Coding, "probe", lambda self: "0")
    is_refusal(
        flowvae("decompress", "images.flowvae", "--out", "back"),
        f"was compressed by PyTorch {torch.__version__}",
        "computes other probabilities",
    )


def test_a_stopped_command_continues_after_the_last_block(workspace, monkeypatch):
    monkeypatch.setattr(compressing, "LARGEST_BLOCK", 8)
    succeeds("compress", "plain", "images.npz", "--out", "whole")
    compressed = compressing.Coding.compress
    done: list[int] = []

    def stops(self, images, report):
        if len(done) == 2:
            raise KeyboardInterrupt
        done.append(len(images))
        return compressed(self, images, report)

    with monkeypatch.context() as patch:
        patch.setattr(compressing.Coding, "probe", lambda self: "0")
        patch.setattr(compressing.Coding, "compress", stops)
        assert flowvae("compress", "plain", "images.npz", "--out", "stopped").code == 130
        assert not Path("stopped").exists()
        (unfinished,) = Path().glob("stopped.*.unfinished")
        with pytest.raises(UserError, match="is unfinished"):
            read(unfinished)
        done.append(0)
        succeeds("compress", "plain", "images.npz", "--out", "stopped")
    header, blocks = read(Path("stopped"))
    assert [block.images for block in blocks] == [8, 8, 8, 6]
    assert [list(block.words) for block in blocks] == [list(block.words) for block in read(Path("whole"))[1]]
    assert not unfinished.exists()
    assert packed(header, blocks) == Path("stopped").read_bytes()
    assert isinstance(blocks[0], Block)


def test_several_samples(workspace):
    succeeds("compress", "flow", "images.npz", "--samples", 3, "--out", "images.flowvae")
    succeeds("decompress", "images.flowvae", "--out", "back.npz")
    assert np.array_equal(restored(Path("back.npz")), images_of(Path("flow"), "images.npz"))


def test_mistakes(workspace):
    is_refusal(flowvae("compress", "plain", "images.npz", "--samples", 0), "samples is 0")
    is_refusal(flowvae("compress", "plain", "images.npz", "--out", "no/such"), "no/such: No such file")
    is_refusal(flowvae("compress", "plain", "larger.npz", "--out", "a"), "the images of larger.npz")
    succeeds("compress", "plain", "images.npz", "--out", "a")
    is_refusal(flowvae("decompress", "a", "--out", "a.gif"), "'.gif'")
    succeeds(
        "train", "gan-mnist", "--data", "images.npz", "--binarization", "static", "--steps", 2, "--out", "gan"
    )
    is_refusal(flowvae("compress", "gan", "images.npz", "--out", "a"), "has no way to compress images")


def test_images_are_not_restored_over_others(workspace):
    """Binary pixels are a part only of the pictures that they were made of."""
    folder = workspace / "photos"
    folder.mkdir()
    Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(folder / "a.png")
    before = (folder / "a.png").read_bytes()
    succeeds("compress", "plain", "photos", "--out", "photos.flowvae")
    is_refusal(flowvae("decompress", "photos.flowvae", "--out", "photos"), "photos/a.png is there already")
    assert (folder / "a.png").read_bytes() == before
    is_refusal(flowvae("decompress", "photos.flowvae", "--out", "photos.flowvae/in"), "Not a directory")
    succeeds("decompress", "photos.flowvae")
    is_refusal(flowvae("decompress", "photos.flowvae"), "photos.flowvae-restored/a.png is there already")
    (workspace / "photos.npz").write_bytes(before)
    is_refusal(flowvae("decompress", "photos.flowvae", "--out", "photos.npz"), "photos.npz is there already")
    assert (workspace / "photos.npz").read_bytes() == before
