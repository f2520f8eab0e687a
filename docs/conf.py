"""Settings of the documentation's site; `make docs` builds it into build/docs."""

from __future__ import annotations

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_extension"))

from hydrakit.version import version as installed_version

# Address of the repository, such as https://forge.example/group/hydrakit: links to files outside of
# docs/ lead there. Without it they lead to the files beside the built site.
repository = os.environ.get("HYDRAKIT_REPOSITORY", "")
repository_files = "blob/main"  # between the address and the path of a file

project = "hydrakit"
author = "the hydrakit developers"
version = release = installed_version()

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
    "site_parts",  # docs/_extension/site_parts.py
]
exclude_patterns = ["_build", "_extension", "_static"]
source_suffix = {".md": "markdown"}
show_warning_types = True

# Pages are Markdown that reads well on a forge, too: no syntax of MyST's own but directives.
myst_heading_anchors = 4
myst_links_external_new_tab = False

# Docstrings are in Google's style; a name in single backticks is a Python name.
default_role = "py:obj"
napoleon_numpy_docstring = False
napoleon_use_ivar = True
napoleon_use_rtype = False
autodoc_member_order = "bysource"
autodoc_class_signature = "mixed"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 60
python_use_unqualified_type_names = True
add_module_names = False

html_theme = "pydata_sphinx_theme"
html_title = f"hydrakit {release}"
html_static_path = ["_static"]
html_css_files = ["hydrakit.css"]
html_favicon = "_static/favicon.svg"
html_show_sourcelink = False
html_copy_source = False
html_permalinks_icon = "#"
html_context = {"default_mode": "auto"}  # light or dark, as the reader's system
html_theme_options = {
    "navbar_end": ["theme-switcher"],
    "header_links_before_dropdown": 6,
    "show_nav_level": 1,
    "navigation_depth": 2,
    "show_toc_level": 2,
    "secondary_sidebar_items": ["page-toc"],
    "footer_start": [],
    "footer_end": [],
    "back_to_top_button": False,
}
copybutton_exclude = ".linenos, .gp, .go"
