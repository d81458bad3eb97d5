"""Runs from the .pt files of ADM (guided-diffusion), improved-diffusion and consistency_models."""

import math
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from vfn.configs import Config, override
from vfn.data import Labels
from vfn.data.labels import MOST_NAMES
from vfn.data.standard import DATASETS
from vfn.files import given_path, printable, shown
from vfn.interop.adm_settings import WIDTHS, Flags, Source, adm_flags
from vfn.interop.adopted import (
    UNKNOWN,
    check_free,
    load_pickled,
    model_fields,
    network,
    untrained_on,
    write_run,
)
from vfn.interop.betas import NAME
from vfn.interop.matching import Place, Recipe, fit, places, plain_tensors
from vfn.interop.varied_unet import variations
from vfn.model import DataShape
from vfn.nn.layers import ConvResample
from vfn.nn.unet import UNet
from vfn.runs import Checkpoint

SIGMA_MIN, SIGMA_MAX = 0.002, 80.0
Named = Iterator[tuple[str, Recipe]]


def import_adm(file: str | Path, source: Source, out: str | Path) -> Path:
    """Make a run of a checkpoint of ADM or its relatives.

    Args:
        file: what their training saved: parameters alone, or an average of them.
        source: what its network is like, see `adm_flags`; None for a published one, whose file
            has kept its name.
        out: run directory, which must not hold a run.

    Returns:
        the checkpoint's path in the run.

    Raises:
        ValueError: if the file cannot be read, or is of another network; nothing is written then,
            and nothing in the file is executed.
        OSError: if ``out`` cannot be written; it is left as it was.

    >>> import_adm(Path("mine.pt"), None, Path("runs/imported"))
    Traceback (most recent call last):
    ValueError: no published network is called 'mine'; give --config a .json file of ...
    """
    file, out = given_path(file), given_path(out)
    check_free(out)
    return write_run(out, read_adm(file, source))


def with_dataset(source: Source, name: str) -> dict[str, Any]:
    """Flags with the name of the pictures that a network was trained on.

    Returns:
        a source for `import_adm`.

    >>> with_dataset("lsun_cat", "cats/")
    {'published': 'lsun_cat', 'dataset': 'cats/'}
    """
    if source is None:
        return {"dataset": name}
    if isinstance(source, Mapping):
        return {**source, "dataset": name}
    if str(source).endswith(".json"):
        return {**adm_flags(source), "dataset": name}
    return {"published": str(source), "dataset": name}


def read_adm(file: Path, source: Source = None) -> Checkpoint:
    """A file of ADM or its relatives as a checkpoint.

    Args:
        file: as of `import_adm`.
        source: likewise.

    Returns:
        Checkpoint.

    Raises:
        ValueError: likewise.
    """
    flags = adm_flags(source, file.stem)
    options = options_from_adm(flags)
    found = load_pickled(file, advice="save its parameters anew with torch.save")
    where = f"checkpoint {printable(str(file))}"
    if not isinstance(found, Mapping) or not found:
        raise ValueError(f"expected parameters by name in {where}, got {type(found).__name__}")
    state = plain_tensors(found, where)
    channels = flags["in_channels"]
    built = {
        **options,
        "in_channels": channels,
        "out_channels": (1 + flags["learn_sigma"]) * channels,
        "num_classes": _classes(state, flags, where),
    }
    order = flags["use_new_attention_order"]
    net = network(built, state, lambda sketch: params_from_adm(state, sketch, order))
    params = params_from_adm(state, net, order)
    size = flags["image_size"]
    shape = DataShape(channels, size, size, _legend(net.num_classes, flags["dataset"]))
    return untrained_on(_config(flags, options), shape, params)


def _classes(state: Mapping[str, Tensor], flags: Flags, where: str) -> int:
    if not flags["class_cond"]:
        return 0
    table = state.get("label_emb.weight")
    if table is None or table.ndim != 2 or not 0 < len(table) <= MOST_NAMES:
        raise ValueError(
            f"expected label_emb.weight of 1 to {MOST_NAMES} classes in {where}; is it of a "
            "network without classes?"
        )
    return len(table)


def _legend(count: int, dataset: str) -> Labels:
    """Names of the classes: those of the data set if they are as many, else numbers from 0."""
    known = DATASETS.get(dataset)
    if known is not None and count and len(known.legend.names) == count:
        return known.legend
    return Labels(tuple(map(str, range(count))))


def options_from_adm(flags: Flags) -> dict[str, Any]:
    """The arguments of a network that computes as theirs does.

    Args:
        flags: all of them, of `adm_flags`.

    Returns:
        arguments by name, without those that data and labels determine.

    Raises:
        ValueError: for sizes of no network, or what ours has not.

    >>> options = options_from_adm(adm_flags("cifar10_uncond_50M_500K"))
    >>> options["ch_multipliers"], options["apply_attn"]
    ([1, 2, 2, 2], [False, True, True, False])
    """
    size = flags["image_size"]
    multipliers = _numbers("channel_mult", flags["channel_mult"] or WIDTHS.get(size, ""))
    resolutions = _numbers("attention_resolutions", flags["attention_resolutions"])
    if size < 1 or size % 2 ** (len(multipliers) - 1):
        raise ValueError(f"expected image_size to be a multiple of 2 a level, got {size}")
    heads, width = flags["num_heads"], flags["num_head_channels"]
    if flags["num_heads_upsample"] not in (-1, heads):
        raise ValueError(
            f"expected as many heads on the way up as down, got {flags['num_heads_upsample']} and "
            f"{heads}"
        )
    attends = {size // resolution for resolution in resolutions}
    rescaled = flags["rescale_timesteps"] or flags["preconditioning"]
    scalings = {"boundary": flags["preconditioning"] == "consistency"}
    if flags["preconditioning"] and flags["learn_sigma"]:
        raise ValueError("expected no learn_sigma with preconditioning, whose networks have none")
    return {
        "hid_channels": flags["num_channels"],
        "ch_multipliers": multipliers,
        "num_res_blocks": flags["num_res_blocks"],
        "apply_attn": [2**level in attends for level in range(len(multipliers))],
        "dropout": float(flags["dropout"]),
        "resample_with_res": flags["resblock_updown"],
        "attend_after_resampling": False,
        "norm_eps": 1e-5,
        "cos_first": True,
        "freq_shift": 0.0,
        "scales": flags["use_scale_shift_norm"],
        "padding": 0 if flags["resblock_updown"] else 1,
        "variance": flags["learn_sigma"],
        "time_scale": 1000.0 if rescaled else float(flags["diffusion_steps"]),
        **({"num_heads": heads} if width == -1 else {"head_dim": width}),
        **(scalings if flags["preconditioning"] else {}),
    }


def _numbers(name: str, text: str) -> list[int]:
    parts = text.split(",")
    if not all(p.strip().isascii() and p.strip().isdecimal() and 0 < int(p) < 10**6 for p in parts):
        raise ValueError(
            f"expected {name} to be whole numbers separated by commas, got {shown(text, 40)}"
        )
    return [int(part) for part in parts]


def _config(flags: Flags, options: Mapping[str, Any]) -> Config:
    """Configuration of network and noise levels; how it was trained is left as it is by default."""
    steps = flags["diffusion_steps"]
    settings: dict[str, Any] = {
        **model_fields(options),
        "dataset": flags["dataset"] or UNKNOWN,
        "p_uncond": 0.0,
        "sampler": "ddim",
        "sample_timesteps": 50,
        "guidance": 0.0,
    }
    if flags["preconditioning"]:
        settings |= {
            "logsnr_schedule": "sigmoid",
            "logsnr_min": -2 * math.log(SIGMA_MAX),
            "logsnr_max": -2 * math.log(SIGMA_MIN),
            "model_out_type": "x0",
        }
        if flags["preconditioning"] == "consistency":  # trained on pairs of noise levels
            settings["objective"] = "ect"
        return override(Config(), settings)
    kinds = {
        "cosine": {"kind": "squaredcos_cap_v2"},
        "linear": {"kind": "linear", "beta_start": 0.1 / max(steps, 1),
                   "beta_end": 20 / max(steps, 1)},
    }  # fmt: skip
    settings |= {
        "logsnr_schedule": NAME,
        "schedule_options": {**kinds[flags["noise_schedule"]], "timesteps": steps},
        "model_out_type": "x0" if flags["predict_xstart"] else "eps",
        "learned_variance": flags["learn_sigma"],
        "var_type": _var_type(flags),
        "train_timesteps": steps,
        "reweight_type": "snr",
    }
    return override(Config(), settings)


def _var_type(flags: Flags) -> str:
    """The variance of their ancestral steps, for which sigma_small counts where none is learned."""
    if flags["learn_sigma"]:
        return "learned"
    return "fixed_small" if flags["sigma_small"] else "fixed_large"


def params_from_adm(
    state: Mapping[str, Tensor], model: UNet, new_order: bool = False
) -> dict[str, Tensor]:
    """Translate parameters of ADM's UNet, or a relative's, into those of ``model``.

    Args:
        state: by their names.
        model: a network of `options_from_adm`; it is not changed.
        new_order: queries of all heads come before keys and values; else each head has its own
            three together.

    Returns:
        parameters by our names, float32.

    Raises:
        ValueError: if names or shapes do not fit, or values are no finite numbers.

    >>> from vfn.interop.varied_unet import VariedUNet
    >>> params_from_adm({}, VariedUNet(1, 1, hid_channels=32, ch_multipliers=(1,)))
    Traceback (most recent call last):
    ValueError: expected a checkpoint of the network that the configuration describes: time_embed...
    """
    return fit(model, dict(_layers(model, new_order)), state)


def _layers(model: UNet, new_order: bool) -> Named:
    """Each of our parameters and where it comes from."""
    yield from _layer("time_embed.0", "time_embed.0")
    yield from _layer("time_embed.2", "time_embed.2")
    if model.num_classes:
        rows = "label_emb.weight"
        yield "label_embed.weight", Recipe((rows,), lambda table: table.mT)
        yield "label_embed.bias", Recipe((rows,), lambda table: torch.zeros_like(table[0]))
    yield from _layer("in_conv", "input_blocks.0.0")
    yield from _layer("out_norm", "out.0")
    yield from _layer("out_conv", "out.2")
    projections = []
    for place in places(model):
        theirs, attention = _names(place, model)
        if isinstance(place.block, ConvResample):
            end = "op" if place.part == "down" else "conv"
            yield from _layer(f"{place.name}.conv", f"{theirs}.{end}")
            continue
        ours = f"{place.name}.residual"
        for layer, name in (("norm1", "in_layers.0"), ("conv1", "in_layers.2"),
                            ("norm2", "out_layers.0"), ("conv2", "out_layers.3"),
                            ("skip", "skip_connection")):  # fmt: skip
            yield from _layer(f"{ours}.{layer}", f"{theirs}.{name}")
        projections.append(f"{theirs}.emb_layers.1")
        if place.block.attention is not None:
            maps = _maps(place.block.attention.num_heads, new_order)
            yield from _layer(f"{place.name}.attention.norm", f"{attention}.norm")
            for kind in ("weight", "bias"):
                qkv, out = (f"{attention}.{layer}.{kind}" for layer in ("qkv", "proj_out"))
                yield f"{place.name}.attention.qkv.{kind}", Recipe((qkv,), maps)
                yield f"{place.name}.attention.out.{kind}", Recipe((out,), _flat)
    join = _swapped if variations(model)["scales"] else _stacked
    for kind in ("weight", "bias"):
        yield f"modulation.{kind}", Recipe(tuple(f"{p}.{kind}" for p in projections), join)


def _names(place: Place, model: UNet) -> tuple[str, str]:
    """Their names of a block's residual part and of its attention."""
    if place.part == "middle":
        return f"middle_block.{2 * place.position}", "middle_block.1"
    if place.part == "down":
        block = f"input_blocks.{int(place.name.removeprefix('down.')) + 1}"
        return f"{block}.0", f"{block}.1"
    before = (model.levels - 1 - place.level) * (model.num_res_blocks + 1)
    if not place.resamples:
        block = f"output_blocks.{before + place.position}"
        return f"{block}.0", f"{block}.1"
    plain = model.up[int(place.name.removeprefix("up.")) - 1]
    attends = getattr(plain, "attention", None) is not None
    return f"output_blocks.{before + model.num_res_blocks}.{1 + attends}", ""


def _layer(ours: str, theirs: str) -> Named:
    for kind in ("weight", "bias"):
        yield f"{ours}.{kind}", Recipe((f"{theirs}.{kind}",), lambda value: value)


def _flat(value: Tensor) -> Tensor:
    """The weight of a convolution of one pixel as that of a linear layer."""
    return value.flatten(1) if value.ndim > 1 else value


def _maps(heads: int, new_order: bool) -> Any:
    return _flat if new_order else partial(_by_kind, heads=heads)


def _by_kind(value: Tensor, heads: int) -> Tensor:
    """Maps of each head's q, k and v as all q, then all k, then all v."""
    return rearrange(_flat(value), "(h three d) ... -> (three h d) ...", h=heads, three=3)


def _stacked(*values: Tensor) -> Tensor:
    return torch.cat(values)


def _swapped(*values: Tensor) -> Tensor:
    """Scale before shift in each, to shift before scale."""
    return torch.cat([half for value in values for half in reversed(value.chunk(2))])
