"""Targets, the words of captions that neurons are scored for, and the passes that predict them.

A noun is predicted several tokens after the picture, so the caption up to it is
teacher-forced; all nouns of a caption are read off one such pass, each at its own step.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import partial

import torch

from mmn_utils.models.base import Prompt
from mmn_utils.models.capture import after_mlps, replace, spare_last
from mmn_utils.neurons.text import nouns

Positions = Sequence[int] | slice | None
Consume = Callable[[int, torch.Tensor], None]  # takes a layer and what was read of it
ACTIVATIONS = {"gated": "activation", "gate": "gate"}  # the switch to the place of capture


@dataclass(frozen=True)
class Target:
    """A word of an image's caption: the token to score, and the caption's ids before it."""

    image: str
    noun: str
    token: int
    prefix: tuple[int, ...]

    @classmethod
    def of(cls, image: str, noun, caption) -> Target:
        """Build the target of a ``text.Noun`` of a ``captions.Caption``."""
        return cls(image, noun.word, int(noun.token), tuple(caption.ids[: noun.step]))


def caption_targets(model, image: str, caption) -> list[Target]:
    """Build a target of each noun of a caption, at its first occurrence (paper B, 2.2 and B.1).

    Token and prefix of every noun are read at its own step, so a noun that has no token of
    its own drops out alone. An empty list for a caption without nouns.
    """
    first: dict[str, Target] = {}
    for noun in nouns(caption, model):
        first.setdefault(noun.word.casefold(), Target.of(image, noun, caption))
    return list(first.values())


def teacher_forced(model, prompt, prefixes: Sequence[Sequence[int]]):
    """Append each row's caption prefix to its prompt, so that the next token is its target.

    Shorter prefixes are padded behind their end, where the causal mask hides the padding;
    image tokens keep their place. The logits of a row are those at its last real token.
    """
    if len(prefixes) != len(prompt):
        raise ValueError(f"{len(prompt)} prompts for {len(prefixes)} targets; give one each")
    longest = max(map(len, prefixes), default=0)
    if longest == 0:
        return prompt
    ids = torch.zeros(len(prefixes), longest, dtype=torch.long)
    real = torch.zeros_like(ids)
    for row, prefix in enumerate(prefixes):
        ids[row, : len(prefix)] = torch.tensor(prefix, dtype=torch.long)
        real[row, : len(prefix)] = 1
    return prompt.extend(model.embed(ids), real)


def target_tokens(targets: Sequence[Target], vocabulary: int, device) -> torch.Tensor:
    """Return the targets' token ids (T) long; ``ValueError`` for one outside the vocabulary."""
    tokens = torch.tensor([t.token for t in targets], dtype=torch.long, device=device)
    if len(tokens) and not 0 <= int(tokens.min()) <= int(tokens.max()) < vocabulary:
        raise ValueError(f"a target's token is not in the vocabulary of {vocabulary}")
    return tokens


def objective(logits: torch.Tensor, targets: Sequence[Target], target: str = "logit"):
    """Read y_c of each row: logits (B, V) to the logit or probability of its token, (B) float32.

    Logits as the model emits them, scaled and capped where it does so.
    """
    tokens = target_tokens(targets, logits.shape[-1], logits.device)
    logits = logits.float()
    chosen = logits.gather(1, tokens[:, None])[:, 0]
    if target == "logit":
        return chosen
    if target == "probability":
        return (chosen - logits.logsumexp(-1)).exp()
    raise ValueError(f"target={target!r}: give 'logit' or 'probability'")


def logit_and_probability(logits: torch.Tensor, targets: Sequence[Target]) -> torch.Tensor:
    """Read both of each row's token off logits (B, V): (2, B) float32."""
    return torch.stack([objective(logits, targets, of) for of in ("logit", "probability")])


def embedded(model, images: Sequence | Prompt) -> Prompt:
    """Embed the images without a graph behind them; a prompt of them stays as it is."""
    if isinstance(images, Prompt):
        return images
    if len(images) == 0:
        raise ValueError("no images; give at least one")
    with torch.no_grad():
        return model.prompt(images)


def positions_of(model, prompt, positions: Positions) -> slice | torch.Tensor:
    """Resolve positions of the prompt, to index with: the patches' if None.

    ``ValueError`` for none, and for one outside the prompt.
    """
    length = prompt.embeds.shape[1]
    if positions is None:
        positions = model.image_tokens.places
        if isinstance(positions, slice):
            return positions
    if isinstance(positions, slice):
        positions = range(length)[positions]
    index = torch.as_tensor(list(positions), dtype=torch.long, device=prompt.embeds.device)
    if index.numel() == 0 or index.min() < 0 or index.max() >= length:
        raise ValueError(f"positions must be some of the prompt's 0 to {length - 1}")
    return index


def check_rows(prompt: Sequence | Prompt, targets: Sequence[Target]) -> None:
    """Raise ``ValueError`` unless there is a prompt, or a picture, for each target."""
    if len(prompt) != len(targets):
        raise ValueError(f"{len(prompt)} prompts for {len(targets)} targets; give one each")


@torch.no_grad()
def at_steps(
    model,
    images: Sequence | Prompt,
    targets: Sequence[Target],
    consume: Consume | Mapping[str, Consume],
    *,
    activation: str = "gated",
    scales: dict[int, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Run each caption once and hand over the activations that predict its targets.

    ``consume`` takes a layer and (targets, units) float32, in the order of ``targets``;
    nothing else of the pass is kept. Several readings come off one pass: give a function for
    each, {activation: consume}. ``scales``, if given, gets what the norm behind a layer's MLP
    divides each target's token by (targets,) before the layer is handed over, and stays empty
    where there is no such norm. Returns what the final norm reads there, the residual stream
    (targets, d) float32. ``ValueError`` for an unknown ``activation``.
    """
    takers = consume if isinstance(consume, Mapping) else {activation: consume}
    for reading in takers:
        if reading not in ACTIVATIONS:
            raise ValueError(f"activation={reading!r}: give one of {', '.join(ACTIVATIONS)}")
    prompt, rows, places = shared_captions(model, images, targets)
    late = scales is not None and model.architecture.mlp_norm is not None
    tokens, held = prompt.embeds.shape[1], {}

    def at_places(reading: str, layer: int, values: torch.Tensor) -> None:
        left_out = tokens - values.shape[1]  # of the last layer, in front, where none is read
        held[reading] = values[rows, places - left_out].float()
        if not late:
            takers[reading](layer, held.pop(reading))

    def hand_over(layer: int, written: torch.Tensor) -> None:
        left_out = tokens - written.shape[1]
        scales[layer] = model.mlp_scale(layer, written[rows, places - left_out])
        for reading, taker in takers.items():
            taker(layer, held.pop(reading))

    first = min(places.tolist(), default=0)
    with ExitStack() as stack:
        stack.enter_context(spare_last(model, first))
        for reading in takers:
            stack.enter_context(watch(model, partial(at_places, reading), ACTIVATIONS[reading]))
        if late:
            stack.enter_context(after_mlps(model, hand_over))
        residual = stack.enter_context(final_norm_reads(model))
        model.forward(prompt)
        return residual[-1][rows, places].float()


@contextmanager
def final_norm_reads(model, side: str = "input") -> Iterator[list[torch.Tensor]]:
    """Collect the ``input`` of the final norm, or its ``output``, of each pass: (B, T, d)."""
    seen: list[torch.Tensor] = []

    def keep(_, inputs: tuple, output: torch.Tensor) -> None:
        seen.append(inputs[0] if side == "input" else output)

    hook = model.final_norm.register_forward_hook(keep)
    try:
        yield seen
    finally:
        hook.remove()


def shared_captions(
    model, images: Sequence | Prompt, targets: Sequence[Target]
) -> tuple[Prompt, torch.Tensor, torch.Tensor]:
    """Lay targets over as few captions as hold them: prompt, row and place of each target.

    Targets of one image whose prefixes continue each other share a row.
    """
    prompt, pictures = embed_once(model, images, targets)
    leaders, row_of = share_captions(targets)
    prompt = prompt.select([pictures[i] for i in leaders])
    length, ends = prompt.embeds.shape[1], prompt.ends
    rows = torch.tensor(row_of, device=ends.device)
    steps = torch.tensor([len(t.prefix) for t in targets], device=ends.device)
    places = torch.where(steps > 0, length + steps - 1, ends[rows])
    return teacher_forced(model, prompt, [targets[i].prefix for i in leaders]), rows, places


def share_captions(targets: Sequence[Target]) -> tuple[list[int], list[int]]:
    """Find the targets whose prefix leads a row, and the row of each target.

    Those of one image whose prefixes continue each other share a row.
    """
    leaders: list[int] = []
    row_of = [0] * len(targets)
    for i in sorted(range(len(targets)), key=lambda i: (-len(targets[i].prefix), i)):
        image, prefix = targets[i].image, targets[i].prefix
        for row, leader in enumerate(leaders):
            longer = targets[leader]
            if longer.image == image and longer.prefix[: len(prefix)] == prefix:
                row_of[i] = row
                break
        else:
            row_of[i] = len(leaders)
            leaders.append(i)
    return leaders, row_of


def embed_once(
    model, images: Sequence | Prompt, targets: Sequence[Target]
) -> tuple[Prompt, list[int]]:
    """Embed each picture once: a prompt of the different ones, and each target's row in it.

    ``images[i]``, or row i of their prompt, belongs to ``targets[i]``; targets of one image
    name the same picture, or else ``ValueError``.
    """
    check_rows(images, targets)
    first: dict[str, int] = {}
    for i, target in enumerate(targets):
        if not _same(images, i, first.setdefault(target.image, i)):
            raise ValueError(f"image {target.image!r} is two pictures; give each its own id")
    rows = {image: row for row, image in enumerate(first)}
    some = list(first.values())
    if isinstance(images, Prompt):
        return images.select(some), [rows[t.image] for t in targets]
    return embedded(model, [images[i] for i in some]), [rows[t.image] for t in targets]


def _same(images: Sequence | Prompt, i: int, j: int) -> bool:
    if isinstance(images, Prompt):
        return i == j or torch.equal(images.embeds[i], images.embeds[j])
    return images[i] is images[j] or images[i] == images[j]


def watch(model, consume: Consume, what: str = "activation"):
    """Read every layer's activation (B, T, units) in passing and keep none of it."""

    def watcher(layer: int):
        def function(activation: torch.Tensor) -> torch.Tensor:
            consume(layer, activation)
            return activation

        return function

    return replace(model, {layer: watcher(layer) for layer in range(model.sizes.layers)}, what)
