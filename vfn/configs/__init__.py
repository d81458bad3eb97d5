"""Configurations: the schema, the presets that ship with the package, files in TOML."""

import tomllib
from importlib import resources
from pathlib import Path

import tomli_w

from vfn.configs.schema import (
    Config,
    DataConfig,
    DiffusionConfig,
    ModelConfig,
    OnBad,
    SampleConfig,
    Split,
    TrainConfig,
    flat_fields,
    from_tables,
    override,
    to_tables,
)

__all__ = [
    "Config",
    "DataConfig",
    "DiffusionConfig",
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
]


def presets() -> list[str]:
    """Names of the configurations that ship with the package.

    >>> "digits" in presets()
    True
    """
    files = resources.files(__name__).iterdir()
    return sorted(f.name.removesuffix(".toml") for f in files if f.name.endswith(".toml"))


def load(name: str) -> Config:
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
    if not name.endswith(".toml"):
        if name not in presets():
            raise ValueError(
                f"unknown config {name!r}, expected a preset ({', '.join(presets())}) "
                "or a path to a .toml file"
            )
        return loads((resources.files(__name__) / f"{name}.toml").read_text(), name)
    path = Path(name)
    if not path.is_file():
        raise ValueError(f"config file {name} does not exist; presets are {', '.join(presets())}")
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"config file {name} is not text in UTF-8: {error}") from None
    return loads(text, name)


def loads(text: str, origin: str = "config") -> Config:
    """A configuration from TOML text; ``origin`` is named in errors.

    >>> loads("[train]\\nsteps = 10").train.steps
    10
    """
    try:
        tables = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # also numbers and nesting without end
        raise ValueError(f"{origin} is not valid TOML: {error}") from None
    return from_tables(tables, origin)


def dumps(config: Config) -> str:
    """TOML text that `loads` reads back.

    >>> loads(dumps(load("digits"))) == load("digits")
    True
    """
    return tomli_w.dumps(to_tables(config))
