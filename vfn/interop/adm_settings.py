"""Flags of the scripts of ADM and its relatives, and the published networks by name.

Sources: improved-diffusion (Nichol & Dhariwal 2021, 2102.09672), guided-diffusion (Dhariwal &
Nichol 2021, 2105.05233), consistency_models (Song et al. 2023, 2303.01469): the flags that each
names for its published checkpoints.
"""

from collections.abc import Mapping
from os import PathLike
from pathlib import Path
from typing import Any

from vfn.files import few, read_json, shown
from vfn.runs.foreign import names_foreign_code

Flags = dict[str, Any]
Source = str | PathLike[str] | Mapping[str, Any] | None

WIDTHS = {256: "1,1,2,2,4,4", 128: "1,1,2,3,4", 64: "1,2,3,4", 32: "1,2,2,2"}
IMPROVED: Flags = {
    "num_heads": 4, "num_res_blocks": 3, "num_channels": 128, "attention_resolutions": "16,8",
    "learn_sigma": True, "diffusion_steps": 4000, "noise_schedule": "cosine",
    "use_scale_shift_norm": True,
}  # fmt: skip
GUIDED: Flags = {
    "num_heads": 4, "num_res_blocks": 2, "num_channels": 256, "num_head_channels": 64,
    "attention_resolutions": "32,16,8", "learn_sigma": True, "diffusion_steps": 1000,
    "noise_schedule": "linear", "resblock_updown": True, "use_scale_shift_norm": True,
}  # fmt: skip
LSUN = {**GUIDED, "image_size": 256, "dropout": 0.1}
# The networks of consistency_models take EDM's noise levels and its preconditioning.
PRECONDITIONED: Flags = {
    "num_heads": 4, "attention_resolutions": "32,16,8", "num_head_channels": 64,
    "resblock_updown": True, "learn_sigma": False, "use_new_attention_order": True,
}  # fmt: skip
CM64 = {**PRECONDITIONED, "image_size": 64, "num_channels": 192, "num_res_blocks": 3,
        "class_cond": True, "use_scale_shift_norm": True}  # fmt: skip
CM256 = {**PRECONDITIONED, "image_size": 256, "num_channels": 256, "num_res_blocks": 2,
         "use_scale_shift_norm": False}  # fmt: skip
IMAGENET64 = {**IMPROVED, "image_size": 64}
CIFAR10 = {**IMPROVED, "image_size": 32, "dropout": 0.3}
IMPROVED_LSUN = {**IMPROVED, "image_size": 256, "num_res_blocks": 2, "num_heads": 1,
                 "use_scale_shift_norm": False, "attention_resolutions": "16",
                 "diffusion_steps": 1000, "noise_schedule": "linear",
                 "rescale_timesteps": False}  # fmt: skip

# Checkpoints by their file names without .pt, and the flags they were published with.
PUBLISHED: dict[str, Flags] = {
    "cifar10_uncond_50M_500K": CIFAR10,
    "cifar10_uncond_vlb_50M_500K": CIFAR10,
    "imagenet64_uncond_100M_1500K": IMAGENET64,
    "imagenet64_uncond_vlb_100M_1500K": IMAGENET64,
    "imagenet64_cond_270M_250K": {
        **IMAGENET64, "num_channels": 192, "class_cond": True, "rescale_timesteps": False,
    },
    "lsun_uncond_100M_1200K_bs128": IMPROVED_LSUN,
    "lsun_uncond_100M_2400K_bs64": IMPROVED_LSUN,
    "64x64_diffusion": {
        **GUIDED, "image_size": 64, "num_channels": 192, "num_res_blocks": 3, "dropout": 0.1,
        "class_cond": True, "noise_schedule": "cosine", "use_new_attention_order": True,
    },
    "128x128_diffusion": {
        **GUIDED, "image_size": 128, "num_head_channels": -1, "class_cond": True,
    },
    "256x256_diffusion": {**GUIDED, "image_size": 256, "class_cond": True},
    "256x256_diffusion_uncond": {**GUIDED, "image_size": 256},
    "lsun_bedroom": LSUN,
    "lsun_cat": LSUN,
    "lsun_horse": LSUN,
    "lsun_horse_nodropout": {**LSUN, "dropout": 0.0},
    "edm_imagenet64_ema": {**CM64, "preconditioning": "edm"},
    "cd_imagenet64_l2": {**CM64, "preconditioning": "consistency"},
    "cd_imagenet64_lpips": {**CM64, "preconditioning": "consistency"},
    "ct_imagenet64": {**CM64, "preconditioning": "consistency"},
    "edm_bedroom256_ema": {**CM256, "preconditioning": "edm"},
    "cd_bedroom256_l2": {**CM256, "preconditioning": "consistency"},
    "cd_bedroom256_lpips": {**CM256, "preconditioning": "consistency"},
    "ct_bedroom256": {**CM256, "preconditioning": "consistency"},
    "edm_cat256_ema": {**CM256, "preconditioning": "edm"},
    "cd_cat256_l2": {**CM256, "preconditioning": "consistency"},
    "cd_cat256_lpips": {**CM256, "preconditioning": "consistency"},
    "ct_cat256": {**CM256, "preconditioning": "consistency"},
}  # fmt: skip

# Of every flag its kind and its default; those of training change nothing that is imported.
FLAGS: dict[str, tuple[Any, Any]] = {
    "image_size": (int, 64),
    "in_channels": (int, 3),
    "num_channels": (int, 128),
    "num_res_blocks": (int, 2),
    "channel_mult": (str, ""),
    "num_heads": (int, 4),
    "num_head_channels": (int, -1),
    "num_heads_upsample": (int, -1),
    "attention_resolutions": (str, "16,8"),
    "dropout": (float, 0.0),
    "class_cond": (bool, False),
    "learn_sigma": (bool, False),
    "sigma_small": (bool, False),
    "diffusion_steps": (int, 1000),
    "noise_schedule": (("linear", "cosine"), "linear"),
    "predict_xstart": (bool, False),
    "rescale_timesteps": (bool, True),
    "resblock_updown": (bool, False),
    "use_scale_shift_norm": (bool, True),
    "use_new_attention_order": (bool, False),
    "preconditioning": (("", "edm", "consistency"), ""),
    "dataset": (str, ""),
}
IGNORED = ("use_fp16", "use_checkpoint", "use_kl", "rescale_learned_sigmas", "timestep_respacing",
           "weight_schedule", "attention_type")  # fmt: skip


def adm_flags(source: Source, name: str = "") -> Flags:
    """All flags of a network: published ones by name, or those of a file, with their defaults.

    Args:
        source: a name of `PUBLISHED`, a JSON file of flags, or flags; perhaps with ``published``,
            a name whose flags they replace. None is the network that a file is named after.
        name: that of the file, without its end.

    Returns:
        flags by name.

    Raises:
        ValueError: for an unknown name or flag, or a value of another kind.

    >>> flags = adm_flags("64x64_diffusion")
    >>> flags["num_channels"], flags["noise_schedule"]
    (192, 'cosine')
    """
    given = _given(source, name)
    published = given.pop("published", None)
    if published is not None:
        given = {**_published(published), **given}
    given = {key: value for key, value in given.items() if key not in IGNORED}
    unknown = [str(key) for key in given if key not in FLAGS]
    if unknown:
        raise ValueError(f"unknown flags {few(unknown)}, expected among {', '.join(FLAGS)}")
    flags = {key: given.get(key, default) for key, (_, default) in FLAGS.items()}
    wrong = [f"{key} {shown(flags[key], 40)}" for key, (kind, _) in FLAGS.items()
             if not _is(flags[key], kind)]  # fmt: skip
    if wrong:
        raise ValueError(f"expected flags of their kinds, got {few(wrong, 8, 100)}")
    return flags


def _given(source: Source, name: str) -> Flags:
    if isinstance(source, Mapping):
        return {"published": name, **source} if {*source} <= {"dataset"} else dict(source)
    text = name if source is None else str(source)
    if text in PUBLISHED or source is None or not text.endswith(".json"):
        return {"published": text}
    found = read_json(Path(text))
    if not isinstance(found, dict):
        raise ValueError(f"expected an object of flags in {text}, got {shown(found)}")
    data = found.get("dataset")
    if isinstance(data, str) and names_foreign_code(data):
        raise ValueError(
            f"expected the data set in {text} to be a word or a path, got {shown(data)}, code that "
            "would run; if you trust it, name it with --dataset"
        )
    return found


def _published(name: Any) -> Flags:
    if not isinstance(name, str) or name not in PUBLISHED:
        raise ValueError(
            f"no published network is called {shown(name)}; give --config a .json file of the "
            f"flags of its scripts, or one of {', '.join(PUBLISHED)}"
        )
    return PUBLISHED[name]


def _is(value: Any, kind: Any) -> bool:
    if isinstance(kind, tuple):
        return value in kind
    if kind is float:
        return type(value) in (int, float) and 0 <= value < 1
    return type(value) is kind and (kind is not int or -1 <= value < 2**31)
