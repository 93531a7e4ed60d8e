"""How a system's numbers are computed: its attention, and weights that fit into eight bits."""

from __future__ import annotations

import torch
from torch import nn

from mmn_utils.models.base import VisionLanguageModel

INT8 = "int8"  # as a ``dtype``: weights of eight bits, sums in float32
STEPS = 127  # on either side of zero


def attend(model: VisionLanguageModel, how: str) -> None:
    """Let the language model attend by ``how``: ``eager``, or ``sdpa``, torch's own kernel.

    The revision then tells the two apart. ``ValueError`` for another name, and for a class of
    transformers that has one implementation alone.
    """
    if how not in ("eager", "sdpa"):
        raise ValueError(f"attention = {how!r}: give eager or sdpa")
    language = model.language_model
    before = language.config._attn_implementation
    if how == before:
        return
    if not language._supports_attention_backend:
        raise ValueError(
            f"attention = {how!r}: {type(language).__name__} has {before} alone; leave it out"
        )
    language.set_attn_implementation(how)
    model.revision = f"{model.revision}+{how}"


@torch.no_grad()
def round_to_int8(model: VisionLanguageModel) -> int:
    """Put the language model's linear weights on the grid that int8 has; return how many moved.

    Row by row and symmetric, 127 steps from zero to the row's largest weight, as weight-only
    quantisation stores them; embeddings, norms, biases and the unembedding stay. What comes out is
    what such weights compute in float32, and gradients flow through it as before. The system
    counts as quantised, so that nothing edits weights that would leave the grid.
    """
    language, before = model.language_model, model.revision  # of the weights as they are
    spared = language.get_output_embeddings()
    moved = 0
    for module in language.modules():
        if isinstance(module, nn.Linear) and module is not spared:
            rounded = _rounded(module.weight)
            moved += int((rounded != module.weight).sum())
            module.weight.copy_(rounded)
    model.int8 = True
    model.revision = f"{before}+{INT8}"
    return moved


def _rounded(weight: torch.Tensor) -> torch.Tensor:
    """Round a matrix (out, in) to 127 steps either side of zero, each row by its largest entry."""
    scale = (weight.abs().amax(dim=1) / STEPS).clamp_min(torch.finfo(torch.float32).tiny)
    zero = torch.zeros(len(weight), dtype=torch.int32, device=weight.device)
    return torch.fake_quantize_per_channel_affine(weight, scale.float(), zero, 0, -STEPS, STEPS)
