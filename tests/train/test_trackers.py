"""Where else the log goes."""

import csv
import json
import struct
import subprocess
import sys
import time
from contextlib import suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from signal import SIGTERM, raise_signal
from types import ModuleType, SimpleNamespace

import pytest

from tests.helpers.processes import logged, losses
from vfn.configs import override
from vfn.runs import RunFiles
from vfn.train import TRACKERS, Observer, Outcome, Tracking, train
from vfn.train.trackers import make_trackers

LIGHT = """
import sys
import time
from pathlib import Path
import vfn.train.trackers, vfn.train.observers, vfn.train.distillation.methods
print(*sorted({"torch", "tensorboard", "vfn.train.loop"} & sys.modules.keys()))
"""


def test_tensorboard_gets_the_numbers_of_the_log(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(override(config, {"trackers": ("tensorboard",)}), tmp_path, device="cpu")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    found = [(event.step, event.value) for event in events.Scalars("loss")]
    assert found == [(step, pytest.approx(loss)) for step, loss in losses(tmp_path).items()]
    assert "held_out_loss" in events.Tags()["scalars"]


def test_a_tracker_of_somebody_else(config, tmp_path):
    settings = {"trackers": ("tests.helpers.outside:Lines",), "steps": 2}
    train(override(config, settings), tmp_path, device="cpu")
    train(override(config, {**settings, "steps": 3}), tmp_path, resume=True, device="cpu")
    first, second = logged(tmp_path)[:2], logged(tmp_path)[3:]
    lines = (tmp_path / "lines.txt").read_text().splitlines()
    assert lines[:2] == [f"0 {e['step']} {len(e)}" for e in first]
    assert lines[-2:] == [f"2 {e['step']} {len(e)}" for e in second]


@pytest.mark.parametrize(
    ("word", "message"),
    [
        (
            "board",
            "unknown tracker 'board', expected one of tensorboard, csv, wandb, mlflow, or pack",
        ),
        ("nowhere.at:All", r"nowhere.at:All cannot be imported \(ModuleNotFoundError"),
        ("tests.helpers.outside:Nobody", "there is no Nobody in tests.helpers.outside"),
    ],
)
def test_trackers_that_do_not_exist_are_refused_before_anything_is_written(
    config, tmp_path, word, message
):
    with pytest.raises(ValueError, match=message) as refused:
        train(override(config, {"trackers": (word,)}), tmp_path / "run", device="cpu")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_a_package_that_is_missing_is_named(config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(ValueError, match=r"pip install '\.\[tensorboard\]' in the clone"):
        train(override(config, {"trackers": ("tensorboard",)}), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_a_factory_has_to_give_an_observer(config, tmp_path):
    settings = {"trackers": ("tests.helpers.outside:nothing",)}
    with pytest.raises(ValueError, match="to give an Observer, got NoneType"):
        train(override(config, settings), tmp_path, device="cpu")


def test_every_tracker_of_the_table_is_there_and_says_what_it_is():
    for entry in TRACKERS.values():
        assert callable(entry.load())
        assert entry.text


def test_tables_are_read_without_torch():
    done = subprocess.run([sys.executable, "-c", LIGHT], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_table_of_the_log(config, tmp_path):
    """After a kill the lines of steps that are done again are removed."""
    settings = {"trackers": ("csv",), "steps": 2}
    train(override(config, settings), tmp_path, device="cpu")
    with (tmp_path / "log.csv").open("a") as file:
        file.write("3,loss,0.125\r\nnonsense\r\n4,lo")
    train(override(config, {**settings, "steps": 3}), tmp_path, resume=True, device="cpu")
    with (tmp_path / "log.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found = {int(row["step"]): float(row["value"]) for row in rows if row["name"] == "loss"}
    assert found == losses(tmp_path)
    assert len(rows) == len({(row["step"], row["name"]) for row in rows})


def test_tensorboard_gets_pictures_and_the_configuration(config, tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    train(override(config, {"trackers": ("tensorboard",), "steps": 2}), tmp_path, device="cpu")
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [event.step for event in events.Images("samples")] == [2]
    text = events.Tensors("configuration/text_summary")[0].tensor_proto.string_val[0].decode()
    assert "train.batch_size = 16" in text


class Seen:
    """A record of somebody's: two methods."""

    def __init__(self):
        self.told = []

    def numbers(self, step, values):
        self.told.append((step, *values))

    def picture(self, step, path):
        self.told.append((step, path.name))


def test_a_record_is_two_methods():
    seen, closed = Seen(), []
    tracking = Tracking(seen, last=1, close=closed.append)
    for step in (1, 2):
        tracking.logged(step, {"step": step, "loss": 0.5, "bins": [1.0], "bad": float("nan")})
        tracking.previewed(step, Path(f"step-{step}.png"))
    tracking.logged(3, {"step": 3, "bins": []})
    tracking.ended(Outcome(3, 0))
    assert seen.told == [(2, "loss"), (2, "step-2.png")]
    assert closed == [Outcome(3, 0)]


def test_what_a_record_has_not_of_its_last_step_is_told():
    seen = Seen()
    tracking = Tracking(seen, last=2, names={"loss"})
    for step in (1, 2, 3):
        tracking.logged(step, {"step": step, "loss": 0.5})
        tracking.previewed(step, Path(f"step-{step}.png"))
        tracking.logged(step, {"step": step, "held_out_loss": 0.5})
    two, three = (
        [(2, "step-2.png"), (2, "held_out_loss")],
        [(3, "step-3.png"), (3, "held_out_loss")],
    )
    assert seen.told == [*two, (3, "loss"), *three]


class Ended(Observer):
    """Ends a run at its preview, as a kill would."""

    def previewed(self, _step, _path):
        raise KeyboardInterrupt


@pytest.fixture
def fake_wandb(monkeypatch):
    """A stand-in for the package: what is told, and with which exit statuses records end."""
    service = ModuleType("wandb")
    service.told, service.ended = [], []
    service.Settings, service.Image = dict, Path
    service.init = lambda **given: SimpleNamespace(
        id="a",
        log=service.told.append,
        finish=lambda exit_code=0: service.ended.append(exit_code),
        define_metric=lambda *_, **__: None,
    )
    service.__spec__ = ModuleSpec("wandb", None)
    monkeypatch.setitem(sys.modules, "wandb", service)
    return service


class FakeClient:
    """A stand-in for MLflow's: one run, and what it is said to be, which it is at once."""

    def __init__(self):
        self.states = []

    def __call__(self, **_uri):
        return self

    def get_experiment_by_name(self, _name):
        return SimpleNamespace(experiment_id="0")

    def create_run(self, _experiment, **_name):
        return SimpleNamespace(info=SimpleNamespace(run_id="a"))

    def update_run(self, _name, status):
        self.states.append(status)

    def set_terminated(self, _name, status="FINISHED"):
        self.states.append(status)

    def log_param(self, *_values):
        """Not looked at."""

    log_artifact = log_param

    def log_metric(self, *_values, step):
        """Not looked at."""


@pytest.fixture
def fake_mlflow(monkeypatch):
    client = FakeClient()
    for name in ("mlflow", "mlflow.tracking"):
        service = ModuleType(name)
        service.__spec__ = ModuleSpec(name, None)
        service.MlflowClient = client
        monkeypatch.setitem(sys.modules, name, service)
    return client


def stop(_line):
    raise_signal(SIGTERM)


def fail(_line):
    raise RuntimeError("enough")


def test_services_are_told_how_a_run_ended(config, tmp_path, fake_wandb, fake_mlflow):
    """Stopped, then failed, then finished."""
    settings = override(config, {"trackers": ("wandb", "mlflow"), "checkpoint_every": 1})
    train(settings, tmp_path, callbacks=[stop], device="cpu")
    with pytest.raises(RuntimeError, match="enough"):
        train(settings, tmp_path, callbacks=[fail], resume=True, device="cpu")
    assert train(settings, tmp_path, resume=True, device="cpu") == (4, 0)
    assert fake_wandb.ended == [128 + SIGTERM, 1, 0]
    assert fake_mlflow.states == ["KILLED", "RUNNING", "FAILED", "RUNNING", "FINISHED"]


@pytest.mark.parametrize(
    ("last", "message"), [("missing", "tracker .*:missing cannot be made"), ("nothing", "Observer")]
)
def test_trackers_end_as_failed_where_a_later_one_cannot_be_made(
    tmp_path, fake_wandb, fake_mlflow, last, message
):
    with pytest.raises(ValueError, match=message):
        make_trackers(["wandb", "mlflow", f"tests.helpers.outside:{last}"], RunFiles(tmp_path), 0)
    assert fake_wandb.ended == [1]
    assert fake_mlflow.states == ["FAILED"]


@pytest.mark.parametrize("word", ["wandb", "mlflow"])
def test_a_record_ends_as_failed_where_its_name_cannot_be_noted(
    tmp_path, fake_wandb, fake_mlflow, word
):
    """It was begun already then."""
    (tmp_path / "records.json").write_text("[1]")
    with pytest.raises(ValueError, match="expected names of records in"):
        make_trackers([word], RunFiles(tmp_path), 0)
    assert fake_wandb.ended == ([1] if word == "wandb" else [])
    assert fake_mlflow.states == (["FAILED"] if word == "mlflow" else [])


@pytest.mark.parametrize("told", ["cut off", "whole"])
def test_services_get_what_was_cut_off_at_the_last_step(config, tmp_path, fake_wandb, told):
    """Not by half: the lines before it are not told twice."""
    seen = fake_wandb.told
    settings = override(config, {"trackers": ("wandb",), "steps": 2, "preview_every": 2})
    ending = [] if told == "whole" else [Ended()]
    with suppress(KeyboardInterrupt):
        train(settings, tmp_path, callbacks=ending, device="cpu")
    assert seen[-1].keys() >= ({"samples"} if told == "cut off" else {"held_out_loss"})
    seen.clear()
    train(override(settings, {"steps": 3}), tmp_path, resume=True, device="cpu")
    due = [(2, "samples"), (2, "held_out_loss")] if told == "cut off" else []
    found = [(line["step"], n) for line in seen for n in ("loss", "samples", "held_out_loss")
             if n in line]  # fmt: skip
    assert found == [*due, (3, "loss"), (3, "samples"), (3, "held_out_loss")]


def resumed(config, out, word):
    """A run that was stopped and goes on, with a line of the log after its checkpoint."""
    train(override(config, {"trackers": (word,), "steps": 2}), out, device="cpu")
    train(override(config, {"trackers": (word,), "steps": 3}), out, resume=True, device="cpu")
    return json.loads((out / "records.json").read_text())[word]


def test_mlflow_in_a_folder(config, tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    from mlflow.tracking import MlflowClient

    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    name = resumed(config, tmp_path / "run", "mlflow")
    client = MlflowClient(tracking_uri=(tmp_path / "run" / "mlruns").as_uri())
    history = {m.step: m.value for m in client.get_metric_history(name, "loss")}
    assert history == losses(tmp_path / "run")
    found = client.get_run(name)
    assert found.info.status == "FINISHED"
    assert found.data.params["train.batch_size"] == "16"
    pictures = [each.path for each in client.list_artifacts(name, "samples")]
    assert pictures == ["samples/step-00000002.png", "samples/step-00000003.png"]
    (experiment,) = client.search_experiments(filter_string="name = 'vfn'")
    assert len(client.search_runs([experiment.experiment_id])) == 1


def test_wandb_offline(config, tmp_path, monkeypatch):
    """Both parts of a run that went on are of one record."""
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_DIR", str(tmp_path / "run"))
    name = resumed(config, tmp_path / "run", "wandb")
    files = sorted((tmp_path / "run" / "wandb").glob("offline-run-*/run-*.wandb"))
    assert [path.name for path in files] == [f"run-{name}.wandb"] * 2
    found = {}
    for _ in range(100):  # its service writes in a process of its own, and may come later
        for path in files:
            found.update(wandb_history(path))
        if len(found) == 3:
            break
        time.sleep(0.1)
    assert found == pytest.approx(losses(tmp_path / "run"))


def wandb_history(path):
    """Losses by step in a file that waits to be sent: parts of records in blocks of 32 KiB."""
    from wandb.proto import wandb_internal_pb2

    content, place, whole, found = path.read_bytes(), 7, b"", {}
    while place + 7 <= len(content):
        if 2**15 - place % 2**15 < 7:  # the rest of a block is too short for a head
            place += 2**15 - place % 2**15
            continue
        _, size, kind = struct.unpack_from("<IHB", content, place)
        whole += content[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):  # full, or the last part
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            whole = b""
            items = {(i.key or i.nested_key[0]): i.value_json for i in record.history.item}
            if "loss" in items:
                found[int(items["step"])] = float(items["loss"])
    return found


def test_records_of_nobody(config, tmp_path):
    pytest.importorskip("mlflow")
    train(override(config, {"steps": 2}), tmp_path, device="cpu")
    (tmp_path / "records.json").write_text('{"mlflow": [1]}')
    settings = {"trackers": ("mlflow",), "steps": 3}
    with pytest.raises(ValueError, match="expected names of records in .* remove it to begin"):
        train(override(config, settings), tmp_path, resume=True, device="cpu")
