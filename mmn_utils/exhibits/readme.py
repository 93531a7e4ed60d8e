"""What the README takes from the runs that ship: how many claims hold, and the list of exhibits."""

from __future__ import annotations

import pandas as pd

from mmn_utils.exhibits.entries import SHIPPED, load_exhibits
from mmn_utils.exhibits.ledger import VERDICTS, claims
from mmn_utils.presets import ROOT, load_preset

SHIPPED_FIGURES = ROOT / "figures"


def exhibits_table() -> str:
    """Return the table of exhibits, as Markdown."""
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


def verdict_counts() -> pd.DataFrame:
    """Count the papers' claims by verdict: a row for each shipped run, a column for each verdict.

    Our own claims, of paper C, are left out.
    """
    rows = {}
    for run in SHIPPED:
        ledger = claims(run, SHIPPED_FIGURES)
        papers = ledger[ledger["paper"] != "C"]["holds"]
        rows[run] = papers.value_counts().reindex(list(VERDICTS.values()), fill_value=0)
    return pd.DataFrame(rows).T


def results_table() -> str:
    """Return how many of the papers' claims hold in each shipped run, as Markdown."""
    lines = ["| run | claims of the papers | hold | do not | not tested |"]
    lines.append("| --- | ---: | ---: | ---: | ---: |")
    for run, counts in verdict_counts().iterrows():
        cells = [f"[`{run}`](figures/{run}/report.html)", counts.sum(), *counts]
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
