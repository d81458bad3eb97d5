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
from vfn.ops import SOLVERS

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
# In `vfn sample` and `vfn eval` the settings of sampling have shorter names; guidance is their own.
SAMPLE_NAMES = {"sample_timesteps": "steps", "sample_batch": "batch", "guidance": None}
# `vfn sample` takes several values of these, to compare them.
COMPARED = ("sampler", "sample_timesteps", "guidance")
# `vfn data` leaves out what training does with the pictures.
DATA_NAMES: dict[str, str | None] = {"split": None, "conditional": None, "flip": None}


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


data_dir_option = _option("data_dir", *flat_fields("data")["data_dir"], "data_dir")
device_option = click.option("--device", default="auto", help="auto, cpu or cuda  [auto]")


@click.group(context_settings=CONTEXT)
@click.version_option(__version__, prog_name="vfn")
def app() -> None:
    """Train, sample and evaluate v-objective diffusion models."""


@app.command("train")
@click.option("--config", "preset", help="a preset's name or a .toml file  [digits]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="run directory")
@click.option("--resume", is_flag=True, help="go on from the newest checkpoint in --out")
@click.option("--init-from", type=click.Path(path_type=Path),
              help="EMA of a run, checkpoint or exported model to start from")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="print the resolved configuration and stop")
@device_option
@settings("data", "model", "diffusion", "train", "sample")
def train_command(
    preset: str | None,
    out: Path,
    resume: bool,
    init_from: Path | None,
    dry_run: bool,
    device: str,
    **options: Any,
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

    outcome = train(config, out, resume, device, init_from)
    if outcome.signum:
        click.echo(
            f"stopped at step {outcome.step} of {config.train.steps}, checkpoint written; go on "
            f"with: vfn train --out {shlex.quote(str(out))} --resume",
            err=True,
        )
        sys.exit(128 + outcome.signum)
    if int(os.environ.get("RANK", 0)) == 0:
        click.echo(f"{out}: finished {outcome.step} steps", err=True)


@app.command("distill")
@click.option("--teacher", type=click.Path(path_type=Path),
              help="run directory or checkpoint file whose EMA is distilled")  # fmt: skip
@click.option("--config", "preset", help="a preset's name or a .toml file  [digits_distill]")
@click.option("--out", type=click.Path(path_type=Path), required=True, help="directory")
@click.option("--resume", is_flag=True, help="go on from the newest checkpoint in --out")
@click.option("--dry-run", is_flag=True, help="print the resolved configuration and stop")
@device_option
@settings("data", "model", "diffusion", "train", "distill")
def distill_command(
    teacher: Path | None,
    preset: str | None,
    out: Path,
    resume: bool,
    dry_run: bool,
    device: str,
    **options: Any,
) -> None:
    """Distill a teacher into students that need half as many steps, again and again.

    Each stage is a run directory steps-N in --out, for vfn sample, eval and report. Data, network
    and diffusion are the teacher's; --steps are the updates a halving.
    """
    from vfn.train import distill
    from vfn.train.run import restarted

    resume = resume or restarted()
    found = distill.find_teacher(teacher, out, resume)
    saved = out / "config.toml"
    if resume and preset is None and saved.is_file():
        preset = str(saved)
    config = distill.plan_of(found, preset or "digits_distill", _given(options))
    if dry_run:
        click.echo(configs.dumps(config), nl=False)
        return
    outcome = distill.distill(config, found, out, resume, device)
    if outcome.signum:
        click.echo(
            f"stopped at step {outcome.step} of the student of {outcome.student_steps} steps, "
            f"checkpoint written; go on with: vfn distill --out {shlex.quote(str(out))} --resume",
            err=True,
        )
        sys.exit(128 + outcome.signum)
    if int(os.environ.get("RANK", 0)) == 0:
        click.echo(distill.stage_table(distill.stage_figures(config, out)))


@app.command("sample")
@click.option("--checkpoint", type=click.Path(path_type=Path), required=True,
              help="run directory or checkpoint file")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="output directory")
@click.option("-n", "--num", type=click.IntRange(1), help="pictures  [10 for each label]")
@click.option("--labels", help="classes, or tags such as Smiling+Male, separated by commas  [all]")
@click.option("--tags", multiple=True,
              help="tags as in --labels; given twice: every combination of both lists")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the noise  [0]")
@click.option("--format", "kind", type=click.Choice(["png", "npz", "safetensors"]), default="png",
              help="single PNGs with labels.csv, or one file  [png]")  # fmt: skip
@click.option("--grid-image/--no-grid-image", default=True, help="write grid.png  [yes]")
@click.option("--animate/--no-animate", default=True, help="write denoising.webp  [yes]")
@click.option("--ema/--raw", default=True, help="averaged parameters, or those of the last step")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32",
              help="of the network's products  [fp32]")  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the network")
@click.option("--fresh", is_flag=True, help="draw anew what is in --out")
@device_option
@click.option("--guidance", type=_List(float), help="strength w, or several to compare")
@click.option("--sampler", type=_List(str), help=f"solver, or several: {SOLVERS.words()}")
@click.option("--steps", "sample_timesteps", type=_List(int), help="steps, or several numbers")
@settings("sample", names=SAMPLE_NAMES | dict.fromkeys(COMPARED))
def sample_command(**options: Any) -> None:
    """Sample pictures from a trained model.

    Writes the pictures, grid.png and denoising.webp to --out. Picture i of a seed is the same
    whatever --num, --batch and the number of processes are. The same command again goes on where
    a killed one was. Several values of --guidance, --sampler or --steps give one folder each and
    sweep.png. Under torchrun each process draws its share.
    """
    from vfn.sampling import sample_to_directory

    names = ("checkpoint", "out", "num", "labels", "tags", "seed", "kind", "grid_image", "animate",
             "device", "ema", "precision", "compiled", "fresh")  # fmt: skip
    own = {name: options.pop(name) for name in names}
    compared = {name: options.pop(name) or () for name in COMPARED}
    sample_to_directory(**own, compared=compared, overrides=_given(options), say=_say)


features_option = click.option("--features", default="pixels",
                               help="pixels, inception, vgg16 or dinov2  [pixels]")  # fmt: skip
weights_option = click.option("--weights", type=click.Path(path_type=Path),
                              help="the network's weights  [a checked download]")  # fmt: skip


@app.group("eval", invoke_without_command=True)
@click.option("--real", help="real pictures: dataset:NAME[:split], folder, .npz or statistics")
@click.option("--fake", help="pictures to judge: run:DIR, folder, .npz or statistics")
@click.option("--held-out", help="real pictures never trained on  [dataset's test split]")
@features_option
@weights_option
@click.option("--metrics", default="fd,pr,agreement,memorisation,loss",
              help="among fid, fid_infinity, kid, is, pr, dc, fd, agreement, memorisation, loss  "
                   "[fd,pr,agreement,memorisation,loss]")  # fmt: skip
@click.option("--num", type=click.IntRange(2), default=1000, help="pictures from a run  [1000]")
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the samples  [0]")
@click.option(
    "--labels", help="classes or tags asked of a run  [classes in turn, tags as in its data]"
)
@click.option("--guidance", type=float, help="strength w for a run")
@click.option(
    "--bpd",
    is_flag=True,
    help="also bits per dimension of the first --num held-out pictures, for a run",
)
@click.option("--bootstrap", type=click.IntRange(0), default=0,
              help="resampled sets for 95 % intervals, 0 or at least 2  [0]")  # fmt: skip
@click.option("--json", "json_path", type=click.Path(path_type=Path), help="write the figures here")
@click.option("--compare", multiple=True, type=click.Path(path_type=Path),
              help="instead of judging, a table of such files; once for each")  # fmt: skip
@click.option("--against", default="guidance", help="setting that orders them  [guidance]")
@click.option("--plot", type=click.Path(path_type=Path), help="picture of the figures compared")
@device_option
@data_dir_option
@settings("sample", names=SAMPLE_NAMES)
@click.pass_context
def eval_command(
    context: click.Context,
    json_path: Path | None,
    compare: tuple[Path, ...],
    against: str,
    plot: Path | None,
    **options: Any,
) -> None:
    """Judge pictures against real ones, by their pixels or by features of a network.

    fid (or fd): Fréchet distance; of inception's features it is the FID. fid_infinity: without the
    bias of a finite sample. kid: kernel distance. is: Inception Score. pr: precision and recall
    (k = 3). dc: density and coverage (k = 5). agreement: a classifier trained on the real pictures
    finds the asked label. memorisation: pictures nearer to a training picture than held-out ones
    are. loss: held-out loss by log-SNR bin (run:DIR only). --bpd: the variational bound and the
    likelihood under the probability flow, with their standard errors.
    """
    if context.invoked_subcommand:
        return
    if compare:
        from vfn import judging

        click.echo(judging.compare(list(compare), against, plot))
        return
    for name in ("real", "fake"):
        if options[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")
    from vfn.commands import evaluate_pictures
    from vfn.files import make_directory, write_json

    if json_path:
        make_directory(json_path.parent)  # before hours of work
    names = ("real", "fake", "held_out", "metrics", "num", "seed", "device", "data_dir", "bpd",
             "features", "weights", "bootstrap", "labels")  # fmt: skip
    own = {name: options.pop(name) for name in names}
    result = evaluate_pictures(**own, overrides=_given(options), say=_say)
    if result is None:
        return
    click.echo(result.table())
    if json_path:
        command = shlex.join(["vfn", *context.obj])
        write_json(json_path, {**result.record(), "command": command})
        click.echo(f"figures are in {json_path}", err=True)


@eval_command.command("reference")
@click.option("--real", required=True, help="real pictures: dataset:NAME[:split], folder or .npz")
@click.option("--out", required=True, type=click.Path(path_type=Path), help=".npz file")
@features_option
@weights_option
@click.option("--keep/--no-keep", default=True,
              help="keep the features, for more than fid and is  [keep]")  # fmt: skip
@device_option
@data_dir_option
def reference_command(**options: Any) -> None:
    """Store mean, covariance and features of real pictures, as --real of evaluations to come."""
    from vfn.judging import store_reference

    click.echo(store_reference(**options))


@app.group("import")
def import_group() -> None:
    """Take over configurations and checkpoints of the reference implementation."""


dataset_option = click.option("--dataset", help="mnist, cifar10 or celeba  [the file's]")


@import_group.command("config")
@click.argument("source", metavar="JSON", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="TOML file  [standard output]")
@dataset_option
def import_config_command(source: Path, out: Path | None, dataset: str | None) -> None:
    """Write the configuration that does what a reference JSON file says.

    Options that need no place here are listed; those that have none are refused.
    """
    from vfn.configs.reference import left_out
    from vfn.files import write_atomic
    from vfn.importing import import_config, with_dataset

    text = configs.dumps(import_config(with_dataset(source, dataset)))
    for line in left_out(source):
        _say(f"left out: {line}")
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomic(out, text)
        _say(f"use it with: vfn train --config {shlex.quote(str(out))}")


@import_group.command("checkpoint")
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--config", "source", metavar="JSON", type=click.Path(path_type=Path), required=True,
              help="the configuration of its run")  # fmt: skip
@click.option("--out", type=click.Path(path_type=Path), required=True, help="run directory")
@dataset_option
def import_checkpoint_command(file: Path, source: Path, out: Path, dataset: str | None) -> None:
    """Make a run of a checkpoint: FILE is what the reference's torch.save wrote.

    The run can be sampled, evaluated and trained on. Nothing in FILE is executed.
    """
    from vfn.importing import import_checkpoint, with_dataset

    path = import_checkpoint(file, with_dataset(source, dataset), out, _say)
    _say(f"{path}; use it with: vfn sample --checkpoint {shlex.quote(str(out))} --out samples")


@app.command("info")
@click.argument("target", metavar="RUN|CONFIG")
@click.option("--image", type=_List(int), help="channels,height,width  [the data set's]")
@click.option("--classes", type=click.IntRange(0), help="labels, with --image  [none]")
@click.option("--teacher", type=click.Path(path_type=Path),
              help="run or checkpoint file, with the CONFIG of a distillation")  # fmt: skip
def info_command(
    target: str, image: tuple[int, ...] | None, classes: int | None, teacher: Path | None
) -> None:
    """Show a network's parameters, operations and memory, and a run's checkpoints.

    RUN is a run directory, a distilled one or a checkpoint file, CONFIG a preset's name or a .toml
    file. Data and network of a distillation are those of its --teacher.
    """
    from vfn.summary import describe

    click.echo(describe(target, image, classes, _say, teacher))


@app.command("export")
@click.argument("run", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help=".safetensors file")
def export_command(run: Path, out: Path) -> None:
    """Write the EMA parameters and the configuration of a RUN or checkpoint to one file."""
    from vfn.train.checkpoint import export_model, find_checkpoint

    if out.suffix != ".safetensors":
        raise ValueError(f"expected --out to end in .safetensors, got {out}")
    checkpoint = find_checkpoint(run, _say)
    export_model(checkpoint, out)
    _say(f"{out}: EMA parameters of step {checkpoint.step}")


@app.group("data")
def data_group() -> None:
    """Prepare data sets, and look at them."""


def data_options(command: Callable) -> Callable:
    config = click.option("--config", "preset", help="a preset's name or a .toml file  [digits]")
    return config(settings("data", names=DATA_NAMES)(command))


@data_group.command("prepare")
@click.option("--fresh", is_flag=True, help="prepare again what is there")
@data_options
def prepare_command(preset: str | None, fresh: bool, **options: Any) -> None:
    """Download a data set and prepare its pictures for training.

    Training does the same on its first use of a data set. Give the options that it will get: other
    sizes, crops and so on are prepared beside each other.
    """
    from vfn.data import prepare

    click.echo(prepare(_data_settings(preset, options), _say, fresh).summary())


@data_group.command("info")
@data_options
def data_info_command(preset: str | None, **options: Any) -> None:
    """Show what is prepared: pictures, labels, what was left out, where it is."""
    from vfn.data import data_home, find_prepared

    settings = _data_settings(preset, options)
    found = find_prepared(settings)
    missing = f"{settings.dataset} is not prepared in {data_home(settings)}; use vfn data prepare"
    click.echo(found.summary() if found else missing)


def _data_settings(preset: str | None, options: dict[str, Any]) -> configs.DataConfig:
    return override(configs.load(preset or "digits"), _given(options)).data


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
