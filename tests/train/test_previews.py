"""What a run shows on the way: by processes that all take part, and led away from others."""

import shutil
from types import SimpleNamespace

import pytest
from PIL import Image, ImageChops

from tests.helpers.processes import logged, losses
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn.configs import override
from vfn.data import Labels
from vfn.distributed import ALONE
from vfn.runs import RunFiles, export_model, find_checkpoint, load_checkpoint, write_checkpoint
from vfn.train import Observer, train
from vfn.train.loop import _spared

FIGURES = ("frechet_distance", "precision", "recall")
# Nothing is learnt, so that all networks are the same and only the evaluation is compared.
OPTIONS = ("--steps", "4", "--eval-every", "2", "--eval-num", "75", "--lr", "0")


def evaluations(run):
    return [{name: e[name] for name in FIGURES} for e in logged(run) if FIGURES[0] in e]


def test_all_processes_take_part_and_agree_with_one(forks, tmp_path):
    """75 pictures do not divide; the last is sampled twice and must count once."""
    for processes in (1, 2):
        forks.train(tmp_path / str(processes), *OPTIONS, processes=processes)
        forks.end()
    one, two = (evaluations(tmp_path / name) for name in "12")
    assert len(one) == len(two) == 2
    assert len(losses(tmp_path / "2")) == 4
    for a, b in zip(one, two, strict=True):
        assert b == pytest.approx(a, rel=1e-4)


# Away from a weaker network.

GUIDED = {"guide_with": "2", "guide_weight": 3.0, "keep_at": (2,)}
SHOWN = {"steps": 4, "preview_every": 1, "eval_every": 2, "eval_num": 20, "lr": 0.1, "warmup": 0}


@pytest.fixture(scope="module")
def plain(config, tmp_path_factory):
    """A run of four steps that move far, each of them shown."""
    out = tmp_path_factory.mktemp("plain")
    train(override(config, {**SHOWN, "keep_at": (2,)}), out, device="cpu")
    return out


def differs(a, b, step):
    """Whether two runs show other pictures of a step."""
    with Image.open(RunFiles(a).preview(step)) as one, Image.open(RunFiles(b).preview(step)) as two:
        return ImageChops.difference(one, two).getbbox() is not None


def test_pictures_are_led_away_from_a_step_once_it_is_passed(config, plain, tmp_path, capsys):
    """The training itself stays as it is."""
    train(override(config, {**SHOWN, **GUIDED}), tmp_path, device="cpu")
    assert "shown without" not in capsys.readouterr().err
    assert [differs(tmp_path, plain, step) for step in (1, 2, 3, 4)] == [False, False, True, True]
    assert losses(tmp_path) == losses(plain)
    first, second = zip(evaluations(tmp_path), evaluations(plain), strict=True)
    assert first[0] == first[1]
    assert second[0] != second[1]
    # What it has learnt is sampled in the same way.
    import vfn

    assert vfn.load(tmp_path, "cpu").draws(2).weak.step == 2


def test_pictures_are_led_away_from_another_network(config, plain, tmp_path, capsys):
    weak = tmp_path / "weak.safetensors"
    export_model(load_checkpoint(RunFiles(plain).checkpoint(2)), weak)
    more = {**SHOWN, "guide_with": str(weak), "guide_weight": 3.0}
    train(override(config, {**more, "steps": 3}), tmp_path / "run", device="cpu")
    assert [differs(tmp_path / "run", plain, step) for step in (1, 3)] == [True, True]
    # A file that is gone while the run goes on costs the guidance, and no training.
    weak.rename(tmp_path / "moved")
    capsys.readouterr()
    with pytest.raises(ValueError, match=r"checkpoint .*weak.safetensors does not exist"):
        train(override(config, more), tmp_path / "run", resume=True, device="cpu")
    shutil.copy(tmp_path / "moved", weak)

    def remove(_entry):
        weak.unlink(missing_ok=True)

    train(override(config, more), tmp_path / "run", resume=True, callbacks=[remove], device="cpu")
    assert not differs(tmp_path / "run", plain, 4)
    assert "step 4 is shown without guide_with: checkpoint" in capsys.readouterr().err


def test_what_cannot_guide_is_refused_before_the_first_step(config, plain, tmp_path):
    shape = SHAPE._replace(legend=Labels(("a", "b")))
    write_checkpoint(tmp_path / "other", small_checkpoint(small_config(), shape))
    for settings, message in (
        ({"guide_with": str(tmp_path / "other")}, "to guide with to know the labels"),
        ({"guide_with": str(tmp_path / "none")}, "none does not exist"),
        (
            {"guide_with": "3", "keep_at": (2, 4)},
            "expected step 3 of guide_with among those of kee",
        ),
        ({"guide_weight": 2.0}, "expected guide_with beside guide_weight 2"),
    ):
        with pytest.raises(ValueError, match=message):
            train(override(config, settings), tmp_path / "run", device="cpu")
        assert not (tmp_path / "run").exists()
    # A step that the run has passed, and not kept.
    shutil.copytree(plain, tmp_path / "passed")
    late = {**SHOWN, "steps": 6, "guide_with": "3", "keep_at": (3,)}
    with pytest.raises(ValueError, match="has no checkpoint of step 3 to guide with, but of 4, 2"):
        train(override(config, late), tmp_path / "passed", resume=True, device="cpu")
    assert find_checkpoint(tmp_path / "passed").step == 4


@pytest.mark.parametrize("more", [{}, {"sample_timesteps": 4, "zero_init": 1},
                                  {"sample_timesteps": 2, "times": (1.0, 0.6)}])  # fmt: skip
def test_networks_for_few_steps_are_shown_at_1_2_and_4_of_them(config, tmp_path, more):
    """Two rows of each, one below the other: what a run of one step shows is the first two."""
    given = {"steps": 2, "lr": 0.05, "warmup": 0, "second_time": True, "objective": "mean_flow",
             "time_embedding": "smooth", "sampler": "mean_flow", "sample_timesteps": 1}  # fmt: skip
    train(override(config, {**given, **more}), tmp_path, device="cpu")
    with Image.open(RunFiles(tmp_path).preview(2)) as shown:
        width, height = shown.size
        tile = height // 6 - 2
        parts = [
            shown.crop((width - 10 * tile, height - (i + 1) * (2 * tile + 8), width,
                        height - i * (2 * tile + 8))) for i in range(3)
        ]  # fmt: skip
        assert height > 6 * 48
        assert len({part.tobytes() for part in parts}) == 3


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ValueError("too large a picture"), "too large a picture"),
        (MemoryError(), "out of memory while showing the {}; use a smaller --sample-batch or --e"),
    ],
)
@pytest.mark.parametrize(
    ("name", "what", "times"),
    [("preview", "preview", 4), ("held_out_loss_of", "held-out loss", 4),
     ("evaluation", "evaluation", 2)],
)  # fmt: skip
def test_what_cannot_be_shown_ends_no_training(
    config, plain, tmp_path, capsys, monkeypatch, name, what, times, error, message
):
    """A line tells; the parameters, and all else in the log, are as they would be."""

    def refuse(*_):
        raise error

    monkeypatch.setattr(f"vfn.train.loop.{name}", refuse)
    train(override(config, {**SHOWN, "keep_at": (2,)}), tmp_path, device="cpu")
    told = capsys.readouterr().err
    assert told.count(f"has no {what}: {message.format(what)}") == times
    assert losses(tmp_path) == losses(plain)
    assert evaluations(tmp_path) == ([] if name == "evaluation" else evaluations(plain))
    held = [entry.get("held_out_loss") for entry in logged(plain) if "held_out_loss" in entry]
    found = [e["held_out_loss"] for e in logged(tmp_path) if "held_out_loss" in e]
    assert found == ([] if name == "held_out_loss_of" else held)


@pytest.mark.parametrize("moment", ["previewed", "evaluated"])
def test_what_a_callback_raises_of_them_still_ends_it(config, tmp_path, moment):
    """It is no fault of what is shown."""

    class Strict(Observer):
        pass

    def refuse(*_):
        raise ValueError("not good enough")

    setattr(Strict, moment, refuse)
    with pytest.raises(ValueError, match="not good enough"):
        train(override(config, SHOWN), tmp_path, device="cpu", callbacks=[Strict()])


def test_where_others_may_wait_nothing_is_spared():
    run = SimpleNamespace(world=ALONE._replace(size=2), state=SimpleNamespace(step=1))
    with pytest.raises(ValueError, match="too large"), _spared(run, "preview"):
        raise ValueError("too large")
