import hashlib
import json
import re
import shutil
from base64 import b64decode, b64encode
from dataclasses import replace
from html import escape, unescape
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
    assert not re.search(r'https?:|src="(?!data:)|href="(?!#)|<link|url\(|@import', page)
    assert page.count("<script") == 1


def test_the_only_script_that_may_run_is_the_page_s_own(run):
    page = _page(run)
    script = re.search(r"<script>(.*?)</script>", page, flags=re.DOTALL)[1]
    known = b64encode(hashlib.sha256(script.encode()).digest()).decode()
    assert f"script-src 'sha256-{known}'\"" in page


def headings(page):
    """The titles of the sections."""
    return re.findall(r"<h2>(.*?) <a ", page)


def test_every_section_is_linked(run):
    page = _page(run)
    links = re.findall(r'<li><a href="#([^"]+)">(.*?)</a></li>', page)
    assert [title for _, title in links] == headings(page)
    assert [key for key, _ in links] == re.findall(r'<section id="([^"]+)"', page)


def test_nothing_about_the_machine_is_in_it(run):
    page = _page(run)
    assert str(run.parent) not in page


def test_pictures_of_one_s_own_are_called_by_their_folder(bare):
    """Pages are sent to others, who have no such place."""
    config = Config()
    data = replace(config.data, dataset="/home/me/my pictures", data_dir="/home/me/data")
    (bare / "config.toml").write_text(dumps(replace(config, data=data)))
    page = _page(bare)
    assert "/home/me" not in page
    assert "A diffusion model of my pictures</h1>" in page
    assert "dataset = &quot;.../my pictures&quot;" in page


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
    assert "Metric Model Reference Fréchet distance ↓ 0.03918 0.084 accuracy ↑ 1 –" in words
    assert "Fréchet distance reference: two halves of the real pictures" in words
    assert "steps 64 eta –" in words
    assert "The held-out loss is 0.125 at step 800." in words
    assert "trained for 800 of 1,200 steps" in words
    assert "vfn eval --guidance 0 && echo done" in words
    assert 'logsnr_schedule = "cosine"' in words


def test_a_page_says_since_when_pictures_are_learned_by_heart(run):
    assert "by heart" not in _page(run)
    with (run / "log.jsonl").open("a") as log:
        log.write(json.dumps({"step": 900, "held_out_loss": 0.15}) + "\n")
    said = "is 0.15 at step 900. It was 0.125 at step 800: since then the training pictures"
    assert said in _page(run)


def rows_of(page, style):
    """The cells of a table as texts."""
    table = re.search(rf'<table class="{style}".*?</table>', page, flags=re.DOTALL)[0]
    return [
        [unescape(re.sub(r"<[^>]+>", " ", cell)).split() for cell in re.findall(
            r"<t[hd][^>]*>(.*?)</t[hd]>", row, flags=re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", table, flags=re.DOTALL)
    ]  # fmt: skip


def values_of(page, label):
    """The cells of the table below a chart."""
    (found,) = re.findall(
        rf"<details><summary>{label}</summary>.*?</details>", page, flags=re.DOTALL
    )
    return rows_of(found, "values")


def test_a_chart_of_losses_can_be_heard(run):
    """Alt text, and a table of some steps with the ends."""
    page = _page(run)
    alt = (
        "Curves of training loss and held-out loss over steps: training loss from 0.05 at step 20 "
        "to 0.00125 at step 800, least 0.00125 at step 800; held-out loss from 0.25 at step 400 "
        "to 0.125 at step 800, least 0.125 at step 800"
    )
    assert f'alt="{alt}"' in page
    heads, first, *_, last = values_of(page, "Losses by step")
    assert [heads[1:], first, last] == [
        [["training", "loss"], ["held-out", "loss"]],
        [["20"], ["0.05"], ["–"]],
        [["800"], ["0.00125"], ["0.125"]],
    ]
    levels = values_of(page, "Held-out loss by log-SNR")
    assert levels[1] == [["-20", "..", "0"], ["1"]]


def test_a_long_curve_has_a_short_table(bare):
    write_log(bare, [{"step": step, "loss": 1.0} for step in range(1, 2001)])
    rows = values_of(_page(bare), "Losses by step")
    assert (rows[1][0], rows[-1][0]) == (["1"], ["2,000"])
    assert len(rows) < 40


def told(guidance, run=None, **more):
    """An evaluation as `vfn eval` writes it."""
    figures = [
        {"key": "recall", "name": "Recall", "value": 0.5 + guidance, "reference": 0.9,
         "better": "higher", "baseline": "halves", "interval": [0.4, 0.6]},
        {"key": "near_copies", "name": "Near-copies", "value": 0.002, "reference": guidance / 8,
         "better": "lower", "baseline": "held-out", "warning": "9 copies are left out"},
    ]  # fmt: skip
    bits = [{"key": "bits_flow", "name": "probability flow", "value": 2.0, "error": 0.01}]
    settings = {
        "guidance": guidance,
        "fake": "run:somewhere",
        "seed": 0,
        "train_seconds": 12.0,
        "labels": "in turn",
        "fake_classes": [0.1, 0.1],
        "real_classes": [0.05, 0.2],
    }
    settings |= {"run": str(run)} if run else {}
    return {"settings": settings, "metrics": figures, "bits_per_dim": bits, **more}


def test_evaluations_stand_in_one_table(bare):
    for guidance, name in ((0.5, "metrics"), (0.0, "metrics-w0")):
        record = told(guidance, command=f"vfn eval --guidance {guidance}")
        (bare / f"{name}.json").write_text(json.dumps(record))
    page = _page(bare)
    assert rows_of(page, "figures") == [
        [["Metric"], ["guidance", "0"], ["guidance", "0.5"], ["Reference"]],
        [["Recall", "↑"], ["0.5", "0.4", "..", "0.6"], ["1", "0.4", "..", "0.6"], ["0.9"]],
        [
            ["Near-copies", "↓", "9", "copies", "are", "left", "out"],
            ["0.2", "%", "reference", "0", "%"],
            ["0.2", "%", "reference", "6.25", "%"],
            ["beside", "the", "figures"],
        ],
        [
            ["probability", "flow", "↓"],
            ["2", "bits/dim", "±", "0.01", "bits/dim"],
            ["2", "bits/dim", "±", "0.01", "bits/dim"],
            ["–"],
        ],
    ]
    assert page.count("every class as often, 10.0 % each (5.0 % to 20.0 % each among") == 1
    assert page.count("<h3>") == 0
    shown, *_, folded = page.partition("How the figures were computed")
    assert "train_seconds" not in shown
    assert ["train_seconds"] in [row[0] for row in rows_of(folded, "settings")]
    assert ["12", "s"] in rows_of(folded, "settings")[4]
    assert "How to reproduce" not in page  # the training is not among them
    commands = unescape(page).partition("<h2>Commands of the evaluations")[2]
    assert "vfn eval --guidance 0.0\nvfn eval --guidance 0.5" in commands


def test_evaluations_with_the_same_settings_have_titles_of_their_own(bare):
    for name in ("metrics", "metrics-again"):
        (bare / f"{name}.json").write_text(json.dumps(told(0.5)))
    heads = rows_of(_page(bare), "figures")[0]
    assert [" ".join(head) for head in heads[1:3]] == ["metrics-again", "metrics"]


def test_metrics_are_drawn_against_training_and_sampling(bare):
    lines = []
    for step in (1, 2, 3):
        lines += [{"step": step, "loss": 1.0, "seconds": 7.0 * step}]
        lines += [{"step": step, "frechet_distance": 1 / step, "precision": 0.5, "recall": 0.5}]
    write_log(bare, lines)
    for guidance in (0.0, 0.5, 1.0):
        record = {**EVALUATION, "settings": {"guidance": guidance, "sample_timesteps": 4}}
        (bare / f"metrics-{guidance}.json").write_text(json.dumps(record))
    page = _page(bare)
    for what in ("training step", "training time", "guidance"):
        assert f'alt="Metrics against {what}:' in page
    assert "against sampling steps" not in page  # all have the same
    said = "Metrics against training step: Fréchet distance 1 at 1, 0.3333 at 3; Precision"
    assert said in page
    assert rows_of(page, "values")[0][0] == ["Step"]
    assert [" ".join(cell) for cell in values_of(page, "Figures during the training")[2]] == [
        "2",
        "14",
        "0.5",
        "0.5",
        "0.5",
    ]
    files = sorted(path.name for path in (bare / "plots").iterdir())
    assert files == ["guidance.png", "loss_by_logsnr.png", "losses.png", "step.png",
                     "train_seconds.png"]  # fmt: skip


def compared(run, *records):
    """A sheet of some folders, with what is recorded of each."""
    for number, record in enumerate(records):
        folder = run / "compared" / str(number)
        folder.mkdir(parents=True)
        whole = {"seed": 0, "num": 4, "labels": [], "format": "png", "sha256": "", **record}
        (folder / "settings.json").write_text(json.dumps(whole))
    shutil.copy(run / "sweep" / "sweep.png", run / "compared")


@pytest.mark.parametrize(
    ("records", "said"),
    [
        (
            [{"guide_with": "20", "guide_weight": 0.5}, {"guide_with": "20", "guide_weight": 1.0}],
            "weight of the weaker network",
        ),
        ([{}, {"guide_with": "20", "guide_weight": 1.0}], "weight of the weaker network"),
        ([{"guide_with": name, "guide_weight": 1.0} for name in "ab"], "weaker network"),
        ([{"eta": 1.0}, {"eta": 0.5, "guidance": 1.0}], "guidance and eta"),
    ],
)
def test_a_comparison_says_what_differs(run, records, said):
    """Settings that are not in use stand in no record."""
    compared(run, *({"guidance": 0.5, **record} for record in records))
    page = _page(run)
    assert f"The same noise: {said}." in page
    assert f'alt="Grids of generated pictures for several values of {said}"' in page
    assert page.count("under growing guidance weight") == 1  # that of the run's own sweep


def test_a_comparison_of_nobody_knows_what_is_not_said_to_be_of_guidance(run):
    compared(run, {}, {})
    page = _page(run)
    assert "<figcaption>The same noise. In compared.</figcaption>" in page
    assert page.count("under growing guidance weight") == 1


def test_a_sheet_of_one_setting_alone_is_of_guidance(run):
    compared(run, {"guidance": 0.0}, {"guidance": 1.0})
    assert _page(run).count("under growing guidance weight") == 2


def test_listed_commands_replace_those_of_the_evaluations(run):
    (run / "commands.json").write_text('["vfn train --config digits", "vfn report"]')
    page = _page(run)
    assert "How to reproduce" in page
    assert "<code>vfn train --config digits\nvfn report</code>" in page
    assert "vfn eval" not in page


def test_missing_parts_are_left_out(bare):
    page = _page(bare)
    assert headings(page) == ["Configuration"]
    assert not _embedded(page)
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
    before = headings(_page(run))
    path = run / removed
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    expected = [h for h in before if h != heading]
    if heading == "Evaluation":
        expected.remove("Commands of the evaluations")  # they went too
    assert headings(_page(run)) == expected


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
    assert page.count("<script") == 1  # the page's own
    # 2 in the table, 2 below it with the note, 2 in the settings, 1 in the command, 3 in title,
    # heading and sentence, 1 in the configuration, 1 beside the losses by log-SNR and 1 over them.
    assert page.count("&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt;") == 13
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
    assert "trained for 20 of 1,200 steps" in _page(bare)


def test_stages_are_a_table_beside_the_teacher_s_picture(distilled):
    page = _page(distilled)
    cells = [
        re.findall(r"<t[hd][^>]*>(?:<button[^>]*>)?([^<]*)<", row)
        for row in re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL)
    ]
    assert cells == [
        ["Steps", "Updates", "Loss", "Recall ↑", "Time"],
        ["32", "100", "0.5", "0.25", "1.5 min"],
        ["16", "10", "0.125", "–", "9 s"],
    ]
    shown = [distilled / "teacher.png", distilled / "steps-32/samples/step-00000100.png"]
    assert _embedded(page) == [("png", path.read_bytes()) for path in shown]
    assert "A teacher of 64 steps of DDIM" in page
    assert "in 32, 16, 8, 4, 2, 1 steps: 2 of 6 stages are begun" in page
    assert "trained for" not in page


def test_stages_with_all_their_updates_are_finished(distilled):
    assert "2 of 6 stages are begun." in _page(distilled)
    steps = (32, 16, 8, 4, 2, 1)
    rows = [{"student_steps": n, "updates": 10**6, "loss": 0.5} for n in steps]
    (distilled / "stages.json").write_text(json.dumps(rows))
    assert "6 of 6 stages are finished." in _page(distilled)


def test_a_distillation_before_its_first_stage(distilled):
    (distilled / "stages.json").write_text("[]")
    assert "0 of 6 stages are begun" in _page(distilled)


def test_another_network_is_named(bare):
    assert "A UNet that turns noise into pictures" in _page(bare)
    config = Config(model=ModelConfig(network="mine.nets:Small"))
    (bare / "config.toml").write_text(dumps(config))
    assert "A network (mine.nets:Small) that turns noise into pictures" in _page(bare)


def test_places_of_the_machine_are_no_part_of_the_page(run):
    """It may be mailed: of a path the last two parts are enough."""
    at = {"real": "/home/me/data/cats", "fake": "run:/home/me/runs/a", "run": "/home/me/runs/a",
          "guide_with": "/home/me/runs/weak"}  # fmt: skip
    (run / "metrics-w0.json").write_text(json.dumps(EVALUATION | {"settings": at}))
    other = at | {"real": "dataset:/home/me/data/my dogs:test", "guide_with": "run:/home/me/runs/w"}
    (run / "metrics-w1.json").write_text(json.dumps(EVALUATION | {"settings": other}))
    page = _page(run)
    assert "/home/me" not in page
    for part in ("data/cats", "run:runs/a", "runs/weak", "dataset:data/my dogs:test", "run:runs/w"):
        assert part in page


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("vfn eval --real dataset:/home/me/cats:test", "vfn eval --real dataset:me/cats:test"),
        ("vfn report '/home/me/my runs/a b/'", "vfn report 'my runs/a b'"),
        ("vfn report /home/me/my\\ runs/a", "vfn report 'my runs/a'"),
        ("vfn x --out=/home/me/r/a /home/me/r/a/b | less", "vfn x --out=r/a a/b | less"),
        ("vfn x /home/me/r/a /home/me/r/a/b | less", "vfn x r/a a/b '|' less"),
        ("vfn train --config digits && ls 'a b'", "vfn train --config digits && ls 'a b'"),
        ("vfn load hf://owner/name runs/a", "vfn load hf://owner/name runs/a"),
        ("vfn report '/home/me/runs/a", "vfn report 'runs/a"),
    ],
)
def test_commands_name_no_place_of_the_machine(run, line, shown):
    (run / "commands.json").write_text(json.dumps([line, "vfn report"]))
    assert f"<code>{escape(shown)}\nvfn report</code>" in _page(run)


@pytest.mark.parametrize(
    ("place", "shown"),
    [
        ("file:///home/me/data/cats", "data/cats"),
        ("//home/me/data/cats", "data/cats"),
        ("tar:/home/me/data/cats", "data/cats"),
        (["/home/me/data/cats", "run:/home/me/runs/a"], "data/cats, run:runs/a"),
        ("/home/me/data/cats, /home/me/runs/a", "data/cats, runs/a"),
    ],
)
def test_settings_of_evaluations_name_no_place_of_the_machine(run, place, shown):
    (run / "metrics.json").write_text(json.dumps(EVALUATION | {"settings": {"real": place}}))
    page = _page(run)
    assert "/home/me" not in page
    assert shown in page


def test_what_is_no_place_stays(run):
    (run / "metrics.json").write_text(json.dumps(EVALUATION | {"settings": {"real": "12:/30"}}))
    assert "12:/30" in _page(run)


@pytest.mark.parametrize("place", ["'/home/me/o \"b\"/cats'", '"/home/me/o\'b/cats/"'])
def test_configurations_name_no_place_of_the_machine(bare, place):
    text = dumps(Config()).replace('"digits"', place)
    (bare / "config.toml").write_text(text)
    page = _page(bare)
    assert "/home/me" not in page
    assert f"dataset = {escape(place[0])}.../cats{escape(place[0])}" in page
