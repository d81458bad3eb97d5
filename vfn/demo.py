"""The whole job on real data: train, sample, compare guidance, evaluate, report."""

import shlex
from collections.abc import Callable
from pathlib import Path

from vfn.files import write_json

SWEEP = "0,0.5,1,3"


def demo_commands(out: Path, steps: int | None, num: int) -> list[list[str]]:
    """The command lines of the demo, in order.

    Args:
        out: run directory.
        steps: training steps; the preset's if None.
        num: pictures that are judged.

    Returns:
        arguments of ``vfn``, one list a command.

    >>> [command[0] for command in demo_commands(Path("runs/demo"), None, 1000)]
    ['train', 'sample', 'sample', 'eval', 'eval', 'report']
    """
    shorter = [] if steps is None else ["--steps", str(steps)]
    draw = ["sample", "--checkpoint", str(out), "--fresh"]
    judge = ["eval", "--real", "dataset:digits:train", "--fake", f"run:{out}", "--num", str(num)]
    return [
        ["train", "--config", "digits", "--out", str(out), "--resume", *shorter],
        [*draw, "--out", str(out / "sample")],
        [*draw, "--out", str(out / "sweep"), "--guidance", SWEEP],
        [*judge, "--json", str(out / "metrics.json")],
        [*judge, "--guidance", "0", "--json", str(out / "metrics-w0.json")],
        ["report", str(out)],
    ]


def run_demo(
    out: Path,
    steps: int | None,
    num: int,
    call: Callable[[list[str]], None],
    say: Callable[[str], None],
) -> None:
    """Run the demo's commands through ``call``, announcing each."""
    commands = demo_commands(out, steps, num)
    lines = [shlex.join(["vfn", *command]) for command in commands]
    for command, line in zip(commands, lines, strict=True):
        say(f"\n$ {line}")
        if command[0] == "report":  # the report shows how to repeat all of it
            write_json(out / "commands.json", lines)
        call(command)
    say(
        f"\nLook at {out / 'report.html'} (everything on one page),\n"
        f"  {out / 'sample' / 'grid.png'} (ten of each digit),\n"
        f"  {out / 'sample' / 'denoising.webp'} (how they come out of noise),\n"
        f"  {out / 'sweep' / 'sweep.png'} (guidance {SWEEP}).\n"
        f"More pictures: vfn sample --checkpoint {out} --out more --labels 3,7 --num 20\n"
        f"Fewer steps, down to one: vfn distill --teacher {out} --out {out}-fast, some minutes,\n"
        f"  then vfn report {out}-fast"
    )
