"""Configurations of the reference implementation in the words of this library."""

import json
from typing import Any

from vfn.configs import load
from vfn.configs.schema import Config
from vfn.configs.settings import from_tables, to_tables
from vfn.data.standard import DATASETS, Standard
from vfn.files import few, shortened, shown
from vfn.interop.formats import FORMATS
from vfn.interop.reference_settings import Json, Settings, read_json, reference_settings

# Options that do not change what is computed: files, devices, and two ways to write one formula.
WITHOUT_EFFECT = {
    "source": "a remark",
    "data.root": "where the data are",
    "train.num_save_images": "previews show every class",
    "train.save_rng_state": "a run always resumes exactly",
    "model.use_xformers": "both layouts of attention are one function",
    "diffusion.x0eps_coef": "both forms of the posterior mean are one function",
    "speedup": "settings of a device",
    "args": "all but use_ddim and num_accum stand in the other sections",
}

# Of [diffusion]: what the reference knows; this library has more, and takes names of modules.
WORDS = {
    "logsnr_schedule": ("cosine", "linear", "sigmoid", "legacy"),
    "model_out_type": ("x0", "eps", "v", "both"),
    "reweight_type": ("constant", "snr", "truncated_snr", "alpha2"),
}


def reference_data(settings: Settings) -> Standard:
    """The data set that the reference's settings name, as the table of data sets knows it.

    Args:
        settings: the reference's, completed.

    Returns:
        the entry of the table.

    Raises:
        ValueError: for one that the reference does not know.

    >>> reference_data(reference_settings({"data": {"name": "mnist"}})).size
    (32, 32)
    """
    name, known = settings["data"]["name"], FORMATS["reference"].datasets
    if name not in known:
        raise ValueError(
            f"unknown data set {shown(name)} in data.name, expected one of {', '.join(known)}"
        )
    return DATASETS[name]


def import_config(source: Json) -> Config:
    """The configuration of this library that does what one of the reference says.

    Epochs become steps. Without ``use_ema`` the average follows the parameters. The reference
    samples with its ancestral steps unless its command line asks for DDIM.

    Args:
        source: a JSON file, or its content.

    Returns:
        Config.

    Raises:
        ValueError: if it cannot be read; for settings that have no counterpart here, each by its
            name; for values that make no configuration.

    >>> config = import_config({"train": {"epochs": 2}, "args": {"use_ddim": True}})
    >>> config.train.steps, config.sample.sampler, config.diffusion.model_out_type
    (780, 'ddim', 'eps')
    """
    settings = reference_settings(source)
    faults = _without_counterpart(settings, reference_data(settings))
    if faults:
        raise ValueError(f"configuration: {few(faults, 20, 600, '; ')}")
    tables = {
        "data": _data(settings),
        "model": _model(settings),
        "diffusion": _diffusion(settings),
        "train": _train(settings),
        "sample": _sample(settings),
    }
    return from_tables(tables, "configuration")


def left_out(source: Json) -> list[str]:
    """Options of a reference configuration that need no place here, each with the reason.

    Args:
        source: a JSON file, or its content.

    Returns:
        a line for each.

    Raises:
        ValueError: if it cannot be read.

    >>> left_out({"data": {"root": "/data", "name": "mnist"}})
    ['data.root: where the data are']
    """
    given = read_json(source)
    names = {*given, *(f"{s}.{key}" for s, t in given.items() if isinstance(t, dict) for key in t)}
    return [f"{name}: {reason}" for name, reason in WITHOUT_EFFECT.items() if name in names]


def _without_counterpart(settings: Settings, data: Standard) -> list[str]:
    """What the settings ask for that this library has no place for."""
    model, diffusion, train = settings["model"], settings["diffusion"], settings["train"]
    variance = diffusion["model_var_type"]
    learned = variance == "learned"
    assert data.channels is not None
    outputs = data.channels * ((2 if diffusion["model_out_type"] == "both" else 1) + learned)
    accumulate = settings["args"]["num_accum"]
    wanted = {
        "model.in_channels": (model["in_channels"] == data.channels, data.channels),
        "model.out_channels": (model["out_channels"] in (None, outputs), outputs),
        "diffusion.loss_type": (
            diffusion["loss_type"] == "kl" or not learned,
            "kl with model_var_type learned, as the reference wants it",
        ),
        "diffusion.model_var_type": (
            diffusion["loss_type"] != "kl" or learned or variance == "fixed_small",
            "fixed_small or learned with loss_type kl",
        ),
        "diffusion.allow_rescale": (
            not diffusion["allow_rescale"],
            "false, as the network takes the time of its schedule",
        ),
        "train.max_ckpts_kept": (train["max_ckpts_kept"] >= 1, "at least 1"),
        "train.batch_size": (
            train["batch_size"] % accumulate == 0,
            f"a multiple of args.num_accum {accumulate}",
        ),
    }
    unknown = [
        f"expected {name} to be one of {', '.join(words)}, got {shortened(repr(diffusion[name]))}"
        for name, words in WORDS.items()
        if diffusion[name] not in words
    ]
    return unknown + [
        f"expected {name} to be {text}, got {_json(settings, name)}"
        for name, (fits, text) in wanted.items()
        if not fits
    ]


def _json(settings: Settings, name: str) -> str:
    section, _, key = name.partition(".")
    return json.dumps(settings[section][key])


def _data(settings: Settings) -> dict[str, Any]:
    """Size, cut, mirroring and split of the pictures are those of the data set's preset."""
    name: str = settings["data"]["name"]
    preset = "cifar10_uncond" if name == "cifar10" else name
    return to_tables(load(preset))["data"] | {"conditional": settings["conditional"]["use_cfg"]}


def _model(settings: Settings) -> dict[str, Any]:
    model = settings["model"]
    attention = model["apply_attn"]
    if isinstance(attention, bool):
        attention = [attention] * len(model["ch_multipliers"])
    same = ("hid_channels", "num_res_blocks", "embedding_dim", "num_heads", "head_dim",
            "resample_with_res")  # fmt: skip
    return {
        **{name: model[name] for name in same},
        "ch_multipliers": tuple(model["ch_multipliers"]),
        "apply_attn": tuple(attention),
        "dropout": model["drop_rate"],
    }


def _diffusion(settings: Settings) -> dict[str, Any]:
    diffusion = settings["diffusion"]
    same = ["logsnr_schedule", "model_out_type", "loss_type", "reweight_type"]
    if diffusion["logsnr_schedule"] != "legacy":  # which has no limits to set
        same += ["logsnr_min", "logsnr_max"]
    return {
        **{name: diffusion[name] for name in same},
        "learned_variance": diffusion["model_var_type"] == "learned",
        # Its bound is one of the steps of sampling.
        "train_timesteps": diffusion[
            "sample_timesteps" if diffusion["loss_type"] == "kl" else "train_timesteps"
        ],
        "p_uncond": settings["conditional"]["p_uncond"],
    }


def _train(settings: Settings) -> dict[str, Any]:
    train, accumulate = settings["train"], settings["args"]["num_accum"]
    epochs = train["epoch"] if train["epochs"] is None else train["epochs"]
    steps = steps_per_epoch(settings)
    same = ("batch_size", "lr", "warmup", "beta1", "beta2", "weight_decay", "grad_norm", "seed")
    return {
        **{name: train[name] for name in same},
        "steps": round(epochs * steps),
        "accumulate": accumulate,
        "ema_decay": train["ema_decay"] if train["use_ema"] else 0.0,
        "checkpoint_every": round(train["ckpt_intv"] * steps),
        "max_checkpoints": train["max_ckpts_kept"],
        "preview_every": round(train["image_intv"] * steps),
    }


def steps_per_epoch(settings: Settings) -> float:
    """Optimizer steps of the reference in one pass over its data.

    Every micro-batch is full, and steps go on over the end of an epoch.

    Args:
        settings: the reference's, completed.

    Returns:
        steps, not a whole number where the micro-batches of an epoch do not divide.
    """
    pictures, accumulate = reference_data(settings).pictures, settings["args"]["num_accum"]
    assert pictures is not None
    micro_batch = settings["train"]["batch_size"] // accumulate
    return pictures // micro_batch / accumulate


def _sample(settings: Settings) -> dict[str, Any]:
    diffusion, conditional = settings["diffusion"], settings["conditional"]
    return {
        "sampler": "ddim" if settings["args"]["use_ddim"] else "ancestral",
        "sample_timesteps": diffusion["sample_timesteps"],
        "guidance": conditional["w_guide"] if conditional["use_cfg"] else 0.0,
        "var_type": diffusion["model_var_type"],
        "intp_frac": diffusion["intp_frac"],
    }
