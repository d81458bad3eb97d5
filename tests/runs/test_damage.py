"""Damaged checkpoints and failing disks: one line, and what was good stays good."""

import pickle
import shutil
from pathlib import Path

import pytest
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from tests.helpers.processes import (
    STEPS,
    checkpoints,
    differing,
    losses,
    saved_steps,
)

HALF = STEPS // 2


@pytest.fixture
def run(undisturbed, tmp_path):
    """A run at half its way, and ``run.parent`` free for other files."""
    run = tmp_path / "run"
    shutil.copytree(undisturbed(1, 1), run)
    checkpoints(run)[-1].unlink()
    assert saved_steps(run) == [HALF]
    return run


class Payload:
    """Something that makes a file when it is unpickled."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return Path.touch, (self.mark,)


def truncated(good, _mark):
    return good[: len(good) // 2]


def flipped(good, _mark):
    return good[:-1000] + bytes([good[-1000] ^ 1]) + good[-999:]


def flipped_in_the_header(good, _mark):
    """Another step: valid JSON, and the tensors are whole."""
    assert good.count(b'"step":"25"') == 1
    return good.replace(b'"step":"25"', b'"step":"24"')


def code(_good, mark):
    return pickle.dumps(Payload(mark))


DAMAGES = [truncated, flipped, flipped_in_the_header, code]


def test_the_payload_is_a_live_one(tmp_path):
    pickle.loads(code(b"", tmp_path / "mark"))
    assert (tmp_path / "mark").exists()


def of_another_architecture(good, path):
    """The same tensors under a configuration that they do not fit."""
    with safe_open(good, "pt") as file:
        metadata = file.metadata()
    metadata["config"] = metadata["config"].replace("hid_channels = 32", "hid_channels = 64")
    save_file(load_file(good), path, metadata)


def one_line(err, *parts):
    lines = [line for line in err.splitlines() if line.startswith("vfn: ")]
    assert len(lines) == 1, err
    assert all(part in lines[0] for part in parts), err


@pytest.mark.slow
def test_each_damaged_file_is_refused_by_name(forks, run, tmp_path):
    good, mark = checkpoints(run)[0], tmp_path / "mark"
    bad = {damage.__name__: damage(good.read_bytes(), mark) for damage in DAMAGES}
    for name, content in bad.items():
        (tmp_path / f"{name}.safetensors").write_bytes(content)
    of_another_architecture(good, tmp_path / "architecture.safetensors")
    for name in (*bad, "architecture"):
        path = tmp_path / f"{name}.safetensors"
        command = ["sample", "--out", tmp_path / "samples", "--checkpoint", path]
        err = forks.run(*command, code=2)
        one_line(err, path.name)
        assert len(err.splitlines()) == 1
    assert not mark.exists()
    assert not (tmp_path / "samples").exists()


def test_a_run_goes_on_from_the_newest_intact_checkpoint(undisturbed, forks, run, tmp_path):
    good, mark = checkpoints(run)[0].read_bytes(), tmp_path / "mark"
    for step, damage in enumerate(DAMAGES, HALF + 1):
        (run / "checkpoints" / f"step-{step:08d}.safetensors").write_bytes(damage(good, mark))
    forks.train(run, "--resume", "--steps", STEPS)
    err = forks.end()
    said = [line for line in err.splitlines() if "passed over" in line]
    assert len(said) == len(DAMAGES)
    for step, line in zip(range(HALF + len(DAMAGES), HALF, -1), said, strict=True):
        assert f"step-{step:08d}" in line
    assert not mark.exists()
    assert losses(run) == losses(undisturbed(1, 1))
    assert differing(run, undisturbed(1, 1)) == []


def test_damaged_files_do_not_crowd_out_good_ones(forks, run):
    """With one checkpoint to keep, a damaged one of a later step is not it."""
    late = run / "checkpoints" / f"step-{STEPS:08d}.safetensors"
    late.write_bytes(b"damaged")
    options = ["--checkpoint-every", 1, "--max-checkpoints", 1, "--steps", HALF + 2]
    forks.train(run, "--resume", *options)
    forks.end()
    assert saved_steps(run) == [HALF + 2, STEPS]


def test_nothing_intact_is_no_reason_to_begin_anew(forks, run):
    checkpoints(run)[0].write_bytes(b"damaged")
    log = (run / "log.jsonl").read_bytes()
    forks.train(run, "--resume", "--steps", STEPS)
    err = forks.end(2)
    one_line(err, f"step-{HALF:08d}")
    assert (run / "log.jsonl").read_bytes() == log


def test_a_checkpoint_of_another_architecture_is_passed_over(forks, run, tmp_path):
    forks.train(tmp_path / "wider", "--steps", 1, "--hid-channels", 64)
    forks.end()
    late = run / "checkpoints" / f"step-{STEPS:08d}.safetensors"
    shutil.copy(checkpoints(tmp_path / "wider")[0], late)
    forks.train(run, "--resume", "--steps", HALF + 1)
    err = forks.end()
    assert [late.name in line for line in err.splitlines() if "passed over" in line] == [True]


@pytest.mark.parametrize("full", ["config", "log", "log on the way", "checkpoint"])
def test_a_full_disk_costs_no_checkpoint(undisturbed, forks, run, full):
    log, good = (run / "log.jsonl").stat().st_size, checkpoints(run)[0].read_bytes()
    size = {"config": 200, "log": log // 2, "log on the way": log, "checkpoint": 10**6}[full]
    options = ["--resume", "--steps", STEPS, "--checkpoint-every", 5]
    forks.train(run, *options, limit=size)
    err = forks.end(2)
    one_line(err, "File too large")
    assert "Traceback" not in err
    assert [path.read_bytes() for path in checkpoints(run)] == [good]
    assert not list(run.rglob(".*"))
    if full == "checkpoint":
        forks.train(run, *options)
        forks.end()
        assert differing(run, undisturbed(1, 1)) == []
        assert losses(run) == losses(undisturbed(1, 1))


def test_no_process_hangs_when_one_cannot_write(forks, tmp_path):
    options = ["--steps", 100000, "--checkpoint-every", 3]
    forks.train(tmp_path / "run", *options, processes=2, limit=10**6)
    err = forks.end(2)
    assert "vfn: [Errno 27] File too large" in err
    assert "vfn: another process of this job has gone" in err  # says the one that is left
    assert "Traceback" not in err
    left = [path.name for path in (tmp_path / "run").rglob(".*")]
    assert left == [".no-checkpoint-yet"]  # so that the same command begins again


def test_places_that_cannot_be_written(forks, tmp_path):
    (tmp_path / "file").write_text("in the way")
    for out in (tmp_path / "file", tmp_path / "file" / "below", Path("/proc/vfn")):
        forks.train(out, "--steps", 1)
        err = forks.end(2)
        one_line(err, str(out) if out.parent == tmp_path else str(out.parent))
        assert len(err.splitlines()) == 1
    assert (tmp_path / "file").read_text() == "in the way"
