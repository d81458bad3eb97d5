"""What ``make dist`` built, seen from outside: contents, metadata, a run in a fresh environment.

``python -m tests.helpers.distribution dist`` checks the sdist and the wheel in a folder.
"""

import email
import os
import subprocess
import sys
import sysconfig
import tarfile
import tempfile
import venv
import zipfile
from collections.abc import Iterable
from pathlib import Path

from vfn import __version__

ROOT = Path(__file__).parents[2]
# A seed of each part of the sdist: without them its own checks could not be run.
NEEDED = (
    ".ci/run", "CHANGELOG.md", "CITATION.cff", "LICENSE", "Makefile", "README.md", "conftest.py",
    "benchmarks/solvers.py", "benchmarks/results/solvers.md", "docs/conf.py", "docs/index.md",
    "docs/site/static/site.css", "docs/tutorials/mixture.py", "docs/digits.png", "docs/mnist5k.png",
    "tests/golden/math.npz", "tests/golden/first_version_run.tar.xz", "tests/test_wheel.py",
    "vfn/py.typed",
)  # fmt: skip


def package_files() -> set[str]:
    """Every file of the package in the checkout."""
    found = (path for path in (ROOT / "vfn").rglob("*") if path.is_file())
    return {path.relative_to(ROOT).as_posix() for path in found if "__pycache__" not in path.parts}


def wheel_faults(wheel: Path) -> list[str]:
    """What is missing from a wheel, should not be in it, or is said wrongly of it.

    Args:
        wheel: the file.

    Returns:
        lines; none if all is well.
    """
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if not name.endswith("/")}
        (about,) = [name for name in names if name.endswith(".dist-info/METADATA")]
        metadata = email.message_from_bytes(archive.read(about))
        scripts = archive.read(about.replace("METADATA", "entry_points.txt")).decode()
    inside = {name for name in names if ".dist-info/" not in name}
    faults = _differences("wheel", package_files(), inside)
    expected = {"Name": "vfn", "Version": __version__, "License-Expression": "MIT",
                "Requires-Python": ">=3.11"}  # fmt: skip
    faults += [
        f"wheel: expected {key} {value}, got {metadata[key]}"
        for key, value in expected.items()
        if metadata[key] != value
    ]
    if not str(metadata.get_payload()).startswith("# vfn"):
        faults.append("wheel: the README is not its description")
    if "vfn = vfn.cli:main" not in scripts:
        faults.append("wheel: there is no command vfn")
    return faults


def sdist_faults(sdist: Path) -> list[str]:
    """What is missing from a sdist.

    Args:
        sdist: the file.

    Returns:
        lines; none if all is well.
    """
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    return _differences("sdist", {*package_files(), *NEEDED}, names, more=True)


def _differences(
    what: str, expected: Iterable[str], got: Iterable[str], more: bool = False
) -> list[str]:
    expected, got = set(expected), set(got)
    missing = [f"{what}: there is no {name}" for name in sorted(expected - got)]
    extra = [] if more else [f"{what}: {name} does not belong" for name in sorted(got - expected)]
    return missing + extra


def try_out(wheel: Path, place: Path) -> None:
    """Install a wheel into an environment of its own, and run a short demo there.

    What the wheel depends on is that of this environment: whether it can be installed has been seen
    when that was made.

    Args:
        wheel: the file.
        place: an empty folder outside of the checkout.

    Raises:
        AssertionError: if anything is not as it should be.
    """
    home = place / "environment"
    venv.create(home, with_pip=False)
    python = home / "bin" / "python"
    (site,) = home.glob("lib/python*/site-packages")
    # A path file comes after the environment's own packages, so our installed copy is found first.
    (site / "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [sys.executable, "-m", "pip", "--python", str(python), "install", "--quiet"]
    subprocess.run([*install, "--no-deps", "--force-reinstall", str(wheel)], check=True)
    environment = {**os.environ, "VFN_DATA": str(place / "data")}
    environment.pop("PYTHONPATH", None)

    def run(*words: str) -> str:
        done = subprocess.run(words, cwd=place, env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    where = Path(run(str(python), "-c", "import vfn; print(vfn.__file__)"))
    assert where.is_relative_to(site), where
    assert __version__ in run(str(home / "bin" / "vfn"), "--version")
    short = ("--steps", "2", "--num", "8", "--sample-timesteps", "1", "--out", "demo")
    run(str(home / "bin" / "vfn"), "demo", *short)
    assert (place / "demo" / "report.html").stat().st_size > 10_000


def main(folder: Path) -> None:
    """Check what is in a folder, or end with what is wrong."""
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    faults = [*wheel_faults(wheel), *sdist_faults(sdist)]
    if faults:
        raise SystemExit("\n".join(faults))
    with tempfile.TemporaryDirectory() as place:
        try_out(wheel.resolve(), Path(place))
    print(f"{wheel.name} and {sdist.name} are as they should be")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
