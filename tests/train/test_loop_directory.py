"""What a run finds in its directory: nothing of it comes to harm, and nothing due is left out."""

import json
import shutil
import signal
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.processes import checkpoints, entries, logged
from vfn.configs import override
from vfn.data import load_dataset
from vfn.objective import batch_loss
from vfn.runs import RunFiles, find_checkpoint, write_checkpoint
from vfn.train import Observer, train


def go(config, out, **options):
    return train(config, out, device="cpu", **options)


@pytest.fixture(scope="module")
def short(config):
    return override(config, {"steps": 2, "checkpoint_every": 1, "preview_every": 2})


@pytest.fixture(scope="module")
def finished(short, tmp_path_factory):
    out = tmp_path_factory.mktemp("finished")
    go(short, out)
    return out


@pytest.fixture
def run(finished, tmp_path):
    shutil.copytree(finished, tmp_path / "run")
    return RunFiles(tmp_path / "run")


def contents(folder):
    return {p: p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("lost", ["emptied", "removed", "dangling"])
def test_a_run_that_has_lost_its_checkpoints_is_left_as_it_is(short, run, resume, lost):
    shutil.rmtree(run.checkpoints)
    if lost == "emptied":
        run.checkpoints.mkdir()
    if lost == "dangling":
        run.checkpoints.symlink_to("no/such/disk")
    before = contents(run.path)
    with pytest.raises(ValueError, match=r"config.toml and log.jsonl but no checkpoint.*--fresh"):
        go(short, run.path, resume=resume)
    assert contents(run.path) == before


def test_it_begins_anew_where_it_is_told(short, run):
    shutil.rmtree(run.checkpoints)
    assert go(short, run.path, fresh=True).step == 2
    assert [e["step"] for e in entries(run.path, "loss")] == [1, 2]


@pytest.mark.parametrize("resume", [False, True])
def test_damaged_checkpoints_are_replaced_where_it_is_told(short, run, resume, capsys):
    for path in (*run.checkpoint_files(), run.checkpoints / "step-00000009.safetensors"):
        path.write_bytes(b"damaged")
    before = contents(run.path)
    with pytest.raises(ValueError, match="damaged.*; restore one, or add --fresh to train anew"):
        go(short, run.path, resume=resume)
    assert contents(run.path) == before
    assert go(short, run.path, resume=resume, fresh=True).step == 2
    assert [e["step"] for e in entries(run.path, "loss")] == [1, 2]
    assert [int(path.stem[5:]) for path in run.checkpoint_files()] == [2, 1]
    assert ("begun anew: " in capsys.readouterr().err) == resume


def test_a_checkpoint_of_another_network_is_not_replaced(short, run):
    other, before = override(short, {"hid_channels": 64}), contents(run.checkpoints)
    with pytest.raises(ValueError, match="expected"):
        go(other, run.path, resume=True, fresh=True)
    assert contents(run.checkpoints) == before


def test_foreign_files_are_left_as_they_are(short, tmp_path):
    for name in ("config.toml", "log.jsonl"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / name).write_text("theirs")
        for resume in (False, True):
            with pytest.raises(ValueError, match=f"holds {name} but no checkpoint"):
                go(short, folder, resume=resume)
        assert [(p.name, p.read_text()) for p in folder.iterdir()] == [(name, "theirs")]


def test_a_run_that_was_killed_before_its_first_checkpoint_begins_again(short, run):
    shutil.rmtree(run.checkpoints)
    run.begun.touch()  # as such a run leaves it
    assert go(short, run.path, resume=True).step == 2
    assert not run.begun.exists()


def test_fewer_steps_than_are_done_are_refused(short, run):
    before = contents(run.path)
    with pytest.raises(ValueError, match="is at step 2 already, and --steps 1 is less"):
        go(override(short, {"steps": 1}), run.path, resume=True)
    assert contents(run.path) == before


@pytest.mark.parametrize("cut", ["preview", "held-out loss", "evaluation", "both"])
def test_what_a_kill_cut_off_at_a_checkpoint_is_made(short, tmp_path, cut):
    """At the last step, and at one on the way; equal to those of a run that was not killed."""
    config = override(short, {"steps": 3, "eval_every": 2, "eval_num": 10})
    whole, killed = RunFiles(tmp_path / "whole"), RunFiles(tmp_path / "killed")
    go(config, whole.path)
    shutil.copytree(whole.path, killed.path)
    for path in checkpoints(killed.path):
        if path != killed.checkpoint(2):
            path.unlink()
    kept = [e for e in logged(whole.path) if e["step"] <= 2]
    if cut != "preview":
        kept = [e for e in kept if "frechet_distance" not in e]
    killed.log.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    killed.best.unlink()
    if cut == "preview":
        shutil.copy(whole.best, killed.best)
    if cut in ("preview", "both"):
        for path in killed.previews():
            path.unlink()
    go(config, killed.path, resume=True)
    for name in ("frechet_distance", "held_out_loss", "loss"):
        assert [(e["step"], e[name]) for e in entries(killed.path, name)][-3:] == [
            (e["step"], e[name]) for e in entries(whole.path, name)
        ][-3:]
    assert [p.name for p in killed.previews()] == [p.name for p in whole.previews()]
    for ours, theirs in zip(killed.previews(), whole.previews(), strict=True):
        assert ours.read_bytes() == theirs.read_bytes()
    ours, theirs = (load_file(each.best) for each in (killed, whole))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_finished_run_makes_nothing_twice(short, run):
    before = contents(run.path)
    assert go(short, run.path, resume=True).step == 2
    assert contents(run.path) == before


def test_previews_can_be_turned_off(short, tmp_path):
    go(override(short, {"preview_every": 0}), tmp_path)
    assert not RunFiles(tmp_path).previews()
    assert not entries(tmp_path, "held_out_loss")


def test_resuming_compares_the_data(short, tmp_path):
    whole = load_dataset(short.data)
    go(short, tmp_path, dataset=whole)
    more = override(short, {"steps": 3})
    flipped = whole.images.clone()
    flipped[0] = 255 - flipped[0]
    names = ("0", "one", *whole.legend.names[2:])
    labels = whole.labels.clone()
    labels[0] = labels[0] % 10 + 1
    others = {
        "pictures, labels or conditions, as many as before": whole._replace(images=flipped),
        "number of pictures 80, before 90": whole._replace(
            images=whole.images[:80], labels=whole.labels[:80]
        ),
        "names: class 1 is 0, before 1": whole._replace(legend=replace_names(whole.legend, names)),
        "other pictures, labels or conditions": whole._replace(labels=labels),
        "sizes": whole._replace(images=whole.images[..., :4]),
    }
    before = contents(tmp_path)
    for message, other in others.items():
        with pytest.raises(ValueError, match=message):
            go(more, tmp_path, dataset=other, resume=True)
    assert contents(tmp_path) == before
    assert go(more, tmp_path, dataset=whole, resume=True).step == 3


def replace_names(legend, names):
    return (
        legend._replace(names=names)
        if hasattr(legend, "_replace")
        else replace(legend, names=names)
    )


def test_checkpoints_without_a_digest_go_on(short, run):
    """Those of earlier versions."""
    found = find_checkpoint(run.path)
    assert found.data.pictures == 90
    write_checkpoint(run.checkpoint(2), found._replace(data=None))
    assert find_checkpoint(run.path).data is None
    assert go(override(short, {"steps": 3}), run.path, resume=True).step == 3
    assert find_checkpoint(run.path).data == found.data


def test_logs_have_no_numbers_that_json_has_not(short, tmp_path):
    def endless(_network, batch, _diffusion):
        return torch.full((len(batch.x0),), float("nan"), requires_grad=True)

    go(override(short, {"max_bad_steps": 100}), tmp_path, objective=endless)

    def refuse(name):
        raise AssertionError(name)

    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    found = [json.loads(line, parse_constant=refuse) for line in lines]
    assert found[0]["loss"] is None


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"model_out_type": "x0"}, "model_out_type v, got x0"),
        ({"logsnr_schedule": "linear"}, "logsnr_schedule cosine, got linear"),
        ({"time_embedding": "smooth"}, "time_embedding sinusoidal, got smooth"),
        ({"objective": "ect"}, "objective diffusion, got ect"),
    ],
)
def test_what_the_parameters_mean_cannot_change_on_the_way(short, run, changed, message):
    before = contents(run.path)
    with pytest.raises(ValueError, match=f"was begun with .*{message}.*--init-from"):
        go(override(short, {"steps": 3, **changed}), run.path, resume=True)
    assert contents(run.path) == before


@pytest.mark.parametrize("other", ["downscale:2", "mask"])
def test_another_condition_of_as_many_channels_is_refused_on_the_way(short, tmp_path, other):
    go(override(short, {"condition": "downscale:4", "preview_every": 0}), tmp_path)
    before = contents(tmp_path)
    with pytest.raises(ValueError, match=f"was begun with condition downscale:4, got {other}"):
        go(override(short, {"condition": other, "steps": 3}), tmp_path, resume=True)
    assert contents(tmp_path) == before


def test_an_objective_of_ones_own_is_not_forgotten_on_the_way(short, tmp_path):
    def doubled(network, batch, diffusion):
        return 2 * batch_loss(network, batch, diffusion)

    go(short, tmp_path, objective=doubled)
    before, more = contents(tmp_path), override(short, {"steps": 3})
    with pytest.raises(ValueError, match=r"an objective of its own, tests.*doubled, .*objective="):
        go(more, tmp_path, resume=True)
    assert contents(tmp_path) == before
    assert go(more, tmp_path, resume=True, objective=doubled).step == 3
    assert find_checkpoint(tmp_path).objective.endswith("doubled")


def test_how_it_is_trained_can_change_on_the_way(short, run, capsys):
    """What counts draws by batches says what that does."""
    more = {"reweight_type": "snr", "lr": 1e-3, "dropout": 0.1, "batch_size": 4}
    assert go(override(short, {"steps": 3, **more}), run.path, resume=True).step == 3
    assert "batch_size 4 in place of 16: draws are counted in batches" in capsys.readouterr().err
    assert go(override(short, {"steps": 4, **more}), run.path, resume=True).step == 4
    assert "draws are counted" not in capsys.readouterr().err


def test_a_run_that_is_removed_while_it_is_trained_says_so(short, tmp_path):
    class Removes(Observer):
        def logged(self, step, _values):
            if step == 1:
                shutil.rmtree(tmp_path / "run")

    config = override(short, {"steps": 4, "log_every": 1, "preview_every": 0, "eval_every": 0})
    with pytest.raises(OSError, match=r"run/config.toml is gone since the run was begun"):
        go(config, tmp_path / "run", callbacks=[Removes()])
    assert not (tmp_path / "run" / "checkpoints").exists()


def test_a_learning_rate_that_rises_and_another_seed_are_told(short, tmp_path, capsys):
    """Half a cosine is 0 at its end, and a half in the middle of one of twice as many steps."""
    falling = override(
        short, {"steps": 2, "lr_schedule": "cosine", "lr": 1e-3, "warmup": 0, "checkpoint_every": 1}
    )
    go(falling, tmp_path)
    RunFiles(tmp_path).checkpoint(2).unlink()
    go(falling, tmp_path, resume=True)
    assert "learning rate" not in capsys.readouterr().err
    go(override(falling, {"steps": 4, "seed": 5}), tmp_path, resume=True)
    told = capsys.readouterr().err
    assert "the learning rate rises at step 2, from 0 to 0.0005 (cosine, 4 steps)" in told
    assert "seed 5 in place of 0: pictures come in another order from here on" in told
    go(override(falling, {"steps": 5, "seed": 5, "lr_schedule": "constant"}), tmp_path, resume=True)
    told = capsys.readouterr().err
    assert "rises at step 4, from 0 to 0.001 (constant" in told
    assert "seed" not in told


def test_going_back_leaves_nothing_of_the_steps_that_are_done_again(short, tmp_path):
    """Another branch begins: neither its previews nor its best checkpoint are of the old one."""
    config = override(short, {"steps": 4, "preview_every": 1, "eval_every": 2, "eval_num": 10})
    files = RunFiles(tmp_path)
    go(config, files.path)
    write_checkpoint(files.best, find_checkpoint(files.path))  # as if the last were the best
    for step in (3, 4):
        files.checkpoint(step).unlink()
    go(override(config, {"steps": 2}), files.path, resume=True)
    assert [*files.preview_steps()] == [2, 1]
    assert not files.best.exists()
    go(override(config, {"lr": 1.0}), files.path, resume=True)
    assert find_checkpoint(files.best).step == 4
    assert find_checkpoint(files.best).config.train.lr == 1.0


def test_a_signal_at_the_last_step_says_that_something_is_missing(short, tmp_path):
    class Stops(Observer):
        def stepped(self, step, /):
            if step == 2:
                signal.raise_signal(signal.SIGUSR1)

    outcome = go(short, tmp_path, callbacks=[Stops()])
    assert (outcome.step, outcome.signum) == (2, signal.SIGUSR1)
    assert not RunFiles(tmp_path).preview(2).exists()
    assert go(short, tmp_path, resume=True).signum == 0
    assert RunFiles(tmp_path).preview(2).exists()
    none_due = override(short, {"preview_every": 0})
    assert go(none_due, tmp_path / "none due", callbacks=[Stops()]).signum == 0


def test_all_processes_wait_for_the_last_checkpoint(short, tmp_path, monkeypatch):
    done = []
    monkeypatch.setattr("vfn.train.loop.wait_for_all", lambda _: done.append("waited"))
    monkeypatch.setattr("vfn.train.loop._save", lambda *_: done.append("saved"))
    go(override(short, {"preview_every": 0}), tmp_path)
    assert done == ["saved", "saved", "waited"]


def test_a_held_out_loss_that_a_kill_cut_off_is_made(short, run):
    """Between the sample grid and its line of the log."""
    whole = entries(run.path, "held_out_loss")
    assert len(whole) == 1
    kept = [entry for entry in logged(run.path) if "held_out_loss" not in entry]
    run.log.write_text("".join(json.dumps(entry) + "\n" for entry in kept))
    go(short, run.path, resume=True)
    assert entries(run.path, "held_out_loss") == whole


def test_the_best_of_the_step_that_a_run_goes_on_from_stays(short, run):
    write_checkpoint(run.best, find_checkpoint(run.path))
    go(short, run.path, resume=True)
    assert find_checkpoint(run.best).step == 2


def test_where_the_best_is_gone_the_next_one_is_kept(short, run):
    """Though a line of the log tells of a better one."""
    with run.log.open("a") as log:
        log.write('{"step": 2, "frechet_distance": 0.0}\n')
    further = {"steps": 3, "preview_every": 0, "eval_every": 3, "eval_num": 10}
    go(override(short, further), run.path, resume=True)
    assert find_checkpoint(run.best).step == 3
