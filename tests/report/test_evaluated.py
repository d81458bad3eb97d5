"""Evaluations in one table, a column for each, beside their reference."""

import json
import re
from html import unescape

from tests.helpers.pages import page_of, rows_of, values_of
from tests.helpers.reported import EVALUATION, write_log


def test_numbers_stand_beside_their_reference(run):
    text = unescape(re.sub(r"<[^>]+>", " ", page_of(run)))
    words = " ".join(text.split())
    assert "Metric Model Reference Fréchet distance ↓ 0.03918 0.084 accuracy ↑ 1 –" in words
    assert "Fréchet distance reference: two halves of the real pictures" in words
    assert "steps 64 eta –" in words
    assert "The held-out loss is 0.125 at step 800." in words
    assert "trained for 800 of 1,200 steps" in words
    assert "vfn eval --guidance 0 && echo done" in words
    assert 'logsnr_schedule = "cosine"' in words


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
    page = page_of(bare)
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
    heads = rows_of(page_of(bare), "figures")[0]
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
    page = page_of(bare)
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
