"""A learned weight: beside the network, exactly resumed, and the same in every layout."""

import math
import shutil
from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

import vfn
from tests.helpers.processes import checkpoints, differing, logged, losses, tensors
from vfn.configs import override
from vfn.model import build_model
from vfn.runs import RunFiles, export_model, find_checkpoint, newest_checkpoint, save_checkpoint
from vfn.train import train
from vfn.train.companions import init_learned_weight

STEPS = 6
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def learned(config):
    return override(config, {"learned_weight": True, "steps": STEPS, "warmup": 0})


@pytest.fixture(scope="module")
def run(learned, tmp_path_factory):
    """An undisturbed run."""
    out = tmp_path_factory.mktemp("run")
    train(learned, out, device="cpu")
    return out


def weight_of(run):
    """The tensors of a run's learned weight, read without vfn's own code."""
    return {name[7:]: value for name, value in tensors(run).items() if name[:7] == "weight."}


def test_the_first_step_is_the_plain_one(learned, config, tmp_path):
    """As u begins at 0; later ones differ."""
    for steps, same in ((1, True), (3, False)):
        found = []
        for name, begun in (("plain", config), ("learned", learned)):
            out = tmp_path / f"{name}{steps}"
            train(override(begun, {"steps": steps, "warmup": 0}), out, device="cpu")
            found.append({n: v for n, v in tensors(out).items() if n[:7] == "params."})
        assert all(torch.equal(v, found[1][n]) for n, v in found[0].items()) == same


def test_it_moves_and_the_log_tells_of_it(run):
    weight = weight_of(run)
    assert weight["weight"].abs().max() > 1e-3
    assert weight["updates"] == STEPS
    first, last = logged(run)[0], [e for e in logged(run) if "loss" in e][-1]
    assert len(first["uncertainty_by_logsnr"]) == 8
    assert max(map(abs, last["uncertainty_by_logsnr"])) > 0.05
    assert min(losses(run).values()) > 0  # of the plain loss, not of exp(-u) loss + u


def test_a_resumed_run_is_bit_identical(learned, run, tmp_path):
    train(override(learned, {"steps": 2}), tmp_path, device="cpu")
    train(learned, tmp_path, resume=True, device="cpu")
    assert differing(tmp_path, run) == []
    assert losses(tmp_path) == losses(run)


def test_micro_batches_are_a_layout(learned, run, tmp_path):
    """Sums in another order: 1e-5 of losses, as of any run."""
    train(override(learned, {"accumulate": 4}), tmp_path, device="cpu")
    assert losses(tmp_path) == pytest.approx(losses(run), rel=1e-5)
    assert_same_weight(tmp_path, run)


def test_two_processes_are_a_layout(forks, tmp_path):
    """Its gradients too are averaged over processes, once a step."""
    chosen = ("--learned-weight", "true", "--warmup", 0, "--steps", STEPS, "--accumulate")
    runs = {(1, 1): tmp_path / "one", (2, 2): tmp_path / "two"}
    for (processes, accumulate), out in runs.items():
        forks.train(out, *chosen, accumulate, processes=processes)
        forks.end()
    one, two = runs.values()
    assert losses(two) == pytest.approx(losses(one), rel=1e-5)
    assert_same_weight(two, one)


def assert_same_weight(run, other):
    ours, theirs = weight_of(run), weight_of(other)
    assert theirs["weight"].norm() > 0.01
    assert (ours["weight"] - theirs["weight"]).norm() < 1e-3 * theirs["weight"].norm()
    assert ours["updates"] == theirs["updates"] == STEPS


def test_it_is_no_part_of_the_network(run, learned, tmp_path):
    checkpoint = find_checkpoint(run)
    names = dict(build_model(learned, checkpoint.shape).named_parameters())
    assert checkpoint.params.keys() == checkpoint.ema.keys() == names.keys()
    export_model(checkpoint, tmp_path / "model.safetensors")
    assert load_file(tmp_path / "model.safetensors").keys() == names.keys()
    exported = vfn.load(tmp_path / "model.safetensors")
    assert exported.config.diffusion.learned_weight
    assert exported.sample(2, steps=1).nfe == 1


def test_a_run_may_begin_and_leave_it(learned, run, tmp_path):
    """One that had none begins at 0; one that is to have none goes on without."""
    plain = override(learned, {"learned_weight": False})
    train(override(plain, {"steps": 2}), tmp_path / "later", device="cpu")
    assert not weight_of(tmp_path / "later")
    train(learned, tmp_path / "later", resume=True, device="cpu")
    assert weight_of(tmp_path / "later")["updates"] == STEPS - 2
    shutil.copytree(run, tmp_path / "without")
    train(override(plain, {"steps": STEPS + 1}), tmp_path / "without", resume=True, device="cpu")
    assert not weight_of(tmp_path / "without")


def test_that_of_another_kind_is_refused(run, learned, tmp_path):
    files = RunFiles(tmp_path / "run")
    shutil.copytree(run, files.path)
    found = newest_checkpoint(files)
    weight = {**found.weight, "weight": torch.zeros(4)}
    save_checkpoint(files, found._replace(weight=weight), keep=1)
    before = checkpoints(files.path)[-1].read_bytes()
    with pytest.raises(
        ValueError, match=r"learned weight and this one differ: weight is \(4,\), e"
    ):
        train(replace(learned), files.path, resume=True, device="cpu")
    assert checkpoints(files.path)[-1].read_bytes() == before


def test_any_objective_is_weighed(learned, tmp_path):
    """The uncertainty of a loss that depends on the level alone is its logarithm."""

    def objective(network, batch, _diffusion):
        noise = network(batch.x0, batch.t, *batch.conditions).mean((1, 2, 3))
        return 3.0 * torch.where(batch.t < 0.5, 1.0, math.e**2) + 0 * noise

    chosen = {"steps": 80, "lr": 0.03, "log_every": 80, "preview_every": 0,
              "logsnr_min": -6.0, "logsnr_max": 6.0}  # fmt: skip
    train(override(learned, chosen), tmp_path, objective=objective, device="cpu")
    u = logged(tmp_path)[-1]["uncertainty_by_logsnr"]  # from noise to data
    expected = [math.log(3) + 2] * 3 + [math.log(3)] * 3
    assert [*u[:3], *u[5:]] == pytest.approx(expected, abs=0.4)
    assert logged(tmp_path)[0]["loss"] > 9  # half of 3 and 3 e^2, and nothing of 1 + u


def test_a_step_that_is_left_out_leaves_it_as_it_was(learned):
    weight = init_learned_weight(learned.train, CPU)
    finite, not_finite = torch.tensor(True), torch.tensor(False)

    def step(which):
        weight.module(torch.tensor([1.0, 2.0])).sum().backward()
        weight.step(0.1, which, loss_scale=2.0)
        return {name: value.detach().clone() for name, value in weight.saved().items()}

    before, after, later = step(finite), step(not_finite), step(finite)
    assert all(torch.equal(after[name], value) for name, value in before.items())
    assert not torch.equal(later["weight"], before["weight"])
    assert later["updates"] == 2


def test_it_does_not_decay(learned):
    """Whatever the network's parameters do: towards 0 is towards the plain loss."""
    weight = init_learned_weight(override(learned, {"weight_decay": 0.5}).train, CPU)
    with torch.no_grad():
        weight.module.bias.fill_(1.0)
    (0 * weight.module(torch.tensor([1.0]))).sum().backward()
    weight.step(0.1)
    assert weight.module.bias == 1
