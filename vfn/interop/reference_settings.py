"""The JSON configurations of the reference implementation, completed and checked.

Facts about them: sections ``data``, ``train``, ``model`` (``denoise`` in files of its first
versions), ``diffusion``, ``conditional``, ``speedup``; what a file leaves out, or sets to null,
comes from defaults that are not those of the class that gets the value, so ``head_dim`` alone still
meets ``num_heads`` 1. In a configuration that a run saved, ``args`` holds its command line.
"""

import json
from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from vfn.files import few, shortened, shown

Settings = dict[str, dict[str, Any]]
Json = str | PathLike[str] | Mapping[str, Any]

LONGEST = 100  # letters of a wrong value in a message
POSITIVE, WIDTHS = "a positive integer", "a list of positive integers"
BOOLS = "true, false, or a list of them"
# Of every option its kind and its default.
OPTIONS: dict[str, dict[str, tuple[Any, Any]]] = {
    "data": {"root": (str, "~/datasets"), "name": (str, "cifar10")},
    "train": {
        "epochs": (int, None),
        "epoch": (int, 2048),  # so misspelt in its defaults
        "seed": (int, 1234),
        "lr": (float, 2e-4),
        "beta1": (float, 0.9),
        "beta2": (float, 0.999),
        "weight_decay": (float, 0.0),
        "batch_size": (POSITIVE, 128),
        "grad_norm": (float, 1.0),
        "warmup": (int, 5000),
        "use_ema": (bool, True),
        "ema_decay": (float, 0.9999),
        "ckpt_intv": (int, 32),
        "max_ckpts_kept": (int, 1),
        "image_intv": (int, 16),
        "num_save_images": (int, 64),
        "save_rng_state": (bool, True),
    },
    "model": {
        "in_channels": (POSITIVE, 3),
        "out_channels": (POSITIVE, None),
        "hid_channels": (POSITIVE, 256),
        "ch_multipliers": (WIDTHS, [1, 1, 1]),
        "num_res_blocks": (POSITIVE, 3),
        "apply_attn": (BOOLS, [False, True, True]),
        "embedding_dim": (POSITIVE, None),
        "drop_rate": (float, 0.2),
        "num_heads": (POSITIVE, 1),
        "head_dim": (POSITIVE, None),
        "resample_with_res": (bool, True),
        "use_xformers": (bool, False),
    },
    "diffusion": {
        "logsnr_schedule": (str, "legacy"),
        "logsnr_min": (float, -20.0),
        "logsnr_max": (float, 20.0),
        "train_timesteps": (int, 1000),
        "sample_timesteps": (POSITIVE, 256),
        "model_out_type": (str, "eps"),
        "model_var_type": (str, "fixed_large"),
        "intp_frac": (float, 0.0),
        "reweight_type": (str, "snr"),
        "loss_type": (str, "mse"),
        "allow_rescale": (bool, False),
        "x0eps_coef": (bool, False),
    },
    "conditional": {
        "use_cfg": (bool, False),
        "w_guide": (float, 0.0),
        "p_uncond": (float, 0.0),
    },
    "speedup": {
        "cudnn_benchmark": (bool, True),
        "allow_tf32": (bool, False),
        "allow_fp16": (bool, False),
        "allow_bf16": (bool, False),
    },
    # The rest of ``args`` stands in the sections already, or is about files and devices.
    "args": {"use_ddim": (bool, False), "num_accum": (POSITIVE, 1)},
}
# What a file with ``denoise`` leaves out comes from the command line of those versions.
EARLY: Settings = {
    "train": {"epochs": 120, "use_ema": False},
    "model": {"drop_rate": 0.0, "num_heads": None},
    "diffusion": {
        "logsnr_schedule": "cosine",
        "train_timesteps": 0,
        "model_out_type": "both",
        "reweight_type": "truncated_snr",
    },
    "conditional": {"w_guide": 0.1, "p_uncond": 0.1},
}
ALIASES = {"x_0": "x0", "snr_trunc": "truncated_snr", "snr_1plus": "alpha2"}


def read_json(source: Json) -> dict[str, Any]:
    """The content of a JSON file, or a dictionary itself.

    Args:
        source: a file, or its content.

    Returns:
        a new dictionary.

    Raises:
        ValueError: if there is no such file, or it holds no JSON object.

    >>> read_json({"data": {"name": "mnist"}})
    {'data': {'name': 'mnist'}}
    """
    if isinstance(source, Mapping):
        return dict(source)
    try:
        found = json.loads(Path(source).read_text(encoding="utf-8"))
    except OSError as error:
        raise ValueError(f"configuration {source} cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ValueError(f"configuration {source} is not valid JSON: {error}") from None
    if not isinstance(found, dict):
        raise ValueError(f"expected a JSON object in {source}, got {type(found).__name__}")
    return found


def with_dataset(source: Json, name: str | None) -> Json:
    """A reference configuration with another data set; its first versions do not name any.

    Args:
        source: a JSON file, or its content.
        name: a data set that the reference knows; None leaves the source as it is.

    Returns:
        the content with that data set, or the source.

    Raises:
        ValueError: if it cannot be read.

    >>> with_dataset({"data": {"root": "/data"}}, "celeba")
    {'data': {'root': '/data', 'name': 'celeba'}}
    """
    if name is None:
        return source
    given = read_json(source)
    return {**given, "data": {**_section(given, "data"), "name": name}}


def reference_settings(source: Json) -> Settings:
    """Every option of a reference configuration, with its defaults.

    Args:
        source: a JSON file, or its content.

    Returns:
        section -> option -> value; old names and values are replaced by the new ones.

    Raises:
        ValueError: for unknown sections and options and wrong types, all of them at once.

    >>> settings = reference_settings({"model": {"head_dim": 64}, "diffusion": {}})
    >>> settings["model"]["num_heads"], settings["diffusion"]["logsnr_schedule"]
    (1, 'legacy')
    """
    given = read_json(source)
    given.pop("source", None)
    defaults: Settings = {}
    if "denoise" in given:
        defaults = EARLY
        given = _renamed(given)
    faults = [f"unknown section {shortened(str(name))}" for name in given if name not in OPTIONS]
    settings = {}
    for name, options in OPTIONS.items():
        section = _section(given, name)
        if name != "args":
            unknown = [shortened(str(key)) for key in section if key not in options]
            faults += [f"unknown option {name}.{key}" for key in unknown]
        settings[name] = {
            key: _value(section.get(key), defaults.get(name, {}).get(key, default))
            for key, (_, default) in options.items()
        }
        faults += [
            f"expected {name}.{key} to be {_named(kind)}, got {shown(settings[name][key], LONGEST)}"
            for key, (kind, _) in options.items()
            if settings[name][key] is not None and not _is(settings[name][key], kind)
        ]
    if faults:
        where = "configuration" if isinstance(source, Mapping) else str(source)
        told = few(faults, 20, 600, "; ")
        raise ValueError(f"{where} is not one of the reference implementation: {told}")
    return settings


def _renamed(given: dict[str, Any]) -> dict[str, Any]:
    """A configuration of the first versions in the sections of the later ones."""
    model, use_ema = given.pop("denoise"), given.pop("use_ema", None)
    return {**given, "model": model, "train": {"use_ema": use_ema, **_section(given, "train")}}


def _value(given: Any, default: Any) -> Any:
    value = default if given is None else given
    return ALIASES.get(value, value) if isinstance(value, str) else value


def _named(kind: Any) -> str:
    return kind if isinstance(kind, str) else kind.__name__


def unet_options(settings: Settings) -> dict[str, Any]:
    """Arguments of `UNet` that the settings determine: all but those about labels."""
    model = settings["model"]
    outputs = 2 if settings["diffusion"]["model_out_type"] == "both" else 1
    same = ("in_channels", "hid_channels", "ch_multipliers", "num_res_blocks", "apply_attn",
            "embedding_dim", "num_heads", "head_dim", "resample_with_res")  # fmt: skip
    return {
        **{name: model[name] for name in same},
        "out_channels": model["out_channels"] or outputs * model["in_channels"],
        "dropout": model["drop_rate"],
    }


def _section(given: Mapping[str, Any], name: str) -> dict[str, Any]:
    section = given.get(name) or {}
    if not isinstance(section, Mapping):
        raise ValueError(
            f"expected section {name} to be a JSON object, got {shown(section, LONGEST)}"
        )
    return dict(section)


def _is(value: Any, kind: Any) -> bool:
    if kind == POSITIVE:
        return _is(value, int) and value > 0
    if kind == WIDTHS:
        return isinstance(value, list | tuple) and all(_is(item, POSITIVE) for item in value)
    if kind == BOOLS:
        items = value if isinstance(value, list | tuple) else [value]
        return all(isinstance(item, bool) for item in items)
    if type(value) is int and value.bit_length() > 63:
        return False
    kinds = (int, float) if kind is float else kind
    return isinstance(value, kinds) and (kind is bool or not isinstance(value, bool))
