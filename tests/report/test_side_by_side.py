"""Runs side by side: what the page has of each, and which runs it takes."""

import json
import re
import shutil
from html import unescape

import pytest

from tests.helpers.reported import EVALUATION, write_log
from vfn.configs import dumps, load, override
from vfn.report import compare


@pytest.fixture
def pair(run):
    """A run with everything, and another with less and other settings."""
    other = run.parent / "other"
    (other / "samples").mkdir(parents=True)
    (other / "config.toml").write_text(dumps(override(load("digits"), {"lr": 1e-4, "steps": 40})))
    write_log(other, [{"step": step, "loss": 2 / step} for step in range(10, 41, 10)])
    shutil.copy(run / "samples/step-00000400.png", other / "samples/step-00000400.png")
    figures = [{"key": "recall", "name": "Recall", "value": 0.25, "better": "higher"}]
    record = EVALUATION | {"metrics": figures, "settings": {"guidance": 0.0}}
    (other / "metrics.json").write_text(json.dumps(record))
    return run, other


def words(page):
    return " ".join(unescape(re.sub(r"<script>.*</script>|<[^>]+>", " ", page, flags=re.S)).split())


def test_settings_that_differ_and_no_others(pair):
    page = compare(pair).read_text()
    table = re.search(r"Settings that differ</?.*?</table>", page, flags=re.S)[0]
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', table) == [
        ("steps", "1200", "40"),
        ("lr", "0.003", "0.0001"),
    ]


def test_places_of_the_machine_are_no_part_of_the_page(pair):
    """It may be mailed, as that of a run: of a path the last parts are enough."""
    values = {"dataset": "/home/me/data/cats", "condition": "/home/me/data/edges",
              "data_dir": "/home/me/cache", "guide_with": "run:/home/me/runs/weak"}  # fmt: skip
    own = override(load("digits"), values)
    (pair[0] / "config.toml").write_text(dumps(own))
    (pair[1] / "config.toml").write_text(dumps(override(own, {"condition": "/home/me/new/edges"})))
    line = "vfn eval --real dataset:/home/me/data/cats --fake runs/a"
    for run in pair:
        (run / "commands.json").write_text(json.dumps([line]))
    judged(pair[1], real="dataset:/home/me/data/cats:test", condition="/home/me/data/edges")
    page = compare(pair).read_text()
    assert "/home/me" not in page
    assert "me/data" not in page
    table = re.search(r"Settings that differ</?.*?</table>", page, flags=re.S)[0]
    assert re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', table) == [
        ("condition", "data/edges", "new/edges")
    ]
    for part in ("dataset:data/cats:test", "--real dataset:data/cats --fake runs/a"):
        assert part in page
    assert page.count("condition = &quot;.../edges&quot;") == 2
    assert page.count("guide_with = &quot;run:.../weak&quot;") == 2


def test_runs_of_long_names_have_a_page(pair):
    long = pair[1].rename(pair[1].parent / ("x" * 250))
    page = compare([pair[0], long])
    assert page.name.startswith("compare-xxx")
    assert "x" * 250 in page.read_text()
    assert compare([pair[0], long]) == page


def test_figures_of_both_stand_in_one_table(pair):
    page = compare(pair).read_text()
    heads = re.search(r'<table class="figures".*?</thead>', page, flags=re.S)[0]
    assert "my-run" in heads
    assert "other" in heads
    (recall,) = re.findall(r"<tr><th[^>]*>[^/]*Recall.*?</tr>", page)
    assert re.findall(r'data-value="([^"]*)"', recall) == ["0.25"]
    assert recall.count("<td") == 3  # a dash for the other run, and the reference


def test_pictures_of_the_same_step_stand_beside_each_other(pair):
    page = compare(pair).read_text()
    assert page.count('alt="Generated pictures after step 400"') == 2
    assert "after step 800" not in page  # only one of them has it
    assert "Nothing here yet." in page  # samples of the other
    assert "Curves" not in words(page)
    assert "held-out loss as points, of each run: my-run, training from" in page


def judged(run, name="metrics", **settings):
    """An evaluation of a run at some settings."""
    figures = [{"key": "recall", "name": "Recall", "value": 0.25, "better": "higher"}]
    record = EVALUATION | {"metrics": figures, "settings": settings}
    (run / f"{name}.json").write_text(json.dumps(record))


def heads(page):
    table = re.search(r'<table class="figures".*?</thead>', page, flags=re.S)[0]
    return [words(head) for head in re.findall(r"<th.*?</th>", table, flags=re.S)[1:-1]]


def test_heads_say_in_which_settings_evaluations_of_several_runs_differ(pair):
    run, other = pair
    (run / "metrics-w0.json").unlink()
    judged(run, guidance=0.5, sample_timesteps=8, num=40, seed=0)
    judged(other, guidance=2.0, sample_timesteps=4, num=100, seed=0)
    page = compare(pair).read_text()
    assert heads(page) == [
        "my-run: guidance 0.5, steps 8, pictures: 40",
        "other: guidance 2, steps 4, pictures: 100",
    ]
    assert "Figures compare only at equal numbers of pictures (40, 100)." in page


def test_places_with_the_same_end_are_still_others(pair):
    """In the settings, over the columns, and in what figures hang on."""
    run, other = pair
    (run / "metrics-w0.json").unlink()
    places = [f"/home/me/{age}/data/cats" for age in ("old", "new")]
    own = override(load("digits"), {"guide_with": places[0], "dataset": places[0]})
    (run / "config.toml").write_text(dumps(own))
    changed = {"guide_with": places[1], "dataset": places[1]}
    (other / "config.toml").write_text(dumps(override(own, changed)))
    for each, place in zip(pair, places, strict=True):
        judged(each, guidance=0.5, num=40, real=f"dataset:{place}:test")
    page = compare(pair).read_text()
    assert "/home/me" not in page
    table = re.search(r"Settings that differ</?.*?</table>", page, flags=re.S)[0]
    rows = re.findall(r'<th scope="row">(.*?)</th><td>(.*?)</td><td>(.*?)</td>', table)
    assert [name for name, *_ in rows] == ["dataset", "guide_with"]
    for _, ours, theirs in rows:
        assert ours != theirs
        assert ours[:-8] == theirs[:-8]
    assert len({*heads(page)}) == 2
    assert "Figures compare only at equal real pictures (dataset:data/cats:test-" in page


def test_heads_are_names_where_settings_are_the_same(pair):
    run, other = pair
    (run / "metrics-w0.json").unlink()
    for each in pair:
        judged(each, guidance=0.5, num=40)
    page = compare(pair).read_text()
    assert heads(page) == ["my-run", "other"]
    assert "Figures compare only" not in page
    judged(other, "metrics-again", guidance=0.0, num=40)
    assert heads(compare(pair).read_text()) == [
        "other: guidance 0", "my-run: guidance 0.5", "other: guidance 0.5"
    ]  # fmt: skip


def test_losses_by_level_are_of_the_first_evaluation_that_has_them(pair):
    other = pair[1]
    judged(other, "metrics", guidance=0.0)
    first = json.loads((other / "metrics.json").read_text())
    (other / "metrics.json").write_text(json.dumps(first | {"loss_by_logsnr": []}))
    assert "Nothing is known of other." in compare(pair).read_text()
    judged(other, "metrics-w1", guidance=1.0)
    page = compare(pair).read_text()
    assert "by log signal-to-noise ratio: my-run from 1 at -20 .. 0" in page
    assert "; other from 1 at -20 .. 0" in page
    assert "Nothing is known of" not in page


def test_the_same_settings_are_told(run):
    copied = shutil.copytree(run, run.parent / "copied")
    assert "All settings are the same." in compare([run, copied]).read_text()


def test_the_page_is_beside_the_first_run_or_where_it_is_wanted(pair, tmp_path):
    assert compare(pair) == pair[0] / "compare-other.html"
    assert compare(pair, tmp_path / "page.html").is_file()


def test_writing_again_gives_the_same_bytes(pair):
    assert compare(pair).read_bytes() == compare(pair).read_bytes()


def test_runs_of_one_name_are_told_apart(pair):
    moved = pair[1].rename(pair[0].parent / "below")
    (pair[0].parent / "second").mkdir()
    second = moved.rename(pair[0].parent / "second" / "my-run")
    assert "second/my-run" in words(compare([pair[0], second]).read_text())


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        (["a"], "expected 2 to 4 runs to compare, got 1"),
        (["a"] * 5, "expected 2 to 4 runs to compare, got 5"),
        (["a", "run:a"], "expected different runs to compare, got a a"),
        (["a", "b"], "expected a run directory with a config.toml, got a"),
    ],
)
def test_what_cannot_be_compared_is_refused(runs, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        compare(runs)


def test_of_many_steps_some_are_shown_and_the_last_one(pair):
    for run in pair:
        for step in (100, 200, 300, 500, 600, 700, 750):
            preview = run / f"samples/step-{step:08d}.png"
            shutil.copy(run / "samples/step-00000400.png", preview)
    shown = re.findall(r'alt="Generated pictures after step (\d+)"', compare(pair).read_text())
    assert sorted(set(map(int, shown))) == [200, 400, 600, 750]
