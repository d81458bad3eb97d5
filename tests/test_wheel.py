"""The package as others install it: built as a wheel, unpacked elsewhere, run from there."""

import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build from: a build leaves files beside what it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "vfn", source / "vfn", ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def installed(source, tmp_path_factory):
    """A folder with the wheel's content, far from the checkout."""
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*build, "--wheel-dir", str(place), str(source)], check=True, capture_output=True, text=True
    )
    (wheel,) = place.glob("vfn-*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(place / "site")
    return place / "site"


def test_every_file_of_the_package_is_in_it(installed):
    here = {p.relative_to(ROOT).as_posix() for p in (ROOT / "vfn").rglob("*") if p.is_file()}
    there = {p.relative_to(installed).as_posix() for p in (installed / "vfn").rglob("*")}
    assert sorted(name for name in here - there if "__pycache__" not in name) == []


def test_an_editable_install_is_a_path_that_type_checkers_follow(source, tmp_path):
    """They read .pth files and run no code, so a finder of modules hides the package from them."""
    build = "import sys, setuptools.build_meta as b; b.build_editable(sys.argv[1])"
    command = [sys.executable, "-c", build, str(tmp_path)]
    subprocess.run(command, cwd=source, check=True, capture_output=True, text=True)
    with zipfile.ZipFile(next(tmp_path.glob("vfn-*.whl"))) as archive:
        (path,) = [name for name in archive.namelist() if name.endswith(".pth")]
        assert Path(archive.read(path).decode().strip()) == source
        assert not [name for name in archive.namelist() if name.endswith(".py")]
    assert (source / "vfn" / "py.typed").is_file()


def test_the_demo_runs_from_an_installed_copy(installed, tmp_path):
    environment = os.environ | {"PYTHONPATH": str(installed), "VFN_DATA": str(tmp_path / "data")}
    where = "import vfn; print(vfn.__file__)"
    found = subprocess.run(
        [sys.executable, "-c", where],
        cwd=tmp_path, env=environment, check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert Path(found.stdout.strip()).is_relative_to(installed)
    short = ["--steps", "1", "--num", "8", "--sample-timesteps", "1"]
    command = [sys.executable, "-m", "vfn", "demo", *short, "--out", "demo"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "demo" / "report.html").stat().st_size > 10_000
