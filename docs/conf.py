"""Settings of the documentation site: ``make docs``, then open ``build/docs/index.html``.

The source directory is the root of the repository, so that links between pages, the benchmarks'
tables and the change log are the same on the site and in a viewer of the repository.
"""

import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from vfn import __version__  # noqa: E402

project = "vfn"
author = "vfn contributors"
release = version = __version__
extensions = [
    "myst_parser",  # the pages are Markdown
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",  # docstrings have Google's sections
    "sphinx.ext.viewcode",  # the source, on the site itself
    "sphinx_design",  # cards of the front page
    "sphinx_copybutton",
    "docs.site",
]
root_doc = "docs/index"
include_patterns = ["docs/**", "benchmarks/results/**", "examples/**", "*.md"]
exclude_patterns = [
    ".*",
    "build",
    "dist",
    "runs",
    "vfn",
    "tests",
    "README.md",
    "SECURITY.md",
    "**/__pycache__",
]
default_role = "known"  # of docs.site.names: a link to a public name
nitpicky = True

myst_heading_anchors = 4
myst_enable_extensions = ["colon_fence"]
suppress_warnings = ["myst.header"]  # pages begin where their file does

napoleon_google_docstring = True
napoleon_numpy_docstring = False
napoleon_use_rtype = False  # what is returned is described, not named
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the signature has them, as the source writes them
python_maximum_signature_line_length = 88
add_module_names = False
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = f"vfn {release}"
html_static_path = ["site/static"]
html_css_files = ["site.css"]
html_extra_path = ["site/root"]
html_copy_source = False
html_show_copyright = False
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
pygments_style = "a11y-light"  # comments and outputs can be read, of accessible-pygments
pygments_dark_style = "a11y-dark"
