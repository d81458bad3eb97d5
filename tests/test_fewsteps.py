"""The benchmark of few-step methods: what is asked of each for a number of updates."""

import pytest

from benchmarks import fewsteps
from vfn.configs import load, override
from vfn.train.distillation import METHODS, stages_of


@pytest.mark.parametrize("method", ["consistency", "ect", "moment_matching", "progressive"])
@pytest.mark.parametrize("updates", [600, 3000])
def test_all_stages_together_take_about_as_many_updates_as_are_asked_for(method, updates):
    asked = fewsteps.settings(method, updates)
    plan = override(load(METHODS[method].preset), asked)
    taken = sum(stage.train.steps for stage in stages_of(plan).values())
    assert 0.98 * updates <= taken <= updates


def test_parts_of_a_run_keep_their_share_of_it():
    preset = load("digits_consistency")
    share = preset.diffusion.objective_options["tangent_warmup"] / preset.train.steps
    asked = fewsteps.settings("consistency", 600)
    assert asked["objective_options"]["tangent_warmup"] == round(600 * share)
    assert asked["method_options"]["regress_updates"] == 40
    stages = [
        n / fewsteps.settings("ect", n)["objective_options"]["stage_updates"] for n in (500, 4000)
    ]
    assert stages == [10, 10]
