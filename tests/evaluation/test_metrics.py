"""The table of metrics: every word is complete, and reading it loads nothing heavy."""

import subprocess
import sys

import pytest

from vfn.evaluation.metrics import KINDS, METRICS, usual_metrics
from vfn.evaluation.sides import Judged


@pytest.mark.parametrize("module", ["metrics", "extractors"])
def test_a_table_does_not_load_torch(module):
    code = f"import sys, vfn.evaluation.{module}; print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize("word", METRICS)
def test_a_metric_is_a_function_with_figures(word):
    metric = METRICS[word]
    assert callable(metric.load())
    assert metric.text
    assert metric.figures
    assert all(kind.better in ("lower", "higher") for kind in metric.figures)


def test_keys_and_titles_stand_for_one_figure_each():
    """The first three are those of log.jsonl."""
    assert {"frechet_distance", "precision", "recall", "held_out_loss"} <= KINDS.keys()
    for features in ("pixels", "inception", "x"):
        titles = [kind.title_of(features) for kind in KINDS.values()]
        assert len(set(titles)) == len(titles)
    assert KINDS["frechet_distance"].title_of("pixels") == "Fréchet distance (pixels)"
    assert KINDS["frechet_distance_infinite"].title_of("x") == "Fréchet distance (x), infinite"
    assert KINDS["frechet_distance_infinite"].title_of("inception") == "FID, infinite"
    assert KINDS["kernel_distance"].title_of("inception") == "KID"


def test_another_word_is_refused_by_the_words():
    with pytest.raises(ValueError, match="unknown metric 'x', expected one of fid, fid_infinity, "):
        METRICS.find("x")


def test_the_usual_metrics_are_those_that_the_fakes_serve():
    assert usual_metrics(True) == ["fd", "pr", "agreement", "memorisation", "loss"]
    assert usual_metrics(False) == ["fd", "pr", "agreement", "memorisation"]


def test_a_figure_takes_title_and_direction_from_the_table():
    figure = Judged(None, None, None, None, "vgg16").figure("kernel_distance", 1.0, None, "note")
    assert figure[:6] == ("kernel_distance", "Kernel distance (vgg16)", 1.0, None, "lower", "note")
