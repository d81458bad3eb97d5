"""Sheets that compare say what differs."""

import json
import shutil

import pytest

from tests.helpers.pages import page_of


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
    page = page_of(run)
    assert f"The same noise: {said}." in page
    assert f'alt="Grids of generated pictures for several values of {said}"' in page
    assert page.count("under growing guidance weight") == 1  # that of the run's own sweep


def test_a_comparison_of_nobody_knows_what_is_not_said_to_be_of_guidance(run):
    compared(run, {}, {})
    page = page_of(run)
    assert "<figcaption>The same noise. In compared.</figcaption>" in page
    assert page.count("under growing guidance weight") == 1


def test_a_sheet_of_one_setting_alone_is_of_guidance(run):
    compared(run, {"guidance": 0.0}, {"guidance": 1.0})
    assert page_of(run).count("under growing guidance weight") == 2
