"""Runs from folders of diffusers: UNet2DModel, and a scheduler of betas."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from vfn.configs import Config, loads, override
from vfn.configs.schema import SIDE
from vfn.data import Labels
from vfn.data.labels import MOST_NAMES
from vfn.data.standard import DATASETS
from vfn.files import few, given_path, printable, read_json, shortened, shown
from vfn.interop.adopted import (
    UNKNOWN,
    check_free,
    load_pickled,
    load_tensors,
    model_fields,
    network,
    untrained_on,
    write_run,
)
from vfn.interop.betas import KINDS, NAME, betas_schedule
from vfn.interop.diffusers_export import (
    LABEL_LAYER,
    SIDE_FILE,
    SIDE_FORMAT,
    TIMES,
    TYPES,
    scheduler_settings,
)
from vfn.interop.diffusers_network import (
    DEFAULTS,
    config_for_diffusers,
    options_from_diffusers,
    pairings,
    params_from_diffusers,
)
from vfn.interop.matching import plain_tensors
from vfn.model import DataShape, build_model
from vfn.nn.unet import UNet
from vfn.runs import Checkpoint
from vfn.runs.checkpoint import parse_shape, read_whole
from vfn.runs.foreign import foreign_config

WEIGHTS, SCHEDULER, INDEX = "diffusion_pytorch_model", "scheduler_config.json", "model_index.json"
RANGE = {"beta_start": 1e-4, "beta_end": 0.02}
KNOWN_TYPES = {theirs: ours for ours, theirs in TYPES.items()}
# Layers of attention as diffusers called them until 0.14; published networks still do.
EARLIER = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


class Side(NamedTuple):
    """What our own exporter left beside the weights."""

    config: Config
    shape: DataShape
    step: int
    layer: dict[str, Tensor]


def import_diffusers(folder: str | Path, source: Any, out: str | Path) -> Path:
    """Make a run of a folder of diffusers: its weights stand for the average, too.

    A folder that `vfn export` wrote gives back configuration, as far as `foreign_config` lets it,
    classes, step and the very parameters; of others the noise levels become a schedule that is
    exact at their times, and classes get numbers as names.

    Args:
        folder: of a pipeline, with ``unet`` and ``scheduler`` or both in one as DDPM's were
            published; or of ``unet`` alone with ``scheduler`` beside it.
        source: nothing, or ``{"dataset": name}`` of the pictures that it was trained on.
        out: run directory, which must not hold a run.

    Returns:
        the checkpoint's path in the run.

    Raises:
        ValueError: if it cannot be read, is no UNet2DModel that ours can be, has another scheduler,
            or a side file that names code; nothing is written then. Nothing in the folder is
            executed.
        OSError: if ``out`` cannot be written; it is left as it was.

    >>> import_diffusers(Path("nowhere"), None, Path("runs/imported"))
    Traceback (most recent call last):
    ValueError: expected a folder of diffusers with unet/config.json at nowhere
    """
    folder, out = given_path(folder), given_path(out)
    check_free(out)
    return write_run(out, read_diffusers(folder, source))


def with_dataset(_source: Any, name: str) -> dict[str, str]:
    """The name of the pictures that a folder's network was trained on, which it does not tell.

    Returns:
        a source for `import_diffusers`.

    >>> with_dataset(None, "cifar10")
    {'dataset': 'cifar10'}
    """
    return {"dataset": name}


def read_diffusers(folder: Path, source: Any = None) -> Checkpoint:
    """A folder of diffusers as a checkpoint.

    Args:
        folder: as of `import_diffusers`.
        source: likewise.

    Returns:
        Checkpoint.

    Raises:
        ValueError: likewise.
    """
    home, unet = _places(folder)
    given = _object(unet / "config.json")
    if given.get("_class_name", "UNet2DModel") != "UNet2DModel":
        raise ValueError(
            f"expected a UNet2DModel in {printable(str(unet))}, got "
            f"{shown(given['_class_name'])}; other networks of diffusers have no place here"
        )
    options = options_from_diffusers(given)
    _check_channels(given)
    _check_pictures(home)
    side = _side(home)
    state = _weights(unet)
    names, null_row = _classes(home, given, state, side)
    built = {
        **options,
        "in_channels": given.get("in_channels", 3),
        "out_channels": given.get("out_channels", 3),
        "num_classes": len(names),
    }
    net = network(built, state, lambda sketch: params_from_diffusers(state, sketch, null_row))
    params = params_from_diffusers(state, net, null_row)
    if side is not None:
        return _restored(side, home, given, state, params)
    shape = _shape(given, source, names)
    return untrained_on(_config(home, options, source, null_row and bool(names)), shape, params)


def _places(folder: Path) -> tuple[Path, Path]:
    """The folder of the pipeline and that of the network, which may be one."""
    if (folder / "unet" / "config.json").is_file():
        return folder, folder / "unet"
    if (folder / "config.json").is_file():
        whole = any((folder / name).is_file() for name in (INDEX, SCHEDULER))
        return folder if whole else folder.parent, folder
    raise ValueError(
        f"expected a folder of diffusers with unet/config.json at {printable(str(folder))}"
    )


def _scheduler(home: Path) -> Path:
    """The file of the scheduler, which has a folder of its own or none."""
    path = home / "scheduler" / SCHEDULER
    return path if path.is_file() or not (home / SCHEDULER).is_file() else home / SCHEDULER


def _object(path: Path) -> dict[str, Any]:
    found = read_json(path)
    if not isinstance(found, dict):
        raise ValueError(f"expected an object in {printable(str(path))}, got {shown(found)}")
    return found


def _weights(unet: Path) -> dict[str, Tensor]:
    safe, pickled = (unet / f"{WEIGHTS}.{end}" for end in ("safetensors", "bin"))
    if pickled.is_file() and not safe.is_file():
        found = load_pickled(pickled)
        if not isinstance(found, Mapping):
            raise ValueError(f"expected tensors by name in {printable(str(pickled))}")
        return _named(plain_tensors(found, printable(str(pickled))))
    if not safe.is_file():
        raise ValueError(
            f"expected weights in {printable(str(safe))}, which does not exist; weights in several "
            "files have to be saved anew as one"
        )
    return _named(load_tensors(safe))


def _named(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters by the names that they have today."""
    return {
        ".".join(EARLIER.get(part, part) for part in name.split(".")): value
        for name, value in state.items()
    }


def _side(home: Path) -> Side | None:
    path = home / SIDE_FILE
    if not path.is_file():
        return None

    def parse(tensors: dict[str, Tensor], metadata: dict[str, str]) -> Side:
        return Side(
            loads(metadata["config"]),
            parse_shape(metadata["shape"]),
            int(metadata["step"]),
            plain_tensors(tensors),
        )

    side = read_whole(path, (SIDE_FORMAT,), parse, "side file")
    where, remedy = printable(str(path)), "remove it to import what is beside it alone"
    return side._replace(config=foreign_config(side.config, where, remedy))


def _classes(
    home: Path, given: Mapping[str, Any], state: Mapping[str, Tensor], side: Side | None
) -> tuple[tuple[str, ...], bool]:
    """Names of the classes, and whether row 0 of their embedding is 'none'."""
    rows = given.get("num_class_embeds")
    if rows is None:
        return (), True
    if not 1 < rows <= MOST_NAMES:
        raise ValueError(f"expected 2 to {MOST_NAMES} num_class_embeds, got {rows}")
    table = state.get("class_embedding.weight")
    if table is None or table.ndim != 2 or len(table) != rows:
        raise ValueError(f"expected class_embedding.weight of {rows} rows in the weights")
    if side is not None:
        return side.shape.legend.names, True
    index = home / INDEX
    named = _object(index).get("id2label") if index.is_file() else None
    numbers = [str(i) for i in range(1, rows)]
    if isinstance(named, dict) and [*named] == numbers:
        names = tuple(map(str, named.values()))
        if len(set(names)) == len(names) and all(map(_is_name, names)):
            return names, True
    return tuple(map(str, range(rows))), False


def _is_name(text: str) -> bool:
    return text.isprintable() and 0 < len(text) < 200


def _restored(
    side: Side, home: Path, given: Mapping[str, Any], state: Mapping[str, Tensor],
    params: dict[str, Tensor],
) -> Checkpoint:  # fmt: skip
    """The run that our exporter wrote, with the layer of labels it had if that is still true."""
    with torch.device("meta"):
        net = build_model(side.config, side.shape)
    if not isinstance(net, UNet) or _differs(side, home, given, net):
        raise ValueError(
            f"{SIDE_FILE} in {printable(str(home))} is of another network or scheduler than "
            "those beside it; remove it to import these alone"
        )
    layer = side.layer
    if {*layer} == {*LABEL_LAYER}:
        (labels,) = (pairing for pairing in pairings(net) if pairing.ours == LABEL_LAYER)
        weight, bias = (layer[name] for name in LABEL_LAYER)
        fits = weight.ndim == 2 and bias.shape == weight.shape[:1]
        if fits and torch.equal(labels.split(weight, bias)[0], state[labels.theirs[0]]):
            params = {**params, **layer}
    return untrained_on(side.config, side.shape, params, side.step)


def _differs(side: Side, home: Path, given: Mapping[str, Any], net: UNet) -> bool:
    """Whether what stands beside our side file is not what it was written with."""
    expected = config_for_diffusers(net, side.shape.size[1:])
    del expected["dropout"], expected["sample_size"]
    if any(given.get(key, DEFAULTS[key]) != value for key, value in expected.items()):
        return True
    path = _scheduler(home)
    if not path.is_file():
        return False
    settings, found = scheduler_settings(side.config.diffusion), _object(path)
    betas = found.get("trained_betas")
    if found.get("prediction_type") != settings["prediction_type"] or not isinstance(betas, list):
        return True
    return betas != settings["trained_betas"]


def _shape(given: Mapping[str, Any], source: Any, names: tuple[str, ...]) -> DataShape:
    """The shape of the pictures, with the data set's names where these are as many."""
    known = DATASETS.get((source or {}).get("dataset", UNKNOWN))
    size = given.get("sample_size")
    if size is None and known is not None and known.size is not None:
        size = list(known.size)
    sides: list[Any] = size if isinstance(size, list) else [size, size]
    if len(sides) != 2 or not all(type(side) is int and 0 < side <= SIDE for side in sides):
        raise ValueError(
            f"expected sample_size, the side of pictures, got {shown(size)}; name the data set "
            "with --dataset, or write it into unet/config.json"
        )
    legend = Labels(names)
    if names and known is not None and len(known.legend.names) == len(names):
        legend = known.legend
    return DataShape(given.get("in_channels", 3), sides[0], sides[1], legend)


def _config(home: Path, options: Mapping[str, Any], source: Any, drops: bool) -> Config:
    """A configuration for the network and its noise levels; how it was trained is not known."""
    scheduler = _scheduler(home)
    if not scheduler.is_file():
        raise ValueError(
            f"expected {printable(str(scheduler))}, which says what the network predicts and at "
            "which noise levels"
        )
    settings = {
        **model_fields(options),
        **diffusion_from_scheduler(_object(scheduler)),
        "dataset": (source or {}).get("dataset", UNKNOWN),
        "p_uncond": 0.1 if drops else 0.0,
        "sampler": "ddim",
        "sample_timesteps": 50,
        "guidance": 0.0,
    }
    return override(Config(), settings)


def diffusion_from_scheduler(found: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of noise levels, prediction and variance that a scheduler of diffusers has.

    Args:
        found: its configuration, of DDPMScheduler, DDIMScheduler or another of the same betas.

    Returns:
        settings by name.

    Raises:
        ValueError: for another kind of noise levels or prediction, such as EDM's.

    >>> settings = diffusion_from_scheduler({"beta_schedule": "linear"})
    >>> settings["model_out_type"], settings["schedule_options"]["beta_end"]
    ('eps', 0.02)
    """
    steps, kind = found.get("num_train_timesteps", TIMES), found.get("beta_schedule", "linear")
    predicts, betas = found.get("prediction_type", "epsilon"), found.get("trained_betas")
    if not {"beta_schedule", "trained_betas"} & {*found}:
        raise ValueError(
            "expected a scheduler of betas, which says beta_schedule or trained_betas, got "
            f"{shown(found.get('_class_name', 'one of another kind'))}"
        )
    if steps != TIMES:
        raise ValueError(f"expected num_train_timesteps {TIMES}, got {shown(steps)}")
    if predicts not in [*KNOWN_TYPES]:  # a list, since JSON may hold what has no hash
        raise ValueError(
            f"expected prediction_type {', '.join(KNOWN_TYPES)} in the scheduler, got "
            f"{shown(predicts)}"
        )
    if found.get("rescale_betas_zero_snr"):
        raise ValueError(
            "expected noise levels that end with some signal, got rescale_betas_zero_snr"
        )
    if betas is None and kind not in KINDS:
        raise ValueError(
            f"expected beta_schedule {', '.join(KINDS)} or trained_betas, got {shown(kind)}"
        )
    if betas is not None and (not isinstance(betas, list) or len(betas) != TIMES):
        raise ValueError(f"expected {TIMES} trained_betas, got {shown(betas)}")
    options = {"betas": betas} if betas is not None else {"kind": kind}
    if betas is None and kind != "squaredcos_cap_v2":
        options |= {name: found.get(name, usual) for name, usual in RANGE.items()}
    try:
        betas_schedule(**options)
    except TypeError as error:
        raise ValueError(f"expected betas that are numbers ({shortened(str(error))})") from None
    return {
        "model_out_type": KNOWN_TYPES[predicts],
        "logsnr_schedule": NAME,
        "logsnr_min": None,
        "logsnr_max": None,
        "schedule_options": options,
        "var_type": "fixed_large" if found.get("variance_type") == "fixed_large" else "fixed_small",
    }


def _check_pictures(home: Path) -> None:
    """Refuse a pipeline whose network draws what another one makes pictures of."""
    index = home / INDEX
    parts = _object(index) if index.is_file() else {}
    known = ("unet", "scheduler", "id2label")
    others = [name for name in parts if name[:1] != "_" and name not in known]
    others = [name for name in others if isinstance(parts[name], list) and any(parts[name])]
    if others:
        raise ValueError(
            f"expected a pipeline of unet and scheduler alone, got {few(others, 3)} beside them; "
            "what such a network draws are no pictures, and has no place here"
        )


def _check_channels(given: Mapping[str, Any]) -> None:
    one, other = given.get("in_channels", 3), given.get("out_channels", 3)
    if one != other:
        raise ValueError(
            f"expected as many channels out as in, got {other} and {one}; a learned variance, or a "
            "picture given beside the noise, has no place here"
        )
