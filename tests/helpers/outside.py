"""A network, an observer, a tracker and a method as somebody else would write them."""

import torch
from torch import nn

from vfn.objective import batch_loss
from vfn.ops import Learned
from vfn.train import Observer
from vfn.train.distillation import Method, stage_config


class Small(nn.Module):
    """Two convolutions with labels, dropout and, where it is built with a range, guidance."""

    def __init__(
        self, in_channels, out_channels, num_classes, multitags, width=8, guidance_range=None
    ):
        super().__init__()
        self.num_classes, self.multitags = num_classes, multitags
        self.guidance_range = guidance_range
        self.inner = nn.Conv2d(in_channels + 1, width, 3, padding=1)
        self.labels = nn.Embedding(num_classes + 1, width)
        self.drop = nn.Dropout(0.2)
        self.outer = nn.Conv2d(width, out_channels, 3, padding=1)
        if guidance_range is not None:
            self.by_weight = nn.Linear(1, width)
            self.start(self.by_weight)

    def start(self, layer):
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)

    def forward(self, z, t, y=None, w=None):
        time = t.to(z.dtype).view(-1, 1, 1, 1).expand(-1, 1, *z.shape[2:])
        h = self.inner(torch.cat([z, time], 1))
        if y is not None:
            h = h + self.labels(y)[..., None, None]
        if w is not None:
            h = h + self.by_weight(w.to(z.dtype)[:, None])[..., None, None]
        return self.outer(self.drop(torch.relu(h)))


class Told(Small):
    """One that takes numbers and a picture beside labels, and says so by attributes."""

    def __init__(self, in_channels, vector_dim=0, image_channels=0, **options):
        super().__init__(in_channels + image_channels, **options)
        self.vector_dim, self.image_channels = vector_dim, image_channels
        if vector_dim:
            self.by_vector = nn.Linear(vector_dim, self.inner.out_channels)

    def forward(self, z, t, y=None, w=None, vector=None, image=None):
        h = z if image is None else torch.cat([z, image], 1)
        time = t.to(z.dtype).view(-1, 1, 1, 1).expand(-1, 1, *z.shape[2:])
        h = self.inner(torch.cat([h, time], 1))
        if y is not None:
            h = h + self.labels(y)[..., None, None]
        if vector is not None:
            h = h + self.by_vector(vector)[..., None, None]
        if w is not None:
            h = h + self.by_weight(w.to(z.dtype)[:, None])[..., None, None]
        return self.outer(self.drop(torch.relu(h)))


class Other(Small):
    """The same under another name."""


class Spare(Small):
    """One with a layer that nothing comes of, and without dropout."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.spare, self.drop = nn.Linear(2, 2), nn.Identity()


class Shallow(Small):
    """One that leaves a layer out at every other call in training, by chance; without dropout."""

    def __init__(self, *sizes, **options):
        super().__init__(*sizes, **options)
        self.middle = nn.Conv2d(8, 8, 3, padding=1)
        self.drop = nn.Identity()

    def forward(self, z, t, y=None):
        wave = t.to(z.dtype).view(-1, 1, 1, 1).expand(-1, 1, *z.shape[2:])
        h = self.inner(torch.cat([z, wave], 1)) + self.labels(y)[..., None, None]
        if not self.training or torch.rand(()) < 0.5:
            h = h + self.middle(h)
        return self.outer(torch.relu(h))


class Abrupt(Small):
    """Guidance changes it from the start."""

    def start(self, layer):
        nn.init.ones_(layer.weight)


class Recorder(Observer):
    """Remembers what it hears."""

    def __init__(self):
        self.heard = []

    def begun(self, run):
        self.heard.append(("begun", run.step))

    def stepped(self, step):
        self.heard.append(("stepped", step))

    def logged(self, step, values):
        self.heard.append(("logged", step, *sorted({"loss", "held_out_loss"} & values.keys())))

    def previewed(self, step, path):
        self.heard.append(("previewed", step, path.is_file()))

    def evaluated(self, step, figures):
        self.heard.append(("evaluated", step, *figures))

    def saved(self, step, path):
        self.heard.append(("saved", step, path.name))

    def ended(self, outcome):
        self.heard.append(("ended", outcome))


class Lines(Observer):
    """Writes a line of its own for each line of the log."""

    def __init__(self, run, step):
        self.path = run.path / "lines.txt"
        self.first = step

    def logged(self, step, values):
        with self.path.open("a") as file:
            file.write(f"{self.first} {step} {len(values)}\n")


def nothing(_run, _step):
    """A factory of no tracker."""


def missing(_run, _step):
    """A factory that fails."""
    raise RuntimeError("no such service")


def last_stage(plan):
    return [stage_config(plan, plan.distill.student_steps)]


# One stage that learns from the data again, whatever the teacher says.
AGAIN = Method(stages=last_stage, objective=lambda _teacher, _stage: batch_loss)


def broken_loss(_network, batch, _diffusion):
    """An objective that fails."""
    return batch.no_such_part


# Methods with mistakes in them.
NO_STAGES = AGAIN._replace(stages=lambda _plan: [])
TWICE = AGAIN._replace(stages=lambda plan: 2 * last_stage(plan))
NOT_LISTED = AGAIN._replace(stages=lambda _plan: 3)
FORGETFUL = AGAIN._replace(objective=lambda _teacher, _stage: None)
TEACHES_NOBODY = AGAIN._replace(objective=lambda: batch_loss)
BROKEN = AGAIN._replace(objective=lambda _teacher, _stage: broken_loss)


def squares(live, _fixed, paths, _update, scale=1.0):
    """An objective: the velocity of the pairs themselves."""
    error = (live(paths.z, paths.logsnr) - paths.dz).square().flatten(1).mean(1)
    return Learned(scale * error, {"scale": error.new_tensor(scale)})


def breaks(live, _fixed, paths, _update):
    """An objective with a mistake in it."""
    return Learned(live(paths.z, paths.logsnr).no_such_method(), {})


def no_loss(_live, _fixed, _paths, _update):
    """No objective."""
    return 7
