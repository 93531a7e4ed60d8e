"""A whole image-text model, called as a language model: embeddings in, logits out.

What the model's own forward derives from ids and pixels besides embeddings, that is positions
and token types, is taken from one pass of it and written out for any prompt.

Sliding windows and caps inside attention change no sum; the cache keeps every token also in
layers with a window, so that it can be cut and branched. transformers counts a window in
places, padding included: a row with padding before a real token is refused where the prompt
is longer than the window.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.base import Prompt

TYPES = ("token_type_ids", "mm_token_type_ids")


class LanguagePart(nn.Module):
    """A whole model, called as a language model: embeddings in, positions and types as its own.

    ``positions`` (A, end): those of the model's own forward up to the end of the picture, in A
    dimensions, or None; behind it they count on by one. ``types``: name to the row's token
    types up to there. A mask of 2 marks the tokens given by the prompt.

    The doctor's own forward is this module's, positions and types included; whether these
    are the model's is what ``build_auto`` compares with its ``generate``.
    """

    def __init__(self, whole: nn.Module, given: int) -> None:
        super().__init__()
        self.whole, self.given = whole, given
        self.table = self.ahead = None
        self.types: dict[str, tuple[Tensor, int, int]] = {}

    def place(self, positions: Tensor, end: int) -> None:
        """Take the positions (A, T) of a prompt whose picture ends at ``end``."""
        steps = torch.arange(positions.shape[1], device=positions.device)
        ahead = positions[:, -1:] - steps[-1]
        if not torch.equal(positions[:, end:], (steps + ahead)[:, end:]):
            raise Unsupported(
                f"{type(self.whole).__name__} does not count positions by one behind the picture"
            )
        self.table, self.ahead = positions[:, :end].clone(), ahead

    def mark(self, name: str, row: Tensor, end: int) -> None:
        """Take the token types (T) of a prompt whose picture ends at ``end``."""
        text = int(row[-1])
        # Where picture and text are of one type, it is the prompt's, which attends both
        # ways; what follows the prompt is of the other type.
        later = 1 - text if int(row[end - 1]) == text else text
        self.types[name] = (row[:end].clone(), text, later)

    @property
    def config(self):
        """The language part's configuration, for its limits."""
        return self.whole.config.get_text_config()

    @property
    def is_quantized(self) -> bool:
        """Say whether the weights are quantised."""
        return bool(getattr(self.whole, "is_quantized", False))

    @property
    def window(self) -> int | None:
        """How many places a layer with a sliding window sees, None where no layer has one."""
        kinds = getattr(self.config, "layer_types", None)
        sliding = kinds is None or "sliding_attention" in kinds
        return getattr(self.config, "sliding_window", None) if sliding else None

    def get_input_embeddings(self) -> nn.Module:
        """Return the module that embeds tokens."""
        return self.whole.get_input_embeddings()

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        position_ids: Tensor | None = None,
        past_key_values=None,
        use_cache: bool = False,
        logits_to_keep: int | Tensor = 0,
    ):
        """Run the whole model on embeddings (B, T, d); arguments as transformers has them."""
        held = past_key_values.get_seq_length() if past_key_values is not None else 0
        (rows, tokens), device = inputs_embeds.shape[:2], inputs_embeds.device
        if attention_mask is None:
            attention_mask = torch.ones(rows, held + tokens, dtype=torch.long, device=device)
            attention_mask[:, : self.given] = 2
        self._refuse_gaps(attention_mask)
        if position_ids is None:
            position_ids = torch.arange(held, held + tokens, device=device).expand(rows, -1)
        if use_cache and past_key_values is None:
            past_key_values = DynamicCache()  # without windows: it can be cut and branched
        return self.whole(
            inputs_embeds=inputs_embeds,
            attention_mask=(attention_mask > 0).long(),
            position_ids=self._own_positions(position_ids),
            past_key_values=past_key_values,
            use_cache=use_cache,
            logits_to_keep=logits_to_keep,
            **({} if held else self._own_types(attention_mask)),
        )

    def _refuse_gaps(self, mask: Tensor) -> None:
        """Refuse padding before a real token of a row (B, S) that is longer than the window."""
        if self.window is None or mask.shape[1] <= self.window:
            return
        if ((mask[:, :-1] == 0) & (mask[:, 1:] > 0)).any():
            raise ValueError(
                f"padding stands before real tokens in a prompt of {mask.shape[1]} places, and "
                f"{type(self.whole).__name__} counts its window of {self.window} with padding; "
                "pad behind the end, or give rows of one length"
            )

    def _own_positions(self, counted: Tensor) -> Tensor:
        """Turn places among the real tokens (B, T) into own positions, (B, T) or (A, B, T)."""
        if self.table is None:
            return counted
        table, ahead = self.table.to(counted.device), self.ahead.to(counted.device)
        end = table.shape[1]
        early, late = table[:, counted.clamp(max=end - 1)], counted + ahead[..., None]
        own = torch.where(counted < end, early, late)
        return own[0] if len(own) == 1 else own

    def _own_types(self, mask: Tensor) -> dict[str, Tensor]:
        """Write out the types (B, T) of tokens that the mask (B, T) marks as given or later."""
        written = {}
        for name, (row, text, later) in self.types.items():
            rest = row.new_full((max(mask.shape[1] - len(row), 0),), text)
            given = torch.cat([row, rest])[: mask.shape[1]].to(mask.device)
            written[name] = torch.where(mask == 2, given, later)
        return written


@dataclass(frozen=True, eq=False)
class GivenPrompt(Prompt):
    """A prompt that remembers how many of its tokens stood before the caption."""

    given: int

    def extend(self, embeds: Tensor, mask: Tensor | None = None) -> Prompt:
        """Append embeddings (B, n, d) of a caption; see ``Prompt.extend``."""
        return self._with(super().extend(embeds, mask))

    def tail(self, tokens: int) -> Prompt:
        """Keep the last tokens only, to follow a cache that holds the ones before."""
        return self._with(super().tail(tokens))

    def repeat(self, rows: int) -> Prompt:
        """Repeat each row ``rows`` times: a, a, b, b."""
        return self._with(super().repeat(rows))

    def select(self, rows: slice | Sequence[int] | Tensor) -> Prompt:
        """Take rows by a slice, indices or a bool mask."""
        return self._with(super().select(rows))

    def _with(self, prompt: Prompt) -> GivenPrompt:
        return GivenPrompt(prompt.embeds, prompt.mask, prompt.positions, self.given)
