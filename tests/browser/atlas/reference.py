"""What the atlas should answer, slowly: pandas over the parts that a random atlas is made of."""

from __future__ import annotations

from functools import cached_property

import numpy as np
import pandas as pd

from mmn_utils.browser.atlas.files import Facts, Parts
from mmn_utils.browser.atlas.words import ENDS, NORMS
from tests.benchmarks.bench_atlas import random_facts, random_parts

# Texts as vocabularies hold them: markup, quotes, several tokens of one word, empty ones.
TEXTS = (" horse", "horse", " Horse", "<filename>", "<b>", "&amp;", " ' OR 1=1 --", '"', "%", "_",
         "", " ", "\n", "Straße", " STRASSE", " é", "é", "'; DROP TABLE cards; --")  # fmt: skip
PICTURES = 23


def random_atlas(seed: int) -> tuple[Facts, Parts]:
    """Draw an atlas of 3 x 40 neurons with ties among logits and among peaks."""
    facts = random_facts(layers=3, units=40, width=32, vocabulary=60, k=12)
    parts = random_parts(facts, PICTURES, seed)
    texts = [*TEXTS, *(f" word{i}" for i in range(len(TEXTS), facts.vocabulary))]
    parts.vocabulary["text"] = texts
    parts.vocabulary["word"] = [text.strip().casefold() for text in texts]
    rng = np.random.default_rng(seed)
    for found in parts.decoded.values():
        found.logits[:] = np.round(found.logits, 1)
        for row in found.tokens:
            row[:] = rng.permutation(facts.vocabulary)[: len(row)]
    parts.scores["score"] = np.round(parts.scores["score"], 2)
    return facts, parts


class Reference:
    """The same questions, over the parts."""

    def __init__(self, facts: Facts, parts: Parts) -> None:
        self.facts, self.parts = facts, parts
        self.images = parts.pictures["image"].tolist()
        scores = parts.scores.copy()
        scores["rank"] = 1 + scores.groupby(["method", "image", "target"]).cumcount()
        scores["neuron"] = scores["layer"] * facts.units + scores["unit"]
        self.scores = scores

    def address(self, number: int) -> str:
        return f"L{number // self.facts.units}.u{number % self.facts.units}"

    def tokens(self, number: int, end: str, norm: str) -> list[tuple]:
        found, texts = self.parts.decoded[end, norm], self.parts.vocabulary["text"]
        return [
            (int(token), texts[token], float(np.float16(logit)))
            for token, logit in zip(found.tokens[number], found.logits[number], strict=True)
        ]

    def sights(self, number: int, kind: str) -> list[tuple]:
        seen = self.parts.shown[kind]
        rows = zip(seen.pictures[number], seen.values[number], seen.patches[number], strict=True)
        return [(self.images[i], float(np.float16(value)), int(patch)) for i, value, patch in rows]

    def search(self, word: str, end: str, norm: str, n: int) -> list[tuple]:
        assert end in ENDS
        assert norm in NORMS
        best = {}
        for number in range(len(self.parts.counts)):
            for rank, (token, text, logit) in enumerate(self.tokens(number, end, norm), 1):
                if text.strip().casefold() == word.strip().casefold():
                    best.setdefault(number, []).append((-logit, token, rank, text))
        rows = sorted((min(found)[0], number, *min(found)[1:]) for number, found in best.items())
        return [
            (self.address(number), token, rank, text, -logit)
            for logit, number, token, rank, text in rows[:n]
        ]

    def elsewhere(self, number: int, image: str | None, noun: str | None) -> list[tuple]:
        rows = self.scores[self.scores["neuron"] == number]
        if image is not None:
            rows = rows[rows["image"] != image]
        if noun is not None:
            rows = rows[rows["target"].str.lower() != noun.lower()]
        rows = rows.sort_values(["method", "rank", "image", "target"])
        columns = ["method", "image", "target", "rank", "score", "patch", "activation"]
        return list(rows[columns].itertuples(index=False, name=None))

    def nouns(self, number: int) -> set[str]:
        return self._nouns.get(number, set())

    @cached_property
    def _nouns(self) -> dict[int, set[str]]:
        return self.scores.groupby("neuron")["target"].agg(set).to_dict()

    @cached_property
    def _best(self) -> dict[tuple[str, int], float]:
        return self.scores.groupby(["method", "neuron"])["score"].max().to_dict()

    def neurons(self, *, layers, method, least_score, interpretable, generic, nouns) -> list[str]:
        every = self.scores["target"].nunique()
        rows, least = [], np.float32(least_score or -np.inf)
        for number in range(len(self.parts.counts)):
            own = self.nouns(number)
            best = self._best.get((method, number), np.nan)
            fits = (
                (layers is None or number // self.facts.units in layers)
                and (
                    interpretable is None
                    or self.parts.interpretable["writes"][number] == interpretable
                )
                and (generic is None or (len(own) >= max(2, 0.2 * every)) == generic)
                and (nouns is None or nouns[0] <= len(own) <= nouns[1])
                and (method is None or (pd.notna(best) and best >= least))
            )
            if fits:
                rows.append((0 if method is None else -best, number))
        return [self.address(number) for _, number in sorted(rows)]

    def cosines(self, number: int) -> np.ndarray:
        vectors = self.parts.vectors.astype(np.float32)
        return vectors @ vectors[number]

    def sharing(self, number: int) -> list[tuple[str, int]]:
        own = set(self.parts.shown["strongest"].pictures[number].tolist())
        shared = [
            (-len(own & set(row)), other)
            for other, row in enumerate(self.parts.shown["strongest"].pictures.tolist())
            if other != number
        ]
        return [(self.address(other), -count) for count, other in sorted(shared) if count]
