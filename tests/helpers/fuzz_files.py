"""What is read from files, each as a true example and what a person does with it."""

import io
import json
import tarfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save

from tests.helpers import mutations
from tests.helpers.adm import Adm
from tests.helpers.flax_files import flax_bytes, tree_of
from tests.helpers.foreign import Flax, nested
from tests.helpers.fuzz import Subject
from tests.helpers.reported import EVALUATION
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn import configs
from vfn.configs import DataConfig
from vfn.configs.settings import to_tables
from vfn.data import prepare, read_pictures
from vfn.data.cache import open_cache
from vfn.data.dataset import Dataset
from vfn.data.given import Vector
from vfn.evaluation import PIXELS, compare, read_evaluation
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.features import compute_statistics, read_statistics, save_statistics
from vfn.evaluation.sides import Sides
from vfn.interop import export_diffusers, import_config, left_out
from vfn.interop.adm import read_adm
from vfn.interop.adm_settings import FLAGS
from vfn.interop.diffusers_import import read_diffusers
from vfn.interop.flax_file import read_flax
from vfn.interop.reference_checkpoint import read_reference
from vfn.interop.reference_settings import OPTIONS, with_dataset
from vfn.model import DataShape
from vfn.progress import silence
from vfn.report.read import read_run
from vfn.runs import (
    RunFiles,
    digest,
    export_model,
    find_checkpoint,
    load_checkpoint,
    locked,
    log_lines,
    read_pictured,
    read_stages,
    seconds_until,
    write_checkpoint,
)
from vfn.sampling import load
from vfn.sampling.condition import open_condition
from vfn.sampling.output import open_output
from vfn.sampling.provenance import (
    RECORD,
    check_own,
    check_record,
    read_record,
)
from vfn.train.distillation.stages import stage_table
from vfn.train.distillation.teachers import Teachers, find_teacher, keep_teachers

Change = Callable[[bytes, Random], bytes]


def put(path: Path, content: bytes) -> None:
    """Write a new file: what is mapped to memory of the one before must not be cut."""
    path.unlink(missing_ok=True)
    path.write_bytes(content)


def of_file(path: Path, content: bytes, change: Change, read: Callable[[], object]) -> Subject:
    """A subject of one file."""

    def changed(rng: Random) -> str:
        put(path, change(content, rng))
        return path.name

    put(path, content)
    read()  # what is damaged below was good
    return Subject(changed, read)


def run_directory(folder: Path) -> RunFiles:
    (folder / "config.toml").write_text(configs.dumps(small_config()))
    return RunFiles(folder)


def log(folder: Path) -> Subject:
    run = run_directory(folder)
    lines = [
        {"step": 1, "loss": 0.5, "loss_by_logsnr": [0.1, None, 2.0], "grad_norm": 1.0, "lr": 1e-3,
         "skipped": 0, "images_per_s": 10.5, "memory_mib": 100.0, "seconds": 2.5},
        {"step": 2, "held_out_loss": 0.25},
        {"step": 2, "frechet_distance": 3.5, "precision": 0.5, "recall": None},
    ]  # fmt: skip
    content = "".join(json.dumps(line) + "\n" for line in lines).encode()

    def read() -> None:
        log_lines(run.log)
        seconds_until(run.log, 10)
        read_run(folder)

    return of_file(run.log, content, mutations.lines_file, read)


def metrics(folder: Path) -> Subject:
    run = run_directory(folder)

    def read() -> None:
        found = read_evaluation(run.metrics)
        found.table()
        compare({"a": found}, "guidance")
        found.write(folder / "again.json")
        read_evaluation(folder / "again.json")
        read_run(folder)

    content = json.dumps(EVALUATION).encode()
    return of_file(run.metrics, content, mutations.json_file, read)


def settings(folder: Path) -> Subject:
    record = {"seed": 0, "num": 4, "labels": ["0", "1"], "format": "png", "step": 3,
              "parameters": "ema", "sha256": "ab", "precision": "fp32", "version": "0.1.0",
              "sampler": "ddim", "guidance": 0.5, "guidance_interval": [-3.0, 5.0]}  # fmt: skip

    def read() -> None:
        read_record(folder)
        check_own(folder)
        check_record(open_output("png", folder, 4), folder, record)

    return of_file(folder / RECORD, json.dumps(record).encode(), mutations.json_file, read)


def commands(folder: Path) -> Subject:
    run = run_directory(folder)
    lines = ["vfn train --out runs/a", "vfn sample --checkpoint runs/a --out 'b c'"]
    content = json.dumps(lines).encode()
    return of_file(run.commands, content, mutations.json_file, lambda: read_run(folder))


def stages(folder: Path) -> Subject:
    run = run_directory(folder)
    rows = [{"student_steps": 8, "updates": 100, "loss": 0.5, "recall": 0.25, "seconds": 90.0},
            {"student_steps": 4, "updates": 10, "loss": None, "seconds": 9.0}]  # fmt: skip

    def read() -> None:
        stage_table(read_stages(run.stages))
        read_run(folder)

    return of_file(run.stages, json.dumps(rows).encode(), mutations.json_file, read)


def teachers(folder: Path) -> Subject:
    run, checkpoint = RunFiles(folder), small_checkpoint()
    keep_teachers(Teachers(checkpoint), run)
    write_checkpoint(run.stage(4).checkpoint(1), checkpoint)

    def read() -> None:
        find_teacher(None, folder, resume=True)

    return of_file(run.teachers, run.teachers.read_bytes(), mutations.json_file, read)


def lock(folder: Path) -> Subject:
    run = RunFiles(folder)
    held = {"host": "elsewhere", "pid": 4711, "start": "1"}

    def read() -> None:
        with locked(run, taken_over=True):
            pass

    return of_file(run.lock, json.dumps(held).encode(), mutations.json_file, read)


def statistics(folder: Path) -> Subject:
    path, images = folder / "real.npz", torch.arange(6 * 4, dtype=torch.uint8).reshape(6, 1, 2, 2)
    with silence():
        save_statistics(path, compute_statistics(images, PIXELS))
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    provenance = json.loads(str(arrays["provenance"]))

    def change(rng: Random) -> str:
        if rng.random() < 0.2:
            changed = {**arrays, "provenance": np.array(mutations.edited_json(provenance, rng))}
            np.savez(path, **changed)
        else:
            put(path, mutations.npz_file(arrays, rng))
        return path.name

    def read() -> None:
        found = read_statistics(path, PIXELS)
        metrics = ["fd", "pr"] if found.features is not None else ["fd"]
        with silence():
            evaluate(Sides(found, Dataset(images)), metrics)

    read()
    return Subject(change, read)


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


def config(folder: Path) -> Subject:
    path, tables = folder / "config.toml", to_tables(small_config())

    def change(content: bytes, rng: Random) -> bytes:
        if rng.random() < 0.3:
            return mutations.damaged(content, rng)
        return mutations.edited_toml(tables, rng).encode()

    def read() -> None:
        found = configs.load(str(path))
        assert configs.loads(configs.dumps(found)) == found

    return of_file(path, configs.dumps(small_config()).encode(), change, read)


def of_tensors(path: Path, read: Callable[[], object]) -> Subject:
    """A file of ours: damaged, or with another head, perhaps under a right checksum."""
    content = path.read_bytes()
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    tensors = {name: value.clone() for name, value in load_file(path).items()}
    tables = to_tables(small_config())

    def change(rng: Random) -> str:
        kind = rng.random()
        if kind < 0.3:
            put(path, mutations.damaged(content, rng))
        elif kind < 0.45:
            size = int.from_bytes(content[:8], "little")
            head = mutations.edited_json(json.loads(content[8 : 8 + size]), rng).encode()
            put(path, len(head).to_bytes(8, "little") + head + content[8 + size :])
        else:
            put(path, _with_checksum(*_other(tensors, metadata, tables, rng)))
        return path.name

    read()
    return Subject(change, read)


def _with_checksum(tensors: dict[str, torch.Tensor], metadata: dict[str, str]) -> bytes:
    return save(tensors, metadata | {"sha256": digest(tensors, metadata)})


def _other(
    tensors: dict[str, torch.Tensor],
    metadata: dict[str, str],
    tables: dict[str, dict[str, object]],
    rng: Random,
) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """Tensors and texts with one of them changed."""
    if rng.random() < 0.25:
        name, tensors = rng.choice(sorted(tensors)), dict(tensors)
        value = tensors.pop(name)
        other = rng.choice([value.double(), value.new_zeros(3), value.bool(), value * float("nan"),
                            value.new_zeros(0), value[None]])  # fmt: skip
        if rng.random() < 0.8:
            tensors[rng.choice([name, name + "x", "params", "ema.", "a.b", ""])] = other
        return tensors, metadata
    name = rng.choice(sorted(metadata))
    if name == "config" and rng.random() < 0.7:
        text = mutations.edited_toml(tables, rng)
    elif name in ("shape", "data") and rng.random() < 0.9:
        text = mutations.edited_json(json.loads(metadata[name]), rng)
    else:
        text = rng.choice([*mutations.JSON_TEXTS, *mutations.CELLS])
    kept = {k: v for k, v in metadata.items() if k != name}
    return tensors, kept if rng.random() < 0.1 else {**kept, name: _encodable(text)}


def _encodable(text: str) -> str:
    return text.encode("utf-8", "replace").decode()


def checkpoint(folder: Path) -> Subject:
    path = RunFiles(folder).checkpoint(3)
    write_checkpoint(path, small_checkpoint(small_config(), SHAPE))

    def read() -> None:
        read_pictured(path)
        load_checkpoint(path)
        with silence():
            find_checkpoint(folder)
        load(path, "cpu")

    return of_tensors(path, read)


def exported(folder: Path) -> Subject:
    path = folder / "model.safetensors"
    export_model(small_checkpoint(small_config(), SHAPE), path)
    return of_tensors(path, lambda: load(path, "cpu"))


def cache(folder: Path) -> Subject:
    images = np.arange(12 * 4 * 4, dtype=np.uint8).reshape(12, 4, 4)
    np.savez(folder / "own.npz", arr_0=images, arr_1=np.arange(12) % 2, class_names=["a", "b"])
    settings = DataConfig(dataset=str(folder / "own.npz"), data_dir=str(folder))
    with silence():
        path = prepare(settings).path
    assert path is not None
    contents = {file.name: file.read_bytes() for file in path.iterdir()}
    labels = np.load(path / "labels.npy")

    def change(rng: Random) -> str:
        for name, content in contents.items():
            put(path / name, content)
        name = rng.choice(["info.json", "info.json", "labels.npy", "images.bin"])
        changed = {
            "info.json": lambda: mutations.json_file(contents[name], rng),
            "labels.npy": lambda: mutations.npy(labels, rng),
            "images.bin": lambda: mutations.damaged(contents[name], rng),
        }[name]()
        put(path / name, changed)
        return name

    def read() -> None:
        found = open_cache(path)
        found.summary()
        for split in (*found.splits, "all"):
            if found.splits.get(split, 1):
                part = found.dataset(split)
                part.images.float().mean()
                part.legend.texts(part.labels if part.labels is not None else torch.zeros(1))
        assert len(found.digest) == 64

    read()
    return Subject(change, read)


def pictures(folder: Path) -> Subject:
    images = np.arange(5 * 16, dtype=np.uint8).reshape(5, 4, 4, 1)
    arrays = {"arr_0": images, "arr_1": np.arange(5) % 2, "class_names": np.array(["a", "b"])}
    path = folder / "own.npz"
    other = path.with_suffix(".npy")

    def change(rng: Random) -> str:
        put(path, mutations.npz_file(arrays, rng))
        put(other, mutations.npy(images, rng))
        return path.name

    def read() -> None:
        fault = None
        for each in (path, other):
            try:
                read_pictures(str(each))
            except ValueError as error:
                fault = error
        if fault is not None:
            raise fault

    return Subject(change, read)


def numbers(folder: Path) -> Subject:
    """Floats of two channels with numbers of each picture, as a file and prepared."""
    images = np.linspace(-1, 3, 12 * 4 * 4 * 2, dtype=np.float32).reshape(12, 4, 4, 2)
    vectors = np.linspace(0, 1, 24, dtype=np.float32).reshape(12, 2)
    arrays = {"arr_0": images, "vectors": vectors, "vector_names": np.array(["a", "b"])}
    np.savez(folder / "own.npz", **arrays)
    settings = DataConfig(dataset=str(folder / "own.npz"), data_dir=str(folder))
    with silence():
        path = prepare(settings).path
    assert path is not None
    contents = {file.name: file.read_bytes() for file in path.iterdir()}
    chosen = ["own.npz"]

    def change(rng: Random) -> str:
        for name, content in contents.items():
            put(path / name, content)
        name = chosen[0] = rng.choice(["info.json", "vectors.npy", "images.bin", "own.npz"])
        changed = {
            "info.json": lambda: mutations.json_file(contents[name], rng),
            "vectors.npy": lambda: mutations.npy(vectors, rng),
            "images.bin": lambda: mutations.damaged(contents[name], rng),
            "own.npz": lambda: mutations.npz_file(arrays, rng),
        }[name]()
        put(folder / name if name == "own.npz" else path / name, changed)
        return name

    def read() -> None:
        if chosen[0] == "own.npz":
            read_pictures(str(folder / "own.npz"))
            return
        found = open_cache(path)
        found.summary()
        part = found.dataset("all")
        part.values.shown(part.values.from_unit(part.values.to_unit(part.images[:2])))

    read()
    return Subject(change, read)


def tar(folder: Path) -> Subject:
    rows, buffer = np.arange(16, dtype=np.uint8).reshape(4, 4), io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for i in range(3):
            picture = io.BytesIO()
            Image.fromarray(rows + i).save(picture, "PNG")
            told = json.dumps({"label": "ab"[i % 2]}).encode()
            for name, content in ((f"{i}.png", picture.getvalue()), (f"{i}.json", told)):
                entry = tarfile.TarInfo(name)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    path = folder / "own.tar"

    def change(rng: Random) -> str:
        put(path, mutations.damaged(buffer.getvalue(), rng))
        return path.name

    return Subject(change, lambda: read_pictures(str(path)))


def condition(folder: Path) -> Subject:
    """Numbers in a table, and pictures with a mask, that a network is asked to follow."""
    vector = Vector(("a", "b"), (0.0, 0.0), (1.0, 1.0))
    config = replace(small_config(), data=DataConfig(condition="mask"))
    shapes = {"own.csv": DataShape(1, 4, 4, vector=vector), "own.npz": DataShape(1, 4, 4)}
    of = {"own.csv": small_config(), "own.npz": config}
    images = np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4)
    arrays = {"arr_0": images, "mask": (images > 9).astype(np.uint8)}
    chosen = ["own.csv"]

    def change(rng: Random) -> str:
        name = chosen[0] = rng.choice([*shapes])
        changed = {
            "own.csv": lambda: mutations.csv_file(b"1,2\n0.5,-3e2\n4,5\n", rng),
            "own.npz": lambda: mutations.npz_file(arrays, rng),
        }[name]()
        put(folder / name, changed)
        return name

    def read() -> None:
        name = chosen[0]
        open_condition(folder / name, of[name], shapes[name])

    return Subject(change, read)


def labels(folder: Path) -> Subject:
    names = [f"{i}.png" for i in range(4)]
    for name in names:
        Image.new("L", (4, 4)).save(folder / name)
    texts = {"label": ["a", "b", "a", "b"], "tags": ["", "a+b", "a", "b"]}
    tables = [
        "".join(f"{name},{text}\n" for name, text in [("file", kind), *zip(names, of, strict=True)])
        for kind, of in texts.items()
    ]
    path = folder / "labels.csv"

    def change(rng: Random) -> str:
        put(path, mutations.csv_file(rng.choice(tables).encode(), rng))
        return path.name

    return Subject(change, lambda: read_pictures(str(folder)))


def picture(folder: Path) -> Subject:
    files = {}
    rows = np.arange(8 * 8 * 3, dtype=np.uint8).reshape(8, 8, 3)
    for suffix in ("png", "jpg", "webp", "bmp"):
        buffer = io.BytesIO()
        kind = {"jpg": "JPEG"}.get(suffix, suffix.upper())
        Image.fromarray(rows).save(buffer, kind)
        files[suffix] = buffer.getvalue()

    def change(rng: Random) -> str:
        for path in folder.iterdir():
            path.unlink()
        suffix = rng.choice([*files])
        put(folder / f"a.{suffix}", mutations.damaged(files[suffix], rng))
        return f"a.{suffix}"

    return Subject(change, lambda: read_pictures(str(folder)))


def samples(folder: Path) -> Subject:
    """What `vfn sample` left: pictures, parts of a job that was killed, or the file of all."""
    images = torch.arange(4 * 16, dtype=torch.uint8).reshape(4, 1, 4, 4)
    outputs = {kind: open_output(kind, folder / kind, 4) for kind in ("png", "npz", "safetensors")}
    first = {"png": "png/images/000001.png", "npz": "npz/.parts/000000000.npy",
             "safetensors": "safetensors/.parts/000000002.npy"}  # fmt: skip
    chosen = ["png"]

    def finish(kind: str) -> None:
        outputs[kind].finish(torch.tensor([1, 2, 1, 2]), ["a", "b"] * 2, False, ["a", "b"])

    def change(rng: Random) -> str:
        kind = chosen[0] = rng.choice([*outputs])
        for file in (folder / kind).glob("samples.*"):
            file.unlink()
        for start in (0, 2):
            outputs[kind].write(torch.arange(start, start + 2), images[start : start + 2])
        path = folder / first[kind]
        if kind != "png" and rng.random() < 0.5:
            finish(kind)
            path = folder / kind / f"samples.{kind}"
        put(path, mutations.damaged(path.read_bytes(), rng))
        return str(path.relative_to(folder))

    def read() -> None:
        if outputs[chosen[0]].present() == set(range(4)):
            finish(chosen[0])
            outputs[chosen[0]].read(torch.arange(4))

    return Subject(change, read)


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


FORMATS = {
    "log": log,
    "metrics": metrics,
    "settings": settings,
    "commands": commands,
    "stages": stages,
    "teachers": teachers,
    "lock": lock,
    "statistics": statistics,
    "reference": reference,
    "reference-checkpoint": reference_checkpoint,
    "config": config,
    "checkpoint": checkpoint,
    "exported": exported,
    "cache": cache,
    "pictures": pictures,
    "numbers": numbers,
    "tar": tar,
    "condition": condition,
    "labels": labels,
    "picture": picture,
    "samples": samples,
    "diffusers": diffusers_folder,
    "adm": adm,
    "flax": flax,
}
