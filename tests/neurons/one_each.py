"""Four pictures with a target each, at several steps, and what their scores are, the long way."""

from __future__ import annotations

import numpy as np

from mmn_utils.neurons.targets import Target, teacher_forced
from tests.tiny import tiny_images

IMAGES = tiny_images(4)
TARGETS = [  # prefixes of several lengths, so that rows are padded
    Target("a", "horse", 300, ()),
    Target("b", "boat", 17, (5, 9, 301)),
    Target("c", "dog", 250, (40,)),
    Target("d", "field", 111, (7, 8, 9, 10, 11)),
]
KINDS = ("logit", "probability")


def alone(model, prompt, row: int):
    """Return the prompt and the caption prefix of one row, without padding."""
    return teacher_forced(model, prompt.select([row]), [TARGETS[row].prefix])


def brute(field: dict, row: int, rank_by: str) -> list[tuple]:
    """Rank the whole field of one row in plain numpy: (score, layer, unit, patch)."""
    found = []
    for layer, values in field.items():
        values = values[row].numpy()
        if rank_by == "pair":
            found += [(s, layer, u, p) for (p, u), s in np.ndenumerate(values)]
        elif rank_by == "max":
            found += [(c.max(), layer, u, int(c.argmax())) for u, c in enumerate(values.T)]
        else:
            found += [(values[:, u].sum(), layer, u, -1) for u in range(values.shape[1])]
    return sorted(found, reverse=True)
