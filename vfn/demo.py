"""The whole job on real data: train, sample, compare guidance, evaluate, report."""

import shlex
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from vfn.configs import load, override
from vfn.files import write_json
from vfn.launch import launch
from vfn.progress import as_typed, say
from vfn.runs import RunFiles

PRESET = "digits"
SWEEP = (0.0, 0.5, 1.0, 3.0)


class Step(NamedTuple):
    """Something that is done: the arguments of ``vfn`` for it, and the call that does the same."""

    arguments: list[str]
    call: Callable[[], object]

    @property
    def line(self) -> str:
        """The command line."""
        return shlex.join(["vfn", *self.arguments])


def demo_steps(
    out: Path,
    steps: int | None,
    num: int,
    sample_timesteps: int | None = None,
    preset: str | None = None,
) -> list[Step]:
    """What the demo does, in order.

    Args:
        out: run directory.
        steps: training steps; the preset's if None.
        num: pictures that are judged.
        sample_timesteps: steps of sampling; the preset's if None.
        preset: or configuration file; `PRESET` if None.

    Returns:
        the steps.

    Raises:
        ValueError: if there is no such preset.

    >>> for step in demo_steps(Path("runs/demo"), None, 1000):
    ...     print(step.line)
    vfn train --config digits --out runs/demo --resume
    vfn sample --checkpoint runs/demo --out runs/demo/sample --fresh
    vfn sample --checkpoint runs/demo --out runs/demo/sweep --fresh --guidance 0,0.5,1,3
    vfn eval --real dataset:digits:train --fake run:runs/demo --num 1000
        --json runs/demo/metrics.json
    vfn eval --real dataset:digits:train --fake run:runs/demo --num 1000
        --guidance 0 --json runs/demo/metrics-w0.json
    vfn eval nearest --real dataset:digits:train --fake runs/demo/sample --out runs/demo/nearest.png
    vfn report runs/demo
    """
    run, preset = RunFiles(out), preset or PRESET
    real = f"dataset:{load(preset).data.dataset}:train"
    return [
        _train(run, preset, {"steps": steps, "sample_timesteps": sample_timesteps}),
        _sample(run, run.sample),
        _sample(run, run.sweep, SWEEP),
        _judge(run, real, num, run.metrics),
        _judge(run, real, num, run.metrics.with_stem(f"{run.metrics.stem}-w0"), 0.0),
        _nearest(run, real),
        _report(run),
    ]


def run_demo(
    out: Path,
    steps: int | None = None,
    num: int = 1000,
    sample_timesteps: int | None = None,
    preset: str | None = None,
) -> Path:
    """Train on handwritten digits, sample, evaluate, report; each step is announced.

    Args:
        out: run directory; a demo that was stopped goes on.
        steps: training steps; the preset's if None.
        num: pictures that are judged.
        sample_timesteps: steps of sampling; the preset's if None.
        preset: or configuration file; `PRESET` if None.

    Returns:
        the page about the run.

    Raises:
        ValueError: if there is no such preset, or ``out`` holds another run.
        OSError: if ``out`` cannot be written.
        KeyboardInterrupt: if the training was stopped by a signal; its checkpoint is written.
    """
    run, demo = RunFiles(out), demo_steps(out, steps, num, sample_timesteps, preset)
    _check_places(run)
    for step in demo:
        say(f"\n$ {step.line}")
        if step is demo[-1]:  # the report shows how to repeat all of it
            write_json(run.commands, [each.line for each in demo])
        step.call()
    say(_farewell(run))
    return run.report


def _check_places(run: RunFiles) -> None:
    """Refuse to train what cannot be sampled, judged and shown where it belongs."""
    from vfn.files import check_place
    from vfn.sampling.job import check_places

    check_places([run.sample], run.sample)
    check_places([run.sweep / f"w{w:g}" for w in SWEEP], run.sweep)
    for path in (run.metrics, run.nearest, run.commands, run.report):
        check_place(path)


def _train(run: RunFiles, preset: str, given: dict[str, int | None]) -> Step:
    shorter = {name: value for name, value in given.items() if value is not None}

    def call() -> None:
        from vfn.train import train

        outcome = train(override(load(preset), shorter), run.path, resume=True)
        if outcome.signum:
            say(f"stopped at step {outcome.step}; the same command goes on from there")
            raise KeyboardInterrupt

    flags = {f"--{name.replace('_', '-')}": str(value) for name, value in shorter.items()}
    words = [word for pair in flags.items() for word in pair]
    out = str(run.path)
    return Step(["train", "--config", preset, "--out", out, "--resume", *words], call)


def _sample(run: RunFiles, out: Path, guidance: tuple[float, ...] = ()) -> Step:
    """Ten of each class or set of tags; with several strengths of guidance side by side."""

    def call() -> None:
        from vfn.sampling import load as load_run
        from vfn.sampling import write_samples

        trained = load_run(run.path)
        draws = [trained.draws(guidance=w) for w in guidance] or trained.draws()
        write_samples(draws, out, fresh=True)

    strengths = ["--guidance", ",".join(f"{w:g}" for w in guidance)] if guidance else []
    return Step(
        ["sample", "--checkpoint", str(run.path), "--out", str(out), "--fresh", *strengths], call
    )


def _judge(run: RunFiles, real: str, num: int, path: Path, guidance: float | None = None) -> Step:
    """Figures of the run's pictures, drawn as it says or with another strength of guidance."""
    strength = [] if guidance is None else ["--guidance", f"{guidance:g}"]
    settings: dict[str, Any] = {} if guidance is None else {"guidance": guidance}
    arguments = ["eval", "--real", real, "--fake", f"run:{run.path}", "--num", str(num),
                 *strength, "--json", str(path)]  # fmt: skip

    def call() -> None:
        from vfn.evaluation import judge, own_draws
        from vfn.evaluation.metrics import USUAL
        from vfn.sampling import load as load_run

        trained = load_run(run.path)
        draws = own_draws(trained, num, **settings)
        found = judge(real, draws, USUAL, num=num)
        if launch().rank == 0:
            say(found.table())
            replace(found, command=shlex.join(["vfn", *arguments])).write(path)

    return Step(arguments, call)


def _nearest(run: RunFiles, real: str) -> Step:
    """Those of the pictures of the sample grid that are most like real ones."""

    def call() -> None:
        from vfn.evaluation import nearest_pictures
        from vfn.pictures import save_png

        found = nearest_pictures(real, run.sample)
        if launch().rank == 0:
            save_png(run.nearest, found.sheet())

    arguments = ["--real", real, "--fake", str(run.sample), "--out", str(run.nearest)]
    return Step(["eval", "nearest", *arguments], call)


def _report(run: RunFiles) -> Step:
    def call() -> None:
        from vfn.distributed import by_first
        from vfn.report import report

        by_first(lambda: report(run.path))

    return Step(["report", str(run.path)], call)


def _farewell(run: RunFiles) -> str:
    from vfn.sampling.job import DENOISING, GRID
    from vfn.sampling.job import SWEEP as SHEET

    strengths = ",".join(f"{w:g}" for w in SWEEP)
    out, fast = str(run.path), f"{run.path}-fast"
    more = as_typed(
        "sample", "--checkpoint", out, "--out", "more", "--labels", "3,7", "--num", "20"
    )
    return (
        f"\nLook at {run.report} (everything on one page),\n"
        f"  {run.sample / GRID} (some of each class),\n"
        f"  {run.sample / DENOISING} (how they come out of noise),\n"
        f"  {run.sweep / SHEET} (guidance {strengths}),\n"
        f"  {run.nearest} (those most like real ones).\n"
        f"More pictures:\n  {more}\n"
        "Fewer steps, down to one, in some minutes, and a page about them:\n"
        f"  {as_typed('distill', '--teacher', out, '--method', 'ect', '--out', fast)}\n"
        f"  {as_typed('report', fast)}"
    )
