"""What every op keeps: its inputs, the dtype, the shape, and the transforms it works under."""

from typing import NamedTuple

import pytest
import torch
from torch import Tensor

from vfn import ops
from vfn.ops import Prediction


class Inputs(NamedTuple):
    """Data x, y, n [B, 4, 3] and noise levels t < s [B]."""

    x: Tensor
    y: Tensor
    n: Tensor
    t: Tensor
    s: Tensor


# Each gives values in the shape of the data.
ELEMENTWISE = {
    "alpha": lambda a: ops.alpha_sigma(9 * a.x).alpha,
    "sigma": lambda a: ops.alpha_sigma(9 * a.x).sigma,
    "log_alpha": lambda a: ops.log_alpha_sigma(9 * a.x).log_alpha,
    "log_sigma": lambda a: ops.log_alpha_sigma(9 * a.x).log_sigma,
    "cosine_logsnr": lambda a: ops.cosine_logsnr(a.x.sigmoid()),
    "cosine_time": lambda a: ops.cosine_time(4 * a.x),
    "linear_logsnr": lambda a: ops.linear_logsnr(a.x.sigmoid()),
    "linear_time": lambda a: ops.linear_time(4 * a.x),
    "sigmoid_logsnr": lambda a: ops.sigmoid_logsnr(a.x.sigmoid()),
    "sigmoid_time": lambda a: ops.sigmoid_time(4 * a.x),
    "legacy_logsnr": lambda a: ops.legacy_logsnr(a.x.sigmoid()),
    "legacy_time": lambda a: ops.legacy_time(2 * a.x),
    "discrete_time": lambda a: ops.discrete_time(a.x.sigmoid(), 7) + 0 * a.x,
    "q_sample": lambda a: ops.q_sample(a.x, a.t, a.n),
    "q_posterior": lambda a: ops.q_posterior(a.x, a.y, a.t, a.s).mean,
    "q_posterior logvar": lambda a: (
        ops.q_posterior(a.x, a.y, a.t, a.s, "fixed_medium", 0.3).logvar.exp() * a.x
    ),
    "x0_from_eps": lambda a: ops.x0_from_eps(a.x, a.y, a.t),
    "x0_from_v": lambda a: ops.x0_from_v(a.x, a.y, a.t),
    "x0_from_both": lambda a: ops.x0_from_both(a.x[..., :2, :], a.y, a.t).repeat_interleave(2, -2),
    "eps_from_x0": lambda a: ops.eps_from_x0(a.x, a.y, a.t),
    "eps_from_v": lambda a: ops.eps_from_v(a.x, a.y, a.t),
    "v_from_x0": lambda a: ops.v_from_x0(a.x, a.y, a.t),
    "v_from_eps": lambda a: ops.v_from_eps(a.x, a.y, a.t),
    "v_from_x0_eps": lambda a: ops.v_from_x0_eps(a.x, a.y, a.t),
    "predict x0": lambda a: sum(ops.predict(a.x, a.y, a.t, "x0")),
    "predict eps": lambda a: sum(ops.predict(a.x, a.y, a.t, "eps")),
    "predict v": lambda a: sum(ops.predict(a.x, a.y, a.t, "v")),
    "ddim_step": lambda a: ops.ddim_step(a.x, a.y, a.t, a.s),
    "ddim_step eta": lambda a: ops.ddim_step(a.x, a.y, a.t, a.s, 0.5, a.n),
    "ddim_inverse_step": lambda a: ops.ddim_inverse_step(a.x, a.y, a.s, a.t),
    "ancestral_step": lambda a: ops.ancestral_step(a.x, a.y, a.t, a.s, a.n),
    "renoise_step": lambda a: ops.renoise_step(a.x, a.s, a.t, a.n),
    "heun_step": lambda a: ops.heun_step(a.x, a.y, a.t, a.s, a.n),
    "dpmpp_2m_step": lambda a: ops.dpmpp_2m_step(a.x, a.y, a.t, a.s, a.n, a.t - 0.4),
    "dpmpp_2m_step first": lambda a: ops.dpmpp_2m_step(a.x, a.y, a.t, a.s),
    "dpmpp_2m_step eta": lambda a: ops.dpmpp_2m_step(a.x, a.y, a.t, a.s, a.n, a.t - 0.4, 1.0, a.n),
    "dpmpp_3m_step": lambda a: ops.dpmpp_3m_step(
        a.x, a.y, a.t, a.s, a.n, a.t - 0.4, a.x, a.t - 1.3
    ),
    "dpmpp_3m_step long": lambda a: ops.dpmpp_3m_step(
        a.x, a.y, a.t, a.s + 9, a.n, a.t - 3, a.x, a.t - 9, 1.0
    ),
    "unic_step": lambda a: ops.unic_step(a.x, a.y, a.t, a.s, a.n, a.x, a.t - 0.4),
    "unic_step first": lambda a: ops.unic_step(a.x, a.y, a.t, a.s, a.n),
    "ab2_step": lambda a: ops.ab2_step(a.x, a.y, a.t, a.s, a.n, a.t - 0.4),
    "ab2_step back": lambda a: ops.ab2_step(a.x, a.y, a.s, a.t, a.n, a.s + 0.4),
    "am2_step": lambda a: ops.am2_step(a.x, a.y, a.t, a.s, a.n),
    "dequantize": lambda a: ops.dequantize(a.x, a.y),
    "guide": lambda a: ops.guide(a.x, a.y, 0.5),
}
# These give one value a sample.
REDUCING = {
    f"mse_loss {reweight}": lambda a, reweight=reweight: ops.mse_loss(
        Prediction(a.x, a.y, a.n), Prediction(a.y, a.n, a.x), reweight
    )
    for reweight in ("constant", "snr", "truncated_snr", "alpha2", "edm")
}
ALL = ELEMENTWISE | REDUCING
BATCH = 3

elementwise = pytest.mark.parametrize("op", ELEMENTWISE.values(), ids=ELEMENTWISE)
every_op = pytest.mark.parametrize("op", ALL.values(), ids=ALL)


def inputs(batch=BATCH, dtype=torch.float64):
    generator = torch.Generator().manual_seed(0)
    data = [torch.randn(batch, 4, 3, generator=generator).to(dtype) for _ in range(3)]
    noisy = torch.linspace(-3, 3, batch, dtype=torch.float64)
    return Inputs(*data, noisy, noisy + 0.7)


def one_by_one(op, args):
    return torch.stack([op(Inputs(*sample)) for sample in zip(*args, strict=True)])


def of_tensors(op):
    """The op over five tensors, as autograd wants it."""
    return lambda *tensors: op(Inputs(*tensors))


def assert_same(got, expected, tolerance=1e-14):
    """float64 results of the same formula, up to a few roundings of terms of size 10."""
    torch.testing.assert_close(got, expected, rtol=tolerance, atol=tolerance)


def test_registry_names_every_op_over_data():
    """An op that is added to vfn.ops is added here, or to the list of what other files test."""
    elsewhere = """alpha_sigma ema_decay ema_update ema_update_ epoch_permutation fit_gaussian
        frechet_distance keyed_bernoulli keyed_normal keyed_uniform log_alpha_sigma logsnr_grid
        logsnr_schedule loss_weight nearest_distances posterior_logvar precision_recall sample
        check_zero_snr classifier_free combine discretized_gaussian_loglik distill_target
        dynamic_threshold hybrid_loss importance_time interpolate_schedule interval_strength
        karras_grid kl_loss learned_logvar logit_normal_time lognormal_logsnr low_discrepancy_time
        mapped normal_kl posthoc_ema_weights power_ema_decay prior_bpd rescale shift_schedule
        sigma_rel_to_gamma stratified_time uniform_logsnr_grid vlb_bpd
        learned_ancestral_solver split_variance step_logsnrs
        adams_solver continuous_vlb_bpd dpmpp_2m_solver dpmpp_3m_solver edit_start encode
        flow_loglik heun_solver inpaint loglik_bpd mean_and_error sample_adaptive sampler
        sampling_grid single_step slerp unipc_solver with_known
        bootstrap_indices bootstrap_interval density_coverage frechet_infinity gaussian
        inception_score kernel_distance merge_moments moments neighbourhood"""
    functions = {name for name in ops.__all__ if name.islower()} - set(elsewhere.split())
    scales = {"alpha", "sigma", "log_alpha", "log_sigma"}
    assert functions == {name.split()[0] for name in ALL} - scales


@every_op
def test_inputs_are_left_alone(op):
    args = inputs()
    versions = [value._version for value in args]
    op(args)
    assert [value._version for value in args] == versions
    assert all(torch.equal(a, b) for a, b in zip(args, inputs(), strict=True))


@every_op
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("batch", [BATCH, 0])
def test_dtype_and_shape_are_those_of_the_data(op, dtype, batch):
    got = op(inputs(batch, dtype))
    assert got.dtype == dtype
    assert got.shape == ((batch,) if op in REDUCING.values() else (batch, 4, 3))
    assert got.isfinite().all()


@elementwise
def test_half_precision_is_the_rounded_result(op):
    """Inputs rounded alike: a few units of bfloat16, 2^-8, of terms up to 2 exp(1.5) in size."""
    args = inputs(dtype=torch.bfloat16)
    exact = op(Inputs(*(value.double() for value in args)))
    torch.testing.assert_close(op(args).double(), exact, rtol=0.02, atol=0.1)


@elementwise
def test_single_samples_are_rows_of_the_batch(op):
    assert_same(one_by_one(op, inputs()), op(inputs()))


@every_op
def test_vmap_is_a_loop(op):
    args = Inputs(*(torch.stack([value, value.flip(0)]) for value in inputs()))
    assert_same(torch.vmap(op)(args), one_by_one(op, args))


@every_op
def test_strides_do_not_matter(op):
    args = inputs()
    strided = Inputs(*(value.repeat_interleave(2, 0)[::2] for value in args))
    assert not any(value.is_contiguous() for value in strided)
    assert_same(op(strided), op(args))
    transposed = Inputs(*(value.mT.contiguous().mT for value in args[:3]), *args[3:])
    assert_same(op(transposed), op(args))


@every_op
def test_gradients_are_those_of_finite_differences(op):
    args = [value.requires_grad_() for value in inputs()]
    assert torch.autograd.gradcheck(of_tensors(op), args, fast_mode=True)


# PyTorch's own forward-mode rules are still scripted when they are first used.
@pytest.mark.filterwarnings("ignore:.torch.jit.script. is:FutureWarning")
@every_op
def test_forward_mode_agrees_with_backward_mode(op):
    args = inputs()
    tangents = tuple(torch.ones_like(value) for value in args)
    _, forward = torch.func.jvp(lambda *a: of_tensors(op)(*a).sum(), tuple(args), tangents)
    backward = torch.func.grad(lambda a: op(a).sum())(args)
    assert forward.isfinite()
    assert_same(forward, sum(grad.sum() for grad in backward), 1e-11)


@every_op
def test_compiles_whole_and_once(op):
    """One graph: nothing waits for a value; and other values do not compile it again.

    Without code generation, which needs a C++ compiler and takes seconds an op.
    """
    first, second = inputs(), Inputs(*(value + 0.25 for value in inputs()))
    torch._dynamo.reset()
    compiled = torch.compile(op, fullgraph=True, backend="aot_eager")
    assert_same(compiled(first), op(first))
    with torch._dynamo.config.patch(error_on_recompile=True):
        assert_same(compiled(second), op(second))
