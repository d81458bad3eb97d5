"""A run directory: where everything in it is."""

from dataclasses import dataclass
from pathlib import Path

from vfn.files import given_path

CONFIG = "config.toml"
HUB = "hf:/"  # begins the name of a network on the hub
RUN = "run:"  # may stand before the path of a run wherever one is named


@dataclass(frozen=True, init=False)
class RunFiles:
    """The files and folders of a run, of a distillation, or of one of its stages.

    >>> RunFiles("runs/a").checkpoint(20).as_posix()
    'runs/a/checkpoints/step-00000020.safetensors'
    """

    path: Path

    def __init__(self, path: str | Path) -> None:
        object.__setattr__(self, "path", given_path(path))

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / CONFIG

    @property
    def lock(self) -> Path:
        """Names the process that works on the run."""
        return self.path / "run.lock"

    @property
    def begun(self) -> Path:
        """Is there from the start of a run to its first checkpoint."""
        return self.path / ".no-checkpoint-yet"

    @property
    def log(self) -> Path:
        """A line of JSON for each entry of the log."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    def checkpoint(self, step: int) -> Path:
        """The checkpoint of a step."""
        return self.checkpoints / f"step-{step:08d}.safetensors"

    def checkpoint_steps(self) -> dict[int, Path]:
        """Checkpoints by their steps, newest first."""
        return _by_step(self.checkpoints)

    def checkpoint_files(self) -> list[Path]:
        """Checkpoints of steps, newest first."""
        return list(self.checkpoint_steps().values())

    @property
    def snapshots(self) -> Path:
        """The folder of snapshots of power-function averages."""
        return self.path / "ema"

    def snapshot(self, step: int) -> Path:
        """The snapshot of the averages after a step."""
        return self.snapshots / f"step-{step:08d}.safetensors"

    def snapshot_steps(self) -> dict[int, Path]:
        """Snapshots by their steps, newest first."""
        return _by_step(self.snapshots)

    @property
    def posthoc(self) -> Path:
        """Where networks of averages that are made of the snapshots go."""
        return self.path / "posthoc"

    @property
    def best(self) -> Path:
        """The checkpoint with the best evaluation on the way."""
        return self.checkpoints / "best.safetensors"

    def preview(self, step: int) -> Path:
        """The sample grid of a step."""
        return self.path / "samples" / f"step-{step:08d}.png"

    def previews(self) -> list[Path]:
        """Sample grids, oldest first."""
        return [*reversed(self.preview_steps().values())]

    def preview_steps(self) -> dict[int, Path]:
        """Sample grids by their steps, newest first."""
        return _by_step(self.path / "samples", "png")

    def not_finite(self, step: int) -> Path:
        """Which pictures gave no finite gradient."""
        return self.path / f"not-finite-{step:08d}.json"

    @property
    def tensorboard(self) -> Path:
        """The folder of TensorBoard's logs."""
        return self.path / "tensorboard"

    @property
    def table(self) -> Path:
        """The log as a table, a line for each number."""
        return self.path / "log.csv"

    @property
    def records(self) -> Path:
        """What services that track the run call their records of it."""
        return self.path / "records.json"

    @property
    def sample(self) -> Path:
        """Where the demo's pictures go, and the report finds them."""
        return self.path / "sample"

    @property
    def sweep(self) -> Path:
        """Where the demo's comparison of guidance goes, and the report finds it."""
        return self.path / "sweep"

    @property
    def metrics(self) -> Path:
        """The evaluation that a run has by default."""
        return self.path / "metrics.json"

    @property
    def nearest(self) -> Path:
        """Where the demo shows pictures beside the nearest real ones, and the report finds it."""
        return self.path / "nearest.png"

    def evaluations(self) -> list[Path]:
        """Evaluations in the run's directory."""
        return sorted(self.path.glob("metrics*.json"))

    @property
    def commands(self) -> Path:
        """The command lines that made the run."""
        return self.path / "commands.json"

    @property
    def report(self) -> Path:
        """The page about the run."""
        return self.path / "report.html"

    def plot(self, name: str) -> Path:
        """A plot of the report."""
        return self.path / "plots" / f"{name}.png"

    @property
    def teacher(self) -> Path:
        """The teacher of a distillation."""
        return self.path / "teacher.safetensors"

    @property
    def teacher_grid(self) -> Path:
        """Pictures that the teacher drew."""
        return self.path / "teacher.png"

    @property
    def stages(self) -> Path:
        """What the stages of a distillation came to."""
        return self.path / "stages.json"

    @property
    def weak(self) -> Path:
        """The weaker network that a distillation's teacher is led away from."""
        return self.path / "weak.safetensors"

    @property
    def teachers(self) -> Path:
        """What tells the teacher and the weaker network from others."""
        return self.path / "teachers.json"

    def stage(self, student_steps: int) -> "RunFiles":
        """The run of one stage of a distillation."""
        return RunFiles(self.path / f"steps-{student_steps}")

    def stage_runs(self) -> list["RunFiles"]:
        """Folders of stages that are there, those of most steps first."""
        steps = [path.name.removeprefix("steps-") for path in self.path.glob("steps-*")]
        numbers = sorted((int(n) for n in steps if n.isdecimal()), reverse=True)
        return [self.stage(number) for number in numbers]

    def students(self) -> list["RunFiles"]:
        """The runs of stages that are there, of most steps first."""
        return [run for run in self.stage_runs() if run.config.is_file()]


def run_path(given: object) -> Path:
    """The path of a run or checkpoint, with or without ``run:`` before it.

    Args:
        given: as a person gives it.

    Returns:
        its path.

    Raises:
        ValueError: for an empty name, and what is neither text nor a path.

    >>> run_path("run:runs/a") == run_path("runs/a") == Path("runs/a")
    True
    """
    return given_path(str(given_path(given)).removeprefix(RUN))


def settled_run(given: str) -> str:
    """The name of a run, checkpoint or file that means the same from any directory.

    Args:
        given: as a person gives it.

    Returns:
        its path, absolute; a name on the hub as it is.

    >>> settled_run("hf://me/digits"), settled_run("run:/runs/a")
    ('hf://me/digits', '/runs/a')
    """
    return given if given.startswith(HUB) else str(run_path(given).absolute())


def _by_step(folder: Path, suffix: str = "safetensors") -> dict[int, Path]:
    """Files of steps in a folder by the steps, newest first."""
    files = {}
    for path in folder.glob(f"step-*.{suffix}"):
        number = path.stem.removeprefix("step-")
        if number.isdecimal():
            files[int(number)] = path
    return {step: files[step] for step in sorted(files, reverse=True)}


def run_of(spec: object) -> Path | None:
    """The run or checkpoint that a text or path stands for, with or without ``run:`` before it.

    Args:
        spec: as a person gives it.

    Returns:
        its path; None if it is something else, such as a folder of pictures.

    >>> run_of("run:runs/a"), run_of("pictures/")
    (PosixPath('runs/a'), None)
    """
    if not isinstance(spec, str | Path):
        return None
    path = run_path(spec)
    named = str(spec).startswith((RUN, HUB)) or _is_run(RunFiles(path))
    return path if named or (path.suffix == ".safetensors" and path.is_file()) else None


def _is_run(files: RunFiles) -> bool:
    """Whether a directory is that of a run or a distillation, with checkpoints or without."""
    signs = (files.checkpoints, files.log, files.begun, files.teacher)
    return files.config.is_file() and any(path.exists() for path in signs)
