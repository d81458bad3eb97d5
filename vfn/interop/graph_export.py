"""Networks and samplers for other runtimes: torch.export's .pt2 and ONNX, with a free batch."""

import json
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.util import find_spec
from io import BytesIO
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from vfn.configs import SampleConfig
from vfn.files import write_atomic
from vfn.interop.graphs import (
    NetworkGraph,
    Plan,
    SamplerGraph,
    StepGraph,
    factors_of,
    plan_of,
    sizes_of,
)
from vfn.model import grid_of, sampler_of, schedule_of
from vfn.nn import guidance_range
from vfn.numbers import number_of
from vfn.ops.integration import NoNoise
from vfn.ops.solvers import DrawSamples
from vfn.sampling import Trained, load
from vfn.tables import how_to_install

TOLERANCE = 1e-5  # of float32, between two libraries
# Root mean square in -1..1, an eighth of a step of 8 bits: the sums of a plan are rounded otherwise
# than a solver's, by some 1e-6 after all steps; those of another grid are more than 1e-2 away.
DRAWN_TOLERANCE = 1e-3
BATCHES = (3, 1)
OTHER_INPUTS = ("second_time", "vector_dim", "image_channels", "augment_dim")
MOST_BYTES = 2**31 - 2**24  # a file of protocol buffers holds no more
Runner = Callable[..., Tensor]


class Exported(NamedTuple):
    """What is exported: a module of plain tensors, and what it takes.

    module: with the parameters. inputs: their names. example: makes arguments for a batch. about:
    a few words. step, plan, times and factors: of a sampler, whose loop another format writes.
    drawn: of a sampler, what the run itself draws for the same arguments.
    """

    module: nn.Module
    inputs: tuple[str, ...]
    example: Callable[[int], tuple[Tensor, ...]]
    about: str
    trained: Trained
    step: StepGraph | None = None
    plan: Plan | None = None
    times: Tensor | None = None
    factors: Tensor | None = None
    drawn: Runner | None = None


def export_pt2(
    run: str | Path,
    out: str | Path,
    sampler: str | None = None,
    sample_timesteps: int | None = None,
) -> str:
    """Write the averaged network of a run, or a whole sampler of it, for torch alone.

    ``torch.export.load(out).module()`` takes what `export_onnx` names, in that order.

    Args:
        run: run directory, checkpoint or exported file.
        out: file.
        sampler: a deterministic solver; the run's if only steps are given.
        sample_timesteps: its steps; the run's if only a sampler is given. Without both the network
            is written.

    Returns:
        a line about what was written.

    Raises:
        ValueError: if there is no such run, its sampling is no sum of network outputs, or what was
            written gives something else than the run.
        OSError: if it cannot be written.

    >>> export_pt2(Path("no/run"), Path("net.pt2"))
    Traceback (most recent call last):
    ValueError: checkpoint no/run does not exist; expected a run directory or a file
    """
    made = exported(load(run, "cpu"), sampler, sample_timesteps)
    with _quiet(), torch.no_grad():
        fixed, batch = 1 if made.step else 2, torch.export.Dim("batch")
        shapes = sizes_of([True] * len(made.inputs), fixed, batch)
        program = torch.export.export(made.module, made.example(BATCHES[0]), dynamic_shapes=shapes)
        content = BytesIO()
        torch.export.save(program, content)
        content.seek(0)
        reloaded = torch.export.load(content).module()
    differs = gap(made, reloaded)
    write_atomic(out, content.getvalue())
    return f"{out}: {made.about}; reloaded, it differs by {differs:.1e} at most"


def export_onnx(
    run: str | Path,
    out: str | Path,
    sampler: str | None = None,
    sample_timesteps: int | None = None,
) -> str:
    """Write the averaged network of a run, or a whole sampler of it, as ONNX.

    Inputs are ``z`` [B, C, H, W], ``t`` [B] in [0, 1], and ``labels`` [B] and ``guidance`` [B] as
    far as the network takes them; of a sampler ``noise``, ``labels`` and ``guidance``, and its
    output are pictures in about -1..1. What was written is run by onnxruntime and compared.

    Args:
        run: run directory, checkpoint or exported file.
        out: file.
        sampler: a deterministic solver; the run's if only steps are given.
        sample_timesteps: its steps; the run's if only a sampler is given. Without both the network
            is written.

    Returns:
        a line about what was written.

    Raises:
        ValueError: if packages are missing, there is no such run, its sampling is no sum of network
            outputs, or onnxruntime gives something else than the run.
        OSError: if it cannot be written.

    >>> export_onnx(Path("no/run"), Path("net.onnx"))
    Traceback (most recent call last):
    ValueError: checkpoint no/run does not exist; expected a run directory or a file
    """
    trained = load(run, "cpu")
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if find_spec(package) is None:
            raise ValueError(
                f"format onnx needs {package}, which is not installed; install it with: "
                f"{how_to_install('onnx')}"
            )
    if 4 * sum(value.numel() for value in trained.params.values()) > MOST_BYTES:
        raise ValueError("expected a network of less than 2 GiB for one file of ONNX; use pt2")
    made = exported(trained, sampler, sample_timesteps)
    from vfn.interop.onnx_graph import onnx_bytes, onnx_runner

    with _quiet(), torch.no_grad():
        content = onnx_bytes(made)
    differs = gap(made, onnx_runner(content, made.inputs))
    write_atomic(out, content)
    return f"{out}: {made.about}; by onnxruntime it differs by {differs:.1e} at most"


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporters' advice to their developers."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def gap(made: Exported, other: Runner) -> float:
    """The greatest difference of what was written, for batches of several sizes.

    Args:
        made: what was exported.
        other: what was written, opened again.

    Returns:
        the difference.

    Raises:
        ValueError: if it is more than rounding, or a sampler draws something else than the run.
    """
    worst = 0.0
    for batch in BATCHES:
        given = made.example(batch)
        with torch.no_grad():
            expected, found = made.module(*given), other(*given)
        apart, scale = torch.inf, max(1.0, expected.abs().max().item())
        if found.shape == expected.shape:
            apart = (expected - found).abs().max().item()
        if not apart <= TOLERANCE * scale:
            raise ValueError(
                f"what was exported differs from the run by {apart:.1e}, more than rounding does; "
                "nothing was written"
            )
        if made.drawn is not None:
            _check_drawn(made.drawn(*given), found)
        worst = max(worst, apart)
    return worst


def _check_drawn(expected: Tensor, found: Tensor) -> None:
    apart = (expected - found).square().mean().sqrt().item()
    if not apart <= DRAWN_TOLERANCE:
        raise ValueError(
            f"what the exported sampler draws differs from the run by {apart:.1e} (rms), more than "
            "rounding does; nothing was written"
        )


def exported(
    trained: Trained, sampler: str | None = None, sample_timesteps: int | None = None
) -> Exported:
    """A network or a whole sampler as a module of plain tensors, with its parameters in it.

    Args:
        trained: on the CPU.
        sampler: a deterministic solver; the run's if only steps are given.
        sample_timesteps: its steps; the run's if only a sampler is given; the network without both.

    Returns:
        Exported.

    Raises:
        ValueError: if the sampling is no sum of network outputs, or the network takes more than
            labels.
    """
    trained.check_labels_alone("a graph")
    net = trained.model
    more = [name for name in OTHER_INPUTS if getattr(net, name, None)]
    if more:
        raise ValueError(
            f"expected a network of z, t, labels and guidance to export, got one with {more[0]}"
        )
    with torch.no_grad():
        for name, param in net.named_parameters():
            param.copy_(trained.params[name])
    net.requires_grad_(False)
    if sampler is None and sample_timesteps is None:
        return _network_of(trained)
    given = {"sampler": sampler, "sample_timesteps": sample_timesteps}
    settings = trained.settings(**{name: v for name, v in given.items() if v is not None})
    _check_plain(settings)
    return _sampler_of(trained, settings)


def _network_of(trained: Trained) -> Exported:
    net, labels = trained.model, ["labels"] if trained.shape.legend.names else []
    inputs = ("z", "t", *labels, *([] if guidance_range(net) is None else ["guidance"]))
    about = f"the network of step {trained.step}"
    return Exported(NetworkGraph(net).eval(), inputs, _examples(trained, inputs), about, trained)


def _sampler_of(trained: Trained, settings: SampleConfig) -> Exported:
    net, legend, diffusion = trained.model, trained.shape.legend, trained.config.diffusion
    conditional, schedule = bool(legend.names), schedule_of(diffusion)
    two_branches = conditional and 0 < diffusion.p_uncond < 1
    distilled = trained.config.distill.asked  # and has its guidance in it
    guided = guidance_range(net) is not None or (two_branches and not distilled)
    plan = _plan_of(settings, grid_of(settings, schedule))
    step = StepGraph(net, diffusion.model_out_type, conditional, guided).eval()
    times, factors = schedule.time(plan.logsnrs), factors_of(diffusion.model_out_type, plan.logsnrs)
    inputs = ("noise", *(["labels"] if conditional else []), *(["guidance"] if guided else []))
    about = (
        f"{settings.sampler} in {number_of(settings.sample_timesteps, 'step')}, "
        f"{number_of(len(plan.logsnrs), 'evaluation')} "
        f"of the network of step {trained.step}"
    )
    module = SamplerGraph(step, plan, times, factors).eval()
    drawn = _draws_of(trained, settings, inputs)
    return Exported(module, inputs, _examples(trained, inputs), about, trained, step, plan, times,
                    factors, drawn)  # fmt: skip


def _plan_of(settings: SampleConfig, grid: Tensor) -> Plan:
    """What a solver does on a grid; of a single step no noise is drawn, whatever the solver.

    Returns:
        Plan.

    Raises:
        ValueError: for a solver that draws noise in its steps, or is no sum of what it is given.
    """
    if len(grid) == 2:
        return plan_of(_one_step(settings), grid)
    try:
        return plan_of(sampler_of(settings), grid)
    except NoNoise:
        raise ValueError(
            f"sampler {settings.sampler} draws noise in each of its {len(grid) - 1} steps, which "
            "an exported sampler has not; give --steps 1 or a deterministic --sampler, or leave "
            "out both to export the network alone"
        ) from None


def _one_step(settings: SampleConfig) -> DrawSamples:
    """A solver that is asked for its last step alone, before which noise would be drawn."""
    return partial(sampler_of(settings), noise=torch.zeros)


def _draws_of(trained: Trained, settings: SampleConfig, inputs: Sequence[str]) -> Runner:
    """Draws as the run itself does, with its own solver, denoiser and grid."""
    grid = grid_of(settings, schedule_of(trained.config.diffusion))
    draw = _one_step(settings) if len(grid) == 2 else sampler_of(settings)

    def drawn(*given: Tensor) -> Tensor:
        named = dict(zip(inputs, given, strict=True))
        denoise = trained.denoiser(named.get("labels"), named.get("guidance", settings.guidance))
        with torch.no_grad():
            return draw(denoise, named["noise"], grid).x0

    return drawn


def _check_plain(settings: SampleConfig) -> None:
    """Refuse guidance of another form than one weight for all levels."""
    if settings.guide_with is not None and settings.guide_weight:
        raise ValueError("expected no weaker network (guide_with) in an exported sampler")
    varied = (settings.guidance_interval, settings.guidance_rescale, settings.zero_init)
    if any(varied) or settings.guidance_rule != "plain":
        raise ValueError(
            "expected plain guidance, at all levels, in an exported sampler, and the run's "
            "settings have guidance_interval, guidance_rescale, guidance_rule or zero_init"
        )


def _examples(trained: Trained, inputs: Sequence[str]) -> Callable[[int], tuple[Tensor, ...]]:
    """Makes arguments for a batch, always the same."""
    legend, low_high = trained.shape.legend, guidance_range(trained.model)

    def example(batch: int) -> tuple[Tensor, ...]:
        draw = torch.Generator().manual_seed(batch)
        z = torch.randn(batch, *trained.shape.size, generator=draw)
        count = len(legend.names)
        labels = torch.arange(batch) % max(count, 1) + 1
        if legend.tags:
            labels = torch.eye(max(count, 1))[labels - 1]
        low, high = low_high or (0.0, 1.0)
        made = {
            "z": z,
            "noise": z,
            "t": torch.linspace(0.2, 0.9, batch),
            "labels": labels,
            "guidance": torch.linspace(low, high, batch),
        }
        return tuple(made[name] for name in inputs)

    return example


def metadata(made: Exported) -> dict[str, str]:
    """What is told of an exported graph, as texts.

    Args:
        made: what is exported.

    Returns:
        texts by name.
    """
    shape = made.trained.shape
    return {
        "about": made.about,
        "class_names": json.dumps(list(shape.legend.names)),
        "size": json.dumps(list(shape.size)),
    }
