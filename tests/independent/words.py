"""Words: nouns of the miniature's world, the tokens that hold them, dictionary words, draws.

The nouns are those of the data set's files, categories and backgrounds: no tagger is asked.
"""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
from torch import Tensor

from mmn_utils.presets import ROOT
from tests.independent.raw import MINIATURE, System, Unit

ANNOTATIONS = MINIATURE / "coco" / "annotations"
DICTIONARY = ROOT / "mmn_utils" / "neurons" / "words" / "scowl_60.txt.gz"
SPOKEN = 10  # decoded tokens of a unit that count


@cache
def annotations(name: str) -> dict:
    return json.loads((ANNOTATIONS / f"{name}_val.json").read_text())


@cache
def nouns_of_the_world() -> frozenset[str]:
    """Names of objects and backgrounds, in both numbers."""
    names = {category["name"] for category in annotations("instances")["categories"]}
    names |= {image["background"] for image in annotations("captions")["images"]}
    return frozenset(names | {plural for name in names for plural in plurals(name)})


def plurals(word: str) -> set[str]:
    """The regular plurals that a word could have."""
    found = {f"{word}s", f"{word}es"}
    for end, plural in (("y", "ies"), ("f", "ves"), ("fe", "ves")):
        if word.endswith(end):
            found.add(word[: len(word) - len(end)] + plural)
    return found


def same(one: str, other: str) -> bool:
    """Whether two words are one, or one is the other's plural."""
    one, other = one.lower(), other.lower()
    return one == other or one in plurals(other) or other in plurals(one)


def nouns(system: System, ids: Sequence[int]) -> list[tuple[str, int, int]]:
    """The different nouns of a caption: word, step of its first token, that token."""
    lengths = [len(system.text(ids[: count + 1])) for count in range(len(ids))]
    found: dict[str, tuple[str, int, int]] = {}
    for match in re.finditer(r"[A-Za-z]+", system.text(ids)):
        word = match.group()
        if word.lower() in nouns_of_the_world():
            step = next(step for step, length in enumerate(lengths) if length > match.start())
            found.setdefault(word.lower(), (word, step, ids[step]))
    return list(found.values())


# --- what units write ----------------------------------------------------------------------


@torch.no_grad()
def spoken(system: System, unit: Unit, activation: float, k: int = SPOKEN) -> list[str]:
    """The ``k`` tokens that a unit of this activation writes: sign times vector, unembedded."""
    vector = system.written(unit) * (-1 if activation < 0 else 1)
    return [system.text([token]) for token in (system.unembedding @ vector).topk(k).indices]


def writes(tokens: Sequence[str], noun: str) -> bool:
    return any(same(token.strip(), noun) for token in tokens)


@cache
def dictionary() -> frozenset[str]:
    return frozenset(gzip.decompress(DICTIONARY.read_bytes()).decode().split("\n"))


def is_word(token: str) -> bool:
    """Three letters or more, listed as it stands; a capital may come from a sentence's start."""
    word = token.lstrip(" ")
    spellings = [word]
    if word.istitle() or word.isupper():
        spellings.append(word.lower())
    if word.isupper():
        spellings.append(word.capitalize())
    return len(word) >= 3 and word.isalpha() and any(one in dictionary() for one in spellings)


def interpretable(tokens: Sequence[str]) -> bool:
    """At least seven dictionary words among ten tokens (paper A, S.2)."""
    return sum(map(is_word, tokens)) >= 7


# --- draws that depend on seed and picture ---------------------------------------------------


def generator(image: str, *seeds: int) -> np.random.Generator:
    return np.random.default_rng([*seeds, zlib.crc32(image.encode())])


def random_units(system: System, units: Sequence[Unit], image: str, seed: int) -> list[Unit]:
    """As many units that are none of these: the i-th in the layer of the i-th."""
    rng, drawn = generator(image, seed), {}
    for layer in sorted({layer for layer, _ in units}):
        mine = [unit for other, unit in units if other == layer]
        free = np.setdiff1d(np.arange(system.out[layer].in_features), mine)
        drawn[layer] = iter(rng.choice(free, size=len(mine), replace=False).tolist())
    return [(layer, next(drawn[layer])) for layer, _ in units]


def cosines(vectors: Tensor, table: Tensor) -> Tensor:
    """Cosines of vectors (N, d) with rows (V, d): (N, V)."""
    return (vectors @ table.T) / (vectors.norm(dim=1)[:, None] * table.norm(dim=1))
