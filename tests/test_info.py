"""Parameters, operations and memory of a network, against counts made another way."""

from dataclasses import replace
from shutil import copytree

import numpy as np
import pytest
import torch
from torch import nn

from tests.helpers.small import small_config
from vfn.configs import Config, DataConfig, ModelConfig, dumps, load, override
from vfn.data import Labels, load_dataset
from vfn.footprint import FLOAT32, SLACK
from vfn.info import OWN, StagePlan, cost, data_shape, given_shape, needs, summary_of
from vfn.model import DataShape, build_model, shape_of
from vfn.nn.layers import SelfAttention
from vfn.runs import Checkpoint, RunFiles, export_model, find_checkpoint, save_checkpoint
from vfn.sampling import untrained
from vfn.train.distillation.plan import plan_of

DIGITS = DataShape(1, 8, 8, Labels(tuple("0123456789")))


def counted_by_hand(model, shape):
    """Two operations for each product, from the shapes that layers see."""
    total = 0

    def convolution(layer, _inputs, out):
        nonlocal total
        total += 2 * layer.weight[0].numel() * out.numel()

    def attention(layer, inputs, _out):
        nonlocal total
        positions = inputs[0].shape[2] * inputs[0].shape[3]
        total += 2 * 2 * positions**2 * layer.out.in_features  # scores, then the mixture
        for maps in (layer.qkv, layer.out):  # by their weights, not as layers
            total += 2 * positions * maps.weight.numel()

    for module in model.modules():
        if isinstance(module, nn.Conv2d | nn.Linear):
            module.register_forward_hook(convolution)
        if isinstance(module, SelfAttention):
            module.register_forward_hook(attention)
    labels = torch.ones(1, dtype=torch.long) if shape.legend.names else None
    model(torch.zeros(1, *shape.size), torch.zeros(1), labels)
    return total


@pytest.mark.parametrize("names", [(), ("a", "b", "c")])
def test_operations(names):
    shape = DataShape(1, 8, 16, Labels(names))
    config = override(load("digits"), {"num_heads": 2, "apply_attn": (True, False)})
    counted = cost(config, shape)
    model = build_model(config, shape)
    assert counted.forward == counted_by_hand(model, shape)
    assert counted.total == sum(p.numel() for p in model.parameters())


def test_the_way_back_is_twice_the_way_there():
    """Each product has two on the way back, but for the first layers' inputs."""
    counted = cost(load("digits"), DataShape(1, 8, 8))
    assert 2.9 < counted.forward_backward / counted.forward < 3


def test_tags():
    shape = DataShape(1, 8, 8, Labels(("a", "b"), tags=True))
    assert cost(load("digits"), shape).parameters["label_embed"] == 3 * 128


def test_guidance_as_an_input():
    shape = DataShape(1, 8, 8, Labels(("a", "b")))
    learned = override(load("digits"), {"teacher_steps": 2, "guidance_range": (0.0, 4.0)})
    without, counted = cost(load("digits"), shape), cost(learned, shape)
    assert set(counted.parameters) - set(without.parameters) == {"guidance_embed"}
    assert counted.forward > without.forward


class Shared(nn.Module):
    """Parameters of its own, and a layer that stands in two places; labels are looked at."""

    def __init__(self, in_channels, out_channels, num_classes, multitags):
        super().__init__()
        self.scale = nn.Parameter(torch.ones(5))
        self.first = nn.Conv2d(in_channels, out_channels, 1, bias=False)
        self.again = self.first
        self.num_classes, self.multitags = num_classes, multitags

    def forward(self, z, _t, y):
        assert (y is None) == (not self.num_classes)
        if y is not None:
            assert not y.is_floating_point()
            assert y.tolist() == ([[0] * self.num_classes] if self.multitags else [0])
        return self.first(self.again(z)) * self.scale.mean()


@pytest.mark.parametrize("legend", [Labels(), Labels(("a", "b")), Labels(("a", "b"), tags=True)])
def test_another_network(legend, tmp_path):
    config = Config(model=ModelConfig(network=f"{__name__}:Shared"))
    counted = cost(config, DataShape(1, 4, 4, legend))
    assert counted.parameters == {OWN: 5, "first": 1}
    assert counted.forward == 2 * 2 * 16
    summary = summary_of_config(config, DataShape(1, 4, 4, legend), tmp_path)
    assert summary.startswith(f"{__name__}:Shared for 1 x 4 x 4, {legend.describe()}, predicts")


class Narrow(Shared):
    """One that takes pictures of three channels alone."""

    def forward(self, z, _t, _y):
        return nn.functional.conv2d(z, torch.zeros(1, 3, 1, 1))


def test_a_network_that_fails_is_named():
    config = Config(model=ModelConfig(network=f"{__name__}:Narrow"))
    with pytest.raises(ValueError, match=r"Narrow fails for pictures of \(1, 4, 4\): .*channels"):
        cost(config, DataShape(1, 4, 4))


def summary_of_config(config, shape, directory):
    """The text for a configuration that is no preset."""
    path = directory / "mine.toml"
    path.write_text(dumps(config))
    return str(summary_of(str(path), shape))


def test_of_a_preset():
    summary = summary_of("digits")
    lines = summary.text().splitlines()
    assert lines[0] == "unet for 1 x 8 x 8, 10 classes, predicts v"
    rows = dict(line.rsplit(maxsplit=1) for line in lines[1:] if line)
    assert rows["all"] == "756,417"
    assert rows["Adam's moments"] == "6.1"  # MB: 8 bytes a parameter
    assert "checkpoint" not in rows
    assert summary.cost.memory()["Adam's moments"] == 8 * summary.cost.total
    assert str(summary) == summary.text()


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """A run whose network is not the default one."""
    narrow = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,),
              "num_res_blocks": 1, "batch_size": 16, "sample_timesteps": 2}  # fmt: skip
    config = override(load("digits"), narrow)
    params = dict(build_model(config, DIGITS).named_parameters())
    ema, *moments = ({name: p.detach().clone() for name, p in params.items()} for _ in range(3))
    run = RunFiles(tmp_path_factory.mktemp("teacher"))
    for step in (1, 2):
        kinds = dict(zip(("exp_avg", "exp_avg_sq"), moments, strict=True))
        checkpoint = Checkpoint(step, config, DIGITS, params, ema, kinds, {})
        save_checkpoint(run, checkpoint, keep=2)
    return run.path


def test_of_a_run_and_of_a_file(teacher):
    summary = summary_of(str(teacher))
    newest, older = RunFiles(teacher).checkpoint_files()
    assert list(summary.checkpoints) == [newest.name, older.name]
    assert summary.step == 2
    assert summary.text().endswith("\n\nnewest intact checkpoint: step 2")
    alone = summary_of(str(older))
    assert alone.checkpoints == {older.name: older.stat().st_size}
    assert (alone.step, alone.cost) == (1, summary.cost)
    assert "snapshots" not in summary.text()


def test_of_a_run_with_snapshots_of_averages(teacher, tmp_path):
    run = RunFiles(tmp_path / "run")
    copytree(teacher, run.path)
    for step in (100, 20):
        run.snapshot(step).parent.mkdir(exist_ok=True)
        run.snapshot(step).touch()
    told = summary_of(str(run.path)).text()
    assert told.endswith("\n\nsnapshots of averages, for vfn ema: steps 20, 100")


def test_a_distillation_has_its_teacher_s_network(teacher):
    """Alone it says so, with a teacher or as a directory it shows that one's."""
    alone = summary_of("digits_distill")
    assert (alone.shape, alone.cost) == (None, None)
    lines = alone.text().splitlines()
    assert lines[0].startswith("Data and network are the teacher's: name it with --teacher")
    assert lines[-1].split() == ["1", "400"]
    told = summary_of("digits_distill", teacher=teacher)
    own = summary_of(str(teacher)).cost
    assert told.cost == own._replace(copies={**own.copies, "frozen teachers": 1})
    led = override(told.config, {"teacher_guide_with": "2", "teacher_guide_weight": 1.0})
    assert cost(led, DIGITS).memory()["frozen teachers"] == 2 * cost(led, DIGITS).total * FLOAT32
    assert told.stages == alone.stages
    assert told.text().startswith("unet for 1 x 8 x 8, 10 classes, predicts v\n")


def test_a_distillation_shows_what_is_done(teacher, tmp_path):
    found, run = find_checkpoint(teacher), RunFiles(tmp_path)
    short = {"teacher_steps": 4, "steps": 10, "last_steps": 2000}
    export_model(found, run.teacher)
    run.config.write_text(dumps(plan_of(found, "digits_distill", short)))
    log = run.stage(2).log
    log.parent.mkdir()
    log.write_text('{"step": 1000, "loss": 1.0}\n')
    summary = summary_of(str(tmp_path))
    assert summary.cost == summary_of("digits_distill", teacher=teacher).cost
    assert summary.stages == [StagePlan(2, 2000, 1000), StagePlan(1, 2000, 0)]
    assert [line.split() for line in summary.text().splitlines()[-2:]] == [
        ["2", "1,000", "of", "2,000"],
        ["1", "0", "of", "2,000"],
    ]


def test_memory_at_work_counts_the_teacher():
    """Its parameters, where a student is trained; not where it is drawn from."""
    without, whole = load("digits"), load("digits_moments")
    halved = override(without, {"teacher_steps": 8, "student_steps": 4})
    one, two = (needs(config, DIGITS, device="cpu") for config in (without, halved))
    parameters = FLOAT32 * cost(without, DIGITS).total
    assert two.step - one.step == pytest.approx(SLACK["cpu"] * parameters, abs=2)
    assert two.draw == one.draw
    assert cost(whole, DIGITS).copies["frozen teachers"] == 1


def test_of_pictures_that_are_given():
    text = summary_of("digits", given_shape((3, 16, 8), 4)).text()
    assert text.startswith("unet for 3 x 16 x 8, 4 classes, predicts v")
    alone = summary_of("digits", given_shape((3, 8, 8), None)).text()
    assert alone.startswith("unet for 3 x 8 x 8, no labels")
    assert given_shape(None, None) is None


@pytest.mark.parametrize(
    ("image", "classes", "message"),
    [
        ((3, 8), None, r"expected --image channels,height,width, got \(3, 8\)"),
        ((3, 0, 8), None, "expected --image channels,height,width"),
        (None, 3, "expected --image with --classes"),
    ],
)
def test_pictures_that_cannot_be(image, classes, message):
    with pytest.raises(ValueError, match=message):
        given_shape(image, classes)


def test_pictures_whose_sides_do_not_halve():
    """They cost what the next size does that halves."""
    odd, even = (
        summary_of("digits", given_shape((3, *size), None)).cost for size in ((7, 5), (8, 6))
    )
    assert odd == even


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"image_size": (16,)},
        {"image_size": (4, 12), "channels": 3},
        {"crop": (1, 1, 6, 4)},
        {"crop": (1, 1, 6, 4), "image_size": (8,)},
        {"conditional": False},
    ],
)
def test_the_shape_of_a_known_data_set_is_the_one_that_is_loaded(settings):
    data = DataConfig(**settings)
    loaded = shape_of(load_dataset(data))
    assert data_shape(data) == loaded
    assert untrained(replace(small_config(), data=data)).shape == loaded


def test_a_known_data_set_is_not_downloaded(monkeypatch):
    monkeypatch.setattr("vfn.info.load_dataset", None)
    assert data_shape(DataConfig(dataset="mnist"))[:3] == (1, 32, 32)
    celeba = data_shape(DataConfig(dataset="celeba"))
    assert (celeba.size, len(celeba.legend.names), celeba.legend.tags) == ((3, 64, 64), 40, True)


def test_other_pictures_are_loaded(tmp_path):
    np.save(tmp_path / "mine.npy", np.zeros((3, 6, 4, 3), np.uint8))
    assert data_shape(DataConfig(dataset=str(tmp_path / "mine.npy"))).size == (3, 6, 4)
    with pytest.raises(ValueError, match="unknown data set 'cats'"):
        data_shape(DataConfig(dataset="cats"))


def test_what_a_target_knows_is_not_told_again(teacher):
    with pytest.raises(ValueError, match="digits is not the configuration of a distillation"):
        summary_of("digits", teacher=teacher)
    with pytest.raises(ValueError, match="is not the configuration of a distillation"):
        summary_of(str(teacher), teacher=teacher)
    with pytest.raises(ValueError, match="digits_distill knows its pictures"):
        summary_of("digits_distill", given_shape((1, 8, 8), 3))
    with pytest.raises(ValueError, match="knows its pictures; leave out --image and --classes"):
        summary_of(str(teacher), given_shape((1, 8, 8), 3))
