"""InstructBLIP: 32 queries that read the picture and the instruction (Dai et al. 2023).

A vision transformer, a Q-Former whose queries attend to the picture and to the text of
the instruction, one affine projection, and a frozen Vicuna, as transformers'
``InstructBlipForConditionalGeneration`` has them:

- the image tokens are what the queries became. They have no place in the picture, so
  there is no grid and no heat map;
- the text of the prompt, the caption's opening included, also goes to the Q-Former in its
  own tokenizer, so another text gives other image tokens;
- the prompt begins with the image tokens, and the beginning of text follows them. The
  published tokenizer's token for the beginning of text is that for its end, ``</s>``, 2;
- a picture is scaled to 224 x 224, bicubic, the aspect ratio not kept;
- the unembedding has 32001 rows, one more than LLaMA's tokenizer has tokens ([PAD]); the
  vocabulary is cut to the 32000, as paper B's code does for its scores;
- the language model computes in float16 unless ``dtype`` says otherwise; everything
  before it always computes in float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn
from transformers import (
    InstructBlipConfig,
    InstructBlipForConditionalGeneration,
    LlamaForCausalLM,
)

from mmn_utils.compat import quiet_loading
from mmn_utils.models.architectures import LLAMA
from mmn_utils.models.base import ImageTokens, LateHash, Prompt
from mmn_utils.models.folders import FACTS, Layout
from mmn_utils.models.hub import (
    Part,
    find_parts,
    load_tokenizer,
    load_whole,
    own_vocabulary,
    tokenizer_part,
    weight_files,
)
from mmn_utils.models.joined import JoinedModel, beginning
from mmn_utils.models.pixels import CLIP_MEAN, CLIP_STD

CHECKPOINT = "Salesforce/instructblip-vicuna-7b"
_QFORMER = "qformer_tokenizer"  # the folder of the Q-Former's tokenizer, as published
_FILES = ("*.json", "*.safetensors", "*.txt", "tokenizer.model")  # PyTorch's too would be twice
_NEEDED = tuple(("config.json", f"{_QFORMER}/{name}") for name in ("tokenizer.json", "vocab.txt"))


@dataclass(frozen=True)
class InstructBlipFacts:
    """What is fixed about one system of this kind.

    ``bos``: whether the token for the beginning of text stands between image tokens and
    text; ``fit`` and ``resample`` as ``pixels.to_square``. ``vocabulary`` None for all
    rows of the unembedding, ``revision`` None to hash the tensors instead of files.
    """

    name: str = "instructblip"
    prefix: str = "Describe the image in few words. An image of"
    bos: bool = True
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fit: str = "square"
    resample: str = "bicubic"
    vocabulary: int | None = None
    revision: str | LateHash | None = None


class Queries(nn.Module):
    """Vision model and Q-Former: pictures and an instruction to what the queries became."""

    def __init__(self, model: InstructBlipForConditionalGeneration) -> None:
        super().__init__()
        self.vision_model = model.vision_model
        self.qformer = model.qformer
        self.query_tokens = model.query_tokens

    def forward(self, pixels: Tensor, ids: Tensor) -> Tensor:
        """Read pixels (B, 3, H, W) and an instruction's ids (n): (B, queries, width)."""
        seen = self.vision_model(pixel_values=pixels).last_hidden_state
        queries = self.query_tokens.expand(len(seen), -1, -1)
        mask = torch.ones(len(seen), queries.shape[1] + len(ids), device=seen.device).long()
        read = self.qformer(
            input_ids=ids.expand(len(seen), -1),
            attention_mask=mask,
            query_embeds=queries,
            encoder_hidden_states=seen,
        )
        return read.last_hidden_state[:, : queries.shape[1]]


class InstructBlip(JoinedModel):
    """Queries, then the beginning of text, then the text, into LLaMA."""

    def __init__(
        self,
        facts: InstructBlipFacts,
        queries: Queries,
        projection: nn.Linear,
        language_model: LlamaForCausalLM,
        tokenizer,
        qformer_tokenizer,
        config: InstructBlipConfig,
    ) -> None:
        tokens = ImageTokens(
            0, queries.query_tokens.shape[1], None, queries.vision_model.config.image_size
        )
        super().__init__(facts, language_model, tokenizer, LLAMA, tokens)
        expected = (self.sizes.width, queries.query_tokens.shape[2])
        if tuple(projection.weight.shape) != expected:
            raise ValueError(
                f"a projection of {tuple(projection.weight.shape)} does not fit these parts; it "
                f"should be {expected}"
            )
        beginning(facts, tokenizer)  # it is there, or not asked for
        self.config = config
        self.qformer_tokenizer = qformer_tokenizer
        self.queries, self.projection = self.beside(queries), self.beside(projection)

    def modules(self) -> tuple[nn.Module, ...]:
        """Language model, vision model with Q-Former, projection."""
        return (self.language_model, self.queries, self.projection)

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image], text: str | None = None) -> Tensor:
        """Read pictures under an instruction (None: the prefix): (B, queries, width) float32."""
        ids = self._instruction(self.prefix if text is None else text)
        return self.queries(self.preprocess(images).to(self.device), ids.to(self.device))

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Tensor:
        """Project what the queries read: (B, queries, d), in the language model's type."""
        return self.projection(self.image_features(images, text)).to(self.dtype)

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: image tokens, beginning of text, ``text`` (None: the prefix).

        The Q-Former reads the same text. ``ValueError`` where it is too long for it.
        """
        text = self.prefix if text is None else text
        words = self.tokenizer.encode(text, add_special_tokens=False)
        behind = beginning(self.facts, self.tokenizer) + words
        return self.around(self.soft_prompt(images, text), [], behind)

    def _instruction(self, text: str) -> Tensor:
        """Encode a text for the Q-Former, its special tokens included: (n) long."""
        ids = self.qformer_tokenizer(text)["input_ids"]
        limit = self.queries.qformer.config.max_position_embeddings
        if len(ids) > limit:
            raise ValueError(
                f"the instruction has {len(ids)} tokens for the Q-Former, which reads {limit}; "
                "shorten it"
            )
        return torch.tensor(ids, dtype=torch.long)


def build_instructblip(
    facts: InstructBlipFacts,
    model: InstructBlipForConditionalGeneration,
    tokenizer,
    qformer_tokenizer,
) -> InstructBlip:
    """Take transformers' model apart into a system; it is frozen in place.

    ``ValueError`` for a language model other than LLaMA (the published one with T5).
    """
    kind = model.config.text_config.model_type
    if kind != "llama":
        raise ValueError(f"an InstructBLIP with {kind}; here it is one with LLaMA (Vicuna)")
    return InstructBlip(
        facts,
        Queries(model),
        model.language_projection,
        model.language_model,
        tokenizer,
        qformer_tokenizer,
        model.config,
    )


# --- a folder of one's own ---------------------------------------------------------------

LAYOUT = Layout(
    "instructblip",
    InstructBlipFacts,
    InstructBlipForConditionalGeneration,
    language={"language_model": ""},
    needed=(f"{_QFORMER}/tokenizer.json",),
)


def save_instructblip(
    model: InstructBlip,
    folder: str | Path,
    *,
    language_model: str | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Save a system as a folder for ``load_instructblip``; ``language_model`` as in ``Layout``."""
    whole = LAYOUT.hollow(model.config)
    whole.vision_model, whole.qformer = model.queries.vision_model, model.queries.qformer
    whole.query_tokens = model.queries.query_tokens
    whole.language_projection = model.projection
    LAYOUT.put(whole, model.language_model)
    LAYOUT.save(whole, model.facts, model.tokenizer, folder, language_model, dtype)
    model.qformer_tokenizer.save_pretrained(Path(folder) / _QFORMER)


def _load_folder(folder: Path, texts: dict, device: str, dtype: torch.dtype) -> InstructBlip:
    """Load what ``save_instructblip`` saved."""
    facts, whole = LAYOUT.load(folder)
    LAYOUT.cast(whole, device, dtype)
    tokenizers = load_tokenizer(folder), load_tokenizer(folder / _QFORMER)
    return build_instructblip(replace(facts, **texts), whole, *tokenizers)


# --- the published one -------------------------------------------------------------------


@quiet_loading()
def load_instructblip(
    checkpoint: str | Path = CHECKPOINT,
    *,
    prefix: str | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> InstructBlip:
    """Load an InstructBLIP with Vicuna from the hub, its cache or a folder.

    A miniature computes in float32 unless ``dtype`` says otherwise, the published one in
    float16. ``prefix`` None is the system's own; ``revision`` is that of the checkpoint.
    Raises ``MissingParts`` with every part that is missing and how to get it.
    """
    texts = {} if prefix is None else {"prefix": prefix}
    if (Path(checkpoint) / FACTS).is_file():
        if tokenizer is not None:
            raise ValueError(f"{checkpoint} is a miniature: its tokenizer is its own")
        return _load_folder(Path(checkpoint), texts, device, dtype or torch.float32)
    parts = [Part("checkpoint", checkpoint, revision, _FILES, _NEEDED)]
    if tokenizer is not None:
        parts.append(tokenizer_part(tokenizer))
    found = find_parts("instructblip", parts)
    folder = found["checkpoint"]
    whole = load_whole(LAYOUT.whole, folder, beside=())
    LAYOUT.cast(whole, device, dtype or torch.float16)
    words = load_tokenizer(found.get("tokenizer", folder))
    facts = InstructBlipFacts(
        vocabulary=own_vocabulary(words, whole.language_model.lm_head),
        revision=LateHash(weight_files(folder)),
        **texts,
    )
    return build_instructblip(facts, whole, words, load_tokenizer(folder / _QFORMER))
