"""What a changed model says, starting from what it said unchanged.

Changing a few write vectors leaves the beginning of most captions as it was, and some
captions altogether. So the old caption is a draft: one pass over picture and draft shows how
far greedy generation goes along with it. Where that is to its end, the caption stands; the
others are made anew from the first token that differs, on top of the same pass. The captions
are those of greedy generation up to rounding, since a pass over many tokens adds up its
terms in another order than a pass over each.

Where edits are given row by row, the layers below the lowest edited one make the same of a
draft whatever the edit: they run when a draft is first tried (``below``).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field, replace
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.below import Below
from mmn_utils.interventions.edit import Edit
from mmn_utils.interventions.row_edits import RowEdits, apply_by_row
from mmn_utils.memory import in_batches
from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import spare_last
from mmn_utils.models.finite import refuse
from mmn_utils.models.upper import begin_at, can_begin_at, put_below, streams_into
from mmn_utils.neurons.captions import Caption, as_caption, generate
from mmn_utils.neurons.targets import teacher_forced


@dataclass(frozen=True, eq=False)
class Drafts:
    """Captions of the unchanged model, with the prompts (n, P, d) of their pictures, on the CPU.

    Good for changes of the language model of this ``revision``. ``below`` fills as edits are
    tried.
    """

    images: tuple[str, ...]
    captions: tuple[Caption, ...]
    prompts: Prompt
    max_new_tokens: int
    revision: str
    below: Below = field(default_factory=Below, repr=False)


@torch.no_grad()
def drafts_of(
    model,
    photographs: Sequence[Photograph],
    captions: Sequence[Caption],
    *,
    max_new_tokens: int = 20,
    batch_size: int = 16,
) -> Drafts:
    """Embed pictures, to go with the captions that the model gave them.

    ``ValueError`` for no photographs, or not one caption each.
    """
    if not photographs or len(photographs) != len(captions):
        raise ValueError(f"{len(photographs)} photographs, {len(captions)} captions: give one each")

    def compute(some: Sequence[Photograph]) -> Prompt:
        return model.prompt([photograph.open() for photograph in some]).to("cpu")

    prompts = in_batches(compute, photographs, batch_size)
    return Drafts(
        tuple(photograph.id for photograph in photographs),
        tuple(captions),
        prompts[0].join(prompts[1:]),
        max_new_tokens,
        model.revision,
    )


@torch.no_grad()
def captions_now(
    model,
    drafts: Drafts,
    images: Sequence[str] | None = None,
    reads: Sequence[tuple[int, int, int] | None] | None = None,
    batch_size: int = 16,
    edits: Sequence[Edit | None] | None = None,
) -> tuple[list[Caption], np.ndarray]:
    """Caption pictures with the model as it is now: captions, and logit differences.

    ``images`` are some of the drafts', by default all. ``reads[i]`` asks for a difference at
    the old caption's ``(step, first token, second token)``: the first logit less the second,
    NaN where it is None. ``edits[i]`` is put in for picture i alone. ``KeyError`` for a
    picture without a draft.
    """
    place = {image: row for row, image in enumerate(drafts.images)}
    rows = [place[image] for image in (drafts.images if images is None else images)]
    reads = [None] * len(rows) if reads is None else list(reads)
    differences = np.full(len(rows), np.nan)
    first = _lowest(model, drafts, edits)
    order = sorted(range(len(rows)), key=lambda i: drafts.below.knows([rows[i]]))

    def compute(some: Sequence[int]) -> list[Caption]:
        own = nullcontext() if edits is None else apply_by_row(model, [edits[i] for i in some])
        with own as changed:
            captions, logits = _again(model, drafts, [rows[i] for i in some], changed, first)
        for place, i in enumerate(some):
            if reads[i] is not None:
                step, one, other = reads[i]
                values = logits[place, step].float()
                differences[i] = float(values[one] - values[other])
        return captions

    met = sum(drafts.below.knows([row]) for row in rows)
    anew, again = order[: len(order) - met], order[len(order) - met :]
    parts = in_batches(compute, anew, batch_size)
    parts += in_batches(compute, again, 2 * batch_size)  # a shorter pass needs less memory
    captions = dict(zip(order, chain.from_iterable(parts), strict=True))
    return [captions[i] for i in range(len(rows))], differences


def _lowest(model, drafts: Drafts, edits: Sequence[Edit | None] | None) -> int:
    """Return the layer at which passes with these edits may begin; 0 for the start."""
    layers = [neuron.layer for edit in edits or () if edit is not None for neuron in edit.neurons]
    first = min(layers, default=0)
    if model.revision != drafts.revision or not can_begin_at(model, first):
        return 0
    return drafts.below.ask(first, max(1, first - model.sizes.layers // 15))


def _again(
    model, drafts: Drafts, rows: Sequence[int], changed: RowEdits | None, first: int
) -> tuple[list[Caption], Tensor]:
    """Caption some pictures again; also the logits (B, longest + 1, V) along their drafts."""
    ids = [drafts.captions[row].ids for row in rows]
    prompt = drafts.prompts.select(rows).to(model.device)
    forced = teacher_forced(model, prompt, ids)
    start = prompt.embeds.shape[1]
    # an edit of the last layer is felt at the caption only, and takes positions as they come
    with spare_last(model, start - 1, besides=() if changed is None else changed.hooks):
        logits, past, below = _along(model, drafts, rows, forced, start, first)
    images = [drafts.images[row] for row in rows]
    steps = _agreed(model, images, ids, logits, drafts.max_new_tokens)
    captions = [drafts.captions[row] for row in rows]
    going = [i for i, step in enumerate(steps) if step is not None]
    if going:
        past.batch_select_indices(torch.tensor(going, device=model.device))
        if below:
            pairs = drafts.below.pairs([rows[i] for i in going], forced.embeds.shape[1])
            put_below(past, pairs)
        begun = torch.stack([logits[i, steps[i]] for i in going]), past
        prompt = _cut(forced.select(going), start, [steps[i] for i in going])
        if changed is not None:
            changed.keep(going)
        most = drafts.max_new_tokens - min(steps[i] for i in going)
        kept = None if changed is None else changed.keep
        found = generate(model, prompt, most, begun, kept, [images[i] for i in going])
        for i, more in zip(going, found, strict=True):
            whole = (*ids[i][: steps[i]], *more.ids)[: drafts.max_new_tokens]
            captions[i] = as_caption(model, whole)
    return captions, logits


def _along(
    model, drafts: Drafts, rows: Sequence[int], forced: Prompt, start: int, first: int
) -> tuple[Tensor, Any, bool]:
    """Run drafts: logits (B, longest + 1, V), the cache, and whether it lacks lower layers."""
    tokens = forced.embeds.shape[1]
    options = {"use_cache": True, "last_only": False, "last": tokens - start + 1}
    if not first:
        return *model.forward(forced, **options), False
    if drafts.below.knows(rows):
        streams = replace(forced, embeds=drafts.below.streams(rows, tokens))
        with begin_at(model, first):
            return *model.forward(streams, **options), True
    with streams_into(model, first) as seen:
        logits, past = model.forward(forced, **options)
    lengths = [start + len(drafts.captions[row].ids) for row in rows]
    drafts.below.keep(rows, lengths, seen[-1], past)
    return logits, past, False


def _agreed(
    model, images: Sequence[str], ids: Sequence[tuple[int, ...]], logits: Tensor, limit: int
) -> list[int | None]:
    """Count the steps that greedy generation goes along with each draft; None for its very end."""
    likely = logits.argmax(-1)
    finite, found = logits.gather(-1, likely[..., None])[..., 0].isfinite().tolist(), []
    for row, (draft, now) in enumerate(zip(ids, likely.tolist(), strict=True)):
        step = next((s for s, token in enumerate(draft) if now[s] != token), len(draft))
        if not all(finite[row][: step + 1]):
            refuse(model, row, images)
        ended = now[step] in model.end_tokens or step == limit
        found.append(None if step == len(draft) and ended else step)
    return found


def _cut(prompt: Prompt, start: int, steps: Sequence[int]) -> Prompt:
    """Hide what follows the first ``steps`` tokens behind ``start``, row by row."""
    mask = prompt.mask.clone()
    for row, step in zip(mask, steps, strict=True):
        row[start + step :] = 0
    return prompt.hidden(mask)
