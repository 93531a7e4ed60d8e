"""What a changed model says, starting from what it said unchanged.

Changing a few write vectors leaves most captions as they were, and every layer below the
changed ones in all of them. So the old caption is a draft: one pass over picture and draft,
begun at the lowest layer that changed, shows whether each of its tokens is still the most
likely one. Where all are, the caption stands; the others are made anew. The captions are
those of greedy generation up to rounding, since draft and generation add up their terms in
another order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from mmn_utils.captions import Caption, generate
from mmn_utils.datasets import Photograph
from mmn_utils.editing import Edit
from mmn_utils.models.base import Prompt
from mmn_utils.row_edits import apply_by_row
from mmn_utils.targets import teacher_forced

TOLERANCE = 1e-3  # of the spread of logits, between the whole model and its upper layers


@dataclass(frozen=True, eq=False)
class Drafts:
    """Captions of the unchanged model with all that the layers below ``layer`` make of them.

    ``prompts`` (n, P, d) are the pictures' prompts, ``hidden[i]`` (P + tokens, d) what
    ``layer`` reads of picture i and its caption; both on the CPU. Good for changes at
    ``layer`` and above, of the model of this ``revision``.
    """

    layer: int
    images: tuple[str, ...]
    captions: tuple[Caption, ...]
    prompts: Prompt
    hidden: tuple[Tensor, ...]
    max_new_tokens: int
    revision: str


@contextmanager
def from_layer(model, layer: int) -> Iterator[None]:
    """Let the language model begin at a layer: what it takes for embeddings is that layer's input.

    Exact for models that do nothing to embeddings but hand them to the first layer; not
    with a cache of keys and values. Layers keep their numbers for the adapter.
    """
    path, _, name = model.architecture.layers.rpartition(".")
    parent = model.language_model.get_submodule(path)
    whole = getattr(parent, name)
    setattr(parent, name, whole[layer:])
    try:
        yield
    finally:
        setattr(parent, name, whole)


@torch.no_grad()
def drafts_of(
    model,
    photographs: Sequence[Photograph],
    captions: Sequence[Caption],
    layer: int = 0,
    *,
    max_new_tokens: int = 20,
    batch_size: int = 16,
) -> Drafts:
    """Run the lower layers once over pictures and the captions that the model gave them.

    Where a model turns out not to be able to begin at ``layer``, the drafts begin at 0.
    ``ValueError`` for no photographs, or not one caption each.
    """
    if not photographs or len(photographs) != len(captions):
        raise ValueError(f"{len(photographs)} photographs, {len(captions)} captions: give one each")
    model.layer(layer)  # an error where there is none
    prompts, hidden = [], []
    for start in range(0, len(photographs), batch_size):
        batch = slice(start, start + batch_size)
        prompt = model.prompt([photograph.open() for photograph in photographs[batch]])
        some = [caption.ids for caption in captions[batch]]
        forced = teacher_forced(model, prompt, some)
        read, logits = _at_layer(model, forced, layer)
        if start == 0 and layer and not _begins_at(model, forced, read, logits, layer):
            return drafts_of(
                model, photographs, captions, max_new_tokens=max_new_tokens, batch_size=batch_size
            )
        lengths = [prompt.embeds.shape[1] + len(ids) for ids in some]
        hidden += [row[:n].cpu().clone() for row, n in zip(read, lengths, strict=True)]
        prompts.append(prompt)
    parts = zip(*((p.embeds.cpu(), p.mask.cpu(), p.positions.cpu()) for p in prompts), strict=True)
    return Drafts(
        layer,
        tuple(photograph.id for photograph in photographs),
        tuple(captions),
        Prompt(*(torch.cat(part) for part in parts)),
        tuple(hidden),
        max_new_tokens,
        model.revision,
    )


def _at_layer(model, prompt: Prompt, layer: int) -> tuple[Tensor, Tensor]:
    """Read what a layer gets (B, T, d), and the next token's logits (B, V)."""
    seen: list[Tensor] = []

    def read(_module, args: tuple, kwargs: dict) -> None:
        seen.append(args[0] if args else kwargs["hidden_states"])

    hook = model.layer(layer).register_forward_pre_hook(read, with_kwargs=True)
    try:
        logits, _ = model.forward(prompt)
    finally:
        hook.remove()
    return seen[0], logits


def _begins_at(model, prompt: Prompt, hidden: Tensor, logits: Tensor, layer: int) -> bool:
    """Say whether the upper layers alone predict what the whole model does."""
    with from_layer(model, layer):
        found, _ = model.forward(Prompt(hidden, prompt.mask, prompt.positions))
    return float((found - logits).abs().max()) <= TOLERANCE * float(logits.float().std())


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
    picture without a draft, ``ValueError`` for an edit that reaches below the drafts.
    """
    place = {image: row for row, image in enumerate(drafts.images)}
    rows = [place[image] for image in (drafts.images if images is None else images)]
    reads = [None] * len(rows) if reads is None else list(reads)
    _check_depth(drafts, edits or ())
    found: list[Caption | None] = []
    differences = np.full(len(rows), np.nan)
    for start in range(0, len(rows), batch_size):
        some = rows[start : start + batch_size]
        with _edited(model, edits, range(start, start + len(some))):
            logits = _look(model, drafts, some)
        for i, row in enumerate(some):
            stands = _stands(model, drafts, row, logits[i].argmax(-1).tolist())
            found.append(drafts.captions[row] if stands else None)
            if (read := reads[start + i]) is not None:
                step, first, second = read
                values = logits[i, step].float()
                differences[start + i] = float(values[first] - values[second])
    fresh = [i for i, caption in enumerate(found) if caption is None]
    for start in range(0, len(fresh), batch_size):
        some = fresh[start : start + batch_size]
        prompt = _on(model, drafts.prompts.select([rows[i] for i in some]))
        with _edited(model, edits, some) as rows_of:
            kept = rows_of.keep if rows_of is not None else None
            captions = generate(model, prompt, drafts.max_new_tokens, kept=kept)
        for i, caption in zip(some, captions, strict=True):
            found[i] = caption
    return found, differences


def _check_depth(drafts: Drafts, edits: Sequence[Edit | None]) -> None:
    """Raise ``ValueError`` for an edit of layers that the drafts have behind them."""
    for edit in edits:
        if edit is not None and min(neuron.layer for neuron in edit.neurons) < drafts.layer:
            words = ", ".join(f"{c.source!r} into {c.target!r}" for c in edit.concepts)
            raise ValueError(
                f"the edit of {words} lies below the drafts' layer {drafts.layer}; make the "
                "drafts again, for its layers"
            )


def _edited(model, edits: Sequence[Edit | None] | None, places: Sequence[int]):
    """Put the edits of some pictures in, each for its own row; nothing without any."""
    return nullcontext() if edits is None else apply_by_row(model, [edits[i] for i in places])


def _look(model, drafts: Drafts, rows: Sequence[int]) -> Tensor:
    """Predict each token of some drafts and the one behind them: (B, longest + 1, V)."""
    hidden = torch.nn.utils.rnn.pad_sequence([drafts.hidden[r] for r in rows], batch_first=True)
    start = drafts.prompts.embeds.shape[1]
    mask = torch.ones(hidden.shape[:2], dtype=torch.long)
    mask[:, :start] = drafts.prompts.mask[rows]
    for i, row in enumerate(rows):
        mask[i, len(drafts.hidden[row]) :] = 0
    with from_layer(model, drafts.layer):
        logits, _ = model.forward(_on(model, Prompt.of(hidden, mask)), last_only=False)
    return logits[:, start - 1 :]


def _stands(model, drafts: Drafts, row: int, likely: Sequence[int]) -> bool:
    """Say whether greedy generation would go along a draft to its very end."""
    ids = list(drafts.captions[row].ids)
    if len(ids) < drafts.max_new_tokens:
        ids.append(model.tokenizer.eos_token_id)
    return list(likely[: len(ids)]) == ids


def _on(model, prompt: Prompt) -> Prompt:
    """Put a prompt where the model is."""
    parts = (prompt.embeds, prompt.mask, prompt.positions)
    return Prompt(*(part.to(model.device) for part in parts))
