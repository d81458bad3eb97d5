"""What shows the pictures of a job: grids, sheets that compare, frames of an animation."""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vfn.configs import SampleConfig
from vfn.data import to_uint8
from vfn.pictures import grid
from vfn.sampling.draws import Draws

STEPS = "sample_timesteps"
GRID_COLUMNS, GRID_ROWS = 20, 10  # most columns of labels, and most rows, of a grid
PLAIN_COLUMNS = 10  # without labels
COMPARED_ROWS = 4
FRAMES = 32
ANIMATED = 50  # pictures in an animation, or a few more

Block = tuple[str, Image.Image]  # of a sheet: title and picture
Read = Callable[[Tensor], Tensor]  # pictures [B, C, H, W] by their numbers [B]


class Panel(NamedTuple):
    """Which pictures a grid shows, and the texts beside it."""

    indices: Tensor
    columns: int
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()

    def draw(self, images: Tensor) -> Image.Image:
        """The grid of those pictures, uint8 [B, C, H, W]."""
        return grid(
            images, self.columns, row_labels=self.row_labels, column_labels=self.column_labels
        )


def panel(draws: Draws, rows: int = GRID_ROWS) -> Panel:
    """What a grid of draws shows: the combinations of tags, or rows with a column for each label.

    Args:
        draws: what is asked.
        rows: most rows; of combinations there are as many as the first list has tags.

    Returns:
        Panel.
    """
    asked, num = draws.asked, draws.num
    if asked.columns:
        indices = torch.arange(min(num, len(asked.labels)))
        columns = min(len(indices), len(asked.columns))
        lines = -(-len(indices) // columns)
        return Panel(indices, columns, asked.rows[:lines], asked.columns[:columns])
    turn = len(asked.labels) if asked.names else PLAIN_COLUMNS
    columns = min(num, turn, GRID_COLUMNS)
    every = torch.arange(min(num, rows * turn))
    return Panel(every[every % turn < columns], columns, (), asked.names[:columns])


def comparison(several: Sequence[Draws], read: Sequence[Read]) -> list[Block]:
    """Titled grids: one for each of the draws, or, of several numbers of steps, a row for each.

    Args:
        several: draws of one network, labels and seed with other settings each.
        read: gives the pictures of each.

    Returns:
        titles and grids.
    """
    names = varied([draws.settings for draws in several])
    if STEPS not in names:
        shown = panel(several[0], COMPARED_ROWS)
        return [
            (title(draws.settings, names), shown.draw(pictures(shown.indices)))
            for draws, pictures in zip(several, read, strict=True)
        ]
    asked, num = several[0].asked, several[0].num
    count = min(num, len(asked.labels) if asked.names else PLAIN_COLUMNS, GRID_COLUMNS)
    first = torch.arange(count)
    groups: dict[str, dict[str, Tensor]] = {}
    for draws, pictures in zip(several, read, strict=True):
        rows = groups.setdefault(title(draws.settings, names), {})
        rows[f"{draws.settings.sample_timesteps} steps"] = pictures(first)
    return [
        (
            text,
            Panel(first, count, list(rows), asked.names[:count]).draw(torch.cat([*rows.values()])),
        )
        for text, rows in groups.items()
    ]


def denoising_frames(draws: Draws) -> list[Image.Image]:
    """The first pictures on their way out of the noise, drawn again.

    Args:
        draws: what is asked.

    Returns:
        at most `FRAMES` grids of states before steps, and the pictures.
    """
    shown = panel(draws, max(1, ANIMATED // panel(draws, 1).columns))
    steps = draws.settings.sample_timesteps
    wanted = {round(i * (steps - 1) / (FRAMES - 1)) for i in range(FRAMES)}
    states: list[Tensor] = []

    def watch(i: int, z: Tensor, _x0: Tensor) -> None:
        if i in wanted:
            states.append(to_uint8(z).cpu())

    final = draws.batch(shown.indices, watch).images
    return [shown.draw(state) for state in [*states, final]]


def varied(settings: Sequence[SampleConfig]) -> list[str]:
    """In which fields settings differ; the batch, which changes no picture, does not count.

    Args:
        settings: at least one.

    Returns:
        names of fields.

    >>> varied([SampleConfig(guidance=0.5), SampleConfig(guidance=1.0, sample_batch=2)])
    ['guidance']
    """
    tables = [asdict(one) for one in settings]
    names = [name for name in tables[0] if name != "sample_batch"]
    return [name for name in names if any(table[name] != tables[0][name] for table in tables)]


def folder_name(settings: SampleConfig, names: Sequence[str]) -> str:
    """What a folder is called whose settings differ from others' in some fields.

    Args:
        settings: those of its pictures.
        names: the fields.

    Returns:
        a name such as ``ddim-w0.5``.

    >>> folder_name(SampleConfig(guidance=0.5), ["sampler", "sample_timesteps", "guidance", "eta"])
    'ddim-steps64-w0.5-eta0'
    """
    short = {
        "sampler": settings.sampler.replace(":", "."),
        STEPS: f"steps{settings.sample_timesteps}",
        "guidance": f"w{settings.guidance:g}",
    }
    return "-".join(short.get(name, f"{name}{_text(getattr(settings, name))}") for name in names)


def title(settings: SampleConfig, names: Sequence[str]) -> str:
    """What tells a block from the others: solver, strength and more, as far as they differ.

    Args:
        settings: those of its pictures.
        names: the fields that differ.

    Returns:
        a few words; solver and strength if no field but the steps differs.

    >>> title(SampleConfig(), ["guidance"]), title(SampleConfig(), ["eta"])
    ('w = 0', 'eta = 0')
    """
    parts = {"sampler": settings.sampler, "guidance": f"w = {settings.guidance:g}"}
    others = {name: f"{name} = {_text(getattr(settings, name))}" for name in names if name != STEPS}
    told = [text for name, text in (others | parts).items() if name in names]
    return ", ".join(told or parts.values())


def _text(value: Any) -> str:
    """A value as a part of a title or file name."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    return f"{value:g}" if isinstance(value, float) else str(value)
