"""The plots of the page, as the bytes of picture files."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from vfn.evaluation import Evaluation, draw_figures, lines_against
from vfn.evaluation.plots import plain_text, saved
from vfn.files import shortened
from vfn.report.evaluated import column_titles
from vfn.report.read import Curve, RunContents

_SMOOTHING = 20  # the smoothed training loss averages over this part (1/20) of the curve
_OF_SAMPLING, OF_TRAINING = ("guidance", "sample_timesteps"), ("step", "train_seconds")
_LONGEST = 48  # letters of a name in a legend
FEWEST = 3  # points of a curve; fewer stand in tables
Rows = Sequence[Mapping[str, float]]  # of losses by log-SNR
_RAW, _SMOOTH, _HELD_OUT = "#5b93d1", "#14487f", "#d9480f"


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
        **{axis: draw_against(contents.on_the_way, axis) for axis in OF_TRAINING},
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
        style = "-" if len(steps) >= FEWEST else "o"  # few points are no line
        smoothed = _window(len(values)) > 1
        if smoothed:
            axes.plot(steps, values, color=_RAW, lw=0.7, label="training")
        label = "training, smoothed" if smoothed else "training"
        axes.plot(steps, _smooth(values), style, color=_SMOOTH, ms=4, label=label)
    if held_out:
        held = [held_out[step] for step in sorted(held_out)]
        style = "o-" if len(held) >= FEWEST else "o"
        axes.plot(sorted(held_out), held, style, color=_HELD_OUT, ms=4, label="held out")
    axes.set(xlabel="step", ylabel="loss")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _legend(figure, axes)
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
        label: str | None = _name(name)
        if len(train) >= FEWEST:
            axes.plot(sorted(train), _smooth(values), color=colour, label=label)
            label = None  # the points have the colour of the line
        if held_out:
            points = [held_out[step] for step in sorted(held_out)]
            axes.plot(sorted(held_out), points, "o", color=colour, ms=5, label=label)
    axes.set(xlabel="step", ylabel="loss")
    axes.xaxis.set_major_formatter("{x:,.0f}")
    _legend(figure, axes)
    return _png(figure, axes)


def draw_loss_by_logsnr(evaluations: Sequence[Evaluation]) -> bytes | None:
    """Held-out loss over log-SNR, a line for each evaluation with another one.

    Args:
        evaluations: of one run.

    Returns:
        PNG file, or None if none of them has such losses.
    """
    lines = loss_by_logsnr(evaluations)
    return draw_levels(lines, named=len(lines) > 1) if lines else None


def loss_by_logsnr(evaluations: Sequence[Evaluation]) -> dict[str, Rows]:
    """Losses by log-SNR of which there are enough for a line.

    Guidance does not enter the loss: evaluations that differ only in it share a line.

    Args:
        evaluations: of one run.

    Returns:
        bins by what tells the evaluations apart.

    >>> rows = [{"low": float(k), "high": k + 1.0, "loss": 1.0} for k in range(3)]
    >>> some = [Evaluation(settings={"guidance": w}, loss_by_logsnr=rows) for w in (0.0, 1.0)]
    >>> list(loss_by_logsnr(some))
    ['Evaluation at guidance 0']
    """
    found: dict[str, Evaluation] = {}
    for evaluation in evaluations:
        if len(evaluation.loss_by_logsnr) >= FEWEST:
            found.setdefault(repr(list(evaluation.loss_by_logsnr)), evaluation)
    own = [*found.values()]
    return dict(zip(column_titles(own), (each.loss_by_logsnr for each in own), strict=True))


def draw_levels(lines: Mapping[str, Rows], named: bool = True) -> bytes | None:
    """Losses over log-SNR.

    Args:
        lines: bins with ``low``, ``high`` and ``loss``, by the names of the lines.
        named: whether the names stand beside the lines.

    Returns:
        PNG file, or None without lines.
    """
    if not lines:
        return None
    figure, axes = _canvas()
    for name, rows in lines.items():
        centres = [(row["low"] + row["high"]) / 2 for row in rows]
        axes.plot(centres, [row["loss"] for row in rows], "o-", ms=4, label=_name(name))
    axes.set(xlabel="log-SNR (left: noise, right: clean picture)", ylabel="held-out loss")
    if named:
        _legend(figure, axes)
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


def _legend(figure: Figure, axes: Axes) -> None:
    """What the lines are, below the chart, where it hides none of them."""
    figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=2,
                  frameon=False)  # fmt: skip


def _name(text: str) -> str:
    """A name as it stands in a legend."""
    return plain_text(shortened(text, _LONGEST))


def _png(figure: Figure, axes: Axes) -> bytes:
    """The finished plot; the loss axis is logarithmic where it can be."""
    if not any(np.any(np.asarray(line.get_ydata()) <= 0) for line in axes.lines):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        low, high = axes.get_ylim()
        if sum(low <= tick <= high for tick in axes.get_yticks()) < FEWEST:
            axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.yaxis.set_major_formatter("{x:g}")
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(color="#e6e6e6", lw=0.6)
    return saved(figure)


def _smooth(values: np.ndarray) -> np.ndarray:
    """Centred moving average, over fewer values near the ends."""
    kernel = np.ones(_window(len(values)))
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _window(count: int) -> int:
    """How many values are averaged over; one where there are few."""
    return 2 * (count // (2 * _SMOOTHING)) + 1
