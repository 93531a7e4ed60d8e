"""The language part of any model of transformers: found by its modules' names, judged by its sums.

Names are data: ``SHAPES`` and the tuples below it. What was found is compared with one pass
of the model's own forward (``observe``) and must account for everything that enters the
residual stream and the logits (``judge``); what is left over is refused by name. A norm
between write vectors and stream can be folded into them (``fold_norm``).
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from mmn_utils.models.base import Architecture


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
ATTENTIONS = ("self_attn", "attn", "attention", "self_attention")
ATTENTION_OUTPUTS = ("o_proj", "out_proj", "dense", "c_proj", "wo")
FINAL_NORMS = ("norm", "final_layernorm", "final_layer_norm", "ln_f", "norm_f")
SCALES = (  # of a configuration, to name what changes a sum
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "residual_multiplier",
    "embedding_multiplier",
)


# --- the modules ------------------------------------------------------------------------


def find_architecture(model: nn.Module) -> Architecture:
    """Find the language part's modules by their names; ``Unsupported`` names what is unknown."""
    kind = type(model).__name__
    embeddings = _path(model, model.get_input_embeddings())
    unembed = _path(model, model.get_output_embeddings())
    if not embeddings or not unembed:
        raise Unsupported(f"{kind} has no input embeddings or no unembedding among its modules")
    part = embeddings.rpartition(".")[0]
    layers, attention = _decoder_layers(model, part)
    decoder = layers.rpartition(".")[0]
    norms = [name for name in FINAL_NORMS if hasattr(model.get_submodule(decoder), name)]
    if not norms:
        raise Unsupported(f"{decoder} of {kind} has no final norm called {_any(FINAL_NORMS)}")
    place, shape = _mlp(model, layers)
    inside = {role: f"{place}.{name}".strip(".") for role, name in vars(shape).items() if name}
    return Architecture(
        layers=layers,
        pre=inside["pre"],
        act=inside["act"],
        attention=attention,
        norm=f"{decoder}.{norms[0]}",
        unembed=unembed,
        gate=inside.get("gate"),
    )


def _decoder_layers(model: nn.Module, part: str) -> tuple[str, str]:
    """Find the decoder layers in a part: the path of their list, and of attention inside one."""
    lists = {
        f"{part}.{name}": module
        for name, module in model.get_submodule(part).named_modules()
        if isinstance(module, nn.ModuleList) and len(module)
    }
    found = {path: _attention(module) for path, module in lists.items()}
    known = [path for path in lists if found[path]]
    if not known:
        seen = ", ".join(f"{path} of {type(lists[path][0]).__name__}" for path in lists) or "none"
        raise Unsupported(
            f"{type(model).__name__} has no list of layers in {part} whose items all have an "
            f"attention ({_any(ATTENTIONS)} with {_any(ATTENTION_OUTPUTS)}); lists there: {seen}"
        )
    layers = max(known, key=lambda path: len(lists[path]))
    return layers, found[layers]


def _attention(layers: nn.ModuleList) -> str | None:
    """Find the path of attention's output map that all layers have."""
    for place in ATTENTIONS:
        for output in ATTENTION_OUTPUTS:
            path = f"{place}.{output}"
            if all(_child(layer, path) is not None for layer in layers):
                return path
    return None


def _mlp(model: nn.Module, layers: str) -> tuple[str, MLPShape]:
    """Find where in a layer the MLP is, and its shape; ``Unsupported`` unless all are alike."""
    found = None
    for index, layer in enumerate(model.get_submodule(layers)):
        place = next((place for place in MLPS if place and hasattr(layer, place)), "")
        module = layer.get_submodule(place)
        where = f"{layers}.{index}.{place}".strip(".")
        shape = _shape(module, where, whole=bool(place))
        if found not in (None, (place, shape)):
            raise Unsupported(f"{where} is shaped unlike {layers}.0; all layers must be alike")
        found = (place, shape)
    return found


def _shape(module: nn.Module, where: str, whole: bool) -> MLPShape:
    """Match one MLP with the known shapes by its linear maps, all of which must be accounted for.

    ``whole``: the module is the MLP; otherwise a layer that holds the MLP's maps directly.
    """
    walk = module.named_modules() if whole else module.named_children()
    linear = {name: part for name, part in walk if isinstance(part, nn.Linear)}
    for shape in SHAPES:
        same = set(linear) == {shape.pre, shape.act, shape.up} - {None}
        if same and linear[shape.pre].out_features == linear[shape.act].in_features:
            gate = shape.gate if shape.gate and _child(module, shape.gate) else None
            return replace(shape, gate=gate)
    names = ", ".join(f"{name}: {type(part).__name__}" for name, part in module.named_children())
    known = "; ".join("/".join(filter(None, (s.pre, s.up, s.act))) for s in SHAPES)
    raise Unsupported(
        f"{where} is a {type(module).__name__} ({names}), an MLP of no known shape "
        f"(linear maps {known}); a mixture of experts or a fused gate has none. Where it is a "
        "plain MLP, add its names to mmn_utils.models.auto_modules.SHAPES"
    )


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


# --- one pass of the model's own forward ------------------------------------------------


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


# --- norms behind attention and MLP -----------------------------------------------------


class FoldedNorm(nn.Module):
    """The second matrix of an MLP and the RMS norm behind it, as write vectors of scaled units.

    With W the matrix, g the norm's gain and r(y) = (mean y^2 + eps)^(-1/2), the norm of W a
    times g is (g W) (a r(W a)): ``write`` holds g W, and what it reads, a r(W a), takes the
    activation's place. Then columns of ``write`` are what the units add to the stream.
    """

    def __init__(self, matrix: nn.Linear, gain: Tensor, eps: float) -> None:
        super().__init__()
        self.matrix, self.eps = matrix, eps
        units, width = matrix.in_features, matrix.out_features
        self.write = nn.Linear(units, width, bias=False, device="meta")
        weight = (gain[:, None] * matrix.weight.detach().float()).to(matrix.weight)
        self.write.load_state_dict({"weight": weight}, assign=True)
        self.requires_grad_(False)

    def forward(self, activation: Tensor) -> Tensor:
        """Scale the activations (B, T, units) as the norm would, then write (B, T, d)."""
        y = self.matrix(activation)
        y = y.to(torch.promote_types(y.dtype, torch.float32))
        scale = torch.rsqrt(y.square().mean(-1, keepdim=True) + self.eps)
        return self.write(activation * scale.to(activation))


def fold_norm(model: nn.Module, architecture: Architecture, norm: str) -> Architecture:
    """Fold the norm behind every MLP into write vectors, in place; returns the new paths.

    The model computes what it did, up to rounding. A neuron's activation is then divided by
    the root mean square of what its MLP writes at that token, so an intervention on it
    leaves that scale as it is, as one does that freezes the final norm; and an edit of a
    write vector likewise. Costs a second copy of the MLPs' second matrices. ``Unsupported``
    for a matrix with a bias or another kind of norm.
    """
    for index, layer in enumerate(model.get_submodule(architecture.layers)):
        matrix, where = layer.get_submodule(architecture.act), f"{architecture.layers}.{index}"
        if matrix.bias is not None:
            raise Unsupported(f"{where}.{architecture.act} has a bias, which {norm} would scale")
        gain, eps = _rms(layer.get_submodule(norm), matrix, f"{where}.{norm}")
        place, _, name = architecture.act.rpartition(".")
        setattr(layer.get_submodule(place), name, FoldedNorm(matrix, gain, eps))
        setattr(layer, norm, nn.Identity())
    return replace(architecture, act=f"{architecture.act}.write")


@torch.no_grad()
def _rms(norm: nn.Module, matrix: nn.Linear, where: str) -> tuple[Tensor, float]:
    """Measure gain (d) and eps of an RMS norm by what it does; ``Unsupported`` for another kind."""
    eps = getattr(norm, "eps", None) or getattr(norm, "variance_epsilon", 0.0)
    width, device = matrix.out_features, matrix.weight.device
    gain = norm(torch.ones(1, width, device=device))[0] * math.sqrt(1 + eps)
    x = torch.randn(4, width, generator=torch.Generator().manual_seed(0)).to(device)
    x = x * torch.tensor([1e-3, 0.1, 1.0, 30.0], device=device)[:, None]
    expected = gain * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + eps)
    if not torch.allclose(norm(x), expected, rtol=1e-4, atol=1e-6):
        raise Unsupported(f"{where} is a {type(norm).__name__}, no RMS norm; it cannot be folded")
    return gain, eps


def _norm_behind(model: nn.Module, found: Architecture, seen: Pass, path: str) -> str | None:
    """Find the module of every layer that reads just what ``path`` writes, if there is one."""
    layers = model.get_submodule(found.layers)

    def reads(index: int, name: str) -> bool:
        read = seen.read.get(f"{found.layers}.{index}.{name}")
        written = seen.written[f"{found.layers}.{index}.{path}"]
        return read is not None and torch.equal(read, written)

    names = [name for name, _ in layers[0].named_children()]
    return next((n for n in names if all(reads(i, n) for i in range(len(layers)))), None)


def with_norms(model: nn.Module, found: Architecture, seen: Pass, fold_norms: bool) -> Architecture:
    """Take the norms behind attention and MLP into account; fold the latter if asked to."""
    norm = _norm_behind(model, found, seen, found.act)
    if norm and not fold_norms:
        kind = type(model.get_submodule(f"{found.layers}.0")).__name__
        raise Unsupported(
            f"{norm} of {type(model).__name__}'s {kind} stands between what the MLP writes and the "
            "residual stream, so write vectors do not enter the stream as they are; give "
            "fold_norms=True to fold it into them (see fold_norm for what an activation then is)"
        )
    behind = _norm_behind(model, found, seen, found.attention)
    found = replace(found, attention=behind or found.attention)
    return fold_norm(model, found, norm) if norm else found
