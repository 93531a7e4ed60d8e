"""Say which reading of "decode", and of "BERTScore", gives back what the papers print.

    python -m mmn_utils.studies.golden --preset limber

Of the preset's system the language model alone is read, from the hub, its cache or FOLDER.
BERTScore is tried with the encoders that are in the hub's cache, or those that are named; only
paper A prints such scores of captions.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

from mmn_utils.commands import parser_of, refusing
from mmn_utils.presets import load_preset
from mmn_utils.studies.golden.decodings import Result, Setting, try_settings
from mmn_utils.studies.golden.printed import PrintedList, printed_lists
from mmn_utils.studies.golden.similarity import encoders_here, printed_pairs, try_similarities

SHOWN = 12  # settings, and lists that differ
SCORED = "limber"  # the system whose paper prints scores of captions
NO_ENCODER = (
    "BERTScore: left out. None of the text encoders that bert-score knows is in the hub's cache; "
    "fetch some, `hf download roberta-large` and the like, or pass --encoder FOLDER:LAYER."
)


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("mmn_utils.studies.golden", __doc__)
    parser.add_argument("--preset", default="limber", help="a name or a YAML file")
    parser.add_argument("--language-model", metavar="FOLDER", help="or another name on the hub")
    parser.add_argument("--tokenizer", metavar="FOLDER", help="or another name on the hub")
    parser.add_argument("--revision", help="of the language model on the hub")
    parser.add_argument(
        "--encoder", action="append", default=[], metavar="NAME",
        help="of BERTScore: FOLDER:LAYER or a name that bert-score knows; repeatable",
    )  # fmt: skip
    parser.add_argument("--tables", metavar="FOLDER", help="of printed tables; else data/golden")
    parser.add_argument("--json", metavar="FILE", help="where to write all rows")
    return parser.parse_args(arguments)


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Compare a preset's system with the printed tables; 2 where something is missing."""
    chosen = _arguments(arguments)
    system = str(load_preset(chosen.preset).settings.get("model", ""))
    printed = printed_lists(system, chosen.tables)
    scored = system == SCORED
    encoders = encoders_here(chosen.encoder) if scored else []
    pairs = printed_pairs(chosen.tables) if scored else None
    parts = {key: getattr(chosen, key) for key in ("language_model", "tokenizer", "revision")}
    found = try_settings(system, printed, **parts)
    print(told(found, printed))
    likeness = try_similarities(encoders, pairs) if encoders else None
    if scored:
        print(NO_ENCODER if likeness is None else told_likeness(likeness))
    if chosen.json:
        _write(Path(chosen.json), system, found.table, likeness)
    return 0


def told(found: Result, printed: Sequence[PrintedList]) -> str:
    """Say in lines what the settings give back, and what the best of them does not."""
    count, best = len(printed), found.best
    row = found.table.iloc[0]
    plain = next(place for place, one in enumerate(found.lists) if one == Setting())
    lines = [
        f"{count} printed lists, {len(found.table)} settings; the best {SHOWN}:",
        found.table.head(SHOWN).to_string(index=False, float_format="{:.3f}".format),
        f"As printed in the paper ({Setting()}): {found.table['lists'][plain]} of {count} lists.",
        f"Best: {row['lists']} of {count} lists, {row['share']:.1%} of the printed tokens, by",
        *(f"  {setting}" for setting in best),
    ]
    return "\n".join([*lines, *_different(found.lists[best[0]])])


def _different(lists: dict[PrintedList, list[str] | None]) -> list[str]:
    """List printed neurons that the best setting decodes to other tokens, the first of them."""
    found = {
        one: tokens and [text if one.blanks else text.strip() for text in tokens]
        for one, tokens in lists.items()
    }
    other = {
        one: tokens
        for one, tokens in found.items()
        if tokens is None or tuple(tokens[: len(one.tokens)]) != one.tokens
    }
    lines = [
        f"  {one.neuron}: printed {list(one.tokens)}, decoded "
        f"{'nothing: there is no such neuron' if tokens is None else tokens[: len(one.tokens)]}"
        for one, tokens in list(other.items())[:SHOWN]
    ]
    return (
        [f"Spelt otherwise there: {len(other)}, the first {len(lines)}:", *lines] if lines else []
    )


def told_likeness(table: pd.DataFrame) -> str:
    """Say in lines which settings of BERTScore come nearest to the printed scores."""
    best = table.iloc[0]
    return "\n".join(
        [
            f"BERTScore of {best['n']} printed pairs, {len(table)} settings; the nearest {SHOWN}:",
            table.head(SHOWN).to_string(index=False, float_format="{:.4f}".format),
            f"Nearest: {best['encoder']}, layer {best['layer']}, idf = {best['idf']}, rescaled = "
            f"{best['rescaled']}, bert-score {best['version']}: {best['same']} of {best['n']} "
            f"scores as printed, off by {best['error']:.3f} on average.",
        ]
    )


def _write(path: Path, system: str, decodings: pd.DataFrame, scores: pd.DataFrame | None) -> None:
    tables = {"decodings": decodings, **({} if scores is None else {"bertscore": scores})}
    rows = {name: json.loads(table.to_json(orient="records")) for name, table in tables.items()}
    path.write_text(json.dumps({"system": system, **rows}, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())
