"""LiMBeR: a frozen BEiT, one affine projection, a frozen GPT-J (Merullo et al. 2023).

The system of paper A, and its miniature: one class, two sets of facts. As the paper's
public code has it, and as this module keeps it:

- the encoder's features are the output of its last block, without final norm, CLS
  dropped, and the projection has a bias;
- the prompt is the image tokens, then "A picture of"; nothing in front of them;
- everything is in evaluation mode before the first picture (in the public code a
  dropout of 0.1 is still live for the first one);
- GPT-J's weights come from the revision ``float16`` and are rounded to bfloat16, which
  keeps 8 bits of each; here they are computed with in bfloat16 unless ``dtype`` says
  otherwise. Encoder and projection always compute in float32, and the soft prompt is
  then rounded to the language model's type;
- the vocabulary is cut from GPT-J's padded 50400 to 50258: GPT-2's 50257 tokens and the
  image's placeholder, so probabilities are over 50258.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import AutoTokenizer, BeitModel, GPTJForCausalLM

from mmn_utils.compat import quiet_loading
from mmn_utils.models.architectures import GPTJ, Architecture
from mmn_utils.models.base import ImageTokens, LateHash
from mmn_utils.models.copies import linear_of
from mmn_utils.models.encoders import HubBeit, ImageEncoder, TimmBeit
from mmn_utils.models.hub import Part, find_parts, load_whole, require_files, tokenizer_part
from mmn_utils.models.joined import JoinedModel
from mmn_utils.models.weights import read_pickle, weight_files
from mmn_utils.presets import data_path

ENCODER = "microsoft/beit-large-patch16-224-pt22k"
LANGUAGE_MODEL = "EleutherAI/gpt-j-6b"
TOKENIZER = "gpt2"
PROJECTION_SOURCE = "https://github.com/jmerullo/limber"
PROJECTION = "LIMBER_PROJECTION"  # in the environment
PROJECTION_FILE = "limber_weights/beit_linear/proj.ckpt"
# The tanh form of GELU that GPT-J has, in one kernel instead of eight: a third off each pass.
ONE_KERNEL = {"activation_function": "gelu_pytorch_tanh"}
MINIATURES = {  # name: (weights of the encoder, weights of the projection)
    "miniature": ("vision", "projection"),
    "miniature/untrained-encoder": ("vision_untrained", "projection_untrained_encoder"),
    "miniature/untrained-projection": ("vision", "projection_untrained"),
}


@dataclass(frozen=True)
class LimberFacts:
    """What is fixed about one system of this kind.

    ``mean`` and ``std`` of the pixels; ``fit`` and ``resample`` as ``pixels.to_square``.
    ``architecture`` of the language model; ``vocabulary`` None for all rows of the unembedding,
    ``revision`` None to hash the tensors instead of files.
    """

    name: str = "limber"
    prefix: str = "A picture of"
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    fit: str = "square"
    resample: str = "bilinear"
    vocabulary: int | None = None
    revision: str | LateHash | None = None
    architecture: Architecture = GPTJ


LIMBER = LimberFacts(vocabulary=50258)


class Limber(JoinedModel):
    """Encoder, projection, language model: image tokens first, then the text."""

    def __init__(
        self,
        facts: LimberFacts,
        encoder: ImageEncoder,
        projection: nn.Linear,
        language_model: nn.Module,
        tokenizer,
    ) -> None:
        rows, columns = encoder.grid
        tokens = ImageTokens(0, rows * columns, encoder.grid, encoder.pixels)
        super().__init__(facts, language_model, tokenizer, facts.architecture, tokens)
        expected = (self.sizes.width, encoder.width)
        if tuple(projection.weight.shape) != expected or projection.bias is None:
            raise ValueError(
                f"a projection of {tuple(projection.weight.shape)} does not fit these parts; give "
                f"nn.Linear({encoder.width}, {self.sizes.width}) with its bias"
            )
        self.encoder, self.projection = self.beside(encoder), self.beside(projection)

    def modules(self) -> tuple[nn.Module, ...]:
        """Language model, encoder, projection."""
        return (self.language_model, self.encoder, self.projection)

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: (B, patches, encoder width) float32."""
        return self.encoder.features(self.preprocess(images).to(self.device))

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures: (B, patches, d), in the language model's type."""
        return self.projection(self.image_features(images)).to(self.dtype)


def build_limber(
    facts: LimberFacts,
    encoder: ImageEncoder,
    projection: nn.Linear,
    language_model: nn.Module,
    tokenizer,
) -> Limber:
    """Join parts into a system; they are frozen and put into evaluation mode in place.

    ``ValueError`` where the projection does not fit the parts that it joins.
    """
    return Limber(facts, encoder, projection, language_model, tokenizer)


# --- the miniature ----------------------------------------------------------------------


@quiet_loading()
def load_miniature(
    name: str = "miniature",
    folder: str | Path | None = None,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Limber:
    """Load the miniature or one of its controls; float32 unless ``dtype`` says otherwise."""
    folder = Path(folder or data_path("miniature"))
    vision, projection = MINIATURES[name]
    files = {
        "config": folder / "vision.json",
        "vision": folder / f"{vision}.safetensors",
        "projection": folder / f"{projection}.safetensors",
        "language model": folder / "language_model" / "model.safetensors",
    }
    require_files(name, files.values())
    config = json.loads(files["config"].read_text(encoding="utf-8"))
    language_model = GPTJForCausalLM.from_pretrained(
        files["language model"].parent, dtype=dtype or torch.float32, **ONE_KERNEL
    )
    if language_model.dtype == torch.float32:
        fuse_attention(language_model)
    facts = LimberFacts(
        name=name,
        mean=tuple(config.get("mean", LimberFacts.mean)),
        std=tuple(config.get("std", LimberFacts.std)),
        revision=LateHash(files.values()),
    )
    return build_limber(
        facts,
        _timm_encoder(config.get("architecture", config), files["vision"]),
        linear_from(load_file(files["projection"]), files["projection"]),
        language_model.to(device),
        AutoTokenizer.from_pretrained(files["language model"].parent),
    )


def fuse_attention(language_model: GPTJForCausalLM) -> None:
    """Let a GPT-J in float32 attend in one kernel."""
    for block in language_model.transformer.h:
        block.attn._attn = _fused_attention


def _fused_attention(query: Tensor, key: Tensor, value: Tensor, attention_mask=None):
    """Attend as ``GPTJAttention._attn`` does, in one kernel: a tenth off each pass.

    In float32 the same but for rounding. In half precision transformers computes the weights
    in float32 and this would not, so the real system keeps transformers' own.
    """
    mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=attention_mask)
    return mixed, None


def _timm_encoder(architecture: dict, weights: Path) -> TimmBeit:
    """Build timm's BEiT from its constructor arguments and load its weights in float32."""
    from timm.models.beit import Beit  # takes a second, which other systems need not wait

    beit = Beit(**architecture)
    beit.load_state_dict({key: value.float() for key, value in load_file(weights).items()})
    return TimmBeit(beit)


# --- the real one -----------------------------------------------------------------------


def load_limber(
    *,
    projection: str | Path | None = None,
    encoder: str | Path = ENCODER,
    language_model: str | Path = LANGUAGE_MODEL,
    tokenizer: str | Path = TOKENIZER,
    revision: str | None = "float16",
    vocabulary: int | None = LIMBER.vocabulary,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Limber:
    """Load LiMBeR-BEIT from the hub (or its cache, or folders) and a projection file.

    ``projection`` None is the file that LIMBER_PROJECTION names in the environment, else
    data/limber/proj.ckpt; ``revision`` is that of the language model on the hub;
    ``vocabulary`` None takes all rows of its unembedding, also those that no token has. ``dtype``
    None computes in bfloat16; weights are rounded to bfloat16 in any case, as LiMBeR does. Raises
    ``MissingParts`` with every part that is missing and how to get it.
    """
    parts = [
        Part("encoder", encoder),
        Part("language model", language_model, revision),
        tokenizer_part(tokenizer),
    ]
    projection = Path(projection or os.environ.get(PROJECTION) or data_path("limber", "proj.ckpt"))
    absent = not projection.is_file()
    found = find_parts("limber", parts, [_no_projection(projection)] if absent else [])
    model = load_whole(
        GPTJForCausalLM, found["language model"], dtype=torch.bfloat16, beside=(), **ONE_KERNEL
    )
    weights = [*weight_files(found["language model"]), *weight_files(found["encoder"])]
    return build_limber(
        replace(LIMBER, revision=LateHash([*weights, projection]), vocabulary=vocabulary),
        _hub_encoder(found["encoder"]),
        read_projection(projection),
        model.to(device, dtype or torch.bfloat16),
        AutoTokenizer.from_pretrained(found["tokenizer"]),
    )


_HEADS = ("layernorm.", "lm_head.", "pooler.", "classifier.")  # of BEiT, for its training


def _hub_encoder(folder: Path) -> HubBeit:
    beit = load_whole(
        BeitModel, folder, dtype=torch.float32, beside=_HEADS, add_pooling_layer=False
    )
    return HubBeit(beit)


def _no_projection(path: Path) -> str:
    return (
        f"projection: {path} is not a file\n"
        f"  git clone {PROJECTION_SOURCE}\n"
        f"  and copy limber/{PROJECTION_FILE} there, or set {PROJECTION} to its path"
    )


def read_projection(path: str | Path) -> nn.Linear:
    """Read LiMBeR's projection: a state dict with ``weight`` (d, width) and ``bias`` (d).

    The file is a pickle and is read as tensors only. ``ValueError`` for anything else.
    """
    return linear_from(read_pickle(path), path)


def linear_from(state: dict[str, Tensor], source: str | Path) -> nn.Linear:
    """Build a projection, float32, from its two tensors, ``weight`` and ``bias``."""
    keys = sorted(state) if isinstance(state, dict) else type(state).__name__
    if keys != ["bias", "weight"]:
        raise ValueError(f"{source} holds {keys}; a projection has exactly 'weight' and 'bias'")
    weight, bias = state["weight"].float(), state["bias"].float()
    if weight.ndim != 2 or bias.shape != weight.shape[:1]:
        raise ValueError(
            f"{source}: weight {tuple(weight.shape)} and bias {tuple(bias.shape)} are no affine map"
        )
    return linear_of(weight, bias)
