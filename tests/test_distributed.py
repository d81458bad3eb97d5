"""Processes: their devices, and what they agree on."""

import json
import socket
from contextlib import contextmanager

import pytest
import torch

from vfn.distributed import (
    ALONE,
    World,
    choose_device,
    gather,
    largest,
    processes,
    share,
    total,
    wait_for_all,
)
from vfn.evaluation import judge, nearest_pictures

TWO = """
import json, sys, torch
import torch.distributed as dist
from dataclasses import replace
from pathlib import Path
from vfn.cli import app
from vfn.configs import load, override
from vfn.distributed import (
    by_first, differs, gather, largest, processes, share, total, wait_for_all
)
from vfn.evaluation import Figure, judge, nearest_pictures, store_reference
from vfn.ops import Sample
from vfn.progress import say
from vfn.sampling import untrained
from vfn.train import distill, train
with processes("cpu") as world:
    mine = share(5, world)
    every = gather(mine * 10, 5, world)
    most, summed = largest(3 * world.rank, world), total(torch.tensor([1.0, world.rank]), world)
    wait_for_all(world)
    for group in (dist.group.WORLD, world.control):  # the first process may work alone for hours
        patience = group._get_backend(torch.device("cpu")).options._timeout
        assert patience.total_seconds() > 20 * 3600, patience
    unlike = [differs({"loss": count}, world) for count in (1, world.rank)]
    say(f"rank {world.rank} speaks")
    found = [world.size, mine.tolist(), every.tolist(), most, summed.tolist()]
for _ in range(2):
    with processes("cpu") as again:
        with processes("cpu") as inner:
            found.append(largest(again.rank + 5, inner))
        found.append(largest(again.rank + 7, again))


def refused(work):
    try:
        work()
    except (ValueError, OSError) as error:
        return str(error)
    return ""


def command(*words):
    return refused(lambda: app.main([*words], standalone_mode=False, obj=list(words)))


def drawn_by_all(draws):
    with processes("cpu") as world:
        draws.by_all(world, strict=True)


rank, out = world.rank, Path(sys.argv[1]) / "out"
torch.manual_seed(0)
digits, teacher = load("digits"), untrained("digits", device="cpu")
broken = replace(teacher, params={name: v * float("nan") for name, v in teacher.params.items()})
real, test = "dataset:digits", "dataset:digits:test"
found += [
    refused(lambda: train(override(digits, {"steps": 1 + rank, "lr": 0.1 * rank}), out)),
    refused(lambda: distill(teacher, out, student_steps=1 + rank)),
    refused(lambda: judge(real, test, ["fd"], seed=rank, device="cpu")),
    refused(lambda: store_reference(real, out.with_suffix(".npz"), keep=bool(rank))),
    refused(lambda: drawn_by_all(broken.draws(10, steps=1, batch=2 + rank))),
    command("info", "digits" if rank else "digits_distill"),
    command("export", "nowhere", "--out", f"{rank}.safetensors"),
    command("report" if rank else "export", "nowhere", *([] if rank else ["--out", "x"])),
    command("export", "nowhere", "--out", "x.safetensors"),
    command("data", "info", "--config", "nowhere"),
    command("data", "prepare", "--config", "nowhere"),
    refused(lambda: by_first(lambda: int("x"))),
    by_first(lambda: 5),
    command("train", "--config", "nowhere", "--out", "x", "--data-dir", f"d{rank}",
            "--num-workers", f"{rank + 1}"),
]


def restless(denoise, z, logsnrs, noise, callback):
    # A solver that takes as many steps as it likes, on each process others.
    for i in range(2 + 3 * world.rank):
        callback(i, z, z)
    return Sample(z, 1)


asked, draws = [], teacher.draws(4, sampler="adaptive", batch=1)
draws.__dict__["_sampler"] = restless
drawn = draws.by_all(world, lambda: asked.append(largest(len(asked), world)))
found.append([asked, len(drawn.images)])


def lost(judged):
    return [Figure("lost", "Lost", float("nan"))]  # on the first process, which alone computes


sys.modules["lost"] = sys.modules["__main__"]
found += [
    [figure.value for figure in judge(real, test, ["fd", "pr"], device="cpu").figures],
    nearest_pictures(real, test, 2, 3, device="cpu").distances.flatten().tolist(),
    refused(lambda: judge(real, test, ["lost:lost"], device="cpu")),
    unlike,
]
open(f"{sys.argv[1]}/{world.rank}.json", "w").write(json.dumps(found))
"""
DIFFERS = "started with different arguments: {} differs"
# What each of two processes that differ is told, and then both where the first one fails.
REFUSED = [*map(DIFFERS.format, ["steps, lr", "student_steps", "seed", "keep"])]
REFUSED += ["expected finite pictures to judge, but 5 of 5 that the network drew are not"]
REFUSED += map(DIFFERS.format, ["target", "out", "names"])


def test_two_processes(forks, tmp_path):
    """They can join again, within a job or after it, and the first one alone speaks."""
    script = tmp_path / "script.py"
    script.write_text(TWO)
    err = forks.run(tmp_path, script=script, processes=2)
    assert err.count(" speaks") == 1
    for rank, mine in enumerate([[0, 1, 2], [3, 4, 4]]):
        found = json.loads((tmp_path / f"{rank}.json").read_text())
        assert found[:9] == [2, mine, [0, 10, 20, 30, 40], 3, [2.0, 1.0], 6, 8, 6, 8]
        for told, expected in zip(found[9:], REFUSED, strict=False):
            assert expected in told
        first = ["checkpoint nowhere does not exist", *["unknown config 'nowhere'"] * 2]
        first += ["invalid literal for int()"]
        for told, own in zip(found[17:21], first, strict=True):
            assert told.startswith("another process of this job refused" if rank else own)
        assert found[21] == 5
        assert found[22].startswith("unknown config 'nowhere'")  # not: other arguments
        # Asked once a batch: were it once a step, the processes would wait for one another forever.
        assert found[23] == [[0, 1], 4]
        figures = judge("dataset:digits", "dataset:digits:test", ["fd", "pr"], device="cpu").figures
        assert found[24] == pytest.approx([figure.value for figure in figures], rel=1e-6)
        near = nearest_pictures("dataset:digits", "dataset:digits:test", 2, 3, device="cpu")
        assert found[25] == pytest.approx(near.distances.flatten().tolist(), rel=1e-6)
        refusal = "another process of this job refused" if rank else "expected finite figures"
        assert found[26].startswith(refusal)
        assert found[27] == [False, True]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0.json", "1.json", "script.py"]


@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_never_comes(monkeypatch, rank):
    """Whoever waits for it, as the one that makes the meeting place or as another one."""
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    variables = {"RANK": rank, "WORLD_SIZE": 2, "MASTER_ADDR": "localhost", "MASTER_PORT": port}
    for name, value in {**variables, "VFN_JOIN_SECONDS": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setattr("vfn.distributed._stores", [])
    message = rf"not all of the 2 processes of this job met within 1 s \(this is number {rank}; "
    with pytest.raises(TimeoutError, match=message) as refused, processes("cpu"):
        pass
    assert str(refused.value).isprintable()


def test_one_process_agrees_with_itself():
    with processes("cpu") as world:
        assert world == ALONE
        wait_for_all(world)
        assert largest(3, world) == 3
        value = torch.tensor([1.0])
        assert total(value, world) is value
        assert gather(value, 1, world) is value
        assert share(3, world).tolist() == [0, 1, 2]


@pytest.mark.parametrize(("count", "size"), [(1, 4), (5, 2), (6, 3), (7, 3), (3, 5)])
def test_shares_are_equal_and_cover_all(count, size):
    shares = [share(count, World(rank, size, torch.device("cpu"))) for rank in range(size)]
    assert len({len(part) for part in shares}) == 1
    assert torch.cat(shares)[:count].tolist() == list(range(count))


def test_devices(monkeypatch):
    assert choose_device("cpu") == torch.device("cpu")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    assert choose_device("auto") == torch.device("cpu")
    with pytest.raises(ValueError, match="device cuda:1 asked for, but this PyTorch sees no CUDA"):
        choose_device("cuda:1")
    for name in ("gpu", "mps", "meta"):
        with pytest.raises(ValueError, match=f"expected device auto, cpu or cuda, got '{name}'"):
            choose_device(name)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    assert choose_device("auto") == torch.device("cuda", 0)
    for name, value in {"WORLD_SIZE": 8, "RANK": 7, "MASTER_ADDR": "a", "MASTER_PORT": 1}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert choose_device("cuda") == torch.device("cuda", 3)
    assert choose_device("cuda:1") == torch.device("cuda", 1)
    monkeypatch.setenv("LOCAL_RANK", "4")
    for name in ("cuda", "cuda:7"):
        with pytest.raises(ValueError, match="asked for, but this machine has 4 of them, which co"):
            choose_device(name)


def test_what_is_on_cuda_is_on_the_device_that_was_asked_for(monkeypatch):
    """For the time of a job, of one process too; a context manager stands in for CUDA's."""
    current = [0]

    @contextmanager
    def device(chosen):
        current.append(chosen.index)
        yield
        current.pop()

    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 4)
    monkeypatch.setattr("torch.cuda.device", device)
    with processes("cuda:1") as world:
        assert (world.device.index, current[-1]) == (1, 1)
    with processes("cpu"):
        assert current == [0]


def test_no_process_starts_for_a_device_that_is_not_there():
    with pytest.raises(ValueError, match="expected device"), processes("gpu"):
        pass
