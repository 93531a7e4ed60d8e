"""What the atlas answers with: frozen records, ready to be drawn."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd
from pycocotools import mask as coco_mask

from mmn_utils.browser.atlas.words import END_OF
from mmn_utils.datasets.base import decode_mask
from mmn_utils.models.pixels import cut_box
from mmn_utils.neurons.decoding import signs_of
from mmn_utils.neurons.table import Neuron


@dataclass(frozen=True)
class Token:
    """A decoded token: number, text as the vocabulary has it, logit above the mean logit."""

    token: int
    text: str
    logit: float


@dataclass(frozen=True)
class Sight:
    """A picture that shows a neuron: its maximum there over image tokens, and which token."""

    image: str
    value: float
    patch: int


@dataclass(frozen=True)
class Place:
    """Where a neuron is among the top: method, picture, noun, rank from 1, score, patch or -1.

    ``activation`` is the neuron's where the score was taken: at the patch, or at the step that
    says the noun.
    """

    method: str
    image: str
    noun: str
    rank: int
    score: float
    patch: int
    activation: float

    @property
    def sign(self) -> int:
        """The sign of the activation, 1 or -1 (``decoding.signs_of``)."""
        return int(signs_of([self.activation])[0])

    @property
    def end(self) -> str:
        """The end of its vector that the neuron wrote there: ``writes`` or ``suppresses``."""
        return END_OF[self.sign]


@dataclass(frozen=True)
class Card:
    """All that the atlas knows of a neuron.

    ``tokens`` {(end, norm): the ten first}; ``interpretable`` whether those of the write vector
    are, ``interpretable_suppresses`` those of its negative; ``sights`` {kind: pictures}, kinds
    ``strongest``, ``middle``, ``random``; ``histogram`` counts of activations at image tokens
    between ``edges`` (one more than these: the outer bins are open); ``negative`` the share below
    0;
    ``overlaps`` (category, IoU) of the twelve best, none without grid or masks; ``places``
    where it is among the top; ``nouns`` how many different nouns these are, ``generic``
    whether many.
    """

    neuron: Neuron
    tokens: dict[tuple[str, str], tuple[Token, ...]]
    interpretable: bool
    interpretable_suppresses: bool
    sights: dict[str, tuple[Sight, ...]]
    histogram: tuple[int, ...]
    edges: tuple[float, ...]
    negative: float
    overlaps: tuple[tuple[str, float], ...]
    places: tuple[Place, ...]
    nouns: int
    generic: bool

    @property
    def writes(self) -> tuple[Token, ...]:
        """The tokens that the write vector names, without the final norm."""
        return self.tokens["writes", "none"]

    @property
    def suppresses(self) -> tuple[Token, ...]:
        """The tokens that the negative of the write vector names, without the final norm."""
        return self.tokens["suppresses", "none"]

    @property
    def tops(self) -> dict[str, tuple[str, ...]]:
        """The different nouns that it is among the top of, by method, the best rank first."""
        found: dict[str, dict[str, None]] = {}
        for place in sorted(self.places, key=lambda place: place.rank):
            found.setdefault(place.method, {}).setdefault(place.noun.casefold())
        return {method: tuple(nouns) for method, nouns in found.items()}

    def written(self, image: str, noun: str) -> dict[str, Place]:
        """Where it was found for a noun of a picture, in any case: {method: place}, by rank.

        Each place says which end was written there.
        """
        key = (image, noun.casefold())
        return {p.method: p for p in self.places if (p.image, p.noun.casefold()) == key}


@dataclass(frozen=True)
class Noun:
    """A noun of a caption with its token, and the step that predicts it."""

    noun: str
    token: int
    step: int


@dataclass(frozen=True)
class Mask:
    """An annotated object of a picture, its mask as COCO's compressed run lengths."""

    category: str
    supercategory: str
    crowd: bool
    size: tuple[int, int]
    runs: str = field(repr=False)

    def pixels(self) -> np.ndarray:
        """Decode the mask: bool (height, width)."""
        return decode_mask({"size": list(self.size), "counts": self.runs}, self.size)

    def part(self, box: tuple[int, int, int, int]) -> Mask:
        """Return what lies in a box (left, top, right, bottom), of the box's size."""
        pixels = np.asfortranarray(cut_box(self.pixels(), box).astype(np.uint8))
        runs = coco_mask.encode(pixels)["counts"].decode("ascii")
        return replace(self, size=pixels.shape, runs=runs)


@dataclass(frozen=True, eq=False)
class Picture:
    """All that the atlas knows of a picture.

    ``file`` below the repository's root, or absolute; ``caption`` the system's, ``human`` the
    people's; ``scores`` the neuron table with method, rank and ``activation``; ``viewers``
    the neurons that have it among their strongest pictures, the hardest driven first.
    """

    image: str
    file: str
    caption: str
    human: tuple[str, ...]
    nouns: tuple[Noun, ...]
    masks: tuple[Mask, ...]
    scores: pd.DataFrame
    viewers: pd.DataFrame


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Neurons that are like one: by write vector, and by the pictures that drive them.

    ``vectors`` has neuron, layer, unit, address and cosine; ``exact`` says whether the cosines
    are those of the whole write vectors. ``pictures`` has the number of strongest pictures
    ``shared`` with it.
    """

    vectors: pd.DataFrame
    exact: bool
    pictures: pd.DataFrame
