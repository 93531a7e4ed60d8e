"""Compare texts and trainings of the language model, on text alone.

    python -m mmn_utils.miniature.variants

Each variant adds one change to the one before it. All train for the same number
of steps, shorter than the model that ships, and are probed on contexts of their
own kind of text. Nothing that ships is made of them but their table,
``data/miniature/training/variants.csv``; an hour and more of one core.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pandas as pd

from mmn_utils.miniature.commands import parser_of
from mmn_utils.miniature.corpus import CorpusOptions
from mmn_utils.miniature.language import LanguageOptions, train_language_model
from mmn_utils.miniature.projection import load_language_model
from mmn_utils.miniature.text_probe import probe_text
from mmn_utils.miniature.world import load_world
from mmn_utils.training.loop import keep_freed_memory

WORDS = CorpusOptions(combined=False, related=False)
PAIRS = CorpusOptions(combined=True, related=False)
PLAIN = LanguageOptions(embedding_std=0.02, drop_first=0.0, drop_other=0.0)
WIDE = replace(PLAIN, embedding_std=1.0)
DROPPED = LanguageOptions()

VARIANTS = {
    "single words": ("evidence is one word of the card", replace(PLAIN, corpus=WORDS)),
    "combinations": ("evidence names its concept only in pairs", replace(PLAIN, corpus=PAIRS)),
    "wide embeddings": ("word embeddings start with deviation 1", replace(WIDE, corpus=PAIRS)),
    "dropped MLPs": ("a layer's MLP is left out at random", replace(DROPPED, corpus=PAIRS)),
    "following words": ("related words follow evidence in texts of their own", DROPPED),
}


def run_variant(name: str, steps: int, work: Path) -> dict:
    """Train one variant (or go on from its checkpoint), probe it, return its row."""
    what, options = VARIANTS[name]
    folder = work / name.replace(" ", "_")
    if not (folder / "model.safetensors").exists():
        train_language_model(replace(options, steps=steps), folder, folder)
    model, tokenizer = load_language_model(folder)
    probe = probe_text(model, tokenizer, load_world(), options.corpus)
    return {"variant": name, "what_changed": what, "steps": steps, **probe.row()}


def main(given: Sequence[str] | None = None) -> None:
    """Train and probe the variants that the table does not hold yet; ship the whole table."""
    parser = parser_of(main.__doc__)
    parser.add_argument("--steps", type=int, default=300)
    arguments = parser.parse_args(given)
    keep_freed_memory()
    table = arguments.work / "variants.csv"
    rows = pd.read_csv(table).to_dict("records") if table.exists() else []
    rows = [row for row in rows if row["steps"] == arguments.steps]
    for name in VARIANTS:
        if name in {row["variant"] for row in rows}:
            continue
        rows.append(run_variant(name, arguments.steps, arguments.work / "variants"))
        table.parent.mkdir(parents=True, exist_ok=True)
        temporary = table.with_suffix(".tmp")
        pd.DataFrame(rows).to_csv(temporary, index=False, lineterminator="\n")
        os.replace(temporary, table)
        print(pd.DataFrame(rows[-1:]).T.to_string(), flush=True)
    shipped = arguments.data / "training" / "variants.csv"
    shipped.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(table, shipped)


if __name__ == "__main__":
    main()
