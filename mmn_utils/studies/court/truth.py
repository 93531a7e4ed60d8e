"""The truth that scores are judged by: every unit off alone, for pairs of picture and noun.

    python -m mmn_utils.studies.court.truth --model miniature --pairs 100 --shard 0/2

``make court`` calls it for presets, all shards and then the saving.

A table's rows are units: image, noun, token, positions (where the unit is off), layer, unit, what
logit and probability lose, and both of the untouched model (``logit_whole``,
``probability_whole``). Each picture is computed once and kept, so a run resumes after a kill and
shards may run side by side. ``save`` writes a file small enough to go with the code: numbers are
kept to 12 significant bits, one part in 4,096, finer than any ranking or curve shows; not as
float16, in which losses of probability below one in ten million would all be zero.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from mmn_utils.cache import atomic
from mmn_utils.commands import parser_of, refusing
from mmn_utils.neurons.targets import Target
from mmn_utils.neurons.together import QUESTIONS
from mmn_utils.neurons.truth import exact_losses
from mmn_utils.shards import only_shard, read_shard
from mmn_utils.studies.store import per_photograph
from mmn_utils.studies.subjects import Subjects, subjects

if TYPE_CHECKING:
    from mmn_utils.datasets import Photograph

NOUNS = ("first", "all")  # of a caption
NAMES = ("image", "noun", "positions")
VALUES = ("logit", "probability", "logit_whole", "probability_whole")
COLUMNS = ["image", "noun", "token", "positions", "layer", "unit", *VALUES]
BITS = 12  # significant ones that a saved number keeps
SYSTEM = b"mmn_system"  # metadata key of a file: the system whose truth it is


def kind_of(positions: str) -> str:
    """Return the kind of table, in the cache, of the truth with units off at some positions."""
    return f"truth-{positions}"


def truth_table(
    model,
    some: Subjects,
    *,
    positions: Sequence[str] = QUESTIONS,
    nouns: str = "first",
    batch_size: int = 32,
    progress: bool = True,
) -> pd.DataFrame:
    """Measure what each pair loses without each unit alone, or load it; see the module's text.

    Rows in the order of ``positions``, then of the photographs, their nouns, layers and units.
    ``nouns`` of a caption: the ``first`` or ``all``. ``ValueError`` for others of either.
    """
    for name, wanted, known in (("positions", positions, QUESTIONS), ("nouns", [nouns], NOUNS)):
        if not wanted or not set(wanted) <= set(known):
            raise ValueError(f"{name} = {list(wanted)}: choose from {', '.join(known)}")
    targets = [every[:1] if nouns == "first" else every for every in some.every]
    tables = [_at(model, some, targets, one, batch_size, progress) for one in positions]
    table = pd.concat(tables, ignore_index=True)
    return table.astype(dict.fromkeys(NAMES, "category"))[COLUMNS]


def _at(
    model, some: Subjects, targets: list[list[Target]], positions: str, batch_size: int, progress
) -> pd.DataFrame:
    """Measure or load what is lost with units off at some positions."""

    def compute(rows: list[int]) -> pd.DataFrame:
        return pd.concat([alone(row) for row in rows], ignore_index=True)

    def alone(row: int) -> pd.DataFrame:
        prompt = model.prompt([some.photographs[row].open()])
        options = {"positions": positions, "batch_size": batch_size}
        found = [(one, exact_losses(model, prompt, one, **options)) for one in targets[row]]
        return pd.concat([rows_of(one, losses, positions) for one, losses in found])

    return per_photograph(
        kind_of(positions), model, some.photographs, compute, {"positions": positions},
        targets=targets, batch_size=1, progress=progress,
    )  # fmt: skip


def rows_of(target: Target, losses, positions: str) -> pd.DataFrame:
    """Lay the losses of one pair out, a row for each unit that was measured."""
    layer, unit = np.nonzero(np.isfinite(losses.logit))
    return pd.DataFrame(
        {
            "image": target.image,
            "noun": target.noun,
            "token": np.int32(target.token),
            "positions": positions,
            "layer": layer.astype(np.int16),
            "unit": unit.astype(np.int32),
            "logit": losses.logit[layer, unit],
            "probability": losses.probability[layer, unit],
            "logit_whole": np.float32(losses.whole[0]),
            "probability_whole": np.float32(losses.whole[1]),
        }
    )


# --- files --------------------------------------------------------------------------------


def save(table: pd.DataFrame, path: str | Path, model=None) -> Path:
    """Write a table to a small parquet file, its numbers to ``BITS`` significant bits.

    The file says which model it is of, if that is given, for ``load`` to refuse another.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    missing = [column for column in COLUMNS if column not in table]
    if missing:
        raise ValueError(f"the table lacks {', '.join(missing)}; save what truth_table gave")
    coarse = {name: rounded(table[name].to_numpy(np.float32)) for name in VALUES}
    arrow = pa.Table.from_pandas(table.assign(**coarse)[COLUMNS], preserve_index=False)
    if model is not None:
        metadata = {**arrow.schema.metadata, SYSTEM: json.dumps(_system(model)).encode()}
        arrow = arrow.replace_schema_metadata(metadata)
    split = dict.fromkeys(VALUES[:2], "BYTE_STREAM_SPLIT")
    others = [column for column in COLUMNS if column not in split]
    with atomic(path) as temporary:
        pq.write_table(
            arrow, temporary, compression="zstd", compression_level=19,
            use_dictionary=others, column_encoding=split, row_group_size=2**22,
        )  # fmt: skip
    return Path(path)


def load(path: str | Path, model=None) -> pd.DataFrame:
    """Read a table that ``save`` wrote; ``ValueError`` where there is none, or another.

    Where a model is given, another one's truth is refused.
    """
    import pyarrow.parquet as pq

    path = Path(path)
    if not path.is_file():
        raise ValueError(
            f"there is no truth in {path}; make it (make court), or leave stored empty to have it "
            "computed"
        )
    found = pq.read_table(path)
    if found.column_names != COLUMNS:
        raise ValueError(f"{path} has columns {found.column_names}, not those of a truth")
    _refuse_another(path, (found.schema.metadata or {}).get(SYSTEM), model)
    return found.to_pandas().astype(dict.fromkeys(NAMES, "category"))


def _system(model) -> dict[str, str]:
    """Return what tells the truth of one system from another's."""
    return {"model": model.name, "revision": str(model.revision)}


def _refuse_another(path: Path, kept: bytes | None, model) -> None:
    """Raise ``ValueError`` where a file says that it is of another model, or of other weights."""
    if model is None or kept is None or (of := json.loads(kept)) == (asked := _system(model)):
        return
    raise ValueError(
        f"{path} is the truth of {of['model']} (weights {of['revision']}), not of "
        f"{asked['model']} (weights {asked['revision']}); name another folder, or make it again: "
        "make court"
    )


def rounded(values: np.ndarray, bits: int = BITS) -> np.ndarray:
    """Round float32 to some significant bits, to the nearest, halves away from zero."""
    drop = 24 - bits
    whole = np.ascontiguousarray(values, np.float32).view(np.uint32)
    kept = (whole + np.uint32(1 << (drop - 1))) & np.uint32(~((1 << drop) - 1) & 0xFFFFFFFF)
    return np.where(np.isfinite(values), kept.view(np.float32), values)


def first_pairs(table: pd.DataFrame, count: int) -> pd.DataFrame:
    """Take the rows of the first ``count`` pairs of picture and noun; ``ValueError`` for fewer."""
    pairs = table[["image", "noun"]].drop_duplicates()
    if len(pairs) < count:
        raise ValueError(f"{count} pairs are asked for, but the table holds {len(pairs)}")
    return table.merge(pairs.head(count), on=["image", "noun"]).astype(
        dict.fromkeys(NAMES, "category")
    )


# --- the command --------------------------------------------------------------------------


def _arguments(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = parser_of("mmn_utils.studies.court.truth", __doc__)
    parser.add_argument("--model", default="miniature", help="a system's name or its folder")
    parser.add_argument("--dataset", default="miniature", help="pictures, by name")
    parser.add_argument("--data-root", help="their folder; else the data set's own place")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--pairs", type=int, default=100, help="pictures, each with its first noun")
    parser.add_argument("--seed", type=int, default=0, help="of the draw of pictures")
    parser.add_argument("--max-new-tokens", type=int, default=20, help="longest caption")
    parser.add_argument("--positions", nargs="+", default=list(QUESTIONS), choices=QUESTIONS)
    parser.add_argument("--shard", type=read_shard, metavar="I/N", help="compute one share alone")
    parser.add_argument("--out", metavar="FOLDER", help="where to save the first --ship pairs")
    parser.add_argument("--ship", type=int, default=20, metavar="N")
    return parser.parse_args(arguments)


def sample(
    model, photographs: Sequence[Photograph], pairs: int, max_new_tokens: int = 20
) -> Subjects:
    """Take the first ``pairs`` photographs whose caption has a noun; ``ValueError`` for fewer."""
    if pairs < 1:
        raise ValueError(f"--pairs {pairs}: give 1 or more")
    some = subjects(model, photographs, max_new_tokens=max_new_tokens)
    if len(some) < pairs:
        raise ValueError(f"{len(some)} captions have a noun, {pairs} are asked for; lower --pairs")
    return some.select(some.ids[:pairs])


@refusing
def main(arguments: Sequence[str] | None = None) -> int:
    """Compute the truth of a system's pairs into the cache, all or a shard, and save some.

    2 for what is refused.
    """
    _run(_arguments(arguments))
    return 0


def _run(chosen: argparse.Namespace) -> None:
    from mmn_utils.datasets import load_dataset
    from mmn_utils.models import load_model

    model = load_model(chosen.model, device=chosen.device, dtype=chosen.dtype)
    data = load_dataset(chosen.dataset, chosen.data_root or None)
    spare = chosen.pairs + max(4, chosen.pairs // 10)  # captions without a noun drop out
    shown = data.sample(min(spare, len(data)), chosen.seed)
    some = sample(model, shown, chosen.pairs, chosen.max_new_tokens)
    for positions in chosen.positions:
        if chosen.shard:
            with only_shard(kind_of(positions), chosen.shard):
                truth_table(model, some, positions=[positions])
            continue
        table = truth_table(model, some, positions=[positions])
        if chosen.out:
            few = first_pairs(table, min(chosen.ship, chosen.pairs))
            path = save(few, Path(chosen.out) / f"truth-{positions}.parquet", model)
            print(f"{path}: {path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    sys.exit(main())
