"""What can be known of the GPU without one: its tests and its benchmark, tried out on the CPU."""

import os
import re
import shutil
import subprocess
import sys
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from benchmarks import card, gpu, gpu_step, kernels, unet
from benchmarks.card import SMALL, Bench
from benchmarks.sampling import diffusers_loop
from tests.helpers.gpu import pytest_ignore_collect, tf32_flags
from vfn.configs import load, override
from vfn.data import Labels, as_dataset
from vfn.data.values import ranged
from vfn.footprint import example_batch
from vfn.interop import betas
from vfn.model import DataShape, build_model, schedule_of
from vfn.nn import keyed_dropout, layers
from vfn.objective import batch_loss, binned
from vfn.ops import SCHEDULES, TIME_DENSITIES, WEIGHTINGS, consistency_tangent
from vfn.sampling import Trained
from vfn.train.batches import make_batch, training_times

ROOT = Path(__file__).parents[1]
FIGURE = re.compile(r"\d+(\.\d+)?(e-?\d+)?( %)?")


class Crossings(TorchDispatchMode):
    """Operations between the host and another device: those that wait for it, and what is sent."""

    def __init__(self):
        super().__init__()
        self.found, self.sent = [], []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        tensors = [v for v in tree_leaves((args, kwargs, out)) if isinstance(v, torch.Tensor)]
        # A number of the host in a tensor without dimensions goes along with a kernel's call.
        if len({v.device for v in tensors if v.ndim or "copy" in func._schema.name}) > 1:
            waits = not (kwargs or {}).get("non_blocking")  # as `moved` does, from pinned memory
            (self.found if waits else self.sent).append(func._schema.name)
        return out


@pytest.fixture
def crossings(monkeypatch):
    """What goes between the host and another device; tensors of numbers are not dispatched."""
    crossings = Crossings()

    def told(make):
        def made(*args, **kwargs):
            out = make(*args, **kwargs)
            if out.device.type != "cpu" and not isinstance(args[-1], torch.Tensor):
                crossings.found.append(make.__name__)
            return out

        return made

    for place, name in (
        (torch, "tensor"), (torch, "as_tensor"), (torch.Tensor, "new_tensor"),
    ):  # fmt: skip
        monkeypatch.setattr(place, name, told(getattr(place, name)))
    return crossings


def passes(config, crossings, times=False):
    """Both passes of a step; the meta device stands in for another than the host's."""
    shape = DataShape(1, 8, 8, Labels(tuple("ab")))
    with torch.device("meta"):
        model = build_model(config, shape).train()
    batch = example_batch(model, shape, 3, "meta")
    with crossings:
        if times:
            training_times(config, torch.arange(3, device="meta"))
        with keyed_dropout(batch.dropout):
            loss = batch_loss(model, batch, config.diffusion)
        loss.mean().backward()
        assert binned(loss.detach(), batch.t, config.diffusion).device.type == "meta"


CHOICES = [
    *(("logsnr_schedule", "schedule_options", name) for name in SCHEDULES),
    *(("reweight_type", "reweight_options", name) for name in WEIGHTINGS),
    *(("time_density", "time_options", name) for name in TIME_DENSITIES),
]
NEEDED = {"importance": {"weights": (1.0, 3.0)}}


@pytest.mark.parametrize(("key", "options", "name"), CHOICES)
def test_nothing_goes_to_the_device_by_any_schedule_weight_or_density(
    key, options, name, crossings
):
    limits = {"logsnr_min": None, "logsnr_max": None}
    config = override(load("digits"), {key: name, options: NEEDED.get(name, {}), **limits})
    passes(config, crossings, times=True)
    assert crossings.found == []


def test_an_imported_schedule_is_sent_to_the_device_once(crossings):
    """The second time it is there, for a schedule that is made anew as well."""
    asked = {"logsnr_schedule": betas.NAME, "schedule_options": {"timesteps": 7}}
    config = override(load("digits"), {**asked, "logsnr_min": None, "logsnr_max": None})
    passes(config, Crossings(), times=True)
    passes(config, crossings, times=True)
    with crossings:
        levels = torch.linspace(9, -9, 3, device="meta")
        schedule_of(config.diffusion).time(levels)
    assert crossings.found == crossings.sent == []


@pytest.mark.parametrize("options", [
    {"time_density": "importance", "time_options": {"weights": (1.0, 3.0)}},
    {"time_density": "weighted", "time_options": {"weighting": "snr"}},
])  # fmt: skip
def test_weights_of_times_are_added_up_on_the_host(options, monkeypatch):
    """A GPU adds them up in another order each time, and refuses where it has to be one."""
    seen, cumsum = [], torch.Tensor.cumsum

    def told(values, *args):
        seen.append(values.device.type)
        return cumsum(values, *args)

    monkeypatch.setattr(torch.Tensor, "cumsum", told)
    training_times(override(load("digits"), options), torch.arange(3, device="meta"))
    assert seen == ["cpu"]


CONDITIONS = {
    "pictures of 16 bits": {},
    "a grey one": {"condition": "grey"},
    "a small one": {"condition": "downscale:4"},
    "a part": {"condition": "mask"},
    "another picture": {},
    "numbers": {},
}


@pytest.mark.parametrize("name", CONDITIONS)
def test_a_batch_is_made_without_waiting_for_the_device(name, crossings):
    """Pictures, draws, labels and conditions are sent."""
    images = torch.zeros(8, 3, 8, 8, dtype=torch.uint8)
    given, settings = {}, {"flip": True, "augment": 0.5, **CONDITIONS[name]}
    if name == "another picture":
        given["beside"] = images
    if name == "numbers":
        given["vectors"] = torch.arange(8.0)[:, None]
    if name == "pictures of 16 bits":
        images, given["values"] = images.to(torch.uint16), ranged("uint16", 0, 4000)
    dataset = as_dataset(images, torch.arange(8) % 2 + 1, ("a", "b"), **given)
    config = override(load("digits"), settings)
    asked = {"guidance_range": (0.0, 4.0), "second_time": True}
    with crossings:
        for more in (asked, {"takes_step": True}):
            batch = make_batch(dataset, config, torch.arange(4), torch.device("meta"), **more)
            assert batch.x0.device.type == "meta"
    assert crossings.found == []
    assert crossings.sent


def test_no_number_of_a_consistency_step_goes_to_the_device(crossings):
    z = torch.ones(3, 1, 8, 8, device="meta")
    consistency_tangent(z, z, z, z, torch.ones(3, device="meta"), 0.5)
    assert crossings.found == []


@pytest.mark.parametrize("preset", ["digits", "digits_transformer"])
def test_nothing_goes_to_the_device_in_both_passes_of_a_step(preset, crossings):
    config = load(preset)
    passes(override(config, {"dropout": 0.1}) if preset == "digits" else config, crossings)
    assert crossings.found == []


@pytest.mark.filterwarnings("ignore:.*jit.script")  # forward rules of PyTorch's own
def test_layers_give_kernels_of_a_gpu_the_layouts_that_they_take(monkeypatch):
    """As torch lays tensors out on a GPU, without their numbers.

    Fused attention wants the channels of q, k and v side by side; group normalisation, which
    forward differentiation calls by itself, wants those of torch.contiguous_format up to 2.11.
    """
    seen = []

    def seen_by(kernel, layout):
        def told(*args):
            seen.append(layout(args))
            return kernel(*args)

        return told

    dense = seen_by(torch.native_group_norm, lambda args: args[0].is_contiguous())
    strides = seen_by(layers.attend, lambda args: {x.stride(-1) for x in args})
    monkeypatch.setattr(torch, "native_group_norm", dense)
    monkeypatch.setattr(layers, "attend", strides)
    monkeypatch.setattr(layers, "_init", lambda *_: None)  # by numbers
    with FakeTensorMode(), torch.device("cuda"), torch.no_grad():
        x = torch.empty(2, 64, 16, 16).contiguous(memory_format=torch.channels_last)
        attention = layers.SelfAttention(64, 2, 32)
        attention(x)
        torch.func.jvp(attention.norm, (x,), (x,))
    assert seen == [{1}, True]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_normalisation_keeps_type_and_layout_on_a_gpu(training, dtype, monkeypatch):
    """Half precision is normalised as it is for training alone."""
    seen, kernel = [], torch.group_norm

    def told(x, *more):
        seen.append(x.dtype)
        return kernel(x, *more)

    monkeypatch.setattr(torch, "group_norm", told)
    monkeypatch.setattr(layers, "full_precision", lambda _: nullcontext())  # for want of one
    with FakeTensorMode(), torch.device("cuda"), torch.set_grad_enabled(training):
        x = torch.empty(2, 64, 16, 16, dtype=dtype).contiguous(memory_format=torch.channels_last)
        norm = layers.GroupNorm(32, 64)
        y, rows = norm(x), norm(torch.empty(2, 64, 5, dtype=dtype))
    assert (y.dtype, rows.dtype) == (dtype, dtype)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert rows.is_contiguous()
    assert {*seen} == {dtype if training else torch.float32}


def test_crossings_are_seen(crossings):
    with crossings:
        torch.ones(3).to("meta")
        torch.tensor([1.0], device="meta").new_tensor([1.0])
    assert crossings.found == ["aten::_to_copy", "tensor", "new_tensor"]


def test_files_with_tests_of_a_gpu_are_read_and_no_others():
    asked = SimpleNamespace(option=SimpleNamespace(markexpr="gpu"))
    usual = SimpleNamespace(option=SimpleNamespace(markexpr=""))
    files = list(ROOT.glob("tests/**/*.py"))
    read = {path.name for path in files if not pytest_ignore_collect(path, asked)}
    assert {"test_gpu.py", "test_contract.py", "test_dropout.py", "test_loop.py"} <= read
    assert "test_diffusers_import.py" not in read
    assert not any(pytest_ignore_collect(path, usual) for path in files)


# What takes minutes of a CPU: a solver that chooses its steps itself, of a network that knows
# nothing, and runs in half precision, which are those in fp32 but for their numbers.
HEAVY = (
    "test_pictures_are_those_of_the_cpu[adaptive]",
    *(
        f"test_a_run_has_the_losses_of_the_cpu_and_repeats[{precision}-{optimizer}]"
        for precision in ("bf16", "fp16")
        for optimizer in ("adamw", "muon")
    ),
)


@pytest.mark.slow
def test_the_tests_of_a_gpu_work_where_they_are_tried_out():
    """All but the heavy ones, on the CPU; what CUDA alone has is left out with a reason."""
    command = "-m pytest -m gpu -rs -p no:cacheprovider tests/test_gpu.py"
    left = [f"--deselect=tests/test_gpu.py::{name}" for name in HEAVY]
    done = subprocess.run(
        [sys.executable, *command.split(), *left],
        cwd=ROOT,
        env={**os.environ, "VFN_GPU_TESTS": "cpu"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    *_, told = done.stdout.splitlines()
    assert f" {len(HEAVY)} deselected" in told  # by names that exist
    reasons = re.findall(r"^SKIPPED .*: (.*)$", done.stdout, re.MULTILINE)
    assert {*reasons} == {"of CUDA alone"}


def rows_of(path):
    lines = [line for line in path.read_text().splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


@pytest.mark.slow
def test_the_benchmark_fills_its_tables(tmp_path):
    """All that is not CUDA's own; no figure is looked at but that it is one."""
    asked = ["--device", "cpu", "--short", "--parts", "step,kernels,memory,sampling"]
    done = CliRunner().invoke(gpu.main, [*asked, "--out", str(tmp_path)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    tables = {path.stem.removeprefix("gpu_on_cpu_"): rows_of(path) for path in tmp_path.iterdir()}
    assert tables.keys() == {"limits", "step", "kernels", "memory", "solvers", "sampling"}
    texts = [cell for rows in tables.values() for row in rows for cell in row]
    assert not [text for text in texts if "failed" in text or "left out" in text or "nan" in text]
    named = {tuple(row[:2]) for row in tables["step"][:-1]}
    assert named == {(name, mode) for name in (*OURS, "diffusers") for mode in SMALL.modes}
    figures = [row[3:6] for row in tables["step"][:-1]] + [row[3:] for row in tables["solvers"]]
    figures += [row[3:] for row in tables["sampling"]] + [row[3:4] for row in tables["memory"]]
    assert all(FIGURE.fullmatch(cell) for row in figures for cell in row)
    operations = {row[1] for row in tables["kernels"]}
    assert {"convolution", "convolution_backward", "all", "wall clock"} <= operations


OURS = gpu_step.OURS, gpu_step.OTHER


def test_compiled_steps_are_timed_as_far_as_there_is_time(tmp_path, monkeypatch):
    asked = []

    def compiled(module, **options):
        asked.append(options)
        return module

    monkeypatch.setattr(torch, "compile", compiled)
    bench = Bench(SMALL._replace(modes=("fp32",), backend="inductor"), 5, tmp_path)
    nets = gpu_step.networks(bench)
    nets["diffusers"] = "failed: not there"
    gpu_step.compiled(bench, nets)
    rows = rows_of(tmp_path / "gpu_on_cpu_compiled.md")
    kinds = [row[2] for row in rows]
    assert kinds == ["compiled", "compiled, CUDA graphs", "compiled", "compiled"]
    assert asked == [
        {"backend": "inductor"}, {"backend": "inductor", "mode": "reduce-overhead"},
        {"backend": "inductor"},
    ]  # fmt: skip
    assert rows[-1][3] == "failed: not there"
    bench = Bench(SMALL, 0, tmp_path)
    gpu_step.compiled(bench, nets)
    left = rows_of(tmp_path / "gpu_on_cpu_compiled.md")
    assert {row[3] for row in left} == {"left out: no time", "failed: not there"}


def test_networks_of_another_function_are_not_compared(tmp_path):
    bench = Bench(SMALL, 5, tmp_path)
    ours = gpu_step.our_unet(bench.config(), bench)
    gpu_step.check_equal(ours, ours, bench)
    other = build_model(bench.config(), bench.shape)
    with pytest.raises(ValueError, match="outputs differ by"):
        gpu_step.check_equal(ours, other, bench)


def test_operations_and_bytes_are_counted():
    """By hand: float32, so four bytes a number."""
    a, b = torch.randn(3, 5, requires_grad=True), torch.randn(5, 7)
    with kernels.Counted() as counted:
        (a @ b).sum().backward()
        c = torch.ones(10)
        c.view(2, 5)
        c.add_(torch.ones(10))
        torch._foreach_mul_([c, c], 2.0)
    works = counted.works
    assert works["mm"].calls == 2  # the product and one of its gradients
    assert works["mm"].operations == 2 * (2 * 3 * 5 * 7)
    product = 3 * 5 + 5 * 7 + 3 * 7
    assert works["mm"].bytes == 4 * 2 * product
    assert works["view"].bytes == 0
    assert works["add_"].bytes == 4 * 30  # two are read, one is written
    assert works["_foreach_mul_"].bytes == 4 * 40
    assert works["mm"].least(1e3, 1e12) == pytest.approx(0.42)
    assert works["mm"].least(1e12, 1e3) == pytest.approx(0.004 * 2 * product)
    assert kernels.total(works.values()).operations == works["mm"].operations


def test_a_gpu_that_is_not_there_is_said_in_one_line(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    done = CliRunner().invoke(gpu.main, [])
    assert done.exit_code == 2
    assert done.output.splitlines()[-1] == (
        "Error: this PyTorch sees no CUDA GPU, which is what is measured here"
    )
    done = CliRunner().invoke(gpu.main, ["--parts", "steps"])
    assert "expected --parts among step,kernels" in done.output


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("fails", ["pytest", "benchmarks.gpu", "nothing"])
def test_tables_are_made_whatever_the_tests_say(fails, tmp_path):
    """Instead of Python, a script that writes down what is asked, and fails at one of both."""
    python = tmp_path / "python"
    python.write_text(f'#!/bin/sh\necho "$2" >> {tmp_path}/asked\ntest "$2" != {fails}\n')
    python.chmod(0o755)
    done = subprocess.run(
        ["make", "gpu", "INSTALLED=", f"BIN={tmp_path}"], cwd=ROOT, capture_output=True, check=False
    )
    assert (tmp_path / "asked").read_text().split() == ["pytest", "benchmarks.gpu"]
    assert (done.returncode == 0) == (fails == "nothing")


def broken(*_):
    raise RuntimeError("it cannot")


@pytest.mark.parametrize("name", ["limits", "memory"])
def test_a_part_that_fails_says_so_and_later_ones_go_on(name, tmp_path, monkeypatch):
    seen = []
    for part in ("limits", "memory", "sampling"):
        monkeypatch.setattr(gpu, part, lambda *_, part=part: seen.append(part))
    monkeypatch.setattr(gpu, name, broken)
    asked = ["--device", "cpu", "--short", "--parts", "memory,sampling", "--out", str(tmp_path)]
    done = CliRunner().invoke(gpu.main, asked)
    assert seen == [part for part in ("limits", "memory", "sampling") if part != name]
    assert done.exit_code == 1
    assert done.output.splitlines()[-1] == f"Error: {name} failed: RuntimeError: it cannot"


@pytest.fixture
def bench(tmp_path):
    return Bench(SMALL._replace(modes=("fp32",)), 5, tmp_path)


def trained_of(bench):
    config = bench.config()
    net = build_model(config, bench.shape).eval()
    return Trained(net, dict(net.named_parameters()), config, bench.shape, torch.device("cpu"))


def test_a_loop_that_fails_takes_no_row_from_others(bench, monkeypatch):
    monkeypatch.setattr(gpu, "find_spec", lambda _: True)
    monkeypatch.setattr(gpu, "diffusers_loop", lambda *_: broken)
    rows = {tuple(row[:3]): row[3:] for row in gpu.latency_rows(bench, trained_of(bench))}
    for what in ("vfn", "vfn, guided", "network alone"):
        assert all(FIGURE.fullmatch(cell) for cell in rows[what, "fp32", "1"])
    assert rows["loop of diffusers", "fp32", "1"] == ["failed: RuntimeError: it cannot", "", ""]


def test_a_network_that_fails_takes_no_row_from_others(bench):
    batch, config = bench.batch(2), bench.config()
    nets = {name: gpu_step.Network(nn.Conv2d(3, 3, 1), call, config) for name, call in {
        gpu_step.OURS: lambda z, _t, _y: z * weight, "diffusers": broken,
    }.items()}  # fmt: skip
    weight = next(iter(nets[gpu_step.OURS].module.parameters())).sum()
    rows = {row[0]: row[3:] for row in gpu_step.eager_rows(bench, nets, "fp32", batch)}
    assert FIGURE.fullmatch(rows[gpu_step.OURS][0])
    assert rows["diffusers"][0] == "failed: RuntimeError: it cannot"


def test_the_loop_of_diffusers_asks_on_the_device_of_its_pictures():
    pytest.importorskip("diffusers")
    asked = []

    def net(image, t, _):
        asked.append(t.shape)
        assert t.device == image.device
        return image

    diffusers_loop(net, torch.zeros(2, 3, 4, 4, device="meta"), None, 3)()
    assert asked == [(2,)] * 3


@pytest.mark.parametrize("mode", ["tf32", "fp32"])
def test_each_loop_of_sampling_is_in_its_mode(mode, bench):
    trained, seen = trained_of(bench), []
    trained.model.register_forward_hook(lambda *_: seen.append(tf32_flags()))
    bench = Bench(bench.scale._replace(modes=(mode,), drawn=(1,)), 5, bench.folder)
    for rows_of_part in (gpu.solver_rows, gpu.latency_rows):
        rows = rows_of_part(bench, trained)
        assert not [cell for row in rows for cell in row if "failed" in cell]
        assert set(seen) == {(mode == "tf32",) * 2}
        seen.clear()


class Small(nn.Module):
    """A layer that tells in which mode either pass is done."""

    def __init__(self):
        super().__init__()
        self.layer, self.seen = nn.Conv2d(3, 3, 1), []

    def forward(self, z, _t, _y):
        out = self.layer(z)
        self.seen.append((*tf32_flags(), out.dtype))
        out.register_hook(
            lambda _: self.seen.append((*tf32_flags(), torch.is_autocast_enabled("cpu")))
        )
        return out.float()


@pytest.mark.parametrize("mode", ["bf16", "tf32", "fp32", "fp16"])
@pytest.mark.parametrize("name", [gpu_step.OURS, "diffusers"])
def test_both_passes_of_a_step_are_in_its_mode(name, mode, bench):
    """Autocast is for the first of them."""
    if name == "diffusers":
        pytest.importorskip("diffusers")
    net = Small()
    network = gpu_step.Network(net, net, bench.config())
    gpu_step.step_of(name, network, mode, bench.batch(2))()
    wanted = (mode == "tf32",) * 2
    assert net.seen == [(*wanted, card.HALVES.get(mode, torch.float32)), (*wanted, False)]


def test_steps_of_others_in_fp16_scale_the_loss_as_they_do(bench, monkeypatch):
    """Gradients are clipped in their own size, and a step that is not finite is left out."""
    pytest.importorskip("diffusers")
    norms, clip = [], nn.utils.clip_grad_norm_
    monkeypatch.setattr(nn.utils, "clip_grad_norm_", lambda *args: norms.append(clip(*args)))
    torch.manual_seed(0)
    net, batch = Small(), bench.batch(2)
    network = gpu_step.Network(net, net, bench.config())
    for mode in ("fp32", "fp16"):
        gpu_step.step_of("diffusers", network, mode, batch)()
    assert norms[1].item() == pytest.approx(norms[0].item(), rel=1e-2)
    before = [param.clone() for param in net.parameters()]
    gpu_step.step_of("diffusers", network, "fp16", batch._replace(x0=batch.x0 + torch.inf))()
    assert all(torch.equal(a, b) for a, b in zip(before, net.parameters(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_attention_is_in_the_bound_of_the_unet_in_each_precision(dtype):
    """As it is computed: in float32, when it is made again under autocast as well."""
    net = nn.Module()
    net.forward = lambda q: layers.attend(q, k=q, v=q)

    def cast():
        return torch.autocast("cpu", torch.bfloat16)

    with unet.Record() as record, cast(), torch.no_grad():
        net(torch.randn(1, 1, 4, 8, dtype=torch.bfloat16))
    ((attention, args, named),) = record.calls
    with cast():
        assert attention(*args, **named).dtype == torch.float32
    runs = unet.products(net, (torch.randn(1, 1, 4, 8, dtype=dtype),), cast)
    for run in runs.values():
        run()


def test_products_are_made_again_with_their_options():
    """Such as a stride; tensors that are given by name get other numbers as well."""
    x, weight = torch.randn(1, 1, 4, 4), torch.randn(1, 1, 2, 2)
    with unet.Record() as record:
        nn.functional.conv2d(x, weight=weight, stride=2)
    ((func, args, named),) = record.calls
    assert func(*args, **named).shape == (1, 1, 2, 2)
    assert named["weight"].requires_grad
    assert not torch.equal(named["weight"], weight)


def test_a_profile_without_kernels_is_said(bench, monkeypatch):
    monkeypatch.setattr(kernels, "profiled", lambda *_: {"mm": kernels.Work(1, 2.0, 3.0)})
    net = Small()
    gpu.profile(bench, {gpu_step.OURS: gpu_step.Network(net, net, bench.config())})
    (row,) = rows_of(bench.folder / "gpu_on_cpu_kernels.md")
    assert row[:2] == ["fp32", "failed: RuntimeError: the profiler recorded no kernels"]


def test_nothing_is_compiled_that_may_last_longer_than_there_is_time(bench, monkeypatch):
    """As the slowest one did so far; one that fails soon says nothing of others."""
    now, durations = [0.0], iter([1, 100, 20, 80, 2])
    clock = SimpleNamespace(perf_counter=lambda: now[0])
    for module in (card, gpu_step):
        monkeypatch.setattr(module, "time", clock)

    def compiled_step(*_):
        now[0] += next(durations)
        raise RuntimeError("it cannot")

    monkeypatch.setattr(gpu_step, "compiled_step", compiled_step)
    monkeypatch.setattr(card.Bench, "clear", lambda _: None)
    scale = SMALL._replace(modes=("fp32", "bf16"), compiling=75.0)
    nets = dict.fromkeys(("vfn", "b", "c"), gpu_step.Network(nn.Linear(1, 1), None, None))
    gpu_step.compiled(Bench(scale, 5, bench.folder), nets)
    left = [row[3] for row in rows_of(bench.folder / "gpu_on_cpu_compiled.md")]
    assert left == ["failed: RuntimeError: it cannot"] * 4 + ["left out: no time"] * 3
    gpu_step.compiled(Bench(scale, 76 / 60, bench.folder), nets)
    left = [row[3] for row in rows_of(bench.folder / "gpu_on_cpu_compiled.md")]
    assert left == ["failed: RuntimeError: it cannot"] + ["left out: no time"] * 6


def test_the_memory_of_cuda_graphs_is_not_told(bench, monkeypatch):
    """A replay takes none of it: it was taken when they were captured."""
    monkeypatch.setattr(torch, "compile", lambda module, **_: module)
    monkeypatch.setattr(card.Bench, "peak", lambda _, run: (run(), 7.0)[1])
    net = Small()
    gpu_step.compiled(bench, {"vfn": gpu_step.Network(net, net, bench.config())})
    rows = rows_of(bench.folder / "gpu_on_cpu_compiled.md")
    assert [row[6] for row in rows] == ["7", ""]
