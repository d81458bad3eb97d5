"""The command line: it parses, calls the library, and turns a user's mistake into one line.

Nothing heavy is imported before a command runs, so that help and mistakes come at once.
"""

import inspect
import os
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import replace
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import click

from vfn import __version__, configs
from vfn.configs.settings import override
from vfn.data.labels import asks_as_data, split_of
from vfn.evaluation.extractors import EXTRACTORS
from vfn.evaluation.metrics import METRICS, USUAL, usual_metrics
from vfn.files import given_path, printable, shown
from vfn.interop.exports import EXPORTS, exporter
from vfn.interop.formats import FORMATS, What, importer, offering
from vfn.launch import launch
from vfn.memory import is_shortage, shortage
from vfn.numbers import number_of
from vfn.ops.solver_table import SOLVERS
from vfn.options import (
    Command,
    GivenPath,
    JointGroup,
    Listed,
    Word,
    check_job,
    given,
    option,
    refuse_given,
    settings,
)
from vfn.progress import as_typed, is_shown, say
from vfn.runs.directory import run_path
from vfn.sampling.output_table import OUTPUTS
from vfn.tables import Described

if TYPE_CHECKING:
    from vfn.sampling import Asked, Draws, Trained

CONTEXT = {"help_option_names": ["-h", "--help"], "max_content_width": 100}
PATH, RUN = GivenPath(given_path), GivenPath(run_path)  # a run may have ``run:`` before it
# In `vfn sample` and `vfn eval` the settings of sampling have shorter names.
SAMPLE_NAMES = {"sample_timesteps": "steps", "sample_batch": "batch"}
# `vfn sample` takes several values of these, to compare them.
COMPARED = ("sampler", "sample_timesteps", "guidance", "guide_with", "guide_weight")
# In `vfn distill` the weaker network is the teacher's.
DISTILL_NAMES = {"teacher_guide_with": "guide_with", "teacher_guide_weight": "guide_weight"}
# `vfn data` leaves out what training does with the pictures.
DATA_NAMES: dict[str, str | None] = {"split": None, "conditional": None, "flip": None}

device_option = click.option("--device", default="auto", help="auto, cpu or cuda  [auto]")
config_option = click.option("--config", "preset", help="a preset's name or a .toml file  [digits]")
data_dir_option = option("data_dir")


def _alone(command: Callable[..., None]) -> Callable[..., None]:
    """A command that is not shared out: the first process does it, and the others wait."""

    @wraps(command)
    def by_first_process(*args: Any, **kwargs: Any) -> None:
        if launch().size == 1:
            command(*args, **kwargs)
            return
        from vfn.distributed import by_first

        by_first(lambda: command(*args, **kwargs))

    return by_first_process


@click.group(cls=JointGroup, context_settings=CONTEXT)
@click.version_option(__version__, prog_name="vfn")
def app() -> None:
    """Train, sample and evaluate v-objective diffusion models."""


@app.command("train")
@config_option
@click.option("--out", type=RUN, required=True, help="run directory")
@click.option("--resume", is_flag=True, help="go on from the newest checkpoint in --out")
@click.option("--init-from", type=RUN,
              help="EMA of a run, checkpoint or exported model to start from")  # fmt: skip
@click.option("--init-partial", is_flag=True,
              help="take of --init-from what fits: for other classes or channels")  # fmt: skip
@click.option("--fresh", is_flag=True,
              help="begin anew what is there and has no checkpoint that can be read")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="print the resolved configuration and stop")
@device_option
@settings("data", "model", "diffusion", "train", "sample", names={"guidance_range": None})
def train_command(
    preset: str | None,
    out: Path,
    resume: bool,
    init_from: Path | None,
    init_partial: bool,
    fresh: bool,
    dry_run: bool,
    device: str,
    **options: Any,
) -> None:
    """Train a model in a run directory.

    The configuration comes from --config (with --resume: from the run itself); every setting can
    be replaced by its option.
    """
    from vfn.runs.directory import RunFiles

    saved = RunFiles(out).config
    if resume and preset is None:
        if not saved.is_file():
            raise ValueError(f"nothing to resume in {out}; name a --config to start a run there")
        preset = str(saved)
    config = override(configs.load("digits" if preset is None else preset), given(options))
    if dry_run:
        _show(configs.dumps(config).rstrip("\n"))
        return
    from vfn.train import train
    from vfn.train.observers import exit_status

    outcome = train(
        config,
        out,
        resume=resume,
        init_from=init_from,
        init_partial=init_partial,
        fresh=fresh,
        device=device,
    )
    if outcome.signum:
        say(
            f"stopped at step {outcome.step} of {config.train.steps}, checkpoint written; go on "
            f"with: {as_typed('train', '--out', out, '--resume')}"
        )
        sys.exit(exit_status(outcome.signum))
    say(f"{out}: finished {number_of(outcome.step, 'step')}")
    _tell_of_copying(out, config)


def _tell_of_copying(out: Path, config: configs.Config) -> None:
    """Say where a run should have ended, if it has overfitted since."""
    from vfn.runs import RunFiles, loss_curve, overfits_since, read_log

    log = read_log(RunFiles(out).log)
    losses = loss_curve(log, "held_out_loss")
    if (least := overfits_since(loss_curve(log, "loss"), losses)) is None:
        return
    augmented = "" if config.data.augment else ", or anew with --augment 0.12"
    say(
        f"the held-out loss was {losses[least]:.4g} at step {least:,} and is "
        f"{losses[max(losses)]:.4g}: since then the training pictures are learned by heart; train "
        f"for fewer steps{augmented}"
    )


@app.command("distill")
@click.option("--teacher", type=RUN,
              help="run directory or checkpoint file whose EMA is distilled")  # fmt: skip
@click.option("--config", "preset", help="a preset's name or a .toml file  [the method's]")
@click.option("--out", type=RUN, required=True, help="directory")
@click.option("--resume", is_flag=True, help="go on from the newest checkpoint in --out")
@click.option("--fresh", is_flag=True,
              help="begin anew what is there and has no checkpoint that can be read")  # fmt: skip
@click.option("--dry-run", is_flag=True, help="print the resolved configuration and stop")
@device_option
@settings("data", "model", "diffusion", "train", "distill", names=DISTILL_NAMES)
def distill_command(
    teacher: Path | None,
    preset: str | None,
    out: Path,
    resume: bool,
    fresh: bool,
    dry_run: bool,
    device: str,
    **options: Any,
) -> None:
    """Distill a teacher into students that need fewer steps.

    Each stage is a run directory steps-N in --out, for vfn sample, eval and report. Data, network
    and diffusion are the teacher's; --steps are the updates a stage.
    """
    from vfn.train import distill, plan_distillation
    from vfn.train.observers import exit_status

    if dry_run:
        _, config = plan_distillation(teacher, out, preset, resume=resume, **given(options))
        _show(configs.dumps(config).rstrip("\n"))
        return
    outcome = distill(
        teacher, out, preset, resume=resume, fresh=fresh, device=device, **given(options)
    )
    if outcome.signum:
        say(
            f"stopped at step {outcome.step} of the student of "
            f"{number_of(outcome.student_steps, 'step')}, checkpoint written; go on with: "
            f"{as_typed('distill', '--out', out, '--resume')}"
        )
        sys.exit(exit_status(outcome.signum))
    _show(outcome.table())


@app.command("sample")
@click.option("--checkpoint", type=RUN, required=True, help="run directory or checkpoint file")
@click.option("--out", type=PATH, required=True, help="output directory")
@click.option("-n", "--num", type=click.IntRange(1), help="pictures  [10 for each label]")
@click.option("--labels", help="classes, or tags such as Smiling+Male, separated by commas, or "
              "as-data: as often as the training pictures have them, as-data:test: as those held "
              "out  [every class, or some sets of tags that they have]")  # fmt: skip
@click.option("--tags", multiple=True,
              help="tags as in --labels; given twice: every combination of both lists")  # fmt: skip
@click.option("--condition", help="what a model takes beside labels: a folder, .npy, .npz or .csv "
              "file, or dataset:NAME[:split]")  # fmt: skip
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the noise  [0]")
@click.option("--format", "kind", type=Word(OUTPUTS), default="png",
              help="single PNGs with labels.csv, or one file  [png]")  # fmt: skip
@click.option("--grid-image/--no-grid-image", default=True, help="write grid.png  [yes]")
@click.option("--animate/--no-animate", default=True, help="write denoising.webp  [yes]")
@click.option("--ema/--raw", default=True, help="averaged parameters, or those of the last step")
@click.option("--precision", type=click.Choice(["fp32", "bf16"]), default="fp32",
              help="of the network's products  [fp32]")  # fmt: skip
@click.option("--compile", "compiled", is_flag=True, help="torch.compile the network")
@click.option("--fresh", is_flag=True, help="draw anew what is in --out")
@device_option
@click.option("--guidance", type=Listed(float), help="strength w, or several to compare")
@click.option("--sampler", type=Listed(Word(SOLVERS)), help="solver, or several to compare")
@click.option("--steps", "sample_timesteps", type=Listed(int), help="steps, or several numbers")
@click.option("--guide-with", multiple=True, metavar="RUN|FILE|STEP",
              help="weaker network to be led away from, too; several times to compare")  # fmt: skip
@click.option("--guide-weight", type=Listed(float), help="w of --guide-with, or several  [1]")
@settings("sample", names=SAMPLE_NAMES | dict.fromkeys(COMPARED))
def sample_command(
    checkpoint: Path,
    out: Path,
    num: int | None,
    labels: str | None,
    tags: tuple[str, ...],
    condition: str | None,
    seed: int,
    kind: str,
    grid_image: bool,
    animate: bool,
    fresh: bool,
    **options: Any,
) -> None:
    """Sample pictures from a trained model.

    Writes the pictures, grid.png and denoising.webp to --out. Picture i of a seed is the same
    whatever --num, --batch and the number of processes are. The same command again goes on where
    a killed one was. Several values of --guidance, --sampler, --steps, --guide-with or
    --guide-weight give one folder each and sweep.png. Under torchrun each process draws its share.
    """
    from vfn.sampling import as_data, ask, load, variants, write_samples

    opening = {name: options.pop(name) for name in ("device", "ema", "precision", "compiled")}
    compared = {name: options.pop(name) or () for name in COMPARED}
    trained = load(checkpoint, **opening)
    asked: Asked | None
    if asks_as_data(labels) and not tags:
        asked = as_data(trained, num, seed, split_of(labels))
    elif labels is None and not tags:
        asked = None  # those of the condition, if it has some, or what `Trained.draws` takes
    else:
        asked = ask(trained.shape.legend, labels, tags)
    if condition is not None:
        options["condition"] = condition
    draws = variants(trained, compared, num, asked, seed, **given(options))
    write_samples(draws, out, kind, grid_image, animate, fresh)


features_option = click.option("--features", type=Word(EXTRACTORS), default="pixels",
                               help="what pictures are compared by  [pixels]")  # fmt: skip
size_option = click.option("--image-size", "size", type=Listed(int),
                           help="bring pictures of other sizes to height,width, or a square, as "
                           "torch-fidelity does")  # fmt: skip
weights_option = click.option("--weights", type=PATH,
                              help="the features' network  [a checked download]")  # fmt: skip


def _tell(command: click.Command, entries: Mapping[str, Described]) -> None:
    """Put words and what they stand for in place of ``{words}`` in a help text."""
    lines = "\n\n".join(f"{word}: {entry.text}." for word, entry in entries.items())
    command.help = inspect.cleandoc(command.help or "").replace("{words}", lines)


@app.group("eval", invoke_without_command=True)
@click.option("--real", help="real pictures: dataset:NAME[:split], folder, .npz or statistics")
@click.option(
    "--fake", help="pictures to judge: a run, folder (also of vfn sample), .npz or statistics"
)
@click.option("--held-out", help="real pictures never trained on  [dataset's test split]")
@features_option
@weights_option
@click.option("--metrics", type=Listed(Word(METRICS, also=(USUAL,))),
              help=f"what to compute; {USUAL} are those of {', '.join(usual_metrics(model=True))} "
              f"that lack nothing  [{USUAL}]")  # fmt: skip
@click.option(
    "-n", "--num", type=click.IntRange(2), default=1000, help="pictures from a run  [1000]"
)
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the samples  [0]")
@click.option(
    "--labels",
    help="classes or tags asked of a run, as-data or as-data:test  [classes in turn, tags as in "
    "the split that is compared with, or else the one that was trained on]",
)
@size_option
@click.option("--dataset", help="the run's pictures, where they have moved since its training")
@click.option("--condition", help="the pictures beside them, where they have moved")
@click.option("--bpd", is_flag=True, help="the metric bpd too")
@click.option("--bootstrap", type=click.IntRange(0), default=0,
              help="resampled sets for 95 % intervals, 0 or at least 2  [0]")  # fmt: skip
@click.option("--json", "json_path", type=PATH, help="write the figures here")
@click.option("--compare", multiple=True, type=PATH,
              help="instead of judging, a table of such files; once for each")  # fmt: skip
@click.option("--against", default="guidance", help="setting that orders them  [guidance]")
@click.option("--plot", type=PATH, help="picture of the figures compared")
@device_option
@data_dir_option
@settings("sample", names=SAMPLE_NAMES)
@click.pass_context
def eval_command(context: click.Context, **options: Any) -> None:
    """Judge pictures against real ones, by their pixels or by features of a network.

    --metrics takes any of these, separated by commas.

    {words}
    """
    if context.invoked_subcommand:
        refuse_given(context, options, f"goes before no {context.invoked_subcommand}")
        return
    check_job(context)
    if options["compare"]:
        _compare(context, options)
        return
    refuse_given(context, ("against", "plot"), "goes with --compare; leave it out")
    for name in ("real", "fake"):
        if options[name] is None:
            raise click.UsageError(f"Missing option '--{name}'.")
    _judge(context, options)


_tell(eval_command, METRICS)


@_alone
def _compare(context: click.Context, options: dict[str, Any]) -> None:
    """`vfn eval --compare`."""
    others = [name for name in options if name not in ("compare", "against", "plot")]
    refuse_given(context, others, "does not go with --compare; leave it out")
    from vfn.evaluation import compare, read_evaluation, write_plot

    evaluations = {str(path): read_evaluation(path) for path in options["compare"]}
    table = compare(evaluations, options["against"])
    if options["plot"]:
        write_plot(options["plot"], list(evaluations.values()), options["against"])
    click.echo(table)


def _judge(context: click.Context, options: dict[str, Any]) -> None:
    """`vfn eval --real --fake`."""
    names = [p.name for p in context.command.params if p.name in vars(configs.SampleConfig())]
    from vfn.runs.directory import run_of

    drawn = run_of(options["fake"]) is not None
    if not drawn:
        _refuse_drawing(context, options, ("labels", "dataset", "condition", "bpd", *names))
    from vfn.files import check_place

    json_path: Path | None = options["json_path"]
    if json_path:
        check_place(json_path)
    from vfn.evaluation import judge

    metrics = options["metrics"] or (USUAL,)
    result = judge(
        options["real"],
        _draws(options, names) if drawn else options["fake"],
        (*metrics, "bpd") if options["bpd"] else metrics,
        held_out=options["held_out"],
        features=options["features"],
        weights=options["weights"],
        num=options["num"],
        seed=options["seed"],
        bootstrap=options["bootstrap"],
        image_size=options["size"],
        device=options["device"],
        data_dir=options["data_dir"],
    )
    if launch().rank:
        return
    if json_path:  # first: standard output may be closed
        replace(result, command=shlex.join(["vfn", *context.obj])).write(json_path)
        say(f"figures are in {json_path}")
    click.echo(result.table())


def _refuse_drawing(
    context: click.Context, options: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Refuse what only a run heeds, beside pictures; ``num`` where neither side is one."""
    from vfn.runs.directory import run_of

    real, fake = options["real"], options["fake"]
    there = fake.startswith("dataset:") or given_path(fake).exists()
    ways = "leave it out" if there else "there is nothing of that name"
    num = () if run_of(real) else ("num",)
    refuse_given(context, (*num, *names), f"goes with --fake run:DIR, got {fake}; {ways}")


def _draws(options: dict[str, Any], names: list[str]) -> "Draws":
    """The pictures of --fake run:DIR, with the settings of sampling that are given."""
    from vfn.evaluation import own_split
    from vfn.runs.directory import run_of
    from vfn.sampling import load, usual_labels

    run = run_of(options["fake"])
    assert run is not None
    trained = load(run, options["device"])
    if options["dataset"] is not None or options["condition"] is not None:
        trained = trained.with_data(options["dataset"], options["data_dir"], options["condition"])
    num, seed, labels = options["num"], options["seed"], options["labels"]
    chosen = given({name: options[name] for name in names})
    if trained.conditioned:
        return _paired(trained, options, chosen)
    named = asks_as_data(labels)
    if labels is None or named:
        split = split_of(labels) if named else own_split(options["real"], trained)
        labels = usual_labels(trained, num, seed, options["data_dir"], named, split)
    return trained.draws(num, labels, seed, **chosen)


def _paired(trained: "Trained", options: dict[str, Any], chosen: dict[str, Any]) -> "Draws":
    """The pictures of a network that takes more than labels: under the conditions of real ones."""
    from vfn.data import Dataset
    from vfn.evaluation import paired_draws
    from vfn.evaluation.opening import open_side
    from vfn.runs.directory import run_of

    if options["labels"] is not None:
        raise ValueError("this model takes the labels of the real pictures; leave out --labels")
    data, given_size = trained.config.data, options["size"]
    like = None
    if run_of(options["real"]) is None:
        size = None if given_size is None else (given_size[0], given_size[-1])
        side = open_side(options["real"], data, lean=False, size=size).content
        like = side if isinstance(side, Dataset) else None
    return paired_draws(trained, like, options["num"], options["seed"], **chosen)


@eval_command.command("reference")
@click.option("--real", required=True, help="real pictures: dataset:NAME[:split], folder or .npz")
@click.option("--out", required=True, type=PATH, help=".npz file")
@click.option("--run", type=RUN, help="run to be judged with them: prepare dataset:NAME as its "
              "pictures are, and take numbers in its units")  # fmt: skip
@features_option
@weights_option
@size_option
@click.option("--keep/--no-keep", default=True,
              help="keep the features, for more than fid and is  [keep]")  # fmt: skip
@device_option
@data_dir_option
def reference_command(
    real: str,
    out: Path,
    run: Path | None,
    features: str,
    weights: Path | None,
    size: tuple[int, ...] | None,
    keep: bool,
    device: str,
    data_dir: str | None,
) -> None:
    """Store mean, covariance and features of real pictures, as --real of evaluations to come."""
    from vfn.evaluation import store_reference

    stored = store_reference(
        real,
        out,
        features,
        run=run,
        keep=keep,
        weights=weights,
        image_size=size,
        device=device,
        data_dir=data_dir,
    )
    _show(stored.line)


@eval_command.command("nearest")
@click.option("--real", required=True, help="pictures that were trained on, as of vfn eval")
@click.option("--fake", required=True, help="pictures to look at: a run, folder or .npz")
@click.option("--out", required=True, type=PATH, help=".png file")
@click.option("--count", type=click.IntRange(1), default=10, help="pictures that are shown  [10]")
@click.option("--neighbours", type=click.IntRange(1), default=5, help="real ones beside each  [5]")
@click.option(
    "-n", "--num", type=click.IntRange(2), default=1000, help="pictures from a run  [1000]"
)
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the samples  [0]")
@features_option
@weights_option
@size_option
@device_option
@data_dir_option
@click.pass_context
def nearest_command(
    context: click.Context, out: Path, size: tuple[int, ...] | None, **options: Any
) -> None:
    """Draw the pictures that are nearest to real ones, with these beside them.

    Copies of pictures that were trained on are seen there first.
    """
    from vfn.evaluation import nearest_pictures
    from vfn.files import check_place
    from vfn.pictures import save_png
    from vfn.runs.directory import run_of

    if run_of(options["fake"]) is None:
        _refuse_drawing(context, options, () if run_of(options["real"]) else ("seed",))
    if out.suffix != ".png":
        raise ValueError(f"expected --out to end in .png, got {out}")
    check_place(out)
    found = nearest_pictures(image_size=size, **options)
    if launch().rank:
        return
    save_png(out, found.sheet())
    least = found.distances[:, 0].tolist()
    say(f"{len(least)} pictures, {least[0]:.3g} to {least[-1]:.3g} from a real one: {out}")


def format_option(part: What) -> Callable[[Command], Command]:
    """The foreign formats that have an importer of this part; their data sets."""
    words = click.Choice(offering(part)) if part == "config" else Word(FORMATS)
    entries = [FORMATS[word] for word in offering(part) if FORMATS[word].with_dataset]
    names = list(dict.fromkeys(name for entry in entries for name in entry.datasets))
    closed = all(entry.datasets for entry in entries)

    def decorate(command: Command) -> Command:
        kind = click.option("--format", "kind", type=words, default="reference",
                            help=f"whose {part}  [reference]")  # fmt: skip
        dataset = click.option("--dataset", type=click.Choice(names) if closed else str,
                               help="its data set  [the file's]")  # fmt: skip
        return kind(dataset(command))

    return decorate


def _source(source: Path | None, kind: str, dataset: str | None) -> Any:
    """The foreign configuration, for another data set where one is named."""
    entry = FORMATS.find(kind)
    if entry.configured and source is None:
        raise click.UsageError("Missing option '--config'.")
    if entry.configured is False and source is not None:
        raise click.UsageError(f"format {kind} brings its configuration; leave out --config")
    if dataset is None:
        return source
    named = importer(kind, "with_dataset")
    if entry.datasets and dataset not in entry.datasets:
        raise click.UsageError(
            f"format {kind} knows the data sets {', '.join(entry.datasets)}, got {shown(dataset)}"
        )
    return named(source, dataset)


@app.group("import")
def import_group() -> None:
    """Take over configurations and checkpoints of other implementations."""


@import_group.command("config")
@click.argument("source", metavar="JSON", type=PATH)
@click.option("--out", type=PATH, help="TOML file  [standard output]")
@format_option("config")
@_alone
def import_config_command(source: Path, out: Path | None, kind: str, dataset: str | None) -> None:
    """Write the configuration that does what a foreign one says.

    Options that need no place here are listed; those that have none are refused.
    """
    from vfn.files import write_atomic

    text = configs.dumps(importer(kind, "config")(_source(source, kind, dataset)))
    if FORMATS.find(kind).left_out:
        for line in importer(kind, "left_out")(source):
            say(f"left out: {line}")
    if out is None:
        click.echo(text, nl=False)
    else:
        write_atomic(out, text)
        say(f"use it with: {as_typed('train', '--config', out, '--out', 'runs/new')}")


@import_group.command("checkpoint")
@click.argument("file", type=PATH)
@click.option("--config", "source", type=PATH,
              help="the configuration of its run, where FILE does not bring it")  # fmt: skip
@click.option("--out", type=RUN, required=True, help="run directory")
@format_option("checkpoint")
@_alone
def import_checkpoint_command(
    file: Path, source: Path | None, out: Path, kind: str, dataset: str | None
) -> None:
    """Make a run of a foreign checkpoint.

    The run can be sampled, evaluated and trained on. Nothing in FILE is executed.

    {words}
    """
    path = importer(kind, "checkpoint")(file, _source(source, kind, dataset), out)
    say(f"{path}; use it with: {as_typed('sample', '--checkpoint', out, '--out', 'samples')}")


_tell(import_checkpoint_command, {word: FORMATS[word] for word in offering("checkpoint")})


@app.command("info")
@click.argument("target", metavar="RUN|CONFIG")
@click.option("--image", type=Listed(int), help="channels,height,width  [the data set's]")
@click.option("--classes", type=click.IntRange(0), help="labels, with --image  [none]")
@click.option("--teacher", type=RUN,
              help="run or checkpoint file, with the CONFIG of a distillation")  # fmt: skip
@_alone
def info_command(
    target: str, image: tuple[int, ...] | None, classes: int | None, teacher: Path | None
) -> None:
    """Show a network's parameters, operations and memory, and a run's checkpoints.

    RUN is a run directory, a distilled one or a checkpoint file, CONFIG a preset's name or a .toml
    file. Data and network of a distillation are those of its --teacher.
    """
    from vfn.info import given_shape, summary_of

    click.echo(summary_of(target, given_shape(image, classes), teacher))


@app.command("export")
@click.argument("run", type=RUN)
@click.option(
    "--out", type=PATH, help="file, or folder that is empty or not there; not needed with --push"
)
@click.option(
    "--format", "kind", type=Word(EXPORTS), help="what for  [safetensors, hub with --push]"
)
@click.option("--licence", help="of the weights, an identifier such as mit, for the card")
@click.option("--push", metavar="OWNER/NAME", help="upload the folder to the Hugging Face Hub")
@click.option("--sampler", type=Word(SOLVERS), help="of an exported sampler  [the run's]")
@click.option("--steps", "sample_timesteps", type=click.IntRange(1, 10**4),
              help="of an exported sampler  [the run's]")  # fmt: skip
@click.pass_context
@_alone
def export_command(
    context: click.Context,
    run: Path,
    out: Path | None,
    kind: str | None,
    push: str | None,
    **options: Any,
) -> None:
    """Write the EMA parameters of a RUN, checkpoint or exported file for others.

    {words}
    """
    kind = kind or ("safetensors" if push is None else "hub")
    entry = EXPORTS.find(kind)
    if kind in EXPORTS:
        others = [name for name in (*options, "push") if name not in entry.options]
        refuse_given(context, others, f"does not go with --format {kind}; leave it out")
    if out is None and push is None:
        raise click.UsageError("Missing option '--out'.")
    if out is not None and entry.suffix and out.suffix != entry.suffix:
        raise ValueError(f"expected --out to end in {entry.suffix}, got {out}")
    chosen = given(options)
    export = exporter(kind, chosen)
    if push is None:
        say(str(export(run, out, **chosen)))
        return
    from vfn.interop import hub_export

    hub_export.check_push(push)
    with nullcontext(out) if out else TemporaryDirectory() as place:
        folder = Path(place) if out else Path(place) / "exported"
        say(str(export(run, folder, **chosen)))
        say(hub_export.push(folder, push))


_tell(export_command, EXPORTS)


@app.command("ema")
@click.argument("run", type=RUN)
@click.option("--sigma-rel", type=Listed(float), required=True,
              help="lengths of the average, shares of the training: 0.03,0.07")  # fmt: skip
@click.option("--out", type=PATH, help="directory  [RUN/posthoc]")
@click.option("--step", type=click.IntRange(1), help="of the training  [the last snapshot's]")
@click.option("--metrics", "--metric", type=Listed(Word(METRICS)),
              help="judge each by these, with a table and a plot  [none]")  # fmt: skip
@click.option("--real", help="real pictures to judge against  [those of the training]")
@features_option
@weights_option
@click.option("-n", "--num", type=click.IntRange(2), default=1000, help="pictures of each  [1000]")
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the samples  [0]")
@device_option
@data_dir_option
@settings("sample", names=SAMPLE_NAMES)
@click.pass_context
def ema_command(
    context: click.Context,
    run: Path,
    sigma_rel: tuple[float, ...],
    out: Path | None,
    step: int | None,
    metrics: tuple[str, ...] | None,
    **options: Any,
) -> None:
    """Write networks whose average has other lengths, of the snapshots of a RUN.

    RUN was trained with --ema-profiles 0.05,0.10. The files are exported models, for vfn sample and
    eval. With --metrics each is judged, and the figures over sigma_rel come as a table and a plot.
    """
    if metrics is None:
        why = "goes with --metrics; leave it out"
        refuse_given(context, [name for name in options if name != "device"], why)
    from vfn.train import posthoc_ema

    made = posthoc_ema(run, sigma_rel, out, metrics or (), step=step, **given(options))
    _show(made.table())


@app.command("times")
@click.argument("run", type=RUN)
@click.option("--steps", type=int, default=2, help="steps of the sampler, 2 to 16  [2]")
@click.option("--metric", type=Word(METRICS), default="fd", help="whose figure is to be best  [fd]")
@click.option("--real", help="real pictures to judge against  [those of the training]")
@features_option
@weights_option
@click.option(
    "-n", "--num", type=click.IntRange(2), default=1000, help="pictures of a trial  [1000]"
)
@click.option("--seed", type=click.IntRange(0), default=0, help="seed of the samples  [0]")
@click.option("--within", type=float, default=0.02, help="how exact a time is to be  [0.02]")
@device_option
@data_dir_option
@settings("sample", names=SAMPLE_NAMES | dict.fromkeys(("sample_timesteps", "grid", "times")))
def times_command(run: Path, real: str | None, weights: Path | None, **options: Any) -> None:
    """Find where the steps of a few-step RUN should begin.

    The times between 1 and 0 are moved, one after the other, to where a figure of its pictures is
    best. They are fitted to these pictures and may be best for no others, so the figure at the next
    seed is told, too, and that of uniform times. It ends in the words for vfn sample: --steps 2
    --times 1,0.7.
    """
    from vfn.evaluation import best_times

    found = best_times(run, real=real, weights=weights, **given(options))
    _show(found.table())


@app.group("data")
def data_group() -> None:
    """Prepare data sets, and look at them."""


@data_group.command("prepare")
@click.option("--fresh", is_flag=True, help="prepare again what is there")
@config_option
@settings("data", names=DATA_NAMES)
@_alone
def prepare_command(preset: str | None, fresh: bool, **options: Any) -> None:
    """Download a data set and prepare its pictures for training.

    Training does the same on its first use of a data set. Give the options that it will get: other
    sizes, crops and so on are prepared beside each other.
    """
    from vfn.data import prepare

    _show(prepare(_data_settings(preset, options), fresh).summary())


@data_group.command("info")
@config_option
@settings("data", names=DATA_NAMES)
@_alone
def data_info_command(preset: str | None, **options: Any) -> None:
    """Show what is prepared: pictures, labels, what was left out, where it is."""
    from vfn.data import data_home, find_prepared

    chosen = _data_settings(preset, options)
    found = find_prepared(chosen)
    missing = f"{chosen.dataset} is not prepared in {data_home(chosen)}; use vfn data prepare"
    _show(found.summary() if found else missing)


def _data_settings(preset: str | None, options: dict[str, Any]) -> configs.DataConfig:
    return override(configs.load(preset or "digits"), given(options)).data


@app.command("report")
@click.argument("runs", type=RUN, nargs=-1, required=True)
@click.option("--add", multiple=True, type=PATH,
              help="also a folder of vfn sample or a file of vfn eval; once for each")  # fmt: skip
@click.option("--out", type=PATH, help="page of several runs  [compare-B.html in the first]")
@_alone
def report_command(runs: tuple[Path, ...], add: tuple[Path, ...], out: Path | None) -> None:
    """Write report.html and plots for a run directory; of several RUNS one page, side by side.

    Samples, comparisons and evaluations of a run are found in its directory, beside it and in the
    current directory.
    """
    from vfn.report import compare, report

    if len(runs) > 1 and add:
        raise click.UsageError("--add is for the page of one run")
    if len(runs) == 1 and out is not None:
        raise click.UsageError("--out is for the page of several runs")
    click.echo(f"open {compare(runs, out) if len(runs) > 1 else report(runs[0], add)}")


@app.command("demo")
@click.option("--config", "preset", metavar="NAME|FILE",
              help="preset of another data set, such as mnist5k  [digits]")  # fmt: skip
@click.option("--out", type=RUN, default=Path("runs/demo"), help="run directory  [runs/demo]")
@click.option("--steps", type=click.IntRange(1), help="training steps, for a shorter demo")
@click.option("-n", "--num", type=click.IntRange(8), default=1000, help="pictures to judge  [1000]")
@click.option("--sample-timesteps", type=click.IntRange(1), help="steps of sampling, likewise")
def demo_command(
    preset: str | None, out: Path, steps: int | None, num: int, sample_timesteps: int | None
) -> None:
    """Train on handwritten digits, sample, evaluate, report: minutes on a laptop's CPU."""
    from vfn.demo import run_demo

    run_demo(out, steps, num, sample_timesteps, preset)


def _show(text: str) -> None:
    """A result on standard output, of the first process only."""
    if is_shown():
        click.echo(text)


def line_of(error: BaseException) -> str | None:
    r"""What a mistake of the user's, or of the machine, is told as; None for one of the program's.

    Args:
        error: what a command raised.

    Returns:
        one line.

    >>> line_of(ValueError("expected a number, got\na text"))
    'vfn: expected a number, got a text'
    """
    where, text = "vfn", str(error)
    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        where, text = context.command_path if context else where, error.format_message()
    elif isinstance(error, click.Abort | KeyboardInterrupt):
        text = "interrupted"
    elif is_shortage(error):
        text = shortage(error)
    elif not isinstance(error, ValueError | OSError):
        return None
    return printable(" ".join(f"{where}: {text}".split()))


def _share_cores() -> None:
    """Have threads that wait for others sleep after a millisecond, unless the user says otherwise.

    GNU's OpenMP, which hears it when torch is loaded, has them spin for 15 times as long: on cores
    that other jobs use, too, a step of the digits took 6 times as long. Those that sleep at once
    take half as long again on cores of their own.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "20000")


def main() -> None:
    """Run the command line; a mistake of the user's ends in one line and exit code 2.

    With VFN_TRACEBACK=1 in the environment the traceback is shown as well.
    """
    arguments = sys.argv[1:]
    _share_cores()
    try:
        code = app.main(arguments, prog_name="vfn", standalone_mode=False, obj=arguments)
    except click.exceptions.NoArgsIsHelpError as error:
        click.echo(error.ctx.get_help())
        code = 2
    except click.exceptions.Exit as error:
        code = error.exit_code
    except (Exception, KeyboardInterrupt) as error:
        line = line_of(error)
        shown = isinstance(error, Exception) and not isinstance(error, click.ClickException)
        if line is None or (shown and os.environ.get("VFN_TRACEBACK")):
            raise
        click.echo(line, err=True)  # from whichever process that is
        code = 130 if isinstance(error, click.Abort | KeyboardInterrupt) else 2
    sys.exit(code if isinstance(code, int) else 0)
