"""What adapters share that join an encoder, a projection and a language model by facts.

The facts of a system are a record of its own with at least ``name``, ``prefix``, ``mean``,
``std``, ``fit``, ``vocabulary`` and ``revision``; those with a token for the beginning of text
have ``bos``, and those that leave to ``preprocess`` how a picture is scaled ``resample``.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from PIL import Image
from torch import Tensor, nn

from mmn_utils.models.architectures import Architecture
from mmn_utils.models.base import ImageTokens, VisionLanguageModel
from mmn_utils.models.finite import require_finite_weights
from mmn_utils.models.pixels import seen_box, to_pixels


class JoinedModel(VisionLanguageModel):
    """A system whose parts its facts describe; see the module's text."""

    def __init__(
        self,
        facts,
        language_model: nn.Module,
        tokenizer,
        architecture: Architecture,
        image_tokens: ImageTokens,
    ) -> None:
        require_finite_weights(facts.name, language_model)
        super().__init__(
            facts.name,
            language_model,
            tokenizer,
            architecture,
            image_tokens,
            prefix=facts.prefix,
            vocabulary=facts.vocabulary,
            revision=facts.revision,
        )
        self.facts = facts

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn pictures of any mode into (B, 3, pixels, pixels) float32; see ``pixels``."""
        facts, side = self.facts, self.image_tokens.pixels
        return to_pixels(
            images, side, facts.mean, facts.std, fit=facts.fit, resample=facts.resample
        )

    def seen(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        return seen_box(size, self.facts.fit)

    def beside(self, part: nn.Module) -> nn.Module:
        """Put a part where the language model is: in float32, frozen, in evaluation mode."""
        require_finite_weights(self.name, part)
        return part.to(self.device, torch.float32).eval().requires_grad_(False)


def beginning(facts, tokenizer) -> list[int]:
    """Return the token for the beginning of text, or nothing where ``bos`` is False.

    ``ValueError`` where the tokenizer has no such token.
    """
    if not facts.bos:
        return []
    if tokenizer.bos_token_id is None:
        raise ValueError("the tokenizer has no token for the beginning of text; set bos=False")
    return [tokenizer.bos_token_id]
