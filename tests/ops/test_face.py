"""The face of vfn.ops: every name is there, nothing is loaded before it is used."""

import inspect
import pydoc
import re
import subprocess
import sys
import types
from pathlib import Path

import pytest
import torch

import vfn.ops
from vfn import ops

MODULES = sorted(path.stem for path in Path(vfn.ops.__file__).parent.glob("*.py"))
LIGHT = [
    "__init__", "densities", "guidance_rules", "objective_table", "schedule_table",
    "solver_table", "weightings", "words",
]  # fmt: skip


def loads_torch(code):
    """Whether a fresh interpreter has loaded torch after the code."""
    command = [sys.executable, "-c", f"{code}\nimport sys; print('torch' in sys.modules)"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout == "True\n"


@pytest.mark.parametrize("name", ops.__all__)
def test_every_name_is_there(name):
    value = getattr(ops, name)
    assert not isinstance(value, types.ModuleType)
    assert vars(ops)[name] is value  # the second use costs no look-up


def test_names_are_sorted_and_listed():
    assert ops.__all__ == sorted(set(ops.__all__))
    assert set(ops.__all__) <= set(dir(ops))
    with pytest.raises(AttributeError, match="nothing"):
        _ = ops.nothing
    with pytest.raises(ImportError, match="nothing"):
        from vfn.ops import nothing  # noqa: F401


def test_tables_are_read_without_torch():
    lines = [
        "from vfn import ops",
        "from vfn.ops import GUIDANCE_RULES, SCHEDULES, SOLVERS, TIME_DENSITIES, WEIGHTINGS",
        "from vfn.ops import OutType",
        *(f"import vfn.ops.{module}" for module in LIGHT[1:]),
        "assert SOLVERS.find('mine.module:Solver').text",
        "for table in (GUIDANCE_RULES, SOLVERS, TIME_DENSITIES, WEIGHTINGS):",
        "    assert table.expected() and all(entry.text for entry in table.values())",
    ]
    assert not loads_torch("\n".join(lines))


@pytest.mark.parametrize("module", LIGHT)
def test_light_module_loads_no_torch_alone(module):
    assert not loads_torch("import vfn.ops" + (f".{module}" if module != "__init__" else ""))


@pytest.mark.slow
def test_torch_is_noticed():
    assert loads_torch("from vfn.ops import ddim_step")


def test_notation_names_every_module_and_only_those():
    """Names are documented in groups, a line for each public module."""
    groups = vfn.ops.__doc__.partition("Groups of names")[2].splitlines()[1:]
    listed = [line.split()[0] for line in groups if line.strip()]
    assert sorted(listed) == [module for module in MODULES if not module.startswith("_")]


def test_notation_names_nothing_that_is_not_there():
    """Words with an underscore in the groups are public names or modules."""
    groups = vfn.ops.__doc__.partition("Groups of names")[2].replace(",", " ").split()
    named = {word for word in groups if "_" in word}
    assert named <= {*ops.__all__, *MODULES}
    assert len(named) > 40


def test_help_has_the_notation_and_the_names():
    page = pydoc.render_doc(vfn.ops, renderer=pydoc.plaintext)
    assert "logsnr      log signal-to-noise ratio" in page
    assert "ddim_step(" in page


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__init__"])
def test_every_module_has_its_tests(module):
    assert Path(__file__).with_name(f"test_{module.lstrip('_')}.py").exists()


FUNCTIONS = [name for name in ops.__all__ if isinstance(getattr(ops, name), types.FunctionType)]


@pytest.mark.parametrize("name", FUNCTIONS)
def test_function_is_documented_whole(name):
    """One line, each argument with a text that says what it is, returns, and an example."""
    function = getattr(ops, name)
    text, signature = inspect.getdoc(function), inspect.signature(function)
    summary, _, rest = text.partition("\n")
    assert summary.endswith(".")
    assert not rest.strip() or rest.startswith("\n")
    args = text.partition("\nArgs:\n")[2].partition("\n\n")[0]
    described = re.findall(r"^    \**(\w+): (.+)$", args, re.MULTILINE)
    assert [argument for argument, _ in described] == list(signature.parameters)
    assert not [line for _, line in described if line.startswith("see ")]
    assert ("\nReturns:\n" in text) == (signature.return_annotation is not None)
    assert ">>> " in text


@pytest.mark.parametrize("name", [name for name in ops.__all__ if name not in FUNCTIONS])
def test_type_is_documented(name):
    """Aliases and closed sets of words, which cannot, and tables aside."""
    value = getattr(ops, name)
    if isinstance(value, type):
        assert value.__doc__
        assert not value.__doc__.startswith(f"{name}(")  # what Python writes itself


def test_calls_through_the_face_compile_whole():
    """Where the name is looked up for the first time within the compiled function, too."""

    def both(z, v, logsnr):
        from vfn.ops import eps_from_v

        return ops.x0_from_v(z, v, logsnr) + eps_from_v(z, v, logsnr)

    z, v, logsnr = torch.randn(3, 2, 4).unbind()[0], torch.randn(2, 4), torch.zeros(2)
    for name in ("x0_from_v", "eps_from_v"):
        vars(ops).pop(name, None)
    torch._dynamo.reset()
    compiled = torch.compile(both, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(z, v, logsnr), both(z, v, logsnr))
