"""Options of commands, made of the configuration's fields and of tables, without torch."""

import dataclasses
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import click
from click.shell_completion import CompletionItem

from vfn.configs.fields import plain_hint
from vfn.configs.schema import OF_A_MACHINE
from vfn.configs.settings import flat_fields
from vfn.data.standard import DATASETS
from vfn.files import shown
from vfn.launch import launch
from vfn.tables import FORM, Table
from vfn.train.distillation.methods import METHODS
from vfn.train.trackers import TRACKERS

Command = Callable[..., Any]
_OWN = {"device", *OF_A_MACHINE}  # what each process of a job may have of its own
# Fields whose words stand in a table of a room to the right of the configuration.
SHORTER = {"trackers": ("track",)}  # other flags of a field
TABLES: dict[str, Table[Any]] = {"dataset": DATASETS, "trackers": TRACKERS, "method": METHODS}
# Fields that are tables of their own take one NAME=VALUE at a time.
PAIRS = {
    "options": "network-option",
    "schedule_options": "schedule-option",
    "objective_options": "objective-option",
    "reweight_options": "reweight-option",
    "time_options": "time-option",
    "guidance_options": "guidance-option",
    "method_options": "method-option",
}


class Word(click.ParamType[str]):
    """A word of a table, or an outside name where the table is open.

    Args:
        table: gives the words.
        path: a path will do as well; what is given is checked when it is used.
        also: other words that will do.
    """

    name = "word"

    def __init__(self, table: Table[Any], path: bool = False, also: tuple[str, ...] = ()) -> None:
        self.table, self.path, self.also = table, path, also

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str:
        """The words, as help texts show them."""
        del param, ctx
        others = (["PATH"] if self.path else []) + ([FORM] if self.table.is_open else [])
        return f"[{'|'.join([*self.also, *self.table, *others])}]"

    def convert(self, value: Any, param: Any, ctx: Any) -> str:
        """The word, checked."""
        if not self.path and value not in self.also:
            try:
                self.table.check(value)
            except ValueError as error:
                self.fail(str(error), param, ctx)
        return str(value)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """The words that begin so, for the shell."""
        del ctx, param
        words = dict.fromkeys(self.also, "") | {w: entry.text for w, entry in self.table.items()}
        return [
            CompletionItem(word, help=text)
            for word, text in words.items()
            if word.startswith(incomplete)
        ]


class GivenPath(click.ParamType[Path]):
    """A path.

    Args:
        read: makes it of what is given; what is there is looked at when it is used.
    """

    name = "path"

    def __init__(self, read: Callable[[Any], Path]) -> None:
        self.read = read

    def convert(self, value: Any, param: Any, ctx: Any) -> Path:
        """The path, which has to have a name."""
        try:
            return self.read(value)
        except ValueError as error:
            self.fail(str(error), param, ctx)

    def shell_complete(
        self, ctx: click.Context, param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        """Paths, which the shell knows itself."""
        del ctx, param
        return [CompletionItem(incomplete, type="file")]


class Listed(click.ParamType[tuple[Any, ...]]):
    """Values separated by commas.

    Args:
        item: the type of one of them, as click knows it.
    """

    name = "a,b,..."

    def __init__(self, item: Any) -> None:
        self.item = click.types.convert_type(click.BOOL if item is bool else item)

    def get_metavar(self, param: click.Parameter, ctx: click.Context) -> str | None:
        """What one value may be, as help texts show it."""
        one = self.item.get_metavar(param, ctx)
        return f"{one},..." if one else None

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[Any, ...]:
        """The values."""
        if isinstance(value, tuple):
            return value
        return tuple(self.item.convert(part.strip(), param, ctx) for part in value.split(","))


class Pair(click.ParamType[tuple[str, Any]]):
    """NAME=VALUE; VALUE is a number, true, false or a list as TOML has them, and else a text."""

    name = "NAME=VALUE"

    def convert(self, value: Any, param: Any, ctx: Any) -> tuple[str, Any]:
        """Name and value."""
        if isinstance(value, tuple):
            return value
        name, equals, text = value.partition("=")
        if not equals or not name.isidentifier():
            self.fail(f"expected NAME=VALUE, got {shown(value)}", param, ctx)
        try:
            return name, tomllib.loads(f"value = {text}")["value"]
        except tomllib.TOMLDecodeError:
            return name, text


def meaning(name: str, field: "dataclasses.Field[Any]") -> str:
    """What a field means, with the words that it takes, for documents.

    Args:
        name: of the field.
        field: of the configuration.

    Returns:
        text.

    >>> fields = flat_fields("sample")
    >>> meaning("eta", fields["eta"][0])
    'share of new noise in a DDIM step'
    """
    table = TABLES.get(name) or field.metadata["table"]
    text: str = field.metadata["help"]
    return text if table is None else f"{text}: {', '.join(table)}"


def option(name: str, flag: str | None = None) -> Callable[[Command], Command]:
    """The option of one field of the configuration.

    Args:
        name: of the field.
        flag: of the option, if it is another.

    Returns:
        decorator.
    """
    field, hint = _FIELDS[name]
    text = field.metadata["help"]
    if name in PAIRS:
        return click.option(f"--{PAIRS[name]}", name, type=Pair(), multiple=True, help=text)
    kind = _type(name, field, hint)
    flags = [f"--{each.replace('_', '-')}" for each in (flag or name, *SHORTER.get(name, ()))]
    return click.option(*flags, name, type=kind, help=text)


def settings(
    *sections: str, names: Mapping[str, str | None] | None = None
) -> Callable[[Command], Command]:
    """An option for every field of some sections of the configuration; unset ones are None.

    Args:
        sections: their names.
        names: other flags by field; None leaves a field out.

    Returns:
        decorator.
    """

    def decorate(command: Command) -> Command:
        for name in reversed(flat_fields(*sections)):
            flag = (names or {}).get(name, name)
            if flag is not None:
                command = option(name, flag)(command)
        return command

    return decorate


def given(options: Mapping[str, Any]) -> dict[str, Any]:
    """The options that a person has set; pairs become a table.

    Args:
        options: values by name, None or no pairs where nothing is set.

    Returns:
        values by name.

    >>> given({"lr": None, "options": (("depth", 2),)})
    {'options': {'depth': 2}}
    """
    found = {name: value for name, value in options.items() if value is not None}
    pairs = {name: dict(found.pop(name)) for name in PAIRS if name in found}
    return found | {name: values for name, values in pairs.items() if values}


def check_job(context: click.Context) -> None:
    """Refuse to begin where the processes of one job were given different arguments.

    Args:
        context: of the command; of several processes each has to come here.

    Raises:
        ValueError: on every process; or for an environment that does not say which one this is.
        TimeoutError: if a process does not come.
    """
    if launch().size > 1:
        from vfn.distributed import check_alike, processes

        given = {name: value for name, value in context.params.items() if name not in _OWN}
        with processes("cpu") as world:
            check_alike({"command": context.command_path, **given}, world)


class Joint(click.Command):
    """A command that all processes of a job begin alike or not at all."""

    def invoke(self, ctx: click.Context) -> Any:
        """Compare, and go on."""
        check_job(ctx)
        return super().invoke(ctx)


class JointGroup(click.Group):
    """A group of such commands."""

    command_class = Joint
    group_class = type


def refuse_given(context: click.Context, names: Iterable[str], why: str) -> None:
    """Refuse options that would be ignored.

    Args:
        context: of the command.
        names: parameters that must not be given on the command line.
        why: the end of the message, after the option's name.

    Raises:
        click.UsageError: for the first that is.
    """
    flags = {p.name: max(p.opts, key=len) for p in context.command.params}
    for name in names:
        if context.get_parameter_source(name) == click.core.ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{flags[name]} {why}", context)


def _type(name: str, field: "dataclasses.Field[Any]", hint: Any) -> Any:
    """What click calls the type of a field."""
    hint, _ = plain_hint(hint)
    table = TABLES.get(name) or field.metadata["table"]
    if table is not None:
        word = Word(table, path=name == "dataset")
        return Listed(word) if get_origin(hint) is tuple else word
    if get_origin(hint) is Literal:
        return click.Choice(get_args(hint))
    if get_origin(hint) is tuple:
        return Listed(get_args(hint)[0])
    return hint


_FIELDS = flat_fields("data", "model", "diffusion", "train", "sample", "distill")
