"""A system's language model alone, as far as it decodes: write vectors, final norm, unembedding.

Nothing else is read, tensor by tensor off the weight files, so a laptop decodes the neurons of a
system whose encoder it lacks and whose language model would not fit into its memory.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from transformers import GPTJConfig, GPTJForCausalLM, LlamaConfig, LlamaForCausalLM

from mmn_utils.compat import quiet_loading
from mmn_utils.models import instructblip, limber, llava, mplug_owl2
from mmn_utils.models.architectures import GPTJ, LLAMA
from mmn_utils.models.base import ImageTokens, LateHash, VisionLanguageModel
from mmn_utils.models.hub import (
    WEIGHTS,
    Part,
    find_parts,
    load_tokenizer,
    read_config,
    tokenizer_part,
)
from mmn_utils.models.llava.whole import CHECKPOINT
from mmn_utils.models.weights import Tensors, weight_files


@dataclass(frozen=True)
class Source:
    """Where a system's language model lies and what it is.

    ``kind`` is one of ``KINDS``; ``tokenizer`` None where it lies beside the weights;
    ``vocabulary`` None for as many tokens as the tokenizer has of its own.
    """

    checkpoint: str
    kind: str = "llama"
    revision: str | LateHash | None = None
    tokenizer: str | None = None
    vocabulary: int | None = None


KINDS = {
    "gptj": (GPTJConfig, GPTJForCausalLM, GPTJ),
    "llama": (LlamaConfig, LlamaForCausalLM, LLAMA),
}
SOURCES = {
    "limber": Source(
        limber.LANGUAGE_MODEL, "gptj", "float16", limber.TOKENIZER, limber.LIMBER.vocabulary
    ),
    "llava": Source(llava.PAPER_CHECKPOINT),
    "llava15": Source(CHECKPOINT),
    "instructblip": Source(instructblip.CHECKPOINT),
    "mplug_owl2": Source(mplug_owl2.HUB),
}


class LanguageModelAlone(VisionLanguageModel):
    """A language model of which the write vectors, the final norm and the unembedding are there.

    Everything is float32 on the CPU, after ``rounding`` to another type where one is given.
    """

    def __init__(
        self,
        name: str,
        skeleton: nn.Module,
        tokenizer,
        architecture,
        tensors: Tensors,
        *,
        vocabulary: int | None = None,
        rounding: torch.dtype | None = None,
        revision: str | LateHash | None = None,
    ) -> None:
        nowhere = ImageTokens(0, 0, None, 0)
        super().__init__(
            name, skeleton, tokenizer, architecture, nowhere,
            prefix="", vocabulary=vocabulary, revision=revision,
        )  # fmt: skip
        self._tensors, self._rounding = tensors, rounding
        for part in (architecture.norm, architecture.unembed):
            module = skeleton.get_submodule(part)
            state = {key: self._read(f"{part}.{key}") for key in module.state_dict()}
            module.load_state_dict(state, assign=True)

    def write_vectors(self, layer: int) -> Tensor:
        """Read what each unit writes: (units, d) float32."""
        self.layer(layer)  # there is such a layer
        place = self.architecture
        return self._read(f"{place.layers}.{layer}.{place.act}.weight").T

    def with_rows(self, vocabulary: int | None) -> LanguageModelAlone:
        """Return the same over another number of the unembedding's rows, None for all."""
        other = copy.copy(self)
        other.__dict__.pop("token_strings", None)  # of the former number
        other.sizes = replace(self.sizes, vocabulary=vocabulary or self.rows)
        return other

    @property
    def rows(self) -> int:
        """How many rows the unembedding has."""
        return self._part(self.architecture.unembed).weight.shape[0]

    @property
    def device(self) -> torch.device:
        return torch.device("cpu")

    @property
    def dtype(self) -> torch.dtype:
        return torch.float32

    def preprocess(self, images: Sequence) -> NoReturn:
        """Refuse: the encoder is not there."""
        raise ValueError(f"{self.name} was loaded without its encoder; load it with load_model")

    image_features = soft_prompt = forward = preprocess

    def _read(self, name: str) -> Tensor:
        """Read one tensor, in float32, by what the language model itself calls it."""
        tensor = self._tensors[_stored_name(name, self._tensors)]
        wanted = tuple(self.language_model.get_parameter(name).shape)
        if tuple(tensor.shape) != wanted:
            raise ValueError(
                f"{self.name}: {name} is {tuple(tensor.shape)}, config.json describes {wanted}; "
                "give weights and config.json that belong together"
            )
        return tensor.to(self._rounding or tensor.dtype).float()


def _stored_name(name: str, tensors: Tensors) -> str:
    """Find what a checkpoint calls a tensor of its language model.

    The name itself, or behind another beginning: as a part of a larger model it may have lost
    the first word of its own ("model.layers." becomes "model.language_model.layers.").
    """
    if name in tensors:
        return name
    for known in (name, name.partition(".")[2]):
        found = [one for one in tensors if one.endswith(f".{known}") and "vision" not in one]
        if len(found) == 1:
            return found[0]
    raise ValueError(
        f"the checkpoint has {'no' if not found else 'more than one'} tensor {name} of a language "
        "model; fetch it again, or give the folder of another"
    )


@quiet_loading()
def load_alone(
    system: str,
    *,
    language_model: str | Path | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    rounding: torch.dtype | None = None,
) -> LanguageModelAlone:
    """Load the language model of one of ``SOURCES`` without anything that sees.

    ``language_model`` and ``tokenizer`` are other names on the hub, or folders; ``revision`` that
    of the former. Raises ``MissingParts`` with every part that is missing and how to get it,
    ``ValueError`` for other systems and for files that do not fit.
    """
    if system not in SOURCES:
        raise ValueError(f"system = {system!r}: choose from {', '.join(SOURCES)}")
    source = SOURCES[system]
    if language_model is None:
        revision = revision or source.revision
    words = tokenizer or source.tokenizer
    patterns = (*WEIGHTS, "tokenizer.model", "*.txt")
    parts = [Part("language model", language_model or source.checkpoint, revision, patterns)]
    found = find_parts(system, [*parts, *([tokenizer_part(words)] if words else [])])
    folder = found["language model"]
    files = weight_files(folder)
    config, kind, architecture = KINDS[source.kind]
    with torch.device("meta"):
        skeleton = kind(config(**_facts(folder, config)))
    tokens = load_tokenizer(found.get("tokenizer", folder))
    head = skeleton.get_submodule(architecture.unembed)
    vocabulary = min(source.vocabulary or tokens.vocab_size, head.weight.shape[0])
    return LanguageModelAlone(
        system, skeleton, tokens, architecture, Tensors(files),
        vocabulary=vocabulary, rounding=rounding, revision=LateHash(files),
    )  # fmt: skip


def _facts(folder: Path, config: type) -> dict[str, Any]:
    """Read the facts of the language model off a config.json: its own, or that of its text part."""
    stored = read_config(folder)
    stored = stored.get("text_config", stored)
    known = config().to_dict()
    left = ("model_type", "transformers_version", "architectures", "tie_word_embeddings")
    return {key: value for key, value in stored.items() if key in known and key not in left}
