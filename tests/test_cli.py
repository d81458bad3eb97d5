"""The command line: what it writes, and one clear line for every mistake."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tests.helpers.foreign import Reference
from tests.helpers.formats import noise, save_pictures
from tests.helpers.small import SMALL
from vfn.cli import main
from vfn.configs import load
from vfn.data import load_dataset

WAITS, SPINS = "OMP_WAIT_POLICY", "GOMP_SPINCOUNT"


@pytest.fixture
def vfn(monkeypatch, capsys):
    """``vfn("sample --num 3") -> (exit code, stdout, stderr)``."""

    def run(line):
        monkeypatch.setattr(sys, "argv", ["vfn", *shlex.split(line)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, *capsys.readouterr()

    return run


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    """A run directory of a few steps."""
    from click.testing import CliRunner

    from vfn.cli import app

    out = tmp_path_factory.mktemp("run")
    arguments = ["train", "--out", str(out), "--steps", "3", "--device", "cpu", *SMALL]
    result = CliRunner().invoke(app, arguments, obj=arguments)
    assert result.exit_code == 0, result.output
    return out


@pytest.mark.parametrize(
    ("last", "of_training", "options", "told"),
    [
        (0.42, 0.3, "", "was 0.4 at step 2 and is 0.42: .*fewer steps, or anew with --augment"),
        (0.42, 0.3, "--augment 0.12", "train for fewer steps$"),
        (0.403, 0.3, "", None),
        (0.42, 0.6, "", None),  # it diverges
    ],
)
def test_a_run_that_learns_by_heart_says_since_when(
    vfn, tmp_path, last, of_training, options, told
):
    """The losses of its log are others before it goes on by a step."""
    small = " ".join(SMALL)
    quiet = f"--preview-every 0 --device cpu {options}"
    assert vfn(f"train --out {tmp_path} --steps 3 {small} {quiet}")[0] == 0
    with (tmp_path / "log.jsonl").open("a") as log:
        for step, loss in enumerate((0.5, 0.4, last), 1):
            batches = {"loss": of_training if step == 3 else 0.5}
            log.write(json.dumps({"step": step, "held_out_loss": loss} | batches) + "\n")
    code, _, err = vfn(f"train --out {tmp_path} --resume {quiet}")
    assert code == 0
    line = next((line for line in err.splitlines() if "by heart" in line), None)
    assert re.search(told, line) if told else line is None


def test_a_run_directory_holds_what_the_docs_say(trained):
    names = {path.name for path in trained.iterdir()}
    assert names == {"config.toml", "log.jsonl", "checkpoints", "samples"}
    assert [p.name for p in (trained / "samples").iterdir()] == ["step-00000003.png"]


def test_sample_writes_pictures_labels_grid_and_animation(vfn, trained, tmp_path):
    assert vfn(f"sample --checkpoint {trained} --out {tmp_path} --num 7 --labels 3,9")[0] == 0
    rows = (tmp_path / "images" / "labels.csv").read_text().splitlines()
    assert rows[:3] == ["file,label", "000000.png,3", "000001.png,9"]
    assert len(list((tmp_path / "images").glob("*.png"))) == 7
    with Image.open(tmp_path / "images" / "000000.png") as picture:
        assert picture.size == (8, 8)
    with Image.open(tmp_path / "denoising.webp") as animation:
        assert animation.n_frames == 3  # two steps and the result


def test_the_same_seed_gives_the_same_bytes(vfn, trained, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        vfn(f"sample --checkpoint {trained} --out {tmp_path / name} --num 20 --seed {seed}")
    a, b, c = ((tmp_path / n / "grid.png").read_bytes() for n in "abc")
    assert a == b
    assert a != c


def read_npz(path):
    with np.load(path) as file:
        return dict(file)


def test_a_picture_does_not_depend_on_number_and_batch(vfn, trained, tmp_path):
    vfn(f"sample --checkpoint {trained} --out {tmp_path / 'a'} --num 20 --format npz --batch 7")
    vfn(f"sample --checkpoint {trained} --out {tmp_path / 'b'} --num 10 --format npz")
    a, b = (read_npz(tmp_path / n / "samples.npz") for n in "ab")
    assert a["arr_0"].shape == (20, 8, 8, 1)
    assert a["arr_1"].tolist() == [*range(10), *range(10)]
    assert a["class_names"].tolist() == list("0123456789")
    # Another batch size may take another kernel: a grey level may round the other way.
    assert np.abs(a["arr_0"][:10].astype(int) - b["arr_0"]).max() <= 1


@pytest.mark.parametrize(
    "options",
    [
        "--sampler heun --churn 0.2",
        "--sampler dpmpp_2m --grid logsnr",
        "--sampler dpmpp_2m_sde --grid karras",
        "--sampler abm2",
        "--sampler adaptive --tolerance 0.1",
    ],
)
def test_samplers(vfn, trained, tmp_path, options):
    """Each of its own, and its picture the same in every batch."""
    line = f"sample --checkpoint {trained} --num 3 --steps 5 --format npz"
    for name, more in (("a", options), ("b", f"{options} --batch 1"), ("ddim", "--sampler ddim")):
        assert vfn(f"{line} --out {tmp_path / name} {more}")[0] == 0
    a, b, ddim = (read_npz(tmp_path / n / "samples.npz")["arr_0"] for n in ("a", "b", "ddim"))
    assert np.abs(a.astype(int) - b).max() <= 1
    assert not np.array_equal(a, ddim)
    assert (tmp_path / "a" / "denoising.webp").exists()


def test_guidance_sweep(vfn, trained, tmp_path):
    vfn(f"sample --checkpoint {trained} --out {tmp_path} --num 10 --guidance 0,1.5 --format npz")
    compared = {"sweep.png", "sweep.json", "guidance.webp"}
    assert {p.name for p in tmp_path.iterdir()} == {"w0", "w1.5", *compared}
    assert json.loads((tmp_path / "w1.5" / "settings.json").read_text())["guidance"] == 1.5


def test_eval_of_a_run(vfn, trained, tmp_path):
    code, out, _ = vfn(
        f"eval --real dataset:digits --fake run:{trained} --num 50 --json {tmp_path / 'm.json'}"
    )
    record = json.loads((tmp_path / "m.json").read_text())
    figures = {metric["name"]: metric for metric in record["metrics"]}
    assert code == 0
    assert "Recall" in out
    assert figures["Fréchet distance (pixels)"]["value"] > 1  # three steps: nothing learnt
    assert figures["Label agreement"]["reference"] > 0.98
    assert [b["count"] for b in record["loss_by_logsnr"]] == [360] * 8
    assert record["command"].startswith("vfn eval --real dataset:digits")


@pytest.mark.slow
def test_eval_of_bits_per_dimension(vfn, trained, tmp_path, monkeypatch):
    """A picture's figures do not depend on the batch."""
    monkeypatch.setattr("vfn.evaluation.bits.STEPS", 3)
    monkeypatch.setattr("vfn.evaluation.bits.DRAWS", 3)
    monkeypatch.setattr("vfn.evaluation.bits.FLOW_STEPS", 3)
    line = f"eval --real dataset:digits --fake run:{trained} --num 150 --metrics loss --bpd"
    figures = []
    for batch in (180, 100):
        monkeypatch.setattr("vfn.evaluation.bits.BATCH", batch)
        code, out, _ = vfn(f"{line} --json {tmp_path / 'm.json'}")
        assert code == 0
        figures.append(json.loads((tmp_path / "m.json").read_text())["bits_per_dim"])
    assert [f["name"] for f in figures[0]] == [
        "bound, discrete", "bound, continuous", "probability flow"
    ]  # fmt: skip
    assert "probability flow" in out
    assert all(np.isfinite(f["value"]) and f["error"] > 0 for f in figures[0])
    for one, other in zip(*figures, strict=True):
        assert one["value"] == pytest.approx(other["value"], rel=1e-4)


def test_eval_of_real_pictures_in_a_folder(vfn, tmp_path):
    """Held-out pictures, written and read back, are as good as real ones can be."""
    held_out = load_dataset("digits", "test")
    rows = ["file,label"]
    for i, (picture, label) in enumerate(zip(held_out.images, held_out.labels, strict=True)):
        Image.fromarray(picture[0].numpy()).save(tmp_path / f"{i:04}.png")
        rows.append(f"{i:04}.png,{label - 1}")
    (tmp_path / "labels.csv").write_text("\n".join(rows) + "\n")
    vfn(f"eval --real dataset:digits --fake {tmp_path} --json {tmp_path / 'm.json'} "
        "--metrics fd,pr,agreement,memorisation")  # fmt: skip
    metrics = json.loads((tmp_path / "m.json").read_text())["metrics"]
    figures = {metric["name"]: metric["value"] for metric in metrics}
    assert figures["Fréchet distance (pixels)"] < 0.2
    assert figures["Precision"] > 0.85
    assert figures["Label agreement"] > 0.98
    assert figures["Memorised"] == 0


@pytest.fixture(scope="session")
def reference(tmp_path_factory):
    """A folder with a checkpoint of the reference implementation and its configuration."""
    folder = tmp_path_factory.mktemp("reference")
    net = Reference((1,), attends=(False,), out=1, labels=10)
    net(torch.zeros(2, 1, 4, 4), torch.zeros(2), torch.tensor([1, 2]))
    torch.save({"model": net.state, "ema": {"shadow": net.state}}, folder / "ckpt.pt")
    config = {
        "data": {"name": "mnist", "root": "/data"},
        "model": {"in_channels": 1, "hid_channels": 32, "ch_multipliers": [1],
                  "num_res_blocks": 1, "apply_attn": [False]},
        "diffusion": {"model_out_type": "v", "sample_timesteps": 2},
        "conditional": {"use_cfg": True},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def test_import_of_a_checkpoint_and_sampling_of_it(vfn, reference, tmp_path):
    run, out = tmp_path / "run", tmp_path / "out"
    code, _, err = vfn(
        f"import checkpoint {reference}/ckpt.pt --config {reference}/config.json --out {run}"
    )
    assert code == 0
    assert "vfn sample --checkpoint" in err
    assert vfn(f"sample --checkpoint {run} --out {out} --num 2 --labels 3,9 --no-animate")[0] == 0
    with Image.open(out / "images" / "000000.png") as picture:
        assert picture.size == (32, 32)
    assert vfn(f"info {run}")[1].startswith("unet for 1 x 32 x 32, 10 classes, predicts v")


def test_import_of_a_configuration(vfn, reference, tmp_path):
    _, out, err = vfn(f"import config {reference}/config.json")
    vfn(f"import config {reference}/config.json --out {tmp_path}/c.toml")
    assert (tmp_path / "c.toml").read_text() == out
    assert load(f"{tmp_path}/c.toml").data.dataset == "mnist"
    assert err == "left out: data.root: where the data are\n"


def test_info_of_a_run_lists_its_checkpoints(vfn, trained):
    code, out, _ = vfn(f"info {trained}")
    assert code == 0
    assert "step-00000003.safetensors" in out
    assert "newest intact checkpoint: step 3" in out
    file = trained / "checkpoints" / "step-00000003.safetensors"
    again = vfn(f"info {file}")[1]
    of_network = [text.partition("free here")[0] for text in (out, again)]  # what is free changes
    assert of_network[0] == of_network[1]


def test_dry_run_prints_the_configuration_and_writes_nothing(vfn, tmp_path):
    code, out, _ = vfn(f"train --out {tmp_path / 'x'} --dry-run --lr 0.5 --ch-multipliers 1,1")
    assert code == 0
    assert "lr = 0.5" in out
    assert not (tmp_path / "x").exists()


def test_data_are_prepared_and_shown(vfn, tmp_path, monkeypatch):
    monkeypatch.setenv("VFN_DATA", str(tmp_path / "home"))
    save_pictures(tmp_path / "p", {f"{c}/{i}.png": noise(4, 6) for c in "ab" for i in range(10)})
    options = f"--dataset {tmp_path / 'p'} --test-share 0.2"
    code, out, err = vfn(f"data info {options}")
    assert code == 0
    assert out == f"{tmp_path / 'p'} is not prepared in {tmp_path / 'home'}; use vfn data prepare\n"
    code, prepared, err = vfn(f"data prepare {options}")
    assert code == 0
    assert "pictures  16 train, 4 test; 1 x 4 x 6" in prepared
    assert err.startswith(f"preparing p: 20 pictures\nprepared p in {tmp_path / 'home'}")
    assert vfn(f"data info {options}") == (0, prepared, "")
    assert vfn(f"data prepare {options}") == (0, prepared, "")
    assert "prepared p in" in vfn(f"data prepare --fresh {options}")[2]


def test_data_directory_is_an_option(vfn, tmp_path):
    np.save(tmp_path / "a.npy", noise(10, 4, 4))
    _, out, _ = vfn(f"data prepare --dataset {tmp_path / 'a.npy'} --data-dir {tmp_path / 'here'}")
    assert f"prepared  {tmp_path / 'here' / 'prepared' / 'a.npy'}" in out


def test_bad_pictures_are_refused_or_skipped_as_asked(vfn, tmp_path):
    save_pictures(tmp_path / "p", {f"{i}.png": noise(4, 4) for i in range(9)})
    (tmp_path / "p" / "3.png").write_bytes(b"no picture")
    line = f"data prepare --dataset {tmp_path / 'p'} --data-dir {tmp_path}"
    code, out, err = vfn(line)
    assert (code, out) == (2, "")
    assert "1 of 9 pictures in" in err.splitlines()[-1]
    assert "cannot be used: 3.png (cannot identify image file" in err.splitlines()[-1]
    code, out, _ = vfn(f"{line} --on-bad skip")
    assert code == 0
    assert "left out  1: 3.png (cannot identify image file" in out


@pytest.mark.parametrize(
    "verb",
    [
        "",
        "train",
        "sample",
        "eval",
        "import",
        "import config",
        "import checkpoint",
        "info",
        "report",
        "export",
        "data",
        "data prepare",
        "data info",
        "demo",
    ],
)
def test_help(vfn, verb):
    code, out, _ = vfn(f"{verb} --help")
    assert code == 0
    assert out.startswith("Usage: vfn")


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("train --config cats --out {new}", "unknown config 'cats', expected a preset (128, 64,"),
        ("train --config no.toml --out {new}", "config file no.toml does not exist"),
        ("train --out /proc/vfn", "/proc/vfn"),
        ("train --out {file}", "but there is a file"),
        ("train --out {new} --steps 0", "expected steps at least 1, got 0"),
        ("train --out {new} --batch-size 10 --accumulate 4", "use 8 or 12"),
        ("train --out {new} --device tpu9", "expected device auto, cpu or cuda"),
        ("train --out {new} --dataset cats", "unknown data set 'cats', expected one of digits"),
        ("train --out {new} --dataset {empty}", "holds no pictures"),
        ("train --out {new} --dataset {file}", "expected one of digits, mnist5k, glyphs, p"),
        ("train --out {new} --image-size 8,8,8", "image_size to be height, width, got [8, 8, 8]"),
        ("train --out {new} --split valid", "unknown split 'valid', expected one of train, test"),
        ("train --out {new} --init-partial", "expected --init-from with --init-partial"),
        ("train --out {new} --data-dir {file} --dataset {npy}", "but there is a file"),
        ("train --out {new} --data-dir /proc/x --dataset {npy}", "/proc/x"),
        ("data prepare --dataset cats", "unknown data set 'cats', expected one of digits"),
        ("data info --dataset cats", "unknown data set 'cats'"),
        ("data clean", "No such command 'clean'"),
        ("train --out {new} --lr fast", "'fast' is not a valid float"),
        ("train --out {new} --ch-multipliers 1,2,2", "of the 3 levels of ch_multipliers, got 2"),
        ("train --out {new} --resume", "nothing to resume"),
        ("train --out {run}", "already holds a run at step 3; add --resume"),
        ("train", "Missing option '--out'"),
        ("sample --checkpoint {new} --out {out}", "does not exist"),
        ("sample --checkpoint {file} --out {out}", "is damaged or not a checkpoint"),
        ("sample --checkpoint {run} --out {out} --labels 11", "unknown label '11', expected names"),
        ("sample --checkpoint {run} --out {out} --steps 0", "sample_timesteps at least 1, got 0"),
        ("sample --checkpoint {run} --out {out} --guidance abc", "'abc' is not a valid float"),
        ("sample --checkpoint {run} --out {out} --guidance -1", "guidance at least 0, got -1"),
        ("sample --checkpoint {run} --out {out} --guidance 0,x", "'x' is not a valid float"),
        ("sample --checkpoint {run} --out {out} --guidance-interval 5", "such as -3,5, got 5"),
        ("sample --checkpoint {run} --out {out} --guidance-interval 5,-3", "-3,5, got 5,-3"),
        ("sample --checkpoint {run} --out {out} --guidance-interval -inf,3", "at least -1000000.0"),
        ("sample --checkpoint {run} --out {out} --guidance-rescale 2", "in 0..1, got 2"),
        ("sample --checkpoint {run} --out {out} --steps 4,0", "sample_timesteps at least 1, got 0"),
        ("sample --checkpoint {run} --out {out} --labels 3,,4", "unknown label ''"),
        ("sample --checkpoint {run} --out {out} --tags 3", "has classes, not tags; use --labels"),
        ("sample --checkpoint {run} --out {out} --batch 0", "sample_batch at least 1, got 0"),
        ("sample --checkpoint {run} --out {out} --seed -1", "-1 is not in the range x>=0"),
        ("sample --checkpoint {run} --out {out} --format gif", "unknown format 'gif', expected"),
        ("sample --checkpoint {run} --out {out} --precision fp8", "'fp8' is not one of 'fp32'"),
        ("sample --checkpoint {run} --out {taken}", "holds pictures of other settings:"),
        ("sample --checkpoint {run} --out {out} --num 0", "0 is not in the range x>=1"),
        ("sample --checkpoint {run} --out {file}", "but there is a file"),
        ("sample --checkpoint {run} --out {out} --sampler euler", "one of ddim, ancestral"),
        ("sample --checkpoint {run} --out {out} --grid even", "'time', 'logsnr', 'karras'"),
        ("sample --checkpoint {run} --out {out} --sampler unipc --eta 1", "takes no eta"),
        ("sample --checkpoint {run} --out {out} --churn 0.1", "takes no churn"),
        ("sample --checkpoint {run} --out {out} --tolerance 1", "takes no tolerance"),
        (
            "sample --checkpoint {run} --out {out} --sampler adaptive --tolerance 0",
            "tolerance at least 1e-06, got 0",
        ),
        ("eval --real dataset:cats --fake run:{run}", "unknown data set 'cats'"),
        ("eval --real dataset:digits:dev --fake run:{run}", "expected split to be one of train"),
        ("eval --real dataset:digits --fake {new}", "expected pictures at"),
        ("eval --real dataset:digits --fake run:{run} --metrics x --num 9", "unknown metric 'x'"),
        ("eval --real dataset:digits --fake {empty}", "holds no pictures"),
        ("eval --real dataset:digits --fake {empty} --bpd", "--bpd goes with --fake run:DIR"),
        ("eval --real dataset:digits --fake {new} --num 9",
         "new; there is nothing of that name"),
        ("eval nearest --real dataset:digits --fake {empty} --out {out} --num 9",
         "--num goes with --fake run:DIR"),
        ("eval nearest --real dataset:digits --fake {empty} --out {out} --seed 9",
         "--seed goes with --fake run:DIR"),
        ("report {empty}", "expected"),
        ("import checkpoint {new} --config {json} --out {out}", "does not exist"),
        ("import checkpoint {file} --config {json} --out {out}", "it was not loaded"),
        ("import checkpoint {ckpt} --config {file} --out {out}", "is not valid JSON"),
        ("import checkpoint {ckpt} --config {json} --out {run}", "already holds a run"),
        ("import checkpoint {ckpt} --config {json} --out {out} --dataset celeba",
         "expected model.in_channels to be 3, got 1"),
        ("import checkpoint {ckpt} --out {out}", "Missing option '--config'"),
        ("import checkpoint {ckpt} --config {json} --out {out} --dataset cats",
         "knows the data sets mnist, cifar10, celeba, got 'cats'"),
        ("import checkpoint {new} --format diffusers --out {out}", "a folder of diffusers with"),
        ("import checkpoint {new} --format diffusers --config {json} --out {out}",
         "format diffusers brings its configuration; leave out --config"),
        ("import checkpoint {new} --format flax --config cifar10_cond --out {out}",
         "does not exist; expected flax's .msgpack, or an .npz of arrays"),
        ("import checkpoint {file} --format flax --config {json} --out {out}", "unknown config"),
        ("export {run} --out {out}", "expected --out to end in .safetensors"),
        ("export {new} --out {out} --format diffusers", "does not exist"),
        ("export {run} --out {empty}/a.safetensors --licence mit",
         "--licence does not go with --format safetensors; leave it out"),
        ("export {run} --out {out} --format gguf", "unknown export format 'gguf', expected one"),
        ("import config {new}", "cannot be read: No such file"),
        ("import config {json} --dataset cats", "'cats' is not one of 'mnist'"),
        ("import pictures", "No such command 'pictures'"),
        ("info {empty}", "holds no intact checkpoint"),
        ("info cats", "unknown config 'cats'"),
        ("info digits --image 3,x", "'x' is not a valid integer"),
        ("info {run} --classes 3", "expected --image with --classes"),
        ("info {run} --image 1,8,8", "knows its pictures"),
        ("paint", "No such command 'paint'"),
    ],
)  # fmt: skip
def test_mistakes_end_in_one_line(vfn, trained, reference, tmp_path, line, message):
    (tmp_path / "file").write_text("no checkpoint")
    (tmp_path / "empty").mkdir()
    np.save(tmp_path / "a.npy", noise(10, 8, 8))
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "settings.json").write_text(
        '{"seed": 0, "num": 1, "labels": [], "format": "png", "sha256": ""}'
    )
    places = {"new": tmp_path / "new", "out": tmp_path / "out", "file": tmp_path / "file",
              "empty": tmp_path / "empty", "run": trained, "taken": tmp_path / "taken",
              "npy": tmp_path / "a.npy",
              "json": reference / "config.json", "ckpt": reference / "ckpt.pt"}  # fmt: skip
    code, out, err = vfn(line.format(**places))
    assert code == 2
    assert out == ""
    assert len(err.strip().splitlines()) == 1
    assert message in err
    assert not (tmp_path / "new").exists()


@pytest.mark.skipif(sys.platform != "linux", reason="other OpenMP libraries print other lines")
@pytest.mark.parametrize(
    ("given", "heard"), [({}, "20000"), ({SPINS: "7"}, "7"), ({WAITS: "passive"}, "0")]
)
def test_threads_that_wait_soon_sleep_unless_the_user_says_otherwise(given, heard):
    """OpenMP itself tells what it was told: later than its loading it does not listen."""
    environment = {name: value for name, value in os.environ.items() if name not in (WAITS, SPINS)}
    command = [sys.executable, "-m", "vfn", "info", "digits"]
    told = subprocess.run(
        command, env={**environment, "OMP_DISPLAY_ENV": "verbose", **given}, check=True,
        capture_output=True, text=True,
    ).stderr  # fmt: skip
    assert set(re.findall(rf"{SPINS} = '(\d+)'", told)) == {heard}


def test_launcher_is_the_same_entry():
    source = (Path(__file__).parents[1] / "cli.py").read_text()
    assert "from vfn.cli import main" in source
