"""The documentation site: what makes its build fail, and how formulas are set."""

import importlib
import inspect
import re
import shutil
from pathlib import Path
from xml.etree import ElementTree

import pytest
from pygments.styles import get_style_by_name
from pygments.token import Whitespace
from sphinx.cmd.build import build_main

from docs import conf
from docs.site.formulas import NotAFormula, mathml
from docs.site.offline import requests
from docs.site.public import FACES, faces, public_names, written_signature
from tests.helpers.contrast import contrast

ROOT = Path(__file__).parents[1]


def shape(text: str) -> str:
    """A formula as MathML, written with brackets: fractions (a)/(b), indices a_(b), roots."""

    def read(node):
        parts = [read(child) for child in node if child.tag != "mspace"]
        kinds = {"mfrac": "({})/({})", "msub": "{}_({})", "msup": "{}^({})", "mover": "{}{}",
                 "msubsup": "{}_({})^({})", "munder": "{}_({})"}  # fmt: skip
        if node.tag in kinds:
            return kinds[node.tag].format(*parts)
        inside = "".join(parts) or node.text or ""
        return f"root({inside})" if node.tag == "msqrt" else inside

    return read(ElementTree.fromstring(mathml(text)))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x0 = (z - sigma eps) / alpha", "x_(0)=(z−σε)/(α)"),
        ("x0 + (h / 2 h_prev) (x0 - x0_prev)", "x_(0)+((h)/(2h_(prev)))(x_(0)−x_(0prev))"),
        ("z_s = mean + std noise", "z_(s)=mean+stdnoise"),
        ("sqrt(sigma_s^2 - var) / sigma_t", "(root(σ_(s)^(2)−var))/(σ_(t))"),
        ("(1 - 1/n)^(gamma + 1)", "(1−1/n)^(γ+1)"),
        ("|p|^2 - sum_i w_i", "|p|^(2)−∑_(i)w_(i)"),
        ("a / sin w + 1 / b c", "(a)/(sinw)+(1)/(b)c"),
        ("s = <u_cond, u_uncond> / |u|^2", "s=(⟨u_(cond),u_(uncond)⟩)/(|u|^(2))"),
        ("p(x | z) ∝ q(z | x)", "p(x|z)∝q(z|x)"),
        ("dz/dphi = v", "dz/dφ=v"),
        ("|eps - eps_hat|^2", "|ε−ε^|^(2)"),
        ("i^-gamma", "i^(−γ)"),
    ],
)
def test_a_formula_is_set_as_it_is_meant(text, expected):
    assert shape(text) == expected


@pytest.mark.parametrize(
    "text",
    ["eta=1", "denoise(z, logsnr) -> x0", "vfn eval --json", "a = (b", "final = 'x0'", "x0", "3 |",
     "package.module:Name", "samples/", "keep_going = 3", "x **y", "a = b]", "t = n / ", "_x = 1"],
)  # fmt: skip
def test_code_is_no_formula(text):
    with pytest.raises(NotAFormula):
        mathml(text)


def test_every_formula_of_the_docstrings_is_well_formed():
    found = 0
    for name in public_names():
        for doc in name.docs:
            for text in re.findall(r"``(.+?)``", doc, re.DOTALL):
                try:
                    ElementTree.fromstring(mathml(text))
                except NotAFormula:
                    continue
                found += 1
    assert found > 150


def test_every_public_name_has_a_place():
    found = faces()
    for face in FACES:
        names = [name for held in found[face].values() for name in held]
        assert sorted(names) == sorted(importlib.import_module(face).__all__)


def test_signatures_are_those_of_the_source():
    for name in public_names():
        value = name.value
        if inspect.isfunction(value):
            arguments, _ = written_signature(value)
            for parameter in inspect.signature(value).parameters:
                assert re.search(rf"\b{parameter}\b", arguments), (name.full, arguments)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ('<script src="https://a.org/x.js"></script>', "https://a.org/x.js"),
        ("<img alt='' src='http://a.org/p.png'>", "http://a.org/p.png"),
        ('<link rel="stylesheet" href="//a.org/s.css">', "//a.org/s.css"),
        ("@import 'https://a.org/s.css'", "https://a.org/s.css"),
        ("body { background: url(https://a.org/p.png) }", "https://a.org/p.png"),
    ],
)
def test_a_request_is_noticed(text, address):
    assert requests(text) == [address]


def test_links_and_own_files_are_no_requests():
    assert requests('<a href="https://a.org">a</a><img src="data:,"><script src="x.js">') == []


@pytest.mark.parametrize("name", [conf.pygments_style, conf.pygments_dark_style])
def test_code_can_be_read(name):
    """Comments and outputs of sessions, too."""
    style = get_style_by_name(name)
    for token, found in style:
        if found["color"] and token is not Whitespace:
            assert contrast(f"#{found['color']}", style.background_color) >= 4.5, token


@pytest.fixture(scope="module")
def warnings(tmp_path_factory):
    """What the build says of a site with faults: links, names, pages, what it shows of the room."""
    place = tmp_path_factory.mktemp("site")
    pages = place / "source"
    (pages / "docs").mkdir(parents=True)
    shutil.copy(ROOT / "docs" / "conf.py", pages / "docs")
    shutil.copytree(ROOT / "docs" / "site" / "static", pages / "docs" / "site" / "static")
    shutil.copytree(ROOT / "docs" / "site" / "root", pages / "docs" / "site" / "root")
    (pages / "docs" / "index.md").write_text(
        "# Faults\n\n[page](nowhere.md) and [place](#nowhere), {known}`no_such_name`, "
        "{known}`vfn.ops.ddim_step`, `ops.eps_from_x0`, `z = alpha x0`\n\n"
        "```{public} vfn.ops\nhalving\nnothing\n```\n"
    )
    (pages / "docs" / "alone.md").write_text("# In no table of contents\n")
    told = place / "warnings.txt"
    code = build_main(
        ["-q", "-w", str(told), "-c", str(pages / "docs"), str(pages), str(place / "out")]
    )
    assert code == 0
    return told.read_text(), (place / "out" / "docs" / "index.html").read_text()


@pytest.mark.filterwarnings("ignore")  # of the packages that build it
@pytest.mark.parametrize(
    "expected",
    [
        r"nowhere\.md",
        r"local id not found: '#nowhere'|'nowhere'",
        "unknown name no_such_name",
        "vfn.ops.ddim_step is on no page of the reference; add its module 'steps'",
        "vfn.train.train is on no page",
        "vfn.ops has no public name from 'nothing'",
        r"alone\.md.*isn't included in any toctree",
    ],
)
def test_a_fault_is_told(warnings, expected):
    assert re.search(expected, warnings[0]), warnings[0]


@pytest.mark.filterwarnings("ignore")
def test_what_is_right_is_not_told(warnings):
    text, page = warnings
    assert "distill_target is on no page" not in text
    assert "distill_target has no" not in text
    assert 'id="vfn.ops.distill_target"' in page
    assert "<math" in page
