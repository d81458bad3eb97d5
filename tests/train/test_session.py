"""How a run is opened: objects in place of names, what does not fit, earlier versions."""

import sys
from pathlib import Path

import numpy as np
import pytest
import tomli_w
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

import tests.helpers.outside as outside
import vfn
from tests.helpers.outside import Other, Small
from tests.helpers.processes import checkpoints, differing, entries, losses
from vfn.configs import dumps, load, override
from vfn.configs.settings import to_tables
from vfn.data import Dataset, Labels, load_dataset
from vfn.distributed import ALONE, World
from vfn.nn import Transformer, UNet
from vfn.objective import batch_loss
from vfn.ops import Learned
from vfn.runs import RunFiles, digest, find_checkpoint
from vfn.train import TrainingData, session, train
from vfn.train.loop import undisturbed
from vfn.train.session import micro_batch_size

NAME = "tests.helpers.outside:Small"
DIGITS = {"in_channels": 1, "out_channels": 1, "num_classes": 10, "multitags": False}


def small(cls=Small, **options):
    torch.manual_seed(1)
    return cls(**{**DIGITS, **options})


@pytest.mark.parametrize("size", [10, 2])
def test_batch_sizes_that_do_not_divide(size):
    with pytest.raises(ValueError, match=r"use (8 or 12|4)"):
        micro_batch_size(size, processes=2, accumulate=2)


@pytest.fixture
def mine(tmp_path, monkeypatch):
    """A module of somebody else's in the current directory; its name."""
    (tmp_path / "mine_nets.py").write_text(Path(outside.__file__).read_text(encoding="utf-8"))
    monkeypatch.chdir(tmp_path)
    yield "mine_nets"
    sys.modules.pop("mine_nets", None)


def named(config, name, **options):
    """A configuration of a network that is named."""
    tables = to_tables(config)
    tables["model"] = {"network": name, "options": options}
    return vfn.configs.loads(tomli_w.dumps(tables))


def test_a_network_of_a_module_beside_is_trained_and_resumed_exactly(config, mine, tmp_path):
    """With dropout, which draws from torch's own generator."""
    whole = named(config, f"{mine}:Small", width=4)
    train(whole, tmp_path / "whole", device="cpu")
    train(override(whole, {"steps": 2}), tmp_path / "parts", device="cpu")
    torch.rand(7)
    train(whole, tmp_path / "parts", resume=True, device="cpu")
    assert differing(tmp_path / "whole", tmp_path / "parts") == []
    assert losses(tmp_path / "whole") == losses(tmp_path / "parts")
    opened = vfn.load(tmp_path / "whole", "cpu")
    assert opened.config.model.network == f"{mine}:Small"
    assert opened.sample(2, steps=2).images.shape == (2, 1, 8, 8)
    with pytest.raises(ValueError, match="with network mine_nets:Small, got mine_nets:Other"):
        train(named(config, f"{mine}:Other", width=4), tmp_path / "parts", resume=True,
              device="cpu")  # fmt: skip


def test_a_module_in_place_of_a_name(config, tmp_path):
    """It starts as it is, is recorded by its class, and can be resumed and loaded."""
    start = {name: value.clone() for name, value in small().named_parameters()}
    train(override(config, {"steps": 1, "lr": 0.0}), tmp_path / "still", model=small(),
          device="cpu")  # fmt: skip
    assert all(v.equal(start[n]) for n, v in find_checkpoint(tmp_path / "still").params.items())
    model = small()
    train(config, tmp_path / "whole", model=model, device="cpu")
    assert load(str(tmp_path / "whole" / "config.toml")).model.network == NAME
    saved = find_checkpoint(tmp_path / "whole")
    assert saved.config.model.network == NAME
    assert all(torch.equal(p, saved.params[n]) for n, p in model.named_parameters())
    train(override(config, {"steps": 2}), tmp_path / "parts", model=small(), device="cpu")
    train(config, tmp_path / "parts", model=small(), resume=True, device="cpu")
    assert differing(tmp_path / "whole", tmp_path / "parts") == []
    assert vfn.load(tmp_path / "whole", "cpu").sample(1, steps=1).nfe == 1


def test_a_module_with_options_of_its_own_is_given_to_load(config, tmp_path):
    train(config, tmp_path, model=small(width=4), device="cpu")
    with pytest.raises(ValueError, match="inner.weight is"):
        vfn.load(tmp_path, "cpu")
    assert vfn.load(tmp_path, "cpu", network=small(width=4)).step == 4


def test_another_class_is_refused_on_resume(config, tmp_path):
    train(config, tmp_path, model=small(), device="cpu")
    for again in ({"model": small(Other)}, {"model": UNet(1, 1, 32, (1,), 1, num_classes=10)}, {}):
        with pytest.raises(ValueError) as refused:  # noqa: PT011
            train(config, tmp_path, **again, resume=True, device="cpu")
        assert "\n" not in str(refused.value)
    with pytest.raises(ValueError, match=f"with network {NAME}, got tests.helpers.outside:O"):
        train(config, tmp_path, model=small(Other), resume=True, device="cpu")


class Normalised(Small):
    def __init__(self, **options):
        super().__init__(**options)
        self.norm = nn.BatchNorm2d(1)


class Counting(Small):
    """With a number that it changes in training, which no checkpoint has."""

    def __init__(self, **options):
        super().__init__(**options)
        self.register_buffer("count", torch.zeros(()))

    def forward(self, z, t, y=None):
        self.count += self.training
        return super().forward(z, t, y)


class Chance(Small):
    def __init__(self, **options):
        super().__init__(**options)
        self.register_buffer("directions", torch.randn(3))


class Fixed(Small):
    def __init__(self, width=8, **options):
        super().__init__(width=width, **options)
        self.register_buffer("directions", torch.arange(float(width)))


class Double(Small):
    def forward(self, z, t, y=None):
        return super().forward(z, t, y).double()


class Uncast(Small):
    """Takes t as it comes."""

    def __init__(self, **options):
        super().__init__(**options)
        self.by_time = nn.Linear(1, 1)

    def forward(self, z, t, y=None):
        return super().forward(z + self.by_time(t[:, None])[..., None, None], t, y)


class Wrong(Small):
    def forward(self, z, _t, _y=None):
        return z[:, :, :4]


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (lambda: "unet", "expected model to be an nn.Module, got"),
        (lambda: nn.Identity(), "expected network torch.nn.modules.linear:Identity to have param"),
        (lambda: small().double(), "to have parameters, all of them float32"),
        (lambda: small(num_classes=3), "knows 3 labels, and the data set has 10"),
        (lambda: small(in_channels=3), "cannot be called as net.z, t, y. on the data's pictures"),
        (
            lambda: Transformer(1, 1, 3, 8, 1, 2, num_classes=10),
            "network vfn.nn.transformer:Transformer refuses the data's pictures: expected H and W",
        ),
        (lambda: small(Wrong), r"to give \(2, 1, 8, 8\) here, got \(2, 1, 4, 8\)"),
        (lambda: small(Normalised), "keeps running statistics in norm"),
        (lambda: small(Counting), "changes its buffer count when it is called, and buffers are"),
        (lambda: small(Chance), "has other values of its buffer directions whenever it is built"),
        (lambda: small(Chance, width=4), "has other values of its buffer directions whenever it"),
        (lambda: small(Double), r"to give float32 here, got torch\.float64"),
        (lambda: small(guidance_range=(0.0, 4.0)), "which only a distillation teaches"),
        (lambda: small(Uncast), r"cannot be called .*; t is float64: cast it with t.to"),
        (lambda: nn.Linear(8, 8), "cannot be called as net"),
    ],
)
def test_modules_that_do_not_fit_are_refused_before_anything_is_written(
    config, tmp_path, model, message
):
    with pytest.raises(ValueError, match=message) as refused:
        train(config, tmp_path / "run", model=model(), device="cpu")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_buffers_that_every_copy_has_are_fine(config, tmp_path):
    train(config, tmp_path, model=small(Fixed), device="cpu")
    drawn = [vfn.load(tmp_path, "cpu").sample(2, seed=0, steps=2).images for _ in range(2)]
    assert torch.equal(*drawn)


def test_buffers_by_options_of_its_own_are_those_of_the_module_that_load_is_given(config, tmp_path):
    train(config, tmp_path, model=small(Fixed, width=4), device="cpu")
    assert vfn.load(tmp_path, "cpu", network=small(Fixed, width=4)).step == 4


def test_a_compiled_module_is_a_module_too(config, tmp_path):
    """It has no length, and so it cannot be asked whether it is true; nothing is compiled here."""
    model = torch.compile(small(), backend="eager")
    train(override(config, {"steps": 1}), tmp_path, model=model, device="cpu")
    assert find_checkpoint(tmp_path).step == 1


def test_a_class_that_nobody_can_find_again_is_refused(config, tmp_path):
    class Hidden(Small):
        pass

    with pytest.raises(ValueError, match="expected a model whose class stands in a module"):
        train(config, tmp_path / "run", model=small(Hidden), device="cpu")


def test_a_data_set_in_place_of_a_name(config, tmp_path):
    """The same pictures: the same run, but for the words; a pair has a part that is held out."""
    train(config, tmp_path / "named", device="cpu")
    parts = TrainingData(load_dataset(config.data), load_dataset(config.data, "test"))
    train(config, tmp_path / "pair", dataset=parts, device="cpu")
    train(config, tmp_path / "alone", dataset=parts.train, device="cpu")
    train(config, tmp_path / "plain", dataset=tuple(parts), device="cpu")
    for name in ("pair", "alone", "plain"):
        assert differing(tmp_path / "named", tmp_path / name) == []
    assert losses(tmp_path / "pair") == losses(tmp_path / "named")
    value = [entries(tmp_path / name, "held_out_loss")[0]["held_out_loss"]
             for name in ("named", "pair", "plain")]  # fmt: skip
    assert len({*value}) == 1
    assert entries(tmp_path / "alone", "held_out_loss") == []


def test_labels_of_a_data_set_may_be_left_out(config, tmp_path):
    unlabelled = override(config, {"conditional": False})
    train(unlabelled, tmp_path, dataset=load_dataset(config.data), device="cpu")
    assert find_checkpoint(tmp_path).shape.legend == Labels()


PICTURES = torch.zeros(20, 1, 8, 8, dtype=torch.uint8)


@pytest.mark.parametrize(
    ("dataset", "message"),
    [
        (lambda: np.zeros((3, 8, 8)), "expected dataset to be a vfn.data.Dataset or a map-style"),
        (lambda: (Dataset(PICTURES), PICTURES), "expected dataset to be a vfn.data.Dataset"),
        (lambda: Dataset(PICTURES.float()), r"expected uint8 pictures \[N, C, H, W\]"),
        (lambda: Dataset(PICTURES[:0]), "expected pictures, got none"),
        (lambda: Dataset(PICTURES, torch.full((20,), 3), Labels(("a", "b"))), "classes in 1..2"),
        (lambda: (Dataset(PICTURES), Dataset(PICTURES[..., :4])), "held-out pictures like those"),
    ],
)
def test_data_sets_that_do_not_fit_are_refused_before_anything_is_written(
    config, tmp_path, dataset, message
):
    plain = override(config, {"guidance": 0.0})
    with pytest.raises(ValueError, match=message) as refused:
        train(plain, tmp_path / "run", dataset=dataset(), device="cpu")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


def test_an_objective_in_place_of_that_of_the_configuration(config, tmp_path):
    """The held-out loss is its, too."""

    def doubled(network, batch, diffusion):
        return 2 * batch_loss(network, batch, diffusion)

    still = override(config, {"lr": 0.0, "steps": 2})
    train(still, tmp_path / "plain", device="cpu")
    train(still, tmp_path / "doubled", objective=doubled, device="cpu")
    plain, twice = ({**losses(run), 0: entries(run, "held_out_loss")[0]["held_out_loss"]}
                    for run in (tmp_path / "plain", tmp_path / "doubled"))  # fmt: skip
    assert twice == pytest.approx({step: 2 * loss for step, loss in plain.items()}, rel=1e-6)


@pytest.mark.parametrize(
    ("made_of", "message"),
    [
        (lambda loss: loss.mean(), r"a loss of each of \d+ pictures, \[\d+\], got \[\]"),
        (lambda loss: loss[:, None], r"a loss of each of \d+ pictures, \[\d+\], got \[\d+, 1\]"),
        (lambda loss: Learned(loss, {"size": 1.0}), "figure size of the objective as a tensor"),
        (lambda loss: loss.detach(), "a loss with gradients by the network's parameters"),
        (lambda loss: Learned(loss, {"lr": loss.mean()}), "under names of their own, got lr"),
    ],
)
def test_objectives_that_give_something_else(config, tmp_path, made_of, message):
    def objective(network, batch, diffusion):
        return made_of(batch_loss(network, batch, diffusion))

    with pytest.raises(ValueError, match=message) as refused:
        train(config, tmp_path, objective=objective, device="cpu")
    assert "\n" not in str(refused.value)


def test_the_caller_s_generators_and_precision_are_left_alone(config, tmp_path):
    """Precision by either of PyTorch's ways."""
    cudnn, seen = torch.backends.cudnn, []

    def precision():
        return torch.backends.cuda.matmul.fp32_precision, cudnn.conv.fp32_precision

    torch.manual_seed(5)
    wanted = torch.rand(3)
    cudnn.conv.fp32_precision = "ieee"
    try:
        for tf32 in (True, False):
            before = precision()
            torch.manual_seed(5)
            asked, out = override(config, {"tf32": tf32}), tmp_path / str(tf32)
            train(asked, out, device="cpu", callbacks=[lambda _: seen.append(precision())])
            assert torch.equal(torch.rand(3), wanted)
            assert {*seen} == {("tf32", "tf32") if tf32 else ("ieee", "ieee")}
            assert precision() == before
            seen.clear()
    finally:
        cudnn.allow_tf32 = True


@pytest.mark.parametrize(
    ("device", "initialised", "kept"),
    [("cuda:1", False, True), ("cpu", True, True), ("cpu", False, False)],
)
def test_the_generators_of_all_gpus_are_left_alone(monkeypatch, device, initialised, kept):
    """Numbers stand in for their states; without need no GPU is woken."""
    states = {0: "first", 1: "second"}
    for name, stands_in in {
        "is_initialized": lambda: initialised,
        "device_count": lambda: 2,
        "get_rng_state": lambda index: states[index],
        "set_rng_state": lambda state, index: states.update({index: state}),
    }.items():
        monkeypatch.setattr(torch.cuda, name, stands_in)
    with undisturbed(torch.device(device)):
        states |= dict.fromkeys(states, "seeded")
    assert [*states.values()] == (["first", "second"] if kept else ["seeded"] * 2)


def test_a_run_starts_from_an_opened_model_or_a_checkpoint(config, tmp_path):
    train(config, tmp_path / "first", device="cpu")
    found = find_checkpoint(tmp_path / "first")
    sources = {"opened": vfn.load(tmp_path / "first", "cpu"), "checkpoint": found}
    for name, source in sources.items():
        settings = override(config, {"steps": 1, "lr": 0.0})
        train(settings, tmp_path / name, init_from=source, device="cpu")
        begun = find_checkpoint(tmp_path / name)
        assert all(torch.equal(v, found.ema[n]) for n, v in begun.params.items())


def test_a_configuration_may_be_a_path_or_a_preset(config, tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(dumps(override(config, {"steps": 1})))
    assert train(path, tmp_path / "run", device="cpu").step == 1
    with pytest.raises(ValueError, match="unknown config 'digit', expected a preset"):
        train("digit", tmp_path / "none", device="cpu")


def in_earlier_words(path, config):
    """Rewrite a checkpoint's configuration as version 0.1 wrote it."""
    tables = to_tables(config)
    for section, name in (("model", "network"), ("distill", "method")):
        del tables[section][name]
    tables["train"]["tensorboard"] = False
    with safe_open(path, "pt") as file:
        metadata = file.metadata() | {"config": tomli_w.dumps(tables)}
    tensors = load_file(path)
    save_file(tensors, path, metadata | {"sha256": digest(tensors, metadata)})


def test_a_run_of_an_earlier_version_goes_on(config, tmp_path):
    train(config, tmp_path / "whole", device="cpu")
    train(override(config, {"steps": 2}), tmp_path / "parts", device="cpu")
    in_earlier_words(checkpoints(tmp_path / "parts")[-1], config)
    train(config, tmp_path / "parts", resume=True, device="cpu")
    assert differing(tmp_path / "whole", tmp_path / "parts") == []


def test_all_processes_begin_with_the_parameters_of_the_first(monkeypatch):
    """The others add zeros to them, whatever they have built."""
    sent = []
    monkeypatch.setattr(session, "total", lambda value, _world: sent.append(value.clone()))
    for rank in (0, 1):
        model = small()
        session._share_parameters(model, World(rank, 2, torch.device("cpu")))
        expected = [value * (rank == 0) for value in small().parameters()]
        assert all(map(torch.equal, sent[-len(expected) :], expected))


def test_processes_are_asked_whether_they_have_the_same_pictures(config, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(session, "check_alike", lambda job, _world: asked.append(job))
    run = session.open_run(config, RunFiles(tmp_path), ALONE)
    assert {"pictures": run.data} in asked
