"""The atlas's files: parquet in an order in which every question reads a small part.

Lists hold what belongs to a neuron (``cards``, sorted by neuron); two tables are turned round,
``lexicon`` by token and ``viewers`` by picture. A neuron is known by its number, layer times
units plus unit. Logits, values and overlaps are kept to float16's precision, and nothing holds
a time, so the same system and pictures give the same bytes.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from mmn_utils.browser.atlas.activity import BELOW_ZERO, Seen
from mmn_utils.browser.atlas.words import ENDS, NORMS, Decoded
from mmn_utils.cache import atomic
from mmn_utils.datasets.words import Words
from mmn_utils.models.architectures import Experts
from mmn_utils.neurons.decoding import signs_of
from mmn_utils.presets import data_path

FACTS = "facts.json"
FORMAT = 2
TABLES = (
    "pictures", "nouns", "masks", "vocabulary", "scores", "neurons", "cards", "lexicon",
    "viewers", "vectors",
)  # fmt: skip
OVERLAPS = 12  # best categories that a card keeps
GENERIC = 0.2  # share of all different nouns that makes a neuron generic
_ROWS = {"cards": 4096, "lexicon": 1 << 16, "viewers": 1 << 14, "vectors": 1 << 16}


def atlas_root() -> Path:
    """Return the folder of all atlases: ``data/atlas``, or what ``MMN_ATLAS`` names."""
    return Path(os.environ.get("MMN_ATLAS") or data_path("atlas"))


def missing_files(folder: Path) -> list[str]:
    """List the files that an atlas's folder lacks."""
    names = [FACTS, *(f"{table}.parquet" for table in TABLES)]
    return [name for name in names if not (folder / name).is_file()]


def find_atlas(run: str | Path) -> Path:
    """Return the folder of a run's atlas, or the folder itself.

    FileNotFoundError, with the command that makes it, where there is none.
    """
    folder = Path(run) if (Path(run) / FACTS).is_file() else atlas_root() / str(run)
    missing = missing_files(folder)
    if missing:
        raise FileNotFoundError(
            f"no atlas at {folder} (it lacks {missing[0]}); make it with: "
            f"make atlas PRESET={Path(run).name}"
        )
    return folder


@dataclass(frozen=True)
class Facts:
    """What the tables do not say: the system, its sizes, how the atlas was made.

    ``words`` are the data set's nouns (``datasets.words``); ``origin`` is a hash of all that it was
    made from, see ``atlas.origin_of``; ``caveat`` is what the system wants said of its numbers.
    ``experts`` say how units belong to experts, None where there are none.
    """

    run: str
    model: str
    revision: str
    layers: int
    units: int
    width: int
    vocabulary: int
    grid: tuple[int, int] | None
    pixels: int
    edges: tuple[float, ...]
    methods: tuple[str, ...]
    categories: tuple[str, ...]  # that maps were compared with, in alphabetic order
    exact_vectors: bool
    seed: int
    k: int
    words: dict[str, str] = field(default_factory=Words().facts)
    origin: str = ""
    caveat: str = ""
    experts: Experts | None = None
    format: int = FORMAT


@dataclass(frozen=True, eq=False)
class Parts:
    """What an atlas is made of; arrays have a row for each neuron, in the order of numbers.

    ``decoded`` {(end, norm): tokens and logits}; ``shown`` {kind: pictures}; ``counts`` (N,
    bins); ``overlaps`` {category: (N)}; ``interpretable`` {end: bool (N)}; ``vectors`` (N, n)
    float16; ``scores`` a neuron table with a column method and an activation in every row; the
    other tables as in ``TABLES``.
    """

    decoded: Mapping[tuple[str, str], Decoded]
    shown: Mapping[str, Seen]
    counts: np.ndarray
    overlaps: Mapping[str, np.ndarray]
    interpretable: Mapping[str, np.ndarray]
    vectors: np.ndarray
    scores: pd.DataFrame
    pictures: pd.DataFrame
    nouns: pd.DataFrame
    masks: pd.DataFrame
    vocabulary: pd.DataFrame


def write_atlas(folder: str | Path, facts: Facts, parts: Parts) -> Path:
    """Write an atlas's folder, whole or not at all; return its path."""
    makers = {
        "pictures": lambda: _plain(parts.pictures),
        "nouns": lambda: _plain(parts.nouns),
        "masks": lambda: _plain(parts.masks),
        "vocabulary": lambda: _plain(parts.vocabulary),
        "scores": lambda: _plain(scores_table(facts, parts.scores)),
        "neurons": lambda: _plain(neurons_table(facts, parts)),
        "cards": lambda: cards_table(parts),
        "lexicon": lambda: lexicon_table(parts.decoded),
        "viewers": lambda: viewers_table(parts.shown["strongest"]),
        "vectors": lambda: vectors_table(parts.vectors),
    }
    with atomic(folder) as temporary:
        temporary.mkdir(parents=True)
        for name in TABLES:
            _write(temporary / f"{name}.parquet", name, makers[name]())
        text = json.dumps(asdict(facts), indent=1, sort_keys=True, ensure_ascii=False)
        (temporary / FACTS).write_text(text + "\n", encoding="utf-8")
    return Path(folder)


def read_facts(folder: Path) -> Facts:
    """Read the facts of an atlas; ValueError for one of another format."""
    content = json.loads((folder / FACTS).read_text(encoding="utf-8"))
    if content.get("format") != FORMAT:
        raise ValueError(
            f"{folder} has format {content.get('format')}, this browser reads {FORMAT}; "
            f"make it again: make atlas PRESET={content.get('run')}"
        )
    lists = {name: tuple(value) for name, value in content.items() if isinstance(value, list)}
    experts = content.get("experts")
    return Facts(**{**content, **lists, "experts": experts and Experts(**experts)})


def _plain(table: pd.DataFrame) -> pa.Table:
    return pa.Table.from_pandas(table, preserve_index=False).replace_schema_metadata(None)


def _write(path: Path, name: str, table: pa.Table) -> None:
    """Write one table; numbers of the large ones byte by byte or as differences."""
    options: dict[str, Any] = {"compression": "zstd", "row_group_size": _ROWS.get(name, 1 << 16)}
    if name == "vectors":  # read as they lie in the file
        options |= {"compression": "none", "use_dictionary": False}
    elif name in _ROWS:
        encodings = {leaf: _encoding(kind) for leaf, kind in _leaves(table.schema)}
        options |= {"use_dictionary": False, "column_encoding": encodings}
    pq.write_table(table, path, **options)


def _leaves(schema: pa.Schema) -> list[tuple[str, pa.DataType]]:
    return [
        (f"{field.name}.list.element", field.type.value_type)
        if pa.types.is_list(field.type)
        else (field.name, field.type)
        for field in schema
    ]


def _encoding(kind: pa.DataType) -> str:
    return "BYTE_STREAM_SPLIT" if pa.types.is_floating(kind) else "DELTA_BINARY_PACKED"


def _half(values: np.ndarray) -> np.ndarray:
    """Round to float16's precision, as float32; the lost bits cost nothing on the disk."""
    return np.asarray(values, np.float32).astype(np.float16).astype(np.float32)


def _lists(values: np.ndarray) -> pa.ListArray:
    """Make a list of each row of (N, k)."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * values.shape[1]
    return pa.ListArray.from_arrays(
        pa.array(offsets), pa.array(np.ascontiguousarray(values).ravel())
    )


def column_of(end: str, norm: str) -> str:
    """Name the column of ``cards`` that holds an end's tokens."""
    return end if norm == "none" else f"{end}_{norm}"


def readable_of(end: str) -> str:
    """Name the column of ``neurons`` that says whether an end is interpretable."""
    return "interpretable" if end == ENDS[0] else f"interpretable_{end}"


def cards_table(parts: Parts) -> pa.Table:
    """Lay out a neuron's lists, one row per neuron in the order of numbers."""
    columns: dict[str, pa.Array] = {
        "neuron": pa.array(np.arange(len(parts.counts), dtype=np.int32))
    }
    for end in ENDS:
        for norm in NORMS:
            name, found = column_of(end, norm), parts.decoded[end, norm]
            columns[name] = _lists(found.tokens.astype(np.int32))
            columns[f"{name}_logit"] = _lists(_half(found.logits))
    for kind, seen in parts.shown.items():
        columns[kind] = _lists(seen.pictures.astype(np.int32))
        columns[f"{kind}_value"] = _lists(_half(seen.values))
        columns[f"{kind}_patch"] = _lists(seen.patches.astype(np.int32))
    columns["histogram"] = _lists(parts.counts.astype(np.int32))
    return pa.table({**columns, **_best_overlaps(parts)})


def _best_overlaps(parts: Parts) -> dict[str, pa.Array]:
    """Keep each neuron's best categories, as places among all in their alphabetic order."""
    names = sorted(parts.overlaps)
    values = np.stack([parts.overlaps[n] for n in names], 1) if names else None
    if values is None:
        values = np.empty((len(parts.counts), 0), np.float32)
    order = np.argsort(-np.nan_to_num(values, nan=-1), axis=1, kind="stable")[:, :OVERLAPS]
    best = np.take_along_axis(values, order, 1)
    return {"category": _lists(order.astype(np.int32)), "iou": _lists(_half(best))}


def lexicon_table(decoded: Mapping[tuple[str, str], Decoded]) -> pa.Table:
    """Turn the decoded tokens round: by token, then end, norm and neuron."""
    parts = []
    for place, key in enumerate((end, norm) for end in ENDS for norm in NORMS):
        found = decoded[key]
        count, k = found.tokens.shape
        parts.append(
            (
                found.tokens.ravel().astype(np.int32),
                np.full(count * k, place, np.int8),
                np.repeat(np.arange(count, dtype=np.int32), k),
                np.tile(np.arange(1, k + 1, dtype=np.int8), count),
                _half(found.logits).ravel(),
            )
        )
    token, end, neuron, rank, logit = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(token, kind="stable")
    arrays = {"token": token, "kind": end.astype(np.int32), "neuron": neuron}
    arrays |= {"rank": rank.astype(np.int32), "logit": logit}
    return pa.table({name: array[order] for name, array in arrays.items()})


def kind_of(end: str, norm: str) -> int:
    """Return the number by which ``lexicon`` knows an end and a norm."""
    return ENDS.index(end) * len(NORMS) + NORMS.index(norm)


def viewers_table(strongest: Seen) -> pa.Table:
    """Turn the strongest pictures round: by picture, then neuron."""
    count, k = strongest.pictures.shape
    picture = strongest.pictures.ravel().astype(np.int32)
    neuron = np.repeat(np.arange(count, dtype=np.int32), k)
    order = np.argsort(picture, kind="stable")
    values = _half(strongest.values).ravel()
    return pa.table({"picture": picture[order], "neuron": neuron[order], "value": values[order]})


def vectors_table(vectors: np.ndarray) -> pa.Table:
    """Keep directions as bytes, a fixed number in each row."""
    halves = np.ascontiguousarray(vectors, np.float16)
    kind = pa.binary(2 * halves.shape[1])
    return pa.table(
        {"vector": pa.Array.from_buffers(kind, len(halves), [None, pa.py_buffer(halves)])}
    )


def scores_table(facts: Facts, scores: pd.DataFrame) -> pd.DataFrame:
    """Sort the neuron tables of all methods by neuron, with the rank in each, from 1.

    ValueError for a row without the activation that its neuron was found with.
    """
    signs_of(scores["activation"])
    rank = 1 + scores.groupby(["method", "image", "target"], sort=False).cumcount()
    neuron = (scores["layer"] * facts.units + scores["unit"]).astype("int32")
    table = scores.assign(rank=rank.astype("int32"), neuron=neuron)
    return table.sort_values(["neuron", "method", "image", "target"], ignore_index=True)


def neurons_table(facts: Facts, parts: Parts) -> pd.DataFrame:
    """Lay out what neurons are filtered by: one row each."""
    count = len(parts.counts)
    number = np.arange(count, dtype=np.int32)
    negative = parts.counts[:, :BELOW_ZERO].sum(1) / np.maximum(parts.counts.sum(1), 1)
    strongest = parts.shown["strongest"].values
    table = {
        "neuron": number,
        "layer": number // facts.units,
        "unit": number % facts.units,
        **{readable_of(end): parts.interpretable[end] for end in ENDS},
        "negative": negative.astype(np.float32),
        "peak": _half(strongest[:, 0]),
    }
    scores = scores_table(facts, parts.scores)
    scores = scores.assign(noun=scores["target"].str.casefold())
    nouns = scores.groupby("neuron")["noun"].nunique().reindex(number, fill_value=0)
    table["nouns"] = nouns.to_numpy(np.int32)
    table["generic"] = table["nouns"] >= max(2, GENERIC * scores["noun"].nunique())
    for method in facts.methods:
        some = scores[scores["method"] == method].groupby("neuron")
        table[f"{method}_nouns"] = some["noun"].nunique().reindex(number, fill_value=0).to_numpy()
        table[f"{method}_best"] = some["score"].max().reindex(number).to_numpy(np.float32)
    return pd.DataFrame(table)
