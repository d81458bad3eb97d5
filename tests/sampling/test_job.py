"""A job writes the same in any layout, and loses or draws nothing twice after a kill."""

import platform
import signal
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence

from tests.helpers.processes import wait_until
from tests.sampling.conftest import contents
from vfn.sampling import write_samples
from vfn.sampling.output import PARTS, open_output

# Less memory may be free for one process than for another one, which then takes other batches.
SCRIPT = """
import os, sys
from pathlib import Path
import vfn
from vfn.sampling import write_samples
run, out, kind, num, batch, steps, animate = sys.argv[1:]
size = int(batch) + int(os.environ.get("RANK", 0))
draws = vfn.load(run, "cpu").draws(int(num), batch=size, steps=int(steps))
write_samples(draws, Path(out), kind, animate=animate == "animate")
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    """A script that writes samples, for processes of their own."""
    path = tmp_path_factory.mktemp("script") / "script.py"
    path.write_text(SCRIPT)
    return path


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_two_processes_write_what_one_does(run, trained, forks, script, tmp_path, kind):
    write_samples(trained.draws(30, batch=7), tmp_path / "one", kind)
    words = (run, tmp_path / "two", kind, 30, 7, 2, "animate")
    err = forks.run(*words, script=script, processes=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert err.count("30 pictures at guidance") == 1


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_a_killed_job_goes_on(run, trained, forks, script, tmp_path, capsys, kind):
    """SIGKILL among 1,000 pictures: then the whole is there, and what was there is not touched."""
    out = tmp_path / "out"
    draws = trained.draws(1000, batch=50, steps=1)
    output = open_output(kind, out, 1000)
    forks.start(run, out, kind, 1000, 50, 1, "still", script=script)
    wait_until(lambda: len(output.present()) >= 200, forks.alive)
    forks.end(-signal.SIGKILL, signal.SIGKILL)
    kept = output.present()
    assert 200 <= len(kept) < 1000
    times = {p: p.stat().st_mtime_ns for p in out.glob("images/*.png")}
    [written] = write_samples(draws, out, kind, animate=False)
    assert written.present == len(kept) - len(kept) % 50
    assert f"{written.present} of 1000 pictures were there already" in capsys.readouterr().err
    if kind == "png":  # those of a batch that was cut short are written again
        touched = [path for path, then in times.items() if path.stat().st_mtime_ns != then]
        assert len(touched) == len(kept) % 50
    write_samples(draws, tmp_path / "whole", kind, animate=False)
    assert contents(out) == contents(tmp_path / "whole")
    assert open_output(kind, out, 1000).present() == set(range(1000))


@pytest.mark.parametrize("kind", ["png", "npz", "safetensors"])
def test_what_is_there_is_not_drawn_again(trained, tmp_path, drawn, kind):
    draws = trained.draws(20, batch=5)
    [first] = write_samples(draws, tmp_path, kind, animate=False)
    before = contents(tmp_path)
    assert drawn == [5] * 4
    assert first == (tmp_path, tmp_path / "grid.png", 20, 2, 0)
    [again] = write_samples(draws, tmp_path, kind, animate=False)
    assert again == (tmp_path, tmp_path / "grid.png", 20, 0, 20)
    assert len(drawn) == 4
    assert contents(tmp_path) == before
    write_samples(draws, tmp_path, kind, animate=False, fresh=True)
    assert len(drawn) == 8
    assert contents(tmp_path) == before


def test_lost_and_empty_pictures_are_drawn_again(trained, tmp_path, drawn):
    """An empty file is what a power cut may leave."""
    draws = trained.draws(20, batch=5)
    write_samples(draws, tmp_path, animate=False)
    before = contents(tmp_path)
    (tmp_path / "images" / "000007.png").unlink()
    (tmp_path / "images" / "000019.png").write_bytes(b"")
    (tmp_path / "images" / f".000003.png.{platform.node()}.{2**22 + 1}.tmp").write_bytes(b"half")
    [written] = write_samples(draws, tmp_path, animate=False)
    assert written.present == 10
    assert len(drawn) == 6
    assert contents(tmp_path) == before


def test_parts_of_another_batch_are_used(trained, tmp_path, drawn):
    output = open_output("npz", tmp_path, 20)
    write_samples(trained.draws(20, batch=5), tmp_path, "npz", animate=False)
    with np.load(tmp_path / "samples.npz") as file:
        whole = file["arr_0"]
    output.clear()
    output.write(torch.arange(10), torch.from_numpy(whole[:10]).movedim(-1, 1))
    write_samples(trained.draws(20, batch=4), tmp_path, "npz", animate=False)
    assert drawn == [5] * 4 + [4] * 3
    with np.load(tmp_path / "samples.npz") as again:
        assert np.abs(again["arr_0"].astype(int) - whole).max() <= 1
    assert not (tmp_path / PARTS).exists()


def test_a_path_may_be_given_as_text(trained, tmp_path):
    assert write_samples(trained.draws(2), str(tmp_path))[0].folder == Path(tmp_path)


def test_the_animation_comes_from_the_same_pass(trained, tmp_path, drawn):
    write_samples(trained.draws(100, steps=4, batch=30), tmp_path / "a")
    assert drawn == [30, 30, 30, 10]
    write_samples(trained.draws(100, steps=4, batch=30), tmp_path / "b", animate=False)
    for path in (tmp_path / "b").rglob("*.png"):
        assert path.read_bytes() == (tmp_path / "a" / path.relative_to(tmp_path / "b")).read_bytes()
    del drawn[:]
    write_samples(trained.draws(100, steps=4, batch=30), tmp_path / "b")  # all is there
    assert drawn == [30, 20]
    first, second = (
        np.stack([np.asarray(frame.convert("L")) for frame in ImageSequence.Iterator(movie)])
        for movie in (Image.open(tmp_path / name / "denoising.webp") for name in "ab")
    )
    assert len(first) == 5
    assert np.abs(first.astype(int) - second).max() <= 1


def test_an_animation_that_is_there_is_not_drawn_again(trained, tmp_path, drawn):
    draws = trained.draws(4)
    write_samples(draws, tmp_path, grid=False)
    before, made = contents(tmp_path), len(drawn)
    assert "denoising.webp" in before
    write_samples(draws, tmp_path, grid=False)
    assert len(drawn) == made
    assert contents(tmp_path) == before
