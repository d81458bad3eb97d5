"""The table of log-SNR schedules, without torch.

A schedule is made by a factory ``(logsnr_min, logsnr_max, **parameters) -> LogSNRSchedule``. A new
one, with its parameters, is one entry here, or a function named as ``package.module:Name``.

Sources: cosine: Salimans & Ho 2022 (2202.00512), appendix. linear, sigmoid: Kingma et al. 2021
(2107.00630), section 3.2. flow: Liu et al. 2022 (2209.03003), eq. 1. legacy: Ho et al. 2020
(2006.11239), section 4.
"""

from dataclasses import dataclass

from vfn.parametric import Parametric
from vfn.tables import Entry, Table


@dataclass(frozen=True, kw_only=True)
class ScheduleEntry(Entry, Parametric):
    """A schedule behind a word.

    text: one line that says what it is. target: its factory as ``package.module:Name``, called with
    logsnr_min and logsnr_max where ``limited``, and with its parameters by name. parameters: name
    -> default. positive: those that are > 0.

    >>> SCHEDULES["legacy"].limited, sorted(SCHEDULES["legacy"].parameters)
    (False, ['beta_end', 'beta_start', 'timesteps'])
    """

    limited: bool = True


SCHEDULES: Table[ScheduleEntry] = Table(
    "schedule",
    {
        "cosine": ScheduleEntry(
            text="the angle of alpha and sigma is linear in time",
            target="vfn.ops.schedules:_COSINE",
        ),
        "linear": ScheduleEntry(
            text="alpha^2 is linear in time", target="vfn.ops.schedules:_LINEAR"
        ),
        "sigmoid": ScheduleEntry(
            text="logsnr is linear in time", target="vfn.ops.schedules:_SIGMOID"
        ),
        "flow": ScheduleEntry(
            text="flow matching: sigma/(alpha + sigma) is linear in time",
            target="vfn.ops.schedules:_FLOW",
        ),
        "legacy": ScheduleEntry(
            text="DDPM's discrete betas in continuous time",
            target="vfn.ops.schedules:_LEGACY",
            limited=False,
            parameters={"beta_start": 1e-4, "beta_end": 0.02, "timesteps": 1000},
            positive=("beta_start", "beta_end"),
            within={"beta_start": (0, 0.1), "beta_end": (0, 0.1), "timesteps": (1, 6000)},
            whole=("timesteps",),
            rising=("beta_start", "beta_end"),
        ),
    },
    lambda name: ScheduleEntry(text=name, target=name, parameters=None),
)
