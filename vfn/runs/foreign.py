"""What a configuration of somebody else may name: words of our tables, and a few parts of ours."""

from collections.abc import Iterator
from typing import Any

from vfn.configs import Config
from vfn.configs.schema import OF_A_MACHINE, step_of
from vfn.configs.settings import override, to_tables
from vfn.files import shown
from vfn.runs.directory import HUB
from vfn.tables import is_object_name

# Names by their modules that our importers, or a training of a network that is given, write into
# configurations. They are compared, never imported from here.
OURS = {
    "vfn.nn.unet": ("UNet",),
    "vfn.nn.transformer": ("Transformer",),
    "vfn.interop.varied_unet": ("VariedUNet", "PreconditionedUNet"),
    "vfn.interop.betas": ("betas_schedule",),
}
# Where files are written, and who hears of a training, is for whoever opens it to say.
OF_A_PERSON = (*OF_A_MACHINE, "trackers")


def names_foreign_code(text: str) -> bool:
    """Whether a text would be imported and called where a setting has it, and is no part of ours.

    Args:
        text: any text.

    Returns:
        whether it would; nothing is imported.

    >>> names_foreign_code("vfn.interop.betas:betas_schedule"), names_foreign_code("digits")
    (False, False)
    >>> names_foreign_code("vfn.model:torch.hub.load")
    True
    """
    module, _, name = text.partition(":")
    return is_object_name(text) and name not in OURS.get(module, ())


def foreign_config(config: Config, origin: str, remedy: str) -> Config:
    """A configuration that came with a network of somebody else, once nothing in it runs code.

    Names of code are imported and called, and a weaker network is opened as one that is trusted.
    Paths of pictures stay: they are read as pictures, if they are there.

    Args:
        config: what came.
        origin: where it is from, for the message.
        remedy: what to do about one that is refused, for the message.

    Returns:
        Config, without the settings of `OF_A_PERSON`.

    Raises:
        ValueError: with the first setting that names code outside of our tables, or a file to guide
            with.

    >>> foreign_config(Config(), "hf://me/digits", "leave it") == Config()
    True
    """
    config = override(config, dict.fromkeys(OF_A_PERSON))
    for section, table in to_tables(config).items():
        for key, value in table.items():
            for text in filter(names_foreign_code, _texts(value)):
                raise ValueError(
                    f"expected words of our tables in {origin}, got {section}.{key} "
                    f"{shown(text)}, code that would run; {remedy}"
                )
    guide = config.sample.guide_with
    if guide is not None and step_of(guide) is None and not guide.startswith(HUB):
        raise ValueError(
            f"expected a step or a network on the hub to guide with in {origin}, got "
            f"sample.guide_with {shown(guide)}, a file that would be opened; {remedy}"
        )
    return config


def _texts(value: Any) -> Iterator[str]:
    """All texts in a value of a table of TOML."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _texts(item)
