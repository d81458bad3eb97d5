"""The order of parts: each imports only what stands to its left, and there is no circle."""

import ast
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import vfn

ROOT = Path(vfn.__file__).parent
# Every package and module below vfn/ is a part.
_WORDS = """
    files numbers tables parametric launch progress lettering pictures streams memory
    ops distributed nn configs data model objective footprint runs sampling evaluation interop
    train report info demo options cli __main__
"""
ORDER = _WORDS.split()
# The functional core uses nothing else.
CORE = {"ops", "nn"}
CORE_PACKAGES = {"torch", "einops", "numpy", "lazy_loader", "vfn"} | sys.stdlib_module_names
TARGET = re.compile(r"(vfn\.[A-Za-z_.]+):[A-Za-z_.]+")


def imported(source: str, module: str) -> list[str]:
    """Full names of all that a module imports, anywhere in its text, or names as a target."""
    names = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            parents = module.split(".")[: -node.level] if node.level else []
            base = ".".join([*parents, *([node.module] if node.module else [])])
            names += [f"{base}.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            target = TARGET.fullmatch(node.value)
            names += [target[1]] if target else []
    return names


def part(name: str) -> str | None:
    """The part of a full name ``vfn.part...``; None for the package itself and for others."""
    root, _, rest = name.partition(".")
    first = rest.partition(".")[0]
    return first if root == "vfn" and first in ORDER else None


def faults(source: str, module: str) -> list[str]:
    """What ``module``, named ``vfn.part...``, imports against the order."""
    here = part(module)
    assert here is not None, f"{module} belongs to no part; add it to ORDER"
    found = []
    for name in imported(source, module):
        there, package = part(name), name.partition(".")[0]
        right = there is not None and ORDER.index(there) > ORDER.index(here)
        foreign = here in CORE and package not in CORE_PACKAGES
        if right or foreign:
            found.append(f"{module} imports {name}")
    return found


def circle(sources: dict[str, str]) -> list[str]:
    """Parts that import each other in a circle, if there is one."""
    graph: dict[str, set[str]] = {}
    for module, source in sources.items():
        here = part(module)
        others = {part(name) for name in imported(source, module)} - {here, None}
        graph.setdefault(str(here), set()).update(map(str, others))
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def modules() -> dict[str, str]:
    """The text of every module below the package by its full name; stubs are faces of packages."""
    paths = [*ROOT.rglob("*.py"), *ROOT.rglob("*.pyi")]
    return {
        ".".join(("vfn", *path.relative_to(ROOT).with_suffix("").parts)): path.read_text()
        for path in sorted(paths)  # a stub comes after, and in place of, the face that reads it
        if path != ROOT / "__init__.py"
    }


@pytest.mark.parametrize("module", sorted(modules()))
def test_imports_point_left(module):
    assert faults(modules()[module], module) == []


def test_parts_form_no_circle():
    assert circle(modules()) == []


def test_every_part_has_its_place():
    assert {part(module) for module in modules()} == set(ORDER)


def test_no_module_name_stands_for_two_things():
    names = [module.rpartition(".")[2] for module in modules()]
    names = [name for name in names if name not in ("__init__", "__main__")]
    assert sorted({name for name in names if names.count(name) > 1}) == []


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
        ("vfn.data.load", "from vfn.train import state"),
        ("vfn.train.loop", "if True:\n    from vfn.cli import main"),
        ("vfn.model", "from vfn.objective import Batch"),
        ("vfn.sampling.draws", "from vfn.evaluation import judge"),
        ("vfn.evaluation.judge", "from vfn.train import train"),
        ("vfn.nn.network", 'TARGET = "vfn.train.loop:train"'),
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
        ("vfn.train.loop", 'TARGET = "vfn.nn.unet:UNet"'),
    ],
)
def test_import_to_the_left_is_allowed(module, source):
    assert faults(source, module) == []


def test_a_circle_of_parts_is_found():
    planted = {
        "vfn.train.loop": "from vfn.evaluation import judge",
        "vfn.evaluation.judge": "from vfn.sampling import load",
        "vfn.sampling.draws": "def late():\n    from vfn.train import state",
    }
    assert set(circle(planted)) == {"train", "evaluation", "sampling"}
    del planted["vfn.sampling.draws"]
    assert circle(planted) == []


def loaded(code: str, packages: set[str]) -> set[str]:
    """Which of some packages a fresh interpreter has loaded after ``code``."""
    report = f"import sys; print(*sorted({packages} & set(sys.modules)))"
    command = [sys.executable, "-c", f"{code}\n{report}"]
    return set(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())


HEAVY = {"torchvision", "scipy", "matplotlib", "sklearn", "diffusers"}


def test_core_loads_no_heavy_package():
    assert loaded("from vfn.ops import ddim_step; from vfn.nn import UNet", HEAVY) == set()


def test_heavy_package_is_noticed():
    assert "scipy" in loaded("import scipy", HEAVY)
