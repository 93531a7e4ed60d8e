"""Sphinx's settings for the site; ``build.py`` writes the sources that it reads."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))
sys.path.insert(0, str(HERE.parent))
os.environ.setdefault("HF_HUB_OFFLINE", "1")

project = "Multimodal neurons"
author = "The multimodal-neurons contributors"
copyright = author
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "house"]

nb_execution_mode = "off"  # outputs are those of the runs that ship
nb_ipywidgets_js = {}
nb_code_prompt_show = nb_code_prompt_hide = "Parameters of this run"
myst_enable_extensions = ["dollarmath", "amsmath"]
myst_heading_anchors = 3
html_math_renderer = "mathml"

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_default_options = {"members": True, "show-inheritance": True}
autodoc_preserve_defaults = True
add_module_names = False
default_role = "code"

html_theme = "furo"
html_title = project
pygments_dark_style = "github-dark"
html_static_path = [str(HERE / "static")]
html_css_files = ["site.css"]
html_show_sourcelink = html_copy_source = False
html_show_copyright = False
html_theme_options = {"top_of_page_buttons": []}
