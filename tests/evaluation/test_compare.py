"""Stored statistics and comparisons on the command line."""

import json
import shlex
import sys

import numpy as np
import pytest

from vfn.cli import main


@pytest.fixture
def vfn(monkeypatch, capsys):
    """``vfn("eval ...") -> (exit code, stdout, stderr)``."""

    def run(line):
        monkeypatch.setattr(sys, "argv", ["vfn", *shlex.split(line)])
        with pytest.raises(SystemExit) as stopped:
            main()
        return stopped.value.code, *capsys.readouterr()

    return run


def figures(path):
    return {m["name"]: m for m in json.loads(path.read_text())["metrics"]}


def test_stored_statistics_give_the_figures_of_the_pictures(vfn, tmp_path):
    stored, json_path = tmp_path / "r.npz", tmp_path / "m.json"
    assert vfn(f"eval reference --real dataset:digits --out {stored}")[0] == 0
    found = []
    for real in ("dataset:digits", stored):
        line = f"eval --real {real} --fake dataset:digits:test --metrics fid,kid,pr,dc"
        assert vfn(f"{line} --bootstrap 3 --json {json_path}")[0] == 0
        found.append(figures(json_path))
    assert found[0] == found[1]
    low, high = found[0]["Precision"]["interval"]
    assert low < found[0]["Precision"]["value"] < high
    assert found[0]["Kernel distance (pixels)"]["error"] > 0


def test_mean_and_covariance_alone_serve_the_distance(vfn, tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(64), sigma=np.eye(64))
    line = f"eval --real {tmp_path / 'a.npz'} --fake dataset:digits:test --metrics"
    assert "Fréchet distance (pixels)" in vfn(f"{line} fid")[1]
    code, out, err = vfn(f"{line} pr")
    assert (code, out) == (2, "")
    assert "these statistics hold only mean and covariance" in err


def test_comparison_is_ordered_and_drawn(vfn, tmp_path):
    for w, value in ((1.5, 3.0), (0.0, 2.0)):
        record = {"settings": {"guidance": w}, "metrics": [{"name": "FID", "value": value}]}
        (tmp_path / f"{w}.json").write_text(json.dumps(record))
    files = f"--compare {tmp_path}/1.5.json --compare {tmp_path}/0.0.json"
    code, out, _ = vfn(f"eval {files} --plot {tmp_path / 'p.png'}")
    assert code == 0
    assert [line.split()[:2] for line in out.splitlines()] == [
        ["guidance", "FID"], ["0", "2.0000"], ["1.5", "3.0000"]
    ]  # fmt: skip
    assert (tmp_path / "p.png").stat().st_size > 1000


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("eval --fake dataset:digits", "Missing option '--real'"),
        ("eval --compare {tmp}/no.json", "cannot be read: No such file"),
        ("eval --compare {tmp}/x.json", "holds no evaluation"),
        ("eval --compare {tmp}/w.json --against step", "no number 'step' among its settings"),
        ("eval --compare {tmp}/w.json --plot {tmp}/p.gif", "--plot to end in .png, .svg or .pdf"),
        ("eval reference --real dataset:digits --out {tmp}/r.txt", "--out to end in .npz"),
        ("eval --real dataset:digits --fake dataset:digits:test --metrics is", "logits of a class"),
        ("eval --real dataset:digits --fake dataset:digits --features x", "unknown features 'x'"),
    ],
)
def test_mistakes_end_in_one_line(vfn, tmp_path, line, message):
    (tmp_path / "x.json").write_text("[]")
    (tmp_path / "w.json").write_text('{"settings": {"guidance": 1}, "metrics": []}')
    before = sorted(tmp_path.iterdir())
    code, out, err = vfn(line.format(tmp=tmp_path))
    assert (code, out) == (2, "")
    assert len(err.strip().splitlines()) == 1
    assert message in err
    assert sorted(tmp_path.iterdir()) == before
