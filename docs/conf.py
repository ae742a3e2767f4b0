"""The site: these pages and the reference from the docstrings. `./main.sh docs` builds it, warnings are errors."""

from importlib.metadata import version as version_of

project = "dpsnn"
author = copyright = "dpsnn contributors"
version = release = version_of("dpsnn")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
]
html_theme = "pydata_sphinx_theme"
html_title = "dpsnn"
html_theme_options = {"show_prev_next": False, "navigation_with_keys": False}
templates_path = ["_templates"]
exclude_patterns = ["_build"]

myst_heading_anchors = 3
myst_links_external_new_tab = False

# Docstrings say `code` with one backtick, as they are read in an editor.
default_role = "code"
autodoc_default_options = {
    "members": True,
    "show-inheritance": True,
    "ignore-module-all": True,
}
# Lightning documents its hooks for its own pages.
autodoc_inherit_docstrings = False
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autosummary_generate = True
napoleon_use_ivar = True
# Every parameter's type stands in the signature.
python_use_unqualified_type_names = True
