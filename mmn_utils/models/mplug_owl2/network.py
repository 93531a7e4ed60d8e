"""The whole network: tower, abstractor and decoder; called as a language model is."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import DynamicCache, GenerationConfig
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from mmn_utils.models.mplug_owl2.abstractor import VisualAbstractor
from mmn_utils.models.mplug_owl2.config import MplugOwl2Config
from mmn_utils.models.mplug_owl2.decoder import AdaptiveLayer, Split, rotary_embedding, visible_keys
from mmn_utils.models.mplug_owl2.tower import VisionModel


class MplugOwl2ForCausalLM(nn.Module):
    """The whole system; its decoder is called as a language model of transformers is.

    ``image_span`` (first, end) are the positions that hold image tokens in every prompt,
    None where a prompt has text only: the decoder knows by a token's position how to
    treat it, also behind a cache and beside padding.
    """

    def __init__(self, config: MplugOwl2Config) -> None:
        super().__init__()
        self.config = config
        self.model = MplugOwl2Model(config)
        self.lm_head = nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        self.image_span: tuple[int, int] | None = None
        self.generation_config = GenerationConfig()  # of which only the ids of an end are looked at

    def get_input_embeddings(self) -> nn.Embedding:
        """Return the table that reads tokens."""
        return self.model.embed_tokens

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values: DynamicCache | None = None,
        use_cache: bool = False,
        logits_to_keep: int | Tensor = 0,
    ) -> CausalLMOutputWithPast:
        """Predict next tokens from embeddings (B, T, d); logits (B, kept, vocabulary).

        ``attention_mask`` (B, held + T) is 0 where a token is padding, ``position_ids`` (B, T)
        count from what the cache holds by default. ``logits_to_keep``: the last n tokens, 0
        for all, or indices (n,) or (B, n). A cache that is given grows in place.
        """
        past = past_key_values
        if use_cache and past is None:
            past = DynamicCache()
        positions = self._positions(inputs_embeds, position_ids, past)
        first, end = self.image_span or (0, 0)
        image = (positions >= first) & (positions < end)
        hidden = self.model(inputs_embeds, attention_mask, positions, past, image)
        logits = self.lm_head(_keep(hidden, logits_to_keep))
        return CausalLMOutputWithPast(logits=logits, past_key_values=past)

    def _positions(self, embeds: Tensor, positions: Tensor | None, past) -> Tensor:
        rows, tokens = embeds.shape[:2]
        if positions is None:
            held = past.get_seq_length() if past is not None else 0
            positions = torch.arange(held, held + tokens, device=embeds.device)[None]
        return positions.expand(rows, tokens)


class MplugOwl2Model(nn.Module):
    """All parts but the unembedding."""

    def __init__(self, config: MplugOwl2Config) -> None:
        super().__init__()
        self.config = config
        self.vision_model = VisionModel(config.vision)
        self.visual_abstractor = VisualAbstractor(
            config.abstractor, config.vision.side, config.hidden_size
        )
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(
            AdaptiveLayer(config, layer) for layer in range(config.num_hidden_layers)
        )
        self.norm = LlamaRMSNorm(config.hidden_size, config.rms_norm_eps)

    def forward(
        self,
        hidden: Tensor,
        mask: Tensor | None,
        positions: Tensor,
        past: DynamicCache | None,
        image: Tensor,
    ) -> Tensor:
        """Run the decoder on embeddings (B, T, d); ``image`` (B, T) bool marks image tokens."""
        held = past.get_seq_length() if past is not None else 0
        rotary = rotary_embedding(positions, self.config, hidden.dtype)
        visible = visible_keys(mask, held, hidden.shape[1], hidden.device)
        split = Split.of(image)
        for layer in self.layers:
            hidden = layer(hidden, split, rotary, visible, past)
        return self.norm(hidden)


def _keep(hidden: Tensor, which: int | Tensor) -> Tensor:
    """Cut (B, T, d) to the last n tokens (0: all), or to indices (n,) or (B, n)."""
    if isinstance(which, int):
        return hidden[:, -which:] if which else hidden
    if which.ndim == 1:
        return hidden[:, which]
    return torch.take_along_dim(hidden, which[..., None], dim=1)
