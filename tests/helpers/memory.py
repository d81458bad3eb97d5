"""What is still in memory of checkpoints and runs that were there."""

import gc
import weakref

from vfn.train import Observer


class Alive:
    """Remembers tensors without holding them."""

    def __init__(self):
        self.parts = []

    def note(self, *groups):
        """Remember the tensors of some dictionaries."""
        self.parts += [weakref.ref(value) for group in groups for value in group.values()]

    def note_checkpoint(self, checkpoint):
        """Remember all tensors of a checkpoint, and give it back."""
        self.note(checkpoint.params, checkpoint.ema, *checkpoint.moments.values())
        assert self.parts
        return checkpoint

    def count(self):
        """How many of them are there yet."""
        gc.collect()
        return sum(part() is not None for part in self.parts)


class Counting(Observer):
    """Counts what is alive at each step."""

    def __init__(self, alive):
        self.alive, self.found = alive, []

    def stepped(self, _step):
        self.found.append(self.alive.count())
