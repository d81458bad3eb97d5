"""Configurations by the names of their settings, and as tables of TOML."""

import dataclasses
import difflib
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from vfn.configs.fields import Section, hints_of, plain_value, told
from vfn.configs.schema import SECTIONS, SHARED, Config, ModelConfig
from vfn.files import shortened, shown

S = TypeVar("S", bound=Section)


def flat_fields(*sections: str) -> dict[str, tuple[dataclasses.Field[Any], Any]]:
    """Field and type hint of every setting in the named sections, by the setting's name.

    Args:
        sections: names of sections.

    Returns:
        the fields in order.

    >>> "guidance" in flat_fields("sample"), "lr" in flat_fields("sample")
    (True, False)
    """
    return {
        f.name: (f, hints_of(SECTIONS[section])[f.name])
        for section in sections
        for f in dataclasses.fields(SECTIONS[section])
    }


# What is an option of the thing behind a word, and goes where another one takes its place.
OPTIONS = {
    "network": ("options", *(set(ModelConfig.__dataclass_fields__) - set(SHARED))),
    "logsnr_schedule": ("schedule_options",),
    "objective": ("objective_options",),
    "reweight_type": ("reweight_options",),
    "time_density": ("time_options",),
    "guidance_rule": ("guidance_options",),
    "method": ("method_options",),
    "sample_timesteps": ("times",),
    "grid": ("times",),
}


def _defaults(cls: type[Section], names: Sequence[str]) -> dict[str, Any]:
    """The defaults of some fields."""
    usual = cls()
    return {name: getattr(usual, name) for name in names}


def override(config: Config, values: Mapping[str, Any]) -> Config:
    """A configuration with some settings replaced, named without their section.

    Args:
        config: the configuration; it is not changed.
        values: new values by name; tables such as ``options`` are merged key by key. With another
            network, weighting or time density the options of the one before are dropped, and with a
            grid the times that were in its place.

    Returns:
        Config.

    Raises:
        ValueError: for unknown names, wrong values and some that would not be used, all of them
            at once.

    >>> from vfn.configs import load
    >>> quick = override(load("digits"), {"steps": 100, "guidance": 1.5})
    >>> quick.train.steps, quick.sample.guidance
    (100, 1.5)
    >>> override(load("digits"), {"lr": -1, "stepz": 9})
    Traceback (most recent call last):
    ValueError: unknown setting stepz, expected steps; expected lr at least 0, got -1.0
    """
    known = list(flat_fields(*SECTIONS))
    faults = [
        f"unknown setting {shortened(k, 40)}, expected {_closest(k, known)}"
        for k in values
        if k not in known
    ]
    changed: dict[str, Any] = {}
    for section, cls in SECTIONS.items():
        old = getattr(config, section)
        mine = {f.name: values[f.name] for f in dataclasses.fields(cls) if f.name in values}
        try:
            changed[section] = changed_section(old, mine)
        except ValueError as error:
            faults.append(str(error))
    if faults:
        raise ValueError(told(faults))
    return Config(**changed)


def changed_section(section: S, values: Mapping[str, Any]) -> S:
    """A section with some fields replaced, as `override` does it for all of them.

    Args:
        section: it is not changed.
        values: new values by the names of its fields.

    Returns:
        a section of the same kind.

    Raises:
        ValueError: for wrong values, all of them at once, and for some that would not be used.

    >>> from vfn.configs import SampleConfig
    >>> apg = SampleConfig(guidance_rule="apg", guidance_options={"norm": 2.0})
    >>> changed_section(apg, {"guidance_options": {"momentum": -0.5}}).guidance_options
    {'norm': 2.0, 'momentum': -0.5}
    >>> changed_section(apg, {"guidance_rule": "plain"}).guidance_options
    {}
    """
    values = {name: plain_value(value) for name, value in values.items()}
    for word, options in OPTIONS.items():
        # A grid that is the one before takes the place of times all the same.
        if word in values and (word == "grid" or values[word] != getattr(section, word)):
            section = dataclasses.replace(section, **_defaults(type(section), options))
    merged = {
        k: {**getattr(section, k), **v} if isinstance(v, dict) else v for k, v in values.items()
    }
    changed = dataclasses.replace(section, **merged)
    if faults := changed.unused([name for name, value in values.items() if value is not None]):
        raise ValueError(told(faults))
    return changed


def from_tables(tables: dict[str, Any], origin: str) -> Config:
    """A configuration from nested tables.

    Args:
        tables: fields by section; the words of earlier versions are understood.
        origin: named in errors.

    Returns:
        Config.

    Raises:
        ValueError: for unknown sections and keys and wrong values, all of them at once.
    """
    tables = renewed(tables)
    faults: list[str] = []
    built: dict[str, Any] = {}
    for name, table in tables.items():
        if name not in SECTIONS:
            faults.append(
                f"unknown section [{shortened(name, 40)}], expected {', '.join(SECTIONS)}"
            )
        elif not isinstance(table, dict):
            faults.append(f"expected [{name}] to be a table, got {shown(table)}")
        else:
            known = [f.name for f in dataclasses.fields(SECTIONS[name])]
            unknown = [key for key in table if key not in known]
            faults += [
                f"unknown key {shortened(key, 40)} in [{name}], expected {_closest(key, known)}"
                for key in unknown
            ]
            try:
                built[name] = SECTIONS[name](**{k: table[k] for k in table if k in known})
            except ValueError as error:
                faults.append(str(error))
    if faults:
        raise ValueError(f"{origin}: {told(faults)}")
    try:
        return Config(**built)
    except ValueError as error:
        raise ValueError(f"{origin}: {error}") from None


def renewed(tables: dict[str, Any]) -> dict[str, Any]:
    """Tables of earlier versions in today's words.

    Args:
        tables: fields by section, as TOML gives them; they are not changed.

    Returns:
        the same in new tables; as given if a section is no table.

    >>> renewed({"train": {"tensorboard": True}})
    {'train': {'trackers': ['tensorboard']}}
    """
    if not all(isinstance(table, dict) for table in tables.values()):
        return tables  # whoever builds it says what is wrong
    today = {name: dict(table) for name, table in tables.items()}
    span = today.get("distill", {}).pop("guidance_range", None)
    if span is not None:
        today.setdefault("model", {}).setdefault("guidance_range", span)
    if today.get("train", {}).pop("tensorboard", False) is True:
        today["train"].setdefault("trackers", ["tensorboard"])
    return today


def to_tables(config: Config) -> dict[str, dict[str, Any]]:
    """Nested tables without the unset values, as TOML can hold them."""
    return {
        section: {
            key: _plain(value) for key, value in table.items() if value is not None and value != {}
        }
        for section, table in dataclasses.asdict(config).items()
    }


def flat_values(config: Config) -> dict[str, Any]:
    """All settings by their names, without their sections, the unset ones too."""
    sections = dataclasses.asdict(config).values()
    return {name: value for section in sections for name, value in section.items()}


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value


def _closest(key: str, known: list[str]) -> str:
    return " or ".join(difflib.get_close_matches(key, known, n=2)) or "one of " + ", ".join(known)
