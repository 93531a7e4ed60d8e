"""What a model's own forward hands its decoder: embeddings, and what else comes of the picture.

The embeddings hold the picture's tokens wherever the model puts them. What else there is
depends on the model: features that are added to the stream behind early layers (deepstack), or
states that cross-attention reads, with masks that say for which tokens. Which argument belongs
to which picture, and which counts the tokens of the prompt, is read off passes over one
picture, over two, and over one with a longer text (``find_extras``).
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.auto.sums import accepted

TYPES = ("token_type_ids", "mm_token_type_ids")
PER_LAYER = "per_layer_inputs"  # what each layer adds by token, looked up for any prompt
PLAIN = (  # of any decoder; all else may come of the picture
    *("input_ids", "inputs_embeds", "attention_mask", "position_ids", "past_key_values"),
    *("use_cache", "cache_position", "logits_to_keep", "position_embeddings", PER_LAYER, *TYPES),
)


class _Reached(Exception):
    """The decoder was reached, and nothing more is asked for."""


@dataclass(frozen=True)
class Flow:
    """What reaches the decoder: embeddings (B, T, d), and other arguments, lists item by item."""

    embeds: Tensor
    others: Mapping[str, Tensor]


@dataclass(frozen=True)
class Extra:
    """An argument of the decoder: ``rows`` entries of its first axis belong to a picture.

    ``axis`` counts the tokens of the prompt, None where none does.
    """

    rows: int
    axis: int | None

    def by_row(self, value: Tensor, end: int) -> Tensor:
        """Put the pictures first (B, ...), and keep the tokens up to ``end`` and one more."""
        if self.axis is not None:
            value = value.narrow(self.axis, 0, end + 1)
        return value if self.rows == 1 else value.unflatten(0, (-1, self.rows))

    def handed(self, value: Tensor, held: int, tokens: int) -> Tensor | None:
        """Turn it back for ``tokens`` behind ``held``; None where a cache holds the picture.

        Tokens that follow are as the last one.
        """
        if self.axis is None:
            return None if held else (value if self.rows == 1 else value.flatten(0, 1))
        places = torch.arange(held, held + tokens, device=value.device)
        return value.index_select(self.axis, places.clamp(max=value.shape[self.axis] - 1))


@torch.no_grad()
def flow(model: nn.Module, decoder: str, inputs: Mapping[str, Tensor]) -> Flow:
    """Run the own forward on ids and pixels up to its decoder, at path ``decoder``."""
    module, taken = model.get_submodule(decoder), {}
    names = list(inspect.signature(module.forward).parameters)

    def stop(_module, args, kwargs) -> None:
        taken.update(zip(names, args, strict=False), **kwargs)
        raise _Reached

    handle = module.register_forward_pre_hook(stop, with_kwargs=True)
    try:
        with suppress(_Reached):
            model(**accepted(model.forward, inputs))
    finally:
        handle.remove()
    if not taken:
        raise Unsupported(f"the forward of {type(model).__name__} does not call its {decoder}")
    embeds = taken.get("inputs_embeds")
    if embeds is None:
        embeds = model.get_input_embeddings()(taken["input_ids"])
    return Flow(embeds, dict(_tensors(taken)))


def _tensors(arguments: Mapping):
    """Go through the tensors among arguments that not every decoder has."""
    for name, value in arguments.items():
        if name in PLAIN or value is None:
            continue
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (list, tuple)) and all(isinstance(one, Tensor) for one in value):
            yield from ((f"{name}.{place}", one) for place, one in enumerate(value))


def find_extras(model: nn.Module, decoder: str, one: Mapping, two: Mapping) -> dict[str, Extra]:
    """Find what the decoder gets besides embeddings, from inputs of one picture and of two."""
    alone = flow(model, decoder, one).others
    if not alone:
        return {}
    both, longer = (flow(model, decoder, inputs).others for inputs in (two, _longer(one)))
    found = {}
    for name, value in alone.items():
        if value.ndim == 0 or len(both[name]) != 2 * len(value):
            raise Unsupported(
                f"the decoder of {type(model).__name__} gets {name} {tuple(value.shape)} for one "
                f"picture and {tuple(both[name].shape)} for two, which belongs to no picture"
            )
        sizes = zip(value.shape, longer[name].shape, strict=True)
        along = [axis for axis, (short, long) in enumerate(sizes) if long == short + 1]
        found[name] = Extra(len(value), along[0] if along else None)
    return found


def _longer(inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Repeat the last token of the prompt once."""
    shape = inputs["input_ids"].shape
    return {
        name: torch.cat([value, value[:, -1:]], dim=1)
        if value.shape[:2] == shape and not name.startswith("pixel")
        else value
        for name, value in inputs.items()
    }


def regrouped(arguments: Mapping[str, Tensor]) -> dict[str, Tensor | list[Tensor]]:
    """Put lists together again that ``Flow`` has item by item."""
    whole: dict = {}
    for name, value in arguments.items():
        base, dot, _ = name.partition(".")
        if dot:
            whole.setdefault(base, []).append(value)
        else:
            whole[base] = value
    return whole
