"""The direction of imports: tables <- ops <- nn <- configs, files, data <- the shell <- cli."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import vfn

ROOT = Path(vfn.__file__).parent
# A module may import its own layer and those before it.
LAYERS = (
    {"tables"},
    {"ops"},
    {"nn"},
    {"configs", "files", "data"},
    {
        "train",
        "generate",
        "evaluate",
        "extractors",
        "dinov2",
        "features",
        "shards",
        "bits",
        "pictures",
        "plots",
        "report",
        "importing",
        "summary",
        "output",
        "progress",
        "trained",
    },
    {"commands", "judging", "sampling", "demo"},
    {"cli", "__main__"},
)
# The functional core uses nothing else.
CORE = {"ops", "nn"}
CORE_PACKAGES = {"torch", "einops", "numpy", "lazy_loader", "vfn"} | sys.stdlib_module_names


def imported(source: str, module: str) -> list[str]:
    """Full names of all that a module imports, anywhere in its text."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
    return names


def layer(name: str) -> int | None:
    """The layer of a full name ``vfn.part...``; None for the package itself."""
    part = [*name.split("."), ""][1]
    found = [i for i, parts in enumerate(LAYERS) if part in parts]
    return found[0] if found else None


def faults(source: str, module: str) -> list[str]:
    """What ``module``, named ``vfn.part...``, imports against the direction."""
    here, part = layer(module), module.split(".")[1]
    found = []
    for name in imported(source, module):
        package = name.split(".")[0]
        above = package == "vfn" and (layer(name) or 0) > here
        foreign = part in CORE and package not in CORE_PACKAGES
        if above or foreign:
            found.append(f"{module} imports {name}")
    return found


def modules() -> dict[str, Path]:
    """Every module below the package by its full name; a package is ``vfn.part.__init__``."""
    paths = [path for path in ROOT.rglob("*.py") if path != ROOT / "__init__.py"]
    return {
        ".".join(("vfn", *path.relative_to(ROOT).with_suffix("").parts)): path for path in paths
    }


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_down(module):
    assert layer(module) is not None, f"{module} belongs to no layer; add it to LAYERS"
    assert faults(modules()[module].read_text(), module) == []


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vfn.ops.steps", "from vfn.nn import UNet"),
        ("vfn.ops.steps", "import vfn.train.loop"),
        ("vfn.ops.steps", "from vfn import cli"),
        ("vfn.ops.steps", "from ..nn.unet import UNet"),
        ("vfn.ops.__init__", "from .. import nn"),
        ("vfn.ops.frechet", "def late():\n    import scipy.linalg"),
        ("vfn.nn.unet", "import torchvision"),
        ("vfn.nn.unet", "from vfn.configs import Config"),
        ("vfn.data", "from vfn.train import state"),
        ("vfn.train.loop", "if True:\n    from vfn.cli import main"),
    ],
)
def test_reversed_import_is_found(module, source):
    assert len(faults(f"import math\n{source}\n", module)) == 1


@pytest.mark.parametrize(
    ("module", "source"),
    [
        ("vfn.ops.steps", "import math, torch, einops, numpy\nfrom vfn.ops import process"),
        ("vfn.ops.__init__", "from .steps import ddim_step\nfrom . import steps"),
        ("vfn.nn.unet", "from vfn.ops import guide\nfrom ..ops import guide"),
        (
            "vfn.train.loop",
            "import tqdm\nfrom vfn import __version__\nfrom vfn.pictures import grid",
        ),
        ("vfn.cli", "import click\nfrom vfn.train import loop"),
    ],
)
def test_import_downwards_is_allowed(module, source):
    assert faults(source, module) == []


def heavy_packages(code: str) -> set[str]:
    """Which of the heavy packages a fresh interpreter has loaded after ``code``."""
    heavy = {"torchvision", "scipy", "matplotlib", "sklearn"}
    report = f"import sys; print(*sorted({heavy} & set(sys.modules)))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


def test_core_loads_no_heavy_package():
    assert heavy_packages("import vfn.ops") == set()


def test_heavy_package_is_noticed():
    assert "scipy" in heavy_packages("import scipy")
