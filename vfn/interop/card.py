"""The page beside an exported network: what it is of, how good it is, and how to use it."""

import re
from collections.abc import Sequence
from pathlib import Path

from vfn import __version__
from vfn.evaluation import read_evaluation
from vfn.files import printable, shown, without_places
from vfn.numbers import number_of
from vfn.runs import RunFiles, run_path
from vfn.sampling import Trained

UNNAMED = "No licence was named when this was exported: ask whoever gave it to you."


IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9.+-]{0,60}")


def check_licence(licence: str | None) -> None:
    """Refuse what is no identifier of a licence.

    Args:
        licence: as a person gives it.

    Raises:
        ValueError: for other letters than identifiers have.

    >>> check_licence("cc-by-4.0")
    """
    if licence is not None and not IDENTIFIER.fullmatch(licence):
        raise ValueError(
            f"expected the identifier of a licence, such as mit or cc-by-4.0, got {shown(licence)}"
        )


def card(
    trained: Trained,
    run: Path,
    library: str,
    sections: Sequence[tuple[str, str]],
    licence: str | None = None,
) -> str:
    """A model card.

    Args:
        trained: the network.
        run: the run or file that it is from; evaluations in its directory are shown.
        library: the one that opens it, for the hub's index.
        sections: titles and texts, before the evaluations.
        licence: of the weights, an identifier such as ``mit``.

    Returns:
        Markdown with a head in YAML.

    >>> from vfn.sampling import untrained
    >>> page = card(untrained("digits"), Path("none"), "vfn", [("Use", "Open it.")], "mit")
    >>> page.splitlines()[1:4]
    ['license: mit', 'library_name: vfn', 'tags: [diffusion, v-objective]']
    """
    head = ["---", f"license: {licence or 'unknown'}", f"library_name: {library}",
            "tags: [diffusion, v-objective]", "---"]  # fmt: skip
    parts = [f"## {title}\n\n{text}" for title, text in [*sections, ("Data", _data(trained))]]
    parts += [f"## Evaluation\n\n{text}" for text in [_evaluations(run)] if text]
    parts.append(f"## Licence\n\n{licence or UNNAMED}")
    title = f"# {_called(trained)}, {number_of(trained.step, 'step')}"
    made = f"Exported by vfn {__version__}: {'averaged' if trained.averaged else 'raw'} parameters."
    return "\n\n".join(["\n".join(head), title, made + _distilled(trained), *parts]) + "\n"


def _distilled(trained: Trained) -> str:
    """How a student came about, and how it is drawn; nothing of other networks."""
    distill, sample = trained.config.distill, trained.config.sample
    if not distill.asked:
        return ""
    steps = f"{sample.sample_timesteps} step{'s' if sample.sample_timesteps > 1 else ''}"
    return f" Distilled by {printable(distill.method)}, to be drawn by {sample.sampler} in {steps}."


def _called(trained: Trained) -> str:
    """The name of the pictures, without their place on this machine: cards are for others."""
    return printable(without_places(trained.config.data.dataset))


def _data(trained: Trained) -> str:
    channels, height, width = trained.shape.size
    data = trained.data
    count = f"{data.pictures} pictures" if data else "Pictures"
    return (
        f"{count} of `{_called(trained)}`, {channels} x {height} x {width}, "
        f"{trained.shape.legend.describe()}. Their own terms hold for what is drawn as well."
    )


def _evaluations(run: Path) -> str:
    """Tables of the evaluations that lie in the run's directory."""
    path = run_path(run)
    files = RunFiles(path).evaluations() if path.is_dir() else []
    tables = []
    for file in files:
        found = read_evaluation(file)
        tables.append(f"{printable(found.title)}\n\n```text\n{found.table()}\n```")
    return "\n\n".join(tables)
