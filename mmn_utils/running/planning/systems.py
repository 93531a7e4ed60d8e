"""How large a system is, without its weights: from a configuration, or from a list."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mmn_utils.plain_yaml import load_yaml
from mmn_utils.presets import data_path, from_root
from mmn_utils.values import suggest

KNOWN = Path(__file__).with_name("systems.yaml")
TEXT = 16  # tokens of a prompt beside the picture where nothing says how many
IMAGE = 256  # tokens of a picture where nothing says how many
PICTURE = (640, 480)  # pixels of a photograph, for towers that take pictures as they are
# What configurations call a size.
NAMES = {
    "layers": ("num_hidden_layers", "n_layer"),
    "width": ("hidden_size", "n_embd"),
    "units": ("intermediate_size", "n_inner"),
    "heads": ("num_attention_heads", "n_head"),
    "vocabulary": ("vocab_size",),
}
QUERIES = ("num_query_tokens", "image_seq_length", "mm_tokens_per_image", "image_token_num")
FLOAT32 = 4  # bytes


@dataclass(frozen=True)
class Encoder:
    """A tower of transformer layers that sees a picture as ``tokens``; computes in float32."""

    layers: int
    width: int
    units: int
    tokens: int

    @property
    def parameters(self) -> int:
        """Count the weights of its matrices."""
        return self.layers * (4 * self.width**2 + 2 * self.width * self.units)

    @property
    def operations(self) -> float:
        """Count the operations for one picture."""
        attention = 4 * self.layers * self.tokens**2 * self.width
        return 2.0 * self.parameters * self.tokens + attention

    @property
    def held(self) -> int:
        """Bound the bytes that one picture holds at a time, in one layer."""
        return FLOAT32 * self.tokens * (6 * self.width + 2 * self.units)


@dataclass(frozen=True)
class Network:
    """A tower of another kind, such as convolutions, as it was counted; computes in float32.

    ``operations`` for one picture, ``held`` the bytes of what its largest module reads and writes.
    """

    parameters: int
    operations: float
    held: int


@dataclass(frozen=True)
class Size:
    """A language model and what is put into it; ``kind`` is gptj, or llama for gated MLPs.

    ``key_heads`` are those of keys and values, ``head`` is one head's width. ``units`` of a
    mixture of experts are those that a token goes through; ``stored`` counts all weights, the
    tower's too, where the whole is known. ``assumed``: nothing says how many image tokens.
    """

    name: str
    kind: str
    layers: int
    width: int
    units: int
    heads: int
    vocabulary: int
    image_tokens: int
    encoder: Encoder | Network | None = None
    text_tokens: int = TEXT
    key_heads: int = 0
    head: int = 0
    positions: int = 4096
    stored: int = 0
    assumed: bool = False

    def with_layers(self, layers: int) -> Size:
        """Return the same with another number of layers."""
        return replace(self, layers=layers)

    @property
    def tokens(self) -> int:
        """Count the tokens of a prompt."""
        return self.image_tokens + self.text_tokens

    @property
    def matrices(self) -> int:
        """Count the weights of one layer's matrices."""
        head = self.head or self.width // self.heads
        keys = (self.key_heads or self.heads) * head
        attention = 2 * self.width * (self.heads * head + keys)
        return attention + (3 if self.kind == "llama" else 2) * self.width * self.units

    @property
    def parameters(self) -> int:
        """Count the weights of the language model: layers, embedding, unembedding."""
        return self.layers * self.matrices + 2 * self.width * self.vocabulary

    def weights(self, bytes_each: int) -> int:
        """Count the bytes of all weights, the language model's of ``bytes_each``."""
        if self.stored:
            return bytes_each * self.stored
        encoder = FLOAT32 * self.encoder.parameters if self.encoder else 0
        return bytes_each * self.parameters + encoder


def size_of(model: str) -> Size:
    """Find how large a system is, by its name, its folder or its name on the hub.

    Both names may end in ``@`` and a revision. ValueError where neither the list nor a
    configuration says it.
    """
    model, revision = _without_revision(model)
    known = load_yaml(KNOWN)
    if model in known:
        facts = dict(known[model])
        tower = facts.pop("encoder")
        kind = Encoder if "layers" in tower else Network
        return Size(model, encoder=kind(**tower), **facts)
    folder = data_path(*model.split("/")) if model.startswith("miniature") else from_root(model)
    if (folder / "vision.json").is_file():
        return _limber(model, folder)
    path = folder / "config.json"
    if not path.is_file():
        path = _cached(model, revision)
    if path is None:
        at = f" --revision {revision}" if revision else ""
        raise ValueError(
            f"model = {model!r}: no configuration of it is here ({suggest(model, list(known))}); "
            f"with network: hf download {model} config.json{at}"
        )
    return read_size(model, json.loads(path.read_text(encoding="utf-8")))


def _without_revision(model: str) -> tuple[str, str | None]:
    """Take a revision off a name; a folder keeps its name."""
    name, _, revision = model.rpartition("@")
    return (name, revision) if name and not from_root(model).exists() else (model, None)


def _cached(model: str, revision: str | None) -> Path | None:
    """Find a configuration in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(model, "config.json", revision=revision)
    except HFValidationError:
        return None
    return Path(found) if isinstance(found, str) else None


def read_size(name: str, config: Mapping[str, Any]) -> Size:
    """Read the sizes out of a configuration of transformers; ValueError for what it lacks."""
    config, stored = _completed(config)
    text = config.get("text_config") or config.get("language_config") or config
    facts = {what: _first(text, what, name) for what in NAMES}
    units = _units(text, facts.pop("units") or 4 * facts["width"])
    vision = config.get("vision_config") or {}
    queries = next((config[key] for key in QUERIES if config.get(key)), _merged(vision))
    for part in config.get("visual_config", {}).values():  # as mPLUG-Owl2 lays it out
        queries = part.get("num_learnable_queries", queries)
        vision = part if "patch_size" in part else vision
    encoder = _encoder(vision)
    seen = encoder.tokens - 1 if encoder else 0
    return Size(
        name,
        "gptj" if text.get("model_type") == "gptj" else "llama",
        units=units,
        image_tokens=queries or seen or IMAGE,
        assumed=not (queries or seen),
        stored=stored,
        encoder=encoder,
        key_heads=text.get("num_key_value_heads") or 0,
        head=text.get("head_dim") or 0,
        **facts,
    )


def _completed(config: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """Fill in what a configuration leaves to its class, and count the weights, 0 if unknown.

    The counted model is on ``meta``, where weights take neither time nor memory.
    """
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText
    from transformers import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING as KNOWN_MODELS

    if config.get("model_type") not in CONFIG_MAPPING:
        return config, 0
    whole = AutoConfig.for_model(**config)
    stored = 0
    if type(whole) in KNOWN_MODELS:
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(whole)
        stored = sum(parameter.numel() for parameter in model.parameters())
    return whole.to_dict(), stored


def _units(text: Mapping[str, Any], units: int) -> int:
    """Count the units that a token goes through: all, or those of the experts chosen for it."""
    chosen = text.get("num_experts_per_tok") or text.get("moe_topk")
    if not chosen:
        return units
    shared = text.get("moe_num_shared_experts") or 0
    return (chosen + shared) * (text.get("moe_intermediate_size") or units)


def _merged(vision: Mapping[str, Any]) -> int | None:
    """Count the tokens of a photograph where a tower takes it as it is and merges patches."""
    if "spatial_merge_size" not in vision or "image_size" in vision:
        return None
    side = vision["patch_size"] * vision["spatial_merge_size"]
    return round(PICTURE[0] / side) * round(PICTURE[1] / side)


def _first(text: Mapping[str, Any], what: str, name: str) -> int | None:
    found = [text[key] for key in NAMES[what] if key in text]
    if not found and what != "units":
        raise ValueError(f"the configuration of {name} has none of {', '.join(NAMES[what])}")
    return found[0] if found else None


def _encoder(vision: Mapping[str, Any]) -> Encoder | None:
    """Read a tower's sizes, None where its configuration has other names for them."""
    vision = {"num_hidden_layers": vision.get("depth"), **vision}
    names = ("num_hidden_layers", "hidden_size", "intermediate_size", "patch_size")
    if not all(isinstance(vision.get(name), int) for name in names):
        return None
    layers, width, units, patch = (vision[name] for name in names)
    image = vision.get("image_size")
    across = (image, image) if isinstance(image, int) else PICTURE
    return Encoder(layers, width, units, (across[0] // patch) * (across[1] // patch) + 1)


def _limber(name: str, folder: Path) -> Size:
    """Read the sizes of a miniature of LiMBeR's kind."""
    read = json.loads((folder / "vision.json").read_text(encoding="utf-8"))
    tower = read.get("architecture", read)
    patches = (tower["img_size"] // tower["patch_size"]) ** 2
    width = tower["embed_dim"]
    config = json.loads((folder / "language_model" / "config.json").read_text(encoding="utf-8"))
    size = read_size(name, config)
    encoder = Encoder(tower["depth"], width, 4 * width, patches + 1)
    return replace(size, image_tokens=patches, assumed=False, encoder=encoder, text_tokens=3)
