"""Conversions between x0, eps, v and u: 50 digits, golden numbers, round trips."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vfn import ops
from vfn.ops import Prediction, predict, q_sample, v_from_x0_eps, x0_from_both

LOGSNRS = torch.linspace(-30, 30, 121, dtype=torch.float64)
PRECISIONS = [(torch.float64, 4), (torch.float32, 1), (torch.bfloat16, 1)]
OUT_TYPES = ("x0", "eps", "v", "u", "both")

# Coefficients of the first and second argument, from z = alpha x0 + sigma eps,
# v = alpha eps - sigma x0 and u = eps - x0.
COEFFICIENTS = {
    "x0_from_eps": lambda alpha, sigma: (1 / alpha, -sigma / alpha),
    "x0_from_v": lambda alpha, sigma: (alpha, -sigma),
    "eps_from_x0": lambda alpha, sigma: (1 / sigma, -alpha / sigma),
    "eps_from_v": lambda alpha, sigma: (sigma, alpha),
    "v_from_x0": lambda alpha, sigma: (alpha / sigma, -1 / sigma),
    "v_from_eps": lambda alpha, sigma: (-sigma / alpha, 1 / alpha),
    "v_from_x0_eps": lambda alpha, sigma: (-sigma, alpha),
    "x0_from_u": lambda alpha, sigma: (1 / (alpha + sigma), -sigma / (alpha + sigma)),
    "eps_from_u": lambda alpha, sigma: (1 / (alpha + sigma), alpha / (alpha + sigma)),
    "v_from_u": lambda alpha, sigma: ((alpha - sigma) / (alpha + sigma), 1 / (alpha + sigma)),
    "u_from_x0": lambda alpha, sigma: (1 / sigma, -(alpha + sigma) / sigma),
    "u_from_eps": lambda alpha, sigma: (-1 / alpha, (alpha + sigma) / alpha),
    "u_from_v": lambda alpha, sigma: (sigma - alpha, alpha + sigma),
}


def truth(logsnr, dtype=torch.float64):
    """z and the Prediction that it was made of, at one noise level per sample."""
    logsnr = torch.as_tensor(logsnr, dtype=torch.float64).reshape(-1)
    generator = torch.Generator().manual_seed(0)
    shape = (len(logsnr), 2, 3)
    x0, eps = (torch.randn(shape, dtype=dtype, generator=generator) for _ in range(2))
    target = Prediction(x0, eps, v_from_x0_eps(x0, eps, logsnr))
    return q_sample(x0, logsnr, eps), target, logsnr


def output(target, out_type):
    """What a perfect network of the type puts out."""
    return torch.cat(target[:2], dim=1) if out_type == "both" else getattr(target, out_type)


@pytest.mark.parametrize("name", COEFFICIENTS)
@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_coefficients_match_50_digits(name, dtype, bound, exact_scales, max_ulp):
    op = getattr(ops, name)
    one, zero = torch.ones(len(LOGSNRS), dtype=dtype), torch.zeros(len(LOGSNRS), dtype=dtype)
    exact = [COEFFICIENTS[name](*exact_scales(logsnr)) for logsnr in LOGSNRS]
    first, second = zip(*exact, strict=True)
    assert max_ulp(op(one, zero, LOGSNRS), first) <= bound
    assert max_ulp(op(zero, one, LOGSNRS), second) <= bound


@pytest.mark.parametrize(("dtype", "bound"), PRECISIONS)
def test_both_coefficients_match_50_digits(dtype, bound, exact_scales, max_ulp):
    zero = torch.zeros(len(LOGSNRS), 1, dtype=dtype)
    both = torch.cat([zero, zero], dim=1)
    of_x0, of_eps = both.clone(), both.clone()
    of_x0[:, 0], of_eps[:, 1] = 1, 1
    alphas, sigmas = zip(*(exact_scales(logsnr) for logsnr in LOGSNRS), strict=True)
    products = [-alpha * sigma for alpha, sigma in zip(alphas, sigmas, strict=True)]
    assert max_ulp(x0_from_both(zero + 1, both, LOGSNRS), alphas) <= bound
    assert max_ulp(x0_from_both(zero, of_x0, LOGSNRS), [sigma**2 for sigma in sigmas]) <= bound
    assert max_ulp(x0_from_both(zero, of_eps, LOGSNRS), products) <= bound


@pytest.mark.parametrize(
    "name", ["x0_from_eps", "x0_from_v", "eps_from_v", "eps_from_x0", "v_from_x0"]
)
def test_conversion_matches_golden(name, golden_math):
    """To 2e-6 of the larger term, 16 units of float32."""
    op = getattr(ops, name)
    z, logsnr = golden_math["conv/x_t"], golden_math["conv/logsnr"]
    out = golden_math[f"conv/{name.split('_from_')[1]}"]
    zero = torch.zeros_like(z)
    largest = torch.maximum(op(z, zero, logsnr).abs(), op(zero, out, logsnr).abs())
    error = (op(z, out, logsnr) - golden_math[f"conv/{name}"]).abs()
    assert (error / largest).max() <= 2e-6


def test_process_and_both_match_golden(golden_math):
    x0, eps, logsnr = (golden_math[f"conv/{key}"] for key in ("x0", "eps", "logsnr"))
    close = {"rtol": 0, "atol": 2e-6}  # of terms of size 1
    torch.testing.assert_close(q_sample(x0, logsnr, eps), golden_math["conv/x_t"], **close)
    torch.testing.assert_close(v_from_x0_eps(x0, eps, logsnr), golden_math["conv/v"], **close)
    got = x0_from_both(golden_math["conv/x_t"], golden_math["conv/both"], logsnr)
    torch.testing.assert_close(got, golden_math["conv/x0_from_both"], **close)


def straight(t):
    """The straight path of some data and noise at times [B]: x_t and u, and z as we have it."""
    generator = torch.Generator().manual_seed(1)
    x0, eps = torch.randn(2, len(t), 2, 3, generator=generator, dtype=torch.float64)
    time = t.view(-1, 1, 1)
    x_t = (1 - time) * x0 + time * eps
    return x0, eps, x_t, eps - x0, x_t / ((1 - time) ** 2 + time**2).sqrt()


def test_u_is_the_velocity_of_the_straight_path():
    """To 1e-13, of what is not magnified by an end; 1/t and 1/(1-t) are divided out."""
    t = torch.linspace(0.01, 0.99, 99, dtype=torch.float64)
    x0, eps, _, u, z = straight(t)
    logsnr = 2 * torch.log((1 - t) / t)
    v = v_from_x0_eps(x0, eps, logsnr)
    close = {"rtol": 1e-13, "atol": 1e-13}
    torch.testing.assert_close(q_sample(x0, logsnr, eps), z, **close)
    scale = ((1 - t) ** 2 + t**2).sqrt().view(-1, 1, 1)
    time = t.view(-1, 1, 1)
    torch.testing.assert_close(u, (v - (1 - 2 * time) * z) / scale, **close)
    for got, expected in (
        (ops.x0_from_u(z, u, logsnr), x0),
        (ops.eps_from_u(z, u, logsnr), eps),
        (ops.v_from_u(z, u, logsnr), v),
        (ops.u_from_v(z, v, logsnr), u),
        (ops.u_from_x0(z, x0, logsnr) * time, u * time),
        (ops.u_from_eps(z, eps, logsnr) * (1 - time), u * (1 - time)),
    ):
        torch.testing.assert_close(got, expected, **close)
    for out_type, out in (("u", u), ("v", v), ("x0", x0), ("eps", eps)):
        pred = predict(z, out, logsnr, out_type)
        torch.testing.assert_close(pred.u * time * (1 - time), u * time * (1 - time), **close)


@pytest.mark.parametrize("step", [0.3, 1e-3, -0.3])
def test_an_euler_step_of_the_flow_is_a_ddim_step(step):
    """Of any prediction: x_(t-h) = x_t - h u."""
    t = torch.linspace(0.31, 0.69, 20, dtype=torch.float64)
    s = t - step
    _, _, x_t, u, z = straight(t)
    wrong = u.flip(0) + 0.3
    at_t, at_s = (2 * torch.log((1 - time) / time) for time in (t, s))
    euler = x_t - step * wrong
    back = ((1 - s) ** 2 + s**2).sqrt().view(-1, 1, 1)
    x0 = ops.x0_from_u(z, wrong, at_t)
    move = ops.ddim_step if step > 0 else ops.ddim_inverse_step
    torch.testing.assert_close(move(z, x0, at_t, at_s) * back, euler, rtol=1e-13, atol=1e-13)


def test_u_has_a_limit_at_both_ends():
    z, u = torch.randn(2, 2, 3, dtype=torch.float64)
    ends = torch.tensor([math.inf, -math.inf], dtype=torch.float64)
    torch.testing.assert_close(ops.x0_from_u(z, u, ends), torch.stack([z[0], z[1] - u[1]]))
    torch.testing.assert_close(ops.eps_from_u(z, u, ends), torch.stack([z[0] + u[0], z[1]]))
    torch.testing.assert_close(ops.v_from_u(z, u, ends), torch.stack([u[0] + z[0], u[1] - z[1]]))
    torch.testing.assert_close(ops.u_from_v(z, u, ends), torch.stack([u[0] - z[0], u[1] + z[1]]))


@pytest.mark.parametrize(
    ("name", "end"),
    [("u_from_x0", math.inf), ("eps_from_x0", math.inf), ("v_from_x0", math.inf),
     ("u_from_eps", -math.inf), ("x0_from_eps", -math.inf), ("v_from_eps", -math.inf)],
)  # fmt: skip
def test_what_cannot_be_found_at_an_end_is_refused(name, end):
    """Of a number; tensors are not looked at."""
    z = torch.ones(2, 3)
    gone = "noise" if end > 0 else "data"
    message = f"expected another logsnr than {end}, where z holds no {gone} .* from {name[-3:]}"
    with pytest.raises(ValueError, match=message.replace("_x0", "x0")):
        getattr(ops, name)(z, z, end)
    assert getattr(ops, name)(z, z, -end).isfinite().all()


@given(logsnr=st.floats(-12, 12), out_type=st.sampled_from(OUT_TYPES))
def test_perfect_output_predicts_the_truth(logsnr, out_type):
    """exp(12 / 2) = 400 magnifies the rounding of z, 1e-16."""
    z, target, logsnr = truth(logsnr)
    pred = predict(z, output(target, out_type), logsnr, out_type)
    for got, expected in zip(pred, target, strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-12)


@given(logsnr=st.floats(-12, 12), out_type=st.sampled_from(OUT_TYPES))
def test_any_prediction_is_consistent(logsnr, out_type):
    """x0, eps and v of any output compose z and v, however wrong the output is."""
    z, target, logsnr = truth(logsnr)
    pred = predict(z, 3 * output(target, out_type).flip(0, -1) + 1, logsnr, out_type)
    torch.testing.assert_close(q_sample(pred.x0, logsnr, pred.eps), z, rtol=0, atol=1e-11)
    v = v_from_x0_eps(pred.x0, pred.eps, logsnr)
    torch.testing.assert_close(v, pred.v, rtol=1e-11, atol=1e-11)


@given(logsnr=st.floats(-12, 12), pair=st.permutations(("x0", "eps", "v", "u")))
def test_conversion_round_trip(logsnr, pair):
    here, there, *_ = pair
    z, target, logsnr = truth(logsnr)
    forth = getattr(ops, f"{here}_from_{there}")(z, getattr(target, there), logsnr)
    back = getattr(ops, f"{there}_from_{here}")(z, forth, logsnr)
    torch.testing.assert_close(back, getattr(target, there), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("shape", [(2, 4, 5, 5), (4, 5, 5), (0, 4, 5, 5), (4,)])
def test_both_is_split_along_channels(shape):
    """Batched, unbatched, empty and flat: x̂ comes first, then ε̂."""
    dim = len(shape) - 3 if len(shape) > 2 else 0
    z, x_hat, eps_hat = torch.randn(3, *shape, dtype=torch.float64)
    both = torch.cat([x_hat, eps_hat], dim=dim)
    alpha = sigma = 0.5**0.5
    expected = 0.5 * x_hat + alpha * (z - sigma * eps_hat)
    torch.testing.assert_close(x0_from_both(z, both, 0.0), expected)


@pytest.mark.parametrize("name", COEFFICIENTS)
def test_shapes_that_differ_are_refused(name):
    with pytest.raises(ValueError, match=r"to have the shape of .*\(2, 3\), got \(2, 1\)"):
        getattr(ops, name)(torch.zeros(2, 3), torch.zeros(2, 1), torch.zeros(2))


@pytest.mark.parametrize("shape", [(2, 3, 4), (2, 9, 4), (6,), (2, 6, 8)])
def test_both_of_a_wrong_shape_is_refused(shape):
    with pytest.raises(ValueError, match=r"both to have the shape of z, \(2, 3, 4\), with twice"):
        x0_from_both(torch.zeros(2, 3, 4), torch.zeros(shape), torch.zeros(2))


def test_unknown_type_is_refused():
    with pytest.raises(ValueError, match="out_type to be one of x0, eps, v, u, both, got 'x_0'"):
        predict(torch.zeros(1, 1), torch.zeros(1, 1), 0.0, "x_0")


@pytest.mark.parametrize(
    ("out_type", "outputs"), [("v", 1), ("u", 1), ("x0", 1), ("eps", 1), ("both", 2)]
)
def test_variance_is_what_comes_after_the_prediction(out_type, outputs):
    z = torch.zeros(2, 3, 4, 4)
    out = torch.randn(2, 3 * outputs + 3, 4, 4)
    prediction, frac = ops.split_variance(z, out, out_type)
    assert torch.equal(prediction, out[:, : 3 * outputs])
    torch.testing.assert_close(torch.logit(frac), out[:, 3 * outputs :])
    plain = ops.split_variance(z, prediction, out_type)
    assert plain.out is prediction
    assert plain.frac is None


OVERFLOWING = ["x0_from_eps", "eps_from_x0", "v_from_x0", "v_from_eps", "u_from_x0", "u_from_eps"]


@pytest.mark.parametrize("name", OVERFLOWING)
def test_float16_is_refused_where_it_overflows(name):
    half = torch.ones(2, 3).half()
    with pytest.raises(TypeError, match=f"or float64 for {name}.*got float16"):
        getattr(ops, name)(half, half, torch.zeros(2))


@pytest.mark.parametrize("out_type", ["v", "u"])
@pytest.mark.parametrize("logsnr", [-20.0, 0.0, 20.0])
def test_float16_of_velocities_stays_in_range(logsnr, out_type):
    half = torch.ones(2, 3).half()
    pred = ops.predict(half, half, logsnr, out_type)
    assert all(part.isfinite().all() for part in (*pred, pred.u))
