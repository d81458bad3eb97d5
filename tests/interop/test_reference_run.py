"""Runs from checkpoints of the reference implementation."""

import pytest
import torch

from tests.helpers.foreign import Reference
from vfn.configs import load
from vfn.data import Labels
from vfn.interop import (
    adopted,
    import_checkpoint,
    import_config,
    params_from_reference,
    with_dataset,
)
from vfn.model import build_model
from vfn.objective import Batch
from vfn.runs import RunFiles, find_checkpoint
from vfn.sampling import load as load_run
from vfn.train.state import init_state, restore, train_step

CONFIG = {
    "data": {"name": "cifar10"},
    "train": {"epochs": 2},
    "model": {"hid_channels": 32, "ch_multipliers": [1], "num_res_blocks": 1, "apply_attn": True},
    "diffusion": {"model_out_type": "v", "logsnr_schedule": "cosine"},
    "conditional": {"use_cfg": True},
}
SHAPE = {"multipliers": (1,), "attends": (True,)}


@pytest.fixture(scope="module")
def content():
    """A checkpoint after 11 steps of training, its average 10 updates old."""
    net = Reference(**SHAPE, labels=10)
    net(torch.zeros(2, 3, 4, 4), torch.zeros(2), torch.tensor([1, 2]))
    params = [torch.nn.Parameter(value.clone()) for value in net.state.values()]
    optimizer = torch.optim.AdamW(params)
    for _ in range(11):
        for param in params:
            param.grad = torch.randn(param.shape, generator=net.random)
        optimizer.step()
    return {
        "model": {n: p.detach() for n, p in zip(net.state, params, strict=True)},
        "ema": {"decay": 0.9999, "shadow": dict(net.state), "num_updates": 10},
        "optimizer": optimizer.state_dict(),
        "epoch": 1,
    }


@pytest.fixture
def run(tmp_path, content, capsys):
    """Import into a run directory; what the checkpoint lacks is noted."""

    def import_(config=CONFIG, **changes):
        found = {k: v for k, v in (content | changes).items() if v is not None}
        torch.save(found, tmp_path / "ckpt.pt")
        capsys.readouterr()
        path = import_checkpoint(tmp_path / "ckpt.pt", config, tmp_path / "run")
        assert path == RunFiles(tmp_path / "run").checkpoint_files()[0]
        return tmp_path / "run", capsys.readouterr().err.splitlines()

    return import_


def test_parameters_average_and_moments_come_along(run, content):
    """And a state that trains on has them, too."""
    out, lines = run()
    found = find_checkpoint(out)
    model = build_model(found.config, found.shape)
    names = list(content["model"])
    slots = content["optimizer"]["state"]
    expected = {
        "params": content["model"],
        "ema": content["ema"]["shadow"],
        **{kind: {n: slots[i][kind] for i, n in enumerate(names)}
           for kind in ("exp_avg", "exp_avg_sq")},
    }  # fmt: skip
    got = {"params": found.params, "ema": found.ema, **found.moments}
    for kind, values in expected.items():
        for name, value in params_from_reference(values, model).items():
            assert torch.equal(got[kind][name], value)
    state = init_state(model, found.config.train)
    restore(state, found)
    assert state.step == found.step == 11
    assert lines == []


def test_training_goes_on_where_the_reference_stopped(run, content):
    """The next step is that of a state filled by hand from what the reference wrote."""
    out, _ = run()
    found = find_checkpoint(out)
    names, slots = list(content["model"]), content["optimizer"]["state"]
    states = []
    for by_hand in (False, True):
        torch.manual_seed(3)
        model = build_model(found.config, found.shape).eval()  # no dropout
        state = init_state(model, found.config.train)
        if by_hand:
            groups = {kind: params_from_reference(
                {n: slots[i][kind] for i, n in enumerate(names)}, model
            ) for kind in ("exp_avg", "exp_avg_sq")}  # fmt: skip
            params = params_from_reference(content["model"], model)
            average = params_from_reference(content["ema"]["shadow"], model)
            for name, param in state.params.items():
                param.data.copy_(params[name])
                state.ema[name].copy_(average[name])
                moments = {kind: group[name] for kind, group in groups.items()}
                state.optimizer.state[param] = {"step": slots[0]["step"].clone(), **moments}
            state.counters["updates"].fill_(11)
            state.step = 11
        else:
            restore(state, found)
        x0, noise = torch.randn(2, 2, 3, 8, 8).unbind()
        batch = Batch(x0, torch.tensor([1, 2]), torch.tensor([0.3, 0.6]).double(), noise)
        train_step(state, model, [batch], found.config)
        states.append(state)
    got, expected = states
    assert got.step == 12
    assert {k: v.item() for k, v in got.counters.items()} == {
        k: v.item() for k, v in expected.counters.items()
    }
    for name, param in expected.params.items():
        assert torch.equal(got.params[name], param)
        assert torch.equal(got.ema[name], expected.ema[name])
        for kind, value in expected.optimizer.state[param].items():
            assert torch.equal(got.optimizer.state[got.params[name]][kind], value)


def test_the_run_is_ready_to_be_sampled(run):
    out, _ = run()
    trained = load_run(out, "cpu")
    assert trained.shape.legend.names[8] == "ship"
    assert trained.config == import_config(CONFIG) == load(str(RunFiles(out).config))
    assert sorted(path.name for path in out.parent.iterdir()) == ["ckpt.pt", "run"]


@pytest.mark.parametrize(
    ("changes", "step"),
    [
        ({"optimizer": None}, 10),
        ({"optimizer": None, "ema": None}, 390),
        ({"optimizer": None, "ema": None, "epoch": None}, 0),
        ({"optimizer": {"state": {}, "param_groups": []}}, 10),
    ],
)
def test_what_is_missing_is_told(run, changes, step):
    """Steps are counted by the optimizer, else the average, else the epoch: 390 steps each."""
    out, lines = run(**changes)
    found = find_checkpoint(out)
    assert found.step == step
    assert len(lines) == len([k for k in changes if k != "epoch"])
    assert all(value.count_nonzero() == 0 for value in found.moments["exp_avg"].values())
    if "ema" in changes:
        assert all(torch.equal(found.ema[name], value) for name, value in found.params.items())


def test_an_unconditional_checkpoint(run):
    net = Reference(**SHAPE)
    net(torch.zeros(2, 3, 4, 4), torch.zeros(2))
    config = {**CONFIG, "conditional": {"use_cfg": False}}
    out, _ = run(config, model=net.state, ema=None, optimizer=None)
    found = find_checkpoint(out)
    assert found.shape.legend == Labels()
    assert found.config.data.conditional is False


def test_labels_asked_for_on_the_command_line_alone(run):
    """The configuration knows nothing of them; the checkpoint does."""
    out, _ = run({**CONFIG, "conditional": {}})
    assert find_checkpoint(out).config.data.conditional is True


def test_tags(run):
    net = Reference(**SHAPE, labels=40, tags=True)
    net(torch.zeros(2, 3, 4, 4), torch.zeros(2), torch.ones(2, 40))
    config = with_dataset(CONFIG, "celeba")
    out, _ = run(config, model=net.state, ema=None, optimizer=None)
    shape = find_checkpoint(out).shape
    assert (shape.height, shape.legend.tags, shape.legend.names[31]) == (64, True, "Smiling")
    assert build_model(import_config(config), shape).multitags


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (with_dataset(CONFIG, "celeba"),
         "expected the labels of celeba, 40 tags, got a network for 10 classes; .* --dataset"),
        ({**CONFIG, "model": {**CONFIG["model"], "ch_multipliers": [1, 2]}}, "is missing"),
        ({**CONFIG, "diffusion": {"loss_type": "kl"}}, "model_var_type to be fixed_small"),
    ],
)  # fmt: skip
def test_what_does_not_fit_leaves_nothing_behind(run, tmp_path, config, message):
    with pytest.raises(ValueError, match=message):
        run(config)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"optimizer": None, "ema": None, "epoch": "last"}, "number of epochs, got 'last'"),
        ({"optimizer": None, "ema": None, "epoch": -1}, "number of epochs, got -1"),
        ({"optimizer": None, "ema": {"num_updates": [1]}}, "number of steps, got .1."),
        ({"optimizer": None, "ema": {"num_updates": float("nan")}}, "number of steps, got nan"),
    ],
)
def test_counts_that_are_none(run, content, tmp_path, changes, message):
    if changes["ema"]:
        changes = {**changes, "ema": {**content["ema"], **changes["ema"]}}
    with pytest.raises(ValueError, match=message):
        run(**changes)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("state", [{"a": {}}, {0: 3, "b": {}}, [1], 3])
def test_an_optimizer_of_another_kind_is_left_out(run, state):
    out, lines = run(optimizer={"state": state})
    assert find_checkpoint(out).step == 10
    assert ["no state of the optimizer" in line for line in lines] == [True]


@pytest.mark.parametrize("failing", ["save_checkpoint", "write_atomic"])
def test_a_disk_that_fails_leaves_nothing_behind(run, tmp_path, monkeypatch, failing):
    def fail(*_args, **_options):
        raise OSError("No space left on device")

    monkeypatch.setattr(adopted, failing, fail)
    with pytest.raises(OSError, match="No space left"):
        run()
    assert [path.name for path in tmp_path.iterdir()] == ["ckpt.pt"]


def test_other_files_of_the_directory_stay(run, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "notes.txt").write_text("mine")
    out, _ = run()
    assert find_checkpoint(out).step == 11
    assert (out / "notes.txt").read_text() == "mine"


def test_a_file_in_the_runs_place(run, tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(ValueError, match="expected a run directory at .*run, but there is a file"):
        run()
    assert (tmp_path / "run").read_text() == "mine"


def test_a_run_is_not_overwritten(run):
    out, _ = run()
    before = sorted((p.name, p.stat().st_mtime_ns) for p in out.rglob("*"))
    with pytest.raises(ValueError, match="already holds a run; choose another --out"):
        run()
    assert sorted((p.name, p.stat().st_mtime_ns) for p in out.rglob("*")) == before


def spoiled_slots(content, kind, value):
    """The optimizer's state with another value for one parameter."""
    slots = {i: dict(slot) for i, slot in content["optimizer"]["state"].items()}
    like = slots[3][kind]
    slots[3][kind] = value(like) if callable(value) else value
    return {"optimizer": {"state": slots, "param_groups": []}}


@pytest.mark.parametrize(
    ("kind", "value", "message"),
    [
        ("exp_avg", 0.5, r"in exp_avg of the optimizer to be an ordinary tensor .* got float$"),
        ("exp_avg", None, "got NoneType$"),
        ("exp_avg_sq", lambda v: v * float("nan"), "exp_avg_sq of the optimizer: expected finite"),
        ("exp_avg", lambda v: v + float("inf"), "exp_avg of the optimizer: expected finite"),
        ("exp_avg_sq", lambda v: v - 10, "expected squares in exp_avg_sq .* below 0"),
        ("exp_avg", lambda v: v.long(), "got one of int64"),
        ("exp_avg", lambda v: v.to_sparse(), "got a sparse one"),
        ("exp_avg", lambda v: v.to("meta"), "got one without values"),
        ("exp_avg", lambda v: v[None], "exp_avg of the optimizer: expected a checkpoint of the"),
        ("exp_avg", lambda v: torch.zeros(1).expand(10**6, 10**6), "an expanded one"),
    ],
)
def test_moments_that_are_none(run, content, tmp_path, kind, value, message):
    with pytest.raises(ValueError, match=message) as caught:
        run(**spoiled_slots(content, kind, value))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    "count",
    [-1, float("nan"), float("inf"), 10**400, "12", "1" * 10**5, "\x1b[31m\n", [1], True, 1e13,
     torch.tensor([1, 2]), torch.tensor(float("inf")), torch.tensor(-1.0), torch.tensor(1j),
     torch.zeros(1, device="meta"), {}, b"3"],
    ids=lambda count: f"{type(count).__name__} {str(count)[:12]!r}",
)  # fmt: skip
@pytest.mark.parametrize("place", ["epoch", "num_updates", "step"])
def test_counts_of_any_kind(run, content, tmp_path, place, count):
    changes = {"optimizer": None, "ema": None, "epoch": count}
    if place == "num_updates":
        changes = {"optimizer": None, "ema": {**content["ema"], "num_updates": count}}
    if place == "step":
        slots = {i: {**slot, "step": count} for i, slot in content["optimizer"]["state"].items()}
        changes = {"optimizer": {"state": slots, "param_groups": []}}
    what = "epochs" if place == "epoch" else "steps"
    with pytest.raises(
        ValueError, match=f"expected the checkpoint's number of {what}, got "
    ) as got:
        run(**changes)
    assert str(got.value).isprintable()
    assert len(str(got.value)) < 200
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("part", ["model", "ema"])
def test_a_run_that_failed_is_not_imported(run, content, tmp_path, part, value):
    spoiled = {name: values.clone() for name, values in content["model"].items()}
    spoiled["in_conv.weight"][0] = value
    changed = spoiled if part == "model" else {**content["ema"], "shadow": spoiled}
    with pytest.raises(ValueError, match="expected finite parameters"):
        run(**{part: changed})
    assert not (tmp_path / "run").exists()
