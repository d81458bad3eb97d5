"""A small distillation, its command line, and networks with known answers."""

import sys
from pathlib import Path

import torch
from torch import nn

from vfn import ops
from vfn.configs import DiffusionConfig
from vfn.objective import Batch
from vfn.train.distill import distill, find_teacher, plan_of

ROOT = Path(__file__).parents[2]
MINI = {"steps": 4, "last_steps": 5, "batch_size": 16, "log_every": 1, "teacher_steps": 8,
        "checkpoint_every": 2, "eval_every": 0}  # fmt: skip
SMALL_STAGES = [word for name, value in MINI.items()
                for word in (f"--{name.replace('_', '-')}", str(value))]  # fmt: skip


def go(teacher, out, resume=False, **overrides):
    found = find_teacher(teacher, out, resume)
    plan = plan_of(found, "digits_distill", {**MINI, **overrides})
    return distill(plan, found, out, resume, "cpu")


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


def command(*arguments):
    return [sys.executable, str(ROOT / "cli.py"), "distill", "--device", "cpu", *arguments]
