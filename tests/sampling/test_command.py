"""`vfn sample`: every option reaches the function that draws."""

import pytest
from click.testing import CliRunner

import vfn
from vfn.sampling import ask, variants, write_samples


def sample(run, out, *words):
    """The command within this process."""
    from vfn.cli import app

    arguments = ["sample", "--checkpoint", run, "--out", out, "--device", "cpu", *words]
    arguments = list(map(str, arguments))
    result = CliRunner().invoke(app, arguments, obj=arguments, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def contents(folder):
    return {p.relative_to(folder): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    ("words", "opened", "compared", "settings"),
    [
        (["--num", 6], {}, {}, {}),
        (["--num", 6, "--raw", "--precision", "bf16"], {"ema": False, "precision": "bf16"}, {}, {}),
        (["--num", 6, "--labels", "3,7", "--seed", 2], {}, {}, {"labels": "3,7", "seed": 2}),
        (
            ["--num", 6, "--guidance", "0,1", "--sampler", "ddim,heun", "--steps", "2,3"],
            {},
            {"sampler": ["ddim", "heun"], "steps": [2, 3], "guidance": [0.0, 1.0]},
            {},
        ),
        (
            ["--num", 6, "--guidance-interval=-3,5", "--guidance-rescale", 0.5, "--batch", 4],
            {},
            {},
            {"guidance_interval": (-3, 5), "guidance_rescale": 0.5, "batch": 4},
        ),
        (
            ["--num", 6, "--sampler", "ddim", "--eta", 0.5, "--grid", "logsnr"],
            {},
            {},
            {"sampler": "ddim", "eta": 0.5, "grid": "logsnr"},
        ),
    ],
)
def test_the_command_writes_what_the_function_does(
    run, tmp_path, words, opened, compared, settings
):
    text = sample(run, tmp_path / "command", *words)
    network = vfn.load(run, "cpu", **opened)
    write_samples(variants(network, compared, 6, **settings), tmp_path / "function")
    assert contents(tmp_path / "command") == contents(tmp_path / "function")
    assert "6 pictures drawn with " in text


@pytest.mark.parametrize("kind", ["npz", "safetensors"])
def test_formats_and_what_is_left_out(run, trained, tmp_path, kind):
    sample(run, tmp_path / "a", "-n", 4, "--format", kind, "--no-animate", "--no-grid-image")
    write_samples(trained.draws(4), tmp_path / "b", kind, grid=False, animate=False)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_the_same_command_goes_on_and_another_begins_anew(run, tmp_path):
    sample(run, tmp_path, "-n", 4)
    assert "4 of 4 pictures were there already" in sample(run, tmp_path, "-n", 4)
    assert "already" not in sample(run, tmp_path, "-n", 5, "--fresh")
    with pytest.raises(ValueError, match="num 5, now 6; use another --out, or --fresh"):
        sample(run, tmp_path, "-n", 6)


def test_tags_are_combined(tmp_path):
    from tests.helpers.small import SHAPE, small_checkpoint
    from vfn.data import Labels
    from vfn.runs import write_checkpoint

    legend = Labels(("Bald", "Male", "Wavy"), tags=True)
    file = tmp_path / "tags.safetensors"
    write_checkpoint(file, small_checkpoint(shape=SHAPE._replace(legend=legend)))
    sample(file, tmp_path / "a", "--tags", "Male,Wavy", "--tags", "Bald", "-n", 2)
    asked = ask(legend, tags=["Male,Wavy", "Bald"])
    write_samples(vfn.load(file, "cpu").draws(2, asked), tmp_path / "b")
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_labels_as_the_data_have_them(run, tmp_path):
    import csv

    from vfn.data import load_dataset

    text = sample(run, tmp_path, "--labels", "as-data", "-n", 1437, "--steps", 1, "--no-animate")
    assert "labels as in the data, split train: 10 classes, 9.3 % to 10.4 % each" in text
    with (tmp_path / "images" / "labels.csv").open() as file:
        names = [row["label"] for row in csv.DictReader(file)]
    counts = load_dataset("digits").labels.bincount()[1:].tolist()
    assert [names.count(str(digit)) for digit in range(10)] == counts


def test_what_a_record_notes_changes_no_picture(run, trained, tmp_path):
    """Folders of earlier versions, which did not note it, and runs that were moved go on."""
    import json
    import shutil

    write_samples(trained.draws(4), tmp_path / "a", animate=False)
    path = tmp_path / "a" / "settings.json"
    record = json.loads(path.read_text())
    assert record["run"] == str(run)
    assert (record["classes"], record["tags"]) == ([*"0123456789"], False)
    moved = shutil.copytree(run, tmp_path / "elsewhere")
    assert "4 of 4 pictures" in sample(moved, tmp_path / "a", "-n", 4)
    path.write_text(json.dumps({k: v for k, v in record.items() if k not in ("run", "classes")}))
    assert "4 of 4 pictures" in sample(moved, tmp_path / "a", "-n", 4)


def test_a_forgotten_or_written_run(run, tmp_path):
    sample(f"run:{run}", tmp_path, "-n", 4)
    assert "4 of 4 pictures" in sample(run, tmp_path, "-n", 4)
