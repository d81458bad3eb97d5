"""Who hears of a run, what, and in which order."""

import pytest

from tests.helpers.outside import Recorder
from tests.helpers.processes import entries, logged, losses, saved_steps
from vfn.configs import override
from vfn.runs import find_checkpoint
from vfn.train import Observer, Outcome, train
from vfn.train.observers import Audience, RunInfo, as_observers


def test_an_observer_hears_everything_in_order(config, tmp_path):
    recorder, settings = Recorder(), {"steps": 2, "eval_every": 2, "eval_num": 20}
    train(override(config, settings), tmp_path, callbacks=[recorder], device="cpu")
    assert recorder.heard == [
        ("begun", 0),
        ("stepped", 1),
        ("logged", 1, "loss"),
        ("stepped", 2),
        ("logged", 2, "loss"),
        ("saved", 2, "step-00000002.safetensors"),
        ("previewed", 2, True),
        ("evaluated", 2, "frechet_distance", "precision", "recall"),
        ("saved", 2, "best.safetensors"),
        ("logged", 2, "held_out_loss"),
        ("ended", Outcome(2, 0)),
    ]
    again = Recorder()
    train(override(config, {"steps": 3}), tmp_path, callbacks=[again], resume=True, device="cpu")
    assert again.heard[:2] == [("begun", 2), ("stepped", 3)]


def test_a_function_hears_the_lines_of_the_log(config, tmp_path):
    seen = []
    train(config, tmp_path, callbacks=[seen.append], device="cpu")
    assert seen == logged(tmp_path)


class Failing(Observer):
    """Fails in one method, at one step."""

    def __init__(self, method, step):
        def fail(at, *_values):
            if at == step:
                raise RuntimeError("enough")

        setattr(self, method, fail)


@pytest.mark.parametrize("method", ["stepped", "logged", "saved", "previewed"])
def test_one_that_fails_leaves_a_run_that_goes_on(config, tmp_path, undamaged, method):
    """Its exception comes out; others hear the end, and nothing of the run is lost."""
    recorder = Recorder()
    settings = override(config, {"checkpoint_every": 1, "preview_every": 1})
    with pytest.raises(RuntimeError, match="enough"):
        train(settings, tmp_path, callbacks=[Failing(method, 2), recorder], device="cpu")
    assert recorder.heard[-1] == ("ended", None)
    assert saved_steps(tmp_path)[-1] == (1 if method in ("stepped", "logged") else 2)
    assert not [*tmp_path.rglob(".*")]
    train(settings, tmp_path, resume=True, device="cpu")
    assert losses(tmp_path) == losses(undamaged)
    ours, theirs = find_checkpoint(tmp_path), find_checkpoint(undamaged)
    assert all(v.equal(theirs.params[name]) for name, v in ours.params.items())
    shown = [entry["step"] for entry in entries(tmp_path, "held_out_loss")]
    assert shown == [1, 2, 3, 4]  # what was due after a checkpoint is made up for


@pytest.fixture(scope="module")
def undamaged(config, tmp_path_factory):
    out = tmp_path_factory.mktemp("undamaged")
    train(override(config, {"checkpoint_every": 1, "preview_every": 1}), out, device="cpu")
    return out


def test_the_end_reaches_all_that_have_begun_though_some_fail():
    class Ending(Recorder):
        def ended(self, outcome):
            super().ended(outcome)
            raise RuntimeError("late")

    class Refusing(Recorder):
        def begun(self, _run):
            raise RuntimeError("early")

    first, second, third, last = Ending(), Recorder(), Refusing(), Recorder()
    audience = Audience([first, second, third, last])
    with pytest.raises(RuntimeError, match="early"):
        audience.begun(RunInfo(None, None, None, 0))
    with pytest.raises(RuntimeError, match="late"):
        audience.ended(None)
    assert [each.heard[-1:] for each in (first, second, third, last)] == [
        [("ended", None)], [("ended", None)], [], []
    ]  # fmt: skip


def test_the_end_reaches_those_that_were_open_though_they_have_not_begun():
    """As trackers are from when they are made; each hears it once."""

    class Refusing(Recorder):
        def begun(self, _run):
            raise RuntimeError("early")

    begun, open_too, not_begun = Recorder(), Recorder(), Recorder()
    audience = Audience([begun, open_too, Refusing(), not_begun], opened=[open_too, not_begun])
    with pytest.raises(RuntimeError, match="early"):
        audience.begun(RunInfo(None, None, None, 0))
    audience.ended(None)
    assert begun.heard == open_too.heard == [("begun", 0), ("ended", None)]
    assert not_begun.heard == [("ended", None)]


def test_trackers_end_where_the_log_cannot_be_opened(config, tmp_path, monkeypatch):
    """The log comes first, and they are open then."""
    ended = []

    def full(_journal, _run):
        raise OSError("no space left")

    monkeypatch.setattr("vfn.train.journal.Journal.begun", full)
    monkeypatch.setattr("tests.helpers.outside.Lines.ended", lambda _, how: ended.append(how))
    settings = override(config, {"trackers": ("tests.helpers.outside:Lines",)})
    with pytest.raises(OSError, match="no space left"):
        train(settings, tmp_path, device="cpu")
    assert ended == [None]


@pytest.mark.parametrize("odd", [3, "loss", Recorder])
def test_what_cannot_hear_is_refused(config, tmp_path, odd):
    with pytest.raises(ValueError, match="expected callbacks to be Observers or functions"):
        as_observers([odd])
    with pytest.raises(ValueError, match="expected callbacks to be Observers or functions"):
        train(config, tmp_path / "run", callbacks=[odd], device="cpu")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("odd", [3, Recorder()])
def test_callbacks_come_in_a_list_or_not_at_all(odd):
    assert as_observers(None) == as_observers([]) == []
    assert len(as_observers(each for each in [print, Recorder()])) == 2
    with pytest.raises(ValueError, match="expected callbacks in a list, got"):
        as_observers(odd)


def test_none_for_callbacks_is_nobody(config, tmp_path):
    assert train(override(config, {"steps": 1}), tmp_path, callbacks=None, device="cpu").step == 1
