"""Trackers: where numbers and pictures of a run go beside its log.

A new one is a `Record`, two methods, in a `Tracking` that a factory ``(run, step)`` returns.
"""

import csv
import math
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from io import StringIO
from pathlib import Path
from typing import Any, Protocol, TextIO

from vfn.configs import loads
from vfn.configs.settings import to_tables
from vfn.files import read_json, short, write_atomic, write_json
from vfn.runs import RunFiles, read_log
from vfn.train.observers import Observer, Outcome, exit_status

PROJECT = "vfn"
PICTURE = "samples"  # what the picture of a step is called
MOST_LETTERS = 500  # of a value of the configuration, in MLflow

# Ends a record: the run is finished, stopped by a signal, or ended by an error (None).
Close = Callable[[Outcome | None], object]


class Record(Protocol):
    """Where numbers and pictures of a run go, in whatever service: all that a new one writes."""

    def numbers(self, step: int, values: Mapping[str, float], /) -> None:
        """Numbers of a step by their names, as the log has them."""
        ...

    def picture(self, step: int, path: Path, /) -> None:
        """A picture of a step, a file."""
        ...


class Tracking(Observer):
    """What a run tells, as numbers and pictures in a record.

    Steps that the record has already are passed over, so that a run that goes on from a checkpoint
    does not repeat what it told before it stopped.

    Args:
        record: where they go.
        last: the last step that it has.
        close: called with how the run ended: finished, stopped by a signal, or by an error (None).
        names: what it has of that step, the picture as `PICTURE`; all of it if None.

    >>> class Lines:
    ...     def numbers(self, step, values):
    ...         print(step, dict(values))
    ...
    ...     def picture(self, step, path):
    ...         print(step, path.name)
    >>> Tracking(Lines()).logged(20, {"step": 20, "loss": 0.5, "loss_by_logsnr": [1.0, None]})
    20 {'loss': 0.5}
    """

    def __init__(
        self,
        record: Record,
        last: int = 0,
        close: Close = lambda _outcome: None,
        names: Collection[str] | None = None,
    ) -> None:
        self._record, self._last, self._close, self._names = record, last, close, names

    def _is_new(self, step: int, name: str) -> bool:
        """Whether the record has not got something of a step yet; a kill may come within one."""
        if step == self._last:
            return self._names is not None and name not in self._names
        return step > self._last

    def logged(self, step: int, values: Mapping[str, Any], /) -> None:
        """Numbers, but for lists and what is not finite."""
        numbers = {k: float(v) for k, v in values.items() if k != "step" and _is_number(v)}
        found = {name: value for name, value in numbers.items() if self._is_new(step, name)}
        if found:
            self._record.numbers(step, found)

    def previewed(self, step: int, path: Path, /) -> None:
        """A picture."""
        if self._is_new(step, PICTURE):
            self._record.picture(step, path)

    def ended(self, outcome: Outcome | None, /) -> None:
        """Close the record, which is told how the run ended."""
        self._close(outcome)


@contextmanager
def _closed_on_failure(close: Close) -> Iterator[None]:
    """Close a record that is open already as one of a failed run, if the rest of it fails."""
    try:
        yield
    except BaseException:
        close(None)
        raise


def _exit_status(outcome: Outcome | None) -> int:
    """What the process of a run exits with, as a shell and `vfn train` have it."""
    return 1 if outcome is None else exit_status(outcome.signum)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and math.isfinite(value)


def _settings(run: RunFiles) -> dict[str, Any]:
    """The configuration of a run by ``section.name``, without what is not set."""
    if not run.config.is_file():
        return {}
    tables = to_tables(loads(run.config.read_text(encoding="utf-8")))
    return {f"{section}.{key}": v for section, table in tables.items() for key, v in table.items()}


def _told(run: RunFiles) -> tuple[int, set[str]]:
    """The last step that was told, perhaps after the checkpoint to go on from, and what of it."""
    log = read_log(run.log)
    last = max((entry["step"] for entry in log), default=0)
    here = [entry for entry in log if entry["step"] == last]
    # What a preview comes to stands in a line of its own, which is written after the picture.
    pictured = {PICTURE} if any("loss" not in entry for entry in here) else set()
    return last, pictured.union(*here)


def _noted(run: RunFiles) -> dict[str, str]:
    """What services call the record of a run."""
    found = read_json(run.records) if run.records.is_file() else {}
    if not isinstance(found, dict) or not all(isinstance(v, str) for v in found.values()):
        raise ValueError(
            f"expected names of records in {run.records}, got {short(found)}; remove it to begin "
            "new ones"
        )
    return found


def _note(run: RunFiles, service: str, name: str) -> None:
    write_json(run.records, {**_noted(run), service: name})


class _Board:
    """Curves and pictures for TensorBoard."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer

    def numbers(self, step: int, values: Mapping[str, float], /) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def picture(self, step: int, path: Path, /) -> None:
        import numpy as np
        from PIL import Image

        with Image.open(path) as opened:
            self._writer.add_image(PICTURE, np.asarray(opened.convert("RGB")), step,
                                   dataformats="HWC")  # fmt: skip


def tensorboard(run: RunFiles, step: int) -> Observer:
    """A tracker that writes for TensorBoard; what it has of later steps is passed over.

    Args:
        run: the run's files.
        step: steps already done.

    Returns:
        Observer.
    """
    from torch.utils.tensorboard import SummaryWriter

    writer = SummaryWriter(str(run.tensorboard), purge_step=step + 1)

    def close(_outcome: Outcome | None) -> None:
        writer.close()

    with _closed_on_failure(close):
        if not step:
            text = "\n".join(f"    {key} = {value}" for key, value in _settings(run).items())
            writer.add_text("configuration", text, 0)
    return Tracking(_Board(writer), close=close)


class _Table:
    """Lines of ``step,name,value``."""

    def __init__(self, file: TextIO) -> None:
        self._rows = csv.writer(file)

    def numbers(self, step: int, values: Mapping[str, float], /) -> None:
        self._rows.writerows([step, name, repr(value)] for name, value in values.items())

    def picture(self, step: int, path: Path, /) -> None:
        """A table has no pictures."""


def table(run: RunFiles, step: int) -> Observer:
    """A tracker that writes a table, a line for each number; lines of later steps are removed.

    Args:
        run: the run's files.
        step: steps already done.

    Returns:
        Observer.
    """
    rows = [["step", "name", "value"]]
    if run.table.is_file():
        with run.table.open(newline="", encoding="utf-8") as file:
            old = [row for row in csv.reader(file) if len(row) == 3 and row[0].isdecimal()]
        rows += [row for row in old if int(row[0]) <= step]
    text = StringIO()
    csv.writer(text).writerows(rows)
    write_atomic(run.table, text.getvalue())
    opened = run.table.open("a", newline="", buffering=1, encoding="utf-8")
    return Tracking(_Table(opened), close=lambda _outcome: opened.close())


class _Wandb:
    """A run of Weights & Biases."""

    def __init__(self, record: Any) -> None:
        self._record = record

    def numbers(self, step: int, values: Mapping[str, float], /) -> None:
        self._record.log({**values, "step": step})

    def picture(self, step: int, path: Path, /) -> None:
        import wandb

        self._record.log({PICTURE: wandb.Image(str(path)), "step": step})


def wandb(run: RunFiles, step: int) -> Observer:
    """A tracker for Weights & Biases; ``WANDB_MODE``, ``WANDB_PROJECT`` and so on are its own.

    A run that goes on does so in the same record, also offline. A record can be ended as finished
    or failed: what was stopped by a signal has failed, with the exit status of the command.

    Args:
        run: the run's files.
        step: steps already done.

    Returns:
        Observer.
    """
    import wandb

    known = _noted(run).get("wandb") if step else None
    record = wandb.init(
        project=os.environ.get("WANDB_PROJECT", PROJECT),
        id=known,
        name=run.path.resolve().name,
        resume="allow" if known else None,
        dir=str(run.path),
        config=_settings(run),
        settings=wandb.Settings(console="off", silent=True),
    )

    def close(outcome: Outcome | None) -> None:
        record.finish(exit_code=_exit_status(outcome))

    with _closed_on_failure(close):
        # Its own count of steps drops what comes later of a step that it has.
        record.define_metric("*", step_metric="step")
        _note(run, "wandb", record.id)
        last, names = _told(run) if known else (0, None)
    return Tracking(_Wandb(record), last, close, names)


class _Mlflow:
    """A run of MLflow."""

    def __init__(self, client: Any, name: str) -> None:
        self._client, self._name = client, name

    def numbers(self, step: int, values: Mapping[str, float], /) -> None:
        for name, value in values.items():
            self._client.log_metric(self._name, name, value, step=step)

    def picture(self, _step: int, path: Path, /) -> None:
        self._client.log_artifact(self._name, str(path), PICTURE)  # named after its step

    def close(self, outcome: Outcome | None) -> None:
        """End it as what the run is."""
        status = "FAILED"
        if outcome is not None:
            status = "KILLED" if outcome.signum else "FINISHED"
        self._client.set_terminated(self._name, status)


def mlflow(run: RunFiles, step: int) -> Observer:
    """A tracker for MLflow: the server of ``MLFLOW_TRACKING_URI``, or a folder in the run's own.

    A run that goes on does so in the same record, which ends as finished, killed (stopped by a
    signal) or failed.

    Args:
        run: the run's files.
        step: steps already done.

    Returns:
        Observer.
    """
    from mlflow.tracking import MlflowClient

    where = os.environ.get("MLFLOW_TRACKING_URI")
    if not where:
        os.environ.setdefault("MLFLOW_ALLOW_FILE_STORE", "true")  # a folder needs no server
        where = (run.path / "mlruns").resolve().as_uri()
    client = MlflowClient(tracking_uri=where)
    project = os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT)
    name = _noted(run).get("mlflow") if step else None
    known = name is not None
    if name is None:
        found = client.get_experiment_by_name(project)
        experiment = client.create_experiment(project) if found is None else found.experiment_id
        name = client.create_run(experiment, run_name=run.path.resolve().name).info.run_id
    record = _Mlflow(client, name)
    with _closed_on_failure(record.close):
        if known:
            client.update_run(name, status="RUNNING")
        else:
            for key, value in _settings(run).items():
                client.log_param(name, key, str(value)[:MOST_LETTERS])
            _note(run, "mlflow", name)
        last, names = _told(run) if known else (0, None)
    return Tracking(record, last, record.close, names)
