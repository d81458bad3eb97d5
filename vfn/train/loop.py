"""The loop around `train_step`: processes, files, signals, clocks."""

import json
import math
import resource
import sys
import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from vfn import configs
from vfn.configs import Config
from vfn.data import Dataset
from vfn.distributed import (
    World,
    differs,
    largest,
    processes,
    talking,
    together,
    total,
    wait_for_all,
)
from vfn.files import shown, write_json
from vfn.memory import in_memory
from vfn.model import float32_products
from vfn.nn import guidance_range
from vfn.objective import Batch, Objective, logsnr_edges
from vfn.ops import Learned
from vfn.progress import say
from vfn.runs import (
    Checkpoint,
    RunFiles,
    Snapshot,
    locked,
    log_lines,
    read_log,
    run_path,
    save_checkpoint,
    save_snapshot,
    seconds_until,
    write_checkpoint,
)
from vfn.runs.checkpoint import average_alone
from vfn.sampling import Trained
from vfn.tables import object_name
from vfn.train.batches import draws_two_times, image_indices, make_batch, prefetch
from vfn.train.companions import Companion
from vfn.train.journal import Journal
from vfn.train.observers import Audience, Callback, Observer, Outcome, RunInfo, as_observers
from vfn.train.previews import evaluation, held_out_loss_of, preview
from vfn.train.session import (
    Given,
    Run,
    TrainingData,
    any_restarted,
    as_checkpoint,
    check_job,
    micro_batch_size,
    open_run,
)
from vfn.train.signals import Stop, Stopped, stop_signals
from vfn.train.state import StepResult, checkpoint_of, learning_rate
from vfn.train.state import train_step as step_of
from vfn.train.trackers import make_trackers

BEST = "frechet_distance"  # what the best checkpoint has least of


def train(
    config: Config | str | Path,
    out: str | Path,
    *,
    model: nn.Module | None = None,
    dataset: Dataset | TrainingData | Any | None = None,
    objective: Objective | None = None,
    callbacks: Sequence[Callback] | None = None,
    resume: bool = False,
    init_from: str | Path | Trained | Checkpoint | None = None,
    init_partial: bool = False,
    fresh: bool = False,
    device: str = "auto",
) -> Outcome:
    """Train, or go on training, in a run directory.

    What can be written as text is in the configuration. The keyword arguments are what cannot:
    three objects in place of what it names, those who listen, and five answers that differ from
    one start of the same run to the next. Objects are not saved, but for the names of network and
    objective: whoever resumes the run gives them again, and is refused without.

    Args:
        config: what to train, a preset's name, or the path of a .toml file.
        out: run directory: gets ``config.toml``, ``log.jsonl``, ``checkpoints/``, ``samples/``.
        model: a network in place of ``[model]``, called as `vfn.nn.Network` says and trained in
            place; the run records its class. If that is built with ``in_channels, out_channels,
            num_classes, multitags`` alone, `vfn.load` builds it again, else it takes it as
            ``network=``.
        dataset: pictures in place of ``[data]``, which keeps its words; of a pair the second part
            is held out. Only ``conditional``, ``flip``, ``condition`` and ``augment`` of ``[data]``
            count then. A map-style data set of somebody else's (of torch, of ``datasets``, a list)
            is read into memory by `vfn.data.items.from_items`, for which size, crop and channels
            count as well.
        objective: loss of each picture [B] in place of that of ``[diffusion]``.
        callbacks: observers, or functions of each line of the log; on the first process only.
        resume: go on from the newest intact checkpoint in ``out``.
        init_from: a run, checkpoint or opened model whose average a new run starts from.
        init_partial: take of it what fits by name and shape, such as all but the labels for other
            classes; a line tells what does not.
        fresh: begin anew in a directory with a configuration or log but no checkpoint that can be
            read; they are replaced.
        device: auto, cpu or cuda, perhaps with an index as in ``cuda:1``.

    Returns:
        Outcome(step, signum). Signals stop the run only where it was started in the main thread.

    Raises:
        ValueError: if ``out`` holds a run and ``resume`` is not asked for, or one that has lost its
            checkpoints, another process works on it, anything does not fit, or gradients stay
            without finite values.
        OSError: if ``out`` cannot be written.

    >>> import tempfile
    >>> from vfn.configs import load, override
    >>> small = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,),
    ...          "num_res_blocks": 1, "sample_timesteps": 1, "log_every": 2, "steps": 2}
    >>> seen = []
    >>> with tempfile.TemporaryDirectory() as out:
    ...     train(override(load("digits"), small), out, callbacks=[seen.append], device="cpu")
    Outcome(step=2, signum=0)
    >>> [sorted(entry)[:2] for entry in seen]
    [['grad_norm', 'images_per_s'], ['held_out_loss', 'step']]
    """
    if not isinstance(config, Config):
        config = configs.load(str(config))
    if config.distill.asked:
        raise ValueError("this configuration describes a distillation; use vfn distill")
    if init_partial and init_from is None:
        raise ValueError("expected --init-from with --init-partial, which says what it takes of it")
    observers = as_observers(callbacks)
    if objective is not None and not callable(objective):
        raise ValueError(
            "expected objective to be a function of network, batch and diffusion, got "
            f"{shown(objective)}; one of a table or of your own goes into the configuration: "
            "configs.override(config, {'objective': ...})"
        )
    files, given = RunFiles(run_path(out)), Given(model, dataset, objective)
    with (
        processes(device) as world,
        undisturbed(world.device),
        float32_products(config.train.tf32),
    ):
        with together(world):
            begin = None if init_from is None else average_alone(as_checkpoint(init_from))
        objects = [None if part is None else object_name(type(part)) for part in given]
        more = {"resume": resume, "fresh": fresh, "init_partial": init_partial, "objects": objects}
        check_job(config, files, world, {"init_from": begin}, **more)
        with held(files, world):
            run = open_run(config, files, world, resume, begin, given, fresh, init_partial)
            del begin  # nothing of it is held in memory while the run goes on
            with stop_signals(world) as stop:
                return carry_out(run, stop, observers)


@contextmanager
def undisturbed(device: torch.device) -> Iterator[None]:
    """Leave torch's generators to the caller as they were; a run seeds those of all devices.

    Gradients are there inside, even if the caller has switched them off.

    Args:
        device: of the run; on a CPU no GPU is woken for it.
    """
    wakes = device.type == "cuda" or torch.cuda.is_initialized()
    devices = range(torch.cuda.device_count()) if wakes else []
    with torch.random.fork_rng(devices), torch.inference_mode(False), torch.enable_grad():
        yield


@contextmanager
def held(files: RunFiles, world: World) -> Iterator[None]:
    """Hold a run directory for all processes of this job: the first one locks it.

    Args:
        files: of the run.
        world: the processes.

    Raises:
        ValueError: if another job works on it.
        OSError: if the directory cannot be written.
    """
    again = any_restarted(world)  # which torchrun does after all of them have gone
    with ExitStack() as stack:
        with together(world):
            if world.rank == 0:
                stack.enter_context(locked(files, taken_over=again))
        yield


def carry_out(run: Run, stop: Stop, observers: Sequence[Observer] = ()) -> Outcome:
    """The rest of a run's steps, or those until a signal comes; observers hear of them."""
    audience = _audience(run, observers)
    outcome: Outcome | None = None
    try:
        audience.begun(RunInfo(run.files, run.config, run.shape, run.state.step))
        with closing(_batches(run)) as batches:
            outcome = _loop(run, batches, audience, stop)
    finally:
        audience.ended(outcome)
    return outcome


def _audience(run: Run, observers: Sequence[Observer]) -> Audience:
    """Those who hear of the run: nobody but on the first process."""
    if run.world.rank:
        return Audience([])
    trackers = make_trackers(run.config.train.trackers or (), run.files, run.state.step)
    return Audience([Journal(), *trackers, *observers], opened=trackers)


def _network(run: Run) -> Callable[..., Tensor]:
    network = torch.compile(run.model) if run.config.train.compile else run.model
    if run.world.size == 1:
        return network
    return DistributedDataParallel(network, find_unused_parameters=run.unused)


def _companion(
    run: Run, companion: Companion | None, unused: bool = False
) -> Callable[..., Tensor] | None:
    """What is trained beside the network, as a step calls it."""
    if companion is None:
        return None
    if run.world.size == 1:
        return companion.module
    return DistributedDataParallel(
        companion.module, broadcast_buffers=False, find_unused_parameters=unused
    )


def _objective(run: Run, auxiliary: Callable[..., Tensor] | None) -> Objective:
    """The objective as a step calls it: with the auxiliary network that averages gradients."""
    objective: Callable[..., Tensor | Learned] = run.objective
    return objective if auxiliary is None else partial(objective, auxiliary=auxiliary)


def _loop(run: Run, batches: Iterator[Batch], audience: Observer, stop: Stop) -> Outcome:
    settings, state = run.config.train, run.state
    network, window = _network(run), Window(run)
    weigh = _companion(run, state.weight)
    auxiliary = _companion(run, state.auxiliary, run.unused)  # a network like the run's
    objective = _objective(run, auxiliary)
    doing, remedy = _in_a_step(run)
    signum = stop.agreed()
    if state.step and not signum:
        # What was due at the checkpoint may have been cut off.
        signum = _show(run, audience, stop, window, resumed=True)
    while state.step < settings.steps and not signum:
        run.model.train()
        batch = _micro_batches(run, batches)
        with talking(), in_memory(doing, remedy):
            window.add(step_of(state, network, batch, run.config, objective, weigh, auxiliary))
        audience.stepped(state.step)
        finished = state.step == settings.steps
        if state.step % settings.log_every == 0 or finished:
            bad, last = window.longest_bad()
            audience.logged(state.step, window.close())
            _check_finite(run, audience, bad, last)
        signum = stop.agreed()
        if settings.snapshot_every and (state.step % settings.snapshot_every == 0 or finished):
            _snapshot(run)  # ahead of the checkpoint: whoever goes on from that has it
        if state.step % settings.checkpoint_every == 0 or finished or signum or _is_kept(run):
            _save(run, audience)
        if not signum:
            signum = _show(run, audience, stop, window)
    if state.step == settings.steps:
        _tell_if_unchanged(run)
    wait_for_all(run.world)  # the last checkpoint is there for all
    whole = state.step == settings.steps and not (signum and not _is_shown(run))
    return Outcome(state.step, 0 if whole else signum)


def _in_a_step(run: Run) -> tuple[str, str]:
    """What is said where memory is not enough for a step: what was done, and what helps."""
    settings = run.config.train
    pictures = micro_batch_size(settings.batch_size, run.world.size, settings.micro_batches)
    fewer = f"use --accumulate {2 * settings.micro_batches} or more, " if pictures > 1 else "use "
    return (
        f"training on {pictures} pictures at once",
        f"{fewer}--checkpoint-activations true or a smaller network",
    )


def _save(run: Run, audience: Observer) -> None:
    """Write a checkpoint; the first process does."""
    if run.world.rank == 0:
        if not run.files.config.is_file():
            raise OSError(
                f"{run.files.config} is gone since the run was begun: its folder has been removed "
                "or moved; train again, or resume it where it is now"
            )
        checkpoint = checkpoint_of(run.state, run.config, run.shape, run.data)
        path = save_checkpoint(run.files, checkpoint, run.config.train.max_checkpoints)
        run.files.begun.unlink(missing_ok=True)
        audience.saved(run.state.step, path)


def _snapshot(run: Run) -> None:
    """Keep the power-function averages of the step; the first process does."""
    if run.world.rank == 0:
        step, profiles = run.state.step, run.state.profiles
        save_snapshot(run.files, Snapshot(step, run.config, run.shape, profiles))


def _is_kept(run: Run) -> bool:
    """Whether the checkpoint of the step that the run has come to stays for ever."""
    return run.state.step in (run.config.train.keep_at or ())


def _due(run: Run) -> tuple[bool, bool]:
    """Whether a preview, and an evaluation, belong to the step that the run has come to."""
    settings, step = run.config.train, run.state.step
    finished = step == settings.steps
    every = settings.preview_every, settings.eval_every
    preview_due, eval_due = (bool(n) and (step % n == 0 or finished) for n in every)
    return preview_due, eval_due


def _logged(run: Run) -> set[str]:
    """What the log knows of the step that the run has come to, if only that it was not finite."""
    here = [line for entry, line in log_lines(run.files.log) if entry["step"] == run.state.step]
    return set().union(*map(json.loads, here))


def _is_shown(run: Run) -> bool:
    """Whether all that was due at the step of a resumed run is there; all processes agree."""
    step, (preview_due, eval_due) = run.state.step, _due(run)
    logged = _logged(run) if run.world.rank == 0 else set()
    missing = (preview_due and not run.files.preview(step).is_file()) or (
        eval_due and BEST not in logged
    )
    if preview_due and run.held_out is not None:
        missing |= "held_out_loss" not in logged
    return not largest(int(missing and run.world.rank == 0), run.world)


def _show(run: Run, audience: Observer, stop: Stop, window: "Window", resumed: bool = False) -> int:
    """Preview and evaluation where they are due; the signal that cut them short, or 0."""
    step, (preview_due, eval_due) = run.state.step, _due(run)
    if not (preview_due or eval_due) or (resumed and _is_shown(run)):
        return 0
    values: dict[str, float] = {}
    started = time.perf_counter()
    try:
        if preview_due:
            with _spared(run, "preview") as spared:
                path = preview(run, stop.check)
            if not spared:
                audience.previewed(step, path)
            with _spared(run, "held-out loss"):
                values |= held_out_loss_of(run)
        if eval_due:
            with _spared(run, "evaluation") as spared:
                figures = evaluation(run, stop.check)
            if not spared:
                audience.evaluated(step, figures)
                values |= figures
    except Stopped:
        _save(run, audience)
        return stop.agreed()
    finally:
        window.leave_out(time.perf_counter() - started)
    if run.world.rank == 0 and not values.keys() <= (_logged(run) if resumed else set()):
        _keep_the_best(run, values, audience)
        audience.logged(step, {"step": step, **values})
    return 0


@contextmanager
def _spared(run: Run, what: str) -> Iterator[list[str]]:
    """What only shows a run does not end it: where it fails, a line tells why, and is yielded."""
    told: list[str] = []
    try:
        with in_memory(f"showing the {what}", "use a smaller --sample-batch or --eval-num"):
            yield told
    except ValueError as error:
        if run.world.size > 1:  # the others may wait in the midst of it
            raise
        told.append(f"step {run.state.step} has no {what}: {error}")
        say(told[0])


def _keep_the_best(run: Run, values: dict[str, float], audience: Observer) -> None:
    """Keep a checkpoint that is better than all before it in a file of its own.

    There is none after a run has gone back to before its best step.
    """
    earlier = [entry[BEST] for entry in read_log(run.files.log) if BEST in entry]
    best = min(earlier, default=math.inf) if run.files.best.is_file() else math.inf
    if BEST in values and values[BEST] < best:
        checkpoint = checkpoint_of(run.state, run.config, run.shape, run.data)
        write_checkpoint(run.files.best, checkpoint)
        audience.saved(run.state.step, run.files.best)


class Window:
    """What is gathered between two lines of the log; figures stay on the device until then."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self.seconds = (
            0.0 if run.world.rank else seconds_until(run.files.log, run.state.step) or 0.0
        )
        self._start()

    def _start(self) -> None:
        self.started, self.step = time.perf_counter(), self.run.state.step
        self.results: list[StepResult] = []
        self.bad_in_row: list[Tensor] = []  # after each step

    def add(self, result: StepResult) -> None:
        """Take in a step."""
        self.results.append(result)
        self.bad_in_row.append(self.run.state.counters["in_row"])

    def longest_bad(self) -> tuple[int, int]:
        """Most steps in a row without a finite gradient, and the last of these steps."""
        counts = torch.stack(self.bad_in_row)
        most = counts.max()
        place = int((counts == most).nonzero()[-1])
        return int(most), self.step + 1 + place

    def _figures(self) -> dict[str, float]:
        """The objective's figures by their names, means over the steps that had them."""
        found: dict[str, list[Tensor]] = {}
        roots: set[str] = set()
        for result in self.results:
            roots |= {*result.roots}
            for name, value in (result.figures or {}).items():
                found.setdefault(name, []).append(value)
        world = self.run.world
        if differs({name: len(values) for name, values in found.items()}, world):
            raise ValueError(
                "expected the objective to give the same figures on all processes, got others on "
                f"some than {', '.join(sorted(found)) or 'none'}; give them for every micro-batch"
            )
        steps = {n: total(torch.stack(values), world) / world.size for n, values in found.items()}
        return {n: (v.sqrt() if n in roots else v).mean().item() for n, v in steps.items()}

    def leave_out(self, seconds: float) -> None:
        """Time that was not spent on training."""
        self.started += seconds

    def close(self) -> dict[str, Any]:
        """A line for the log; all processes must ask together."""
        run, settings = self.run, self.run.config.train
        losses = torch.stack([result.loss for result in self.results])
        loss = total(losses.nanmean(), run.world).item() / run.world.size
        sums, counts = total(torch.stack([r.bins for r in self.results]).sum(0), run.world).tolist()
        elapsed = time.perf_counter() - self.started
        self.seconds += elapsed
        figures = self._figures()
        entry = {
            "step": run.state.step,
            "loss": loss,
            "loss_by_logsnr": [s / n if n else None for s, n in zip(sums, counts, strict=True)],
            "grad_norm": self.results[-1].grad_norm.item(),
            "lr": learning_rate(run.state.step - 1, settings),
            "skipped": int(run.state.counters["skipped"]),
            "images_per_s": (run.state.step - self.step) * settings.batch_size / elapsed,
            "memory_mib": _memory(run.world),
            "seconds": self.seconds,
        }
        if taken := figures.keys() & entry.keys():
            raise ValueError(
                f"expected figures of the objective under names of their own, got {min(taken)}, "
                "which the log has already"
            )
        entry |= figures
        if run.state.weight is not None:
            edges = logsnr_edges(run.config.diffusion, run.world.device)
            with torch.no_grad():
                middles = run.state.weight.module(0.5 * (edges[1:] + edges[:-1]))
            entry["uncertainty_by_logsnr"] = middles.tolist()
        self._start()
        return entry


def _memory(world: World) -> float:
    """Most memory held so far, in MiB: of the GPU, or of the process."""
    if world.device.type == "cuda":
        return torch.cuda.max_memory_allocated(world.device) / 2**20
    unit = 2**20 if sys.platform == "darwin" else 2**10  # macOS counts bytes, Linux KiB
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def _check_finite(run: Run, audience: Observer, bad: int, last: int) -> None:
    """Stop a run that had ``bad`` steps in a row, up to ``last``; the state is still a good one."""
    settings = run.config.train  # asked on lines of the log: each step would wait for the device
    if bad < settings.max_bad_steps:
        return
    draws = torch.arange(settings.batch_size) + (last - 1) * settings.batch_size
    indices = image_indices(settings.seed, draws, len(run.dataset.images)).tolist()
    path = run.files.not_finite(last)
    if run.world.rank == 0:
        write_json(path, {"step": last, "bad_steps": bad, "pictures": indices})
    _save(run, audience)
    raise ValueError(
        f"no finite gradient in {bad} steps in a row up to step {last}; these steps changed no "
        f"parameters, and a checkpoint of step {run.state.step} is written. The last of their "
        f"batches' pictures are in {path}; go on with --resume and a smaller --lr, or delete newer "
        "checkpoints to go back"
    )


def _tell_if_unchanged(run: Run) -> None:
    """Tell of a run that has changed nothing, and was too short to be stopped for it."""
    steps = run.state.step
    if int(run.state.counters["skipped"]) == steps:
        say(
            f"none of the {steps} steps had a finite gradient, and the network is as it was begun; "
            "train anew with a smaller --lr, or other settings of the objective"
        )


def _batches(run: Run) -> Generator[Batch]:
    """This process's micro-batches from the current step to the last, one made ahead."""
    config, settings, world = run.config, run.config.train, run.world
    size = micro_batch_size(settings.batch_size, world.size, settings.micro_batches)

    def make(number: int) -> Batch:
        step, part = divmod(number, settings.micro_batches)
        first = step * settings.batch_size + (world.rank * settings.micro_batches + part) * size
        draws = torch.arange(size) + first
        span, takes_step = guidance_range(run.model), run.state.auxiliary is not None
        second = draws_two_times(run.model, config, own=bool(run.state.objective))
        return make_batch(run.dataset, config, draws, world.device, span, second, takes_step)

    steps = range(run.state.step * settings.micro_batches, settings.steps * settings.micro_batches)
    return prefetch(make, steps)


def _micro_batches(run: Run, batches: Iterator[Batch]) -> Iterator[Batch]:
    """This process's part of a step's batch; a network may draw from torch's generator."""
    settings, world = run.config.train, run.world
    for part, batch in enumerate(islice(batches, settings.micro_batches)):
        key = (run.state.step * world.size + world.rank) * settings.micro_batches + part
        torch.manual_seed(settings.seed + (key << 16))
        yield batch
