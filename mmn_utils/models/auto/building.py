"""From a model and its processor to a system, compared with the model's own ``generate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields

import numpy as np
import torch
from PIL import Image
from torch import nn

from mmn_utils.models.architectures import Architecture
from mmn_utils.models.auto.adapter import AutoVisionLanguageModel, placed
from mmn_utils.models.auto.flow import TYPES, Flow, find_extras, flow
from mmn_utils.models.auto.inputs import AutoFacts, Reader, token_grid, token_span, tower_states
from mmn_utils.models.auto.language_part import LanguagePart, Paths
from mmn_utils.models.auto.modules import (
    Unsupported,
    crossing,
    find_architecture,
    head_in,
    mixing,
)
from mmn_utils.models.auto.refusals import refused
from mmn_utils.models.auto.sums import Pass, accepted, observe
from mmn_utils.models.base import ImageTokens
from mmn_utils.models.capture import output_of
from mmn_utils.models.finite import NotFinite, require_finite_weights


def build_auto(name: str, model: nn.Module, processor, **facts) -> AutoVisionLanguageModel:
    """Make a system of a model and its processor, or tokenizer; ``facts`` as ``AutoFacts``.

    The model is frozen and put into evaluation mode in place. Raises ``Unsupported`` with the
    name of the part that does not fit.
    """
    facts = known_facts(facts)
    require_decoder_only(model)
    require_finite_weights(name, model)
    model.eval().requires_grad_(False)
    found = find_architecture(model)
    paths = Paths(head_in(found), found.layers, crossing(model, found), mixing(found))
    with refused(f"{type(model).__name__}, its processor,"):
        reader = Reader(model, processor, facts)
        pictures = [_noise(reader.pixels, seed) for seed in (0, 1)]
        one, two = (placed(reader(pictures[:n]), model.device, model.dtype) for n in (1, 2))
    ids = one["input_ids"][0]
    start, count, between = token_span(model, ids, reader.image_token)
    count, between = _with_its_kind(model, one, start, count, between)
    with refused(f"{type(model).__name__}, its own forward,"):
        found, seen = _observed(name, model, found, one)
        part = _language_part(model, paths, one, two, seen, start + count)
        tower = tower_states(model, one)
    tokens = 0 if tower is None else tower[..., 0].numel()
    grid = token_grid(model, facts, one, tokens, count, between)
    image_tokens = ImageTokens(start, count, grid, reader.pixels, between)
    system = AutoVisionLanguageModel(name, part, reader, found, image_tokens, ids.tolist())
    if facts.check:
        with refused(f"{type(model).__name__}, its generate,"):
            _compare(system, pictures[:1])
    return system


def _with_its_kind(
    model: nn.Module, inputs: Mapping, start: int, count: int, between: frozenset[int]
) -> tuple[int, frozenset[int]]:
    """Let the picture end with the last token of its type, where text is of another."""
    for name in set(TYPES) & set(accepted(model.forward, inputs)):
        row = inputs[name][0]
        if row[-1] != row[start]:
            end = int((row == row[start]).nonzero()[-1]) + 1 - start
            between |= set(range(count, end))
            count = max(count, end)
    return count, between


def known_facts(facts: Mapping) -> AutoFacts:
    """Check the names of facts; ``ValueError`` for one that there is not."""
    names = [field.name for field in fields(AutoFacts)]
    unknown = sorted(set(facts) - set(names))
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: no such fact; give some of {', '.join(names)}")
    return AutoFacts(**facts)


def _language_part(
    model: nn.Module, paths: Paths, one: Mapping, two: Mapping, seen: Pass, end: int
) -> LanguagePart:
    """Wrap the model with what its own forward had, of one picture and of two."""
    ids = one["input_ids"]
    part = LanguagePart(model, ids.shape[1], paths)
    if seen.positions is not None:
        positions = seen.positions
        part.place(positions[:1] if positions.ndim == 2 else positions[:, 0], end)
    own = model.get_submodule(paths.head)
    for name in set(TYPES) & set(accepted(own.forward, one)):
        part.mark(name, one[name][0], end)
    both = flow(model, paths.layers, two)
    part.extras = find_extras(model, paths.layers, one, both)
    if ids.shape[1] == end and any(extra.axis is not None for extra in part.extras.values()):
        raise ValueError("the template ends with the picture; put a text behind it")
    _require_picture(model, both)
    return part


def _require_picture(model: nn.Module, both: Flow) -> None:
    """Refuse a model whose decoder gets the same of two pictures."""
    parts = (both.embeds, *both.others.values())
    if all(torch.equal(*part.unflatten(0, (2, -1))) for part in parts):
        raise Unsupported(
            f"nothing that the decoder of {type(model).__name__} gets depends on the picture"
        )


def require_decoder_only(model: nn.Module) -> None:
    """Raise ``Unsupported`` for an encoder with a decoder."""
    kind = type(model).__name__
    if any(getattr(part, "is_encoder_decoder", False) for part in _configs(model)):
        raise Unsupported(f"{kind} is an encoder with a decoder; its pictures enter no prompt")


def _configs(model: nn.Module) -> list:
    return [model.config, getattr(model.config, "text_config", None)]


def _observed(name: str, model: nn.Module, found: Architecture, inputs: Mapping):
    """Judge a pass part by part, and say first where numbers are not finite."""
    try:
        return observe(model, found, inputs)
    except Unsupported:
        _require_finite(name, model, found, inputs)
        raise


@torch.no_grad()
def _require_finite(name: str, model: nn.Module, found: Architecture, inputs: Mapping) -> None:
    """Raise ``NotFinite`` naming the first part whose output is not finite; the logits are last."""
    layers = range(len(model.get_submodule(found.layers)))
    paths = [f"{found.layers}.{index}{end}" for index in layers for end in (f".{found.act}", "")]
    bad: list[str] = []

    def note(path: str):
        def hook(_module, _args, output) -> None:
            if not output_of(output).isfinite().all():
                bad.append(path)

        return hook

    hooks = [model.get_submodule(path).register_forward_hook(note(path)) for path in paths]
    try:
        logits = model(**accepted(model.forward, inputs), logits_to_keep=1).logits
    finally:
        for hook in hooks:
            hook.remove()
    if bad or not logits.isfinite().all():
        raise NotFinite(
            f"{[*bad, 'the model'][0]} of {name} gives numbers that are not finite in "
            f"{model.dtype} already for a picture of noise; load the model with dtype='bfloat16' "
            "or 'float32'"
        )


def _noise(side: int, seed: int) -> Image.Image:
    """Draw a picture that no part can take for an empty one."""
    values = np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


# --- compared ---------------------------------------------------------------------------


_ROUNDING = {  # deviations of logits that the order of summation may cause
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


@torch.no_grad()
def _compare(model: AutoVisionLanguageModel, images: Sequence[Image.Image]) -> None:
    """Compare two steps with the model's own ``generate``; ``Unsupported`` where they differ."""
    ids, own = model.own_continuation(images)
    prompt = model.prompt(images)
    first, past = model.forward(prompt, use_cache=True)
    longer = prompt.extend(model.embed(ids[:, :1]))
    cached, _ = model.forward(longer.tail(1), past=past, use_cache=True)
    pairs = {
        "after the picture": (first, own[:, 0]),
        "one token later": (model.forward(longer)[0], own[:, 1]),
        "one token later, with the cache": (cached, own[:, 1]),
    }
    for when, (mine, reference) in pairs.items():
        worst = float((mine - reference).abs().max() / reference.abs().max())
        if not worst <= _ROUNDING[model.dtype]:
            kind = type(model.language_model.whole).__name__
            raise Unsupported(
                f"logits of {model.name} {when} are not those of {kind}'s own generate (off by "
                f"{worst:.1e} of the largest): its pictures or positions enter in another way "
                "than through embeddings, positions and token types"
            )
