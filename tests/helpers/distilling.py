"""A small distillation, its command line, and networks with known answers."""

import torch
from torch import nn

from vfn import ops
from vfn.configs import DiffusionConfig
from vfn.objective import Batch
from vfn.runs import find_checkpoint
from vfn.train.distillation import distill, plan_of

MINI = {"steps": 4, "last_steps": 5, "batch_size": 16, "log_every": 1, "teacher_steps": 8,
        "checkpoint_every": 2, "eval_every": 0}  # fmt: skip
SMALL_STAGES = [word for name, value in MINI.items()
                for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip


def go(teacher, out, **options):
    """A small distillation on the CPU: student's steps, updates, signal."""
    return distill(teacher, out, device="cpu", **{**MINI, **options})[:3]


def plan(teacher, **overrides):
    """The configuration of a distillation by the preset."""
    return plan_of(find_checkpoint(teacher), "digits_distill", overrides)


class Gaussian(nn.Module):
    """The exact network of data that are normal with variance ``spread^2``."""

    def __init__(self, diffusion: DiffusionConfig, spread: float = 0.3) -> None:
        super().__init__()
        self.diffusion, self.spread = diffusion, spread

    def forward(self, z, t, _labels=None):
        schedule = ops.logsnr_schedule(self.diffusion.logsnr_schedule)
        logsnr = schedule.logsnr(t).view(-1, 1, 1, 1)
        snr = logsnr.exp()
        x0 = snr * self.spread**2 / (1 + snr * self.spread**2) * z / torch.sigmoid(logsnr).sqrt()
        kind = self.diffusion.model_out_type
        forms = {"x0": lambda: x0, "v": lambda: ops.v_from_x0(z, x0, logsnr),
                 "eps": lambda: ops.eps_from_x0(z, x0, logsnr),
                 "u": lambda: ops.u_from_x0(z, x0, logsnr),
                 "both": lambda: torch.cat([x0, ops.eps_from_x0(z, x0, logsnr)], 1)}  # fmt: skip
        return forms[kind]().to(z.dtype)


class Recorder(nn.Module):
    """A student that says what it is told."""

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, *_inputs):
        return self.answer


def batch_at(t, seed=0):
    draw = torch.Generator().manual_seed(seed)
    shape = (len(t), 1, 2, 2)
    x0, noise = (torch.randn(shape, generator=draw, dtype=torch.float64) for _ in range(2))
    return Batch(0.1 * x0, None, t, noise)
