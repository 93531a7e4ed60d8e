"""Paper B's neurons on LLaVA, recomputed: Figure 2, Tables 2 and 4, Figure 5.

Per concept: o (u . w), with o the activation at the step that predicts the word, u its row of
the unembedding and w the write vector; with the whole activation and with the gate's alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
import pytest
import torch

from tests.independent import raw, words
from tests.independent.stored import B, about, assert_claim, assert_rows, rows_of, some

ENDS = {"": "whole", "_gate": "gate"}  # of a column's name: which activation is read
pytestmark = pytest.mark.weights


@dataclass(frozen=True, eq=False)
class Concept:
    """A noun of a caption, and all scores for it (layers, units) at its step."""

    noun: str
    active: dict[str, torch.Tensor]  # the activation by reading
    contribution: dict[str, torch.Tensor]
    attribution: torch.Tensor  # the highest of all patches
    there: torch.Tensor  # the activation at that patch


@torch.no_grad()
def written_along(system: raw.System, token: int) -> torch.Tensor:
    """What each unit's write vector has along a token's row: (layers, units)."""
    return torch.stack([system.unembedding[token] @ out.weight for out in system.out])


@cache
def concepts(image: str) -> list[Concept]:
    """The different nouns of a picture's caption, each scored at its own step."""
    system = raw.llava()
    soft, ids, where = raw.seen(system, image), raw.said(system, image), raw.span(system, image)
    found = []
    for noun, step, token in words.nouns(system, ids):
        embeds = raw.prompt(system, soft, ids[:step])
        whole, gate = raw.activations(system, embeds)
        active = {"whole": whole[:, -1], "gate": gate[:, -1]}
        along = written_along(system, token)
        field = raw.attributions(system, embeds, token, where)
        best = field.argmax(1, keepdim=True)
        there = whole[:, where].gather(1, best)[:, 0]
        contribution = {name: along * o for name, o in active.items()}
        found.append(Concept(noun, active, contribution, field.amax(1), there))
    return found


def methods(one: Concept) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Scores of each method, and the activations whose sign it decodes by."""
    found = {"attribution": (one.attribution, one.there)}
    for end, reading in ENDS.items():
        found[f"contribution{end}"] = (one.contribution[reading], one.active[reading])
        found[f"activation{end}"] = (one.active[reading], one.active[reading])
    return found


def test_layers_of_figure_2():
    k, rows = about(B, "B-fig-2")["k"], rows_of(B, "B-fig-2")
    layers = len(raw.llava().out)
    own = {}
    for image in some(rows["image"], 6):
        lists: dict[str, set[raw.Unit]] = {}
        for one in concepts(image):
            for name, (scores, _) in methods(one).items():
                lists.setdefault(name, set()).update(raw.highest(scores, k))
        own[image] = {
            name: np.mean([layer >= layers / 2 for layer, _ in lists[name]])
            for name in ("contribution", "activation", "attribution")
        }
    assert_rows(rows, own)
    assert_claim(B, "B-fig-2-higher", rows["contribution"].mean())


def test_words_of_table_2():
    system, rows = raw.llava(), rows_of(B, "B-table-2")
    n = about(B, "B-table-2")["decoded"]["neurons"]
    own = {}
    for image in some(rows["image"], 6):
        hits: dict[str, list[bool]] = {}
        for one in concepts(image):
            for name, (scores, active) in methods(one).items():
                for unit in raw.highest(scores, n):
                    said = words.spoken(system, unit, active[unit])
                    hits.setdefault(name, []).append(words.writes(said, one.noun))
                    if name.startswith("contribution"):
                        negative = name.replace("contribution", "negative")
                        hits.setdefault(negative, []).append(bool(active[unit] < 0))
        own[image] = {name: np.mean(some_hits) for name, some_hits in hits.items()}
    assert_rows(rows, own)
    for end, claim in (("", "B-table-2-writes"), ("_gate", "B-table-2-writes-gate")):
        other = max(rows[f"activation{end}"].mean(), rows["attribution"].mean())
        assert_claim(B, claim, rows[f"contribution{end}"].mean() - other)


def specificity(image: str, m: int, most: int, seed: int) -> dict[str, float]:
    """Eq. 8 of a picture's best neuron, for tokens that it favours and for random ones."""
    system, found = raw.llava(), {}
    drawn = words.generator(image, seed).choice(len(system.unembedding), most, replace=False)[:m]
    for end, reading in ENDS.items():
        best = max(concepts(image), key=lambda one: one.contribution[reading].max())
        (unit,) = raw.highest(best.contribution[reading], 1)
        scores = best.active[reading][unit] * (system.unembedding @ system.written(unit))
        found[f"related{end}"] = float(scores.topk(m).values.mean())
        found[f"random{end}"] = float(scores[drawn].mean())
    return found


def test_specificity_of_table_4():
    facts = about(B, "B-table-4")
    m = facts["m"]
    rows = rows_of(B, "B-table-4", f"m == {m}")
    with torch.no_grad():
        own = {
            image: specificity(image, m, max(facts["sizes"]["tokens"]), facts["seed"])
            for image in some(rows["image"], 6)
        }
    assert_rows(rows, own)
    for end, claim in (("", ""), ("_gate", "-gate")):
        related, random = rows[f"related{end}"], rows[f"random{end}"]
        assert_claim(B, f"B-table-4-related{claim}", (related - random).mean())
        assert_claim(B, f"B-table-4-random{claim}", random.mean() / related.mean())


def test_own_concepts_of_figure_5():
    rows, own = rows_of(B, "B-fig-5"), {}
    for image in some(rows["image"], 6):
        mine = concepts(image)
        own[image] = {"concepts": len(mine), "chance": 1 / len(mine)}
        for end, reading in ENDS.items():
            fields = [one.contribution[reading] for one in mine]
            tops = [raw.highest(field, 1)[0] for field in fields]
            scores = torch.tensor([[field[unit] for field in fields] for unit in tops])
            right = scores.argmax(1) == torch.arange(len(mine))
            own[image][f"own{end}"] = float(right.float().mean())
    assert_rows(rows, own)
    assert_claim(B, "B-fig-5-own", rows["own"].mean())
    assert_claim(B, "B-fig-5-own-gate", rows["own_gate"].mean())
