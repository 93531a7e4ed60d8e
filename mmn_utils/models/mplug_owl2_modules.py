"""mPLUG-Owl2's own modules: vision tower, visual abstractor, modality-adaptive LLaMA-2.

transformers has no class for it, and its authors' code runs with one old version of
transformers alone. Written from the published facts; modules and parameters bear the
published names, so that the published weights load by their names (Ye et al. 2024):

- vision tower: ViT-L/14 on 448 pixels, norms before and behind the layers, CLS kept;
  query, key and value come from one matrix, interleaved per head;
- visual abstractor: learned queries attend to themselves and to all vision tokens. Fixed
  sine-cosine embeddings are added to what becomes queries and keys, not to what becomes
  values, and the residual is taken from the normalised queries. A learned token ends the
  picture;
- language model: LLaMA-2, in which norms, keys and values have one set of weights for
  text tokens and another for image tokens. Each token goes through its own set alone.

Nothing here has buffers: rotary and sine-cosine embeddings are computed in float32 in
each pass, so that no cast of the model rounds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import DynamicCache, LlamaConfig
from transformers.modeling_outputs import CausalLMOutputWithPast
from transformers.models.llama.modeling_llama import (
    LlamaMLP,
    LlamaRMSNorm,
    apply_rotary_pos_emb,
    repeat_kv,
)

TEXT, IMAGE = 0, 1  # places in a MultiwayNetwork
_WAVELENGTH = 10_000.0  # of the sine-cosine embeddings

# --- sizes ------------------------------------------------------------------------------


@dataclass(frozen=True)
class VisionConfig:
    """Sizes of the vision tower, named as in the published configuration."""

    hidden_size: int = 1024
    intermediate_size: int = 4096
    num_hidden_layers: int = 24
    num_attention_heads: int = 16
    image_size: int = 448
    patch_size: int = 14
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _divides(self, "num_attention_heads", "hidden_size")
        _divides(self, "patch_size", "image_size")

    @property
    def side(self) -> int:
        """Patches in a row, and rows."""
        return self.image_size // self.patch_size


@dataclass(frozen=True)
class AbstractorConfig:
    """Sizes of the visual abstractor, named as in the published configuration."""

    num_learnable_queries: int = 64
    hidden_size: int = 1024
    intermediate_size: int = 2816
    num_hidden_layers: int = 6
    num_attention_heads: int = 16
    layer_norm_eps: float = 1e-6

    def __post_init__(self) -> None:
        _divides(self, "num_attention_heads", "hidden_size")
        if self.hidden_size % 4:
            raise ValueError(
                f"hidden_size={self.hidden_size}: sine and cosine of rows and columns need a "
                "multiple of 4"
            )


@dataclass(frozen=True)
class MplugOwl2Config:
    """All sizes; the defaults are those of the published 7B model.

    ``num_key_value_heads`` None means as many as heads. The published numbers for
    ``rms_norm_eps`` and ``max_position_embeddings`` are only in its own config.json.
    """

    vocab_size: int = 32000
    hidden_size: int = 4096
    intermediate_size: int = 11008
    num_hidden_layers: int = 32
    num_attention_heads: int = 32
    num_key_value_heads: int | None = None
    max_position_embeddings: int = 2048
    rms_norm_eps: float = 1e-5
    rope_theta: float = 10000.0
    vision: VisionConfig = field(default_factory=VisionConfig)
    abstractor: AbstractorConfig = field(default_factory=AbstractorConfig)

    def __post_init__(self) -> None:
        if self.num_key_value_heads is None:
            object.__setattr__(self, "num_key_value_heads", self.num_attention_heads)
        _divides(self, "num_attention_heads", "hidden_size")
        _divides(self, "num_key_value_heads", "num_attention_heads")
        if self.abstractor.hidden_size != self.vision.hidden_size:
            raise ValueError(
                f"the abstractor's hidden_size={self.abstractor.hidden_size} must be that of the "
                f"vision tower, {self.vision.hidden_size}: both are keys of one attention"
            )

    @property
    def head_size(self) -> int:
        """Width of one attention head."""
        return self.hidden_size // self.num_attention_heads

    @classmethod
    def from_dict(cls, content: Mapping) -> MplugOwl2Config:
        """Read the content of a config.json as the hub has it.

        ``ValueError`` where it has no ``rms_norm_eps``, which has no safe default, and where
        it asks for what these modules do not do.
        """
        visual = content.get("visual_config") or {}
        tower = visual.get("visual_model") or {}
        abstractor = visual.get("visual_abstractor") or {}
        if "rms_norm_eps" not in content:
            raise ValueError(
                "config.json has no rms_norm_eps; add that of the weights (LLaMA-2's is 1e-05)"
            )
        config = cls(
            **_known(cls, content),
            vision=VisionConfig(**_known(VisionConfig, tower)),
            abstractor=AbstractorConfig(**_known(AbstractorConfig, abstractor)),
        )
        _refuse("", content, _FIXED)
        _refuse("visual_model.", tower, _FIXED_TOWER)
        fixed = {"encoder_hidden_size": config.vision.hidden_size, "grid_size": config.vision.side}
        _refuse("visual_abstractor.", abstractor, {**_FIXED_ABSTRACTOR, **fixed})
        return config

    def to_dict(self) -> dict:
        """Write the content of a config.json, in the hub's layout."""
        content = {"model_type": "mplug_owl2", **asdict(self)}
        tower, abstractor = content.pop("vision"), content.pop("abstractor")
        return {
            **content,
            "visual_config": {"visual_model": tower, "visual_abstractor": abstractor},
        }


# What these modules do in one way only; a configuration may say so, or leave it out.
_FIXED = {
    "model_type": "mplug_owl2",
    "hidden_act": "silu",
    "attention_bias": False,
    "rope_scaling": None,
    "tie_word_embeddings": False,
}
_FIXED_TOWER = {"hidden_act": "quick_gelu", "num_channels": 3, "use_cls_token": True}
_FIXED_ABSTRACTOR = {"use_cls_token": True, "add_v2t_pos_emb": False}


def _known(kind: type, content: Mapping) -> dict:
    """Take what a configuration class has a field for, but for the nested ones."""
    names = {known.name for known in fields(kind)} - {"vision", "abstractor"}
    return {name: value for name, value in content.items() if name in names}


def _refuse(where: str, content: Mapping, fixed: Mapping) -> None:
    for name, value in fixed.items():
        found = content.get(name)
        if found is not None and found != value:
            raise ValueError(f"{where}{name}={found!r} in config.json: only {value!r} is supported")


def _divides(config, part: str, whole: str) -> None:
    if getattr(config, whole) % getattr(config, part):
        raise ValueError(
            f"{part}={getattr(config, part)} does not divide {whole}={getattr(config, whole)}"
        )


# --- the vision tower -------------------------------------------------------------------


class VisionEmbeddings(nn.Module):
    """Pixels (B, 3, H, W) to CLS and patches (B, 1 + patches, d), normalised."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width, patch = config.hidden_size, config.patch_size
        self.cls_token = _vectors(1, width)
        self.patch_embed = nn.Conv2d(3, width, patch, stride=patch, bias=False)
        self.position_embedding = _vectors(1 + config.side**2, width)
        self.pre_layernorm = nn.LayerNorm(width, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Embed pixels."""
        patches = self.patch_embed(pixels).flatten(2).transpose(1, 2)
        tokens = torch.cat([self.cls_token.expand(len(pixels), -1, -1), patches], dim=1)
        return self.pre_layernorm(tokens + self.position_embedding)


class VisionAttention(nn.Module):
    """Attention of every token to every token; one matrix makes query, key and value.

    Its rows are interleaved per head: the first head's query, key, value, then the next's.
    """

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query_key_value = nn.Linear(config.hidden_size, 3 * config.hidden_size)
        self.dense = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Mix tokens (B, T, d)."""
        mixed = self.query_key_value(tokens).unflatten(-1, (self.heads, 3, -1))
        query, key, value = mixed.permute(3, 0, 2, 1, 4)
        return self.dense(_merge(F.scaled_dot_product_attention(query, key, value)))


class VisionMlp(nn.Module):
    """Two matrices around x · sigmoid(1.702 x)."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform each token (B, T, d) by itself."""
        hidden = self.fc1(tokens)
        return self.fc2(hidden * torch.sigmoid(1.702 * hidden))


class VisionLayer(nn.Module):
    """Attention, then MLP, each behind a norm and beside a residual."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.input_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = VisionAttention(config)
        self.post_attention_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = VisionMlp(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Transform tokens (B, T, d)."""
        tokens = tokens + self.self_attn(self.input_layernorm(tokens))
        return tokens + self.mlp(self.post_attention_layernorm(tokens))


class VisionModel(nn.Module):
    """Pixels (B, 3, H, W) to CLS and patches (B, 1 + patches, d), normalised again."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.embeddings = VisionEmbeddings(config)
        self.encoder = _encoder(VisionLayer(config) for _ in range(config.num_hidden_layers))
        self.post_layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)

    def forward(self, pixels: Tensor) -> Tensor:
        """Encode pixels."""
        tokens = self.embeddings(pixels)
        for layer in self.encoder["layers"]:
            tokens = layer(tokens)
        return self.post_layernorm(tokens)


# --- the visual abstractor --------------------------------------------------------------


def line_embedding(count: int, width: int, device: torch.device | None = None) -> Tensor:
    """Embed places 0, 1, ... of a line: (count, width) float32, sines and then cosines.

    The j-th of width / 2 frequencies is 10000 to the power of -2j / width.
    """
    steps = torch.arange(width // 2, dtype=torch.float32, device=device) / (width / 2)
    places = torch.arange(count, dtype=torch.float32, device=device)
    angles = places[:, None] / _WAVELENGTH**steps
    return torch.cat([angles.sin(), angles.cos()], dim=-1)


def grid_embedding(side: int, width: int, device: torch.device | None = None) -> Tensor:
    """Embed CLS, as zeros, and a square of patches: (1 + side², width) float32.

    The first half of the width tells the column, the second the row.
    """
    line = line_embedding(side, width // 2, device)
    columns, rows = line.repeat(side, 1), line.repeat_interleave(side, dim=0)
    return F.pad(torch.cat([columns, rows], dim=-1), (0, 0, 1, 0))


class CrossAttention(nn.Module):
    """Attention of queries (B, n, d) to keys (B, m, d), whose places are added to both."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.heads = config.num_attention_heads
        self.query = nn.Linear(config.hidden_size, config.hidden_size)
        self.key = nn.Linear(config.hidden_size, config.hidden_size)
        self.value = nn.Linear(config.hidden_size, config.hidden_size)

    def forward(self, queries: Tensor, keys: Tensor, places: Tensor) -> Tensor:
        """Mix values; ``places`` (m, d), of which the first n are the queries'."""
        query = self.query(queries + places[: queries.shape[1]])
        parts = (query, self.key(keys + places), self.value(keys))
        return _merge(F.scaled_dot_product_attention(*(_split(x, self.heads) for x in parts)))


class GatedMlp(nn.Module):
    """w2(norm(silu(w1 x) · w3 x))."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.w1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.w2 = nn.Linear(config.intermediate_size, config.hidden_size)
        self.w3 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.ffn_ln = nn.LayerNorm(config.intermediate_size, eps=config.layer_norm_eps)

    def forward(self, queries: Tensor) -> Tensor:
        """Transform each query (B, n, d) by itself."""
        return self.w2(self.ffn_ln(F.silu(self.w1(queries)) * self.w3(queries)))


class CrossOutput(nn.Module):
    """What follows the attention: projection and MLP, each beside a residual."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.out_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.norm2 = nn.LayerNorm(config.hidden_size)
        self.mlp = GatedMlp(config)

    def forward(self, mixed: Tensor, residual: Tensor) -> Tensor:
        """Join mixed values (B, n, d) to the residual (B, n, d)."""
        queries = residual + self.out_proj(mixed)
        return queries + self.mlp(self.norm2(queries))


class CrossBlock(nn.Module):
    """One layer: norms, attention, output. Only these two norms have torch's own epsilon."""

    def __init__(self, config: AbstractorConfig) -> None:
        super().__init__()
        self.attention = CrossAttention(config)
        self.output = CrossOutput(config)
        self.norm1 = nn.LayerNorm(config.hidden_size)
        self.normk = nn.LayerNorm(config.hidden_size)

    def forward(self, queries: Tensor, vision: Tensor, places: Tensor) -> Tensor:
        """Let queries (B, n, d) look at themselves and at vision tokens (B, m, d)."""
        queries = self.norm1(queries)
        keys = torch.cat([queries, self.normk(vision)], dim=1)
        return self.output(self.attention(queries, keys, places), queries)


class VisualAbstractor(nn.Module):
    """Vision tokens (B, 1 + patches, d) to image tokens (B, queries + 1, language width)."""

    def __init__(self, config: AbstractorConfig, side: int, language_width: int) -> None:
        super().__init__()
        self.side = side
        self.query_embeds = _vectors(config.num_learnable_queries, config.hidden_size)
        layers = (CrossBlock(config) for _ in range(config.num_hidden_layers))
        self.encoder = _encoder(nn.ModuleDict({"crossattention": layer}) for layer in layers)
        self.visual_fc = nn.Linear(config.hidden_size, language_width)
        self.vit_eos = _vectors(1, language_width)

    def queries(self, vision: Tensor) -> Tensor:
        """Gather what the picture shows into (B, queries, d)."""
        places = self._places(vision)
        queries = self.query_embeds.expand(len(vision), -1, -1)
        for layer in self.encoder["layers"]:
            queries = layer["crossattention"](queries, vision, places)
        return queries

    def project(self, queries: Tensor) -> Tensor:
        """Bring queries into the language model's input space, and end the picture."""
        end = self.vit_eos.expand(len(queries), -1, -1)
        return torch.cat([self.visual_fc(queries), end], dim=1)

    def forward(self, vision: Tensor) -> Tensor:
        """Abstract vision tokens to image tokens."""
        return self.project(self.queries(vision))

    def _places(self, vision: Tensor) -> Tensor:
        """Embed the places of queries, CLS and patches: (queries + 1 + patches, d)."""
        _, count, width = self.query_embeds.shape
        line = line_embedding(count, width, vision.device)
        return torch.cat([line, grid_embedding(self.side, width, vision.device)]).to(vision)


# --- the language model -----------------------------------------------------------------


@dataclass(frozen=True)
class Split:
    """Which tokens of (B, T) are text and which image: row numbers, and their way back."""

    rows: tuple[Tensor, Tensor]  # text, image: indices into B · T
    back: Tensor  # (B · T): where in text-then-image each token is

    @classmethod
    def of(cls, image: Tensor) -> Split | None:
        """Split by a bool mask (B, T); None where all tokens are text."""
        if not image.any():
            return None
        image = image.flatten()
        rows = ((~image).nonzero().flatten(), image.nonzero().flatten())
        return cls(rows, torch.cat(rows).argsort())


class MultiwayNetwork(nn.Module):
    """The same kind of module once for text and once for image tokens."""

    def __init__(self, text: nn.Module, image: nn.Module) -> None:
        super().__init__()
        self.multiway = nn.ModuleList([text, image])

    def forward(self, hidden: Tensor, split: Split | None) -> Tensor:
        """Send each token of (B, T, d) through its own module, and through no other."""
        if split is None:
            return self.multiway[TEXT](hidden)
        flat = hidden.flatten(0, 1)
        pairs = zip(self.multiway, split.rows, strict=True)
        parts = [module(flat.index_select(0, rows)) for module, rows in pairs]
        return torch.cat(parts).index_select(0, split.back).unflatten(0, hidden.shape[:2])


class AdaptiveAttention(nn.Module):
    """Causal attention with rotary embeddings; keys and values by modality."""

    def __init__(self, config: MplugOwl2Config, layer: int) -> None:
        super().__init__()
        width, some = config.hidden_size, config.num_key_value_heads * config.head_size
        self.layer, self.head_size = layer, config.head_size
        self.groups = config.num_attention_heads // config.num_key_value_heads
        self.q_proj = nn.Linear(width, width, bias=False)
        self.k_proj = MultiwayNetwork(*(nn.Linear(width, some, bias=False) for _ in range(2)))
        self.v_proj = MultiwayNetwork(*(nn.Linear(width, some, bias=False) for _ in range(2)))
        self.o_proj = nn.Linear(width, width, bias=False)

    def forward(
        self,
        hidden: Tensor,
        split: Split | None,
        rotary: tuple[Tensor, Tensor],
        visible: Tensor | None,
        past: DynamicCache | None,
    ) -> Tensor:
        """Mix tokens (B, T, d); ``visible`` as from ``visible_keys``, the cache grows in place."""
        parts = (self.q_proj(hidden), self.k_proj(hidden, split), self.v_proj(hidden, split))
        query, key, value = (_split(x, x.shape[-1] // self.head_size) for x in parts)
        query, key = apply_rotary_pos_emb(query, key, *rotary)
        if past is not None:
            key, value = past.update(key, value, self.layer)
        mixed = F.scaled_dot_product_attention(
            query,
            repeat_kv(key, self.groups),
            repeat_kv(value, self.groups),
            attn_mask=visible,
            is_causal=visible is None and query.shape[2] > 1,
        )
        return self.o_proj(_merge(mixed))


class AdaptiveLayer(nn.Module):
    """A layer of LLaMA whose norms, keys and values go by modality; the MLP is shared."""

    def __init__(self, config: MplugOwl2Config, layer: int) -> None:
        super().__init__()
        width, eps = config.hidden_size, config.rms_norm_eps
        self.self_attn = AdaptiveAttention(config, layer)
        self.mlp = LlamaMLP(
            LlamaConfig(hidden_size=width, intermediate_size=config.intermediate_size)
        )
        self.input_layernorm = MultiwayNetwork(*(LlamaRMSNorm(width, eps) for _ in range(2)))
        self.post_attention_layernorm = MultiwayNetwork(
            *(LlamaRMSNorm(width, eps) for _ in range(2))
        )

    def forward(self, hidden: Tensor, split: Split | None, *context) -> Tensor:
        """Transform tokens (B, T, d); ``context`` is the attention's."""
        normed = self.input_layernorm(hidden, split)
        hidden = hidden + self.self_attn(normed, split, *context)
        return hidden + self.mlp(self.post_attention_layernorm(hidden, split))


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


def rotary_embedding(
    positions: Tensor, config: MplugOwl2Config, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Compute cosines and sines (B, T, head size) of LLaMA's rotary embedding, in float32."""
    size = config.head_size
    steps = torch.arange(0, size, 2, dtype=torch.float32, device=positions.device) / size
    angles = positions[..., None].float() * (1.0 / config.rope_theta**steps)
    angles = torch.cat([angles, angles], dim=-1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def visible_keys(
    mask: Tensor | None, held: int, tokens: int, device: torch.device
) -> Tensor | None:
    """Say which of held + T keys each of T tokens sees: bool, to broadcast to (B, 1, T, S).

    None where plain causality says it all. A token always sees itself, so that padding in
    front has something to attend to.
    """
    whole = mask is None or bool(mask.all())
    if whole and (held == 0 or tokens == 1):
        return None
    keys = torch.arange(held + tokens, device=device)
    own = keys[held:, None]
    if whole:
        return (keys <= own)[None, None]
    return (keys <= own) & (mask.bool()[:, None, None, :] | (keys == own))


# --- inside -----------------------------------------------------------------------------


def _keep(hidden: Tensor, which: int | Tensor) -> Tensor:
    """Cut (B, T, d) to the last n tokens (0: all), or to indices (n,) or (B, n)."""
    if isinstance(which, int):
        return hidden[:, -which:] if which else hidden
    if which.ndim == 1:
        return hidden[:, which]
    return torch.take_along_dim(hidden, which[..., None], dim=1)


def _split(tokens: Tensor, heads: int) -> Tensor:
    """Cut (B, T, d) into heads: (B, heads, T, d / heads)."""
    return tokens.unflatten(-1, (heads, -1)).transpose(1, 2)


def _merge(heads: Tensor) -> Tensor:
    """Join heads (B, heads, T, size) to (B, T, d)."""
    return heads.transpose(1, 2).flatten(2)


def _vectors(count: int, width: int) -> nn.Parameter:
    """Make learned vectors (1, count, width)."""
    return nn.Parameter(0.02 * torch.randn(1, count, width))


def _encoder(layers) -> nn.ModuleDict:
    """Wrap layers in a container that only gives them their published names."""
    return nn.ModuleDict({"layers": nn.ModuleList(layers)})
