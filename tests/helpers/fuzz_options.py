"""Options of each command, given as nobody means them; the work itself is left out."""

import contextlib
import io
import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import click

from tests.helpers.fuzz import Subject
from tests.helpers.reported import EVALUATION
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn import configs
from vfn.cli import app, line_of
from vfn.data import load_dataset
from vfn.progress import silence
from vfn.runs import RunFiles, write_checkpoint
from vfn.sampling import untrained
from vfn.train.distillation.stages import Distilled
from vfn.train.observers import Outcome

_WORDS = """
    0 -1 1 2 3.5 0.5 1e400 -1e400 nan inf -inf 9223372036854775808 2147483648 0x10 1_000 1e3
    true no null {} [] [[1]] {'a':1} 1,2 1,,2 , -3,5 5,-3 0,4 1,2,3,4 a,b a=b a= =b a=[1,2]
    a=1e400 a=1979-05-27 3,7 all 3+7 "3" "3 3,3 as-data ddim ddim,heun mine:Name os:system
    vfn.nn:UNet math:nothing a.b.c:d.e digits mnist dataset:digits dataset: dataset:digits:x
    run: run:run run:. run none runs/a . .. / /dev/null -- - --out -n @a %s {0} $HOME ~x *
    a.toml a.npz x.safetensors x.png x.json out/x.npz config.toml cpu cuda cuda:9 cuda:-1 meta
    mps gpu auto cpu:0 fd fid,pr pixels inception reference png npz bf16 fp32 time karras
    steps-4
"""
VALUES = [
    "", " ", "a\0b", "a\nb", "\x1b[31m", "é", "\u2028", "\udcff", "a" * 3000, "9" * 5000, "a=\n",
    "1" + "0" * 400, "width=" + "1" * 500, *_WORDS.split(),
]  # fmt: skip
# What is written, or loaded, by the names of parameters; other values of them are never tried.
_PLACES = ("out", "json_path", "plot", "weights")
PLACES = [
     "out", "out/a", "out/b.npz", "x.png", "x.safetensors", "run", "", "a\0b", "a\nb", "\udcff",
     "a" * 300, "x.json/below",
]  # fmt: skip
# What is mostly meant.
USUAL = {
    **dict.fromkeys(("checkpoint", "teacher", "run", "init_from", "target", "fake"), "run"),
    "source": "x.json", "real": "dataset:digits", "compare": "run/metrics.json",
}  # fmt: skip
WANTED = {
    "real": 0.8,
    "fake": 0.8,
    "compare": 0.1,
    "out": 0.8,
}  # how often what is not required is given
# Pictures are drawn by the least that is a drawing, where a command's checks go on behind it.
CONFIG = configs.override(small_config(), {"sample_timesteps": 1, "guidance": 0.0})
TRAINED = untrained(CONFIG, SHAPE)


def commands(group: click.Group = app, words: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    """All commands that do something, by their words."""
    found = []
    for name, command in group.commands.items():
        here = (*words, name)
        if not isinstance(command, click.Group) or command.invoke_without_command:
            found.append(here)
        if isinstance(command, click.Group):
            found += commands(command, here)
    return found


def of_command(words: tuple[str, ...], folder: Path) -> Subject:
    """A command in a folder with a run, whose work is left out."""
    folder.mkdir(parents=True)
    load_dataset("digits")  # with all that is imported, which no case is to be charged with
    with _without_work():
        pass
    run = RunFiles(folder / "run")
    write_checkpoint(run.checkpoint(3), small_checkpoint(CONFIG, SHAPE))
    run.config.write_text(configs.dumps(CONFIG))
    run.metrics.write_text(json.dumps(EVALUATION))
    (folder / "x.json").write_text(json.dumps({"data": {"name": "mnist"}}))
    command: Any = app
    for word in words:
        command = command.commands[word]
    given: list[str] = []

    def change(rng: Random) -> str:
        given[:] = [*words, *_arguments(command, rng)]
        return repr(given)

    return Subject(change, lambda: _called(given, folder))


def _arguments(command: click.Command, rng: Random) -> list[str]:
    """Arguments of which most are what is asked for, in any order."""
    options = [p for p in command.params if isinstance(p, click.Option)]
    words = [
        [_value(parameter, rng)]
        for parameter in command.params
        if isinstance(parameter, click.Argument) and rng.random() < 0.9
    ]
    chosen = [p for p in options if rng.random() < (0.95 if p.required else WANTED.get(p.name, 0))]
    chosen += rng.choices(options, k=rng.choice([0, 1, 1, 2, 3, 6])) if options else []
    for option in chosen:
        flag = rng.choice([*option.opts, *option.secondary_opts])
        if rng.random() < 0.03:
            flag = rng.choice([flag[:-1], flag + "x", flag.upper(), "--nonsense", "-"])
        if option.is_flag or rng.random() < 0.03:
            words.append([flag])
        elif rng.random() < 0.1:
            words.append([f"{flag}={_value(option, rng)}"])
        else:
            words.append([flag, _value(option, rng)])
    rng.shuffle(words)
    return [word for part in words for word in part]


def _value(parameter: click.Parameter, rng: Random) -> str:
    name = str(parameter.name)
    if name in _PLACES:
        return rng.choice(PLACES)
    if name in USUAL and rng.random() < 0.6:
        return USUAL[name]
    kind = getattr(parameter.type, "item", parameter.type)
    known = [*getattr(kind, "choices", ()), *getattr(kind, "table", ())]
    return str(rng.choice(known)) if known and rng.random() < 0.5 else rng.choice(VALUES)


def _called(arguments: list[str], folder: Path) -> None:
    """As `vfn.cli.main` does it: a mistake becomes one line."""
    with contextlib.chdir(folder), _without_work(), silence(), _unheard():
        try:
            app.main(list(arguments), prog_name="vfn", standalone_mode=False, obj=arguments)
        except (click.exceptions.Exit, click.exceptions.NoArgsIsHelpError):
            return
        except Exception as error:
            line = line_of(error)
            if line is None:
                raise
            raise ValueError(line) from None


@contextlib.contextmanager
def _unheard() -> Iterator[None]:
    sink = io.StringIO()
    with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink):
        yield


class _Result:
    """What a job gives, as far as a command looks at it."""

    line = ""

    def table(self) -> str:
        return ""

    def summary(self) -> str:
        return ""

    def write(self, path: Path) -> None:
        """Nothing."""


@contextlib.contextmanager
def _without_work() -> Iterator[None]:
    """In place of what takes long or writes: nothing; what checks settings stays."""
    results = {
        "vfn.train.train": Outcome(4, 0),
        "vfn.train.distill": Distilled(1, 4, 0, []),
        "vfn.train.posthoc_ema": _Result(),
        "vfn.evaluation.best_times": _Result(),
        "vfn.sampling.load": TRAINED,
        "vfn.sampling.write_samples": [],
        "vfn.evaluation.judge": _Result(),
        "vfn.cli.replace": _Result(),
        "vfn.evaluation.store_reference": _Result(),
        "vfn.evaluation.write_plot": None,
        "vfn.info.summary_of": "",
        "vfn.interop.plain_export.export_safetensors": "",
        "vfn.interop.diffusers_export.export_diffusers": "",
        "vfn.interop.hub_export.export_hub": "",
        "vfn.interop.hub_export.push": "",
        "vfn.interop.graph_export.export_onnx": "",
        "vfn.interop.graph_export.export_pt2": "",
        "vfn.data.prepare": _Result(),
        "vfn.data.find_prepared": None,
        "vfn.report.report": "",
        "vfn.report.compare": "",
        "vfn.demo.run_demo": None,
        "vfn.files.write_atomic": None,
        "vfn.interop.reference_run.import_checkpoint": Path("run"),
        "vfn.interop.diffusers_import.import_diffusers": Path("run"),
        "vfn.interop.adm.import_adm": Path("run"),
        "vfn.interop.flax_file.import_flax": Path("run"),
    }
    with contextlib.ExitStack() as stack:
        for name, result in results.items():
            stack.enter_context(patch(name, lambda *_, result=result, **__: result))
        yield
