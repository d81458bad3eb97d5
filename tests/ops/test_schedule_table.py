"""The table of schedules: its words, its parameters, and schedules from outside."""

import pytest
import torch

from vfn import ops
from vfn.ops import logsnr_schedule

T = torch.linspace(0, 1, 21, dtype=torch.float64)


def test_words_and_their_order():
    assert ops.SCHEDULES.words() == "cosine, linear, sigmoid, flow, legacy"
    assert ops.SCHEDULES.is_open
    assert [name for name, entry in ops.SCHEDULES.items() if not entry.limited] == ["legacy"]


@pytest.mark.parametrize("name", ops.SCHEDULES)
def test_entry_takes_what_it_says(name):
    """Defaults count as if they were given; nothing else is taken."""
    default = logsnr_schedule(name)
    given = logsnr_schedule(name, **ops.SCHEDULES[name].parameters)
    assert torch.equal(given.logsnr(T), default.logsnr(T))
    assert torch.equal(default.logsnr(T), getattr(ops, f"{name}_logsnr")(T))
    levels = torch.linspace(-9, 9, 7)
    assert torch.equal(default.time(levels), getattr(ops, f"{name}_time")(levels))
    with pytest.raises(ValueError, match=f"for schedule {name}, got bend$"):
        logsnr_schedule(name, bend=1.0)


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"beta_start": 0.0}, "expected beta_start > 0, got 0.0"),
        ({"beta_end": 0.5}, "expected beta_end in 0..0.1, got 0.5"),
        ({"beta_start": 0.05}, "expected beta_start <= beta_end, got 0.05 and 0.02"),
        ({"timesteps": 0}, "expected timesteps in 1..6000, got 0"),
        ({"timesteps": 2.5}, "expected timesteps to be a whole number, got 2.5"),
        ({"beta": 0.1}, "expected only beta_start, beta_end, timesteps for schedule legacy, got b"),
    ],
)
def test_betas_out_of_range(chosen, message):
    with pytest.raises(ValueError, match=message):
        logsnr_schedule("legacy", **chosen)


def test_a_schedule_from_outside():
    name = "tests.helpers.outside_math:arch"
    schedule = logsnr_schedule(name, -4.0, 6.0, bend=2.0)
    torch.testing.assert_close(schedule.logsnr(T), 6 - 10 * T**2)
    torch.testing.assert_close(schedule.time(schedule.logsnr(T)), T)
    assert torch.equal(logsnr_schedule(name).logsnr(T), 20 - 40 * T)
    assert (schedule.logsnr(0.0).item(), schedule.logsnr(2.0).item()) == (6.0, -4.0)
    assert schedule.time(torch.tensor([9.0, -9.0])).tolist() == [0.0, 1.0]
    assert schedule.logsnr(T.float()).dtype == torch.float32
    with pytest.raises(ValueError, match="expected only bend for schedule tests.*, got bent"):
        logsnr_schedule(name, bent=1.0)
    with pytest.raises(ValueError, match=r"to give a LogSNRSchedule\(logsnr, time\), got NoneType"):
        logsnr_schedule("tests.helpers.outside_math:no_schedule")
