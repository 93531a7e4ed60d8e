"""Train the projection of ``smol`` on photographs by folder, and judge it on others.

Resumable: features and checkpoints lie in ``--work``. A step shows photographs of ``train``
folders; those of ``val`` folders are captioned afterwards, and COCO's, if ``--coco`` is given.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from mmn_utils.datasets import load_dataset
from mmn_utils.models.any_encoder import LITE2, load_encoder
from mmn_utils.models.hub import load_tokenizer
from mmn_utils.models.smol import SMOL, language_folder, load_language, load_smol
from mmn_utils.presets import data_path
from mmn_utils.smol.photographs import NAMES_FILE, TRAIN, VAL, find_photographs, read_names
from mmn_utils.smol.quality import first_nouns, named, row_of, spread, write_rows
from mmn_utils.smol.training import (
    Options,
    fast_type,
    marked,
    new_projection,
    record_of,
    save_projection,
    train_projection,
)
from mmn_utils.smol.views import kept_views
from mmn_utils.training.features import fold
from mmn_utils.training.loop import keep_freed_memory

RECIPES: dict[str, Options | None] = {  # by file; None: not trained at all
    "projection": Options(),
    "projection_untrained_encoder": replace(Options(), steps=600),
    "projection_untrained": None,
}
ON_THE_WAY = 250  # photographs of each set that a point of the curve is judged by


@dataclass(frozen=True)
class Places:
    """Where photographs, weights and work lie."""

    photographs: Path
    data: Path
    work: Path
    coco: Path | None

    @property
    def names(self) -> dict[str, str]:
        """Better names of classes."""
        return read_names(self.data / NAMES_FILE)


def make(name: str, options: Options | None, trained: bool, places: Places) -> None:
    """Train (or draw) one projection and save it."""
    shown = find_photographs(places.photographs, TRAIN, places.names)
    store = kept_views(load_encoder(LITE2, trained), shown, places.work)
    folder = language_folder()
    language = load_language(folder, fast_type())
    path = places.data / f"{name}.safetensors"
    if options is None:
        weights = fold(new_projection(store, language, Options.seed), store)
        save_projection(path, weights, {"steps": 0})
        return
    tokenizer = load_tokenizer(folder)
    weights = train_projection(name, language, tokenizer, store, shown, options, places.work)
    save_projection(path, weights, record_of(options, language, shown))


def judge(system: str, steps: int, places: Places, file: Path, count: int | None) -> Iterator[dict]:
    """Yield a row for each set of photographs kept apart; ``count`` of each, or all."""
    model = load_smol(system, projection=file)
    shown = find_photographs(places.photographs, VAL, places.names)
    for source in sorted({one.source for one in shown}):
        some = [one for one in shown if one.source == source]
        found = named(model, spread(some, count) if count else some)
        if count is None:
            write_rows(found.to_dict("records"), places.work / f"captions_{file.stem}_{source}.csv")
        yield row_of(system, f"{source}/{VAL}", steps, found["right"])
    if places.coco and count is None:
        found = first_nouns(model, load_dataset("coco_val2017", places.coco).sample(None, 0))
        write_rows(found.to_dict("records"), places.work / f"captions_{file.stem}_coco.csv")
        yield row_of(system, "coco val2017", steps, found["right"])


def judge_all(places: Places) -> None:
    """Write what each system is worth, and the way of the trained one, beside the weights."""
    rows, curve = [], []
    for system, (name, _) in SMOL.items():
        options, file = RECIPES[name], places.data / f"{name}.safetensors"
        rows += judge(system, options.steps if options else 0, places, file, None)
    write_rows(rows, places.data / "quality.csv")
    for steps, file in marked(places.work, "projection"):
        curve += judge("smol", steps, places, file, ON_THE_WAY)
    write_rows(curve, places.data / "curve.csv")
    print(pd.DataFrame([*curve, *rows]).to_string(index=False))


def main() -> None:
    """Train what is asked for, then judge all that is there."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photographs", type=Path, help="a folder of sets, see smol.photographs")
    parser.add_argument("--only", nargs="*", choices=[*RECIPES, "judge"], default=[])
    parser.add_argument("--data", type=Path, default=data_path("smol"))
    parser.add_argument("--work", type=Path, default=data_path("cache", "smol"))
    parser.add_argument("--coco", type=Path, help="MS COCO, whose val2017 is captioned")
    arguments = parser.parse_args()
    places = Places(arguments.photographs, arguments.data, arguments.work, arguments.coco)
    keep_freed_memory()
    torch.set_num_threads(1)  # the two threads of a training take a core each
    for name, trained in SMOL.values():
        if not arguments.only or name in arguments.only:
            make(name, RECIPES[name], trained, places)
    if not arguments.only or "judge" in arguments.only:
        judge_all(places)


if __name__ == "__main__":
    main()
