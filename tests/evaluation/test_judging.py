"""Whatever stands for a side is judged, with what the figures depend on beside them."""

import json

import numpy as np
import pytest

from tests.evaluation.conftest import REAL, values
from vfn.evaluation.extractors import PIXELS, extractor_of
from vfn.evaluation.features import compute_statistics, save_statistics
from vfn.evaluation.judging import judge
from vfn.evaluation.record import read_evaluation


@pytest.fixture
def pictures(held_out, tmp_path):
    """The same pictures in every form."""
    np.savez(tmp_path / "p.npz", arr_0=held_out.images.permute(0, 2, 3, 1).numpy())
    statistics = compute_statistics(held_out.images, PIXELS)
    save_statistics(tmp_path / "s.npz", statistics)
    return {
        "spec": "dataset:digits:test",
        "pictures in a file": str(tmp_path / "p.npz"),
        "path": tmp_path / "p.npz",
        "statistics in a file": tmp_path / "s.npz",
        "tensor": held_out.images,
        "array": held_out.images.numpy(),
        "array, channels last": held_out.images.movedim(1, -1).numpy(),
        "data set": held_out,
        "statistics": statistics,
    }


def test_every_form_of_pictures_gets_the_same_figures(pictures):
    found = {form: values(judge(REAL, given, device="cpu")) for form, given in pictures.items()}
    assert found["spec"]["frechet_distance"] < 0.2
    for form, figures in found.items():
        assert figures == found["spec"], form
    real = {form: values(judge(given, REAL, device="cpu")) for form, given in pictures.items()}
    for form, figures in real.items():
        assert figures == real["spec"], form
    assert real["spec"] != found["spec"]


def test_every_form_of_a_network_gets_the_same_figures(trained, run):
    draws = trained.draws(20, seed=3)
    forms = {"run": f"run:{run}", "network": trained, "draws": draws, "images": draws.all().images}
    found = {
        form: judge(REAL, given, num=20, seed=3, device="cpu") for form, given in forms.items()
    }
    for form, evaluation in found.items():
        assert values(evaluation) == values(found["run"]), form
    changed = judge(REAL, trained.draws(20, seed=3, steps=1), seed=3, device="cpu")
    assert values(changed) != values(found["run"])
    assert changed.settings["sample_timesteps"] == 1


def test_a_network_may_be_the_real_side(trained):
    found = judge(trained, trained, ["pr"], num=20, device="cpu")
    assert values(found)["precision"] == 1
    assert found.settings["real_sha256"] == trained.digest


def test_settings_say_what_the_figures_depend_on(trained, run):
    settings = judge(REAL, f"run:{run}", num=20, seed=4, bootstrap=2, device="cpu").settings
    some = {
        "real": REAL, "fake": f"run:{run}", "seed": 4, "num": 20, "labels": "in turn", "step": 7,
        "train_seconds": 2.5, "ema_sha256": trained.digest, "sampler": "abm2",
        "sample_timesteps": 2, "real_num": 1437, "bootstrap": 2, "extractor": "pixels",
    }  # fmt: skip
    assert {name: settings[name] for name in some} == some
    json.dumps(settings)
    assert settings["sample_seed"] == 4
    draws = trained.draws(4, ["3", "7"], seed=5)
    settings = judge(REAL, draws, device="cpu").settings
    assert settings["labels"] == "3,7"
    assert settings["sample_seed"] == 5
    assert settings["fake"] == "a network in memory"
    settings = judge(REAL, "dataset:digits:test", device="cpu").settings
    assert "step" not in settings
    assert settings["num"] == 360


def test_metrics_of_the_network_come_with_those_of_pictures(trained, monkeypatch):
    seen = []
    monkeypatch.setattr("vfn.evaluation.bits.STEPS", 2)
    monkeypatch.setattr("vfn.evaluation.bits.DRAWS", 2)
    monkeypatch.setattr("vfn.evaluation.bits.FLOW_STEPS", 2)
    monkeypatch.setattr("vfn.evaluation.held_out.keyed_normal", _recorded(seen))
    found = judge(REAL, trained, "agreement,loss,bpd", num=5, seed=2, device="cpu")
    assert [figure.key for figure in found.figures] == ["label_agreement"]
    assert len(found.loss_by_logsnr) == 8
    assert {row["count"] for row in found.loss_by_logsnr} == {360}
    assert len(found.bits_per_dim) == 3
    assert set(seen) == {2}  # the seed


def _recorded(seen):
    from vfn.ops import keyed_normal

    return lambda seed, *rest: seen.append(seed) or keyed_normal(seed, *rest)


def columns(images):
    """An extractor of a user's."""
    return images.float().mean((1, 2))


def brightness(judged):
    """A metric of a user's."""
    return {"Brightness": judged.fake.features.mean() - judged.real.features.mean()}


def test_extractors_and_metrics_of_the_users(held_out):
    here = "tests.evaluation.test_judging"
    asked = {"metrics": ["fd", f"{here}:brightness"], "device": "cpu"}
    named = judge(REAL, held_out, features=f"{here}:columns", **asked)
    given = judge(REAL, held_out, features=extractor_of("columns", columns), **asked)
    assert named.figures[0].title == f"Fréchet distance ({here}:columns)"
    assert given.figures[0].title == "Fréchet distance (columns)"
    assert values(named) == values(given)
    assert abs(values(named)["Brightness"]) < 2
    assert named.settings["extractor"] == f"{here}:columns"
    assert "Brightness" in named.table()


TOGETHER = f"""
import sys
from pathlib import Path
from vfn.evaluation import judge
together = judge({REAL!r}, f"run:{{sys.argv[1]}}", num=21, device="cpu")
if together is not None:
    together.write(Path(sys.argv[2]))
"""


def test_processes_judge_together(run, forks, tmp_path):
    """21 pictures do not divide; the last is drawn twice and must count once."""
    script = tmp_path / "script.py"
    script.write_text(TOGETHER)
    forks.run(run, tmp_path / "a.json", script=script, processes=2)
    found = read_evaluation(tmp_path / "a.json")
    alone = judge(REAL, f"run:{run}", num=21, device="cpu")
    assert values(found) == pytest.approx(values(alone), rel=1e-4)
    assert found.settings["num"] == 21
