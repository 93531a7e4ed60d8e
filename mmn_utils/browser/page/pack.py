"""A run's answers in one piece, small enough for a page: what the static browser is made of.

Neurons are places in ``neurons`` where they are among them, addresses elsewhere; pictures in
sights and places are places in ``facts.pictures``. Numbers have three digits. What a card
says is not said again in ``about``.
"""

from __future__ import annotations

import base64
import gzip
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import pandas as pd

from mmn_utils.browser.page.maps import HeatMap
from mmn_utils.browser.views import Views
from mmn_utils.neurons.decoding import signs_of
from mmn_utils.neurons.table import Neuron, address, neuron_at

DIGITS = 3
Maps = Mapping[str, Mapping[str, HeatMap]]


@dataclass(frozen=True)
class Plan:
    """How much goes into a page.

    ``top`` neurons of each noun by each method, with their cards and controls, which have cards
    too; the first ``mapped`` of them with maps, and the controls of the first ``beside``;
    ``every``: the cards of all other neurons. On a card ``sights`` pictures of each kind,
    ``places`` of each method, and ``similar`` neurons of each kind.
    """

    top: int
    mapped: int
    beside: int = 1
    every: bool = False
    sights: int = 5
    places: int = 5
    similar: int = 6


class Packer:
    """The answers of an atlas, gathered once for plans of several sizes."""

    def __init__(self, views: Views, maps: Maps) -> None:
        """Take the answers from ``views``; ``maps`` may have more than a plan asks for."""
        self.views, self.maps = views, maps
        self.facts = views.facts()
        self.images = [picture["id"] for picture in self.facts["pictures"]]
        self.pictures = {image: _picture(views.picture(image)) for image in self.images}
        self._all = views.atlas.tops(views.atlas.facts.k)
        self._all["sign"] = signs_of(self._all["activation"])
        self._place = {image: place for place, image in enumerate(self.images)}
        self._cards: dict[str, dict[str, Any]] = {}
        self._near: dict[str, list] = {}

    def pack(self, plan: Plan) -> dict[str, Any]:
        """Return what a page of a plan holds; neurons without a card are only named by others."""
        tops = self._all[self._all["rank"] <= plan.top]
        shown = sorted(set(tops["address"]), key=partial(neuron_at, self.views.atlas.facts))
        carded = self._every() if plan.every else [*shown, *map(self.control, shown)]
        carded = list(dict.fromkeys(carded))
        self._gather(carded, shown)
        near = {one: [rows[: plan.similar] for rows in self._near[one]] for one in shown}
        named = [address for some in near.values() for rows in some for address, _ in rows]
        neurons = list(dict.fromkeys([*carded, *named]))
        index = {address: place for place, address in enumerate(neurons)}
        others = [None] * (len(neurons) - len(carded))
        return {
            "facts": self.facts,
            "pictures": self.pictures,
            "neurons": neurons,
            "about": [
                _brief(one, with_words=place >= len(carded))
                for place, one in enumerate(self.views.about(neurons).values())
            ],
            "tops": self._tops(tops, plan.top, index),
            "maps": self._maps(tops, plan, index),
            "cards": [self._card(address, plan) for address in carded] + others,
            "controls": [index.get(c, c) for c in map(self.control, carded)] + others,
            "exact": self.views.atlas.facts.exact_vectors,
            "similar": [
                [[[index[one], value] for one, value in rows] for rows in near[address]]
                if address in near
                else None
                for address in neurons
            ],
        }

    def control(self, address: str) -> str:
        """Return the control of a neuron."""
        return self.views.control(address)["address"]

    def _every(self) -> list[str]:
        layers, units = self.facts["layers"], self.facts["units"]
        every = (Neuron(layer, unit) for layer in range(layers) for unit in range(units))
        return [address(self.views.atlas.facts, neuron) for neuron in every]

    def _gather(self, neurons: Sequence[str], shown: Sequence[str]) -> None:
        """Fetch the cards and neighbours that are not here yet."""
        cards = [address for address in neurons if address not in self._cards]
        self._cards |= zip(cards, self.views.cards(cards), strict=True)
        near = [address for address in shown if address not in self._near]
        self._near |= {address: [[], []] for address in near}
        found = self.views.atlas.neighbours(near)
        for place, (table, value) in enumerate(
            ((found.vectors, "cosine"), (found.pictures, "shared"))
        ):
            for own, other, number in table[["of", "address", value]].itertuples(index=False):
                self._near[own][place].append([other, short(number)])

    def _tops(self, tops: pd.DataFrame, top: int, index: Mapping[str, int]) -> dict[str, Any]:
        """Lay tops out by picture, noun and method; nouns without any have none.

        Behind a method's own come the neurons of the others that are among all that the atlas
        keeps of it, with their ranks.
        """
        found = {
            image: {noun: {name: [] for name in self.facts["methods"]} for noun in one["nouns"]}
            for image, one in self.pictures.items()
        }
        noun = ["image", "target"]
        others = self._all.merge(tops[[*noun, "address"]].drop_duplicates())
        others = others[others["rank"] > top]
        for rows in (tops, others):
            for row in rows.itertuples():
                patch = -1 if self.facts["grid"] is None else row.patch
                rank = [row.rank] if row.rank > top else []
                found[row.image][row.target][row.method].append(
                    [index[row.address], short(row.score), patch, row.sign, *rank]
                )
        return found

    def _maps(self, tops: pd.DataFrame, plan: Plan, index: Mapping[str, int]) -> dict[str, list]:
        """Lay out the maps of each picture's neurons and their controls, each once."""
        found = {}
        for image, addresses in mapped(self.views, tops, plan).items():
            here = self.maps.get(image, {})
            found[image] = [
                [index[a], short(one.low, 4), short(one.high, 4), _base64(one.steps)]
                for a, one in ((a, here[a]) for a in addresses if a in here)
            ]
        return {image: rows for image, rows in found.items() if rows}

    def _card(self, address: str, plan: Plan) -> dict[str, Any]:
        """Cut a card down to the plan; what it shares with ``about`` and ``facts`` is left out."""
        card, most = self._cards[address], plan.sights
        places = sorted(card["places"], key=lambda place: place[3])
        by_method = {name: [p for p in places if p[0] == name] for name in self.facts["methods"]}
        return {
            "tokens": {end: _pairs(rows) for end, rows in card["tokens"].items()},
            "histogram": card["histogram"],
            "negative": short(card["negative"]),
            "overlaps": _pairs(card["overlaps"], 2),
            "sights": {
                kind: [[self._place[i], short(value), patch] for i, value, patch in rows[:most]]
                for kind, rows in card["sights"].items()
            },
            "places": [
                [method, self._place[image], noun, rank, short(score), patch, sign]
                for rows in by_method.values()
                for method, image, noun, rank, score, patch, sign in _first_of_each_noun(
                    rows, plan.places
                )
            ],
            "placed": len(places),
            "best": {
                name: short(max(row[4] for row in rows)) for name, rows in by_method.items() if rows
            },
        }


def mapped(views: Views, tops: pd.DataFrame, plan: Plan) -> dict[str, list[str]]:
    """List the neurons that a plan has maps of: {image: addresses}, in the neurons' order."""
    wanted: dict[str, set[str]] = {}
    for row in tops.itertuples():
        some = wanted.setdefault(row.image, set())
        if row.rank <= plan.mapped:
            some.add(row.address)
        if row.rank <= plan.beside:
            some.add(views.control(row.address)["address"])
    order = partial(neuron_at, views.atlas.facts)
    return {image: sorted(some, key=order) for image, some in wanted.items()}


def _first_of_each_noun(places: Sequence[list], most: int) -> list[list]:
    """Choose places, sorted by rank: the best of each noun, and then the others."""
    nouns: set[str] = set()
    first, rest = [], []
    for place in places:
        noun = place[2].casefold()
        (rest if noun in nouns else first).append(place)
        nouns.add(noun)
    return [*first, *rest][:most]


def _brief(one: Mapping[str, Any], with_words: bool) -> list:
    """Pack what is said in short of a neuron; the words of both ends where no card has them."""
    flags = [int(one[name]) for name in ("interpretable", "interpretable_suppresses", "generic")]
    words = [one["writes"], one["suppresses"]] if with_words else []
    return [*flags, one["nouns"], *words]


def _picture(answer: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in answer.items() if name != "id"}


def _pairs(rows: Iterable[Sequence], digits: int = DIGITS) -> list[list]:
    return [[text, short(value, digits)] for text, value in rows]


def short(value: float, digits: int = DIGITS) -> float | int:
    """Round to some digits that count; a whole number comes without its point."""
    rounded = float(f"{value:.{digits}g}")
    return int(rounded) if rounded.is_integer() else rounded


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def to_text(packed: Mapping[str, Any]) -> str:
    """Return packed answers as base64 of gzip of JSON, the same for the same answers."""
    text = json.dumps(packed, allow_nan=False, separators=(",", ":"))
    return _base64(gzip.compress(text.encode(), 9, mtime=0))


def from_text(text: str) -> dict[str, Any]:
    """Read what ``to_text`` wrote."""
    return json.loads(gzip.decompress(base64.b64decode(text)))
