"""`vfn sample`: the same pictures in any layout, and none lost or drawn twice after a kill."""

import json
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.numpy import load_file

from tests.helpers.small import SMALL
from vfn.cli import app
from vfn.sampling.output import PARTS, open_output
from vfn.sampling.trained import open_trained

ROOT = Path(__file__).parents[2]
LAUNCHER = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def invoke(*words):
    """A command within this process."""
    arguments = list(map(str, words))
    result = CliRunner().invoke(app, arguments, obj=arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def sample(run, out, *words):
    return invoke("sample", "--checkpoint", run, "--out", out, *words)


def process(run, out, *words):
    """The same as a command line of its own."""
    return [str(ROOT / "cli.py"), "sample", "--checkpoint", str(run), "--out", str(out),
            "--device", "cpu", *map(str, words)]  # fmt: skip


def contents(folder):
    """Name and bytes of every file below a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A network that has barely been trained, and whose average differs from its parameters."""
    out = tmp_path_factory.mktemp("run")
    invoke("train", "--out", out, "--steps", "3", "--lr", "1e-2", "--device", "cpu", *SMALL)
    return out


@pytest.fixture
def drawn(monkeypatch):
    """How many pictures each call of `generate` draws."""
    calls = []
    whole = open_trained.__globals__["generate"]

    def counting(*args, **options):
        calls.append(len(args[6]))
        return whole(*args, **options)

    monkeypatch.setitem(open_trained.__globals__, "generate", counting)
    return calls


@pytest.mark.parametrize("sampler", ["ddim", "dpmpp_2m_sde", "ancestral"])
def test_pictures_before_rounding_do_not_depend_on_the_batch(run, sampler, monkeypatch):
    """To 1e-5, and bit for bit in batches of one size, whichever others are drawn."""
    monkeypatch.setattr("vfn.sampling.generate.to_uint8", lambda images: images)
    trained = open_trained(run, "cpu", print)
    settings = replace(trained.checkpoint.config.sample, sampler=sampler, sample_timesteps=3)
    labels, indices = torch.arange(64) % 10 + 1, torch.arange(64)

    def draw(batch, chosen):
        sized = replace(settings, sample_batch=batch, guidance=1.0)
        return trained.generate(sized, labels[chosen], indices[chosen], seed=3)

    whole = draw(64, indices)
    assert whole.dtype == torch.float32
    torch.testing.assert_close(draw(1, indices[:9]), whole[:9], rtol=0, atol=1e-5)
    sevens = draw(7, indices)
    torch.testing.assert_close(sevens, whole, rtol=0, atol=1e-5)
    backwards = torch.arange(63, -1, -1)
    assert torch.equal(draw(64, backwards)[backwards], whole)
    assert torch.equal(draw(7, indices[14:28]), sevens[14:28])


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_two_processes_write_what_one_does(run, tmp_path, kind):
    options = ["-n", 30, "--batch", 7, "--format", kind]
    sample(run, tmp_path / "one", *options)
    two = process(run, tmp_path / "two", *options)
    done = subprocess.run([*LAUNCHER, *two], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    one, two = contents(tmp_path / "one"), contents(tmp_path / "two")
    assert one == two
    assert done.stderr.count("30 pictures at guidance") == 1


@pytest.mark.parametrize("kind", ["png", "npz"])
def test_a_killed_job_goes_on(run, tmp_path, kind):
    """SIGKILL among 2,000 pictures: then the whole is there, and what was there is not touched."""
    out, options = tmp_path / "out", ["--num", 2000, "--batch", 50, "--steps", 1, "--no-animate"]
    options += ["--format", kind]
    output = open_output(kind, out, 2000)
    killed = subprocess.Popen([sys.executable, *process(run, out, *options)])
    while len(output.present()) < 300:
        assert killed.poll() is None, "it ended before it was killed"
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    kept = output.present()
    assert 300 <= len(kept) < 2000
    times = {p: p.stat().st_mtime_ns for p in out.glob("images/*.png")}
    done = subprocess.run(
        [sys.executable, *process(run, out, *options)], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert f"{len(kept) - len(kept) % 50} of 2000 pictures were there already" in done.stderr
    if kind == "png":  # those of a batch that was cut short are written again
        touched = [path for path, then in times.items() if path.stat().st_mtime_ns != then]
        assert len(touched) == len(kept) % 50
    sample(run, tmp_path / "whole", *options)
    assert contents(out) == contents(tmp_path / "whole")
    assert open_output(kind, out, 2000).present() == set(range(2000))


@pytest.mark.parametrize("kind", ["png", "npz", "safetensors"])
def test_what_is_there_is_not_drawn_again(run, tmp_path, drawn, kind):
    options = ["--num", 20, "--batch", 5, "--format", kind, "--no-animate"]
    sample(run, tmp_path, *options)
    before = contents(tmp_path)
    assert drawn == [5] * 4
    assert "20 of 20 pictures were there already" in sample(run, tmp_path, *options)
    assert len(drawn) == 4
    assert contents(tmp_path) == before
    sample(run, tmp_path, *options, "--fresh")
    assert len(drawn) == 8
    assert contents(tmp_path) == before


def test_lost_and_empty_pictures_are_drawn_again(run, tmp_path, drawn):
    """An empty file is what a power cut may leave."""
    options = ["--num", 20, "--batch", 5, "--no-animate"]
    sample(run, tmp_path, *options)
    before = contents(tmp_path)
    (tmp_path / "images" / "000007.png").unlink()
    (tmp_path / "images" / "000019.png").write_bytes(b"")
    (tmp_path / "images" / ".000003.png.17.tmp").write_bytes(b"half")
    sample(run, tmp_path, *options)
    assert len(drawn) == 6
    assert contents(tmp_path) == before


def test_parts_of_another_batch_are_used(run, tmp_path, drawn):
    output = open_output("npz", tmp_path / "a", 20)
    sample(run, tmp_path / "a", "--num", 20, "--batch", 5, "--format", "npz", "--no-animate")
    with np.load(tmp_path / "a" / "samples.npz") as file:
        whole = file["arr_0"]
    output.clear()
    output.write(torch.arange(10), torch.from_numpy(whole[:10]).movedim(-1, 1))
    sample(run, tmp_path / "a", "--num", 20, "--batch", 4, "--format", "npz", "--no-animate")
    assert drawn == [5] * 4 + [4] * 3
    with np.load(tmp_path / "a" / "samples.npz") as again:
        assert np.abs(again["arr_0"].astype(int) - whole).max() <= 1
    assert not (tmp_path / "a" / PARTS).exists()


def test_formats_hold_the_same_pictures(run, tmp_path):
    for kind in ("png", "npz", "safetensors"):
        sample(run, tmp_path / kind, "--num", 12, "--format", kind, "--labels", "3,9")
    with np.load(tmp_path / "npz" / "samples.npz") as file:
        array, labels = file["arr_0"], file["arr_1"]
    assert array.shape == (12, 8, 8, 1)
    assert array.dtype == np.uint8
    assert labels.tolist() == [4, 10] * 6
    for i in range(12):
        with Image.open(tmp_path / "png" / "images" / f"{i:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), array[i, ..., 0])
    tensors = load_file(tmp_path / "safetensors" / "samples.safetensors")
    assert np.array_equal(tensors["images"], array.transpose(0, 3, 1, 2))
    assert np.array_equal(tensors["labels"], labels)
    grids = {(tmp_path / kind / "grid.png").read_bytes() for kind in ("png", "npz", "safetensors")}
    assert len(grids) == 1


@pytest.mark.parametrize(
    "options",
    [
        ["--raw"],
        ["--precision", "bf16"],
        ["--guidance", "2", "--guidance-interval=-3,5"],
        ["--guidance", "2", "--guidance-rescale", "1"],
        ["--guidance", "2"],
    ],
)
def test_options_change_the_pictures(run, tmp_path, options):
    common = ["--num", 4, "--steps", 8, "--format", "npz", "--no-animate", "--no-grid-image"]
    arrays = []
    for name, more in (("plain", ["--guidance", "0"]), ("other", options)):
        sample(run, tmp_path / name, *common, *more)
        with np.load(tmp_path / name / "samples.npz") as file:
            arrays.append(file["arr_0"])
    assert not np.array_equal(*arrays)
    assert {p.name for p in (tmp_path / "other").iterdir()} == {"samples.npz", "settings.json"}


@pytest.mark.parametrize(
    ("options", "name"),
    [
        (["--seed", "1"], "seed 0, now 1"),
        (["--steps", "3"], "sample_timesteps 2, now 3"),
        (["--labels", "3,9"], 'labels ["0", "1"'),
        (["--num", "21"], "num 20, now 21"),
        (["--format", "npz"], 'format "png", now "npz"'),
        (["--raw"], 'parameters "ema", now "raw"'),
        (["--guidance", "0.25"], "guidance 0.5, now 0.25"),
        (["--guidance-interval=-3,5"], "guidance_interval null, now [-3.0, 5.0]"),
        (["--precision", "bf16"], 'precision "fp32", now "bf16"'),
    ],
)
def test_pictures_of_other_settings_are_left_alone(run, tmp_path, drawn, options, name):
    sample(run, tmp_path, "--num", 20, "--no-animate")
    before = contents(tmp_path)
    with pytest.raises(ValueError, match="holds pictures of other settings") as refused:
        CliRunner().invoke(
            app,
            ["sample", "--checkpoint", str(run), "--out", str(tmp_path), "--num", "20",
             "--no-animate", *options],
            obj=[], catch_exceptions=False,
        )  # fmt: skip
    assert name in str(refused.value)
    assert "use another --out, or --fresh to draw them anew" in str(refused.value)
    assert len(drawn) == 1
    assert contents(tmp_path) == before


def test_pictures_of_another_network_are_left_alone(run, tmp_path):
    """Even at the same step."""
    sample(run, tmp_path, "--num", 2, "--no-animate")
    record = json.loads((tmp_path / "settings.json").read_text())
    (tmp_path / "settings.json").write_text(json.dumps(record | {"sha256": "0"}))
    with pytest.raises(ValueError, match='other settings: sha256 "0", now'):
        CliRunner().invoke(
            app,
            ["sample", "--checkpoint", str(run), "--out", str(tmp_path), "--num", "2"],
            obj=[], catch_exceptions=False,
        )  # fmt: skip


@pytest.mark.parametrize("spoil", [lambda path: path.unlink(), lambda path: path.write_text("{")])
def test_pictures_without_a_record_are_left_alone(run, tmp_path, spoil):
    sample(run, tmp_path, "--num", 2, "--no-animate")
    spoil(tmp_path / "settings.json")
    with pytest.raises(ValueError, match="of unknown settings|cannot be read"):
        CliRunner().invoke(
            app,
            ["sample", "--checkpoint", str(run), "--out", str(tmp_path), "--num", "2"],
            obj=[], catch_exceptions=False,
        )  # fmt: skip


def test_a_compiled_network_draws_the_same(run, tmp_path, monkeypatch):
    """With the compiler's front end alone: what the other one does takes half a minute."""
    compile_, graphs = torch.compile, []

    def seen(graph, _inputs):
        graphs.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda call, **_: compile_(call, backend=seen))
    for name, more in (("a", []), ("b", ["--compile"])):
        sample(run, tmp_path / name, "--num", 3, "--no-animate", *more)
    assert len(graphs) == 1
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_solvers_and_steps_are_compared(run, tmp_path):
    out = sample(run, tmp_path, "--num", 10, "--steps", "1,2,4", "--sampler", "ddim,unipc")
    folders = {f"{s}-steps{n}" for s in ("ddim", "unipc") for n in (1, 2, 4)}
    assert {path.name for path in tmp_path.iterdir()} == folders | {"sweep.png"}
    assert f"comparison: {tmp_path / 'sweep.png'}" in out
    record = json.loads((tmp_path / "unipc-steps4" / "settings.json").read_text())
    assert (record["sampler"], record["sample_timesteps"]) == ("unipc", 4)
    with Image.open(tmp_path / "sweep.png") as sheet:  # two blocks of three rows of ten tiles
        assert sheet.height > 2 * 3 * 48
        assert sheet.width > 10 * 48


def test_guidance_is_animated(run, tmp_path):
    sample(run, tmp_path, "--num", 10, "--guidance", "0,1,20")
    with Image.open(tmp_path / "guidance.webp") as animation:
        assert animation.n_frames == 3
    shutil.rmtree(tmp_path)
    sample(run, tmp_path, "--num", 10, "--guidance", "0,1", "--no-animate")
    assert not (tmp_path / "guidance.webp").exists()


def test_learned_variance_from_training_to_pictures(run, tmp_path):
    learned = ["--learned-variance", "true", "--train-timesteps", "8", "--lr", "1e-2"]
    invoke("train", "--out", tmp_path / "run", "--steps", "3", "--device", "cpu", *SMALL, *learned)
    options = ["--num", "4", "--sampler", "ancestral", "--steps", "3"]
    text = sample(tmp_path / "run", tmp_path / "a", *options, "--var-type", "learned")
    assert "NFE 3" in text
    sample(tmp_path / "run", tmp_path / "b", *options, "--var-type", "learned", "--guidance", "1")
    sample(tmp_path / "run", tmp_path / "c", *options, "--var-type", "fixed_small")
    sample(tmp_path / "run", tmp_path / "d", "--num", "4", "--var-type", "learned")  # of ddim: none
    pictures = {(tmp_path / name / "grid.png").read_bytes() for name in "abc"}
    assert len(pictures) == 3
    with pytest.raises(ValueError, match="needs a model trained with learned_variance"):
        CliRunner().invoke(
            app,
            ["sample", "--checkpoint", str(run), "--out", str(tmp_path / "e"), *options,
             "--var-type", "learned"],
            obj=[], catch_exceptions=False,
        )  # fmt: skip
    assert not (tmp_path / "e").exists()


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--sampler", "heun", "--steps", "4"], "with heun, NFE 6\n"),
        (["--guidance", "1"], "with ddim, NFE 2 of doubled batches for guidance\n"),
        (["--sampler", "adaptive"], "with adaptive, NFE up to "),
    ],
)
def test_evaluations_are_told(run, tmp_path, options, told):
    text = sample(run, tmp_path / "out", "--num", "4", "--guidance", "0", *options)
    assert f"4 pictures drawn {told}" in text
