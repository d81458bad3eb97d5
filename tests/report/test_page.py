"""The page: whole in one file, with what a run has, and nothing where it has nothing."""

import hashlib
import json
import re
import shutil
from base64 import b64encode
from html.parser import HTMLParser

import pytest

from tests.helpers.pages import embedded, headings, page_of
from tests.helpers.reported import EVALUATION, PICTURES
from vfn.configs import Config, ModelConfig, dumps
from vfn.report import report

VOID = {"meta", "img"}


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
    assert embedded(page) == [(f.rsplit(".")[-1], (run / f).read_bytes()) for f in files]


def test_the_page_needs_nothing_from_elsewhere(run):
    page = page_of(run)
    assert "default-src 'none'" in page
    assert not re.search(r'https?:|src="(?!data:)|href="(?!#)|<link|url\(|@import', page)
    assert page.count("<script") == 1


def test_the_only_script_that_may_run_is_the_page_s_own(run):
    page = page_of(run)
    script = re.search(r"<script>(.*?)</script>", page, flags=re.DOTALL)[1]
    known = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{known}'\"" in page


def test_every_section_is_linked(run):
    page = page_of(run)
    links = re.findall(r'<li><a href="#([^"]+)">(.*?)</a></li>', page)
    assert [title for _, title in links] == headings(page)
    assert [key for key, _ in links] == re.findall(r'<section id="([^"]+)"', page)


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
    checker.feed(page_of(run))
    assert not checker.stack
    assert len(checker.alts) == 7
    assert all(checker.alts)


def test_a_page_says_since_when_pictures_are_learned_by_heart(run):
    assert "by heart" not in page_of(run)
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 900, "held_out_loss": 0.15}) + "\n")
    said = "is 0.15 at step 900. It was 0.125 at step 800: since then the training pictures"
    assert said in page_of(run)


def test_listed_commands_replace_those_of_the_evaluations(run):
    (run / "commands.json").write_text('["vfn train --config digits", "vfn report"]')
    page = page_of(run)
    assert "How to reproduce" in page
    assert "<code>vfn train --config digits\nvfn report</code>" in page
    assert "vfn eval" not in page


def test_missing_parts_are_left_out(bare):
    page = page_of(bare)
    assert headings(page) == ["Configuration"]
    assert not embedded(page)
    assert "trained for 1,200 steps" in page
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
    before = headings(page_of(run))
    path = run / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    expected = [h for h in before if h != heading]
    if heading == "Evaluation":
        expected.remove("Commands of the evaluations")  # they went too
    assert headings(page_of(run)) == expected


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
    page = page_of(renamed)
    assert page.count("<script") == 1  # the page's own
    # 2 in the table, 2 below it with the note, 2 in the settings, 1 in the command, 3 in title,
    # heading and sentence, 1 in the configuration, 1 beside the losses by log-SNR and 1 over them.
    assert page.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;") == 13
    assert page.count("&lt;script&gt;run") == 2


def test_a_long_run_shows_some_previews_with_the_first_and_the_last(run):
    for step in range(1000, 60_000, 1000):
        shutil.copy(run / "samples" / "step-00000400.png", run / f"samples/step-{step:08d}.png")
    steps = re.findall(r"<figcaption>Step (\d+)</figcaption>", page_of(run))
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
    assert "trained for 20 of 1,200 steps" in page_of(bare)


def test_another_network_is_named(bare):
    assert "A UNet that turns noise into pictures" in page_of(bare)
    config = Config(model=ModelConfig(network="mine.nets:Small"))
    (bare / "config.toml").write_text(dumps(config))
    assert "A network (mine.nets:Small) that turns noise into pictures" in page_of(bare)
