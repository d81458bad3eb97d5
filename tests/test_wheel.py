"""The package as others install it: built as a wheel, unpacked elsewhere, run from there."""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from packaging.version import Version

from tests.helpers.distribution import wheel_faults
from vfn import __version__

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    """A copy to build from: a build leaves files beside what it builds."""
    source = tmp_path_factory.mktemp("source")
    for name in ("pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "vfn", source / "vfn", ignore=shutil.ignore_patterns("__pycache__"))
    return source


@pytest.fixture(scope="module")
def wheel(source, tmp_path_factory):
    place = tmp_path_factory.mktemp("wheel")
    build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    subprocess.run(
        [*build, "--wheel-dir", str(place), str(source)], check=True, capture_output=True, text=True
    )
    (wheel,) = place.glob("vfn-*.whl")
    return wheel


@pytest.fixture(scope="module")
def installed(wheel):
    """A folder with the wheel's content, far from the checkout."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(wheel.parent / "site")
    return wheel.parent / "site"


def test_the_wheel_is_as_it_should_be(wheel):
    assert wheel_faults(wheel) == []


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("vfn/py.typed", "there is no vfn/py.typed"),
        ("vfn/report/report.js", "there is no vfn/report/report.js"),
        ("vfn/ops/__init__.pyi", "there is no vfn/ops/__init__.pyi"),
        ("tests/odd.py", "tests/odd.py does not belong"),
    ],
)
def test_a_fault_of_the_wheel_is_told(wheel, name, told, tmp_path):
    odd = tmp_path / wheel.name
    with zipfile.ZipFile(wheel) as whole, zipfile.ZipFile(odd, "w") as damaged:
        for each in whole.namelist():
            if each != name:
                damaged.writestr(each, whole.read(each))
        if name not in whole.namelist():
            damaged.writestr(name, "")
    assert wheel_faults(odd) == [f"wheel: {told}"]


def test_the_version_is_said_in_one_place():
    """That of the last release is repeated; what is not released yet says so."""
    cited, changes = (ROOT / "CITATION.cff").read_text(), (ROOT / "CHANGELOG.md").read_text()
    released = re.findall(r"^## \[(\d.*?)\] - (\S+)$", changes, re.M)
    version, date = released[0]
    if re.search(r"^## \[Unreleased\]\n+#", changes, re.M):
        assert Version(version) < Version(__version__)
        assert Version(__version__).is_devrelease
    else:
        assert version == __version__
    assert f"\nversion: {version}\n" in cited
    assert f"\ndate-released: {date}\n" in cited


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


@pytest.mark.slow
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
