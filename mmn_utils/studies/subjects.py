"""The first half of the data's way, computed once: photographs to captions, nouns, top neurons."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pandas as pd

from mmn_utils.neurons.attribution import attributions
from mmn_utils.neurons.captions import Caption, as_caption, caption_images
from mmn_utils.neurons.table import neuron_table
from mmn_utils.neurons.targets import Target, caption_targets
from mmn_utils.studies.store import per_photograph

if TYPE_CHECKING:
    from mmn_utils.datasets import Photograph

AT_ONCE = 10  # pictures that are scored before the next is opened
LONGEST = 20  # tokens of a caption that are kept, of which fewer may be asked for
DEPTH = 256  # units that are kept of each photograph, by each of ...
RANKS = ("max", "sum")  # ... which come off one backward pass


@dataclass(frozen=True)
class Subjects:
    """Photographs whose generated caption has a noun, each different noun a target.

    The three lists go together, in the order of the photographs asked for; ``every`` has the
    targets of each caption in their order, at least one. ``skipped`` names the photographs
    left out (by id) with the reason.
    """

    photographs: list[Photograph]
    captions: list[Caption]
    every: list[list[Target]]
    skipped: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        """Count the photographs that stayed."""
        return len(self.photographs)

    @property
    def ids(self) -> list[str]:
        """The photographs' ids."""
        return [photograph.id for photograph in self.photographs]

    @property
    def targets(self) -> list[Target]:
        """The first noun of each caption (paper A, section 2.1)."""
        return [some[0] for some in self.every]

    @property
    def all_targets(self) -> list[Target]:
        """All nouns, in the order of the photographs, then of the captions (paper B, B.1)."""
        return [target for some in self.every for target in some]

    @property
    def texts(self) -> dict[str, str]:
        """Each photograph's caption, by id."""
        return {image: c.text for image, c in zip(self.ids, self.captions, strict=True)}

    def select(self, ids: Sequence[str]) -> Subjects:
        """Take some of the photographs by id, in the order given; ValueError for others."""
        place = {image: row for row, image in enumerate(self.ids)}
        for image in ids:
            if image not in place:
                why = f": {self.skipped[image]}" if image in self.skipped else ""
                raise ValueError(f"photograph {image!r} is not among the {len(self)} subjects{why}")
        lists = (self.photographs, self.captions, self.every)
        return Subjects(*([values[place[image]] for image in ids] for values in lists))

    def opened(self) -> tuple[list, list[Target]]:
        """Open the pictures, once each: a picture for each of all targets, and the targets."""
        pictures = [photograph.open() for photograph in self.photographs]
        pairs = [(p, t) for p, some in zip(pictures, self.every, strict=True) for t in some]
        return [picture for picture, _ in pairs], [target for _, target in pairs]

    def frame(self) -> pd.DataFrame:
        """List image, caption, its first noun with step and token: one row per photograph."""
        return pd.DataFrame(
            {
                "image": self.ids,
                "caption": [caption.text for caption in self.captions],
                "noun": [target.noun for target in self.targets],
                "step": [len(target.prefix) for target in self.targets],
                "token": [target.token for target in self.targets],
            }
        )


def subjects(
    model,
    photographs: Sequence[Photograph],
    *,
    max_new_tokens: int = 20,
    batch_size: int = 40,
    progress: bool = True,
) -> Subjects:
    """Caption photographs and take the captions' nouns as targets (paper A, S.1; paper B, B.1).

    Captions are computed or loaded. ValueError where no caption has a noun.
    """
    captions = captions_of(
        model, photographs, max_new_tokens=max_new_tokens, batch_size=batch_size, progress=progress
    )
    kept, skipped = [], {}
    for photograph, caption in zip(photographs, captions, strict=True):
        if found := caption_targets(model, photograph.id, caption):
            kept.append((photograph, caption, found))
        else:
            skipped[photograph.id] = f"no noun in the caption {caption.text!r}"
    if not kept:
        raise ValueError(
            f"none of the {len(photographs)} captions has a noun ({captions[0].text!r} is the "
            "first); is the projection trained?"
        )
    return Subjects(*map(list, zip(*kept, strict=True)), skipped=skipped)


def captions_of(
    model,
    photographs: Sequence[Photograph],
    *,
    max_new_tokens: int = 20,
    batch_size: int = 40,
    progress: bool = True,
) -> list[Caption]:
    """Caption photographs greedily, or load the captions: one each, in their order.

    They are made ``LONGEST`` or longer and then cut, since a shorter greedy caption is the
    beginning of a longer one: who asks for fewer tokens finds them computed.
    """
    if max_new_tokens < 1:
        raise ValueError(f"max_new_tokens = {max_new_tokens}: a caption has at least one token")
    longest = max(max_new_tokens, LONGEST)

    def compute(rows: list[int]) -> pd.DataFrame:
        images = [photographs[row].open() for row in rows]
        names = [photographs[row].id for row in rows]
        found = caption_images(model, images, longest, batch_size, names)
        columns = {"text": [c.text for c in found], "ids": [list(c.ids) for c in found]}
        return pd.DataFrame({"image": names, **columns})

    table = per_photograph(
        "captions", model, photographs, compute, {"max_new_tokens": longest},
        batch_size=batch_size, progress=progress,
    )  # fmt: skip
    rows = zip(table["text"], table["ids"], strict=True)
    captions = [Caption(text, tuple(int(i) for i in ids)) for text, ids in rows]
    short = max_new_tokens < longest
    return [as_caption(model, c.ids[:max_new_tokens]) for c in captions] if short else captions


def top_neurons(
    model,
    subjects: Subjects,
    *,
    k: int = 100,
    target: str = "logit",
    rank_by: str = "max",
    batch_size: int = AT_ONCE,
    progress: bool = True,
) -> pd.DataFrame:
    """Score neurons for each first noun by attribution (paper A, Eq. 2): the neuron table, cached.

    The top ``k`` per image; ``target`` and ``rank_by`` as in ``attribution``. Both
    rankings of units are kept to ``DEPTH`` or deeper, so that whoever asks for another
    ``k``, or the other ranking, finds it computed.
    """
    ranks = RANKS if rank_by in RANKS else (rank_by,)
    depth = max(k, DEPTH) if rank_by in RANKS else k

    def compute(rows: list[int]) -> pd.DataFrame:
        images = [subjects.photographs[row].open() for row in rows]
        chosen = [subjects.targets[row] for row in rows]
        found = attributions(model, images, chosen, k=depth, target=target, ranks=ranks)
        return pd.concat([table.assign(rank_by=rank) for rank, table in found.items()])

    table = per_photograph(
        "attribution", model, subjects.photographs, compute,
        {"k": depth, "target": target, "ranks": list(ranks)},
        targets=subjects.targets, batch_size=batch_size, progress=progress,
    )  # fmt: skip
    table = neuron_table(table[table["rank_by"] == rank_by].drop(columns="rank_by"))
    return table.groupby("image", sort=False).head(k).reset_index(drop=True)
