"""The training objective: the bound, against closed forms, and a learned variance beside mse."""

import math

import pytest
import torch

from vfn import ops
from vfn.configs import DiffusionConfig
from vfn.model import schedule_of
from vfn.objective import (
    LOGSNR_BINS,
    Batch,
    batch_loss,
    binned,
    check_diffusion,
    logsnr_edges,
    loss_of,
)

STEPS = 10


def batch_of(times, seed=0):
    """Eight-bit data, float64, so that closed forms hold to many digits."""
    generator = torch.Generator().manual_seed(seed)
    shape = (len(times), 2, 3, 3)
    levels = torch.randint(0, 256, shape, generator=generator).double()
    noise = torch.randn(shape, generator=generator, dtype=torch.float64)
    return Batch(levels / 127.5 - 1, None, torch.tensor(times, dtype=torch.float64), noise)


def half(z, _t, _labels):
    """A network that predicts x0 = z / 2."""
    return z / 2


def test_bound_of_a_step_is_its_drop_of_snr():
    """VDM, eq. 14: a term is (SNR(s) - SNR(t)) |x0 - x0_hat|^2 / 2 nats."""
    diffusion = DiffusionConfig(loss_type="kl", model_out_type="x0", train_timesteps=STEPS)
    times = [0.2, 0.5, 1.0]
    batch = batch_of(times)
    schedule = schedule_of(diffusion)
    z = ops.q_sample(batch.x0, schedule.logsnr(batch.t), batch.noise)
    snr_t, snr_s = (schedule.logsnr(batch.t - shift).exp() for shift in (0, 1 / STEPS))
    error = (batch.x0 - z / 2).square().mean((1, 2, 3))
    expected = STEPS * 0.5 * (snr_s - snr_t) * error / math.log(2)
    torch.testing.assert_close(batch_loss(half, batch, diffusion), expected, rtol=1e-9, atol=0)


@pytest.mark.parametrize("schedule", ["cosine", "legacy"])
def test_mean_over_all_times_is_the_variational_bound(schedule):
    diffusion = DiffusionConfig(
        loss_type="kl", model_out_type="x0", train_timesteps=STEPS, logsnr_schedule=schedule
    )
    one = batch_of([1.0])
    expected = ops.vlb_bpd(
        lambda z, _: z / 2, one.x0, schedule_of(diffusion), STEPS, lambda i: one.noise
    )
    times = [i / STEPS for i in range(1, STEPS + 1)]
    every = Batch(
        one.x0.expand(STEPS, -1, -1, -1), None, torch.tensor(times, dtype=torch.float64),
        one.noise.expand(STEPS, -1, -1, -1),
    )  # fmt: skip
    mean = batch_loss(half, every, diffusion).mean()
    torch.testing.assert_close(mean, (expected.diffusion + expected.decoder)[0])


class Learner(torch.nn.Module):
    """x0 and the fraction of the variance, a number each."""

    def __init__(self):
        super().__init__()
        self.x0, self.logit = (torch.nn.Parameter(torch.tensor(v).double()) for v in (0.3, 0.1))

    def forward(self, z, _t, _labels):
        return torch.cat([self.x0 * torch.ones_like(z), self.logit * torch.ones_like(z)], 1)


def gradients(diffusion, batch, network):
    learner = Learner()
    loss = batch_loss(network(learner), batch, diffusion).sum()
    return [g.item() for g in torch.autograd.grad(loss, [learner.x0, learner.logit])]


def test_bound_beside_mse_trains_the_variance_alone():
    plain = DiffusionConfig(model_out_type="x0", train_timesteps=STEPS)
    learned = DiffusionConfig(model_out_type="x0", train_timesteps=STEPS, learned_variance=True)
    bound = DiffusionConfig(
        model_out_type="x0", train_timesteps=STEPS, learned_variance=True, loss_type="kl"
    )
    batch = batch_of([0.1, 0.6, 1.0])  # the last step, which is the decoder's, among them

    def without(learner):
        return lambda *inputs: learner(*inputs)[:, :2]

    x0, nothing = gradients(plain, batch, without)
    hybrid_x0, hybrid_logit = gradients(learned, batch, lambda learner: learner)
    bound_x0, bound_logit = gradients(bound, batch, lambda learner: learner)
    assert nothing == 0
    assert hybrid_x0 == pytest.approx(x0, rel=1e-12)
    assert hybrid_logit == pytest.approx(learned.bound_weight * bound_logit, rel=1e-12)
    assert bound_logit != 0
    assert bound_x0 != pytest.approx(x0, rel=0.1)


OUTSIDE = "tests.helpers.outside_math"


@pytest.mark.parametrize("schedule", ops.SCHEDULES)
@pytest.mark.parametrize("weighting", ops.WEIGHTINGS)
def test_words_of_the_package_can_be_trained_with(schedule, weighting):
    for density in ops.TIME_DENSITIES:
        check_diffusion(DiffusionConfig(
            logsnr_schedule=schedule, reweight_type=weighting, time_density=density,
            interpolation=(8, 32, 64), shift=2.0, keep_expectation=True,
        ))  # fmt: skip


@pytest.mark.parametrize(
    ("chosen", "message"),
    [
        ({"logsnr_schedule": f"{OUTSIDE}:no_schedule"}, "give a LogSNRSchedule.*, got NoneType"),
        ({"logsnr_schedule": f"{OUTSIDE}:arch", "schedule_options": {"bend": -2.0}},
         "schedule .*:arch to give logsnr that falls in time, one for each, got -1.022e.04, "),
        ({"logsnr_schedule": f"{OUTSIDE}:arch", "schedule_options": {"bend": "x"}},
         "schedule .*:arch cannot be called: TypeError: "),
        ({"reweight_type": f"{OUTSIDE}:falls_below_0"}, "to give weights of at least 0, one for e"),
        ({"reweight_type": f"{OUTSIDE}:breaks"}, "weighting .*:breaks cannot be called: Attribut"),
        ({"reweight_type": f"{OUTSIDE}:nothing"}, "there is no nothing in tests.helpers.outside_m"),
        ({"time_density": f"{OUTSIDE}:beyond"}, "time density .* to give times in 0..1, one for"),
        ({"time_density": f"{OUTSIDE}:beyond", "time_options": {"density": 0.0}},
         "time density .* to give densities above 0, one for each, got 0, 0"),
        ({"time_density": f"{OUTSIDE}:no_times"}, "to give a WeightedTime"),
    ],
)  # fmt: skip
def test_what_cannot_be_trained_with_is_one_line(chosen, message):
    with pytest.raises(ValueError, match=message) as raised:
        check_diffusion(DiffusionConfig(**chosen))
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("setting", [{"loss_type": "kl"}, {"learned_variance": True}])
def test_bound_needs_discrete_times(setting):
    with pytest.raises(ValueError, match=f"train_timesteps above 0.* with {next(iter(setting))}"):
        DiffusionConfig(**setting)
    assert DiffusionConfig(**setting, train_timesteps=1000)


@pytest.mark.parametrize("out_type", ["u", "x0", "v"])
def test_the_loss_of_flow_matching_is_the_error_of_its_velocity(out_type):
    """|u_hat - (eps - x0)|^2 at x_t = (1-t) x0 + t eps, whatever the network predicts."""
    diffusion = DiffusionConfig(
        logsnr_schedule="flow", logsnr_min=-60, logsnr_max=60, model_out_type=out_type,
        reweight_type="flow",
    )  # fmt: skip
    batch = batch_of([0.1, 0.5, 0.9])
    t = batch.t.view(-1, 1, 1, 1)
    x_t = (1 - t) * batch.x0 + t * batch.noise
    u = torch.randn_like(x_t)
    x0, eps = x_t - t * u, x_t + (1 - t) * u
    scale = ((1 - t) ** 2 + t**2).sqrt()
    out = {"u": u, "x0": x0, "v": ((1 - t) * eps - t * x0) / scale}[out_type]
    seen = []

    def network(z, _t, _labels):
        seen.append(z)
        return out

    expected = (u - (batch.noise - batch.x0)).square().mean((1, 2, 3))
    # The limits move t by exp(-30).
    torch.testing.assert_close(batch_loss(network, batch, diffusion), expected, rtol=1e-11, atol=0)
    torch.testing.assert_close(seen[0], x_t / scale, rtol=0, atol=1e-12)


def test_figures_have_names():
    batch, figures = batch_of([0.5, 0.6]), [torch.ones(())]
    with pytest.raises(ValueError, match=r"figures of the objective by their names, .* got list"):
        loss_of(lambda *_: ops.Learned(batch.t, figures), half, batch, DiffusionConfig())


def test_bins_of_a_schedule_without_an_end():
    """Pure noise at t=1 is a level of -inf, which stands in the first bin."""
    own = DiffusionConfig(logsnr_schedule="tests.helpers.outside_math:endless")
    edges = logsnr_edges(own)
    assert edges.isfinite().all()
    assert (edges.diff() > 0).all()
    times = torch.tensor([1.0, 1 - 1e-5, 0.5 + 1e-3, 0.5 - 1e-3, 1e-5], dtype=torch.float64)
    _, counts = binned(torch.ones(5), times, own)
    middle = LOGSNR_BINS // 2
    places = [0, middle - 1, middle, LOGSNR_BINS - 1]
    assert counts.nonzero().flatten().tolist() == places
    assert counts[places].tolist() == [2, 1, 1, 1]
