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
from contextlib import ExitStack, suppress
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.auto.sums import accepted
from mmn_utils.models.capture import stream_of

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
    """What reaches the decoder: embeddings (B, T, d), and other arguments.

    Lists are there item by item, as ``name.0``, and features by layer as ``name:3``.
    """

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
def flow(model: nn.Module, layers: str, inputs: Mapping[str, Tensor]) -> Flow:
    """Run the own forward on ids and pixels up to its decoder, which has ``layers``.

    Where the decoder takes ids, what its first layer reads says whether it puts the picture
    among their embeddings itself; then nothing else of the picture is left to hand on.
    """
    decoder, taken, read = layers.rpartition(".")[0], {}, []
    module = model.get_submodule(decoder)
    names = list(inspect.signature(module.forward).parameters)

    def at_decoder(_module, args, kwargs) -> None:
        taken.update(zip(names, args, strict=False), **kwargs)
        if taken.get("inputs_embeds") is not None:
            raise _Reached

    def at_first(_module, args, kwargs) -> None:
        read.append(stream_of(args, kwargs))
        raise _Reached

    with ExitStack() as stack:
        for part, hook in ((module, at_decoder), (model.get_submodule(f"{layers}.0"), at_first)):
            stack.callback(part.register_forward_pre_hook(hook, with_kwargs=True).remove)
        stack.enter_context(suppress(_Reached))
        model(**accepted(model.forward, inputs))
    if not taken:
        raise Unsupported(f"the forward of {type(model).__name__} does not call its {decoder}")
    if taken.get("inputs_embeds") is not None:
        return Flow(taken["inputs_embeds"], dict(_tensors(taken)))
    words = model.get_input_embeddings()(taken["input_ids"])
    if read and _has_picture(read[0], words):
        return Flow(read[0], {})
    return Flow(words, dict(_tensors(taken)))


def _has_picture(read: Tensor, words: Tensor) -> bool:
    """Say whether a stream (B, T, d) is the words' embeddings but for some before the end."""
    same = read.shape == words.shape and torch.equal(read[:, -1], words[:, -1])
    return same and not torch.equal(read, words)


def _tensors(arguments: Mapping):
    """Go through the tensors among arguments that not every decoder has."""
    for name, value in arguments.items():
        if name in PLAIN or value is None:
            continue
        if isinstance(value, Tensor):
            yield name, value
        elif isinstance(value, (list, tuple)) and all(isinstance(one, Tensor) for one in value):
            yield from ((f"{name}.{place}", one) for place, one in enumerate(value))
        elif isinstance(value, Mapping) and all(isinstance(one, Tensor) for one in value.values()):
            yield from ((f"{name}:{layer}", one) for layer, one in value.items())


def find_extras(model: nn.Module, layers: str, one: Mapping, two: Flow) -> dict[str, Extra]:
    """Find what the decoder gets besides embeddings.

    From inputs of one picture, and from what reached the decoder of ``two``.
    """
    alone = flow(model, layers, one).others
    if not alone:
        return {}
    both, longer = two.others, flow(model, layers, _longer(one)).others
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
    """Put lists, and features by layer, together again that ``Flow`` has item by item."""
    whole: dict = {}
    for name, value in arguments.items():
        base, dot, _ = name.partition(".")
        by_layer, colon, layer = name.partition(":")
        if colon:
            whole.setdefault(by_layer, {})[int(layer)] = value
        elif dot:
            whole.setdefault(base, []).append(value)
        else:
            whole[base] = value
    return whole
