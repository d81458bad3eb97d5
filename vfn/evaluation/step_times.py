"""Where the steps of a sampler begin: the times at which a figure of its pictures is best."""

import math
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

from scipy.optimize import minimize_scalar

from vfn.configs.schema import SEED
from vfn.distributed import processes
from vfn.evaluation.extractors import Extractor
from vfn.evaluation.judging import Given, Judge
from vfn.evaluation.metrics import METRICS, FigureKind
from vfn.evaluation.planning import own_data, own_draws
from vfn.numbers import number, whole
from vfn.progress import say
from vfn.sampling import Trained, load

MOST_STEPS = 16
DIGITS = 3  # after the point, of a time
SOUGHT = ("grid", "times")  # settings that say where steps begin


class BestTimes(NamedTuple):
    """The best times, and all that were tried.

    times: where the steps begin, falling, the first one 1. kind: the figure. trials: its value by
    times, in the order in which they were tried, those of uniform steps first. seed: of the
    pictures that the times are fitted to. other_seed: of others, which nothing is fitted to.
    again: the figure of those, by times: the best and the uniform ones.
    """

    times: tuple[float, ...]
    kind: FigureKind
    trials: Mapping[tuple[float, ...], float]
    seed: int
    other_seed: int
    again: Mapping[tuple[float, ...], float]

    def table(self) -> str:
        """What came of it, in three lines of text."""
        lines = [
            f"{self._line(self.trials, self.seed)}; the best of {len(self.trials)} trials, fitted "
            "to these pictures",
            f"{self._line(self.again, self.other_seed)}{self._verdict()}",
            f"--steps {len(self.times)} --times {_named(self.times)}",
        ]
        return "\n".join(lines)

    def _line(self, figures: Mapping[tuple[float, ...], float], seed: int) -> str:
        best, uniform = (self.kind.text(figures[times]) for times in (self.times, self._uniform))
        return f"{self.kind.title} at seed {seed}: {best}, with uniform steps {uniform}"

    def _verdict(self) -> str:
        """What other pictures say of the choice."""
        best, uniform = self.again[self.times], self.again[self._uniform]
        better = best > uniform if self.kind.better == "higher" else best < uniform
        kept = better or self.times == self._uniform
        return "" if kept else "; no better here, so the difference is within the noise"

    @property
    def _uniform(self) -> tuple[float, ...]:
        return next(iter(self.trials))


def _named(times: Sequence[float]) -> str:
    return ",".join(f"{time:g}" for time in times)


def search_times(
    loss: Callable[[tuple[float, ...]], float], steps: int, within: float = 0.02, rounds: int = 3
) -> dict[tuple[float, ...], float]:
    """Move times between their neighbours, one after the other, to where a loss is least.

    Each move is a bounded minimisation by Brent's method; rounds over all times end when none has
    moved. The first time stays 1.

    Args:
        loss: a function of times ``1 = t_1 > ... > t_k > 0``.
        steps: k; uniform ones are the first guess.
        within: how exact a time is to be.
        rounds: at most.

    Returns:
        losses by times, as they were tried; times have three digits.

    Raises:
        ValueError: for steps or rounds that are no whole numbers in their range, or ``within`` out
            of 0..1.

    Source: as Song et al. 2023 (2303.01469), section 5 and appendix C, choose the times of their
    sampler.

    >>> tried = search_times(lambda times: (times[1] - 0.7) ** 2, 2, within=1e-3)
    >>> min(tried, key=tried.get)
    (1.0, 0.7)
    """
    steps, within = whole(steps, "steps", 1), _exactness(within)
    rounds = whole(rounds, "rounds", 0)
    tried: dict[tuple[float, ...], float] = {}

    def of(times: tuple[float, ...]) -> float:
        if times not in tried:
            falling = all(late < early for early, late in pairwise((*times, 0.0)))
            tried[times] = loss(times) if falling else math.inf
        return tried[times]

    best = tuple(round(1 - i / steps, DIGITS) for i in range(steps))
    of(best)
    for _ in range(rounds):
        before = best
        for i in range(1, steps):
            around = (best[i + 1] if i + 1 < steps else 0.0, best[i - 1])

            def moved(time: float, i: int = i, best: tuple[float, ...] = best) -> float:
                return of((*best[:i], round(float(time), DIGITS), *best[i + 1 :]))

            minimize_scalar(moved, bounds=around, method="bounded", options={"xatol": within})
            best = min(tried, key=tried.__getitem__)
        if best == before:
            break
    return {times: value for times, value in tried.items() if value < math.inf}


def _exactness(within: float) -> float:
    """How exact a time is to be, as Python's own number."""
    if not 0 < (found := number(within, "within")) < 1:
        raise ValueError(f"expected within above 0 and below 1, got {found:g}")
    return found


def best_times(
    run: str | Path | Trained,
    steps: int = 2,
    metric: str = "fd",
    *,
    real: Given | None = None,
    num: int = 1000,
    seed: int = 0,
    within: float = 0.02,
    features: str | Extractor = "pixels",
    weights: str | Path | None = None,
    device: str = "auto",
    data_dir: str | None = None,
    **settings: Any,
) -> BestTimes:
    """Find where the steps of a few-step sampler should begin.

    Every trial draws the same noise, so that figures differ by the times alone; a choice is still
    fitted to these pictures, so the figures of the best and of uniform times are taken again with
    the next seed.

    Args:
        run: a run directory, checkpoint or exported model; or a loaded network.
        steps: k, 2 to 16.
        metric: of `METRICS`, with a figure that is better when lower, or higher: its first one.
        real: what pictures are judged against, as `judge` takes it; those of the training.
        num: pictures of each trial.
        seed: of their noise.
        within: how exact a time is to be.
        features: what pictures are compared by, as `judge` takes it.
        weights: file of the features' network, likewise.
        device: auto, cpu or cuda.
        data_dir: where the data are; as the run says if None.
        settings: of sampling, as `vfn.sampling.Trained.draws` takes them, without a grid.

    Returns:
        BestTimes.

    Raises:
        ValueError: for steps out of range, a sampler that chooses its steps itself, a metric
            without such a figure, or pictures that cannot be judged so.

    >>> from vfn.configs import load, override
    >>> from vfn.sampling import untrained
    >>> small = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,)}
    >>> network = untrained(override(load("digits"), small))
    >>> found = best_times(network, 2, num=20, within=0.3, device="cpu")
    >>> len(found.times), min(found.trials.values()) == found.trials[found.times]
    (2, True)
    """
    steps, num = whole(steps, "steps", 2, MOST_STEPS), whole(num, "num", 1)
    seed, within = whole(seed, "seed", 0, SEED), _exactness(within)
    if sought := [name for name in SOUGHT if name in settings]:
        raise ValueError(f"expected no {sought[0]}, as where steps begin is sought; leave it out")
    entry = METRICS.find(metric)
    kinds = [kind for kind in entry.figures if kind.better and entry.part == "figures"]
    if not kinds:
        raise ValueError(f"expected a metric with a figure of pictures, got {metric}; fd has one")
    kind, sign = kinds[0], -1.0 if kinds[0].better == "higher" else 1.0
    with processes(device):
        network = run if isinstance(run, Trained) else load(run, device)
        judged = Judge(
            own_data(network) if real is None else real, [metric], features=features,
            weights=weights, num=num, device=device, data_dir=data_dir,
        )  # fmt: skip

        def figure(times: tuple[float, ...], seed: int) -> float:
            draws = own_draws(network, num, seed, data_dir, **settings, steps=steps, times=times)
            figures = judged(draws, seed).figures
            value = next((f.value for f in figures if f.key == kind.key), math.nan)
            if not math.isfinite(value):
                raise ValueError(f"{kind.title} is not finite at the times {times}")
            say(f"times {_named(times)}, seed {seed}: {kind.text(value)}")
            return value

        tried = search_times(lambda times: sign * figure(times, seed), steps, within)
        best, other = min(tried, key=tried.__getitem__), (seed + 1) % (SEED + 1)
        again = {times: figure(times, other) for times in dict.fromkeys((best, next(iter(tried))))}
    trials = {times: sign * value for times, value in tried.items()}
    return BestTimes(best, kind, trials, seed, other, again)
