"""Averages of other lengths than those that a run has kept: networks, and figures of each."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from vfn.distributed import World, processes, wait_for_all
from vfn.evaluation import Evaluation, compare, own_data, own_draws, write_plot
from vfn.evaluation.extractors import Extractor
from vfn.evaluation.judging import Given, Judge
from vfn.files import given_path, make_directory, shown
from vfn.progress import say, silence, text_table
from vfn.runs import StoredAverages, export_model, stored_averages
from vfn.sampling import Draws, Trained, load, untrained

LENGTH = "sigma_rel"  # what evaluations are compared against


class PosthocEma(NamedTuple):
    """Networks of averages that were made, and what came of judging them.

    files: exported files by ``sigma_rel``. evaluations: likewise, empty where none were asked for.
    """

    files: Mapping[float, Path]
    evaluations: Mapping[float, Evaluation]

    def table(self) -> str:
        """Where the networks are, and their figures, as lines of text."""
        if self.evaluations:
            named = {str(self.files[length]): each for length, each in self.evaluations.items()}
            return compare(named, LENGTH)
        rows = [[f"{length:g}", str(path)] for length, path in self.files.items()]
        return text_table([[LENGTH, "file"], *rows], left=(1,))


def posthoc_ema(
    run: str | Path,
    sigma_rel: float | Sequence[float],
    out: str | Path | None = None,
    metrics: str | Sequence[str] = (),
    *,
    step: int | None = None,
    real: Given | None = None,
    num: int = 1000,
    seed: int = 0,
    features: str | Extractor = "pixels",
    weights: str | Path | None = None,
    device: str = "auto",
    data_dir: str | None = None,
    **settings: Any,
) -> PosthocEma:
    """Make networks whose average has other lengths, of a run's snapshots; judge them if asked.

    Args:
        run: a run directory that was trained with ``ema_profiles``, perhaps after ``run:``.
        sigma_rel: the length, as a share of the training, or several.
        out: directory of the exported files ``ema-LENGTH-step-N.safetensors``, and of a JSON file
            of figures beside each and a plot over all; ``posthoc`` in the run if None.
        metrics: words of `vfn.evaluation.METRICS` to judge them by, as `judge` takes them; none.
        step: after which the average is wanted; that of the last snapshot if None.
        real: what they are judged against, as `judge` takes it; the pictures of the training.
        num: pictures of each that are judged.
        seed: of their noise, the same for each.
        features: what pictures are compared by, as `judge` takes it.
        weights: file of the features' network, likewise.
        device: auto, cpu or cuda.
        data_dir: where the data are; as the run says if None.
        settings: of sampling, as `vfn.sampling.Trained.draws` takes them.

    Returns:
        PosthocEma.

    Raises:
        ValueError: if there are no snapshots, they do not span such an average, or the networks
            cannot be judged so, before anything is written; or if a snapshot is damaged.
        OSError: if ``out`` cannot be written.

    Source: Karras et al. 2023 (2312.02696), section 3.2.

    >>> import tempfile
    >>> from vfn.train import train
    >>> from vfn.configs import load, override
    >>> small = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,),
    ...          "num_res_blocks": 1, "sample_timesteps": 1, "steps": 8, "batch_size": 8,
    ...          "ema_profiles": (0.05, 0.1), "ema_snapshot_every": 1}
    >>> with tempfile.TemporaryDirectory() as out:
    ...     _ = train(override(load("digits"), small), out, device="cpu")
    ...     made = posthoc_ema(out, [0.07, 0.15], device="cpu")
    ...     [path.name for path in made.files.values()]
    ['ema-0.07-step-8.safetensors', 'ema-0.15-step-8.safetensors']
    """
    lengths = _lengths(sigma_rel)
    judged_by = {"real": real, "weights": weights, **settings}
    if not metrics and (unused := [name for name, v in judged_by.items() if v is not None]):
        raise ValueError(f"expected metrics with {unused[0]}, got none; name some, or leave it out")
    stored = stored_averages(run, step)
    for length in lengths:
        stored.check(length)
    folder = stored.run.posthoc if out is None else given_path(out)
    files = {
        length: folder / f"ema-{length!r}-step-{stored.step}.safetensors" for length in lengths
    }

    def draws(network: Trained) -> Draws:
        return own_draws(network, num, seed, data_dir, **settings)

    evaluations: dict[float, Evaluation] = {}
    with processes(device) as world:
        if metrics:
            new = _stand_in(stored, files[lengths[0]], device)
            judged = Judge(
                own_data(new) if real is None else real, metrics, features=features,
                weights=weights, num=num, device=device, data_dir=data_dir,
            )  # fmt: skip
            with silence():  # what there is to be said is said of each network
                judged.plan(draws(new), seed, world)
        make_directory(folder)
        _write(stored, files, world)
        for length, path in files.items() if metrics else ():
            found = judged(draws(load(path, device)), seed)
            told = {**found.settings, LENGTH: length}
            evaluations[length] = replace(found, settings=told, title=f"{LENGTH} {length:g}")
            if world.rank == 0:
                evaluations[length].write(path.with_suffix(".json"))
        if world.rank == 0 and any(each.figures for each in evaluations.values()):
            plot = folder / f"ema-step-{stored.step}.png"
            write_plot(plot, list(evaluations.values()), LENGTH)
            say(f"plot over {LENGTH}: {plot}")
    return PosthocEma(files, evaluations)


def _lengths(sigma_rel: float | Sequence[float]) -> list[float]:
    """Lengths as Python's own numbers: names of files have their repr."""
    try:
        given = np.atleast_1d(sigma_rel).astype(float)
    except (TypeError, ValueError):  # no numbers, or rows of several lengths
        given = np.empty((0,))
    lengths: list[float] = given.tolist() if given.ndim == 1 else []
    if not lengths or len(set(lengths)) < len(lengths):
        raise ValueError(
            f"expected one sigma_rel or several that differ, got {shown(sigma_rel)}; give numbers "
            "in a list"
        )
    return lengths


def _stand_in(stored: StoredAverages, path: Path, device: str) -> Trained:
    """A network like those to be made, with other parameters, to try what is asked of them."""
    with torch.random.fork_rng([]):
        new = untrained(stored.last.config, stored.last.shape, device)
    return replace(new, step=stored.step, origin=path)


def _write(stored: StoredAverages, files: Mapping[float, Path], world: World) -> None:
    """Make the networks; the first process does, and the others wait for the files."""
    for length, path in files.items() if world.rank == 0 else ():
        made_of = {
            LENGTH: length,
            "profiles": list(stored.lengths),
            "snapshots": list(stored.steps),
        }
        export_model(stored.average(length), path, ema=json.dumps(made_of))
    wait_for_all(world)
