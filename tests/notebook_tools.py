"""Tiny notebooks for tests."""

from __future__ import annotations

from pathlib import Path

import nbformat

COMMON = """\
preset = "miniature"  # name of the preset
run = "miniature"  # folder under figures/
model = "miniature"  # system
seed = 0  # of everything random
n_images = 3  # images
"""
KERNELSPEC = {"name": "python3", "display_name": "Python 3", "language": "python"}


def write_notebook(
    folder: Path, name: str = "tiny", parameters: str = "", *code: str, common: str = COMMON
) -> Path:
    """Write ``name.ipynb`` with a parameters cell of the common lines and ``parameters``."""
    cells = [nbformat.v4.new_markdown_cell("# A tiny notebook")]
    cells.append(nbformat.v4.new_code_cell(common + parameters, metadata={"tags": ["parameters"]}))
    cells += [nbformat.v4.new_code_cell(source) for source in code]
    notebook = nbformat.v4.new_notebook(cells=cells, metadata={"kernelspec": KERNELSPEC})
    for i, cell in enumerate(notebook.cells):
        cell["id"] = f"cell-{i}"
    path = folder / f"{name}.ipynb"
    path.parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(notebook, path)
    return path
