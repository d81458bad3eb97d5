"""Networks on the hub: its true cache on the disk, and a stand-in of its service."""

import json
import shutil
from pathlib import Path
from typing import ClassVar

import pytest
import torch
from click.testing import CliRunner

from tests.helpers.small import SHAPE, small_checkpoint, small_config
from tests.helpers.strangers import CODE, left_by_code
from vfn.cli import app
from vfn.configs import override
from vfn.data.values import PLAIN, ranged
from vfn.interop import export_hub, push
from vfn.interop.hub_export import for_others
from vfn.model import DataShape
from vfn.runs import find_checkpoint, write_checkpoint
from vfn.runs.directory import run_of
from vfn.runs.hub import hub_name
from vfn.sampling import load

hub = pytest.importorskip("huggingface_hub")
pytest.importorskip("huggingface_hub.constants")


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out, with nothing beyond it."""
    monkeypatch.setattr(hub.constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)

    def keep(name, folder, revision="main", commit="0" * 40):
        home = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        shutil.copytree(folder, home / "snapshots" / commit)
        (home / "refs").mkdir(exist_ok=True)
        (home / "refs" / revision).write_text(commit)

    return keep


@pytest.fixture
def run(tmp_path):
    write_checkpoint(tmp_path / "model.safetensors", small_checkpoint())
    return tmp_path / "model.safetensors"


def test_a_network_of_the_hub_is_loaded_as_any(run, kept, tmp_path):
    export_hub(run, tmp_path / "folder", licence="mit")
    kept("me/digits", tmp_path / "folder")
    model = load("hf://me/digits", "cpu")
    assert model.digest == load(run, "cpu").digest
    assert model.sample(1, steps=1).images.shape == (1, 1, 8, 8)
    assert find_checkpoint("run:hf://me/digits").step == 3
    result = CliRunner().invoke(
        app, ["sample", "--checkpoint", "hf://me/digits", "--out", str(tmp_path / "drawn"),
              "--num", "2", "--steps", "1", "--device", "cpu"], obj=[],
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert len(list((tmp_path / "drawn" / "images").glob("*.png"))) == 2


def test_revisions(run, kept, tmp_path):
    export_hub(run, tmp_path / "folder")
    kept("me/digits", tmp_path / "folder", "v1", "1" * 40)
    assert load("hf://me/digits@v1", "cpu").step == 3
    with pytest.raises(ValueError, match="hf://me/digits has no model.safetensors for us: it is"):
        load("hf://me/digits")


def test_the_folder_says_what_it_is(run, tmp_path):
    export_hub(run, tmp_path / "folder", licence="cc-by-4.0")
    assert {path.name for path in (tmp_path / "folder").iterdir()} == {
        "config.json", "model.safetensors", "README.md"
    }  # fmt: skip
    told = json.loads((tmp_path / "folder" / "config.json").read_text())
    assert (told["library"], told["step"], told["size"]) == ("vfn", 3, [1, 8, 8])
    assert told["config"]["model"]["hid_channels"] == 32
    text = (tmp_path / "folder" / "README.md").read_text()
    assert text.startswith("---\nlicense: cc-by-4.0\nlibrary_name: vfn\n")


@pytest.mark.parametrize("setting", CODE)
def test_code_is_not_run(kept, tmp_path, monkeypatch, setting):
    monkeypatch.chdir(tmp_path)
    left_by_code(tmp_path)
    checkpoint = small_checkpoint()
    checkpoint = checkpoint._replace(config=override(checkpoint.config, CODE[setting]))
    write_checkpoint(tmp_path / "folder" / "model.safetensors", checkpoint)
    kept("me/odd", tmp_path / "folder")
    with pytest.raises(ValueError, match=f"hf://me/odd, got {setting} .*; if you trust it, downl"):
        load("hf://me/odd", "cpu")
    assert not (tmp_path / "ran").exists()


def test_places_are_for_whoever_opens_it(kept, tmp_path):
    theirs = {"data_dir": "/theirs", "num_workers": 99, "trackers": ("wandb",), "lr": 0.125}
    checkpoint = small_checkpoint()
    checkpoint = checkpoint._replace(config=override(checkpoint.config, theirs))
    write_checkpoint(tmp_path / "folder" / "model.safetensors", checkpoint)
    kept("me/digits", tmp_path / "folder")
    config = load("hf://me/digits", "cpu").config
    assert (config.data, config.train.trackers, config.train.lr) == (
        small_config().data, None, 0.125
    )  # fmt: skip


@pytest.mark.parametrize("kind", ["pictures", "numbers", "condition"])
def test_the_lines_of_the_card_draw(kind, tmp_path):
    settings = {"condition": "downscale:2"} if kind == "condition" else {}
    values = ranged("float32", 0, 1) if kind == "numbers" else PLAIN
    shape = DataShape(1, 8, 8, SHAPE.legend, values=values)
    checkpoint = small_checkpoint(override(small_config(), settings), shape)
    write_checkpoint(tmp_path / "own.safetensors", checkpoint)
    export_hub(tmp_path / "own.safetensors", tmp_path / "folder")
    text = (tmp_path / "folder" / "README.md").read_text()
    lines = text.partition("```python\n")[2].partition("```")[0]
    place = str(tmp_path / "folder" / "model.safetensors")
    drawn = lines.replace("hf://OWNER/NAME", place).replace("model.sample", "drawn = model.sample")
    known = {"CONDITION": "dataset:digits:test"}
    exec(drawn, known)
    assert len(known["drawn"]) == 8


def test_the_hub_is_not_told_where_things_are_here(kept, tmp_path, capfd):
    """Neither by the page nor by the file of the weights."""
    here = {"dataset": "/home/me/data/cats", "data_dir": "/home/me/kept", "num_workers": 7}
    checkpoint = small_checkpoint()
    checkpoint = checkpoint._replace(config=override(checkpoint.config, here))
    write_checkpoint(tmp_path / "own.safetensors", checkpoint)
    export_hub(tmp_path / "own.safetensors", tmp_path / "folder")
    for path in (tmp_path / "folder").iterdir():
        assert b"/home" not in path.read_bytes(), path
        assert b"data/cats" in path.read_bytes(), path
    kept("me/digits", tmp_path / "folder")
    config, data = load("hf://me/digits", "cpu").config, checkpoint.config.data
    assert config == override(
        checkpoint.config, {"dataset": "data/cats", "data_dir": None, "num_workers": None}
    )
    assert data.dataset == "/home/me/data/cats"
    assert "nobody" not in capfd.readouterr().err


@pytest.mark.parametrize("settings", [*CODE.values(), {"guide_with": "/home/me/poor"}])
def test_a_line_tells_what_the_hub_would_refuse(settings, capfd):
    for_others(override(small_config(), settings))
    assert "as hf://owner/name nobody can open what is written: expected" in capfd.readouterr().err


def test_a_file_of_something_else(kept, tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "model.safetensors").write_bytes(b"nothing")
    kept("me/other", tmp_path / "folder")
    with pytest.raises(ValueError, match="is damaged or not a checkpoint"):
        load("hf://me/other", "cpu")


@pytest.mark.parametrize("name", ["hf://me", "hf://a/b/c", "hf://a/b@", "hf:/a b/c"])
def test_names_of_nothing(name):
    with pytest.raises(ValueError, match="expected hf://owner/name or hf://owner/name@revision"):
        load(name)


def test_names_stand_for_runs():
    assert hub_name(run_of("hf://me/digits")) == ("me/digits", None)
    assert hub_name("runs/hf") is None


@pytest.mark.usefixtures("kept")
def test_offline_by_our_own_word(monkeypatch):
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("VFN_OFFLINE", "1")
    with pytest.raises(ValueError, match="offline mode forbids a download"):
        load("hf://me/digits")


class Unreachable(Exception):
    """As httpx has it."""


class Service:
    """The hub's service, in place of the real one."""

    done: ClassVar[list] = []
    refusal = None

    def create_repo(self, name, **options):
        self.done.append(("create", name, options))
        if self.refusal:
            raise self.refusal

    def upload_folder(self, *, repo_id, folder_path, **_options):
        names = sorted(path.name for path in Path(folder_path).iterdir())
        self.done.append(("upload", repo_id, names))


@pytest.fixture
def service(monkeypatch):
    made = type("Made", (Service,), {"done": []})
    monkeypatch.setattr(hub, "HfApi", made)
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", False)
    return made


def test_pushing_is_one_command(run, service, tmp_path):
    result = CliRunner().invoke(app, ["export", str(run), "--push", "me/digits"], obj=[])
    assert result.exit_code == 0, result.output
    assert service.done == [
        ("create", "me/digits", {"private": True, "exist_ok": True}),
        ("upload", "me/digits", ["README.md", "config.json", "model.safetensors"]),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]
    line = ["export", str(run), "--push", "hf://me/digits", "--out", str(tmp_path / "kept")]
    assert CliRunner().invoke(app, line, obj=[]).exit_code == 0
    assert (tmp_path / "kept" / "README.md").is_file()


def test_what_the_hub_refuses_is_kept(run, service, tmp_path, monkeypatch):
    service.refusal = OSError("401\nUnauthorized")
    export_hub(run, tmp_path / "folder")
    with pytest.raises(ValueError, match="did not take me/digits: 401 Unauthorized; .*has it all"):
        push(tmp_path / "folder", "me/digits")
    monkeypatch.setattr(hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(ValueError, match="HF_HUB_OFFLINE forbids to push"):
        push(tmp_path / "folder", "me/digits")
    with pytest.raises(ValueError, match="without a revision to push to"):
        push(tmp_path / "folder", "me/digits@v1")


def test_without_a_network_the_folder_is_kept(run, service, tmp_path):
    """What carries the requests has errors that are no OSError."""
    service.refusal = Unreachable("Name or service not known")
    export_hub(run, tmp_path / "folder")
    with pytest.raises(ValueError, match="did not take me/digits: Name or service .*has it all"):
        push(tmp_path / "folder", "me/digits")


def test_a_missing_package_is_named(monkeypatch):
    monkeypatch.setattr("vfn.runs.hub.find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r"needs huggingface_hub, .*pip install '\.\[hub\]'"):
        load("hf://me/digits")


def test_weights_are_the_average(run, tmp_path):
    export_hub(run, tmp_path / "folder")
    found = find_checkpoint(tmp_path / "folder" / "model.safetensors")
    assert all(torch.equal(found.ema[n], v) for n, v in find_checkpoint(run).ema.items())
