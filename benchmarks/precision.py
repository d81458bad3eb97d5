"""How many digits do coefficients and schedules keep, against mpmath at 60 digits?

Largest error in units in the last place (ULP) over logsnr in [-30, 30] and pairs (t, s) whose
logsnr differ by 1e-6 to 40; for schedules over t from 0 and 1e-9 to 1, relative to max(1, |logsnr|)
because the zero of logsnr is arbitrary. Beside it what others get in float32 from the best table
they could hold: alpha^2 of the same logsnr, rounded once.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from typing import Any, NamedTuple
from unittest import mock

import mpmath as mp
import torch
from azula.noise import CosineSchedule, VPSchedule
from diffusers import DDIMScheduler, DDPMScheduler, DPMSolverMultistepScheduler
from torch import Tensor

from benchmarks.common import write_table
from vfn import ops

mp.mp.dps = 60
STEP = mp.mpf(10) ** -20  # of the central difference: 40 digits of the derivative are right
BARS = {torch.bfloat16: 1.0, torch.float32: 1.0, torch.float64: 4.0}
SLOPE_BARS = {torch.float32: 1e-6, torch.float64: 2e-15}
F32, F64 = torch.float32, torch.float64
Columns = tuple[Tensor, ...]
Number = Any  # of mpmath, which has no types
Exact = Callable[..., Number]
Other = Callable[[Columns], Tensor]  # what others compute


NOTE = """\
Values in ULP of the result: at most 1 in bfloat16 and float32, 4 in float64, none infinite or NaN.
Slopes are derivatives by logsnr through autograd, relative error: at most 1e-6 in float32 and
2e-15 in float64. That of the standard deviation of a step by the later logsnr is a difference of
two terms and crosses zero: its error is relative to the larger of them.
Ours are compared at the logsnr that they get: float64, but for alpha and sigma in a column of fewer
digits, whose logsnr is rounded to them first and counts as exact.
diffusers and DPM-Solver (as in diffusers) compute in float32 from a table of alpha^2 that is
rounded once, better than their cumulative product, and this rounding counts; ±10: only where
\\|logsnr\\| <= 10. Errors of schedules are in ULP of 1 where the value is less.
azula against its own formula, float32. Legacy schedule at t = 0: both sides are +inf."""


class Quantity(NamedTuple):
    """A formula in mpmath, the same by this library and in float32 by others."""

    name: str
    exact: Exact
    ours: Callable[[Columns, torch.dtype], Tensor]
    grid: Columns
    others: Mapping[str, Other]
    typed: bool = False  # arguments come in the dtype of the result, not in float64
    floor: float = 0.0
    derivative: bool = True
    # Where the derivative by the last argument crosses zero: the size of its terms.
    slope_terms: Other = lambda _: torch.zeros(())


def single_grid() -> Columns:
    return (torch.linspace(-30, 30, 361, dtype=F64),)


def pair_grid() -> Columns:
    gaps = torch.cat([10.0 ** torch.arange(-6, 1, dtype=F64), torch.tensor([3.0, 10, 20, 40])])
    low = torch.linspace(-30, 30, 61, dtype=F64)
    t, s = (low[:, None] + 0 * gaps).flatten(), (low[:, None] + gaps).flatten()
    return t[s <= 30], s[s <= 30]


def time_grid() -> Columns:
    near = 10.0 ** torch.arange(-9, -1, dtype=F64)
    return (torch.cat([torch.zeros(1), near, torch.linspace(0.01, 1, 200, dtype=F64), 1 - near]),)


@cache
def _exact(exact: Exact, points: tuple[tuple[float, ...], ...], wrt: int) -> Tensor:
    """The formula, or its derivative by argument ``wrt`` if >= 0, as high and low float64."""

    def value(point: tuple[float, ...]) -> tuple[float, float]:
        args = [mp.mpf(x) for x in point]
        if wrt < 0:
            result = exact(*args)
        else:
            up, down = ([*args[:wrt], args[wrt] + h, *args[wrt + 1 :]] for h in (STEP, -STEP))
            result = (exact(*up) - exact(*down)) / (2 * STEP)
        high = float(result)
        return high, float(result - high) if mp.isfinite(result) else 0.0

    return torch.tensor([value(point) for point in points], dtype=F64)


class Error(NamedTuple):
    """The largest error of the finite results, and how many are not finite though they should."""

    largest: float
    not_finite: int

    def __str__(self) -> str:
        text = f"{self.largest:.2f}" if 0.01 <= self.largest < 100 else f"{self.largest:.0e}"
        return f"{text}, {self.not_finite} not finite" if self.not_finite else text


def error(got: Tensor, exact: Exact, args: Columns, floor: float = 0.0) -> Error:
    """Error in ULP of the result's dtype."""
    high, low = _exact(exact, _points(args), -1).T
    info, value = torch.finfo(got.dtype), got.detach().double()
    scale = high.abs().clamp(min=max(floor, info.tiny), max=info.max)
    ulp = torch.exp2(torch.frexp(scale).exponent.double() - 1) * info.eps
    return _largest(value, high, low, ulp)


def derivative_error(quantity: "Quantity", dtype: torch.dtype) -> Error:
    """Relative error of the derivatives by each argument, the largest of all."""
    args = tuple(a.requires_grad_() for a in rounded(quantity.grid, dtype))
    grads = torch.autograd.grad(quantity.ours(args, dtype).sum(), args)
    errors = []
    for wrt, grad in enumerate(grads):
        high, low = _exact(quantity.exact, _points(args), wrt).T
        terms = quantity.slope_terms(args).detach() if wrt == len(args) - 1 else torch.zeros(())
        errors.append(_largest(grad.double(), high, low, torch.maximum(high.abs(), terms)))
    return max(errors)


def _points(args: Columns) -> tuple[tuple[float, ...], ...]:
    return tuple(zip(*(a.tolist() for a in args), strict=True))


def _largest(value: Tensor, high: Tensor, low: Tensor, unit: Tensor) -> Error:
    off = ((value - high) - low).abs() / unit
    off = torch.where(value == high, (low / unit).abs().nan_to_num(0), off)
    finite = off.isfinite()
    return Error(float(off[finite].max()), int((~finite).sum()))


def rounded(grid: Columns, dtype: torch.dtype) -> Columns:
    """The grid in another dtype, without the pairs that rounding made equal."""
    columns = tuple(column.to(dtype) for column in grid)
    return columns if len(grid) == 1 else tuple(c[columns[0] < columns[1]] for c in columns)


def basis(count: int, like: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Data [N, count]: a linear function of them gives its coefficients as columns."""
    eye = torch.eye(count, dtype=dtype)
    return [row.expand(len(like), count) for row in eye]


def mix(op: Callable[..., Tensor], slot: int, args: Columns, dtype: torch.dtype) -> Tensor:
    """Coefficient number ``slot`` of ``op(z, out, logsnr)``."""
    return op(*basis(2, args[0], dtype), *args)[:, slot]


def ddim(slot: int, eta: float, args: Columns, dtype: torch.dtype) -> Tensor:
    z, x0, noise = basis(3, args[0], dtype)
    t, s = args
    return ops.ddim_step(z, x0, t, s, eta, noise)[:, slot]


def ancestral(slot: int, args: Columns, dtype: torch.dtype) -> Tensor:
    z, x0, noise = basis(3, args[0], dtype)
    t, s = args
    return ops.ancestral_step(z, x0, t, s, noise)[:, slot]


def posterior(slot: int, args: Columns, dtype: torch.dtype) -> Tensor:
    (z, x0), (t, s) = basis(2, args[0], dtype), args
    mean, _, std = ops.q_posterior(z, x0, t, s)
    return std[:, 0] if slot == 2 else mean[:, slot]


def of_std(eta: float, args: Columns) -> Tensor:
    """The term of d std / d logsnr_s that comes from sigma_s: ``-std sigmoid(logsnr_s) / 2``."""
    return 0.5 * ddim(2, eta, args, F64) * torch.sigmoid(args[1].double())


def inverse(slot: int, args: Columns, dtype: torch.dtype) -> Tensor:
    (z, x0), (t, s) = basis(2, args[0], dtype), args
    return ops.ddim_inverse_step(z, x0, s, t)[:, slot]


# The formulas, exact.
def alpha(logsnr: Number) -> Number:
    return 1 / mp.sqrt(1 + mp.exp(-logsnr))


def sigma(logsnr: Number) -> Number:
    return 1 / mp.sqrt(1 + mp.exp(logsnr))


def exact_ddim(slot: int, eta: Number, t: Number, s: Number) -> Number:
    drawn = eta * mp.sqrt(1 - mp.exp(t - s)) * sigma(s)
    of_z = mp.sqrt(sigma(s) ** 2 - drawn**2) / sigma(t)
    return (of_z, alpha(s) - of_z * alpha(t), drawn)[slot]


def exact_inverse(slot: int, t: Number, s: Number) -> Number:
    of_z = sigma(t) / sigma(s)
    return (of_z, alpha(t) - of_z * alpha(s))[slot]


def exact_cosine(low: Number, high: Number, t: Number) -> Number:
    first, last = mp.atan(mp.exp(mp.mpf(-high) / 2)), mp.atan(mp.exp(mp.mpf(-low) / 2))
    return -2 * mp.log(mp.tan(first + (last - first) * t))


def exact_linear(low: Number, high: Number, t: Number) -> Number:
    alpha2 = (1 - t) * alpha(high) ** 2 + t * alpha(low) ** 2
    return mp.log(alpha2 / (1 - alpha2))


def exact_sigmoid(low: Number, high: Number, t: Number) -> Number:
    return mp.mpf(high) + t * (mp.mpf(low) - mp.mpf(high))


def exact_flow(low: Number, high: Number, t: Number) -> Number:
    first, last = (1 / (1 + mp.exp(mp.mpf(limit) / 2)) for limit in (high, low))
    time = first + (last - first) * t
    return 2 * mp.log((1 - time) / time)


def exact_legacy(t: Number) -> Number:
    slope, start = mp.mpf("-0.0199"), mp.mpf("0.9999")
    end = start + slope * t
    log_alpha2 = 1000 / slope * (end * (mp.log(end) - 1) - start * (mp.log(start) - 1))
    return mp.inf if t == 0 else -mp.log(mp.expm1(-log_alpha2))


# What others compute, in float32, from alpha^2 in float32.
def table(*logsnr: Tensor) -> Tensor:
    return torch.stack([torch.sigmoid(column) for column in logsnr]).float()


def diffusers_scales(columns: Columns) -> tuple[Tensor, Tensor]:
    return table(*columns)[0] ** 0.5, (1 - table(*columns)[0]) ** 0.5


def diffusers_step(kind: type, slot: int, eta: float, columns: Columns) -> Tensor:
    scheduler = kind(num_train_timesteps=2, prediction_type="sample", clip_sample=False)
    scheduler.set_timesteps(2)
    scheduler.alphas_cumprod = table(*reversed(columns))
    z, x0, noise = torch.eye(3)[:, :, None].expand(3, 3, len(columns[0]))
    if kind is DDIMScheduler:
        return scheduler.step(x0, 1, z, eta, variance_noise=noise).prev_sample[slot]
    drawn = "diffusers.schedulers.scheduling_ddpm.randn_tensor"
    with mock.patch(drawn, return_value=noise):
        return scheduler.step(x0, 1, z).prev_sample[slot]


def dpm_solver_step(algorithm: str, slot: int, columns: Columns) -> Tensor:
    scheduler = DPMSolverMultistepScheduler(algorithm_type=algorithm)
    alpha2 = table(*columns)
    scheduler.sigmas, scheduler._step_index = ((1 - alpha2) / alpha2) ** 0.5, 0
    z, x0, noise = torch.eye(3)[:, :, None].expand(3, 3, len(columns[0]))
    return scheduler.dpm_solver_first_order_update(x0, sample=z, noise=noise)[slot]


def dpm_solver_scales(columns: Columns) -> tuple[Tensor, Tensor]:
    alpha2 = table(*columns)[0]
    scheduler = DPMSolverMultistepScheduler()
    return scheduler._sigma_to_alpha_sigma_t(((1 - alpha2) / alpha2) ** 0.5)


FORMS = {
    "alpha": (alpha, lambda a, _: a),
    "sigma": (sigma, lambda _, s: s),
    "1/alpha": (lambda x: 1 / alpha(x), lambda a, _: 1 / a),
    "1/sigma": (lambda x: 1 / sigma(x), lambda _, s: 1 / s),
    "sigma/alpha": (lambda x: sigma(x) / alpha(x), lambda a, s: s / a),
    "alpha/sigma": (lambda x: alpha(x) / sigma(x), lambda a, s: a / s),
    "1/(alpha+sigma)": (lambda x: 1 / (alpha(x) + sigma(x)), lambda a, s: 1 / (a + s)),
    "alpha+sigma": (lambda x: alpha(x) + sigma(x), lambda a, s: a + s),
    "t": (lambda x: sigma(x) / (alpha(x) + sigma(x)), lambda a, s: s / (a + s)),
    "1-t": (lambda x: alpha(x) / (alpha(x) + sigma(x)), lambda a, s: a / (a + s)),
    "1-2t": (
        lambda x: (alpha(x) - sigma(x)) / (alpha(x) + sigma(x)),
        lambda a, s: (a - s) / (a + s),
    ),
    "(alpha-sigma)": (lambda x: alpha(x) - sigma(x), lambda a, s: a - s),
    "1/t": (lambda x: 1 + alpha(x) / sigma(x), lambda a, s: 1 + a / s),
    "1/(1-t)": (lambda x: 1 + sigma(x) / alpha(x), lambda a, s: 1 + s / a),
    "1/t^2": (lambda x: (1 + alpha(x) / sigma(x)) ** 2, lambda a, s: (1 + a / s) ** 2),
}


def one_time(
    title: str, term: str, ours: Callable[[Columns, torch.dtype], Tensor], typed: bool = False
) -> Quantity:
    exact, combine = FORMS[term.removeprefix("-")]
    sign = -1 if term[0] == "-" else 1
    others = {
        "diffusers": lambda c: sign * combine(*diffusers_scales(c)),
        "DPM-Solver": lambda c: sign * combine(*dpm_solver_scales(c)),
    }
    return Quantity(title, lambda x: sign * exact(x), ours, single_grid(), others, typed)


def singles() -> list[Quantity]:
    """Coefficients at one time."""
    rows = [
        one_time(f"alpha_sigma: {name}", name, partial(_scale, slot), typed=True)
        for slot, name in enumerate(("alpha", "sigma"))
    ]
    for op, *terms in (
        (ops.q_sample, "alpha", "sigma"),
        (ops.x0_from_eps, "1/alpha", "-sigma/alpha"),
        (ops.x0_from_v, "alpha", "-sigma"),
        (ops.eps_from_x0, "1/sigma", "-alpha/sigma"),
        (ops.eps_from_v, "sigma", "alpha"),
        (ops.v_from_x0, "alpha/sigma", "-1/sigma"),
        (ops.v_from_eps, "-sigma/alpha", "1/alpha"),
        (ops.v_from_x0_eps, "-sigma", "alpha"),
        (ops.x0_from_u, "1/(alpha+sigma)", "-t"),
        (ops.eps_from_u, "1/(alpha+sigma)", "1-t"),
        (ops.v_from_u, "1-2t", "1/(alpha+sigma)"),
        (ops.u_from_x0, "1/sigma", "-1/t"),
        (ops.u_from_eps, "-1/alpha", "1/(1-t)"),
        (ops.u_from_v, "-(alpha-sigma)", "alpha+sigma"),
    ):
        for slot, term in enumerate(terms):
            call = _q_sample if op is ops.q_sample else op
            title = f"{op.__name__}: {('first', 'second')[slot]}, {term}"
            rows.append(one_time(title, term, partial(mix, call, slot)))
    return [*rows, one_time("loss_weight: flow, 1/t^2", "1/t^2", _flow_weight)]


def _flow_weight(args: Columns, dtype: torch.dtype) -> Tensor:
    (logsnr,) = args
    return ops.loss_weight(logsnr, "flow").to(dtype)


def _plain(sign: int, args: Columns, _: torch.dtype) -> Tensor:
    return torch.sigmoid(sign * args[0]).sqrt()


def naive() -> list[Quantity]:
    """What one would write first, in the dtype of logsnr."""
    return [
        Quantity(
            f"plain sigmoid({name}logsnr).sqrt()",
            exact,
            partial(_plain, sign),
            single_grid(),
            {},
            typed=True,
        )
        for name, sign, exact in (("", 1, alpha), ("-", -1, sigma))
    ]


def _q_sample(x0: Tensor, noise: Tensor, logsnr: Tensor) -> Tensor:
    return ops.q_sample(x0, logsnr, noise)


def _scale(slot: int, args: Columns, _: torch.dtype) -> Tensor:
    return ops.alpha_sigma(*args)[slot]


def pairs() -> list[Quantity]:
    """Coefficients of the steps from t to s."""
    grid, terms = pair_grid(), ("of z", "of x0", "of the noise")
    rows = []
    for slot, term in enumerate(terms):
        exact = partial(exact_ddim, slot, 1)
        name = "standard deviation" if slot == 2 else term
        others: dict[str, Other] = {
            "diffusers": partial(diffusers_step, DDPMScheduler, slot, 1.0),
            "DPM-Solver": partial(dpm_solver_step, "sde-dpmsolver++", slot),
        }
        spread: dict[str, Any] = {"slope_terms": partial(of_std, 1)} if slot == 2 else {}
        ours = partial(posterior, slot)
        rows.append(Quantity(f"q_posterior: {name}", exact, ours, grid, others, **spread))
        if slot == 2:
            ours = partial(ancestral, slot)
            rows.append(Quantity(f"ancestral_step: {term}", exact, ours, grid, others, **spread))
    for eta in (0.0, 0.5, 1.0):
        for slot, term in enumerate(terms[: 2 if eta == 0 else 3]):
            others = {"diffusers": partial(diffusers_step, DDIMScheduler, slot, eta)}
            if eta == 0:
                others["DPM-Solver"] = partial(dpm_solver_step, "dpmsolver++", slot)
            elif eta == 1:
                others["DPM-Solver"] = partial(dpm_solver_step, "sde-dpmsolver++", slot)
            exact, ours = partial(exact_ddim, slot, eta), partial(ddim, slot, eta)
            spread = {"slope_terms": partial(of_std, eta)} if slot == 2 else {}
            title = f"ddim_step, eta {eta:g}: {term}"
            rows.append(Quantity(title, exact, ours, grid, others, **spread))
    for slot, term in enumerate(terms[:2]):
        exact, ours = partial(exact_inverse, slot), partial(inverse, slot)
        rows.append(Quantity(f"ddim_inverse_step: {term}", exact, ours, grid, {}))
    return rows


def schedules() -> list[Quantity]:
    rows: list[tuple[str, Exact, ops.LogSNRSchedule]] = []
    forms: dict[str, Exact] = {
        "cosine": exact_cosine,
        "linear": exact_linear,
        "sigmoid": exact_sigmoid,
        "flow": exact_flow,
    }
    for name, exact in forms.items():
        for low, high in ((-20, 20), (-30, 30), (-7, 13.37), (-3.3, 17)):
            schedule = ops.logsnr_schedule(name, low, high)
            rows.append((f"{name}, {low} to {high}", partial(exact, low, high), schedule))
    rows.append(("legacy", exact_legacy, ops.logsnr_schedule("legacy")))
    return [
        Quantity(f"schedule {name}", exact, partial(_at, s), time_grid(), {}, True, 1.0, False)
        for name, exact, s in rows
    ]


def _at(schedule: ops.LogSNRSchedule, args: Columns, _: torch.dtype) -> Tensor:
    return schedule.logsnr(*args)


def azula_rows() -> list[list[str]]:
    """azula's schedules take a time; each against its own formula."""

    def vp_alpha(t: Number) -> Number:
        return mp.exp(t**2 * mp.log(mp.mpf("0.001")))

    def cosine_alpha(t: Number) -> Number:
        return mp.cos(t * mp.acos(mp.mpf("0.001")))

    rows, times = [], rounded(time_grid(), F32)
    for schedule, exact in ((VPSchedule(), vp_alpha), (CosineSchedule(), cosine_alpha)):
        by_time: dict[str, Exact] = {"alpha": exact, "sigma": partial(_azula_sigma, exact)}
        for (name, formula), got in zip(by_time.items(), schedule(*times), strict=True):
            title = f"azula {type(schedule).__name__}: {name} of t (its own formula)"
            rows.append([title, "", str(error(got, formula, times)), *[""] * 7])
    return rows


def _azula_sigma(exact: Exact, t: Number) -> Number:
    return mp.sqrt(1 - exact(t) ** 2 + mp.mpf("0.001") ** 2)


def row(quantity: Quantity) -> list[str]:
    values, slopes = {}, {}
    for dtype in BARS:
        args = rounded(quantity.grid, dtype if quantity.typed else F64)
        got = quantity.ours(args, dtype)
        values[dtype] = error(got, quantity.exact, args, quantity.floor)
    if quantity.derivative:
        slopes = {dtype: derivative_error(quantity, dtype) for dtype in SLOPE_BARS}
    inner = torch.stack([c.abs() <= 10 for c in quantity.grid]).all(0)
    beside = []
    for name, mask in (("diffusers", slice(None)), ("diffusers", inner), ("DPM-Solver", inner)):
        grid, other = tuple(c[mask] for c in quantity.grid), quantity.others.get(name)
        beside.append(str(error(other(grid), quantity.exact, grid)) if other else "")
    return [
        quantity.name,
        *map(str, values.values()),
        verdict(values, BARS),
        *(map(str, slopes.values()) if slopes else ("", "")),
        verdict(slopes, SLOPE_BARS) if slopes else "",
        *beside,
    ]


def verdict(errors: dict[torch.dtype, Error], bars: dict[torch.dtype, float]) -> str:
    met = all(e.largest <= bars[dtype] and not e.not_finite for dtype, e in errors.items())
    return "met" if met else "**missed**"


def main() -> None:
    rows = [row(quantity) for quantity in [*singles(), *pairs(), *schedules(), *naive()]]
    head = [
        "quantity",
        *("bfloat16", "float32", "float64", "values"),
        *("slope float32", "slope float64", "slopes"),
        *("diffusers", "diffusers, ±10", "DPM-Solver, ±10"),
    ]
    title = "Largest error of coefficients and schedules over logsnr in [-30, 30]"
    write_table("precision", title, head, rows + azula_rows(), NOTE)


if __name__ == "__main__":
    main()
