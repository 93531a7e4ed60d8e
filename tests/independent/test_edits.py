"""Paper B's edits on LLaVA by the end of Algorithm 1's descent: Tables 6 and 7.

Per edit: the five neurons that contribute most to the source word, each with
dw = -o (v0 - v1) / g times the length lr g + (epochs - 1) lr (g - beta), where g is the norm of
o (v0 - v1); added to the weights, and the caption by transformers' ``generate``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache

import numpy as np
import pytest
import torch

from tests.independent import raw, words
from tests.independent.stored import B, about, assert_claim, assert_rows, rows_of, some

Edit = dict[raw.Unit, torch.Tensor]
TEXTS = ["source", "target", "before", "after"]
pytestmark = pytest.mark.weights


@cache
@torch.no_grad()
def edit(image: str, source: str, target: str) -> tuple[Edit, float]:
    """What is added to write vectors to turn a word of a picture's caption into another; max g."""
    system, facts = raw.llava(), about(B, "B-table-6")
    beta, lr, epochs = (facts["algorithm"][name] for name in ("beta", "lr", "epochs"))
    ids = raw.said(system, image)
    step, token = next((s, t) for noun, s, t in words.nouns(system, ids) if noun == source)
    embeds = raw.prompt(system, raw.seen(system, image), ids[:step])
    active = raw.activations(system, embeds)[0][:, -1]
    along = torch.stack([system.unembedding[token] @ out.weight for out in system.out])
    other = system.tokens(f"a {target}")[len(system.tokens("a"))]
    apart = system.unembedding[token] - system.unembedding[other]
    found, pulls = {}, []
    for unit in raw.highest(along * active, facts["n_neurons"]):
        pull = (active[unit] * apart).double()
        g = pull.norm()
        length = lr * g + (epochs - 1) * lr * (g - beta) if g > beta else 0.0
        found[unit], pulls = (-pull / g * length).float(), [*pulls, float(g)]
    return found, max(pulls)


@contextmanager
def edited(system: raw.System, added: Edit) -> Iterator[None]:
    """Add to write vectors while the context lasts."""
    old = {layer: system.out[layer].weight.data.clone() for layer, _ in added}
    try:
        for (layer, unit), delta in added.items():
            system.out[layer].weight.data[:, unit] += delta
        yield
    finally:
        for layer, weight in old.items():
            system.out[layer].weight.data.copy_(weight)


def caption_with(image: str, added: Edit) -> str:
    """Caption a picture, of at most the run's tokens, with something added."""
    system, longest = raw.llava(), about(B, "B-table-6")["max_new_tokens"]
    with edited(system, added):
        return system.text(raw.caption(system, raw.seen(system, image), longest)).strip()


def says(text: str, word: str) -> bool:
    return re.search(rf"\b{word}\b", text) is not None


def test_edits_of_table_6():
    rows = rows_of(B, "B-table-6")
    once = rows.drop_duplicates("image", keep="last")
    own = {}
    for image in some(once["image"], 6):
        source, target, before, after = once.set_index("image").loc[image, TEXTS]
        added, g = edit(image, source, target)
        text = caption_with(image, added)
        assert (caption_with(image, {}), text) == (before, after)
        swapped = says(text, target) and not says(text, source)
        vectors = {unit: raw.llava().written(unit).norm() for unit in added}
        lengths = [float(delta.norm() / vectors[unit]) for unit, delta in added.items()]
        own[image] = {"swapped": swapped, "g": g, "dw": np.mean(lengths)}
    assert_rows(once, own)
    assert_claim(B, "B-table-6-swapped", rows.groupby("image")["swapped"].mean().mean())


def test_other_pictures_of_table_7():
    """Edits found on one picture of a concept, put in for others that do not name it."""
    rows = rows_of(B, "B-table-7")
    first = rows_of(B, "B-table-6").drop_duplicates(["source", "target"])  # the concept's own edit
    found_on = first.set_index(["source", "target"])["image"]
    others = rows[rows["role"] == "other"].set_index("image", drop=False)
    own = {}
    for image in some(others["image"], 6):
        source, target, before, after = others.loc[image, TEXTS]
        added, _ = edit(found_on[source, target], source, target)
        assert caption_with(image, {}) == before
        text = caption_with(image, added)
        assert text == after
        length = np.mean([float(delta.norm()) for delta in added.values()])
        own[image] = {"unchanged": text == before, "norm": length}
    assert_rows(others.reset_index(drop=True), own)
    assert_claim(B, "B-table-7-locality", others["unchanged"].mean())
