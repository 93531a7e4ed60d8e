"""A whole image-text model, called as a language model: embeddings in, logits out.

What the model's own forward derives from ids and pixels besides embeddings, that is positions
and token types, is taken from one pass of it and written out for any prompt; what it adds to
each layer by token is looked up by the ids that embeddings have.

Sliding windows and caps inside attention change no sum; the cache keeps every token also in
layers with a window, so that it can be cut and branched. transformers counts a window in
places, padding included: a row with padding before a real token is refused where the prompt
is longer than the window, and always where layers mix tokens by a recurrence or a convolution,
whose states keep one step to go back (``past.StateLayer``).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from mmn_utils.models.auto.flow import PER_LAYER, Extra, regrouped
from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.auto.token_ids import TokenIds
from mmn_utils.models.base import Prompt
from mmn_utils.models.past import hold_still, with_states

PER_LAYER_LOOKUP = "get_per_layer_inputs"  # of the module that makes it of ids
PER_LAYER_WIDTH = "hidden_size_per_layer_input"  # of the configuration


@dataclass(frozen=True)
class Paths:
    """Where in the whole model its language model is, "" for all of it, and its decoder's layers.

    ``crossing``: the layers that read the picture by cross-attention. ``mixing``: those that mix
    tokens by a recurrence or a convolution.
    """

    head: str
    layers: str
    crossing: tuple[int, ...] = ()
    mixing: tuple[int, ...] = ()

    @property
    def decoder(self) -> str:
        """The path of what holds the layers."""
        return self.layers.rpartition(".")[0]


class LanguagePart(nn.Module):
    """A whole model, called as a language model: embeddings in, positions and types as its own.

    ``positions`` (A, end): those of the model's own forward up to the end of the picture, in A
    dimensions, or None; behind it they count on by one. ``types``: name to the row's token
    types up to there. A mask of 2 marks the tokens given by the prompt. ``extras``: what the
    decoder gets besides, handed to it from the prompt's own.

    The doctor's own forward is this module's, positions and types included; whether these
    are the model's is what ``build_auto`` compares with its ``generate``.
    """

    def __init__(self, whole: nn.Module, given: int, paths: Paths) -> None:
        super().__init__()
        self.whole, self.given, self.paths = whole, given, paths
        self.table = self.ahead = None
        self.types: dict[str, tuple[Tensor, int, int]] = {}
        self.extras: dict[str, Extra] = {}
        self.ids: TokenIds | None = None

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
    def generation_config(self):
        """What the model's own ``generate`` goes by."""
        return getattr(self.whole, "generation_config", None)

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
        **extras: Tensor,
    ):
        """Run the model on embeddings (B, T, d); arguments as transformers has them.

        ``extras`` are a prompt's.
        """
        held = past_key_values.get_seq_length() if past_key_values is not None else 0
        (rows, tokens), device = inputs_embeds.shape[:2], inputs_embeds.device
        if attention_mask is None:
            attention_mask = torch.ones(rows, held + tokens, dtype=torch.long, device=device)
            attention_mask[:, : self.given] = 2
        self._refuse_gaps(attention_mask)
        if position_ids is None:
            position_ids = torch.arange(held, held + tokens, device=device).expand(rows, -1)
        if use_cache and past_key_values is None:
            # without windows: it can be cut and branched
            mixing = self.paths.mixing
            past_key_values = with_states(self.config, mixing) if mixing else DynamicCache()
        with self._handing(extras, held, tokens):
            out = self.whole.get_submodule(self.paths.head)(
                inputs_embeds=inputs_embeds,
                attention_mask=(attention_mask > 0).long(),
                position_ids=self._own_positions(position_ids),
                past_key_values=past_key_values,
                use_cache=use_cache,
                logits_to_keep=logits_to_keep,
                **({} if held else self._own_types(attention_mask)),
                **self._per_layer(inputs_embeds),
            )
        if use_cache:
            hold_still(out.past_key_values, self.paths.crossing)
        out.logits = _kept(out.logits, logits_to_keep)
        return out

    @contextmanager
    def _handing(self, extras: Mapping[str, Tensor], held: int, tokens: int) -> Iterator[None]:
        """Hand a prompt's extras to the decoder, for ``tokens`` behind ``held`` in the cache."""
        if set(extras) != set(self.extras):
            raise ValueError(
                f"a prompt with {sorted(extras) or 'nothing'} besides embeddings, but the decoder "
                f"of {type(self.whole).__name__} gets {sorted(self.extras)}; take the prompt's own"
            )
        if not extras:
            yield
            return
        named = {name: self.extras[name].handed(extras[name], held, tokens) for name in self.extras}
        own = regrouped({name: value for name, value in named.items() if value is not None})

        def hand(_module, args, kwargs):
            return args, {**kwargs, **own}

        decoder = self.whole.get_submodule(self.paths.decoder)
        handle = decoder.register_forward_pre_hook(hand, with_kwargs=True)
        try:
            yield
        finally:
            handle.remove()

    def _refuse_gaps(self, mask: Tensor) -> None:
        """Refuse padding before a real token of a row (B, S), where it would count as a token."""
        if self.paths.mixing:
            counts = "lets layers without attention read padding as tokens"
        elif self.window is not None and mask.shape[1] > self.window:
            counts = f"counts its window of {self.window} with padding"
        else:
            return
        if ((mask[:, :-1] == 0) & (mask[:, 1:] > 0)).any():
            raise ValueError(
                f"padding stands before real tokens in a prompt of {mask.shape[1]} places, and "
                f"{type(self.whole).__name__} {counts}; pad behind the end, or give rows of one "
                "length"
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

    def _per_layer(self, embeds: Tensor) -> dict[str, Tensor]:
        """Look up what each layer adds for tokens (B, T, d), where the model has such a table."""
        if not getattr(self.config, PER_LAYER_WIDTH, None):
            return {}
        if self.ids is None or not self.ids.fits(self.get_input_embeddings()):
            self.ids = TokenIds(self.get_input_embeddings(), self.config.pad_token_id)
        decoder = next(m for m in self.whole.modules() if hasattr(m, PER_LAYER_LOOKUP))
        return {PER_LAYER: getattr(decoder, PER_LAYER_LOOKUP)(self.ids(embeds), None)}

    def _own_types(self, mask: Tensor) -> dict[str, Tensor]:
        """Write out the types (B, T) of tokens that the mask (B, T) marks as given or later."""
        written = {}
        for name, (row, text, later) in self.types.items():
            rest = row.new_full((max(mask.shape[1] - len(row), 0),), text)
            given = torch.cat([row, rest])[: mask.shape[1]].to(mask.device)
            written[name] = torch.where(mask == 2, given, later)
        return written


def _kept(logits: Tensor, keep: int | Tensor) -> Tensor:
    """Cut logits to the last ``keep`` positions, or those of each row (B, k), if that is not done.

    Some models take no notice of what is asked, and some give (B, B, k, V), each row's logits
    at the positions of every row.
    """
    if isinstance(keep, int):
        return logits[:, -keep:]
    rows = torch.arange(len(logits), device=logits.device)
    if logits.ndim == 4:
        return logits[rows, rows]
    return logits if logits.shape[1] == keep.shape[1] else logits[rows[:, None], keep]


@dataclass(frozen=True, eq=False, kw_only=True)
class GivenPrompt(Prompt):
    """A prompt that remembers how many of its tokens stood before the caption."""

    given: int
