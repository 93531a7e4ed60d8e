"""Whether an object's patches lie near words of its card, against random vectors."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
import torch
import torch.nn.functional as F

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature.quality.cards import concept_of, on_card
from mmn_utils.miniature.world import Concept, World
from mmn_utils.neurons.decoding import nearest_tokens
from mmn_utils.neurons.receptive_fields import resize_truth

MOST = 0.6  # share of a patch that an object covers before the patch is the object's


@torch.no_grad()
def patch_quality(
    model, photographs: Sequence[Photograph], world: World, seed: int = 0, batch_size: int = 16
) -> pd.DataFrame:
    """Count object patches whose five nearest tokens hold a word of the object's card.

    One row a scene: image, patches (of objects), named, random (as many random vectors,
    with the same cards).
    """
    generator = torch.Generator().manual_seed(seed)
    rows = []
    for start in range(0, len(photographs), batch_size):
        batch = photographs[start : start + batch_size]
        prompts = model.soft_prompt([photograph.open() for photograph in batch])
        for photograph, vectors in zip(batch, prompts, strict=True):
            owners = _owners(model, photograph, world)
            vectors = vectors[torch.tensor([place for place, _ in owners], dtype=torch.long)]
            noise = torch.randn(vectors.shape, generator=generator)
            hits = [_near_card(model, v, [c for _, c in owners]) for v in (vectors, noise)]
            row = {"image": photograph.id, "patches": len(owners)}
            rows.append(row | dict(zip(("named", "random"), hits, strict=True)))
    return pd.DataFrame(rows)


def _owners(model, photograph: Photograph, world: World) -> list[tuple[int, Concept]]:
    """List the patches that one object covers for the most part, each with its concept."""
    (rows, _), side = model.require_grid(), model.image_tokens.pixels
    found = []
    for one in photograph.instances:
        concept = concept_of(one.category, world)
        if concept is None:
            continue
        truth = resize_truth(one.mask, side)[None].float()
        share = F.avg_pool2d(truth, side // rows).flatten()
        found += [(place, concept) for place in (share >= MOST).nonzero().flatten().tolist()]
    return found


def _near_card(model, vectors: torch.Tensor, concepts: list[Concept]) -> int:
    """Count vectors of whose five nearest tokens one is on the card."""
    ids, _ = nearest_tokens(model, vectors, 5)
    strings = model.token_strings
    near = ([strings[i] for i in row] for row in ids.tolist())
    return sum(on_card(tokens, concept) for tokens, concept in zip(near, concepts, strict=True))
