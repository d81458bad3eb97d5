"""What a user may name as ``package.module:Name`` in place of a word of vfn.ops."""

import torch

from vfn import ops


def power_of_snr(logsnr, power=0.5):
    """A weighting."""
    return torch.exp(power * logsnr)


def arch(logsnr_min, logsnr_max, bend=1.0):
    """A schedule: logsnr is linear in a power of time."""
    span = logsnr_max - logsnr_min

    def time(logsnr):
        return ((logsnr_max - logsnr) / span).clamp(min=0) ** (1 / bend)

    return ops.LogSNRSchedule(lambda t: logsnr_max - span * t**bend, time)


def endless(logsnr_min, logsnr_max):
    """A schedule from all to nothing, whatever the limits: straight paths between them."""
    del logsnr_min, logsnr_max
    return ops.LogSNRSchedule(
        lambda t: 2 * (torch.log1p(-t) - t.log()), lambda logsnr: torch.sigmoid(-logsnr / 2)
    )


def no_schedule(logsnr_min, logsnr_max):
    """A factory that forgot to return what it made."""


def falls_below_0(logsnr):
    """A weighting that is none."""
    return logsnr


def breaks(logsnr):
    """A weighting with a mistake in it."""
    return logsnr.no_such_method()


def beyond(draws, _schedule, density=1.0):
    """A time density whose times are none, or whose density is none."""
    return (2 if density == 1 else 1) * draws.u, density * torch.ones_like(draws.u)


def euler():
    """A solver: DDIM again."""
    return ops.single_step(ops.ddim_step)


def straight_to_the_end():
    """A solver that goes over the grid by itself: the first prediction."""

    def draw(denoise, z, logsnrs, **_options):
        return ops.Sample(denoise(z, logsnrs[:1].expand(len(z))), 1)

    return draw


def no_solver():
    """A factory that forgot to return what it made."""


def no_times(_draws, _schedule):
    """A time density that forgot to return what it drew."""


def early(draws, _schedule, power=2.0):
    """A time density: t = u^power, whose density is to be undone."""
    t = draws.u**power
    return t, t ** (1 / power - 1) / power
