"""Settings of Sphinx. Its sources are the repository, so that the links of the pages hold."""

from __future__ import annotations

from mpreg import __version__

project = "mpreg"
copyright = "the mpreg developers"
version = release = __version__

root_doc = "docs/index"
include_patterns = [
    *("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "examples/README.md"),
    "docs/**.md",
]
# Not even looked into.
exclude_patterns = [".*", "build", "dist", "mpreg", "tests"]

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "website.extension"]
# As deep as headings are linked to.
myst_heading_anchors = 4
# In docstrings, a name in single backticks.
default_role = "py:obj"
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
python_maximum_signature_line_length = 88

html_theme = "furo"
html_title = f"mpreg {__version__}"
html_copy_source = False
html_use_index = False
html_static_path = ["static"]
html_css_files = ["site.css"]
templates_path = ["templates"]
# The first page is in `docs`; whoever opens the directory is led there.
html_additional_pages = {"index": "to_the_first_page.html"}
