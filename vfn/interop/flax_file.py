"""Runs from files of the paper's JAX code: flax's ``.msgpack``, or arrays by name in ``.npz``."""

import zipfile
from collections.abc import Mapping
from importlib.util import find_spec
from os import PathLike
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vfn.configs import Config, load, override
from vfn.data import Labels
from vfn.data.labels import MOST_NAMES
from vfn.data.standard import DATASETS
from vfn.files import given_path, printable, shortened, shown
from vfn.interop.adopted import check_free, network, untrained_on, write_run
from vfn.interop.flax import flat_params, params_from_flax
from vfn.model import DataShape, output_channels
from vfn.nn.network import NETWORKS
from vfn.runs import Checkpoint
from vfn.tables import how_to_install

Source = str | PathLike[str] | Config
ARRAY, SCALAR = 1, 3  # flax's kinds of packed values
CHUNKED = "__msgpack_chunked_array__"
PARTS = ("ema_params", "params")  # of a training state, the better one first
MOST_STEPS = 10**12


def import_flax(file: str | Path, source: Source, out: str | Path) -> Path:
    """Make a run of a checkpoint of the paper's JAX code.

    Args:
        file: what flax's ``to_bytes`` or ``save_checkpoint`` wrote, a training state or parameters;
            or an ``.npz`` of arrays named ``conv_in/kernel`` and so on, such as those that orbax
            restores.
        source: configuration in our words that describes network and noise levels: a preset, a
            TOML file, or a Config.
        out: run directory, which must not hold a run.

    Returns:
        the checkpoint's path in the run.

    Raises:
        ValueError: if the file cannot be read, or is of another network; nothing is written then,
            and nothing in the file is executed.
        OSError: if ``out`` cannot be written; it is left as it was.

    >>> import_flax(Path("no.msgpack"), "cifar10_cond", Path("runs/imported"))
    Traceback (most recent call last):
    ValueError: checkpoint no.msgpack does not exist; expected flax's .msgpack, or an .npz of arrays
    """
    file, out = given_path(file), given_path(out)
    check_free(out)
    return write_run(out, read_flax(file, source))


def with_dataset(source: Source, name: str) -> Config:
    """The configuration with another data set.

    Returns:
        Config.

    >>> with_dataset("cifar10_cond", "cats/").data.dataset
    'cats/'
    """
    return override(_config(source), {"dataset": name})


def _config(source: Source) -> Config:
    return source if isinstance(source, Config) else load(str(source))


def read_flax(file: Path, source: Source) -> Checkpoint:
    """A file of the paper's JAX code as a checkpoint.

    Args:
        file: as of `import_flax`.
        source: likewise.

    Returns:
        Checkpoint.

    Raises:
        ValueError: likewise.
    """
    config = _config(source)
    if not NETWORKS.find(config.model.network).sectioned:
        raise ValueError(f"expected a configuration of the unet, got {config.model.network}")
    config = override(config, {"attend_after_resampling": False})
    tree = read_tree(file)
    step = _step(tree.get("step"))
    tree = next((tree[name] for name in PARTS if isinstance(tree.get(name), Mapping)), tree)
    flat = flat_params(tree)
    shape = _shape(config, flat)
    options = {
        **config.model.network_options(),
        "in_channels": shape.channels,
        "out_channels": output_channels(config, shape),
        "num_classes": len(shape.legend.names),
    }
    net = network(options, flat, lambda sketch: params_from_flax(tree, sketch))
    return untrained_on(config, shape, params_from_flax(tree, net), step)


def _step(value: Any) -> int:
    """Steps of the training, where the file has a plausible number of them."""
    if isinstance(value, np.ndarray | np.generic):
        value = value.item() if value.size == 1 else None
    whole = isinstance(value, int) and not isinstance(value, bool)
    return value if whole and 0 <= value < MOST_STEPS else 0


def _shape(config: Config, flat: Mapping[str, torch.Tensor]) -> DataShape:
    """The data's shape: channels and classes as the parameters have them."""
    data, first = config.data, flat.get("conv_in/kernel")
    known = DATASETS.get(data.dataset)
    size = data.image_size or (known.size if known is not None else None)
    if size is None:
        raise ValueError(
            f"expected the size of the pictures of {printable(data.dataset)}; give image_size in "
            "the configuration"
        )
    if first is None or first.ndim != 4:
        raise ValueError("expected conv_in/kernel of 4 dimensions among the parameters")
    height, width = size if len(size) == 2 else (size[0], size[0])
    return DataShape(first.shape[2], height, width, _legend(config, flat.get("class_emb/kernel")))


def _legend(config: Config, kernel: torch.Tensor | None) -> Labels:
    """Names of the classes, of which the embedding may have one more for none."""
    if kernel is None:
        return Labels()
    known = DATASETS.get(config.data.dataset)
    names = known.legend.names if known is not None and not known.legend.tags else ()
    rows = kernel.shape[0] if kernel.ndim == 2 else 0
    if names and rows in (len(names), len(names) + 1):
        return Labels(names)
    if not 0 < rows <= MOST_NAMES:
        raise ValueError(f"expected class_emb/kernel of 1 to {MOST_NAMES} rows, got {rows}")
    return Labels(tuple(map(str, range(rows))))


def read_tree(file: Path) -> dict[str, Any]:
    """The arrays of a file, nested or flat.

    Args:
        file: ``.msgpack`` or whatever flax has called it, or ``.npz``.

    Returns:
        arrays by name.

    Raises:
        ValueError: if it is missing, damaged, or something else; packages are missing.
    """
    name = printable(str(file))
    if not file.is_file():
        raise ValueError(
            f"checkpoint {name} does not exist; expected flax's .msgpack, or an .npz of arrays"
        )
    if file.suffix == ".npz":
        return _arrays(file, name)
    if find_spec("msgpack") is None:
        raise ValueError(
            f"format flax needs msgpack, which is not installed; install it with: "
            f"{how_to_install('flax')}"
        )
    import msgpack

    try:
        found = msgpack.unpackb(
            file.read_bytes(), ext_hook=_unpacked, raw=False, strict_map_key=False
        )
    except Exception as error:  # bytes of any kind can make the reader fail in any way
        raise ValueError(
            f"checkpoint {name} is damaged, or no file of flax ({shortened(str(error))})"
        ) from None
    if not isinstance(found, dict):
        raise ValueError(f"expected parameters by name in {name}, got {shown(found)}")
    return _joined(found)


def _arrays(file: Path, name: str) -> dict[str, Any]:
    try:
        with file.open("rb") as content, np.load(content, allow_pickle=False) as opened:
            return {key: opened[key] for key in opened.files}
    except (ValueError, OSError, KeyError, EOFError, zipfile.BadZipFile, MemoryError) as error:
        raise ValueError(
            f"checkpoint {name} is damaged, or no .npz of plain arrays ({shortened(str(error))})"
        ) from None
    except Exception as error:  # of packed members, too
        raise ValueError(f"checkpoint {name} is damaged ({shortened(str(error))})") from None


def _unpacked(kind: int, content: bytes) -> Any:
    """An array or number as flax packs it: shape, type and bytes."""
    import msgpack

    if kind not in (ARRAY, SCALAR):
        raise ValueError(f"values of kind {kind}, which are no arrays")
    shape, name, values = msgpack.unpackb(content, raw=True)
    text = name.decode()
    if text == "bfloat16":  # the upper half of a float32
        halves = np.frombuffer(values, dtype="<u2").astype(np.uint32) << 16
        array = halves.view(np.float32)
    else:
        array = np.frombuffer(values, dtype=np.dtype(text))
    return array.reshape(shape)


def _joined(tree: Any, depth: int = 0) -> Any:
    """Arrays that were too long for one piece, in one again."""
    if not isinstance(tree, dict) or depth > 100:
        return tree
    if CHUNKED not in tree:
        return {key: _joined(value, depth + 1) for key, value in tree.items()}
    shape, chunks = (tree.get(name) for name in ("shape", "chunks"))
    if not isinstance(shape, dict) or not isinstance(chunks, dict):
        raise ValueError(f"expected shape and chunks of a long array, got {shown(list(tree))}")
    try:
        parts = [np.asarray(chunks[str(i)]).reshape(-1) for i in range(len(chunks))]
        sizes = [int(shape[str(i)]) for i in range(len(shape))]
        return np.concatenate(parts).reshape(sizes)
    except (KeyError, ValueError, TypeError) as error:
        raise ValueError(f"a long array does not fit together ({shortened(str(error))})") from None
