"""What the README takes from the runs that ship: how claims came out, and the list of exhibits."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import pandas as pd

from mmn_utils.datasets.published import GATE
from mmn_utils.exhibits.entries import NUMBERS_ALONE, SHIPPED, Exhibit, load_exhibits
from mmn_utils.exhibits.judging import NO
from mmn_utils.exhibits.switches import sentence
from mmn_utils.exhibits.verdicts import (
    GATE_ALONE,
    NO_FIGURE,
    OUR_CLAIMS,
    OUR_PAPER,
    came_out,
    counts,
    kinds,
    ledger_of,
    left_out,
)
from mmn_utils.presets import ROOT, Preset, load_preset

SHIPPED_FIGURES = ROOT / "figures"
SMOL = "smol"


def exhibits_table() -> str:
    """Return the table of exhibits, as Markdown: what a paper says with it, and what came out."""
    lines = ["| exhibit | what the paper says, and what came out here | notebook |"]
    lines.append("| --- | --- | --- |")
    for exhibit in load_exhibits().values():
        link = f"[`{exhibit.id}`](figures/{_file(exhibit)})"
        notebook = f"[{exhibit.notebook}](notebooks/{exhibit.notebook}.ipynb)"
        title = exhibit.title if exhibit.title.endswith("?") else f"{exhibit.title}."
        told = f"**{title}**{_told(exhibit)}".replace("|", r"\|")
        lines.append(f"| {link} | {told} | {notebook} |")
    return "\n".join(lines) + "\n"


def _file(exhibit: Exhibit) -> str:
    """Name what the first run that has an exhibit shows of it, or says where none has it."""
    runs = _runs(exhibit)
    told = [run for run in runs if (SHIPPED_FIGURES / run / f"{exhibit.id}.json").is_file()]
    for run in told:
        if not left_out(exhibit, run, SHIPPED_FIGURES):
            return f"{run}/{exhibit.id}{'.png' if exhibit.kind == 'figure' else '.md'}"
    return f"{(told or runs)[0]}/report.html#{exhibit.id}"


def _runs(exhibit: Exhibit) -> list[str]:
    """List the shipped runs that make an exhibit, or the first where none does."""
    made = [preset.name for preset in _presets() if preset.runs(exhibit.notebook)]
    return made or [SHIPPED[0]]


@cache
def _presets() -> list[Preset]:
    return [load_preset(name) for name in SHIPPED]


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
        for run in (*SHIPPED, *NUMBERS_ALONE)
        for kind, part in kinds(ledger_of(run, SHIPPED_FIGURES)).items()
        if kind != OUR_CLAIMS
    }


def results() -> str:
    """Return how the papers' claims came out in the shipped runs, as Markdown."""
    return f"{_not_so()}\n\n{_results_table()}"


def _not_so() -> str:
    """List the papers' statements whose direction does not hold, each with its runs."""
    found: dict[tuple[str, str], list[str]] = {}
    for run in SHIPPED:
        ledger = ledger_of(run, SHIPPED_FIGURES)
        denied = ledger[(ledger["holds"] == NO) & (ledger["paper"] != OUR_PAPER)]
        for statement, rows in denied.groupby(["paper", "statement"], sort=False):
            found.setdefault(statement, []).append(_denied_on(run, list(rows["id"])))
    lines = [
        f"* {statement} (Paper {paper}: {', '.join(runs)})"
        for (paper, statement), runs in sorted(found.items(), key=lambda item: item[0][0])
    ]
    return "\n".join(["What the papers state and what is **not so** here:", "", *lines])


def _denied_on(run: str, ids: Sequence[str]) -> str:
    """Name a run with links to a statement's verdicts, that of the gate alone in words."""
    system = run.removeprefix(f"{SHIPPED[0]}-")
    links = [f"figures/{run}/report.html#{id}" for id in sorted(ids, key=len)]
    if len(ids) > 1:
        return f"[`{system}`]({links[0]}) and [with the gate alone]({links[1]})"
    return f"[`{system}`]({links[0]})" + (" with the gate alone" if ids[0].endswith(GATE) else "")


def _address(run: str) -> str:
    """Return where a run is read: its report, or its claims where these alone are kept."""
    return f"figures/{run}/{'claims.csv' if run in NUMBERS_ALONE else 'report.html'}"


def _results_table() -> str:
    """Count the papers' claims in each run by both verdicts."""
    heads = ["run", "claims", "direction holds", "does not", "open", "not tested"]
    heads += ["size agrees", "differs", "open", "not tested", NO_FIGURE]
    lines = [f"| {' | '.join(heads)} |", f"| --- |{' ---: |' * (len(heads) - 1)}"]
    for (run, kind), counted in verdict_counts().items():
        name = f"[`{run}`]({_address(run)})"
        name = f"… {kind}" if kind == GATE_ALONE else name
        direction, size = counted["direction"].values(), counted["size"].values()
        cells = [name, sum(direction), *direction, *size]
        lines.append("| " + " | ".join(map(str, cells)) + " |")
    return "\n".join(lines) + "\n"


def real_model() -> str:
    """Say in numbers what the run ``smol`` found, as Markdown; of no run, how it is made."""
    folder = SHIPPED_FIGURES / SMOL
    files = [folder / f"{id}.numbers.csv" for id in ("C-real-quality", "C-real-decoding")]
    if not all(path.is_file() for path in files):
        return "`make figures PRESET=smol` makes its run.\n"
    right, shares = map(pd.read_csv, files)
    return f"{_named(right)} {_written(shares)} [The report]({_address(SMOL)}) asks why.\n"


def _named(right: pd.DataFrame) -> str:
    """Say how often captions are right: rows source, and a column for each system."""
    coco = right["source"].str.startswith("coco")
    share = right[~coco].mean(numeric_only=True)
    said = (
        f"Of {(~coco).sum():,} photographs that no training saw, captions name the class of "
        f"**{share['trained']:.0%}**: {share['untrained_projection']:.0%} with an untrained "
        f"projection, {share['untrained_encoder']:.0%} with an untrained encoder"
    )
    if coco.any():
        first = right.loc[coco, "trained"].mean()
        said += f"; of {coco.sum():,} of COCO the first noun is right on {first:.0%}"
    return f"{said}."


def _written(shares: pd.DataFrame) -> str:
    """Say how many top units write the noun: rows image, way, reading, share."""
    share = shares[shares["reading"] == "signed"].groupby("way")["share"].mean()
    return (
        f"Of the units that attribution ranks first at the image tokens **{share['picture']:.1%}** "
        f"write the caption's noun, {share['picture_random']:.1%} of random ones, and "
        f"{share['last_token']:.1%} of those that contribute most at the last token."
    )


BLOCKS = {
    "results": results,
    "switches": sentence,
    "smol": real_model,
    "exhibits": exhibits_table,
}


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
