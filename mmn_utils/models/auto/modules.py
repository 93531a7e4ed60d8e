"""The language part's modules, found by their names.

Names are data: ``SHAPES`` and the tuples below it. What is unknown is refused by name.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from torch import nn

from mmn_utils.models.architectures import Architecture
from mmn_utils.models.auto.experts import SpreadExperts, spread_experts
from mmn_utils.models.auto.rewriting import InRows, align_crossing, split_fused, unflatten


class Unsupported(ValueError):
    """A part of a model that the contract cannot hold; the message names it."""


@dataclass(frozen=True)
class MLPShape:
    """Names of linear maps inside an MLP, and of the module whose output is the gate activation.

    ``pre`` gives Z, ``act`` reads the activation, ``up`` is the other factor of a gated MLP.
    """

    pre: str
    act: str
    up: str | None = None
    gate: str | None = None


SHAPES = (
    MLPShape("gate_proj", "down_proj", "up_proj", "act_fn"),  # LLaMA, Mistral, Qwen, Gemma
    MLPShape("w1", "w2", "w3", "act_fn"),
    MLPShape("up_proj", "down_proj"),
    MLPShape("fc1", "fc2"),  # OPT, Phi
    MLPShape("fc_in", "fc_out"),  # GPT-J
    MLPShape("c_fc", "c_proj"),
    MLPShape("dense_h_to_4h", "dense_4h_to_h"),  # GPT-NeoX, Falcon
)
MLPS = ("mlp", "feed_forward", "ffn", "")  # where in a layer; "" is the layer itself
TOWERS = ("vision", "visual", "image", "qformer")  # in paths of what is no language model
ATTENTIONS = ("self_attn", "attn", "attention", "self_attention")
ATTENTION_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
MIXERS = ("linear_attn", "conv", "mamba")  # in attention's place: a recurrence, a convolution
POST_NORMED = ("attention", "intermediate", "output")  # children of a layer of BERT's
FINAL_NORMS = (
    *("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f"),
    *("layer_norm", "embedding_norm"),  # Kosmos, LFM
)


def find_architecture(model: nn.Module) -> Architecture:
    """Find the language part's modules by their names; ``Unsupported`` names what is unknown."""
    kind = type(model).__name__
    embeddings, unembed = (
        _path(model, _told(model, name))
        for name in ("get_input_embeddings", "get_output_embeddings")
    )
    if not embeddings or not unembed:
        _refuse_post_norms(model)
        part = "unembedding is, if it has one" if embeddings else "input embeddings are"
        raise Unsupported(f"{kind} does not tell where its {part}")
    part = _decoder_part(model, embeddings.rpartition(".")[0])
    layers, attention = _decoder_layers(model, part)
    _rewrite_mlps(model.get_submodule(layers))
    decoder = layers.rpartition(".")[0]
    norms = [name for name in FINAL_NORMS if hasattr(model.get_submodule(decoder), name)]
    if not norms:
        there = ", ".join(name for name, _ in model.get_submodule(decoder).named_children())
        raise Unsupported(
            f"{decoder} of {kind} has no final norm called {_any(FINAL_NORMS)}, but {there}"
        )
    place, shape = _mlp(model, layers)
    first = model.get_submodule(f"{layers}.0")
    inside = {role: f"{place}.{name}".strip(".") for role, name in vars(shape).items() if name}
    inside = {
        role: f"{path}.inner" if isinstance(first.get_submodule(path), InRows) else path
        for role, path in inside.items()
    }
    return Architecture(
        layers=layers,
        pre=inside["pre"],
        act=inside["act"],
        attention=attention,
        norm=f"{decoder}.{norms[0]}",
        unembed=unembed,
        gate=inside.get("gate"),
        experts=getattr(first.get_submodule(place), "experts", None) if place else None,
    )


def _refuse_post_norms(model: nn.Module) -> None:
    """Refuse a decoder of BERT's layers, out of which no stream of sums comes."""
    for path, module in model.named_modules():
        inside = {name for name, _ in module.named_children()}
        if set(POST_NORMED) <= inside and not any(tower in path for tower in TOWERS):
            raise Unsupported(
                f"{path} of {type(model).__name__} is a {type(module).__name__}: it normalises its "
                "stream after each addition, so nothing stays in it as it was written"
            )


def _rewrite_mlps(layers: nn.ModuleList) -> None:
    """Write MLPs as ``rewriting`` and ``experts`` tell, in place."""
    for layer in layers:
        unflatten(layer)
        place = next((place for place in MLPS if place and hasattr(layer, place)), None)
        mlp = getattr(layer, place) if place else None
        split = None if mlp is None else split_fused(mlp) or spread_experts(mlp)
        if split is not None:
            setattr(layer, place, split)


def crossing(model: nn.Module, found: Architecture) -> tuple[int, ...]:
    """List the layers that read the picture by cross-attention."""
    return align_crossing(model.get_submodule(found.layers), ATTENTIONS)


def head_in(found: Architecture) -> str:
    """Return the path of the language model, the least that has layers and unembedding."""
    decoder = found.layers.rpartition(".")[0]
    pairs = zip(decoder.split("."), found.unembed.split("."), strict=False)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)
    return ".".join(name for name, _ in same)


def _decoder_part(model: nn.Module, part: str) -> str:
    """Go up from where the embeddings are to the first part that has lists of modules."""
    while part and not any(
        isinstance(m, nn.ModuleList) for m in model.get_submodule(part).modules()
    ):
        part = part.rpartition(".")[0]
    return part


def _decoder_layers(model: nn.Module, part: str) -> tuple[str, str | tuple[str, ...]]:
    """Find the decoder layers in a part: the path of their list, and of attention inside one."""
    lists = {
        f"{part}.{name}".strip("."): module
        for name, module in model.get_submodule(part).named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
        if not any(tower in f"{part}.{name}" for tower in TOWERS)
    }
    for module in lists.values():
        align_crossing(module, ATTENTIONS)
    found = {path: _attention(module) for path, module in lists.items()}
    known = [path for path in lists if found[path]]
    if not known:
        _refuse_post_norms(model)
        seen = "; ".join(f"{path} of {_children(lists[path])}" for path in lists) or "none"
        raise Unsupported(
            f"{type(model).__name__} has no list of layers in {part} whose items all have an "
            f"attention ({_any(ATTENTIONS)} with {_any(ATTENTION_OUTPUTS)}), or some of them "
            f"{_any(MIXERS)} in its place; lists there: {seen}"
        )
    beside = [path for path in known if path.rpartition(".")[0] == part]
    layers = max(beside or known, key=lambda path: len(lists[path]))
    return layers, found[layers]


def _children(layers: nn.ModuleList) -> str:
    """Name the classes of layers, each with its children."""
    kinds = {
        (type(layer).__name__, tuple(n for n, _ in layer.named_children())) for layer in layers
    }
    return " and ".join(f"{kind} ({', '.join(names)})" for kind, names in sorted(kinds))


def _attention(layers: nn.ModuleList) -> str | tuple[str, ...] | None:
    """Find the path of attention's output map, each layer's where some have another mixer."""
    for path in _outputs(ATTENTIONS):
        if all(_child(layer, path) is not None for layer in layers):
            return path
    each = [_first(layer, _outputs((*ATTENTIONS, *MIXERS))) for layer in layers]
    some = any(path and path.startswith(ATTENTIONS) for path in each)
    return one_or_each(each) if some and None not in each else None


def _outputs(places: Iterable[str]) -> Iterator[str]:
    return (f"{place}.{output}" for place in places for output in ATTENTION_OUTPUTS)


def _first(layer: nn.Module, paths: Iterable[str]) -> str | None:
    return next((path for path in paths if _child(layer, path) is not None), None)


def one_or_each(paths: Sequence[str]) -> str | tuple[str, ...]:
    """Return the path that all layers have, or each one's."""
    return paths[0] if len(set(paths)) == 1 else tuple(paths)


def mixing(found: Architecture) -> tuple[int, ...]:
    """List the layers that mix tokens otherwise than by attention."""
    each = () if isinstance(found.attention, str) else enumerate(found.attention)
    return tuple(layer for layer, path in each if path.startswith(MIXERS))


def _mlp(model: nn.Module, layers: str) -> tuple[str, MLPShape]:
    """Find where in a layer the MLP is, and its shape; ``Unsupported`` unless all are alike."""
    found, first = None, ""
    for index, layer in enumerate(model.get_submodule(layers)):
        place = next((place for place in MLPS if place and hasattr(layer, place)), "")
        module = layer.get_submodule(place)
        where = f"{layers}.{index}.{place}".strip(".")
        shape, kind = _shape(module, where, whole=bool(place)), _called(module)
        if found not in (None, (place, shape)):
            raise Unsupported(
                f"{where}, a {kind}, is shaped unlike {layers}.0, a {first}; all layers must have "
                "units alike, and as many"
            )
        found, first = (place, shape), first or kind
    return found


def _called(module: nn.Module) -> str:
    """Name a module's class, of experts that were spread that of their block."""
    return type(module.block if isinstance(module, SpreadExperts) else module).__name__


def _shape(module: nn.Module, where: str, whole: bool) -> MLPShape:
    """Match one MLP with the known shapes by its linear maps, all of which must be accounted for.

    ``whole``: the module is the MLP; otherwise a layer that holds the MLP's maps directly.
    """
    if isinstance(module, SpreadExperts):
        return MLPShape("pre", "down_proj", None, "act_fn")
    walk = module.named_modules() if whole else module.named_children()
    linear = {n: getattr(p, "inner", p) for n, p in walk if isinstance(p, (nn.Linear, InRows))}
    for shape in SHAPES:
        same = set(linear) == {shape.pre, shape.act, shape.up} - {None}
        if same and linear[shape.pre].out_features == linear[shape.act].in_features:
            gate = shape.gate if shape.gate and _child(module, shape.gate) else None
            return replace(shape, gate=gate)
    names = ", ".join(f"{name}: {type(part).__name__}" for name, part in module.named_children())
    known = "; ".join("/".join(filter(None, (s.pre, s.up, s.act))) for s in SHAPES)
    raise Unsupported(
        f"{where} is a {type(module).__name__} ({names}), an MLP of no known shape "
        f"(linear maps {known}); experts, and a gate and up in one map, are known where they are "
        "down(act_fn(gate x) * up x). Where it is a plain MLP, add its names to "
        "mmn_utils.models.auto.modules.SHAPES"
    )


def _told(model: nn.Module, name: str) -> nn.Module | None:
    """Ask a model for one of its modules; None where it has no answer."""
    try:
        return getattr(model, name)()
    except (AttributeError, NotImplementedError):
        return None


def _path(model: nn.Module, module: nn.Module | None) -> str | None:
    """Find the path of a module by its identity."""
    return next((path for path, other in model.named_modules() if other is module), None)


def _child(module: nn.Module, path: str) -> nn.Module | None:
    try:
        return module.get_submodule(path)
    except AttributeError:
        return None


def _any(names: Iterable[str]) -> str:
    return " or ".join(names)
