"""Configurations: the schema, the presets that ship with the package, files in TOML."""

import tomllib
from importlib import resources
from pathlib import Path
from typing import Any

import tomli_w

from vfn.configs.schema import (
    Config,
    DataConfig,
    DiffusionConfig,
    DistillConfig,
    ModelConfig,
    OnBad,
    SampleConfig,
    Split,
    TrainConfig,
)
from vfn.configs.settings import flat_fields, from_tables, override, renewed, to_tables
from vfn.files import given_path, shortened, shown

__all__ = [
    "Config",
    "DataConfig",
    "DiffusionConfig",
    "DistillConfig",
    "ModelConfig",
    "OnBad",
    "SampleConfig",
    "Split",
    "TrainConfig",
    "dumps",
    "flat_fields",
    "load",
    "loads",
    "override",
    "presets",
    "read",
]


def presets() -> list[str]:
    """Names of the configurations that ship with the package.

    Returns:
        names, sorted.

    >>> "digits" in presets()
    True
    """
    files = resources.files(__name__).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load(name: str | Path) -> Config:
    """A preset by name, or a TOML file by path.

    Args:
        name: a preset's name, or a path that ends in ``.toml``.

    Returns:
        Config.

    Raises:
        ValueError: if there is no such preset or file, or its content is not a configuration; all
            faults are named at once.

    >>> load("digits").diffusion.model_out_type
    'v'
    """
    return loads(read(str(name)), str(name))


def read(name: str) -> str:
    """The TOML text of a preset or file.

    Args:
        name: a preset's name, or a path that ends in ``.toml``.

    Returns:
        the text; it is not checked.

    Raises:
        ValueError: if there is no such preset or file, or it is not text in UTF-8.

    >>> read("digits").splitlines()[2]
    '[data]'
    """
    if not name.endswith(".toml"):
        if name not in presets():
            raise ValueError(
                f"unknown config {shown(name)}, expected a preset ({', '.join(presets())}) "
                "or a path to a .toml file"
            )
        return (resources.files(__name__) / f"{name}.toml").read_text(encoding="utf-8")
    path = given_path(name)
    if not path.is_file():
        raise ValueError(f"config file {name} does not exist; presets are {', '.join(presets())}")
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"config file {name} is not text in UTF-8: {error}") from None


def loads(text: str, origin: str = "config", base: Config | None = None) -> Config:
    r"""A configuration from TOML text.

    Args:
        text: sections and fields.
        origin: named in errors.
        base: where the fields that the text leaves out come from; their defaults if None.

    Returns:
        Config.

    Raises:
        ValueError: if it is not TOML, or not a configuration; all faults are named at once.

    >>> loads("[train]\nsteps = 10").train.steps
    10
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and nesting without end
        raise ValueError(f"{origin} is not valid TOML: {shortened(str(error), 200)}") from None
    if base is None:
        return from_tables(tables, origin)
    merged: dict[str, Any] = to_tables(base)
    for section, table in renewed(tables).items():
        known = merged.get(section, {}) if isinstance(table, dict) else {}
        merged[section] = {**known, **table} if isinstance(table, dict) else table
    return from_tables(merged, origin)


def dumps(config: Config) -> str:
    """TOML text that `loads` reads back.

    Args:
        config: the configuration.

    Returns:
        text with every field that is set.

    >>> loads(dumps(load("digits"))) == load("digits")
    True
    """
    return tomli_w.dumps(to_tables(config))
