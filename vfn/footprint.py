"""The memory of a network at work, counted on tensors without values before there are real ones."""

import math
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.func import functional_call
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from vfn.configs import Config
from vfn.model import DataShape, autocast, build_model
from vfn.nn import Network, guidance_range, keyed_dropout, no_conditions, takes_second_time
from vfn.objective import Batch, Objective, batch_loss, loss_of

FLOAT32 = 4
# What is taken beyond the tensors: holes that the allocator leaves, and what kernels need inside.
# That of the CPU is measured, see benchmarks/results/memory.md.
SLACK = {"cpu": 1.15, "cuda": 1.1}
# Of blocks that are computed again, which come and go: the allocator keeps holes. Measured, too.
HOLES = 1.5
# Of the largest map that is convolved: what kernels of a GPU take for products of float32 with all
# digits, in both passes. One network was measured, see benchmarks/results/gpu_memory.md.
WORKSPACE = 12
BATCHES = 3  # of pictures and noise: one in use, one ready, one that is being made
STATES = 8  # of the size of the pictures: what solvers hold between evaluations
MAPS = 4  # activations that a layer keeps at most, where it is as large as the picture
PLANNED = 0.9  # share of the free memory that is planned with
SMALL = 0.25  # share of the free memory below which a bound is as good as an estimate
ENDLESS = 2**62  # more bytes than a number of 64 bits counts


def kept_copies(config: Config, networks: int = 1, frozen: int = 0) -> dict[str, int]:
    """Copies of the parameters that training keeps between steps, in memory and in checkpoints.

    Args:
        config: of the run.
        networks: 2 where a second one like it is trained beside it, which has no average.
        frozen: networks like it that teach it, in memory; 0 for what is in checkpoints.

    Returns:
        how many, by what they are for; gradients, one more for each network, come and go.

    >>> from vfn.configs import load, override
    >>> kept_copies(override(load("digits"), {"ema_profiles": (0.05, 0.1)}))
    {'parameters': 1, 'average': 1, "Adam's moments": 2, 'averages of ema_profiles': 2}
    """
    copies = {"parameters": 1, "average": 1, "Adam's moments": 2}
    if profiles := config.train.ema_profiles:
        copies["averages of ema_profiles"] = len(profiles)
    if networks > 1:
        copies["the auxiliary network"] = (networks - 1) * 3
    if frozen:
        copies["frozen teachers"] = frozen
    return copies


@dataclass(frozen=True, eq=False)
class Footprint:
    """What a network takes of memory for some pictures at once, in bytes.

    Nothing is computed, and no tensor of the pictures' or the network's size is made: the passes
    run on tensors that have a shape but no values. On a CPU whole processes were within a quarter
    of what is measured. Figures are None for a network or objective that looks at values.

    config: describes the network, what it learns and in which precision. shape: of the data.
    device: where it works. model: the network itself, if there is one already. objective: the loss
    of each picture. networks: 2 where a second one like it is trained beside it. frozen: networks
    that teach it; a weaker one of another size is counted as one like it.

    >>> from vfn.configs import load
    >>> digits = Footprint(load("digits"), DataShape(1, 8, 8))
    >>> few, many = digits.step(32), digits.step(128)
    >>> 30e6 < few < many < 120e6 and digits.draw(128) < many
    True
    """

    config: Config
    shape: DataShape
    device: torch.device = torch.device("cpu")
    model: nn.Module | None = None
    objective: Objective = batch_loss
    networks: int = 1
    frozen: int = 0

    @cached_property
    def network(self) -> nn.Module:
        """The network, without values if nobody gave one."""
        if self.model is not None:
            return self.model
        with torch.device("meta"):
            return build_model(self.config, self.shape)

    @property
    def parameters(self) -> int:
        """Bytes of the parameters."""
        return FLOAT32 * sum(p.numel() for p in self.network.parameters())

    @property
    def _kept(self) -> int:
        """Copies of the parameters between steps."""
        return sum(kept_copies(self.config, self.networks, self.frozen).values())

    @property
    def state(self) -> int:
        """Bytes of all copies of the parameters, and their gradients."""
        return (self._kept + self.networks) * self.parameters

    def step(self, pictures: int, processes: int = 1) -> int | None:
        """Bytes that training takes in all, with a micro-batch of some pictures.

        Args:
            pictures: in a micro-batch.
            processes: that train together; among several, gradients are there twice.

        Returns:
            bytes at the moment of a step when it is most, for this process.
        """
        copies = self._kept + self.networks * (processes > 1)
        again = self.config.model.network_options().get("checkpoint_activations", False)
        holes = HOLES if again and self.device.type == "cpu" else 1.0
        return self._most(self._train, pictures, copies, 2 * BATCHES, holes * self.networks)

    def draw(self, pictures: int, state: bool = False) -> int | None:
        """Bytes that drawing takes, beside the parameters.

        Args:
            pictures: that the network is evaluated on at once; with guidance twice those drawn.
            state: whether that is amid a training, whose state is to be counted too.

        Returns:
            bytes at the moment of an evaluation when it is most.
        """
        if (pictures, state) not in self._drawn:  # a pass of a large network takes a second
            copies = self._kept if state else 0
            self._drawn[pictures, state] = self._most(self._evaluate, pictures, copies, STATES)
        return self._drawn[pictures, state]

    @cached_property
    def _drawn(self) -> dict[tuple[int, bool], int | None]:
        """What `draw` has found."""
        return {}

    def at_most(self, pictures: int) -> int | None:
        """What a step surely does not exceed, told without running anything.

        It counts for each layer some maps as large as the picture, as convolutions without strides
        have them.

        Args:
            pictures: in a micro-batch.

        Returns:
            bytes, most often several times too many; None where no network can be built this way.

        >>> from vfn.configs import load
        >>> digits = Footprint(load("digits"), DataShape(1, 8, 8))
        >>> digits.at_most(16) > 2 * digits.step(16)
        True
        """
        try:
            params = list(self.network.parameters())
        except Exception:  # as of `_most`
            return None
        widths = sum(p.shape[0] for p in params if p.ndim > 1)
        maps = MAPS * FLOAT32 * widths * math.prod(self.shape.size[1:]) * pictures
        return self.state + self.networks * maps

    def _most(
        self,
        work: Callable[[Network, Batch], None],
        pictures: int,
        copies: int,
        batches: int,
        holes: float = 1.0,
    ) -> int | None:
        """Bytes of some work when they are most, beside copies of the parameters and of a batch."""
        try:
            held = copies * self.parameters
            held += batches * FLOAT32 * math.prod(self.shape.size) * pictures
            with FakeTensorMode(allow_non_fake_inputs=True):
                network = self._without_values()
                batch = example_batch(self.network, self.shape, pictures, self.device)
                with Living() as living:
                    work(network, batch)
        except Exception as error:  # a network of the user's can need values in any way
            too_large = isinstance(error, RuntimeError) and "overflow" in str(error)
            return ENDLESS if too_large else None
        taken = held + holes * living.most + self.workspace(living)  # of one network at a time
        return round(SLACK.get(self.device.type, 1.0) * taken)

    def workspace(self, living: "Living") -> int:
        """Bytes that kernels of both passes take inside, where that is more than slack.

        Args:
            living: has watched the passes.

        Returns:
            bytes; 0 on a CPU, and for products of fewer digits than float32 has.
        """
        settings = self.config.train
        full = self.device.type == "cuda" and settings.precision == "fp32" and not settings.tf32
        return WORKSPACE * living.convolved if full else 0

    def _without_values(self) -> Network:
        """The network as a function, with parameters and buffers that have shapes alone."""
        model = self.network

        def empty(value: Tensor, gradient: bool) -> Tensor:
            return torch.empty_strided(
                value.shape,
                value.stride(),
                dtype=value.dtype,
                device=self.device,
                requires_grad=gradient,
            )

        tensors = {name: empty(value, True) for name, value in model.named_parameters()}
        tensors |= {name: empty(value, False) for name, value in model.named_buffers()}
        return lambda *inputs, **more: functional_call(model, tensors, inputs, more)

    def _train(self, network: Network, batch: Batch) -> None:
        """The passes of a training step."""
        precision = self.config.train.precision
        with _mode(self.network, training=True), keyed_dropout(batch.dropout):
            with autocast(precision, self.device):
                loss = loss_of(self.objective, network, batch, self.config.diffusion).loss
            torch.autograd.backward(loss.mean())

    def _evaluate(self, network: Network, batch: Batch) -> None:
        """One evaluation, as in sampling."""
        with _mode(self.network, training=False), torch.no_grad():
            batch.predicted_by(network, batch.x0)


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """A module in training or evaluation, for a while."""
    before = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(before)


def evaluated_at_once(footprint: Footprint, pictures: int, free: int, state: bool = False) -> int:
    """How many pictures a network can be evaluated on at once in the memory that is free.

    Args:
        footprint: of the network.
        pictures: as many as are wanted.
        free: bytes.
        state: whether that is amid a training, whose state is to be counted too.

    Returns:
        a number up to ``pictures``, at least 1; ``pictures`` where nobody can tell.

    >>> from vfn.configs import load
    >>> evaluated_at_once(Footprint(load("digits"), DataShape(1, 8, 8)), 500, free=10**10)
    500
    """
    most = footprint.at_most(-(-pictures // MAPS))  # nothing is kept for a backward pass
    if most is None or most <= SMALL * free:
        return pictures
    fitting = most_pictures(lambda n: footprint.draw(n, state), pictures, PLANNED * free)
    return max(1, fitting)


def example_batch(
    model: nn.Module, shape: DataShape, pictures: int, device: torch.device | str | None = None
) -> Batch:
    """A batch of black pictures without labels, as a network gets it.

    Args:
        model: tells whether it takes guidance as an input.
        shape: of the data.
        pictures: how many.
        device: where they are.

    Returns:
        Batch.

    >>> example_batch(nn.Identity(), DataShape(1, 8, 8), 2).x0.shape
    torch.Size([2, 1, 8, 8])
    """
    count, x0 = len(shape.legend.names), torch.zeros(pictures, *shape.size, device=device)
    second = takes_second_time(model)
    labels = None
    if count:
        size = (pictures, count) if shape.legend.tags else (pictures,)
        labels = torch.zeros(size, dtype=torch.long, device=device)
    return Batch(
        x0,
        labels,
        torch.zeros(pictures, dtype=torch.float64, device=device),
        torch.zeros_like(x0),
        torch.zeros(pictures, device=device) if guidance_range(model) else None,
        dropout=torch.zeros(pictures, 2, dtype=torch.int32, device=device),
        r=torch.zeros(pictures, dtype=torch.float64, device=device) if second else None,
        u=torch.zeros(pictures, device=device) if second else None,
    ).under(no_conditions(model, x0))


def most_pictures(cost: Callable[[int], int | None], pictures: int, room: float) -> int:
    """How many pictures at once fit into some memory, where it grows evenly with them.

    Args:
        cost: bytes for a number of pictures.
        pictures: as many as are wanted.
        room: bytes.

    Returns:
        a number up to ``pictures``; 0 if one is too many already.

    >>> most_pictures(lambda n: 100 + 10 * n, 64, 500)
    40
    """
    whole = cost(pictures)
    if whole is None or whole <= room:
        return pictures
    one = cost(1)
    if one is None or one > room:
        return 0
    return 1 + int((room - one) * (pictures - 1) / (whole - one))


class Living(TorchDispatchMode):
    """Counts the bytes of tensors that are made while it is open and not gone yet."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self.convolved = 0  # bytes of the largest map whose convolution was differentiated
        self._known: dict[int, int] = {}

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        del types
        out = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.native_group_norm.default:
            # Tensors without values lose its layout, and attention takes another way then.
            out = (torch.empty_like(args[0]), *out[1:])
        if func is torch.ops.aten.convolution_backward.default:
            self.convolved = max(self.convolved, args[1].nbytes)
        for value in tree_leaves(out):
            if isinstance(value, Tensor):
                self._add(value.untyped_storage())
        return out

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known[key] = storage.nbytes()
            self.now += self._known[key]
            self.most = max(self.most, self.now)
            weakref.finalize(storage, self._gone, key).atexit = False

    def _gone(self, key: int) -> None:
        self.now -= self._known.pop(key)
