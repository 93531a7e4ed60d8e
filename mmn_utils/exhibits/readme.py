"""The README's table of exhibits, from the one list."""

from __future__ import annotations

from mmn_utils.exhibits.entries import SHIPPED, load_exhibits
from mmn_utils.presets import load_preset

README_BEGIN = "<!-- exhibits:begin -->"
README_END = "<!-- exhibits:end -->"


def readme_table() -> str:
    """Return the README's table of exhibits, as Markdown."""
    lines = ["| exhibit | what it shows | notebook |", "| --- | --- | --- |"]
    presets = [load_preset(name) for name in SHIPPED]
    for exhibit in load_exhibits().values():
        suffix = ".png" if exhibit.kind == "figure" else ".md"
        run = next((p.name for p in presets if p.runs(exhibit.notebook)), SHIPPED[0])
        link = f"[`{exhibit.id}`](figures/{run}/{exhibit.id}{suffix})"
        notebook = f"[{exhibit.notebook}](notebooks/{exhibit.notebook}.ipynb)"
        claim = exhibit.claim.replace("|", r"\|")
        title = exhibit.title if exhibit.title.endswith("?") else f"{exhibit.title}."
        lines.append(f"| {link} | **{title}** {claim} | {notebook} |")
    return "\n".join(lines) + "\n"


def update_readme(text: str) -> str:
    """Return the README's text with the table of exhibits rewritten between its marks."""
    before, begin, rest = text.partition(README_BEGIN)
    _, end, after = rest.partition(README_END)
    if not (begin and end):
        raise ValueError(f"the README must have the two lines {README_BEGIN!r} and {README_END!r}")
    return f"{before}{begin}\n\n{readme_table()}\n{end}{after}"
