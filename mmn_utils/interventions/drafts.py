"""What a changed model says, starting from what it said unchanged.

Changing a few write vectors leaves the beginning of most captions as it was, and some
captions altogether. So the old caption is a draft: one pass over picture and draft shows how
far greedy generation goes along with it. Where that is to its end, the caption stands; the
others go on from the first token that differs, on top of the same pass, and by what is left
of the draft (``following``). The captions are those of greedy generation up to rounding, since
a pass over many tokens adds up its terms in another order than a pass over each.

Where edits are given row by row, the layers below the lowest that a row's edit changes make the
same of its draft whatever the edit: they run when a draft is first tried (``below``), and later
each row joins at its own layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from mmn_utils.datasets import Photograph
from mmn_utils.interventions.below import Below
from mmn_utils.interventions.edit import Edit
from mmn_utils.interventions.following import Follower, follow
from mmn_utils.interventions.row_edits import RowEdits, apply_by_row
from mmn_utils.memory import in_batches
from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import spare_last
from mmn_utils.models.finite import refuse
from mmn_utils.models.upper import begin_at, can_begin_at, put_below, streams_into
from mmn_utils.neurons.captions import Caption, as_caption
from mmn_utils.neurons.targets import teacher_forced

ALONE = 100  # tokens, whose products take as long as reading the weights for a batch of its own


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
    batch_size: int = 32,
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
    batch_size: int = 32,
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
    lowest = [0] * len(rows) if edits is None else _lowest(model, drafts, edits)
    captions: dict[int, Caption] = {}

    def compute(some: Sequence[int]) -> None:
        trial = _Trial(model, drafts, [rows[i] for i in some], [lowest[i] for i in some])
        own = nullcontext() if edits is None else apply_by_row(model, [edits[i] for i in some])
        with own as changed:
            found, logits = _again(trial, changed)
        for place, i in enumerate(some):
            captions[i] = found[place]
            if reads[i] is not None:
                step, one, other = reads[i]
                values = logits[place, step].float()
                differences[i] = float(values[one] - values[other])

    tokens, layers = drafts.prompts.embeds.shape[1], model.sizes.layers
    for turn in _turns(rows, lowest):
        begins = [drafts.below.begin([rows[i]], [lowest[i]]) for i in turn]
        for group in _groups(begins, tokens, layers):
            size = batch_size * (2 if begins[group[-1]] else 1)  # a shorter pass needs less memory
            in_batches(compute, [turn[place] for place in group], size)
    return [captions[i] for i in range(len(rows))], differences


def _turns(rows: Sequence[int], lowest: Sequence[int]) -> list[list[int]]:
    """Try each draft once before it is tried again: by then the lower layers are known of it."""
    turns: tuple[list[int], list[int]] = ([], [])
    tried: set[int] = set()
    for i, row in enumerate(rows):
        turns[row in tried and lowest[i] > 0].append(i)
        tried.add(row)
    return [turn for turn in turns if turn]


def _groups(begins: Sequence[int], tokens: int, layers: int) -> list[list[int]]:
    """Group passes by where they may begin, the highest first, into those worth a batch of its own.

    A batch more reads all weights a few times more; one of the higher rows alone is worth that if
    it spares what ``ALONE`` tokens cost in all layers.
    """
    order = sorted(range(len(begins)), key=lambda i: -begins[i])
    groups: list[list[int]] = []
    for i in order:
        spared = len(groups[-1]) * tokens * (begins[groups[-1][0]] - begins[i]) if groups else 0
        if not groups or spared > ALONE * layers:
            groups.append([])
        groups[-1].append(i)
    return groups


def _lowest(model, drafts: Drafts, edits: Sequence[Edit | None]) -> list[int]:
    """Return the layer up to which the unchanged model makes what each edit leaves as it is.

    0 where a pass has to begin at the start.
    """
    if model.revision != drafts.revision:
        return [0] * len(edits)
    top = model.sizes.layers - 1
    layers = [min((n.layer for n in edit.neurons), default=top) if edit else top for edit in edits]
    able = {layer: can_begin_at(model, layer) for layer in set(layers)}
    lowest = [layer if able[layer] else 0 for layer in layers]
    drafts.below.ask(lowest, model.sizes.layers // 15)
    return lowest


@dataclass(frozen=True, eq=False)
class _Trial:
    """Drafts, by their ``rows``, that run as one batch.

    ``lowest`` are the layers below which nothing of each is changed.
    """

    model: object
    drafts: Drafts
    rows: Sequence[int]
    lowest: Sequence[int]

    @cached_property
    def begin(self) -> int:
        """The layer at which the batch begins."""
        return self.drafts.below.begin(self.rows, self.lowest)

    @property
    def ids(self) -> list[tuple[int, ...]]:
        """Token ids of each draft."""
        return [self.drafts.captions[row].ids for row in self.rows]

    @property
    def images(self) -> list[str]:
        """The pictures."""
        return [self.drafts.images[row] for row in self.rows]


def _again(trial: _Trial, changed: RowEdits | None) -> tuple[list[Caption], Tensor]:
    """Caption some pictures again; also the logits (B, longest + 1, V) along their drafts."""
    model, drafts, ids = trial.model, trial.drafts, trial.ids
    prompt = drafts.prompts.select(trial.rows).to(model.device)
    forced, start = teacher_forced(model, prompt, ids), prompt.embeds.shape[1]
    # an edit of the last layer is felt at the caption only, and takes positions as they come
    with spare_last(model, start - 1, besides=() if changed is None else changed.hooks):
        logits, past = _along(trial, forced, start)
    steps = _agreed(model, trial.images, ids, logits, drafts.max_new_tokens)
    captions = [drafts.captions[row] for row in trial.rows]
    going = [i for i, step in enumerate(steps) if step is not None]
    if going:
        past.batch_select_indices(torch.tensor(going, device=model.device))
        if trial.begin:
            held = [trial.rows[i] for i in going]
            put_below(past, drafts.below.pairs(held, trial.begin, forced.embeds.shape[1]))
        begun = torch.stack([logits[i, steps[i]] for i in going]), past
        prompt = _cut(forced.select(going), start, [steps[i] for i in going])
        kept = None if changed is None else changed.keep
        if kept is not None:
            kept(going)
        leaving = [Follower.leaving(ids[i], steps[i]) for i in going]
        images = [trial.images[i] for i in going]
        follow(model, prompt, begun, leaving, drafts.max_new_tokens, kept, images)
        for i, follower in zip(going, leaving, strict=True):
            captions[i] = as_caption(model, follower.ids)
    return captions, logits


def _along(trial: _Trial, forced: Prompt, start: int) -> tuple[Tensor, Any]:
    """Run drafts from where they begin: logits (B, longest + 1, V) and the cache from there on."""
    model, below, begin, tokens = trial.model, trial.drafts.below, trial.begin, forced.mask.shape[1]
    with ExitStack() as stack:
        layers = below.to_keep(begin, trial.lowest)
        seen = {layer: stack.enter_context(streams_into(model, layer)) for layer in layers}
        if begin:
            forced = replace(forced, embeds=below.streams(trial.rows, begin, tokens))
            stack.enter_context(begin_at(model, begin))
        logits, past = model.forward(
            forced, use_cache=True, last_only=False, last=tokens - start + 1
        )
    if seen:
        lengths = [start + len(ids) for ids in trial.ids]
        streams = {layer: found[-1] for layer, found in seen.items()}
        below.keep(trial.rows, lengths, trial.lowest, streams, past)
    return logits, past


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
