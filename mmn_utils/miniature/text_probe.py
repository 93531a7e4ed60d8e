"""Measure a language model of the miniature on text alone, before any picture.

The question: when evidence in a context brings out a caption's first noun, in
which layers are the units with the highest attribution at context positions,
and do their write vectors decode to words of that concept's card?
"""

from __future__ import annotations

from dataclasses import asdict, dataclass

import numpy as np
import torch

from mmn_utils.miniature.corpus import PROMPT, Context, CorpusOptions, context_text, sample_context
from mmn_utils.miniature.language import fused_hidden, logits_of
from mmn_utils.miniature.phrases import captions
from mmn_utils.miniature.world import Concept, World


@dataclass(frozen=True)
class TextProbe:
    """What was measured on ``documents`` held-out contexts."""

    documents: int
    first_noun_correct: float  # share of contexts whose largest concept is the top prediction
    layer_share: tuple[float, ...]  # of the top units, by layer
    related_top: float  # share of top units with a card word among their top ten tokens
    related_random: float  # the same for random units of the same layers
    one_card: tuple[float, ...]  # by layer: units with three or more words of one card

    def row(self) -> dict:
        """Return the measurements as one flat row of a table."""
        flat = {k: v for k, v in asdict(self).items() if not isinstance(v, tuple)}
        for name in ("layer_share", "one_card"):
            flat |= {f"{name}_{i}": round(v, 3) for i, v in enumerate(getattr(self, name))}
        return {k: round(v, 4) if isinstance(v, float) else v for k, v in flat.items()}


def decoded_tokens(model, k: int = 10) -> torch.Tensor:
    """Return the top tokens of every unit's write vector, (layers, units, k)."""
    with torch.no_grad():
        return torch.stack(
            [
                (block.mlp.fc_out.weight.T @ model.lm_head.weight.T).topk(k).indices
                for block in model.transformer.h
            ]
        )


def card_tokens(concept: Concept, tokenizer) -> set[int]:
    """Return the first tokens of the words of a card, as they stand within a sentence."""
    words = (concept.name, concept.plural, *concept.words)
    return {tokenizer.encode(f" {word}")[0] for word in words}


def _prompt_ids(context: Context, tokenizer) -> tuple[list[int], int]:
    """Return the ids up to the first noun, and how many of them are context."""
    first = captions(context.concepts, context.background)[0]
    article = first.split(context.concepts[0].name)[0].rstrip()
    before = tokenizer.encode(context_text(context))
    return before + tokenizer.encode(f"\n{PROMPT} {article}"), len(before)


def attribution_at_context(model, ids: list[int], context: int, target: int):
    """Return (attribution (layers, context, units), top prediction) of one document."""
    kept: list[torch.Tensor] = []
    hooks = [
        block.mlp.fc_in.register_forward_hook(lambda _m, _i, out: kept.append(out))
        for block in model.transformer.h
    ]
    try:
        embeds = model.transformer.wte(torch.tensor([ids])).detach().requires_grad_()
        logits = logits_of(model, fused_hidden(model, embeds)[:, -1])[0]
    finally:
        for hook in hooks:
            hook.remove()
    gradients = torch.autograd.grad(logits[target], kept)
    field = torch.stack([(z * g)[0, :context] for z, g in zip(kept, gradients, strict=True)])
    return field.detach(), int(logits.argmax())


def probe_text(
    model,
    tokenizer,
    world: World,
    options: CorpusOptions,
    documents: int = 60,
    top: int = 20,
    seed: int = 99,
) -> TextProbe:
    """Measure ``model`` on held-out contexts drawn from ``seed``."""
    model.requires_grad_(False)
    rng, rng_units = np.random.default_rng(seed), np.random.default_rng(seed + 1)
    decoded, units = decoded_tokens(model), model.config.n_embd * 4
    cards = [card_tokens(c, tokenizer) for c in world.concepts]
    layers, hits, random_hits, correct = [], [], [], []
    for _ in range(documents):
        context = sample_context(world, options, rng)
        ids, length = _prompt_ids(context, tokenizer)
        target = tokenizer.encode(f" {context.concepts[0].name}")[0]
        field, predicted = attribution_at_context(model, ids, length, target)
        best = field.amax(1).flatten().topk(top).indices
        layer, unit = best // units, best % units
        card = cards[world.names.index(context.concepts[0].name)]
        other = torch.from_numpy(rng_units.integers(0, units, top))
        layers += layer.tolist()
        hits += _named(decoded[layer, unit], card)
        random_hits += _named(decoded[layer, other], card)
        correct.append(predicted == target)
    share = np.bincount(layers, minlength=model.config.n_layer) / len(layers)
    return TextProbe(
        documents,
        float(np.mean(correct)),
        tuple(share.tolist()),
        float(np.mean(hits)),
        float(np.mean(random_hits)),
        one_card_share(decoded, cards),
    )


def _named(tokens: torch.Tensor, card: set[int]) -> list[bool]:
    return [bool(card & set(row)) for row in tokens.tolist()]


def one_card_share(decoded: torch.Tensor, cards: list[set[int]], at_least: int = 3) -> tuple:
    """By layer, the share of units with ``at_least`` words of one card among their top tokens."""
    return tuple(
        float(np.mean([any(len(c & set(row)) >= at_least for c in cards) for row in layer]))
        for layer in decoded.tolist()
    )
