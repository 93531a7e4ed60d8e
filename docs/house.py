"""What this site adds to Sphinx: formulas as MathML, and docstrings as the house writes them."""

from __future__ import annotations

import re

from docutils import nodes
from sphinx.application import Sphinx

from mmn_utils.running.prose import formula

BEFORE_NAPOLEON = 400  # which has 500 and turns "Attributes:" into fields
KEPT = re.compile(r"(``.*?``|`[^`]+`|^ *\* )")  # code, and a list's asterisk
# Signs that reStructuredText would take for its own: an asterisk, a bar, a name's last underscore.
SIGNS = re.compile(r"(?<!\\)(\*|\||(?<=\w)_(?!\w))")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the renderer of formulas and the reader of docstrings."""
    app.add_html_math_renderer("mathml", (_inline, None), (_block, None))
    app.connect("autodoc-process-docstring", _docstring, priority=BEFORE_NAPOLEON)
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def _inline(translator, node: nodes.math) -> None:
    translator.body.append(formula(node.astext(), "inline"))
    raise nodes.SkipNode


def _block(translator, node: nodes.math_block) -> None:
    translator.body.append(f'<div class="formula">{formula(node.astext(), "block")}</div>')
    raise nodes.SkipNode


def _docstring(app, what, name, obj, options, lines: list[str]) -> None:
    lines[:] = to_rest(lines)


def to_rest(lines: list[str]) -> list[str]:
    """Return a docstring's lines as reStructuredText.

    The house indents code and diagrams after a blank line, as Markdown has it, and uses no markup
    beside double backquotes.
    """
    found: list[str] = []
    literal = False
    for line in lines:
        indented = line.startswith("    ")
        if indented and not literal and found and not found[-1].strip():
            found += ["::", ""]
            literal = True
        literal = literal and (indented or not line.strip())
        found.append(line if literal else _escaped(line))
    return found


def _escaped(line: str) -> str:
    parts = KEPT.split(line)
    return "".join(p if i % 2 else SIGNS.sub(r"\\\1", p) for i, p in enumerate(parts))
