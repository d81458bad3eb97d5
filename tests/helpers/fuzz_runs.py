"""Files of runs, of samples and of evaluations, damaged and edited."""

import json
from collections.abc import Callable
from pathlib import Path
from random import Random

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save

from tests.helpers import mutations
from tests.helpers.fuzz import Subject, of_file, put
from tests.helpers.reported import EVALUATION
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn import configs
from vfn.configs.settings import to_tables
from vfn.data.dataset import Dataset
from vfn.evaluation import PIXELS, compare, read_evaluation
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.features import compute_statistics, read_statistics, save_statistics
from vfn.evaluation.sides import Sides
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
from vfn.sampling.output import open_output
from vfn.sampling.provenance import RECORD, check_own, check_record, read_record
from vfn.train.distillation.stages import stage_table
from vfn.train.distillation.teachers import Teachers, find_teacher, keep_teachers


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
