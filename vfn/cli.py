"""The command line: it parses, calls the library, and turns a user's mistake into one line."""

import os
import shlex
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
import torch

from vfn import __version__, configs
from vfn.configs.schema import flat_fields, override, plain_hint

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
# In `vfn sample` and `vfn eval` the settings of sampling have shorter names; guidance is their own.
SAMPLE_NAMES = {"sample_timesteps": "steps", "sample_batch": "batch", "guidance": None}


class _List(click.ParamType):
    """Values separated by commas."""

    name = "a,b,..."

    def __init__(self, item: type) -> None:
        self.item = item

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple:
        if isinstance(value, tuple):
            return value
        kind = click.BOOL if self.item is bool else click.types.convert_type(self.item)
        return tuple(kind.convert(part.strip(), param, ctx) for part in value.split(","))


def _option(name: str, field: Any, hint: Any, flag: str) -> Callable:
    """The click option of one configuration field."""
    hint, _ = plain_hint(hint)
    kind: Any = hint
    if get_origin(hint) is Literal:
        kind = click.Choice(get_args(hint))
    elif get_origin(hint) is tuple:
        kind = _List(get_args(hint)[0])
    return click.option(f"--{flag.replace('_', '-')}", name, type=kind, help=field.metadata["help"])


def settings(*sections: str, names: dict[str, str | None] | None = None) -> Callable:
    """An option for every field of the named sections; unset ones are None."""

    def decorate(command: Callable) -> Callable:
        for name, (field, hint) in reversed(flat_fields(*sections).items()):
            flag = (names or {}).get(name, name)
            if flag is not None:
                command = _option(name, field, hint, flag)(command)
        return command

    return decorate


def _given(options: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in options.items() if value is not None}


device_option = click.option("--device", default="auto", help="auto, cpu or cuda  [auto]")


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="vfn")
def app() -> None:
    """Train, sample and evaluate v-objective diffusion models."""


@app.command("train")
@click.option("--config", "preset", help="a preset's name or a .toml file  [digits]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="run directory")
@click.option("--resume", is_flag=True, help="go on from the newest checkpoint in --out")
@click.option("--dry-run", is_flag=True, help="print the resolved configuration and stop")
@device_option
@settings("data", "model", "diffusion", "train", "sample")
def train_command(
    preset: str | None, out: Path, resume: bool, dry_run: bool, device: str, **options: Any
) -> None:
    """Train a model in a run directory.

    The configuration comes from --config (with --resume: from the run itself); every setting can
    be replaced by its option.
    """
    saved = out / "config.toml"
    if resume and preset is None:
        if not saved.is_file():
            raise ValueError(f"nothing to resume in {out}; name a --config to start a run there")
        preset = str(saved)
    config = override(configs.load(preset or "digits"), _given(options))
    if dry_run:
        click.echo(configs.dumps(config), nl=False)
        return
    from vfn.train.loop import train

    outcome = train(config, out, resume, device)
    if outcome.signum:
        click.echo(
            f"stopped at step {outcome.step} of {config.train.steps}, checkpoint written; go on "
            f"with: vfn train --out {shlex.quote(str(out))} --resume",
            err=True,
        )
        sys.exit(128 + outcome.signum)
    if int(os.environ.get("RANK", 0)) == 0:
        click.echo(f"{out}: finished {outcome.step} steps", err=True)


@app.command("sample")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True,
              help="run directory or checkpoint file")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="output directory")
@click.option("--num", type=click.IntRange(1), help="pictures  [10 for each label]")
@click.option("--labels", help="class names separated by commas, or all  [all]")
@click.option("--guidance", help="strength w, or several separated by commas for a comparison")
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the noise  [0]")
@click.option("--format", "kind", type=click.Choice(["png", "npz"]), default="png",
              help="single PNGs with labels.csv, or samples.npz  [png]")  # fmt: skip
@click.option("--animate/--no-animate", default=True, help="write denoising.webp  [yes]")
@device_option
@settings("sample", names=SAMPLE_NAMES)
def sample_command(**options: Any) -> None:
    """Sample pictures from a trained model (EMA parameters).

    Writes grid.png, the pictures, and denoising.webp to --out. Picture i of a seed is the same
    whatever --num and --batch are. Several values of --guidance give one folder each and sweep.png.
    """
    from vfn.commands import sample_to_directory

    names = ("checkpoint", "out", "num", "labels", "seed", "kind", "animate", "device")
    own = {name: options.pop(name) for name in names}
    strengths = _numbers(options.pop("guidance"), "--guidance")
    sample_to_directory(**own, strengths=strengths, overrides=_given(options), say=_say)


@app.command("eval")
@click.option("--real", required=True, help="real pictures: dataset:NAME[:split], folder or .npz")
@click.option("--fake", required=True, help="pictures to judge: run:DIR, folder or .npz")
@click.option("--held-out", help="real pictures never trained on  [dataset's test split]")
@click.option("--metrics", default="fd,pr,agreement,memorisation,loss",
              help="among fd, pr, agreement, memorisation, loss  [all]")  # fmt: skip
@click.option("--num", type=click.IntRange(2), default=1000, help="pictures from a run  [1000]")
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the samples  [0]")
@click.option("--guidance", type=float, help="strength w for a run")
@click.option("--bpd", is_flag=True, help="also bits per dimension of held-out pictures, for a run")
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here")
@device_option
@settings("sample", names=SAMPLE_NAMES)
def eval_command(json_path: Path | None, **options: Any) -> None:
    """Judge pictures against real ones, in pixel space.

    fd: Fréchet distance. pr: precision and recall (k = 3). agreement: a classifier trained on the
    real pictures finds the asked label. memorisation: pictures nearer to a training picture than
    held-out ones are. loss: held-out loss by log-SNR bin (run:DIR only). --bpd: the variational
    bound and the likelihood under the probability flow, with their standard errors.
    """
    from vfn.commands import evaluate_pictures
    from vfn.files import write_json

    names = ("real", "fake", "held_out", "metrics", "num", "seed", "device", "bpd")
    own = {name: options.pop(name) for name in names}
    result = evaluate_pictures(**own, overrides=_given(options), say=_say)
    click.echo(result.table())
    if json_path:
        command = shlex.join(["vfn", *click.get_current_context().obj])
        write_json(json_path, {**result.record(), "command": command})
        click.echo(f"figures are in {json_path}", err=True)


@app.command("report")
@click.argument("run", type=click.Path(path_type=Path))
def report_command(run: Path) -> None:
    """Write report.html and plots for a run directory."""
    from vfn.report import write_report

    click.echo(f"open {write_report(run)}")


@app.command("demo")
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/demo"),
              help="run directory  [runs/demo]")  # fmt: skip
@click.option("--steps", type=click.IntRange(1), help="training steps, for a shorter demo")
@click.option("--num", type=click.IntRange(8), default=1000, help="pictures to judge  [1000]")
def demo_command(out: Path, steps: int | None, num: int) -> None:
    """Train on handwritten digits, sample, evaluate, report: minutes on a laptop's CPU."""
    from vfn.demo import run_demo

    run_demo(out, steps, num, _run, _say)


def _run(arguments: list[str]) -> Any:
    """One command line within this process; commands find it as their context's object."""
    return app.main(arguments, prog_name="vfn", standalone_mode=False, obj=arguments)


def _numbers(text: str | None, name: str) -> list[float]:
    """Numbers separated by commas."""
    try:
        return [float(part) for part in text.split(",")] if text is not None else []
    except ValueError:
        raise ValueError(
            f"expected {name} to be numbers separated by commas, such as 0 or 0,0.5,1, got {text!r}"
        ) from None


def _say(line: str) -> None:
    click.echo(line, err=True)


def main() -> None:
    """Run the command line; a mistake of the user's ends in one line and exit code 2.

    With VFN_TRACEBACK=1 in the environment the traceback is shown as well.
    """
    try:
        code = _run(sys.argv[1:])
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        code = 2
    except click.ClickException as error:
        where = getattr(error, "ctx", None)
        _say(f"{where.command_path if where else 'vfn'}: {error.format_message()}")
        code = 2
    except click.exceptions.Exit as error:
        code = error.exit_code
    except (click.Abort, KeyboardInterrupt):
        _say("vfn: interrupted")
        code = 130
    except (ValueError, OSError, torch.OutOfMemoryError) as error:
        if os.environ.get("VFN_TRACEBACK"):
            raise
        _say(f"vfn: {' '.join(str(error).split())}")
        code = 2
    sys.exit(code if isinstance(code, int) else 0)
