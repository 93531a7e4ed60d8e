"""From a model and its processor to a system, compared with the model's own ``generate``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from PIL import Image
from torch import nn

from mmn_utils.models.auto.adapter import AutoVisionLanguageModel, placed
from mmn_utils.models.auto.inputs import AutoFacts, Reader, token_grid, token_span
from mmn_utils.models.auto.language_part import TYPES, LanguagePart
from mmn_utils.models.auto.modules import Unsupported, find_architecture
from mmn_utils.models.auto.norms import with_norms
from mmn_utils.models.auto.sums import Pass, accepted, judge, observe
from mmn_utils.models.base import ImageTokens


def build_auto(name: str, model: nn.Module, processor, **facts) -> AutoVisionLanguageModel:
    """Make a system of a model and its processor, or tokenizer; ``facts`` as ``AutoFacts``.

    The model is frozen and put into evaluation mode in place, and with ``fold_norms`` its
    MLPs are rewritten. Raises ``Unsupported`` with the name of the part that does not fit.
    """
    facts = AutoFacts(**facts)
    _require_decoder_only(model)
    model.eval().requires_grad_(False)
    found = find_architecture(model)
    reader = Reader(model, processor, facts)
    picture = _noise(reader.pixels)
    inputs = placed(reader([picture]), model.device, model.dtype)
    ids = inputs["input_ids"][0]
    start, count = token_span(model, ids, reader.image_token)
    seen = observe(model, found, inputs)
    plain, found = found, with_norms(model, found, seen, facts.fold_norms)
    if found.act != plain.act:  # folded: other modules write now
        seen = observe(model, found, inputs)
    with torch.no_grad():
        judge(model, found, seen, model.get_input_embeddings()(ids[-1:])[0])
        features = model.get_image_features(**accepted(model.get_image_features, inputs))
    tower = features.last_hidden_state[..., 0].numel()
    system = AutoVisionLanguageModel(
        name,
        _language_part(model, inputs, seen, start + count),
        reader,
        found,
        ImageTokens(start, count, token_grid(model, facts, inputs, tower, count), reader.pixels),
        ids.tolist(),
    )
    if facts.check:
        _compare(system, [picture])
    return system


def _language_part(model: nn.Module, inputs: Mapping, seen: Pass, end: int) -> LanguagePart:
    """Wrap the model with the positions and token types that its own forward had."""
    ids = inputs["input_ids"]
    part = LanguagePart(model, ids.shape[1])
    if seen.positions is not None:
        positions = seen.positions
        part.place(positions[:1] if positions.ndim == 2 else positions[:, 0], end)
    for name in set(TYPES) & set(accepted(model.forward, inputs)):
        part.mark(name, inputs[name][0], end)
    return part


def _require_decoder_only(model: nn.Module) -> None:
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise Unsupported(f"{kind} is an encoder with a decoder; its pictures enter no prompt")
    if not hasattr(model, "get_image_features"):
        raise Unsupported(
            f"{kind} has no get_image_features, so its pictures are no tokens of a prompt (as with "
            "cross-attention)"
        )


def _noise(side: int) -> Image.Image:
    """Draw a picture that no part can take for an empty one."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
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
