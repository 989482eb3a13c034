"""Configuration of the manual: ``make docs``."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import isac_toolbox

HERE = Path(__file__).parent

# The gallery's pictures are drawn without a screen, its estimates on one thread.
os.environ.setdefault("MPLBACKEND", "Agg")
for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
    os.environ.setdefault(name, "1")

project = "isac_toolbox"
author = "the authors of isac_toolbox"
copyright = author
version = release = isac_toolbox.__version__

extensions = [
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.mathjax",
    "numpydoc",
    "myst_parser",
    "sphinx_copybutton",
    "sphinx_gallery.gen_gallery",
]
exclude_patterns = ["_build", "auto_examples/*.ipynb", "auto_examples/*.py", "auto_examples/*.zip"]
templates_path = ["_templates"]
nitpicky = True
# Names outside the toolbox; no inventory is fetched, so that the manual builds without a network.
nitpick_ignore_regex = [
    (r"py:.*", r"(numpy|pandas|torch|pydantic|matplotlib|collections|pathlib|typing)\..*"),
    (r"py:.*", r"(Any|Path|Protocol|ABC|Figure|Axes|BaseModel|KeyboardInterrupt|RuntimeError|Exception)"),
]
default_role = "code"  # single backticks in docstrings are code

myst_enable_extensions = ["dollarmath", "colon_fence", "deflist"]
myst_fence_as_directive = ["math"]
myst_heading_anchors = 4  # the anchors of headings that GitHub makes, so that links work in both places

autosummary_generate = True
autosummary_imported_members = True
autosummary_ignore_module_all = False
autodoc_typehints = "none"  # the docstrings name the types
autodoc_member_order = "bysource"
numpydoc_show_class_members = False
numpydoc_xref_param_type = False

sphinx_gallery_conf = {
    "examples_dirs": "../examples",
    "gallery_dirs": "auto_examples",
    "filename_pattern": r"\.py$",
    "ignore_pattern": r"__init__\.py",
    "within_subsection_order": "FileNameSortKey",
    "remove_config_comments": True,
    "show_memory": False,
    "show_signature": False,
    "download_all_examples": False,
    "matplotlib_animations": False,
    "image_scrapers": ("matplotlib",),
    "abort_on_example_error": False,
    "min_reported_time": 5,
    "capture_repr": (),
}
suppress_warnings = ["config.cache"]

html_theme = "pydata_sphinx_theme"
html_title = "isac_toolbox"
html_static_path = ["_static"]
html_css_files = ["manual.css"]
html_show_sourcelink = False
html_theme_options = {
    "show_prev_next": True,
    "navigation_with_keys": False,
    "show_toc_level": 2,
    "header_links_before_dropdown": 6,
    "footer_start": ["copyright"],
    "footer_end": [],
    "secondary_sidebar_items": ["page-toc"],
}


def setup(app: Any) -> None:
    """Write the pages that are made from stored results before Sphinx looks for its sources."""
    sys.path.insert(0, str(HERE))
    import _tables

    _tables.write_pages(HERE.parent, HERE / "tables")
