"""Processes x accumulation x micro-batch is only a layout: the trajectory stays the same."""

import shutil

import pytest
import torch

from tests.helpers.processes import STEPS, checkpoints, losses, tensors
from vfn.configs import override
from vfn.train import train

# Sums in another order differ by float32 rounding, which Adam's steps amplify: most where the true
# gradient is zero, as of a bias ahead of a normalisation. So the EMA is compared by its norm.
LOSS, EMA = 1e-5, 1e-4
LAYOUTS = [(1, 4), (2, 2), (2, 1)]  # beside (1, 1): processes, micro-batches a step

SPARE = """
import sys, torch
from tests.helpers.outside import Spare
from vfn.configs import load, override
from vfn.train import train
torch.manual_seed(0)
small = {"batch_size": 16, "steps": int(sys.argv[2]), "log_every": 1, "preview_every": 0}
try:
    train(override(load("digits"), small), sys.argv[1], model=Spare(1, 1, 10, False), device="cpu")
except ValueError as error:
    print(error, file=sys.stderr)
    sys.exit(2)
"""

STILL = """
def still(network):
    forward = network.forward
    network.forward = lambda *given: forward(*given).detach()
    return network
torch.manual_seed(0)
"""


def assert_same_trajectory(run, whole):
    assert losses(run).keys() == losses(whole).keys() == set(range(1, STEPS + 1))
    assert losses(run) == pytest.approx(losses(whole), rel=LOSS)
    ours, theirs = average(run), average(whole)
    assert (ours - theirs).norm() < EMA * theirs.norm()


def average(run):
    """All of the EMA as one vector."""
    return torch.cat([v.flatten() for n, v in sorted(tensors(run).items()) if n[:4] == "ema."])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_takes_the_same_way(undisturbed, layout):
    assert_same_trajectory(undisturbed(*layout), undisturbed(1, 1))


@pytest.mark.parametrize(("before", "parts", "after"), [(2, 1, 1), (1, 1, 2), (1, 16, 2)])
def test_another_number_of_processes_goes_on(undisturbed, forks, tmp_path, before, parts, after):
    """From the checkpoint at half the way; 16 parts of 16 pictures are too many for two."""
    run = tmp_path / "run"
    shutil.copytree(undisturbed(before, parts), run)
    checkpoints(run)[-1].unlink()
    forks.train(run, "--resume", "--steps", STEPS, "--accumulate", parts, processes=after)
    forks.end()
    assert_same_trajectory(run, undisturbed(1, 1))


def test_a_network_with_parameters_that_nothing_comes_of(forks, tmp_path):
    """Two processes do not wait for their gradients."""
    script = tmp_path / "script.py"
    script.write_text(SPARE)
    for processes in (1, 2):
        forks.run(tmp_path / str(processes), STEPS, script=script, processes=processes)
    assert_same_trajectory(tmp_path / "2", tmp_path / "1")


def test_a_network_that_leaves_parts_out_by_chance(forks, tmp_path):
    """Each process draws what it leaves out, and none waits for a gradient that does not come."""
    script = tmp_path / "script.py"
    script.write_text(SPARE.replace("Spare", "Shallow"))
    forks.run(tmp_path / "2", 12, script=script, processes=2)
    counters = [tensors(tmp_path / "2")[f"counters.updates{n}"] for n in ("", " of middle.bias")]
    assert counters[0] == 12 > counters[1] > 0


def test_a_network_that_no_gradient_reaches_is_no_traceback(forks, tmp_path):
    """Two processes say what one says."""
    script = tmp_path / "script.py"
    script.write_text(SPARE.replace("Spare(1, 1, 10, False)", "still(Spare(1, 1, 10, False))")
                      .replace("torch.manual_seed(0)", STILL))  # fmt: skip
    for processes in (1, 2):
        err = forks.run(tmp_path / str(processes), 2, script=script, processes=processes, code=2)
        assert "expected the objective to give a loss with gradients" in err


def test_dropout_is_that_of_each_picture_in_every_layout(config, tmp_path, each_device):
    """Gradients too: the losses of later steps agree."""
    losses_of = {}
    for accumulate in (1, 4):
        seen = []
        settings = {"dropout": 0.3, "accumulate": accumulate, "steps": 6, "log_every": 1}
        train(override(config, settings), tmp_path / str(accumulate), callbacks=[seen.append],
              device=each_device)  # fmt: skip
        losses_of[accumulate] = [entry["loss"] for entry in seen if "loss" in entry]
    assert losses_of[4] == pytest.approx(losses_of[1], rel=LOSS)
    plain = []
    train(override(config, {"steps": 6}), tmp_path / "plain", callbacks=[plain.append],
          device=each_device)  # fmt: skip
    # The last block is zero at the start: its dropout shows later, by the sixth step at 1e-3.
    sixth = next(entry["loss"] for entry in plain if entry["step"] == 6)
    assert abs(sixth - losses_of[1][5]) > 10 * LOSS
