"""What shows the pictures of a job: grids, sheets that compare, frames of an animation."""

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vfn.configs import SampleConfig
from vfn.files import file_name, shortened, told_apart, without_places
from vfn.numbers import number_of
from vfn.pictures import grid
from vfn.sampling.draws import DrawingBar, Draws, Watch, evaluations

STEPS = "sample_timesteps"
GRID_COLUMNS, GRID_ROWS = 20, 10  # most columns of labels, and most rows, of a grid
PLAIN_COLUMNS = 10  # without labels
LONGEST_HEAD = 60  # letters over a column, as sets of tags can have hundreds
LONGEST_PART, LONGEST_NAME = 60, 240  # of a folder's name, which has 255 bytes at most
COMPARED_ROWS = 4
FRAMES = 32
ANIMATED = 50  # pictures in an animation, or a few more
# Values of pictures in an animation: noise cannot be compressed, and a report is to be mailed.
ANIMATED_VALUES = 5_000_000

Block = tuple[str, Image.Image]  # of a sheet: title and picture
Read = Callable[[Tensor], Tensor]  # pictures [B, C, H, W] by their numbers [B]


class Panel(NamedTuple):
    """Which pictures a grid shows, and the texts beside it."""

    indices: Tensor
    columns: int
    row_labels: Sequence[str] = ()
    column_labels: Sequence[str] = ()
    shown: Callable[[Tensor], Tensor] = lambda images: images

    def draw(self, images: Tensor) -> Image.Image:
        """The grid of those pictures [B, C, H, W], as they are drawn and stored."""
        return grid(
            self.shown(images),
            self.columns,
            row_labels=self.row_labels,
            column_labels=self.column_labels,
        )


def panel(draws: Draws, rows: int = GRID_ROWS) -> Panel:
    """What a grid of draws shows: the combinations of tags, or rows with a column for each label.

    Args:
        draws: what is asked.
        rows: most rows; of combinations there are as many as the first list has tags.

    Returns:
        Panel.
    """
    return _arranged(draws, rows)._replace(shown=draws.trained.shown)


def _arranged(draws: Draws, rows: int) -> Panel:
    """Which pictures, in which columns and under which texts."""
    asked, num = draws.asked, draws.num
    if asked.columns:
        indices = torch.arange(min(num, len(asked.labels)))
        columns = min(len(indices), len(asked.columns))
        lines = -(-len(indices) // columns)
        return Panel(indices, columns, _heads(asked.rows[:lines]), _heads(asked.columns[:columns]))
    if asked.each and asked.names and asked.labels.ndim == 1:
        return _panel_by_class(draws, rows)
    turn = len(asked.labels) if asked.names and not asked.each else PLAIN_COLUMNS
    columns = min(num, turn, GRID_COLUMNS)
    every = torch.arange(min(num, rows * turn))
    shown = every[every % turn < columns]
    heads = [] if asked.each else _heads(asked.names[:columns])
    return _by_label(shown, heads) if heads else Panel(shown, columns, (), heads)


def _panel_by_class(draws: Draws, most: int) -> Panel:
    """Classes that have pictures for all rows; as many pictures as can be shown."""
    labels, names = draws.asked.of(torch.arange(draws.num)), draws.trained.shape.legend.names
    places = {int(k): (labels == k).nonzero()[:most, 0] for k in labels.unique()}
    full = {
        rows: [k for k, found in places.items() if len(found) >= rows][:GRID_COLUMNS]
        for rows in range(1, most + 1)
    }
    rows = max(full, key=lambda rows: (rows * len(full[rows]), rows))
    indices = torch.stack([places[k][:rows] for k in full[rows]], dim=1)
    return _by_label(indices.flatten(), _heads([names[k - 1] if k else "" for k in full[rows]]))


def _heads(names: Sequence[str]) -> list[str]:
    """Texts over columns or beside rows, which make no picture wide."""
    return [shortened(name, LONGEST_HEAD) for name in names]


def _by_label(indices: Tensor, heads: list[str]) -> Panel:
    """A column for each label; few labels have a row each, since pages are wider than high."""
    columns = len(heads)
    rows = len(indices) // columns
    if columns < rows:
        turned = indices[: rows * columns].view(rows, columns)[:GRID_COLUMNS].T
        return Panel(turned.flatten(), turned.shape[1], heads)
    return Panel(indices, columns, (), heads)


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
    first, heads = torch.arange(count), _heads(asked.names[:count])
    # By the settings themselves, of which a title may be cut.
    groups: dict[str, tuple[str, dict[str, Tensor]]] = {}
    for draws, pictures in zip(several, read, strict=True):
        apart = repr([getattr(draws.settings, name) for name in names if name != STEPS])
        _, rows = groups.setdefault(apart, (title(draws.settings, names), {}))
        rows[number_of(draws.settings.sample_timesteps, "step")] = pictures(first)
    return [
        (
            text,
            Panel(first, count, list(rows), heads, several[0].trained.shown).draw(
                torch.cat([*rows.values()])
            ),
        )
        for text, rows in groups.values()
    ]


class Film:
    """The first pictures of a job on their way out of the noise, kept while they are drawn.

    Args:
        draws: what is asked.

    >>> from vfn.sampling import untrained
    >>> draws = untrained("digits").draws(2, steps=3)
    >>> film = Film(draws)
    >>> everything = torch.arange(2)
    >>> film.keep(everything, draws.batch(everything, film.watch(everything)).images)
    >>> len(film.frames())
    4
    """

    def __init__(self, draws: Draws) -> None:
        self.shown = animated_panel(draws)
        self._values = draws.trained.shape.values
        steps = draws.settings.sample_timesteps
        self._wanted = {round(i * (steps - 1) / (FRAMES - 1)) for i in range(FRAMES)}
        self._states: dict[int, list[Tensor]] = {int(i): [] for i in self.shown.indices}

    def watch(self, indices: Tensor) -> Watch | None:
        """What to call before each step of a batch; None if it has none of these pictures.

        Args:
            indices: numbers of the batch's pictures.

        Returns:
            a function of step, state and prediction, or None.
        """
        places = self._places(indices)
        if not places:
            return None
        for number in places:
            self._states[number] = []
        rows = torch.tensor([*places.values()])

        def watch(i: int, z: Tensor, _x0: Tensor) -> None:
            if i in self._wanted:
                self._add(places, self._values.from_unit(z[rows.to(z.device)]).cpu())

        return watch

    def keep(self, indices: Tensor, images: Tensor) -> None:
        """Take the finished pictures of a batch [B, C, H, W] as the last frame."""
        places = self._places(indices)
        if places:
            self._add(places, images[[*places.values()]])

    def frames(self) -> list[Image.Image]:
        """Grids of the states and the pictures.

        Returns:
            at most `FRAMES` grids of states, and one of the pictures; none if some pictures were
            not drawn, or in batches of other numbers of steps.
        """
        lengths = {len(states) for states in self._states.values()}
        if len(lengths) != 1 or 0 in lengths:
            return []
        each = zip(*(self._states[int(i)] for i in self.shown.indices), strict=True)
        return [self.shown.draw(torch.stack(states)) for states in each]

    def _places(self, indices: Tensor) -> dict[int, int]:
        """Which of the pictures are in a batch, and where."""
        return {n: i for i, n in enumerate(indices.tolist()) if n in self._states}

    def _add(self, places: Mapping[int, int], images: Tensor) -> None:
        for number, image in zip(places, images, strict=True):
            self._states[number].append(image)


def denoising_frames(draws: Draws) -> list[Image.Image]:
    """The first pictures on their way out of the noise, drawn again, with a bar.

    Args:
        draws: what is asked.

    Returns:
        `Film.frames`.
    """
    film = Film(draws)
    # A solver that chooses its steps by itself takes others in every batch.
    size = draws.settings.sample_batch if evaluations(draws.settings)[0] else draws.num
    batches = film.shown.indices.split(size)
    with DrawingBar(draws, batches, title="animation") as bar:
        for batch in batches:
            film.keep(batch, bar.drawn(batch, film.watch(batch)).images)
    return film.frames()


def animated_panel(draws: Draws) -> Panel:
    """Which pictures an animation shows.

    Args:
        draws: what is asked.

    Returns:
        Panel.
    """
    shown = panel(draws, max(1, ANIMATED // panel(draws, 1).columns))
    frames = min(draws.settings.sample_timesteps, FRAMES) + 1
    return _at_most(shown, max(1, ANIMATED_VALUES // (frames * math.prod(draws.trained.shape[:3]))))


def _at_most(shown: Panel, most: int) -> Panel:
    """The panel, or as many of its first rows and columns as have so many pictures.

    Labels beside rows or over columns are kept as far as they can be.

    Args:
        shown: what is there.
        most: pictures.

    Returns:
        Panel.

    >>> small = _at_most(Panel(torch.arange(20), 10, ("a", "b")), 8)
    >>> small.indices.tolist(), small.row_labels
    ([0, 1, 2, 3, 10, 11, 12, 13], ('a', 'b'))
    """
    if len(shown.indices) <= most:
        return shown
    rows = -(-len(shown.indices) // shown.columns)
    if shown.row_labels and not shown.column_labels:
        rows = min(rows, most)
        columns = most // rows
    else:
        columns = min(shown.columns, most)
        rows = most // columns
    places = torch.arange(len(shown.indices))
    kept = (places % shown.columns < columns) & (places // shown.columns < rows)
    return shown._replace(
        indices=shown.indices[kept],
        columns=columns,
        row_labels=shown.row_labels[:rows],
        column_labels=shown.column_labels[:columns],
    )


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
    'abm2-steps16-w0.5-eta0'
    """
    short = {
        "sampler": settings.sampler.replace(":", "."),
        STEPS: f"steps{settings.sample_timesteps}",
        "guidance": f"w{_text(settings.guidance)}",
        "guide_with": f"guide{_place(settings.guide_with)}",
        "guide_weight": f"weight{_text(settings.guide_weight)}",
    }
    parts = [short.get(name, f"{name}{_text(getattr(settings, name))}") for name in names]
    whole = "-".join(parts)
    if len(os.fsencode(whole)) > LONGEST_NAME:
        whole = "-".join(file_name(part, LONGEST_PART) for part in parts)
    return file_name(whole, LONGEST_NAME)


def folder_names(several: Sequence[SampleConfig], names: Sequence[str]) -> list[str]:
    """What folders are called whose settings differ in some fields; as names do where these do.

    Args:
        several: the settings of each.
        names: the fields.

    Returns:
        those of `folder_name`; a hash follows where other settings would have the same, as paths
        with a dot in place of a stroke.

    >>> folder_names([SampleConfig(guide_with=run) for run in ("a", "b/c", "b.c")], ["guide_with"])
    ['guidea', 'guideb.c-a8fd6899', 'guideb.c-ec6d8bc1']
    """
    called = [folder_name(one, names) for one in several]
    apart = [repr([getattr(one, name) for name in names]) for one in several]
    return told_apart(called, apart)


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
    parts = {"sampler": settings.sampler, "guidance": f"w = {_text(settings.guidance)}"}
    if "guide_with" in names:
        weak = without_places(settings.guide_with or "none")  # sheets go into reports
        parts["guide_with"] = f"away from {shortened(weak, 40)}"
    if "guide_weight" in names:
        parts["guide_weight"] = f"weight = {_text(settings.guide_weight)}"
    others = {
        name: file_name(f"{name} = {_text(getattr(settings, name))}", LONGEST_HEAD)
        for name in names
        if name != STEPS
    }
    told = [text for name, text in (others | parts).items() if name in names]
    return ", ".join(told or parts.values())


def _place(guide_with: str | None) -> str:
    """A step or a path as a part of a file name, which does not grow with it."""
    text = (guide_with or "-none").strip("/").replace("/", ".").replace(":", ".")
    return text if len(text) <= LONGEST_PART else file_name(text, LONGEST_PART, end=True)


def _text(value: Any) -> str:
    """A value as a part of a title or file name; values that differ give texts that do."""
    if isinstance(value, tuple):
        return ",".join(map(_text, value))
    if isinstance(value, dict):
        return ",".join(f"{name}{_text(item)}" for name, item in value.items())
    if not isinstance(value, float):
        return str(value)
    short = f"{value:g}"
    return short if float(short) == value else repr(value)
