import json
import re
import shutil
from base64 import b64decode
from html import unescape
from html.parser import HTMLParser

import pytest

from tests.helpers.reported import EVALUATION, PICTURES, write_log
from vfn.configs import Config, ModelConfig, dumps
from vfn.report import report

VOID = {"meta", "img"}


def _page(run):
    return report(run).read_text(encoding="utf-8")


def _embedded(page):
    """Type and bytes of every picture in the page."""
    found = re.findall(r'src="data:image/(\w+);base64,([^"]+)"', page)
    return [(kind, b64decode(data, validate=True)) for kind, data in found]


def test_every_picture_is_embedded_whole(run):
    path = report(run)
    assert path == run / "report.html"
    files = [
        *PICTURES,
        "plots/losses.png",
        "plots/loss_by_logsnr.png",
        "samples/step-00000400.png",
        "samples/step-00000800.png",
    ]
    page = path.read_text(encoding="utf-8")
    assert _embedded(page) == [(f.rsplit(".")[-1], (run / f).read_bytes()) for f in files]


def test_the_page_needs_nothing_from_elsewhere(run):
    page = _page(run)
    assert "default-src 'none'" in page
    assert not re.search(r'https?:|(?:src|href)="(?!data:)|<script|<link|url\(|@import', page)
    assert str(run.parent) not in page


def test_the_markup_is_balanced_and_every_picture_is_described(run):
    class Checker(HTMLParser):
        def __init__(self):
            super().__init__()
            self.stack = []
            self.alts = []

        def handle_starttag(self, tag, attrs):
            if tag == "img":
                self.alts.append(dict(attrs)["alt"])
            if tag not in VOID:
                self.stack.append(tag)

        def handle_endtag(self, tag):
            assert self.stack.pop() == tag

    checker = Checker()
    checker.feed(_page(run))
    assert not checker.stack
    assert len(checker.alts) == 7
    assert all(checker.alts)


def test_numbers_stand_beside_their_reference(run):
    text = unescape(re.sub(r"<[^>]+>", " ", _page(run)))
    words = " ".join(text.split())
    assert "two halves of the real pictures 0.03918 0.084 ↓ lower" in words
    assert "accuracy 1 – ↑ higher" in words
    assert "steps 64 eta –" in words
    assert "The held-out loss is 0.125 at step 800." in words
    assert "trained for 800 of 1,600 steps" in words
    assert "vfn eval --guidance 0 && echo done" in words
    assert 'logsnr_schedule = "cosine"' in words


def test_every_evaluation_is_shown(run):
    other = EVALUATION | {"title": "guidance 3", "command": "vfn eval --guidance 3"}
    (run / "metrics.json").write_text(json.dumps(other))
    page = _page(run)
    assert re.findall(r"<h3>(.*?)</h3>", page) == ["guidance 0", "guidance 3"]
    assert "vfn eval --guidance 3\n" in page or "\nvfn eval --guidance 3" in page


def test_metrics_are_drawn_against_training_and_sampling(bare):
    lines = []
    for step in (1, 2):
        lines += [{"step": step, "loss": 1.0, "seconds": 7.0 * step}]
        lines += [{"step": step, "frechet_distance": 1 / step, "precision": 0.5, "recall": 0.5}]
    write_log(bare, lines)
    for guidance in (0.0, 1.0):
        record = {**EVALUATION, "settings": {"guidance": guidance, "sample_timesteps": 4}}
        (bare / f"metrics-{guidance}.json").write_text(json.dumps(record))
    page = _page(bare)
    for what in ("training step", "training time", "guidance"):
        assert f'alt="Metrics against {what}"' in page
    assert "against sampling steps" not in page  # all have the same
    files = sorted(path.name for path in (bare / "plots").iterdir())
    assert files == ["guidance.png", "loss_by_logsnr.png", "losses.png", "step.png",
                     "train_seconds.png"]  # fmt: skip


def test_listed_commands_replace_those_of_the_evaluations(run):
    (run / "commands.json").write_text('["vfn train --config digits", "vfn report"]')
    page = _page(run)
    assert "<code>vfn train --config digits\nvfn report</code>" in page
    assert "vfn eval" not in page


def test_missing_parts_are_left_out(bare):
    page = _page(bare)
    assert re.findall(r"<h2>(.*?)</h2>", page) == ["Configuration"]
    assert not _embedded(page)
    assert "trained for 1,600 steps" in page
    assert not (bare / "plots").exists()


@pytest.mark.parametrize(
    ("removed", "heading"),
    [
        ("sample/grid.png", "Samples"),
        ("sample/denoising.webp", "From noise to picture"),
        ("sweep", "Guidance"),
        ("metrics-w0.json", "Evaluation"),
        ("samples", "Samples during training"),
    ],
)
def test_one_missing_part_removes_one_heading(run, removed, heading):
    before = re.findall(r"<h2>(.*?)</h2>", _page(run))
    path = run / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    expected = [h for h in before if h != heading]
    if heading == "Evaluation":
        expected.remove("How to reproduce")  # its command went too
    assert re.findall(r"<h2>(.*?)</h2>", _page(run)) == expected


def test_text_is_escaped(run):
    evil = '<script>alert("1")</script>'
    value = EVALUATION | {
        "title": evil,
        "settings": {evil: [evil]},
        "metrics": [{"name": evil, "value": 1.0, "note": evil}],
        "command": evil,
    }
    (run / "metrics-w0.json").write_text(json.dumps(value))
    config = (run / "config.toml").read_text()
    (run / "config.toml").write_text(config.replace('"digits"', f"'{evil}'"))
    renamed = run.rename(run.parent / "<script>run")
    page = _page(renamed)
    assert "<script" not in page
    # 6 in the evaluation and its command, 3 in title, heading and sentence, 1 in the configuration.
    assert page.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;") == 10
    assert page.count("&lt;script&gt;run") == 2


def test_a_long_run_shows_some_previews_with_the_first_and_the_last(run):
    for step in range(1000, 60_000, 1000):
        shutil.copy(run / "samples" / "step-00000400.png", run / f"samples/step-{step:08d}.png")
    steps = re.findall(r"<figcaption>Step (\d+)</figcaption>", _page(run))
    assert len(steps) == len(set(steps)) == 12
    assert (steps[0], steps[-1]) == ("400", "59000")


def test_writing_again_gives_the_same_bytes(run):
    before = report(run).read_bytes()
    assert report(run).read_bytes() == before


def test_a_failed_write_leaves_the_old_page_alone(run, monkeypatch):
    def fail(*_):
        raise OSError("disk is full")

    page = report(run)
    before = page.read_bytes()
    (run / "metrics-w0.json").unlink()
    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk is full"):
        report(run)
    assert page.read_bytes() == before
    assert not list(run.rglob("*.tmp"))


def test_a_line_cut_off_by_a_kill_is_left_out(bare):
    (bare / "log.jsonl").write_text('{"step": 20, "loss": 0.5}\n{"step": 40, "lo')
    assert "trained for 20 of 1,600 steps" in _page(bare)


def test_stages_are_a_table_beside_the_teacher_s_picture(distilled):
    page = _page(distilled)
    cells = [
        re.findall(r"<t[hd][^>]*>([^<]*)</t[hd]>", row)
        for row in re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL)
    ]
    assert cells == [
        ["Steps", "Updates", "Loss", "Recall ↑", "Minutes"],
        ["32", "100", "0.5", "0.25", "1.5"],
        ["16", "10", "0.125", "–", "0.1"],
    ]
    shown = [distilled / "teacher.png", distilled / "steps-32/samples/step-00000100.png"]
    assert _embedded(page) == [("png", path.read_bytes()) for path in shown]
    assert "A teacher of 64 steps of DDIM" in page
    assert "in 32, 16, 8, 4, 2, 1 steps: 2 of 6 stages are begun" in page
    assert "trained for" not in page


def test_a_distillation_before_its_first_stage(distilled):
    (distilled / "stages.json").write_text("[]")
    assert "0 of 6 stages are begun" in _page(distilled)


def test_another_network_is_named(bare):
    assert "A UNet that turns noise into pictures" in _page(bare)
    config = Config(model=ModelConfig(network="mine.nets:Small"))
    (bare / "config.toml").write_text(dumps(config))
    assert "A network (mine.nets:Small) that turns noise into pictures" in _page(bare)
