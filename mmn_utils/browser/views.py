"""What the browser's front asks, answered from an atlas as plain data that JSON can hold.

Neurons are addresses, texts are raw, and a number that is none is None. A patch is an index
into the grid, -1 where a system has none. What needs the system itself (maps, pictures of
one's own, interventions) is answered elsewhere.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from mmn_utils.browser.atlas.cards import Card, Picture, Sight
from mmn_utils.browser.atlas.files import GENERIC
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.atlas.words import ENDS, NORMS
from mmn_utils.browser.pictures import THUMB, data_uri, part_uri, size_of, thumbnail
from mmn_utils.neurons.decoding import signs_of
from mmn_utils.neurons.table import Neuron, address, check_neurons, neuron_at
from mmn_utils.neurons.text import noun_places, whole_word
from mmn_utils.presets import ROOT

METHODS = ("attribution", "contribution", "activation")  # in the order in which they are shown
KEPT = 8  # pictures that were read last
SHOWN = 20  # rows of a table that are asked for when nobody says how many
Answer = dict[str, Any]
Box = tuple[int, int, int, int]  # left, top, right, bottom


class Views:
    """An atlas's answers to the front.

    ``url`` gives the address of a picture's file and ``thumb`` that of its small copy, each from
    its path and the (height, width) of its annotations, if any; without them the pictures go
    into the answers. ``seen`` is the system's, where it does not see the whole of a picture:
    then that part is shown, as heat maps lie over no more.
    """

    def __init__(
        self,
        atlas: Atlas,
        url: Callable[[Path, tuple[int, int] | None], str] = data_uri,
        thumb: Callable[[Path, tuple[int, int] | None], str] = thumbnail,
        seen: Callable[[tuple[int, int]], Box] = lambda size: (0, 0, *size),
    ) -> None:
        self.atlas, self.url, self.thumb, self.seen = atlas, url, thumb, seen
        self._read: dict[str, Picture] = {}

    def ask(self, name: str, args: Mapping[str, Any]) -> Answer:
        """Answer a question by its name; ValueError for one that is none, with what there is."""
        if name not in QUESTIONS:
            raise ValueError(f"no question {name!r}; known: {', '.join(QUESTIONS)}")
        return getattr(self, name)(**args)

    # --- the run and its pictures -------------------------------------------------------

    def facts(self) -> Answer:
        """Say what system this is, and list its pictures."""
        facts = self.atlas.facts
        return {
            "run": facts.run,
            "system": _with_caveat(facts.model, facts.caveat),
            "model": facts.model,
            "revision": facts.revision,
            "layers": facts.layers,
            "units": facts.units,
            **({} if facts.experts is None else {"experts": asdict(facts.experts)}),
            "vocabulary": facts.vocabulary,
            "grid": None if facts.grid is None else list(facts.grid),
            "pixels": facts.pixels,
            "methods": self.methods,
            "edges": list(facts.edges),
            "categories": list(facts.categories),
            "generic": GENERIC,
            "k": facts.k,
            "live": False,
            "pictures": [
                {"id": one.image, "caption": one.caption} for one in self._pictures.values()
            ],
            "seed": facts.seed,
            "words": facts.words,
        }

    @property
    def methods(self) -> list[str]:
        """The atlas's methods in the order in which they are shown."""
        return [name for name in METHODS if name in self.atlas.facts.methods]

    def thumbs(self, images: Sequence[str]) -> Answer:
        """Give the address of a small copy of each picture: {id: URL}."""
        return {image: self._thumb(*self.file(image)) for image in images}

    def _thumb(self, path: Path, annotated: tuple[int, int] | None) -> str:
        part = self._part(size_of(path, annotated))
        if part is None:
            return self.thumb(path, annotated)
        return part_uri(path, annotated, part, THUMB)  # marks of patches lie over no more

    def _part(self, size: tuple[int, int]) -> Box | None:
        """Return the part of a picture that the system sees, None for all of it."""
        box = self.seen(size)
        return None if box == (0, 0, *size) else box

    def picture(self, image: str) -> Answer:
        """Show a picture with its caption, the caption's nouns and the annotated objects.

        Of a picture that the system sees in part, that part.
        """
        found = self._image(image)
        nouns, file = [noun.noun for noun in found.nouns], self.file(image)
        size = size_of(*file)
        part = self._part(size)
        left, top, right, bottom = part or (0, 0, *size)
        masks = found.masks if part is None else [one.part(part) for one in found.masks]
        return {
            "id": image,
            "src": self.url(*file) if part is None else part_uri(*file, part),
            "width": right - left,
            "height": bottom - top,
            "caption": found.caption,
            "pieces": pieces(found.caption, nouns),
            "nouns": nouns,
            "human": list(found.human),
            "masks": [
                {"category": m.category, "crowd": m.crowd, "size": list(m.size), "runs": m.runs}
                for m in masks
            ],
            "own": False,
        }

    # --- the neurons behind a noun ------------------------------------------------------

    def top(self, image: str, noun: str, k: int = SHOWN) -> Answer:
        """List a noun's top neurons by each method, the best first: [address, score, patch, sign].

        A neuron wrote there the end of its vector that the sign of its activation says.
        ValueError for no noun.
        """
        scores = self._scores(image, noun)
        rows = {name: self._scored(scores, name)[:k] for name in self.methods}
        named = [address for some in rows.values() for address, *_ in some]
        return {"rows": rows, "about": self.about(named)}

    def patch(self, image: str, noun: str, patch: int, k: int = SHOWN) -> Answer:
        """List which of a noun's top neurons had their maximum at a patch: [address, score, sign].

        By attribution. ValueError for a system whose image tokens have no place, and a patch that
        is none.
        """
        grid = self.atlas.facts.grid
        if grid is None:
            raise ValueError(f"the image tokens of {self.atlas.facts.model} have no place")
        if not 0 <= patch < math.prod(grid):
            raise ValueError(f"patch={patch}: the grid has {math.prod(grid)}, from 0")
        scored = self._scored(self._scores(image, noun), "attribution")
        rows = [at_patch(row) for row in scored if row[2] == patch][:k]
        return {"by": "attribution", "rows": rows, "about": self.about([row[0] for row in rows])}

    def _scores(self, image: str, noun: str) -> pd.DataFrame:
        """Read the table of a noun's top neurons by all methods, by rank."""
        found = self._image(image)
        key = {one.noun.casefold(): one.noun for one in found.nouns}.get(noun.casefold())
        if key is None:
            nouns = ", ".join(repr(one.noun) for one in found.nouns) or "none"
            raise ValueError(f"no noun {noun!r} in the caption of {image!r}, which has {nouns}")
        return found.scores[found.scores["target"] == key]

    def _scored(self, scores: pd.DataFrame, method: str) -> list[list]:
        """List [address, score, patch, sign of the activation there] by a method."""
        some = scores[scores["method"] == method]
        columns = map(float, some["score"]), map(self._patch, some["patch"])
        return _rows(some["address"], *columns, signs_of(some["activation"]).tolist())

    def _image(self, image: str) -> Picture:
        """Read a picture; the last few are kept, as a look-up asks for one several times."""
        if image not in self._read:
            self._read[image] = self.atlas.image(image)
            if len(self._read) > KEPT:
                self._read.pop(next(iter(self._read)))
        return self._read[image]

    # --- one neuron ---------------------------------------------------------------------

    def card(self, neuron: str) -> Answer:
        """Show all that the atlas knows of a neuron."""
        return self.cards([neuron])[0]

    def cards(self, neurons: Iterable[str]) -> list[Answer]:
        """Show the cards of many neurons, in the order asked for."""
        return [self._card(card) for card in self.atlas.cards(neurons)]

    def _card(self, card: Card) -> Answer:
        tokens = {
            (end if norm == "none" else f"{end}_{norm}"): [
                [token.text, token.logit] for token in card.tokens[end, norm]
            ]
            for end in ENDS
            for norm in NORMS
        }
        return {
            "address": address(self.atlas.facts, card.neuron),
            "interpretable": card.interpretable,
            "interpretable_suppresses": card.interpretable_suppresses,
            "generic": card.generic,
            "nouns": card.nouns,
            "tokens": tokens,
            "histogram": list(card.histogram),
            "edges": list(card.edges),
            "negative": card.negative,
            "overlaps": [[name, iou] for name, iou in card.overlaps if not math.isnan(iou)],
            "sights": {kind: self._sights(some) for kind, some in card.sights.items()},
            "places": self._places(card),
        }

    def _sights(self, some: Iterable[Sight]) -> list[list]:
        return [[sight.image, sight.value, self._patch(sight.patch)] for sight in some]

    def _places(self, card: Card) -> list[list]:
        return [
            [p.method, p.image, p.noun, p.rank, p.score, self._patch(p.patch), p.sign]
            for p in card.places
        ]

    def _patch(self, patch: int) -> int:
        """Keep an image token that is a place in the picture."""
        return -1 if self.atlas.facts.grid is None else int(patch)

    def control(self, neuron: str) -> Answer:
        """Draw another unit of the same layer, always the same for a seed and a neuron."""
        facts = self.atlas.facts
        asked = neuron_at(facts, neuron)
        control = control_of(asked, facts.layers, facts.units, facts.seed)
        return {"address": address(facts, control)}

    def similar(self, neuron: str, n: int = 10) -> Answer:
        """List the neurons with the nearest write vectors, and with the most pictures shared."""
        found = self.atlas.similar(neuron, n)
        vectors, pictures = found.vectors, found.pictures
        return {
            "exact": found.exact,
            "vectors": _rows(vectors["address"], map(float, vectors["cosine"])),
            "pictures": _rows(pictures["address"], map(int, pictures["shared"])),
            "about": self.about([*vectors["address"], *pictures["address"]]),
        }

    # --- many neurons -------------------------------------------------------------------

    def about(self, neurons: Iterable[str]) -> Answer:
        """Say in short what each neuron is: the first tokens of both ends, how generic it is."""
        return {
            row.address: {
                "writes": list(row.writes),
                "suppresses": list(row.suppresses),
                "interpretable": bool(row.interpretable),
                "interpretable_suppresses": bool(row.interpretable_suppresses),
                "generic": bool(row.generic),
                "nouns": int(row.nouns),
            }
            for row in self.atlas.brief(neurons).itertuples()
        }

    def search(self, word: str, end: str = "writes", norm: str = "none", n: int = 50) -> Answer:
        """List the neurons that write or suppress a word: [address, text, rank from 1, logit]."""
        found = self.atlas.search(word, end=end, norm=norm, n=n)
        columns = ["address", "text", "rank", "logit"]
        rows = [
            [address, text, int(rank), float(logit)]
            for address, text, rank, logit in found[columns].itertuples(index=False)
        ]
        return {"rows": rows, "about": self.about([row[0] for row in rows])}

    def filter(
        self,
        layers: Sequence[int] | None = None,
        method: str | None = None,
        least: float | None = None,
        interpretable: bool | None = None,
        generic: bool | None = None,
        order: str | None = None,
        n: int = 100,
    ) -> Answer:
        """List the neurons that fit, with their best score by each method."""
        found = self.atlas.neurons(
            layers=layers, method=method, least_score=least, interpretable=interpretable,
            generic=generic, order=order, n=n,
        )  # fmt: skip
        rows = [
            {
                "address": row["address"],
                "interpretable": bool(row["interpretable"]),
                "interpretable_suppresses": bool(row["interpretable_suppresses"]),
                "generic": bool(row["generic"]),
                "nouns": int(row["nouns"]),
                "peak": float(row["peak"]),
                "negative": float(row["negative"]),
                "best": {name: _number(row[f"{name}_best"]) for name in self.methods},
            }
            for row in found.to_dict("records")
        ]
        return {"rows": rows}

    @cached_property
    def _pictures(self) -> dict[str, Any]:
        return {row.image: row for row in self.atlas.pictures().itertuples()}

    def file(self, image: str) -> tuple[Path, tuple[int, int] | None]:
        """Return a picture's path and the (height, width) of its annotations, if any."""
        if image not in self._pictures:
            self.atlas.image(image)  # says what there is
        row = self._pictures[image]
        size = None if pd.isna(row.height) else (int(row.height), int(row.width))
        return ROOT / row.file, size


QUESTIONS = (
    "facts", "thumbs", "picture", "top", "patch", "card", "control", "similar", "about", "search",
    "filter",
)  # fmt: skip


def _with_caveat(model: str, caveat: str) -> str:
    """Name a system, with what is to be said of its numbers."""
    return f"{model} ({caveat.rstrip('.')})" if caveat else model


def pieces(caption: str, nouns: Sequence[str]) -> list[list]:
    """Split a caption at its nouns: [[text, noun or None] ..], the texts in a row the caption.

    A noun is where the caption first says it as a noun, in any case, or else where it first
    stands by itself; one that is not in the caption has no piece.
    """
    wanted = {noun.casefold(): noun for noun in nouns if noun}
    places: dict[str, tuple[int, int]] = {}
    for word, start in noun_places(caption):
        if word.casefold() in wanted:
            places.setdefault(word.casefold(), (start, start + len(word)))
    for key, noun in wanted.items():
        if key not in places and (match := whole_word(noun).search(caption)):
            places[key] = match.span()
    found, done = [], 0
    for (start, end), key in sorted((place, key) for key, place in places.items()):
        if start >= done:
            found += [[caption[done:start], None], [caption[start:end], wanted[key]]]
            done = end
    return [piece for piece in [*found, [caption[done:], None]] if piece[0]]


def control_of(neuron: Neuron, layers: int, units: int, seed: int) -> Neuron:
    """Draw a unit of the neuron's layer that is not itself, by the seed and the neuron.

    ValueError for a neuron that is not here, and for a layer of a single unit.
    """
    check_neurons([neuron], layers, units)
    if units < 2:
        raise ValueError(f"layer {neuron.layer} has no unit but {neuron}")
    drawn = int(np.random.default_rng([seed, neuron.layer, neuron.unit]).integers(units - 1))
    return Neuron(neuron.layer, drawn + (drawn >= neuron.unit))


def at_patch(row: list) -> list:
    """Cut a row of a top table to what a patch lists: [address, score, sign]."""
    address, score, _, sign = row
    return [address, score, sign]


def _rows(*columns: Iterable) -> list[list]:
    return [list(row) for row in zip(*columns, strict=True)]


def _number(value: float) -> float | None:
    return None if math.isnan(value) else float(value)
