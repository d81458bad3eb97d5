"""Networks and whole samplers as graphs of plain tensors, for torch.export and ONNX.

Shapes: B batch, N evaluations, pictures [B, C, H, W].
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from vfn.nn import branches_of, guidance_range
from vfn.ops import DrawSamples, OutType, predict, split_variance

NOT_LINEAR = (
    "expected a solver whose steps are sums of states and predictions with the factors of its "
    "grid, such as ddim, abm2 or dpmpp_2m; the adaptive one looks at what it draws"
)


class Plan(NamedTuple):
    """A deterministic sampling as sums: all that a solver does between evaluations.

    The state before evaluation k is ``sum_j states[k, j] (noise, x0_1, .. x0_(k-1))_j``, and the
    picture ``sum_j picture[j] (noise, x0_1, .. x0_N)_j``.

    states: [N, N+1]. picture: [N+1]. logsnrs: [N], of the evaluations.
    """

    states: Tensor
    picture: Tensor
    logsnrs: Tensor


def plan_of(draw: DrawSamples, levels: Tensor) -> Plan:
    """What a deterministic solver does on a grid.

    It is run on basis vectors: the noise is the first, and evaluation k answers with vector k,
    whatever it is asked.

    Args:
        draw: of `vfn.ops.sampler`; its steps have to be sums of states and predictions, with
            factors that depend on the levels alone.
        levels: [M+1] as for `vfn.ops.sample`.

    Returns:
        Plan, float64.

    Raises:
        ValueError: for a solver that draws noise, or is no sum of what it is given.

    >>> from vfn.ops import sampler
    >>> plan_of(sampler("ddim"), torch.tensor([-20.0, 0.0, 20.0])).picture
    tensor([0., 0., 1.], dtype=torch.float64)
    """
    plan, other = (_recorded(draw, levels, size) for size in (1.0, 2.0))
    alike = len(plan.states) == len(other.states)
    if not (
        alike
        and torch.allclose(2 * plan.states, other.states)
        and torch.allclose(2 * plan.picture, other.picture)
    ):
        raise ValueError(NOT_LINEAR)
    return plan


def _recorded(draw: DrawSamples, levels: Tensor, size: float) -> Plan:
    most = 4 * len(levels)
    asked: list[Tensor] = []
    logsnrs: list[Tensor] = []

    def denoise(z: Tensor, logsnr: Tensor) -> Tensor:
        asked.append(z[0])
        logsnrs.append(logsnr.double().flatten()[0])
        if len(asked) == most:
            raise ValueError(NOT_LINEAR)
        answer = torch.zeros_like(z)
        answer[0, len(asked)] = size
        return answer

    noise = torch.zeros(1, most, dtype=torch.float64)
    noise[0, 0] = size
    picture = draw(denoise, noise, levels.double()).x0[0]
    count = len(asked) + 1
    states = torch.stack(asked)[:, :count]
    return Plan(states, picture[:count], torch.stack(logsnrs))


def sizes_of(free: Sequence[bool], fixed: int, batch: torch.export.Dim) -> tuple[Any, ...]:
    """The free sizes of a graph's arguments, as torch's exporters want them.

    Args:
        free: of each argument, whether its first size is the batch.
        fixed: how many arguments stand before the conditions, which come in a row if there are any.
        batch: the size.

    Returns:
        sizes of each argument, and of the row.

    >>> batch = torch.export.Dim("batch")
    >>> [len(sizes_of([True] * count, 2, batch)) for count in (2, 3, 4)]
    [2, 3, 3]
    """
    sizes = [{0: batch} if each else None for each in free]
    row = tuple(sizes[fixed:])
    return (*sizes[:fixed], row) if row else tuple(sizes)


class NetworkGraph(nn.Module):
    """A network as a function of (z, t, labels, guidance), with those that it takes.

    Args:
        network: with the parameters that are exported.
    """

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, z: Tensor, t: Tensor, *conditions: Tensor) -> Tensor:
        """The prediction [B, C', H, W] from z [B, C, H, W] and t [B] in [0, 1]."""
        return self.network(z, t.double(), *conditions)


class StepGraph(nn.Module):
    """One evaluation of a sampler: the guided, clipped x0.

    Args:
        network: with the parameters that are exported.
        out_type: what it predicts.
        conditional: it takes labels, and guidance where ``guided``.
        guided: away from the branch without a label, in a doubled batch, or as the network's input.
    """

    def __init__(
        self, network: nn.Module, out_type: OutType, conditional: bool, guided: bool
    ) -> None:
        super().__init__()
        self.network, self.out_type = network, out_type
        self.conditional, self.guided = conditional, guided
        self.doubled = branches_of(guidance_range(network), guided) == 2

    def forward(self, z: Tensor, t: Tensor, factors: Tensor, *conditions: Tensor) -> Tensor:
        """x0 [B, C, H, W] from z [B, C, H, W].

        Args:
            z: noisy data.
            t: [1], the network's time.
            factors: [F] of `factors_of`.
            conditions: labels [B] and guidance [B], as far as they are taken.

        Returns:
            x0.
        """
        count = z.shape[0]
        given = list(conditions)
        if not self.doubled:
            times = t.expand(count)
            return self._x0(z, factors, self.network(z, times, *given))
        labels, guidance = given
        both = torch.cat([z, z])
        asked = torch.cat([labels, torch.zeros_like(labels)])
        times = t.expand(both.shape[0])
        x0 = self._x0(both, factors, self.network(both, times, asked))
        cond, none = x0[:count], x0[count:]
        return cond + guidance[:, None, None, None] * (cond - none)

    def _x0(self, z: Tensor, factors: Tensor, out: Tensor) -> Tensor:
        """The network's x0 as a sum of the state and of what it gives, clipped."""
        channels = z.shape[1]
        x0 = factors[0] * z + factors[1] * out[:, :channels]
        if self.out_type == "both":
            x0 = x0 + factors[2] * out[:, channels : 2 * channels]
        return x0.clamp(-1, 1)


def factors_of(out_type: OutType, logsnrs: Tensor) -> Tensor:
    """How x0 is a sum of the state and the network's output: found by asking for each alone.

    Args:
        out_type: what the network predicts.
        logsnrs: [N].

    Returns:
        [N, 2], or [N, 3] of ``both``.

    >>> factors_of("v", torch.zeros(1))  # alpha and -sigma
    tensor([[ 0.7071, -0.7071]], dtype=torch.float64)
    """
    parts = 2 if out_type == "both" else 1
    levels = logsnrs.double()
    found = []
    for part in range(1 + parts):
        z = torch.full((len(levels), 1), float(part == 0), dtype=torch.float64)
        out = torch.zeros(len(levels), parts, dtype=torch.float64)
        if part:
            out[:, part - 1] = 1
        prediction = split_variance(z, out, out_type).out
        found.append(predict(z, prediction, levels, out_type).x0[:, 0])
    return torch.stack(found, dim=1)


class SamplerGraph(nn.Module):
    """A whole sampling: pictures from noise, labels and guidance, in as many steps as planned.

    Args:
        step: one evaluation.
        plan: of the solver.
        times: [N], the network's.
        factors: [N, F] of `factors_of`.
    """

    states: Tensor
    picture: Tensor
    times: Tensor
    factors: Tensor

    def __init__(self, step: StepGraph, plan: Plan, times: Tensor, factors: Tensor) -> None:
        super().__init__()
        self.step = step
        self.register_buffer("states", plan.states.float())
        self.register_buffer("picture", plan.picture.float())
        self.register_buffer("times", times.double())
        self.register_buffer("factors", factors.float())

    def forward(self, noise: Tensor, *conditions: Tensor) -> Tensor:
        """Pictures [B, C, H, W] in about -1..1 from noise [B, C, H, W]."""
        known = [noise]
        for k in range(self.times.shape[0]):
            z = _sum(self.states[k], known)
            known.append(self.step(z, self.times[k : k + 1], self.factors[k], *conditions))
        return _sum(self.picture, known)


def _sum(weights: Tensor, known: list[Tensor]) -> Tensor:
    total = weights[0] * known[0]
    for j in range(1, len(known)):
        total = total + weights[j] * known[j]
    return total
