"""How runs begin from others, and what they say where memory is not enough."""

import pytest
import torch

from tests.helpers.memory import Alive, Counting
from vfn.configs import override
from vfn.data import as_dataset, load_dataset
from vfn.model import DataShape, build_model, shape_of
from vfn.objective import batch_loss
from vfn.pictures import save_images
from vfn.runs import find_checkpoint
from vfn.sampling import load, untrained
from vfn.train import loop, train
from vfn.train.state import init_state, start_partly_from


@pytest.fixture(scope="module")
def begun(config, tmp_path_factory):
    """A run with ten classes."""
    out = tmp_path_factory.mktemp("begun")
    train(override(config, {"steps": 1}), out, device="cpu")
    return out


@pytest.mark.parametrize(
    ("settings", "left"),
    [
        ({"conditional": False}, set()),
        ({"channels": 3}, {"in_conv.weight", "out_conv.weight", "out_conv.bias"}),
        ({"image_size": (12, 20)}, set()),
        ({"embedding_dim": 64}, {"time_embed.0.bias", "modulation.weight"}),
    ],
)
def test_a_new_run_takes_what_fits(config, begun, tmp_path, capfd, settings, left):
    """Of another data set or network; two lines tell what does not fit."""
    settings = override(config, {"steps": 1, "lr": 0.0, "ema_decay": 0.0, **settings})
    train(settings, tmp_path, device="cpu", init_from=begun, init_partial=True)
    told = capfd.readouterr().err
    source, found = find_checkpoint(begun).ema, find_checkpoint(tmp_path)
    taken = {
        name
        for name, value in found.params.items()
        if name in source and source[name].shape == value.shape
    }
    assert all(torch.equal(found.params[name], source[name]) for name in taken)
    assert all(torch.equal(found.ema[name], found.params[name]) for name in found.params)
    assert left <= found.params.keys() - taken
    assert f"{len(taken)} of {len(found.params)} parameters are those of step 1" in told
    assert ("; as built stay " in told) == bool(found.params.keys() - taken)
    unknown = "not taken, for want of a place: label_embed.bias, label_embed.weight"
    assert (unknown in told) == (not settings.data.conditional)


@pytest.mark.parametrize("opened", [False, True])
@pytest.mark.parametrize(("more", "told"), [(0, False), (5, True)])
def test_pictures_held_out_that_may_be_known_are_told(config, tmp_path, capfd, more, told, opened):
    """Of a folder that has grown: which pictures are held out follows from how many there are."""
    noise = torch.randint(256, (25, 1, 8, 8), generator=torch.Generator().manual_seed(0))
    own = {"dataset": str(tmp_path / "own"), "data_dir": str(tmp_path), "steps": 1}
    names = [f"{i:02d}" for i in range(20 + more)]
    save_images(tmp_path / "own", noise[:20].byte(), names[:20])
    train(override(config, own), tmp_path / "first", device="cpu")
    save_images(tmp_path / "own", noise[: 20 + more].byte(), names)
    capfd.readouterr()
    first = load(tmp_path / "first", "cpu") if opened else tmp_path / "first"
    train(override(config, own), tmp_path / "run", device="cpu", init_from=first)
    line = (
        "--init-from was trained on 18 pictures, and there are 22 now; some of those that are held"
    )
    assert (line in capfd.readouterr().err) == told


def test_other_classes_keep_the_rest(config, begun, tmp_path, capfd):
    own = load_dataset(config.data)
    labels = (own.labels - 1) % 4 + 1
    dataset = as_dataset(own.images, labels, ["a", "b", "c", "d"])
    settings = override(config, {"steps": 1, "lr": 0.0})
    with pytest.raises(ValueError, match=r"label_embed.weight is .* --init-partial takes what"):
        train(settings, tmp_path, device="cpu", init_from=begun, dataset=dataset)
    assert [*tmp_path.iterdir()] == []
    train(settings, tmp_path, device="cpu", init_from=begun, init_partial=True, dataset=dataset)
    assert "as built stay label_embed.weight (128, 4), there (128, 10)\n" in capfd.readouterr().err


def test_nothing_that_fits_is_refused(config, begun, tmp_path):
    other = override(config, {"network": "tests.helpers.outside:Small"})
    with pytest.raises(ValueError, match=r"none of the \d+ parameters of this network has the nam"):
        train(other, tmp_path, device="cpu", init_from=begun, init_partial=True)
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(ValueError, match="expected --init-from with --init-partial"):
        train(config, tmp_path, device="cpu", init_partial=True)


def hungry(network, batch, diffusion):
    """A loss that takes more memory than there is."""
    return batch_loss(network, batch, diffusion) + torch.empty(10**15).sum()


def test_too_little_memory_for_a_step_is_told(config, tmp_path):
    message = (
        r"^out of memory while training on 16 pictures at once \(4,000,000 GB more were wanted\); "
        "use --accumulate 2 or more, --checkpoint-activations true or a smaller network$"
    )
    with pytest.raises(ValueError, match=message):
        train(config, tmp_path, device="cpu", objective=hungry)


class Hungry(torch.nn.Module):
    """A network that takes more memory than there is."""

    def __init__(self, in_channels, out_channels, **_labels):
        super().__init__()
        self.first = torch.nn.Conv2d(in_channels, out_channels, 1)

    def forward(self, z, _t, _y=None):
        return self.first(z) + torch.empty(10**15).sum()


def test_too_little_memory_for_two_pictures_is_told(config, tmp_path):
    hungry = override(config, {"network": f"{__name__}:Hungry"})
    with pytest.raises(ValueError, match="^out of memory while trying the network on 2 pictures"):
        train(hungry, tmp_path, device="cpu")


def test_too_little_memory_for_sampling_is_told(config):
    drawing = untrained(override(config, {"network": f"{__name__}:Hungry"}), DataShape(1, 8, 8))
    with pytest.raises(
        ValueError, match="^out of memory while drawing 5 pictures at once .* --bat"
    ):
        drawing.sample(5, steps=1)


def test_the_average_begins_with_what_is_taken(config, begun):
    model = build_model(config, shape_of(load_dataset(config.data)))
    state, source = init_state(model, config.train), find_checkpoint(begun)
    start_partly_from(state, source)
    assert all(torch.equal(state.ema[name], value) for name, value in source.ema.items())


def test_nothing_of_the_other_run_is_held_while_this_one_goes_on(
    config, begun, tmp_path, monkeypatch
):
    """Its average alone while it begins."""
    alive, there = Alive(), []
    counting, average = Counting(alive), len(find_checkpoint(begun).ema)
    monkeypatch.setattr(
        loop, "as_checkpoint", lambda path: alive.note_checkpoint(find_checkpoint(path))
    )
    opened = loop.open_run
    monkeypatch.setattr(
        loop, "open_run", lambda *given: there.append(alive.count()) or opened(*given)
    )
    settings = override(config, {"steps": 2})
    train(settings, tmp_path, init_from=begun, callbacks=[counting], device="cpu")
    assert there == [average]
    assert counting.found == [0, 0]
