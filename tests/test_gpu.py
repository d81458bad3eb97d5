"""On a GPU: what the CPU gives, in each precision, compiled, captured, over nccl; and its memory.

`make test-gpu` runs this and what other files mark. See `tests.helpers.gpu` for a try without one.
"""

from dataclasses import replace
from itertools import pairwise
from typing import get_args

import pytest
import torch
import torch.distributed as dist
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.parallel import DistributedDataParallel

import vfn
from tests.helpers.gpu import tf32_flags
from tests.helpers.processes import differing, losses
from tests.helpers.small import DIGITS_FILE, small_config
from vfn.configs import DataConfig, load, override
from vfn.configs.schema import Optimizer
from vfn.data import Labels, as_dataset, load_dataset
from vfn.distributed import World, largest, total
from vfn.evaluation import judge
from vfn.memory import free_memory, in_memory
from vfn.model import DataShape, autocast, build_model, schedule_of
from vfn.nn import keyed_dropout
from vfn.nn.layers import attend, group_norm
from vfn.objective import batch_loss
from vfn.ops import ddim_step, sample, sampling_grid
from vfn.ops.solver_table import SOLVERS
from vfn.sampling import untrained
from vfn.train import train
from vfn.train.batches import make_batch, training_times
from vfn.train.state import init_state, train_step

pytestmark = pytest.mark.gpu
SHAPE = DataShape(3, 16, 16, Labels(tuple("0123456789")))
UNET = replace(
    small_config(ch_multipliers=(1, 2), apply_attn=(False, True), dropout=0.2),
    data=DataConfig(dataset=DIGITS_FILE),
)
TRANSFORMER = replace(load("digits_transformer"), data=UNET.data, train=UNET.train)
NETWORKS = {"unet": UNET, "transformer": TRANSFORMER}
# Of gradients, by their norms: sums in another order for fp32; then roundings to 11, 8 and 11
# binary digits in each layer. Below the least value a mode would not be at work.
ERRORS = {"fp32": (0, 3e-5), "tf32": (1e-4, 0.01), "bf16": (1e-3, 0.08), "fp16": (1e-4, 0.01)}


def dataset():
    draw = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (64, *SHAPE.size), generator=draw, dtype=torch.uint8)
    return as_dataset(images, torch.arange(64) % 10 + 1, SHAPE.legend.names)


def network(config, device, stir=0.05):
    """None of its layers is zero."""
    torch.manual_seed(0)
    model = build_model(config, SHAPE)
    with torch.no_grad():
        for param in model.parameters():
            param.add_(stir * torch.randn_like(param))
    return model.to(device)


def batch_of(config, device, step=0, size=16):
    return make_batch(dataset(), config, torch.arange(size) + step * size, torch.device(device))


def passes(config, device, precision="fp32"):
    """Losses and gradients of a batch, each as one vector on the CPU."""
    model, batch = network(config, device), batch_of(config, device)
    with keyed_dropout(batch.dropout), autocast(precision, batch.x0.device):
        loss = batch_loss(model, batch, config.diffusion)
    (1024 * loss.mean()).backward()  # as with fp16, whose smallest numbers are large
    gradients = torch.cat([p.grad.flatten() / 1024 for p in model.parameters()])
    return loss.detach().cpu(), gradients.cpu()


def error(got, expected):
    return ((got - expected).norm() / expected.norm()).item()


def assert_close_passes(config, device, precision, least, most):
    """Losses and gradients are about those of the CPU, the latter no nearer than they can be."""
    (loss, got), (expected_loss, expected) = (
        passes(config, *where) for where in ((device, precision), ("cpu",))
    )
    assert loss.dtype == torch.float32
    assert error(loss, expected_loss) < most
    assert least <= error(got, expected) < most


def test_batches_are_those_of_the_cpu(gpu):
    config = override(UNET, {"flip": True, "augment": 0.5})
    there, here = batch_of(config, gpu), batch_of(config, "cpu")
    for name in ("labels", "dropout"):
        assert torch.equal(getattr(there, name).cpu(), getattr(here, name))
    for name in ("x0", "t", "noise"):
        assert getattr(there, name).device.type == gpu
        torch.testing.assert_close(getattr(there, name).cpu(), getattr(here, name))


@pytest.mark.usefixtures("deterministic")
def test_times_by_weights_are_those_of_the_cpu(gpu):
    """Weights are added up on the host, so densities are equal to the bit.

    Of times the last place is left open: a GPU divides by a number by multiplying with 1 / number.
    """
    options = {"time_density": "importance", "time_options": {"weights": (1.0, 3.0, 0.1)}}
    config = override(UNET, options)
    there, here = (training_times(config, torch.arange(64, device=at)) for at in (gpu, "cpu"))
    torch.testing.assert_close(there.t.cpu(), here.t, rtol=2**-52, atol=0)
    assert torch.equal(there.density.cpu(), here.density)


def test_an_imported_schedule_can_be_captured(cuda):
    """Once its levels are on the device."""
    betas = {"logsnr_schedule": "vfn.interop.betas:betas_schedule", "logsnr_min": None}
    schedule = schedule_of(override(UNET, {**betas, "logsnr_max": None}).diffusion)
    t = torch.linspace(0, 1, 9, dtype=torch.float64, device=cuda)
    graph, out = captured(lambda: schedule.time(schedule.logsnr(t)))
    t.copy_(t / 2)
    graph.replay()
    torch.testing.assert_close(out, schedule.time(schedule.logsnr(t)))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_losses_and_gradients_are_those_of_the_cpu(name, precision, gpu):
    assert_close_passes(NETWORKS[name], gpu, precision, *ERRORS[precision])


def test_tf32_is_at_work_where_it_is_asked_for(cuda):
    """In convolutions and in matrix products."""
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    for config in NETWORKS.values():
        assert_close_passes(config, cuda, "fp32", *ERRORS["tf32"])


def test_a_run_has_tf32_as_it_is_configured(tmp_path, gpu):
    """As its lines are logged; a caller gets back what they had."""
    seen = []
    for wanted in (True, False):
        config = override(UNET, {"tf32": wanted, "steps": 1})
        train(
            config,
            tmp_path / str(wanted),
            device=gpu,
            callbacks=[lambda _: seen.append(tf32_flags())],
        )
        assert {*seen} == {(wanted, wanted)}
        assert tf32_flags() == (False, False)  # as all tests of a GPU have it
        seen.clear()


def test_a_run_leaves_the_generators_of_all_devices_alone(tmp_path, gpu):
    """It is on the last of them, and "cuda" is the first again."""
    last = f"{gpu}:{torch.cuda.device_count() - 1}" if gpu == "cuda" else gpu

    def states():
        return [torch.get_rng_state(), *(torch.cuda.get_rng_state_all() if gpu == "cuda" else ())]

    before = states()
    train(override(UNET, {"steps": 1}), tmp_path, device=last)
    assert all(map(torch.equal, states(), before))
    assert gpu == "cpu" or torch.cuda.current_device() == 0


def run(config, out, device, **more):
    """Losses of a run's steps."""
    train(config, out, device=device, **more)
    return losses(out)


@pytest.mark.usefixtures("deterministic")
@pytest.mark.parametrize("optimizer", get_args(Optimizer))
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_run_has_the_losses_of_the_cpu_and_repeats(precision, optimizer, gpu, tmp_path):
    """With attention and dropout; bit for bit, where torch is told to be deterministic."""
    plain = override(UNET, {"optimizer": optimizer})
    config = override(plain, {"precision": precision})
    first, again = (run(config, tmp_path / name, gpu) for name in "ab")
    assert differing(tmp_path / "a", tmp_path / "b") == []
    assert first == again
    expected = run(plain, tmp_path / "cpu", "cpu")
    exact = 1e-4 if optimizer == "adamw" else 1e-3  # Muon raises rounding with small values
    assert first == pytest.approx(expected, rel=exact if precision == "fp32" else 0.05)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_normalisation_in_half_precision(dtype, training, gpu):
    """Rounded once where nothing is learnt, else with mean and deviation; for convolutions."""
    x, norm = 1 + torch.randn(2, 64, 8, 8), group_norm(64)
    torch.nn.init.normal_(norm.weight)
    x = x.to(dtype).contiguous(memory_format=torch.channels_last)
    exact = norm.double()(x.double()).detach()
    there = norm.float().to(gpu)
    with torch.set_grad_enabled(training), autocast("bf16", torch.device(gpu)):
        got = there(x.to(gpu))
    assert got.dtype == dtype
    assert got.is_contiguous(memory_format=torch.channels_last)
    units = 3 if training else 1
    error = (got.cpu().double() - exact).abs().max()
    assert error < units * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("order", ["gpu to cpu", "cpu to gpu"])
def test_a_run_goes_on_on_another_device(order, gpu, tmp_path):
    devices = [gpu, "cpu"] if order == "gpu to cpu" else ["cpu", gpu]
    config = override(UNET, {"ema_profiles": [0.1], "learned_weight": True})
    run(override(config, {"steps": 2}), tmp_path / "moved", devices[0])
    moved = run(config, tmp_path / "moved", devices[1], resume=True)
    assert moved == pytest.approx(run(config, tmp_path / "stayed", "cpu"), rel=1e-4)
    opened = [vfn.load(tmp_path / "moved", device) for device in devices]
    assert opened[0].digest == opened[1].digest
    assert {value.device.type for value in vfn.load(tmp_path / "moved", gpu).params.values()} == {
        gpu
    }


@pytest.mark.parametrize("sampler", SOLVERS)
def test_pictures_are_those_of_the_cpu(sampler, gpu):
    """Up to a level of grey, where a value lies between two.

    The network is a smooth one: of steps that follow the values a rough one has some refused here
    and taken there, after which its pictures are 30 levels apart. So they are on a CPU, too, where
    parameters differ by 3e-7 of themselves; of this network they then are the same.
    """
    here, there = (
        replace(
            untrained(UNET, SHAPE, device),
            params=dict(network(UNET, device, stir=0.01).named_parameters()),
        )
        for device in ("cpu", gpu)
    )
    asked = {"sampler": sampler, "guidance": 1.0}
    asked |= {} if sampler == "adaptive" else {"steps": 4}
    drawn, expected = (each.sample(8, **asked) for each in (there, here))
    assert drawn.images.device.type == "cpu"
    assert drawn.labels == expected.labels
    assert (drawn.images.int() - expected.images.int()).abs().max() <= 1


def test_figures_are_those_of_the_cpu(gpu):
    """Features of pixels, their distance, neighbours and classifier."""
    fake = load_dataset("digits", "train").images[:200]
    found = [
        {
            figure.key: figure.value
            for figure in judge("dataset:digits:test", fake, device=at).figures
        }
        for at in (gpu, "cpu")
    ]
    assert found[0] == pytest.approx(found[1], rel=1e-4)


def test_attention_in_half_precision(gpu):
    """Its fused kernels, to four units in the last place of float64 of the same rounded inputs."""
    torch.manual_seed(0)
    for dtype in (torch.bfloat16, torch.float16):
        q, k, v = torch.randn(3, 2, 2, 64, 32).to(dtype)
        weights = (q.double() @ k.double().mT / 32**0.5).softmax(-1)
        exact = weights @ v.double()
        got = attend(q.to(gpu), k.to(gpu), v.to(gpu)).cpu()
        assert got.dtype == dtype
        assert (got - exact).abs().max() < 4 * torch.finfo(dtype).eps * exact.abs().max()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_compiled_run_has_the_losses_of_an_eager_one(precision, cuda, tmp_path):
    """And draws its pictures: code is generated, keys of dropout and all."""
    config = override(UNET, {"precision": precision})
    eager = run(config, tmp_path / "eager", cuda)
    compiled = run(override(config, {"compile": True}), tmp_path / "compiled", cuda)
    assert compiled == pytest.approx(eager, rel=1e-4 if precision == "fp32" else 0.05)
    drawn, expected = (
        vfn.load(tmp_path / "eager", cuda, compiled=asked).sample(4).images.int()
        for asked in (True, False)
    )
    assert (drawn - expected).abs().max() <= 1


def captured(work):
    """A CUDA graph of some work, done three times on another stream before, and what it gave."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = work()
    return graph, out


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_attention_of_the_unet_takes_a_fused_kernel(cuda, precision):
    """torch raises where none of them can be taken."""
    batch, fused = batch_of(UNET, cuda, 0), [SDPBackend.FLASH_ATTENTION]
    fused.append(SDPBackend.EFFICIENT_ATTENTION)
    with sdpa_kernel(fused), autocast(precision, torch.device(cuda)):
        batch_loss(network(UNET, cuda), batch, UNET.diffusion).mean().backward()


def test_a_step_of_sampling_can_be_captured(cuda):
    """A CUDA graph of network and step, replayed over a grid, is the loop."""
    trained = untrained(UNET, SHAPE, cuda)
    model = network(UNET, cuda).eval()
    trained = replace(trained, model=model, params=dict(model.named_parameters()))
    denoise = trained.denoiser(labels=["3", "7"], guidance=0.5)
    grid = sampling_grid("time", schedule_of(UNET.diffusion), 5)
    levels = grid.to(cuda)
    z, t, s = torch.randn(2, *SHAPE.size, device=cuda), levels[:1].repeat(2), levels[1:2].repeat(2)

    def step():
        with torch.no_grad():
            return ddim_step(z, denoise(z, t), t, s)

    graph, out = captured(step)
    start = torch.randn_like(z)
    z.copy_(start)
    for here, there in pairwise(levels):
        t.fill_(here)
        s.fill_(there)
        graph.replay()
        z.copy_(out)
    with torch.no_grad():
        expected = sample(denoise, start, grid, SOLVERS["ddim"].load()(), final="step").x0
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)


def test_both_passes_of_training_can_be_captured(cuda):
    """Losses and gradients of other pictures in the place of those that were captured."""
    model, batch = network(UNET, cuda), batch_of(UNET, cuda)

    def both():
        for param in model.parameters():
            param.grad = None
        with keyed_dropout(batch.dropout):
            loss = batch_loss(model, batch, UNET.diffusion)
        loss.mean().backward()
        return loss

    graph, loss = captured(both)
    gradients = [param.grad for param in model.parameters()]
    fresh = batch_of(UNET, cuda, step=1)
    for place, value in zip(batch, fresh, strict=True):
        if isinstance(place, torch.Tensor):
            place.copy_(value)
    graph.replay()
    got = [loss.detach().clone(), *(gradient.clone() for gradient in gradients)]
    expected = [both().detach(), *(param.grad for param in model.parameters())]
    for mine, other in zip(got, expected, strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-5)


def test_cuda_graphs_of_the_compiler_serve_a_training_step(cuda):
    """``train_step`` takes any callable: this one is captured by torch.compile."""
    found = []
    for mode in (None, "reduce-overhead"):
        model = network(UNET, cuda)
        called = torch.compile(model, mode=mode) if mode else model
        state = init_state(model, UNET.train)
        found.append([
            train_step(state, called, [batch_of(UNET, cuda, step)], UNET).loss.item()
            for step in range(5)
        ])  # fmt: skip
    assert found[1] == pytest.approx(found[0], rel=1e-4)


@pytest.mark.parametrize("optimizer", get_args(Optimizer))
@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_a_training_step_does_not_wait_for_the_gpu(precision, optimizer, cuda):
    """Once its batch is there; torch raises where something would wait."""
    config = override(UNET, {"precision": precision, "optimizer": optimizer})
    model = network(config, cuda)
    state, batches = init_state(model, config.train), [batch_of(config, cuda, i) for i in range(2)]
    train_step(state, model, batches[:1], config)  # libraries start with the first
    torch.cuda.set_sync_debug_mode("error")
    try:
        train_step(state, model, batches[1:], config)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.usefixtures("deterministic")
def test_one_process_over_nccl_trains_as_without(gpu):
    """Over gloo on a CPU: DistributedDataParallel, micro-batches, sums, and the group beside."""
    device = torch.device(gpu, 0) if gpu == "cuda" else torch.device(gpu)
    backend = "nccl" if gpu == "cuda" else "gloo"
    dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1)
    try:
        control = dist.new_group(backend="gloo")
        world = World(0, 2, device, control)  # 2, or nobody would be asked
        assert total(torch.full((3,), 2.0, device=device), world).tolist() == [2, 2, 2]
        assert largest(7, world) == 7
        config = override(UNET, {"accumulate": 2})
        found = []
        for wrap in (lambda model: model, DistributedDataParallel):
            model = network(config, gpu)
            state, called = init_state(model, config.train), wrap(model)
            for step in range(2):
                parts = [batch_of(config, gpu, 2 * step + i, size=8) for i in range(2)]
                train_step(state, called, parts, config)
            found.append(torch.cat([p.detach().flatten() for p in state.params.values()]))
    finally:
        dist.destroy_process_group()
    assert error(found[1], found[0]) < 1e-5


def test_free_memory_is_some_of_the_card_s(cuda):
    total_bytes = torch.cuda.get_device_properties(0).total_memory
    free = free_memory(cuda)
    assert 0 < free <= total_bytes
    held = torch.zeros(2**28, device=cuda)
    assert free_memory(cuda) <= free - held.numel() * 2


def test_too_little_memory_is_said_in_one_line(cuda):
    with (
        pytest.raises(ValueError, match=r"out of memory while drawing .* more were wanted\); use"),
        in_memory("drawing 9 pictures at once", "use --batch 4"),
    ):
        torch.empty(2**42, device=cuda)


def test_a_device_that_is_not_there_is_refused(cuda):
    with pytest.raises(ValueError, match=r"device cuda:99 asked for, but this machine has"):
        untrained(UNET, SHAPE, f"{cuda}:99")
