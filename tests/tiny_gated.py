"""A tiny random system with gated MLPs: a LLaMA behind patches' mean colours.

For tests of what every system has, not of one system's own facts. Text stands before and
after the image tokens, as in the chat templates of the real ones.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from mmn_utils.models.architectures import LLAMA
from mmn_utils.models.base import ImageTokens, Prompt, VisionLanguageModel
from tests.tiny import PADDING, PIXELS, tiny_tokenizer

GRID = (4, 4)
BEFORE, AFTER = "The horse", " A picture of"


def tiny_llama(
    seed: int = 0,
    vocabulary: int = 400,
    layers: int = 3,
    width: int = 32,
    units: int = 48,
    **facts,
) -> LlamaForCausalLM:
    """Build a random LLaMA with grouped queries and untied embeddings; ``facts`` as LlamaConfig."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=units,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=128,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        **{"tie_word_embeddings": False, **facts},
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 1:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()


class TinyGated(VisionLanguageModel):
    """Text, patches' mean colours through a linear map, text."""

    def __init__(self, seed: int = 0, *, grid: tuple[int, int] | None = GRID) -> None:
        tokenizer = tiny_tokenizer()
        self.before = tokenizer.encode(BEFORE)
        super().__init__(
            "tiny gated",
            tiny_llama(seed, vocabulary=len(tokenizer) + PADDING),
            tokenizer,
            LLAMA,
            ImageTokens(len(self.before), GRID[0] * GRID[1], grid, PIXELS),
            prefix=AFTER,
            vocabulary=len(tokenizer),
        )
        self.projection = torch.randn(3, self.sizes.width) * 2
        self.places = torch.randn(GRID[0] * GRID[1], self.sizes.width) * 0.3

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Return pixels (B, 3, 32, 32) in 0..1."""
        arrays = [
            np.asarray(image.convert("RGB").resize((PIXELS, PIXELS)), np.float32) / 255
            for image in images
        ]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)

    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Return mean colours (B, 16, 3)."""
        pooled = torch.nn.functional.adaptive_avg_pool2d(self.preprocess(images), GRID)
        return pooled.flatten(2).transpose(1, 2)

    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Return image tokens (B, 16, d)."""
        return (self.image_features(images) @ self.projection + self.places).to(self.dtype)

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Return text, image tokens, text."""
        soft = self.soft_prompt(images)
        after = self.tokenizer.encode(self.prefix if text is None else text)
        return self.around(soft, self.before, after)
