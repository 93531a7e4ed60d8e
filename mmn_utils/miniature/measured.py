"""The quality of the miniature that ships, kept scene by scene beside its weights.

To measure everything takes minutes, to read it a moment. So ``make miniature`` measures
what it has made and keeps it; who reads it says which weights are meant, and may measure
a few scenes again to see that it still is so.

Run ``python -m mmn_utils.miniature.measured`` to measure, keep and print the table.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from mmn_utils.datasets import Photograph, load_dataset
from mmn_utils.miniature import looks
from mmn_utils.miniature.quality.measurement import ALIKE, CONTROLS, LOOKS, Quality, measure
from mmn_utils.miniature.quality.table import quality_table
from mmn_utils.miniature.world import World, load_world
from mmn_utils.models import load_model
from mmn_utils.presets import data_path

AGAIN = "python -m mmn_utils.miniature.measured"
_WORDS = ("image", "caption", "noun", "target", "system", "rank_by")


def keep(quality: Quality, folder: Path, weights: Mapping[str, str], seed: int) -> None:
    """Write a quality and the weights that it is of: {system as in ``captions``: revision}."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, table in _tables(quality).items():
        table.to_csv(
            folder / f"{name}.csv.gz", index=False, lineterminator="\n", float_format="%.9g",
            compression={"method": "gzip", "mtime": 0},  # the same bytes for the same numbers
        )  # fmt: skip
    about = {"weights": dict(weights), "seed": seed, "layers": quality.layers}
    (folder / "about.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def read(folder: Path, weights: Mapping[str, str]) -> tuple[Quality, int]:
    """Read the quality of these weights, and the seed that it was measured with.

    FileNotFoundError where none is kept, ValueError where it is of other weights.
    """
    if not (folder / "about.json").is_file():
        raise FileNotFoundError(f"no measurements in {folder}; make them by {AGAIN}")
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    for system, revision in weights.items():
        if about["weights"].get(system) != revision:
            raise ValueError(
                f"{folder} holds measurements of {system} with the weights "
                f"{about['weights'].get(system)}, not {revision}; measure again by {AGAIN}"
            )
    tables = {name: _read(folder / f"{name}.csv.gz") for name in _NAMES}
    quality = Quality(
        captions=_split(tables["captions"], "system"),
        units=tables["units"],
        tops=_split(tables["tops"], "rank_by"),
        patches=tables["patches"],
        layers=about["layers"],
    )
    return quality, about["seed"]


def again(
    kept: Quality,
    model,
    world: World,
    others: Mapping[str, tuple[object, Iterable[Photograph]]],
    pool: Iterable[Photograph],
    n: int,
    seed: int,
) -> Quality:
    """Measure the first ``n`` of the scenes that were kept once more, all systems.

    The scenes are found in ``pool``; ``others`` as for ``measure``, each with what its scenes are
    found in.
    """

    def scenes(name: str, pool: Iterable[Photograph]) -> list[Photograph]:
        known = {scene.id: scene for scene in pool}
        return [known[image] for image in kept.captions[name]["image"][:n]]

    few = {name: (other, scenes(name, its)) for name, (other, its) in others.items()}
    return measure(model, scenes("trained", pool), world, others=few, seed=seed)


def compare(kept: Quality, again: Quality) -> pd.DataFrame:
    """Compare measurements with those of some of the same scenes made again.

    One row a kind of measurement: what, scenes (in both), same (share of them that are the
    same, numbers to the fourth digit).
    """
    rows = []
    for system, new in again.captions.items():
        rows.append((f"captions, {system}", *_same(kept.captions[system], new, ["caption"])))
    numbers = [column for column in again.units if column not in ("image", "noun")]
    rows.append(("ablation, masks, words of units", *_same(kept.units, again.units, numbers)))
    for rank, new in again.tops.items():
        pairs = [_units_by_image(table) for table in (kept.tops[rank], new)]
        rows.append((f"top units, by {rank}", *_same(*pairs, ["units"])))
    counted = ["patches", "named", "random"]
    rows.append(("patches near a word", *_same(kept.patches, again.patches, counted)))
    return pd.DataFrame(rows, columns=["what", "scenes", "same"])


def strangers(model, world: World) -> dict[str, tuple[object, list[Photograph]]]:
    """Return the shipped scenes of held-out looks for ``measure``, near copies apart."""
    near = looks.near(looks.read(data_path("miniature", "looks.csv"), world))
    parts = looks.split(load_dataset("miniature/looks"), near)
    return {LOOKS: (model, parts["far"]), ALIKE: (model, parts["near"])}


# --- inside -----------------------------------------------------------------------------

_NAMES = ("captions", "units", "tops", "patches")


def _tables(quality: Quality) -> dict[str, pd.DataFrame]:
    """Lay a quality out as one table for each of ``_NAMES``."""
    return {
        "captions": _joined(quality.captions, "system"),
        "units": quality.units,
        "tops": _joined(quality.tops, "rank_by"),
        "patches": quality.patches,
    }


def _joined(tables: Mapping[str, pd.DataFrame], column: str) -> pd.DataFrame:
    return pd.concat([table.assign(**{column: name}) for name, table in tables.items()])


def _split(table: pd.DataFrame, column: str) -> dict[str, pd.DataFrame]:
    parts = table.groupby(column, sort=False)
    return {name: part.drop(columns=column).reset_index(drop=True) for name, part in parts}


def _read(path: Path) -> pd.DataFrame:
    table = pd.read_csv(path, dtype=dict.fromkeys(_WORDS, str))
    words = [column for column in _WORDS if column in table]
    return table.fillna(dict.fromkeys(words, ""))  # a caption may be empty


def _units_by_image(table: pd.DataFrame) -> pd.DataFrame:
    """List each image's units in the order of their addresses, as one text."""
    rows = table.sort_values(["layer", "unit"])
    address = rows["layer"].astype(str) + "." + rows["unit"].astype(str)
    return address.groupby(rows["image"]).agg(" ".join).rename("units").reset_index()


def _same(kept: pd.DataFrame, new: pd.DataFrame, columns: list[str]) -> tuple[int, float]:
    """Count the images in both, and the share of them that agree in all columns."""
    both = kept.merge(new, on="image", suffixes=("", " again"))
    agree = np.ones(len(both), dtype=bool)
    for column in columns:
        one, other = both[column], both[f"{column} again"]
        if pd.api.types.is_numeric_dtype(one):
            agree &= np.isclose(one, other, rtol=1e-4, atol=1e-6, equal_nan=True)
        else:
            agree &= (one == other).to_numpy()
    return len(both), float(agree.mean()) if len(both) else float("nan")


def main() -> None:
    """Measure the shipped miniature, keep what was found, print the table."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--scenes", type=int, default=500, help="held-out scenes")
    parser.add_argument("--seed", type=int, default=0, help="of the scenes and the random units")
    parser.add_argument("--folder", type=Path, default=data_path("miniature", "quality"))
    chosen = parser.parse_args()
    world, model = load_world(data_path("miniature", "concepts.yaml")), load_model("miniature")
    scenes = load_dataset("miniature").sample(chosen.scenes, chosen.seed)
    others = {name: (load_model(system), scenes) for name, system in CONTROLS.items()}
    others |= strangers(model, world)
    found = measure(model, scenes, world, others=others, seed=chosen.seed)
    weights = {name: other.revision for name, (other, _) in others.items()}
    keep(found, chosen.folder, {"trained": model.revision, **weights}, chosen.seed)
    with pd.option_context("display.width", 140, "display.max_columns", None):
        print(quality_table(found).to_string(index=False, float_format="{:.3f}".format))


if __name__ == "__main__":
    main()
