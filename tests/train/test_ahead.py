"""What would end a run on its way is refused before its first step."""

from types import SimpleNamespace

import pytest
import torch

from vfn.configs import override
from vfn.data import as_dataset
from vfn.data.values import measured
from vfn.progress import Progress
from vfn.runs import RunFiles
from vfn.train import distill, train

NOTHING = 3


@pytest.fixture
def untouched(monkeypatch):
    """Neither data nor a step."""

    def touched(*_args, **_more):
        raise AssertionError("there was work before the refusal")

    monkeypatch.setattr("vfn.train.loop.step_of", touched)
    return lambda: monkeypatch.setattr("vfn.train.session.load_dataset", touched)


def full(monkeypatch, free):
    disk = SimpleNamespace(total=10**12, used=0, free=free)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: disk)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sampler": "no.such:solver"}, "no.such:solver cannot be imported"),
        ({"logsnr_schedule": "legacy", "grid": "logsnr"}, "expected finite limits"),
        ({"shown_channels": (0, 3, 0)}, "expected shown_channels in 0..0, .* got 3; use --shown"),
        ({"trackers": ("no.such:tracker",)}, "no.such:tracker cannot be imported"),
        ({"trackers": (f"{__name__}:NOTHING",)}, "to be a function of a run and its step, got int"),
        ({"dataset": "a\udcff"}, r"settings that are UTF-8, got dataset = .a\\udcff"),
    ],
)
def test_settings_of_what_comes_later(config, tmp_path, untouched, settings, message):
    del untouched
    with pytest.raises(ValueError, match=message):
        train(override(config, settings), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()


def test_few_pictures_cannot_be_evaluated_on_the_way(config, tmp_path, untouched):
    del untouched
    three = as_dataset(torch.zeros(3, 1, 8, 8, dtype=torch.uint8))
    with pytest.raises(ValueError, match="need at least 4 pictures, and the data set has 3"):
        train(override(config, {"eval_every": 2}), tmp_path / "run", dataset=three, device="cpu")


@pytest.mark.parametrize("standardise", [False, True])
@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss_type": "kl"}, "with loss_type kl, got {}; use mse"),
        ({"learned_variance": True}, "with learned_variance true, got {}; use false"),
    ],
)
def test_a_bound_is_one_of_grey_levels(config, tmp_path, untouched, settings, message, standardise):
    """It ends in the probability of one of 256 levels, which other numbers do not have."""
    del untouched
    pictures = torch.arange(8, dtype=torch.uint8).view(8, 1, 1, 1).expand(8, 1, 8, 8)
    values = measured(pictures, "uint8", None if standardise else (0, 20), standardise)
    told = message.format("uint8, standardised" if standardise else "uint8, 0 to 20")
    changed = override(config, {**settings, "train_timesteps": 10})
    dataset = as_dataset(pictures, values=values)
    with pytest.raises(ValueError, match=f"expected 8-bit pictures, .* {told}"):
        train(changed, tmp_path / "run", dataset=dataset, device="cpu")
    with pytest.raises(AssertionError, match="there was work before"):
        train(changed, tmp_path / "run", dataset=as_dataset(pictures), device="cpu")


def test_names_that_no_grid_can_show(config, tmp_path, untouched, monkeypatch):
    del untouched
    pictures = as_dataset(torch.zeros(4, 1, 8, 8, dtype=torch.uint8), torch.ones(4).long(), ["a"])
    odd = pictures._replace(legend=pictures.legend._replace(names=("\udcff",)))
    monkeypatch.setattr("vfn.train.session.as_dataset", lambda *_, **__: odd)
    with pytest.raises(ValueError, match=r"the label '\\udcff', which is no UTF-8; rename it"):
        train(config, tmp_path / "run", dataset=pictures, device="cpu")


def test_the_directory_is_looked_at_before_the_data(config, tmp_path, untouched):
    untouched()
    run = RunFiles(tmp_path)
    run.config.write_text("theirs")
    for resume in (False, True):
        with pytest.raises(ValueError, match=r"holds config.toml but no checkpoint"):
            train(config, tmp_path, resume=resume, device="cpu")


def test_room_for_checkpoints(config, tmp_path, untouched, monkeypatch):
    """Four copies of the parameters in float32; two files, the last while the first is there."""
    del untouched
    full(monkeypatch, 10**6)
    settings = {"steps": 10, "checkpoint_every": 5}
    with pytest.raises(ValueError, match="2 checkpoints of .* parameters take about .* fewer with"):
        train(override(config, settings), tmp_path / "run", device="cpu")
    assert not (tmp_path / "run").exists()
    evaluated = override(config, {**settings, "eval_every": 5})
    with pytest.raises(ValueError, match="3 checkpoints of"):  # and the best
        train(evaluated, tmp_path / "run", device="cpu")
    kept = override(config, {**settings, "keep_at": (3, 4, 99)})
    with pytest.raises(ValueError, match="4 checkpoints of"):
        train(kept, tmp_path / "run", device="cpu")


def test_room_for_averages_over_profiles(config, tmp_path, monkeypatch):
    """Those of each profile are in every checkpoint, and in snapshots alone; as large as told."""
    told, settings = [], {"steps": 4, "checkpoint_every": 2, "ema_profiles": (0.05, 0.1)}
    monkeypatch.setattr(
        "vfn.train.ahead.check_space", lambda _path, size, *words: told.append((size, words[0]))
    )
    whole = override(config, {**settings, "ema_snapshot_every": 2})
    train(whole, tmp_path / "run", device="cpu")
    (size, words), run = told[0], RunFiles(tmp_path / "run")
    assert words.startswith("2 checkpoints and 2 snapshots of averages of")
    files = [*run.checkpoint_files(), *run.snapshot_steps().values()]
    assert size == pytest.approx(sum(file.stat().st_size for file in files), rel=0.05)


def test_checkpoints_that_are_there_need_no_room(config, tmp_path, monkeypatch):
    train(override(config, {"steps": 2, "checkpoint_every": 2}), tmp_path, device="cpu")
    monkeypatch.setattr("vfn.train.loop._save", lambda *_: None)
    full(monkeypatch, 10**6)
    longer = override(config, {"steps": 3, "checkpoint_every": 3, "max_checkpoints": 1})
    assert train(longer, tmp_path, resume=True, device="cpu").step == 3


@pytest.mark.parametrize("what", ["settings", "room", "later stage"])
def test_all_stages_are_looked_at_before_the_first(teacher, tmp_path, untouched, monkeypatch, what):
    del untouched
    out, message, more = tmp_path / "fast", "", {}
    if what == "settings":
        more, message = {"trackers": ("no.such:tracker",)}, "no.such:tracker cannot be imported"
    if what == "room":
        full(monkeypatch, 10**6)
        message = "checkpoints of .* parameters take about"
    if what == "later stage":
        stage = RunFiles(out).stage(1)
        stage.path.mkdir(parents=True)
        stage.log.write_text("theirs")
        message = r"steps-1 holds log.jsonl but no checkpoint"
    with pytest.raises(ValueError, match=message):
        distill(teacher, out, device="cpu", teacher_steps=4, student_steps=1, steps=2, **more)
    assert not (out / "steps-2").exists()


def test_previews_show_how_far_they_are(config, tmp_path, monkeypatch):
    """The last one may take longer than all steps of a short run."""
    seen = []

    class Seen(Progress):
        def __init__(self, total, unit, title="", *rest, **more):
            seen.append((title, total, unit, more.get("brief")))
            super().__init__(total, unit, title, *rest, **more)

    monkeypatch.setattr("vfn.sampling.draws.Progress", Seen)
    settings = {"steps": 2, "preview_every": 2, "eval_every": 2, "eval_num": 20, "sample_batch": 8}
    train(override(config, settings), tmp_path, device="cpu")
    assert seen == [
        ("preview at step 2", 5 * 2, "evaluation", True),  # five batches of two steps
        ("evaluation at step 2", 3 * 2, "evaluation", True),
    ]


class Spoiled(torch.nn.Module):
    """A network that learns, and gives no numbers when it is asked for pictures."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.ones(1))

    def forward(self, z, t, y=None):
        del t, y
        return self.scale * z if self.training else z * float("nan")


def test_previews_that_are_not_finite_are_told(config, tmp_path, capsys):
    short = override(config, {"steps": 1, "preview_every": 1})
    train(short, tmp_path, model=Spoiled(), device="cpu")
    err = capsys.readouterr().err
    assert err.count("preview at step 1: 40 of 40 pictures are not finite: the network gave") == 1
