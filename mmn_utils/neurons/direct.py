"""What a unit gives a word directly: through the final norm, with everything else as it was.

An ablation tells the total: what the unit wrote, and all that layers above make of its absence.
The difference is what they give back (self-repair), or take in addition.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from mmn_utils.models.base import Prompt
from mmn_utils.models.frozen_norm import freeze
from mmn_utils.neurons.targets import Target, at_steps, target_tokens


@torch.no_grad()
def direct_losses(model, prompt: Prompt, target: Target) -> Tensor:
    """Measure what the logit loses when the stream lacks what a unit wrote at the step.

    (layers, units) float32. The stream that the final norm reads is taken less the unit's share,
    and the norm, with the scale that it then has, applied anew; nothing between is run again.
    Behind a norm of the MLP's own its scale is held. ``prompt`` of one picture.
    """
    if len(prompt) != 1:
        raise ValueError(f"{len(prompt)} pictures at once; give the prompt of one")
    active: dict[int, Tensor] = {}
    scales: dict[int, Tensor] = {}
    stream = at_steps(model, prompt, [target], active.__setitem__, scales=scales)
    norm = freeze(model.final_norm, model.sizes.width, model.device).norm
    stream = stream.to(next((p.dtype for p in norm.parameters()), torch.float32))
    weight, bias = model.unembedding
    token = int(target_tokens([target], len(weight), "cpu")[0])
    row, shift = weight[token : token + 1].to(stream), None if bias is None else bias[[token]]

    def logit(read: Tensor) -> Tensor:
        """Read streams (n, d) as the token's logit (n)."""
        put = F.linear(norm(read), row, None if shift is None else shift.to(read))
        return model.emitted(put)[:, 0].float()

    whole, lost = logit(stream), []
    for layer in range(model.sizes.layers):
        written = active[layer][0][:, None].to(stream) * model.written_vectors(layer).to(stream)
        if layer in scales:
            written = written / scales[layer][:, None]
        lost.append(whole - logit(stream - written))
    return torch.stack(lost)
