"""Training and drawing of each row of `benchmarks.peers`, ours and others', in one loop."""

import tempfile
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

import vfn
from benchmarks.budget import PROBED, cost_of_a_step, shortened, train_whole
from benchmarks.implementations import (
    CLASSES,
    PEERS,
    SHAPES,
    Peer,
    Sampler,
    nearest_in_size,
    size_of,
)
from vfn.configs import Config, load, override
from vfn.data import Dataset, load_dataset
from vfn.memory import keep_freed_memory
from vfn.model import DataShape, build_model
from vfn.objective import Batch
from vfn.train.batches import image_indices
from vfn.train.state import init_state, train_step

# Our rows, and what is changed in the preset; then what is in the loop for a row of others, and by
# what learning rates are multiplied.
PLAIN = "ours"
OURS: dict[str, dict[str, Any]] = {
    PLAIN: {},
    "ours-augmented": {"augment": 0.12, "dropout": 0.1},
    "ours-muon": {"optimizer": "muon"},
}
THEIRS: dict[str, dict[str, Any]] = {"EDM-muon": {"optimizer": "muon"}}
FASTER = {"ours-muon": 2.0, "EDM-muon": 2.0}
DRAWN = 250  # pictures at a time


class Made(NamedTuple):
    """A trained network.

    parameters: their number. seconds: CPU time of training. losses: on its way, each in its own
    scale. samplers: for each of `PARTS`. draw: pictures, the classes that were asked, and
    evaluations a picture.
    """

    parameters: int
    seconds: float
    losses: list[float]
    samplers: dict[str, tuple[Sampler, ...]]
    draw: Callable[[Sampler, int], tuple[Tensor, Tensor, int]]


def configuration(
    row: str, data: str, seed: int = 0, steps: int = PROBED[1], rate: float | None = None
) -> Config:
    """The preset of so many steps; few of them do not all go to warming up."""
    preset = override(load(data), (OURS | THEIRS).get(row, {}))
    rate = FASTER.get(row, 1.0) * preset.train.lr if rate is None else rate
    quiet = {"preview_every": 0, "checkpoint_every": 10**6, "log_every": 10}
    return override(shortened(preset, steps), {**quiet, "seed": seed, "lr": rate})


def shared_loop(peer: Peer, data: Dataset, config: Config) -> Iterator[float]:
    """Train as `vfn.train.train` does, but for the loss; in the end the network has the average.

    Yields the loss of each step.
    """
    settings = config.train
    state = init_state(peer.net, settings)

    def objective(_network: Any, batch: Batch, _diffusion: Any) -> Tensor:
        assert batch.labels is not None
        return peer.loss(batch.x0, batch.labels)

    assert data.labels is not None
    peer.net.train()
    for step in range(settings.steps):
        draws = step * settings.batch_size + torch.arange(settings.batch_size)
        index = image_indices(settings.seed, draws, len(data.images))
        x0, unused = data.values.to_unit(data.images[index]), torch.zeros(len(index)).double()
        batch = Batch(x0, data.labels[index] - 1, unused, x0)  # times and noise are the peer's own
        yield train_step(state, peer.net, [batch], config, objective).loss.item()
    peer.net.load_state_dict(peer.net.state_dict() | state.ema)
    peer.net.eval().to(memory_format=torch.channels_last)  # 28x28 is drawn faster so


def ours(config: Config) -> Made:
    entries: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        seconds = train_whole(config, folder, callbacks=[entries.append])
        trained = vfn.load(folder, "cpu")

    def draw(sampler: Sampler, num: int) -> tuple[Tensor, Tensor, int]:
        drawn = trained.sample(
            num, seed=config.train.seed, batch=DRAWN, sampler=sampler.word,
            sample_timesteps=sampler.steps, guidance=0.0,
        )  # fmt: skip
        return drawn.images, drawn.classes, drawn.nfe

    few, many = ((Sampler(config.sample.sampler, steps),) for steps in (10, 64))
    losses = [entry["loss"] for entry in entries if "loss" in entry]
    return Made(size_of(trained.model), seconds, losses, {"few": few, "many": many}, draw)


def peer_of(row: str, config: Config) -> Peer:
    """Of a width and blocks whose number of parameters is nearest to ours."""
    shape, legend = SHAPES[config.data.dataset], load_dataset(config.data.dataset, "test").legend
    our = build_model(config, DataShape(1, shape.size, shape.size, legend))
    width, blocks = nearest_in_size(PEERS[row], shape, size_of(our))
    torch.manual_seed(config.train.seed)
    return PEERS[row](shape, width, blocks)


def theirs(row: str, config: Config) -> Made:
    peer, begun = peer_of(row, config), time.process_time()
    losses = list(shared_loop(peer, load_dataset(config.data.dataset, "train"), config))
    seconds = time.process_time() - begun

    def draw(sampler: Sampler, num: int) -> tuple[Tensor, Tensor, int]:
        calls: list[None] = []
        counted = peer.net.register_forward_hook(lambda *_: calls.append(None))
        parts = (torch.arange(num) % CLASSES).split(DRAWN)
        torch.manual_seed(config.train.seed)
        with torch.inference_mode():
            drawn = torch.cat([peer.sample(sampler, y) for y in parts])
        counted.remove()
        images = ((drawn.clamp(-1, 1) + 1) * 127.5).round().byte()
        return images, torch.cat(parts) + 1, len(calls) // len(parts)

    samplers = {"few": peer.few, "many": peer.many}
    return Made(size_of(peer.net), seconds, losses, samplers, draw)


def cost(row: str, data: str) -> float:
    """CPU seconds of a step; all keep the memory that they free, as ours do in training."""
    keep_freed_memory()
    config = configuration(row, data)
    if row in OURS:
        return cost_of_a_step(config)
    loop = shared_loop(peer_of(row, config), load_dataset(data, "train"), config)
    marks = [time.process_time() for step, _ in enumerate(loop, 1) if step in PROBED]
    return (marks[1] - marks[0]) / (PROBED[1] - PROBED[0])
