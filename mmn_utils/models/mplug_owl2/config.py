"""Sizes of mPLUG-Owl2, named and laid out as in its published configuration."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields


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
