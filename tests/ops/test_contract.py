"""What every op keeps: its inputs, the dtype, the shape, and the transforms it works under."""

import pytest
import torch

from vfn import ops
from vfn.ops import Prediction

# Each case is a function of data x, y, n [B, 4, 3] and noise levels t, s [B] with t < s.
ELEMENTWISE = {
    "alpha": lambda x, y, n, t, s: ops.alpha_sigma(9 * x).alpha,
    "sigma": lambda x, y, n, t, s: ops.alpha_sigma(9 * x).sigma,
    "log_alpha": lambda x, y, n, t, s: ops.log_alpha_sigma(9 * x).log_alpha,
    "log_sigma": lambda x, y, n, t, s: ops.log_alpha_sigma(9 * x).log_sigma,
    "cosine_logsnr": lambda x, y, n, t, s: ops.cosine_logsnr(x.sigmoid()),
    "cosine_time": lambda x, y, n, t, s: ops.cosine_time(4 * x),
    "linear_logsnr": lambda x, y, n, t, s: ops.linear_logsnr(x.sigmoid()),
    "linear_time": lambda x, y, n, t, s: ops.linear_time(4 * x),
    "sigmoid_logsnr": lambda x, y, n, t, s: ops.sigmoid_logsnr(x.sigmoid()),
    "sigmoid_time": lambda x, y, n, t, s: ops.sigmoid_time(4 * x),
    "legacy_logsnr": lambda x, y, n, t, s: ops.legacy_logsnr(x.sigmoid()),
    "legacy_time": lambda x, y, n, t, s: ops.legacy_time(2 * x),
    "discrete_time": lambda x, y, n, t, s: ops.discrete_time(x.sigmoid(), 7) + 0 * x,
    "q_sample": lambda x, y, n, t, s: ops.q_sample(x, t, n),
    "q_posterior": lambda x, y, n, t, s: ops.q_posterior(x, y, t, s).mean,
    "q_posterior logvar": lambda x, y, n, t, s: (
        ops.q_posterior(x, y, t, s, "fixed_medium", 0.3).logvar.exp() * x
    ),
    "x0_from_eps": lambda x, y, n, t, s: ops.x0_from_eps(x, y, t),
    "x0_from_v": lambda x, y, n, t, s: ops.x0_from_v(x, y, t),
    "x0_from_both": lambda x, y, n, t, s: ops.x0_from_both(x[..., :2, :], y, t).repeat_interleave(
        2, -2
    ),
    "eps_from_x0": lambda x, y, n, t, s: ops.eps_from_x0(x, y, t),
    "eps_from_v": lambda x, y, n, t, s: ops.eps_from_v(x, y, t),
    "v_from_x0": lambda x, y, n, t, s: ops.v_from_x0(x, y, t),
    "v_from_eps": lambda x, y, n, t, s: ops.v_from_eps(x, y, t),
    "v_from_x0_eps": lambda x, y, n, t, s: ops.v_from_x0_eps(x, y, t),
    "predict x0": lambda x, y, n, t, s: sum(ops.predict(x, y, t, "x0")),
    "predict eps": lambda x, y, n, t, s: sum(ops.predict(x, y, t, "eps")),
    "predict v": lambda x, y, n, t, s: sum(ops.predict(x, y, t, "v")),
    "ddim_step": lambda x, y, n, t, s: ops.ddim_step(x, y, t, s),
    "ddim_step eta": lambda x, y, n, t, s: ops.ddim_step(x, y, t, s, 0.5, n),
    "ancestral_step": lambda x, y, n, t, s: ops.ancestral_step(x, y, t, s, n),
    "guide": lambda x, y, n, t, s: ops.guide(x, y, 0.5),
}
# These give one value a sample.
REDUCING = {
    f"mse_loss {reweight}": lambda x, y, n, t, s, reweight=reweight: ops.mse_loss(
        Prediction(x, y, n), Prediction(y, n, x), reweight
    )
    for reweight in ("constant", "snr", "truncated_snr", "alpha2")
}
ALL = ELEMENTWISE | REDUCING
BATCH = 3

elementwise = pytest.mark.parametrize("op", ELEMENTWISE.values(), ids=ELEMENTWISE)
every_op = pytest.mark.parametrize("op", ALL.values(), ids=ALL)


def inputs(batch=BATCH, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(batch, 4, 3, generator=generator).to(dtype) for _ in range(3)]
    noisy = torch.linspace(-3, 3, batch, dtype=torch.float64)
    return [*data, noisy, noisy + 0.7]


def unstacked(args):
    return zip(*args, strict=True)


def test_registry_names_every_op_over_data():
    """An op that is added to vfn.ops is added here, or listed with the file that tests it."""
    elsewhere = {
        "ema_decay", "ema_update", "ema_update_", "epoch_permutation", "fit_gaussian", "frechet_distance",
        "keyed_bernoulli", "keyed_normal", "keyed_uniform", "logsnr_grid", "logsnr_schedule",
        "loss_weight", "nearest_distances", "posterior_logvar", "precision_recall", "sample",
        "alpha_sigma", "log_alpha_sigma",
    }  # fmt: skip
    functions = {name for name in ops.__all__ if name.islower()}
    assert functions - elsewhere == {name.split()[0] for name in ALL} - {
        "alpha", "sigma", "log_alpha", "log_sigma"
    }  # fmt: skip


@every_op
def test_inputs_are_left_alone(op):
    args = inputs()
    versions = [value._version for value in args]
    op(*args)
    assert [value._version for value in args] == versions
    assert all(torch.equal(a, b) for a, b in zip(args, inputs(), strict=True))


@every_op
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [BATCH, 0])
def test_dtype_and_shape_are_those_of_the_data(op, dtype, batch):
    got = op(*inputs(batch, dtype))
    assert got.dtype == dtype
    assert got.shape == ((batch,) if op in REDUCING.values() else (batch, 4, 3))
    assert got.isfinite().all()


@elementwise
def test_half_precision_is_the_rounded_result(op):
    """Inputs rounded alike: a few units of bfloat16, 2^-8, of terms up to exp(1.5) in size."""
    rounded = inputs(dtype=torch.bfloat16)
    exact = op(*(value.double() for value in rounded))
    torch.testing.assert_close(op(*rounded).double(), exact, rtol=0.05, atol=0.2)


@elementwise
def test_single_samples_are_rows_of_the_batch(op):
    args = inputs()
    rows = torch.stack([op(*sample) for sample in unstacked(args)])
    torch.testing.assert_close(rows, op(*args), rtol=1e-14, atol=1e-14)


@every_op
def test_vmap_is_a_loop(op):
    args = [torch.stack([value, value.flip(0)]) for value in inputs()]
    loop = torch.stack([op(*sample) for sample in unstacked(args)])
    torch.testing.assert_close(torch.vmap(op)(*args), loop, rtol=1e-14, atol=1e-14)


@every_op
def test_strides_do_not_matter(op):
    args = inputs()
    strided = [value.repeat_interleave(2, -1)[..., ::2] for value in args]
    strided[:3] = [value.mT.contiguous().mT for value in strided[:3]]
    assert not any(value.is_contiguous() for value in strided)
    torch.testing.assert_close(op(*strided), op(*args), rtol=1e-14, atol=1e-14)


@every_op
def test_gradients_are_those_of_finite_differences(op):
    args = [value.requires_grad_() for value in inputs()]
    assert torch.autograd.gradcheck(op, args, fast_mode=True)


# PyTorch's own forward-mode rules are still scripted when they are first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:FutureWarning")
@every_op
def test_forward_mode_agrees_with_backward_mode(op):
    args = inputs()
    tangents = [torch.ones_like(value) for value in args]
    _, forward = torch.func.jvp(lambda *a: op(*a).sum(), tuple(args), tuple(tangents))
    grads = torch.func.grad(lambda *a: op(*a).sum(), argnums=tuple(range(5)))(*args)
    backward = sum(grad.sum() for grad in grads)
    assert forward.isfinite()
    torch.testing.assert_close(forward, backward, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(
    "name",
    ["cosine_logsnr", "legacy_time", "q_sample", "predict v", "ddim_step eta", "ancestral_step"],
)
def test_compiles_without_a_graph_break(name):
    """Without code generation, which needs a C++ compiler and takes seconds an op."""
    op, args = ELEMENTWISE[name], inputs()
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(*args), op(*args), rtol=1e-14, atol=1e-14)
