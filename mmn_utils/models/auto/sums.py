"""What was found, judged by its sums: one pass of the model's own forward.

The parts must account for everything that enters the residual stream and the logits
(``judge``); what is left over is refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mmn_utils.models.architectures import Architecture
from mmn_utils.models.auto.modules import Unsupported

SCALES = (  # of a configuration, to name what changes a sum
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "residual_multiplier",
    "embedding_multiplier",
)


@dataclass(frozen=True, eq=False)
class Pass:
    """One own forward over one picture, at the last token of the prompt.

    ``read`` and ``written``: path to what a module reads and gives, (d) each; ``positions``
    those of all tokens as the decoder gets them, or None; ``logits`` (V).
    """

    read: Mapping[str, Tensor]
    written: Mapping[str, Tensor]
    positions: Tensor | None
    logits: Tensor


@torch.no_grad()
def observe(model: nn.Module, architecture: Architecture, inputs: Mapping) -> Pass:
    """Run the model's own forward and note what flows between the parts of its decoder."""
    layers = model.get_submodule(architecture.layers)
    inside = {architecture.act, architecture.attention}
    names = ["", *inside, *(name for name, _ in layers[0].named_children())]
    paths = [f"{architecture.layers}.{i}.{n}".strip(".") for i in range(len(layers)) for n in names]
    read, written, positions = {}, {}, []
    decoder = model.get_submodule(architecture.layers.rpartition(".")[0])
    handle = decoder.register_forward_pre_hook(
        lambda _module, _args, kwargs: positions.append(kwargs.get("position_ids")),
        with_kwargs=True,
    )
    try:
        with _noted(model, [*paths, architecture.norm, architecture.unembed], read, written):
            logits = model(**accepted(model.forward, inputs), logits_to_keep=1).logits
    finally:
        handle.remove()
    return Pass(read, written, positions[0], logits[0, -1])


@contextmanager
def _noted(model: nn.Module, paths: Sequence[str], read: dict, written: dict) -> Iterator[None]:
    """Note the last token of what modules read and give."""

    def note(path: str):
        def hook(_module, args, kwargs, output) -> None:
            value = args[0] if args else kwargs.get("hidden_states")
            output = output[0] if isinstance(output, tuple) else output
            for store, tensor in ((read, value), (written, output)):
                if isinstance(tensor, Tensor) and tensor.ndim == 3:
                    store[path] = tensor[0, -1].clone()

        return hook

    with ExitStack() as stack:
        for path in paths:
            module = model.get_submodule(path)
            stack.callback(module.register_forward_hook(note(path), with_kwargs=True).remove)
        yield


def accepted(function, inputs: Mapping) -> dict:
    """Keep the inputs that a function takes by name; labels would only cost a loss."""
    names = set(inspect.signature(function).parameters) - {"labels"}
    return {name: value for name, value in inputs.items() if name in names}


def judge(model: nn.Module, found: Architecture, seen: Pass, token: Tensor) -> None:
    """Check that the parts found account for the stream and the logits; ``Unsupported`` if not.

    ``token`` is the embedding (d) of the prompt's last token.
    """
    kind, stream = type(model).__name__, token
    first, last = f"{found.layers}.0", len(model.get_submodule(found.layers)) - 1
    if not _same(seen.read[first], token):
        raise Unsupported(f"{kind} changes its embeddings before {first}{_suspects(model)}")
    for index in range(last + 1):
        layer = f"{found.layers}.{index}"
        parts = [seen.written[f"{layer}.{name}"] for name in (found.attention, found.act)]
        stream = seen.written[layer]
        if not _same(stream, seen.read[layer], *parts):
            raise Unsupported(
                f"{layer} of {kind} ({type(model.get_submodule(layer)).__name__}) adds more, or "
                f"other, than {found.attention} and {found.act} give{_suspects(model)}"
            )
    if not _same(seen.read[found.norm], stream):
        raise Unsupported(f"{kind} changes the stream between its layers and {found.norm}")
    if not _same(seen.read[found.unembed], seen.written[found.norm]):
        raise Unsupported(f"{kind} has more than {found.norm} before {found.unembed}")
    if not _same(seen.logits, seen.written[found.unembed]):
        raise Unsupported(f"{kind} changes its logits after {found.unembed}{_suspects(model)}")


def _same(whole: Tensor, *parts: Tensor) -> bool:
    """Compare with the sum of parts, up to rounding of each."""
    eps = max(torch.finfo(part.dtype).eps for part in (whole, *parts))
    whole, *parts = (part.double() for part in (whole, *parts))
    size = whole.abs() + sum(part.abs() for part in parts)
    return bool(((whole - sum(parts)).abs() <= 8 * eps * size).all())


def _suspects(model: nn.Module) -> str:
    """Name what in a configuration scales or caps."""
    config = model.config.get_text_config()
    values = {name: getattr(config, name, None) for name in SCALES}
    said = [f"{name} = {value}" for name, value in values.items() if value not in (None, 1, 1.0)]
    return f" ({', '.join(said)})" if said else ""
