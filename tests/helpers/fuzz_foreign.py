"""Files of other implementations, damaged and edited."""

import io
import json
from pathlib import Path
from random import Random

import numpy as np
import torch

from tests.helpers import mutations
from tests.helpers.adm import Adm
from tests.helpers.flax_files import flax_bytes, tree_of
from tests.helpers.foreign import Flax, nested
from tests.helpers.fuzz import Subject, of_file, put
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn.interop import export_diffusers, import_config, left_out
from vfn.interop.adm import read_adm
from vfn.interop.adm_settings import FLAGS
from vfn.interop.diffusers_import import read_diffusers
from vfn.interop.flax_file import read_flax
from vfn.interop.reference_checkpoint import read_reference
from vfn.interop.reference_settings import OPTIONS, with_dataset
from vfn.runs import write_checkpoint


def reference(folder: Path) -> Subject:
    given = {section: {key: default for key, (_, default) in options.items()}
             for section, options in OPTIONS.items()}  # fmt: skip
    given["data"] = {"name": "cifar10"}
    given["model"] |= {
        "hid_channels": 32,
        "ch_multipliers": [1, 2],
        "apply_attn": [False, True],
        "head_dim": 32,
    }
    given["diffusion"] |= {"logsnr_schedule": "cosine"}
    path = folder / "reference.json"

    def read() -> None:
        import_config(path)
        left_out(path)
        with_dataset(path, "mnist")

    return of_file(path, json.dumps(given).encode(), mutations.json_file, read)


def reference_checkpoint(folder: Path) -> Subject:
    content = io.BytesIO()
    state = {"in_conv.weight": torch.zeros(4, 1, 3, 3), "in_conv.bias": torch.zeros(4)}
    torch.save({"model": state, "ema": {"shadow": state, "decay": 0.9}, "epoch": 2}, content)
    path = folder / "reference.pt"
    return of_file(path, content.getvalue(), mutations.damaged, lambda: read_reference(path))


def diffusers_folder(folder: Path) -> Subject:
    """What our exporter wrote, with our side file or without."""
    write_checkpoint(folder / "model.safetensors", small_checkpoint(small_config(), SHAPE))
    home = folder / "made"
    export_diffusers(folder / "model.safetensors", home)
    names = ["unet/config.json", "scheduler/scheduler_config.json", "model_index.json",
             "unet/diffusion_pytorch_model.safetensors", "vfn.safetensors"]  # fmt: skip
    contents = {name: (home / name).read_bytes() for name in names}

    def change(rng: Random) -> str:
        for name, content in contents.items():
            put(home / name, content)
        name = rng.choice([*names[:3], *names])
        if name != names[4] and rng.random() < 0.7:
            (home / names[4]).unlink()
        edit = mutations.json_file if name.endswith(".json") else mutations.damaged
        put(home / name, edit(contents[name], rng))
        return name

    read_diffusers(home)
    return Subject(change, lambda: read_diffusers(home))


def adm(folder: Path) -> Subject:
    """A file of ADM and its flags, one of them damaged or edited."""
    given = {key: default for key, (_, default) in FLAGS.items()} | {
        "image_size": 8, "num_channels": 32, "num_res_blocks": 1, "channel_mult": "1",
        "attention_resolutions": "8", "resblock_updown": True,
    }  # fmt: skip
    content = io.BytesIO()
    torch.save(Adm(given).state_dict(), content)
    file, flags = folder / "ema.pt", folder / "flags.json"
    contents = {file: content.getvalue(), flags: json.dumps(given).encode()}

    def change(rng: Random) -> str:
        for path, whole in contents.items():
            put(path, whole)
        path = rng.choice([file, flags, flags])
        edit = mutations.json_file if path is flags else mutations.damaged
        put(path, edit(contents[path], rng))
        return path.name

    put(file, contents[file])
    put(flags, contents[flags])
    read_adm(file, flags)
    return Subject(change, lambda: read_adm(file, flags))


def flax(folder: Path) -> Subject:
    """A file of flax, or the same arrays in an .npz."""
    net = Flax(multipliers=(1,), blocks=1, attends=(False,), out=1)
    net(torch.zeros(1, 1, 8, 8), torch.zeros(1, dtype=torch.float64))
    arrays = net.arrays()
    content = flax_bytes({"step": 3, "params": tree_of(nested(arrays))})
    path, other = folder / "a.msgpack", folder / "a.npz"
    chosen = [path]

    def change(rng: Random) -> str:
        chosen[0] = rng.choice([path, other])
        if chosen[0] is path:
            put(path, mutations.damaged(content, rng))
        else:
            put(other, mutations.npz_file(arrays, rng))
        return chosen[0].name

    def read() -> None:
        read_flax(chosen[0], small_config(embedding_dim=None))

    put(path, content)
    np.savez(other, **arrays)
    read()
    return Subject(change, read)
