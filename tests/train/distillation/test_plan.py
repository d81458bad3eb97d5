"""The configuration of a distillation and of its stages."""

import pytest

from tests.helpers.distilling import plan
from vfn.configs import load, override
from vfn.runs import find_checkpoint
from vfn.train import train
from vfn.train.distillation import halvings, plan_of, stage_config, stages_of


def test_dropout_is_off_unless_asked_for(config, tmp_path):
    out = tmp_path / "teacher"
    train(override(config, {"dropout": 0.2}), out, device="cpu")
    assert plan(out).model.dropout == 0
    assert plan(out, dropout=0.1).model.dropout == 0.1


def test_updates_of_the_first_and_the_last_halvings(teacher):
    stages = stages_of(plan(teacher, first_steps=7, steps=3))
    assert [stage.train.steps for stage in stages.values()] == [7, 3, 3, 3, 400, 400]


def test_a_stage_is_taught_by_the_one_before(teacher):
    whole = plan(teacher)
    for steps in halvings(whole.distill):
        stage = stage_config(whole, steps)
        assert (stage.distill.teacher_steps, stage.distill.student_steps) == (2 * steps, steps)


def test_a_student_is_given_what_its_teacher_is(teacher):
    """Conditions of as many channels are not the same one."""
    found = find_checkpoint(teacher)
    given = found._replace(config=override(found.config, {"condition": "downscale:4"}))
    assert plan_of(given, "digits_distill", {}).data.condition == "downscale:4"
    with pytest.raises(ValueError, match="the teacher's condition downscale:4, got mask"):
        plan_of(given, "digits_distill", {"condition": "mask"})


def test_a_method_that_does_not_exist(teacher):
    with pytest.raises(ValueError, match="unknown method 'magic', expected one of progressive"):
        plan(teacher, method="magic")


def test_presets_let_the_rate_fall_and_keep_no_average():
    for name in ("digits_distill", "cifar10_distill"):
        preset = load(name)
        assert (preset.train.lr_schedule, preset.train.warmup) == ("linear", 0)
        assert (preset.train.ema_decay, preset.model.dropout) == (0, 0)


@pytest.mark.parametrize("numbers", [(6, 4), (12, 4), (4, 4), (2, 4), (1, 1)])
def test_steps_that_are_no_power_of_two_multiple(numbers):
    values = dict(zip(("teacher_steps", "student_steps"), numbers, strict=True))
    with pytest.raises(ValueError, match="expected teacher_steps to be 2, 4, 8, ... times"):
        override(load("digits_distill"), values)


def test_odd_numbers_are_halved_down_to_an_odd_one():
    settings = override(load("digits_distill"), {"teacher_steps": 24, "student_steps": 3})
    assert halvings(settings.distill) == [12, 6, 3]
