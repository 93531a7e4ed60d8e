"""Any image-text-to-text model of transformers, found by walking its modules.

Nothing here asks which model it has. Names of modules are data (``SHAPES`` and the
tuples below it); what names cannot tell is read off one pass of the model's own forward
over a picture:

==================  ==================================================================
decoder layers      the longest list of modules beside the input embeddings whose items
                    all have an attention of known names
MLP                 one of ``SHAPES``, the same in every layer
norm after it       a norm that reads the attention's output is what attention adds to the
                    residual stream; one that reads the MLP's output stands between write
                    vectors and stream, and is folded or refused (``fold_norms``)
positions           those with which the model's own forward reaches its decoder: in
                    three dimensions (M-RoPE), or counted from 1
token types         the processor's, where the forward takes them: they say which tokens
                    of the prompt see each other both ways
==================  ==================================================================

What was found must then account for everything that enters the residual stream and the
logits, and the adapter's logits must be those of the model's own ``generate``. What is
left over is refused by name (``Unsupported``): a mixture of experts, a fused gate, capped
or scaled logits, pictures that enter by cross-attention or into several layers.

Sliding windows and caps inside attention change no sum; the cache keeps every token also in
layers with a window, so that it can be cut and branched. transformers counts a window in
places, padding included: a row with padding before a real token is refused where the prompt
is longer than the window.
"""

from __future__ import annotations

import copy
import hashlib
import inspect
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor, DynamicCache
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from ..compat import quiet_loading
from .base import Architecture, ImageTokens, Prompt, VisionLanguageModel, files_hash, state_hash
from .hub import WEIGHTS, MissingParts, Part, find, weight_files
from .pixels import to_pixels, to_rgb, to_square

FOUND = "found"  # the grid that count and facts of the model suggest


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
RESAMPLERS = ("resampler", "perceiver", "qformer", "abstractor")  # their tokens have no place
SCALES = (  # of a configuration, to name what changes a sum
    "final_logit_softcapping",
    "logits_scaling",
    "logit_scale",
    "residual_multiplier",
    "embedding_multiplier",
)
TYPES = ("token_type_ids", "mm_token_type_ids")
_ROUNDING = {  # deviations of logits that the order of summation may cause
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


@dataclass(frozen=True)
class AutoFacts:
    """What a model's files do not settle.

    ``template`` is the whole text up to where the caption begins, with the processor's
    placeholder of one image; None: the processor's chat template around ``question``,
    then ``opening``. ``pixels`` is the side of the square that every picture is resized
    to, so that all have the same number of tokens; None: the vision tower's. ``grid``
    overrides the (rows, columns) found, or None for tokens without a place. ``options``
    go to the processor's call; ``mean`` and ``std`` serve where there is only a tokenizer.
    ``end`` names the token that ends a caption where it is not the tokenizer's end of
    text. ``fold_norms`` see ``fold_norm``. ``check`` compares with the model's own
    ``generate``.
    """

    template: str | None = None
    question: str = "Describe the image in few words."
    opening: str = "An image of"
    pixels: int | None = None
    grid: tuple[int, int] | str | None = FOUND
    options: Mapping[str, object] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    end: str | None = None
    fold_norms: bool = False
    check: bool = True
    vocabulary: int | None = None
    revision: str | None = None


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
        "plain MLP, add its names to mmn_utils.models.auto.SHAPES"
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
class _Pass:
    """One own forward over one picture, at the last token of the prompt.

    ``read`` and ``written``: path to what a module reads and gives, (d) each; ``positions``
    those of all tokens as the decoder gets them, or None; ``logits`` (V).
    """

    read: Mapping[str, Tensor]
    written: Mapping[str, Tensor]
    positions: Tensor | None
    logits: Tensor


@torch.no_grad()
def _observe(model: nn.Module, architecture: Architecture, inputs: Mapping) -> _Pass:
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
            logits = model(**_accepted(model.forward, inputs), logits_to_keep=1).logits
    finally:
        handle.remove()
    return _Pass(read, written, positions[0], logits[0, -1])


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


def _accepted(function, inputs: Mapping) -> dict:
    """Keep the inputs that a function takes by name; labels would only cost a loss."""
    names = set(inspect.signature(function).parameters) - {"labels"}
    return {name: value for name, value in inputs.items() if name in names}


def _judge(model: nn.Module, found: Architecture, seen: _Pass, token: Tensor) -> None:
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


def _norm_behind(model: nn.Module, found: Architecture, seen: _Pass, path: str) -> str | None:
    """Find the module of every layer that reads just what ``path`` writes, if there is one."""
    layers = model.get_submodule(found.layers)

    def reads(index: int, name: str) -> bool:
        read = seen.read.get(f"{found.layers}.{index}.{name}")
        written = seen.written[f"{found.layers}.{index}.{path}"]
        return read is not None and torch.equal(read, written)

    names = [name for name, _ in layers[0].named_children()]
    return next((n for n in names if all(reads(i, n) for i in range(len(layers)))), None)


def _with_norms(
    model: nn.Module, found: Architecture, seen: _Pass, fold_norms: bool
) -> Architecture:
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


# --- pictures and text ------------------------------------------------------------------


class _Reader:
    """Pictures to the inputs of the model's own forward, each behind the same text."""

    def __init__(self, model: nn.Module, processor, facts: AutoFacts) -> None:
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.processor = None if self.tokenizer is processor else processor
        self.facts, self.pixels = facts, facts.pixels or _side(model)
        self.image_token = _image_token(model)
        self.text = self._checked(_text(self.processor, facts))
        self.options = {**_one_view(self.processor), **facts.options}
        bos = self.tokenizer.bos_token
        if bos and self.text.startswith(bos):
            self.options["add_special_tokens"] = False
        self.count = _count(model, self.pixels) if self.processor is None else None

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Make input ids, pixels and what else there is, all rows of the same ids."""
        if self.processor is None:
            pixels = to_pixels(images, self.pixels, self.facts.mean, self.facts.std)
            ids = torch.tensor([self._ids()] * len(images))
            return {"input_ids": ids, "pixel_values": pixels}
        squares = [[square] for square in _squares(images, self.pixels)]
        inputs = self.processor(
            text=[self.text] * len(squares), images=squares, return_tensors="pt", **self.options
        )
        ids = inputs["input_ids"]
        if not (ids == ids[:1]).all():
            raise ValueError("pictures of the same size got different tokens; check the options")
        return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}

    def _checked(self, text: str) -> str:
        """Check that a text has the placeholder of one image."""
        token = getattr(self.processor, "image_token", None)
        token = token or self.tokenizer.convert_ids_to_tokens(self.image_token)
        if text.count(token) != 1:
            raise ValueError(f"template = {text!r}: give a text with {token} in it once")
        return text

    def _ids(self) -> list[int]:
        """Tokenize the text and repeat its one image token."""
        ids = self.tokenizer(self.text, **self.options)["input_ids"]
        place = ids.index(self.image_token)
        return [*ids[:place], *[self.image_token] * self.count, *ids[place + 1 :]]


def _squares(images: Sequence[Image.Image], side: int) -> list[Image.Image]:
    """Resize pictures of any mode to RGB squares, so that each has the same number of tokens."""
    if isinstance(images, Image.Image):
        raise ValueError("give a list of pictures, [image] for a single one")
    if len(images) == 0:
        raise ValueError("no pictures; give a list of at least one")
    return [to_square(to_rgb(image), side, resample="bicubic") for image in images]


def _side(model: nn.Module) -> int:
    """Take the side of the vision tower's picture; 16 x 16 tokens where it takes any size."""
    vision = getattr(model.config, "vision_config", None)
    size = getattr(vision, "image_size", None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    if size:
        return int(size)
    patch, merge = (getattr(vision, name, None) for name in ("patch_size", "spatial_merge_size"))
    if patch and merge:
        return 16 * patch * merge
    raise ValueError(
        f"the configuration of {type(model).__name__} names no size of pictures; give pixels"
    )


def _image_token(model: nn.Module) -> int:
    """Take the id that stands for a piece of the picture."""
    for name in ("image_token_id", "image_token_index"):
        if getattr(model.config, name, None) is not None:
            return int(getattr(model.config, name))
    raise Unsupported(
        f"the configuration of {type(model).__name__} names no image token, so pictures do not "
        "enter among the tokens"
    )


def _text(processor, facts: AutoFacts) -> str:
    """Write the text up to where the caption begins."""
    if facts.template is not None:
        return facts.template
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(
            "there is no processor with a chat template; give template='...', the whole text up "
            "to where the caption begins, with the placeholder of one image"
        )
    content = [{"type": "image"}]
    if facts.question:
        content.append({"type": "text", "text": facts.question})
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    blank = " " if facts.opening and not text[-1:].isspace() else ""
    return f"{text}{blank}{facts.opening}"


def _one_view(processor) -> dict:
    """Ask for the picture as a whole where it would be split into several."""
    splits = hasattr(getattr(processor, "image_processor", None), "do_image_splitting")
    return {"do_image_splitting": False} if splits else {}


@torch.no_grad()
def _count(model: nn.Module, side: int) -> int:
    """Count the tokens of a picture that goes to the vision tower as it is."""
    pixels = torch.rand(1, 3, side, side).to(model.device, model.dtype)
    return _tokens(model.get_image_features(pixel_values=pixels)).shape[0]


def _tokens(features) -> Tensor:
    """Put the projected features of all pictures behind each other: (tokens, d)."""
    pooled = getattr(features, "pooler_output", features)
    pooled = torch.cat(list(pooled)) if isinstance(pooled, (list, tuple)) else pooled
    return pooled.flatten(0, -2)


def _span(model: nn.Module, ids: Tensor, token: int) -> tuple[int, int]:
    """Find the image tokens in a prompt's ids (T): start and count."""
    places = (ids == token).nonzero().flatten()
    if len(places) == 0:
        raise ValueError(
            f"the prompt of {type(model).__name__} has no image token {token}; put the processor's "
            "placeholder of one image into the template"
        )
    runs = torch.tensor_split(places, (places.diff() > 1).nonzero().flatten().cpu() + 1)
    if len(runs) > 1:
        lengths = ", ".join(str(len(run)) for run in runs)
        raise Unsupported(
            f"the image tokens of {type(model).__name__} are not contiguous (runs of {lengths}); "
            "give options that ask the processor for one view, or smaller pixels"
        )
    return int(places[0]), len(places)


def _grid(
    model: nn.Module, facts: AutoFacts, inputs: Mapping, tower: int, count: int
) -> tuple[int, int] | None:
    """Find rows and columns of the image tokens, None where they have no place.

    Of merged patches where the processor tells their number; otherwise a square, if the
    ``tower`` tokens (one more with a class token) are that square or a finer one.
    """
    if facts.grid != FOUND:
        if facts.grid is not None and math.prod(facts.grid) != count:
            raise ValueError(f"grid = {facts.grid} does not hold {count} image tokens")
        return facts.grid
    if "image_grid_thw" in inputs:
        time, rows, columns = inputs["image_grid_thw"][0].tolist()
        merge = math.isqrt(time * rows * columns // count)
        return (rows // merge, columns // merge) if time == 1 else None
    kinds = {type(module).__name__.lower() for module in model.modules()}
    if any(name in kind for name in RESAMPLERS for kind in kinds):
        return None
    side = math.isqrt(count)
    finer = {(side * k) ** 2 + extra for k in range(1, 9) for extra in (0, 1)}
    return (side, side) if side * side == count and tower in finer else None


# --- the model as a language model ------------------------------------------------------


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


# --- the adapter ------------------------------------------------------------------------


class AutoVisionLanguageModel(VisionLanguageModel):
    """A model of transformers behind its own processor; see the module's text."""

    def __init__(
        self,
        name: str,
        part: LanguagePart,
        reader: _Reader,
        architecture: Architecture,
        image_tokens: ImageTokens,
        ids: Sequence[int],
    ) -> None:
        facts, tokenizer = reader.facts, reader.tokenizer
        after = ids[image_tokens.start + image_tokens.count :]
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        super().__init__(
            name,
            part,
            _with_end(tokenizer, facts.end),
            replace(
                architecture,
                layers=f"whole.{architecture.layers}",
                norm=f"whole.{architecture.norm}",
                unembed=f"whole.{architecture.unembed}",
            ),
            image_tokens,
            prefix=tokenizer.decode(after, **options) if after else "",
            vocabulary=facts.vocabulary,
            revision=facts.revision,
        )
        self.reader, self.ids = reader, tuple(ids)
        self.before, self.after = ids[: image_tokens.start], after

    @cached_property
    def revision(self) -> str:
        """Hash of the weights, and of the facts that change what the model is given."""
        facts = (self.ids, self.reader.pixels, sorted(self.reader.options.items()))
        facts = repr((*facts, self.reader.facts.fold_norms)).encode()
        weights = self._revision or state_hash(*self.modules())
        return f"{weights}-{hashlib.sha256(facts).hexdigest()[:8]}"

    def require_grid(self) -> tuple[int, int]:
        """Return (rows, columns) of the patches, or explain why there are none."""
        if self.image_tokens.grid is None:
            raise ValueError(
                f"the {self.image_tokens.count} image tokens of {self.name} are no single grid "
                "over the picture (several views, row ends or queries), so there is no heat map; "
                "use scores without patches, or give grid=(rows, columns) where you know better"
            )
        return self.image_tokens.grid

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn pictures of any mode into the processor's pixels, as this model takes them."""
        return self.reader(images)["pixel_values"]

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: (B, tokens of the vision tower, its width), before any merging."""
        hidden = self._features(self._inputs(images)).last_hidden_state
        return hidden.reshape(len(images), -1, hidden.shape[-1])

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures into the language model's input space: (B, count, d)."""
        tokens = _tokens(self._features(self._inputs(images)))
        shape = (len(images), self.image_tokens.count, self.sizes.width)
        if tokens.numel() != math.prod(shape):
            raise ValueError(f"{tuple(tokens.shape)} features for image tokens of {shape}")
        return tokens.reshape(shape).to(self.dtype)

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: the template up to the picture, its tokens, then ``text``.

        ``text`` None, or the system's own prefix, is the template's rest token by token.
        """
        soft, after = self.soft_prompt(images), self.after
        if text not in (None, self.prefix):
            after = self.tokenizer.encode(text, add_special_tokens=False)
        words = [self.embed(torch.tensor([ids], dtype=torch.long)) for ids in (self.before, after)]
        first, last = (part.expand(len(soft), -1, -1) for part in words)
        whole = Prompt.of(torch.cat([first, soft.to(first), last], dim=1))
        return GivenPrompt(whole.embeds, whole.mask, whole.positions, whole.embeds.shape[1])

    def forward(
        self, prompt: Prompt, past=None, use_cache: bool = False, last_only: bool = True
    ) -> tuple[Tensor, object | None]:
        """Run the model's own forward; see ``VisionLanguageModel.forward``."""
        given = getattr(prompt, "given", self.language_model.given)
        mask = prompt.mask.clone()
        mask[:, :given] *= 2  # the mark that LanguagePart reads
        marked = Prompt(prompt.embeds, mask, prompt.positions)
        return super().forward(marked, past, use_cache, last_only)

    # --- the model's own way, to compare with ---

    @torch.no_grad()
    def own_logits(self, images: Sequence[Image.Image]) -> Tensor:
        """Run the model's own forward on ids and pixels: logits (B, T, V) of the whole prompt."""
        whole = self.language_model.whole
        logits = whole(**_accepted(whole.forward, self._inputs(images))).logits
        return logits[..., : self.sizes.vocabulary]

    @torch.no_grad()
    def own_continuation(
        self, images: Sequence[Image.Image], steps: int = 2
    ) -> tuple[Tensor, Tensor]:
        """Let the model's own ``generate`` go on greedily: ids (B, steps), logits (B, steps, V)."""
        whole = self.language_model.whole
        out = whole.generate(
            **_accepted(whole.forward, self._inputs(images)),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = torch.stack(out.logits, dim=1)[..., : self.sizes.vocabulary]
        return out.sequences[:, -steps:], logits

    def _inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return _placed(self.reader(images), self.device, self.dtype)

    def _features(self, inputs: Mapping[str, Tensor]):
        features = self.language_model.whole.get_image_features
        return features(**_accepted(features, inputs))


def _placed(inputs: Mapping[str, Tensor], device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Move inputs to a device, and floating point ones to a type."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _with_end(tokenizer, end: str | None):
    """Let a copy of the tokenizer end its texts with the token ``end``."""
    if end is None:
        return tokenizer
    if end not in tokenizer.get_vocab():
        raise ValueError(f"end = {end!r} is no token of the tokenizer")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = end
    return tokenizer


@torch.no_grad()
def _compare(model: AutoVisionLanguageModel, images: Sequence[Image.Image]) -> None:
    """Compare two steps with the model's own ``generate``; ``Unsupported`` where they differ."""
    ids, own = model.own_continuation(images)
    prompt = model.prompt(images)
    first, past = model.forward(prompt, use_cache=True)
    longer = prompt.extend(model.embed(ids[:, :1]))
    cached, _ = model.forward(longer.tail(1), past=past, use_cache=True)
    pairs = {
        "after the picture": (first, own[:, 0]),
        "one token later": (model.forward(longer)[0], own[:, 1]),
        "one token later, with the cache": (cached, own[:, 1]),
    }
    for when, (mine, reference) in pairs.items():
        worst = float((mine - reference).abs().max() / reference.abs().max())
        if not worst <= _ROUNDING[model.dtype]:
            kind = type(model.language_model.whole).__name__
            raise Unsupported(
                f"logits of {model.name} {when} are not those of {kind}'s own generate (off by "
                f"{worst:.1e} of the largest): its pictures or positions enter in another way "
                "than through embeddings, positions and token types"
            )


# --- building and loading ---------------------------------------------------------------


def build_auto(name: str, model: nn.Module, processor, **facts) -> AutoVisionLanguageModel:
    """Make a system of a model and its processor, or tokenizer; ``facts`` as ``AutoFacts``.

    The model is frozen and put into evaluation mode in place, and with ``fold_norms`` its
    MLPs are rewritten. Raises ``Unsupported`` with the name of the part that does not fit.
    """
    facts = AutoFacts(**facts)
    _require_decoder_only(model)
    model.eval().requires_grad_(False)
    found = find_architecture(model)
    reader = _Reader(model, processor, facts)
    picture = _noise(reader.pixels)
    inputs = _placed(reader([picture]), model.device, model.dtype)
    ids = inputs["input_ids"][0]
    start, count = _span(model, ids, reader.image_token)
    seen = _observe(model, found, inputs)
    found = _with_norms(model, found, seen, facts.fold_norms)
    seen = _observe(model, found, inputs)
    with torch.no_grad():
        _judge(model, found, seen, model.get_input_embeddings()(ids[-1:])[0])
        features = model.get_image_features(**_accepted(model.get_image_features, inputs))
    tower = features.last_hidden_state[..., 0].numel()
    system = AutoVisionLanguageModel(
        name,
        _language_part(model, inputs, seen, start + count),
        reader,
        found,
        ImageTokens(start, count, _grid(model, facts, inputs, tower, count), reader.pixels),
        ids.tolist(),
    )
    if facts.check:
        _compare(system, [picture])
    return system


def _language_part(model: nn.Module, inputs: Mapping, seen: _Pass, end: int) -> LanguagePart:
    """Wrap the model with the positions and token types that its own forward had."""
    ids = inputs["input_ids"]
    part = LanguagePart(model, ids.shape[1])
    if seen.positions is not None:
        positions = seen.positions
        part.place(positions[:1] if positions.ndim == 2 else positions[:, 0], end)
    for name in set(TYPES) & set(_accepted(model.forward, inputs)):
        part.mark(name, inputs[name][0], end)
    return part


def _require_decoder_only(model: nn.Module) -> None:
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise Unsupported(f"{kind} is an encoder with a decoder; its pictures enter no prompt")
    if not hasattr(model, "get_image_features"):
        raise Unsupported(
            f"{kind} has no get_image_features, so its pictures are no tokens of a prompt (as with "
            "cross-attention)"
        )


def _noise(side: int) -> Image.Image:
    """Draw a picture that no part can take for an empty one."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


PATTERNS = (*WEIGHTS, "*.jinja", "*.txt", "*.model")  # weights, processor and tokenizer


@quiet_loading()
def load_auto(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    **facts,
) -> AutoVisionLanguageModel:
    """Load any image-text-to-text model from the hub, its cache or a folder.

    ``dtype`` None keeps the files' own; ``revision`` is the hub's; ``facts`` as ``AutoFacts``.
    Raises ``MissingParts`` where files are missing, with the command that gets them,
    ``ValueError`` where weights are, and ``Unsupported`` with the part that does not fit.
    """
    folder = find(Part("name_or_path", name_or_path, revision, PATTERNS))
    model = _load_model(folder, dtype or "auto").to(device)
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingParts(f"{name_or_path} has no processor that loads: {reason}") from error
    facts["revision"] = files_hash(weight_files(folder))
    return build_auto(str(name_or_path), model, processor, **facts)


def _load_model(folder: Path, dtype: torch.dtype | str) -> nn.Module:
    """Load a model with every weight of it, in a type from the start.

    Converted afterwards, the frequencies of rotary positions would be rounded too.
    """
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise Unsupported(
            f"{folder} holds a {kind!r}, which is no image-text-to-text model of transformers"
        )
    model, seen = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    if seen["missing_keys"]:
        lost = sorted(seen["missing_keys"])
        raise ValueError(
            f"{folder} lacks {len(lost)} weights, among them {lost[0]}; fetch it again"
        )
    return model
