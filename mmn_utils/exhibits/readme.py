"""What the README takes from the runs that ship: how claims came out, and the list of exhibits."""

from __future__ import annotations

from mmn_utils.exhibits.entries import SHIPPED, Exhibit, load_exhibits
from mmn_utils.exhibits.ledger import VERDICTS
from mmn_utils.exhibits.verdicts import (
    GATE_ALONE,
    NO_FIGURE,
    OUR_CLAIMS,
    OUR_PAPER,
    came_out,
    counts,
    kinds,
    ledger_of,
)
from mmn_utils.presets import ROOT, load_preset

SHIPPED_FIGURES = ROOT / "figures"


def exhibits_table() -> str:
    """Return the table of exhibits, as Markdown: what a paper says with it, and what came out."""
    lines = ["| exhibit | what the paper says, and what came out here | notebook |"]
    lines.append("| --- | --- | --- |")
    for exhibit in load_exhibits().values():
        suffix = ".png" if exhibit.kind == "figure" else ".md"
        link = f"[`{exhibit.id}`](figures/{_runs(exhibit)[0]}/{exhibit.id}{suffix})"
        notebook = f"[{exhibit.notebook}](notebooks/{exhibit.notebook}.ipynb)"
        title = exhibit.title if exhibit.title.endswith("?") else f"{exhibit.title}."
        told = f"**{title}**{_told(exhibit)}".replace("|", r"\|")
        lines.append(f"| {link} | {told} | {notebook} |")
    return "\n".join(lines) + "\n"


def _runs(exhibit: Exhibit) -> list[str]:
    """List the shipped runs that make an exhibit, or the first where none does."""
    presets = [load_preset(name) for name in SHIPPED]
    return [preset.name for preset in presets if preset.runs(exhibit.notebook)] or [SHIPPED[0]]


def _told(exhibit: Exhibit) -> str:
    """Say what the paper says with an exhibit, and how its claims came out in each run."""
    runs = _runs(exhibit)
    found = came_out(exhibit, runs, SHIPPED_FIGURES)
    here = "<br>".join(f"`{run}`: {text}." for run, text in found.items())
    if len(runs) == 1:
        here = "".join(f"{text}." for text in found.values())
    if exhibit.paper == OUR_PAPER:
        return f" {exhibit.claim}" + (f"<br>*What we expected:* {here}" if here else "")
    return f"<br>*Paper says:* {exhibit.claim}<br>*Here:* {here or 'shown, not judged.'}"


def verdict_counts() -> dict[tuple[str, str], dict[str, dict[str, int]]]:
    """Count the papers' claims by verdict, for each shipped run and each kind (``kinds``).

    Our own claims are left out.
    """
    return {
        (run, kind): counts(part)
        for run in SHIPPED
        for kind, part in kinds(ledger_of(run, SHIPPED_FIGURES)).items()
        if kind != OUR_CLAIMS
    }


def results_table() -> str:
    """Return how the papers' claims came out in each shipped run, as Markdown."""
    sizes = (*VERDICTS, NO_FIGURE)
    first = VERDICTS[0]
    heads = [f"direction: {first}", *VERDICTS[1:], f"size: {first}", *sizes[1:]]
    lines = [f"| run | claims | {' | '.join(heads)} |"]
    lines.append(f"| --- |{' ---: |' * (1 + len(heads))}")
    for (run, kind), counted in verdict_counts().items():
        name = f"[`{run}`](figures/{run}/report.html)"
        name = f"… {kind}" if kind == GATE_ALONE else name
        direction, size = counted["direction"].values(), counted["size"].values()
        cells = [name, sum(direction), *direction, *size]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


BLOCKS = {"results": results_table, "exhibits": exhibits_table}


def marks(block: str) -> tuple[str, str]:
    """Return the two lines of the README between which a block is written."""
    return f"<!-- {block}:begin -->", f"<!-- {block}:end -->"


def update_readme(text: str) -> str:
    """Return the README's text with its blocks rewritten between their marks."""
    for block, written in BLOCKS.items():
        begin, end = marks(block)
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not (found and closed):
            raise ValueError(f"the README must have the two lines {begin!r} and {end!r}")
        text = f"{before}{begin}\n\n{written()}\n{end}{after}"
    return text
