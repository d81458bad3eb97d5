"""What a student of progressive distillation learns: the objective against closed forms."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from torch import nn

from tests.helpers.distilling import Gaussian, Recorder, batch_at
from tests.helpers.small import SHAPE, small_config
from vfn import ops
from vfn.configs import DiffusionConfig, load, override
from vfn.data.values import Values
from vfn.sampling import untrained
from vfn.train.distillation import distill_objective
from vfn.train.distillation.progressive import PROGRESSIVE


def gaussian_ddim(z, levels, spread=0.3):
    """DDIM on normal data in closed form: z scales by a factor that depends on the ends alone."""
    for t, s in pairwise(levels):
        (a_t, s_t), (a_s, s_s) = ((torch.sigmoid(x).sqrt(), torch.sigmoid(-x).sqrt())
                                  for x in (t, s))  # fmt: skip
        gain = a_t * spread**2 / (a_t**2 * spread**2 + s_t**2)
        z = (a_s * gain + s_s / s_t * (1 - a_t * gain)) * z
    return z


def test_for_a_linear_gaussian_teacher_the_target_is_the_closed_form():
    """Independent of `distill_target`: two DDIM steps on normal data are products of scales."""
    steps, diffusion = 4, DiffusionConfig(model_out_type="x0", reweight_type="constant")
    schedule = ops.logsnr_schedule("cosine")
    t = torch.tensor([0.5, 0.75, 1.0], dtype=torch.float64)
    batch = batch_at(t)
    levels = [schedule.logsnr(t - k / (2 * steps)).view(-1, 1, 1, 1) for k in range(3)]
    z_t = ops.q_sample(batch.x0, schedule.logsnr(t), batch.noise)
    z_s = gaussian_ddim(z_t, levels)
    (a_t, s_t), (a_s, s_s) = ((torch.sigmoid(x).sqrt(), torch.sigmoid(-x).sqrt())
                              for x in (levels[0], levels[2]))  # fmt: skip
    exact = (z_s - s_s / s_t * z_t) / (a_s - s_s / s_t * a_t)
    loss = distill_objective(Gaussian(diffusion), 0.0, steps)
    assert loss(Recorder(exact), batch, diffusion).max() < 1e-20
    assert loss(Recorder(exact + 0.1), batch, diffusion).tolist() == pytest.approx([0.01] * 3)


def test_at_the_last_step_the_target_is_the_teacher_s_last_x0():
    steps, diffusion = 2, DiffusionConfig(model_out_type="x0", reweight_type="constant")
    schedule = ops.logsnr_schedule("cosine")
    t = torch.tensor([0.5], dtype=torch.float64)
    batch = batch_at(t)
    z_t = ops.q_sample(batch.x0, schedule.logsnr(t), batch.noise)
    levels = [schedule.logsnr(x).view(-1, 1, 1, 1) for x in (t, t / 2)]
    teacher = Gaussian(diffusion)
    last = teacher(gaussian_ddim(z_t, levels), t / 2)
    loss = distill_objective(teacher, 0.0, steps)
    assert loss(Recorder(last), batch, diffusion).item() < 1e-20


@pytest.mark.parametrize("kind", ["x0", "eps", "v", "u", "both"])
@pytest.mark.parametrize(
    "reweight", ["constant", "snr", "truncated_snr", "alpha2", "min_snr", "flow"]
)
def test_a_student_that_equals_two_steps_of_the_teacher_has_no_loss(kind, reweight):
    """A teacher that always says the same x0 is its own student, whatever is predicted."""
    diffusion = DiffusionConfig(model_out_type=kind, reweight_type=reweight)

    class Constant(Gaussian):
        def forward(self, z, t, _labels=None):
            logsnr = ops.logsnr_schedule("cosine").logsnr(t).view(-1, 1, 1, 1)
            x0 = torch.full_like(z, 0.25)
            eps = ops.eps_from_x0(z, x0, logsnr)
            v = ops.v_from_x0(z, x0, logsnr)
            both = torch.cat([x0, eps], 1)
            return {"x0": x0, "eps": eps, "v": v, "u": eps - x0, "both": both}[kind]

    batch = batch_at(torch.tensor([0.25, 0.5, 0.75], dtype=torch.float64))
    network = Constant(diffusion)
    loss = distill_objective(network, 0.0, 4)
    assert loss(network, batch, diffusion).max() < 1e-20
    assert loss(Gaussian(diffusion), batch, diffusion).min() > 1e-4


def test_two_teacher_forwards_and_a_doubled_batch_for_guidance():
    diffusion = DiffusionConfig()
    seen = []

    class Counting(Gaussian):
        def forward(self, z, t, labels=None):
            seen.append((len(z), torch.is_inference_mode_enabled(), labels))
            return super().forward(z, t, labels)

    batch = batch_at(torch.tensor([0.5, 1.0], dtype=torch.float64))
    student = Recorder(torch.zeros(2, 1, 2, 2, dtype=torch.float64))
    distill_objective(Counting(diffusion), 0.0, 2)(student, batch, diffusion)
    assert [entry[:2] for entry in seen] == [(2, True)] * 2
    seen.clear()
    labelled = batch._replace(labels=torch.tensor([1, 2]))
    distill_objective(Counting(diffusion), 0.5, 2)(student, labelled, diffusion)
    assert [entry[:2] for entry in seen] == [(4, True)] * 2
    assert seen[0][2].tolist() == [1, 2, 0, 0]


class Always(nn.Module):
    """Says the same x0 of everything."""

    def forward(self, z, _t, _labels=None):
        return torch.full_like(z, 2.5)


@pytest.mark.parametrize(("bounded", "wanted"), [(True, 1.0), (False, 2.5)])
def test_a_teacher_is_held_within_a_range_where_its_data_have_one(bounded, wanted):
    values = Values("float32", (0.0,), (1.0,), bounded)
    shape = SHAPE._replace(values=values)
    taught = override(load("digits_distill"), {"model_out_type": "x0", "teacher_guidance": 0.0})
    teacher = replace(untrained(small_config(), shape), model=Always(), params={})
    loss = PROGRESSIVE.objective(teacher, override(taught, {"student_steps": 2}))
    batch = batch_at(torch.tensor([0.5, 1.0], dtype=torch.float64))
    student = Recorder(torch.full_like(batch.x0, wanted))
    assert loss(student, batch, taught.diffusion).max() < 1e-20
