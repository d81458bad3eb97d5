"""Pages may be mailed: no place of the machine is on them."""

import json
from dataclasses import replace
from html import escape

import pytest

from tests.helpers.pages import page_of
from tests.helpers.reported import EVALUATION
from vfn.configs import Config, dumps


def test_nothing_about_the_machine_is_in_it(run):
    page = page_of(run)
    assert str(run.parent) not in page


def test_pictures_of_one_s_own_are_called_by_their_folder(bare):
    """Pages are sent to others, who have no such place."""
    config = Config()
    data = replace(config.data, dataset="/home/me/my pictures", data_dir="/home/me/data")
    (bare / "config.toml").write_text(dumps(replace(config, data=data)))
    page = page_of(bare)
    assert "/home/me" not in page
    assert "A diffusion model of my pictures</h1>" in page
    assert "dataset = &quot;.../my pictures&quot;" in page


def test_places_of_the_machine_are_no_part_of_the_page(run):
    """It may be mailed: of a path the last two parts are enough."""
    at = {"real": "/home/me/data/cats", "fake": "run:/home/me/runs/a", "run": "/home/me/runs/a",
          "guide_with": "/home/me/runs/weak"}  # fmt: skip
    (run / "metrics-w0.json").write_text(json.dumps(EVALUATION | {"settings": at}))
    other = at | {"real": "dataset:/home/me/data/my dogs:test", "guide_with": "run:/home/me/runs/w"}
    (run / "metrics-w1.json").write_text(json.dumps(EVALUATION | {"settings": other}))
    page = page_of(run)
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
    assert f"<code>{escape(shown)}\nvfn report</code>" in page_of(run)


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
    page = page_of(run)
    assert "/home/me" not in page
    assert shown in page


def test_what_is_no_place_stays(run):
    (run / "metrics.json").write_text(json.dumps(EVALUATION | {"settings": {"real": "12:/30"}}))
    assert "12:/30" in page_of(run)


@pytest.mark.parametrize("place", ["'/home/me/o \"b\"/cats'", '"/home/me/o\'b/cats/"'])
def test_configurations_name_no_place_of_the_machine(bare, place):
    text = dumps(Config()).replace('"digits"', place)
    (bare / "config.toml").write_text(text)
    page = page_of(bare)
    assert "/home/me" not in page
    assert f"dataset = {escape(place[0])}.../cats{escape(place[0])}" in page
