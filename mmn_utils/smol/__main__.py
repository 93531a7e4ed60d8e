"""Train the projection of ``smol`` on photographs by folder, and judge it on others.

Resumable: features and checkpoints lie in ``--work``. A step shows photographs of ``train``
folders; those of ``val`` folders are captioned afterwards, and COCO's, if ``--coco`` is given.
A step's photographs come from the sets by shares of the recipe's own, or of ``--shares``.
``--only encoders`` trains nothing, but says what linear probes of several encoders tell apart.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd
import torch

from mmn_utils.datasets import Photograph, load_dataset
from mmn_utils.models.any_encoder import LITE2, load_encoder
from mmn_utils.models.hub import load_tokenizer, require_files
from mmn_utils.models.smol import REMEDY, SMOL, language_folder, load_language, load_smol
from mmn_utils.presets import data_path
from mmn_utils.smol.photographs import (
    NAMES_FILE,
    TRAIN,
    VAL,
    Shown,
    find_photographs,
    read_names,
    sources_of,
)
from mmn_utils.smol.probe import try_encoders
from mmn_utils.smol.quality import TOKENS, first_nouns, named, spread, write_rows
from mmn_utils.smol.training import (
    Later,
    Options,
    chances_of,
    fast_type,
    marked,
    new_projection,
    record_of,
    save_projection,
    train_projection,
)
from mmn_utils.smol.views import kept_views
from mmn_utils.studies import naming
from mmn_utils.studies.legibility import PICTURE, wide, written
from mmn_utils.studies.subjects import subjects, top_neurons
from mmn_utils.training.features import fold
from mmn_utils.training.loop import keep_freed_memory

RECIPES: dict[str, Options | None] = {  # by file; None: not trained at all
    "projection": Options(later=Later()),
    "projection_untrained_encoder": replace(Options(), steps=1000),
    "projection_untrained": None,
}
JUDGE = "judge"  # beside the recipes, what may be asked for
ENCODERS = "encoders"  # and this, if it is asked for by name: one of them is an extra package
COCO = "coco_val2017"
ON_THE_WAY = 80  # photographs of each set that a point of the curve is judged by
DECODED, TOP_UNITS = 24, 20  # photographs, and units of each, that are decoded at each point


@dataclass(frozen=True)
class Places:
    """Where photographs, weights and work lie; classes have the names of ``names``."""

    photographs: Path
    data: Path
    work: Path
    coco: Path | None

    @property
    def names(self) -> dict[str, str]:
        """Better names of classes: those of the repository, and of the photographs' own."""
        own = self.photographs / NAMES_FILE
        known = read_names(data_path("smol", NAMES_FILE))
        return known | (read_names(own) if own.is_file() else {})

    def shown(self, split: str) -> list[Shown]:
        """List the photographs of a split."""
        return find_photographs(self.photographs, split, self.names)

    def file(self, name: str) -> Path:
        """Return where a projection lies."""
        return self.data / f"{name}.safetensors"


def make(name: str, options: Options | None, trained: bool, places: Places) -> None:
    """Train (or draw) one projection and save it."""
    shown, folder = places.shown(TRAIN), language_folder()
    store = kept_views(load_encoder(LITE2, trained), shown, places.work)
    language = load_language(folder, fast_type())
    path = places.file(name)
    if options is None:
        weights = fold(new_projection(store, language, Options.seed), store)
        save_projection(path, weights, {"steps": 0})
        return
    tokenizer = load_tokenizer(folder)
    weights = train_projection(name, language, tokenizer, store, shown, options, places.work)
    save_projection(path, weights, record_of(options, language, shown))


def judge(model, places: Places, count: int | None) -> pd.DataFrame:
    """Caption photographs kept apart, ``count`` of each set or all: a row for each.

    Columns system, source, name, image, caption, right; of COCO the first noun is its name.
    """
    shown = places.shown(VAL)
    parts = []
    for source in sources_of(shown):
        some = [one for one in shown if one.source == source]
        parts.append(named(model, spread(some, count) if count else some))
    if places.coco and count is None:
        found = first_nouns(model, list(load_dataset(COCO, places.coco)))
        parts.append(found.rename(columns={"noun": "name"}).assign(source=COCO))
    every = pd.concat(parts, ignore_index=True).assign(system=model.name)
    return every[["system", "source", "name", "image", "caption", "right"]]


def decoded_on_the_way(model, places: Places, steps: int) -> pd.DataFrame:
    """Measure what share of top units writes the noun, on photographs kept apart.

    Columns steps, image, picture, picture_random; see ``studies.legibility``.
    """
    chosen = spread(places.shown(VAL), DECODED)
    photographs = [
        Photograph(f"{one.source}/{one.path.parent.name}/{one.path.name}", one.path)
        for one in chosen
    ]
    some = subjects(model, photographs, max_new_tokens=TOKENS)
    lists = {PICTURE: top_neurons(model, some, k=TOP_UNITS)}
    nouns = {target.image: target.noun for target in some.targets}
    return wide(written(model, lists, nouns, TOP_UNITS).rows).reset_index().assign(steps=steps)


def judge_all(places: Places) -> None:
    """Write what each system is worth, and the way of the trained one, beside the weights."""
    found, rows, curve, decoded = {}, [], [], []
    for system, (name, _) in SMOL.items():
        options = RECIPES[name]
        found[system] = judge(load_smol(system, projection=places.file(name)), places, None)
        rows.append(summed_up(found[system], options.total if options else 0))
    write_rows(pd.concat(found.values(), ignore_index=True), places.data / "captions.csv")
    for steps, file in marked(places.work, "projection"):
        model = load_smol("smol", projection=file)
        curve.append(summed_up(judge(model, places, ON_THE_WAY), steps))
        decoded.append(decoded_on_the_way(model, places, steps))
    if decoded:  # where nothing was trained, what is there stays
        steps = RECIPES["projection"].total
        curve.append(summed_up(some_of(found["smol"], ON_THE_WAY), steps))
        model = load_smol("smol", projection=places.file("projection"))
        decoded.append(decoded_on_the_way(model, places, steps))
        write_rows(pd.concat(curve, ignore_index=True), places.data / "curve.csv")
        write_rows(pd.concat(decoded, ignore_index=True), places.data / "decoding.csv")
    print(pd.concat([*curve, *rows], ignore_index=True).to_string(index=False))


def some_of(found: pd.DataFrame, count: int) -> pd.DataFrame:
    """Take the rows of ``judge`` that it would have had with that ``count``."""
    of_classes = found[found["source"] != COCO]
    return pd.concat(spread(part, count) for _, part in of_classes.groupby("source", sort=False))


def summed_up(found: pd.DataFrame, steps: int) -> pd.DataFrame:
    """Sum up the rows of ``judge`` by set: system, source, steps, share, low, high, n."""
    table = naming.shares(found, ["system", "source"], "right").round(4)
    table.insert(2, "steps", steps)
    return table


def judge_encoders(places: Places) -> None:
    """Write what probes of encoders tell apart, beside the weights."""
    found = try_encoders(places.shown(TRAIN), places.shown(VAL), places.work)
    write_rows(found, places.data / "encoders.csv")
    print(found.to_string(index=False))


def check(names: Sequence[str], recipes: dict[str, Options | None], places: Places) -> None:
    """Refuse, before hours of work, what it would end in: nothing to show, to judge or to load."""
    if made := [name for name in names if name in recipes]:
        shown = places.shown(TRAIN)
        for name in made:
            if options := recipes[name]:
                for stage in options.stages():
                    chances_of(shown, stage)
    if JUDGE in names:
        places.shown(VAL)
        if places.coco:
            load_dataset(COCO, places.coco)
        absent = [places.file(name) for name in recipes if name not in made]
        require_files("judging", absent, REMEDY)


def with_shares(shares: Sequence[tuple[str, float]]) -> dict[str, Options | None]:
    """Return the recipes, with other shares of the sets if there are any."""
    if not shares:
        return RECIPES
    return {name: options and options.with_shares(shares) for name, options in RECIPES.items()}


def main() -> None:
    """Try encoders and train, what of it is asked for, then judge all that is there."""
    arguments = _parser().parse_args()
    places = Places(arguments.photographs, arguments.data, arguments.work, arguments.coco)
    recipes = with_shares(arguments.shares)
    names = arguments.only or [*RECIPES, JUDGE]
    check(names, recipes, places)
    keep_freed_memory()
    torch.set_num_threads(1)  # the two threads of a training take a core each
    if ENCODERS in names:
        judge_encoders(places)
    for name, trained in SMOL.values():
        if name in names:
            make(name, recipes[name], trained, places)
    if JUDGE in names:
        judge_all(places)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m mmn_utils.smol", description=__doc__)
    parser.add_argument("photographs", type=_folder, help="a folder of sets, see smol.photographs")
    parser.add_argument("--only", nargs="*", choices=[*RECIPES, JUDGE, ENCODERS], default=[])
    parser.add_argument("--shares", nargs="*", type=_share, default=[], metavar="SET=SHARE")
    parser.add_argument("--data", type=Path, default=data_path("smol"))
    parser.add_argument("--work", type=Path, default=data_path("cache", "smol"))
    parser.add_argument("--coco", type=_folder, help="MS COCO, whose val2017 is captioned")
    return parser


def _folder(text: str) -> Path:
    if not text.strip():
        raise argparse.ArgumentTypeError("no folder is named: make smol PHOTOGRAPHS=FOLDER")
    if not Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is no folder")
    return Path(text)


def _share(text: str) -> tuple[str, float]:
    name, _, share = text.rpartition("=")
    if not name or not 0 < float(share) <= 1:
        raise argparse.ArgumentTypeError(f"{text}: give SET=SHARE, a share above 0 and up to 1")
    return name, float(share)


if __name__ == "__main__":
    main()
