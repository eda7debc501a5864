"""Models in the hub's conventions, on local folders and with a hub that is none."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from command_line import contents, is_refusal, succeeds
from command_line import flowvae as command
from huggingface_hub import HfApi, ModelCard
from made_runs import message

import flowvae
from flowvae import hub
from flowvae.batch import DataSpec
from flowvae.errors import UserError
from flowvae.runs import Run, load, read_json, write_json
from flowvae.runs.folder import save_model


def test_a_saved_model_comes_back_from_its_folder(workspace):
    hub.save_pretrained("flow", "saved")
    model, again = load("flow"), flowvae.from_pretrained("saved")
    assert not again.training
    for name, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    assert set(contents(Path("saved"))) == {
        "README.md",
        "config.json",
        "evaluation.json",
        "model.safetensors",
    }
    # The folder is a run like any other.
    assert "flow" in succeeds("table", "saved", "flow")
    assert succeeds("sample", "saved", "--images", 2) == "saved/samples.png: means of p(x|z)\n"


def test_a_saved_model_does_not_tell_where_its_data_lay(workspace):
    values = read_json(Path("flow/config.json"))
    values["training"]["start_from"] = "/home/somebody/run"
    write_json(Path("flow/config.json"), values)
    flowvae.save_pretrained("flow", "saved")
    old, new = Run("flow").config, Run("saved").config
    assert Path(old.data.data).is_absolute()
    assert new.data.data == "images.npz"
    assert new.training.start_from is None
    assert str(workspace.parent) not in Path("saved/README.md").read_text()


def test_a_saved_model_does_not_tell_where_the_run_of_its_first_stage_lay(tmp_path):
    of_codes = {"inputs": "codes", "first_latent": 4, "features": 8, "channels": 4}
    config = flowvae.preset("semi-supervised").revised(
        **of_codes, first="/home/somebody/run", data="images.npz"
    )
    assert config.model is not None
    spec = DataSpec((1, 8, 8), levels=2, training_images=48, classes=2)
    model = flowvae.build_model(config.model, spec)
    save_model(tmp_path / "run", config, spec, model)
    flowvae.save_pretrained(tmp_path / "run", tmp_path / "saved")
    assert "somebody" not in (tmp_path / "saved/config.json").read_text()
    again = flowvae.from_pretrained(tmp_path / "saved").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in model.state_dict().items())


def test_the_card_holds_the_evaluation(workspace):
    flowvae.save_pretrained("flow", "saved")
    evaluation = read_json(Path("flow/evaluation.json"))
    card = ModelCard.load("saved/README.md")
    assert vars(card.data)["library_name"] == "flowvae"
    results = {result.metric_type: result for result in vars(card.data)["eval_results"] or []}
    assert set(results) == {"negative_elbo", "nll", "bits_per_dim"}
    for name, result in results.items():
        assert result.metric_value == pytest.approx(evaluation[name], abs=1e-4)
        assert (result.dataset_type, result.dataset_split) == ("images", "test")
    for name in ("reconstruction", "kl", "negative_elbo", "nll", "nll_standard_error"):
        assert f" {evaluation[name]:.2f} |" in card.text
    assert f"on {evaluation['images']} random images" in card.text
    assert 'from_pretrained("OWNER/flow")' in card.text


def test_a_model_without_scores_says_so(workspace):
    flowvae.save_pretrained("plain", "saved")
    card = ModelCard.load("saved/README.md")
    assert "Not measured yet" in card.text
    assert not vars(card.data).get("eval_results")


def test_saving_again_keeps_the_card_and_renews_the_rest(workspace):
    Path("saved").mkdir()
    Path("saved/README.md").write_text("mine")
    flowvae.save_pretrained("plain", "saved")
    flowvae.save_pretrained("flow", "saved")
    assert Path("saved/README.md").read_text() == "mine"
    assert Path("saved/model.safetensors").read_bytes() == Path("flow/model.safetensors").read_bytes()


def test_saving_leaves_no_scores_of_another_model(workspace):
    flowvae.save_pretrained("flow", "saved")
    Path("saved/README.md").unlink()
    flowvae.save_pretrained("plain", "saved")
    assert not Path("saved/evaluation.json").exists()
    assert "Not measured yet" in ModelCard.load("saved/README.md").text


def test_saving_leaves_a_folder_of_something_else_alone(workspace):
    before = contents(Path("plain"))
    with pytest.raises(UserError) as error:
        flowvae.save_pretrained("flow", "plain")
    message(error, "plain contains", "choose another directory")
    assert contents(Path("plain")) == before


def test_the_command_saves_into_the_run(workspace):
    written = succeeds("export", "flow", "--format", "hub").split()
    assert written == [f"flow/hub/{name}" for name in hub.FILES]
    is_refusal(command("export", "flow", "--format", "hub", "--out", "plain"), "plain contains")
    is_refusal(command("export", "missing", "--format", "hub"), "missing is not a directory")
    is_refusal(command("export", "flow", "--format", "pickle"), "'pickle'", "onnx", "hub")


def test_a_model_that_comes_with_the_package_is_saved_and_pushed_with_its_weights(
    workspace, uploaded, monkeypatch
):
    flowvae.save_pretrained("density-mnist", "saved")
    flowvae.push_to_hub("density-mnist", "me/mine")
    for folder in ("saved", uploaded["folder"]):
        model = flowvae.from_pretrained(folder)
        for name, value in load("density-mnist").state_dict().items():
            assert torch.equal(model.state_dict()[name], value), name


def test_a_damaged_model_is_not_saved(workspace):
    Path("flow/model.safetensors").write_bytes(b"no weights")
    with pytest.raises(UserError, match=r"model\.safetensors is damaged"):
        flowvae.save_pretrained("flow", "saved")
    assert not Path("saved").exists()


# The hub, and one that is none.


@pytest.fixture
def uploaded(monkeypatch, tmp_path) -> dict[str, Any]:
    """What would go to the hub; its folder is kept for a look, and is what the hub gives."""
    seen: dict[str, Any] = {"folder": tmp_path / "on the hub"}

    def create_repo(self, repo_id, **options):
        seen["created"] = repo_id, options

    def upload_folder(self, *, repo_id, folder_path, **options):
        shutil.copytree(folder_path, seen["folder"])
        seen["options"] = options
        return f"address of {repo_id}"

    def snapshot_download(repo_id, **options):
        seen["asked"] = repo_id, options
        return str(seen["folder"])

    monkeypatch.setattr(HfApi, "create_repo", create_repo)
    monkeypatch.setattr(HfApi, "upload_folder", upload_folder)
    monkeypatch.setattr(hub, "snapshot_download", snapshot_download)
    return seen


def test_a_pushed_model_comes_back_from_the_hub(workspace, uploaded):
    assert flowvae.push_to_hub("flow", "me/mine", private=True) == "address of me/mine"
    assert uploaded["created"] == ("me/mine", {"private": True, "exist_ok": True})
    assert {path.name for path in uploaded["folder"].iterdir()} == set(hub.FILES)
    assert json.loads((uploaded["folder"] / "config.json").read_text())["data"]["data"] == "images.npz"
    model = flowvae.from_pretrained("me/mine", revision="main")
    assert uploaded["asked"] == ("me/mine", {"allow_patterns": hub.FILES, "revision": "main"})
    for name, value in load("flow").state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_a_model_that_comes_with_the_package_needs_no_hub():
    assert flowvae.from_pretrained("density-mnist").image_shape == (1, 28, 28)


def test_what_the_hub_cannot_give_is_one_line(tmp_path):
    for name in ("me/mine", "no such folder", "a/b/c"):
        with pytest.raises(UserError) as error:
            flowvae.from_pretrained(name, cache_dir=tmp_path, local_files_only=True)
        message(error, name, "neither a directory nor on the hub")


def test_what_the_hub_does_not_take_is_one_line(workspace, monkeypatch):
    class NoRouteError(Exception):
        """As of the client's own library for HTTP: no OSError."""

    def refuse(self, repo_id, **options):
        raise NoRouteError("no route to the hub\nand so on")

    monkeypatch.setattr(HfApi, "create_repo", refuse)
    with pytest.raises(UserError) as error:
        flowvae.push_to_hub("flow", "me/mine")
    message(error, "me/mine", "no route to the hub")
