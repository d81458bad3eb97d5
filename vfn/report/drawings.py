"""The plots of the page, as the bytes of picture files."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from vfn.evaluation import Evaluation, draw_figures, lines_against
from vfn.evaluation.plots import plain_text, saved
from vfn.report.read import Curve, RunContents

_SMOOTHING = 20  # the smoothed training loss averages over this part (1/20) of the curve
_OF_SAMPLING, _OF_TRAINING = ("guidance", "sample_timesteps"), ("step", "train_seconds")
FEWEST = 3  # points of a curve; fewer stand in tables
_RAW, _SMOOTH, _HELD_OUT = "#a9c7e8", "#1c65b3", "#d9480f"


def draw_all(contents: RunContents) -> dict[str, bytes]:
    """Every plot that a run has something for.

    Args:
        contents: what the run directory holds.

    Returns:
        PNG files by the names of plots: ``losses``, ``loss_by_logsnr``, and words of
        `vfn.evaluation.plots.AXES` for figures against settings.
    """
    plots = {
        "losses": draw_losses(contents.train_loss, contents.held_out_loss),
        "loss_by_logsnr": draw_loss_by_logsnr(contents.evaluations),
        **{axis: draw_against(contents.evaluations, axis) for axis in _OF_SAMPLING},
        **{axis: draw_against(contents.on_the_way, axis) for axis in _OF_TRAINING},
    }
    return {name: plot for name, plot in plots.items() if plot is not None}


def draw_losses(train: Curve, held_out: Curve) -> bytes | None:
    """Training loss, raw and smoothed, and held-out loss over steps.

    Args:
        train: loss by step.
        held_out: the same, of pictures never trained on.

    Returns:
        PNG file, or None if there are too few points to draw.

    >>> draw_losses({1: 0.5, 2: 0.25, 3: 0.2}, {2: 0.3})[1:4]
    b'PNG'
    """
    if max(len(train), len(held_out)) < FEWEST:
        return None
    figure, axes = _canvas()
    if train:
        steps, values = sorted(train), np.array([train[step] for step in sorted(train)])
        axes.plot(steps, values, color=_RAW, lw=0.7, label="training")
        style = "-" if len(steps) >= FEWEST else "o"  # few points are no line
        axes.plot(steps, _smooth(values), style, color=_SMOOTH, ms=4, label="training, smoothed")
    if held_out:
        held = [held_out[step] for step in sorted(held_out)]
        style = "o-" if len(held) >= FEWEST else "o"
        axes.plot(sorted(held_out), held, style, color=_HELD_OUT, ms=4, label="held out")
    axes.set(xlabel="step", ylabel="loss")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False)
    return _png(figure, axes)


def draw_losses_beside(runs: Mapping[str, tuple[Curve, Curve]]) -> bytes | None:
    """Losses of several runs over steps: smoothed on training batches, points held out.

    Args:
        runs: training loss and held-out loss by step, by the names of the runs.

    Returns:
        PNG file, or None if there are too few points to draw.

    >>> curve = {1: 0.5, 2: 0.25, 3: 0.2}
    >>> draw_losses_beside({"a": (curve, {}), "b": (curve, {3: 0.3})})[1:4]
    b'PNG'
    """
    if max((len(curve) for pair in runs.values() for curve in pair), default=0) < FEWEST:
        return None
    figure, axes = _canvas()
    for number, (name, (train, held_out)) in enumerate(runs.items()):
        colour = f"C{number}"
        values = np.array([train[step] for step in sorted(train)])
        if len(train) >= FEWEST:
            axes.plot(sorted(train), _smooth(values), color=colour, label=plain_text(name))
        points = [held_out[step] for step in sorted(held_out)]
        told = plain_text(f"{name}, held out")
        axes.plot(sorted(held_out), points, "o", color=colour, ms=5, label=told if points else None)
    axes.set(xlabel="step", ylabel="loss")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.legend(frameon=False)
    return _png(figure, axes)


def draw_loss_by_logsnr(evaluations: Sequence[Evaluation]) -> bytes | None:
    """Held-out loss over log-SNR, a line for each evaluation with another one.

    Guidance does not enter the loss: evaluations that differ only in it share a line.

    Args:
        evaluations: of one run.

    Returns:
        PNG file, or None if none of them has such losses.
    """
    lines: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        if len(evaluation.loss_by_logsnr) >= FEWEST:
            lines.setdefault(repr(list(evaluation.loss_by_logsnr)), evaluation)
    if not lines:
        return None
    figure, axes = _canvas()
    for evaluation in lines.values():
        rows = evaluation.loss_by_logsnr
        centres = [(row["low"] + row["high"]) / 2 for row in rows]
        axes.plot(
            centres, [row["loss"] for row in rows], "o-", ms=4, label=plain_text(evaluation.title)
        )
    axes.set(xlabel="log-SNR (left: noise, right: clean picture)", ylabel="held-out loss")
    if len(lines) > 1:
        axes.legend(frameon=False)
    return _png(figure, axes)


def draw_against(evaluations: Sequence[Evaluation], against: str) -> bytes | None:
    """Figures against a setting, where evaluations differ in it.

    Args:
        evaluations: of one run.
        against: a word of `vfn.evaluation.plots.AXES`.

    Returns:
        PNG file, or None if no line has as many settings as a curve needs.
    """
    lines = lines_against(evaluations, against).values()
    if not any(len({each.settings[against] for each in line}) >= FEWEST for line in lines):
        return None
    return draw_figures(evaluations, against, "png")


def _canvas() -> tuple[Figure, Axes]:
    figure = Figure(figsize=(8, 4), dpi=120, layout="constrained")
    return figure, figure.subplots()


def _png(figure: Figure, axes: Axes) -> bytes:
    """The finished plot; the loss axis is logarithmic where it can be."""
    if not any(np.any(np.asarray(line.get_ydata()) <= 0) for line in axes.lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", lw=0.6)
    return saved(figure)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average, over fewer values near the ends."""
    kernel = np.ones(2 * (len(values) // (2 * _SMOOTHING)) + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")
