"""LLaVA: CLIP's patches through a projector into LLaMA, in two formats (Liu et al. 2023).

transformers' ``LlavaForConditionalGeneration`` (the published LLaVA-1.5 and the
miniature), and the authors' own format (``original``), in which paper B's checkpoint is
kept: LLaMA's weights, one linear projector, and CLIP by its name on the hub. What holds
for both:

- the features are a hidden state of CLIP before its last layer, without CLS: 24 x 24
  patches of 336 pixels in LLaVA-1.5, 16 x 16 of 224 in paper B's;
- a picture is scaled by its shorter side and the middle is cut out (the paper says
  resized to 224 x 224), so heat maps are over the square in the middle;
- the whole language model was trained, so each LLaVA has its own write vectors;
- the vocabulary is cut to the tokenizer's own, without added tokens and padding rows, as
  paper B's code does for its scores: 32000 of LLaVA-1.5's 32064;
- the language model computes in float16 unless ``dtype`` says otherwise, the type that
  the weights were published in; CLIP and the projector always compute in float32.

In paper B's prompt "An image of" follows "[/INST]" without a blank (``TEMPLATES``). With
LLaMA's tokenizer it has 52 tokens before the picture, beginning of text included, and 17
behind its 256.
"""

from __future__ import annotations

from pathlib import Path

import torch

from mmn_utils.compat import quiet_loading
from mmn_utils.models.base import LateHash
from mmn_utils.models.folders import FACTS
from mmn_utils.models.hub import (
    WEIGHTS,
    Part,
    find_parts,
    read_config,
    tokenizer_part,
    weight_files,
)
from mmn_utils.models.llava.original import PAPER_CHECKPOINT, VISION_TOWER, load_original
from mmn_utils.models.llava.system import Llava, LlavaFacts, texts_of
from mmn_utils.models.llava.whole import load_published, load_saved


@quiet_loading()
def load_llava(
    checkpoint: str | Path = PAPER_CHECKPOINT,
    *,
    template: str | None = None,
    before: str | None = None,
    prefix: str | None = None,
    fit: str | None = None,
    vision_tower: str | Path | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Llava:
    """Load a LLaVA from the hub, its cache or a folder, in either format; by default paper B's.

    ``template`` None is a miniature's own, "vicuna" for transformers' format, "llama_2"
    for the authors'; ``before`` and ``prefix`` replace its texts. ``fit`` "pad" shows the
    encoder all of a picture, as the authors of LLaVA-1.5 do, "crop" its middle; None is a
    miniature's own, what the authors' configuration says, else "crop". ``vision_tower`` is for
    the authors' format (None: what its configuration names), ``revision`` that of the
    checkpoint. Raises ``MissingParts`` with every part that is missing and how to get it.
    """
    texts = texts_of(template) if template is not None else {}
    given = {"before": before, "prefix": prefix, "fit": fit}
    texts |= {key: text for key, text in given.items() if text is not None}
    if (Path(checkpoint) / FACTS).is_file():
        if tokenizer is not None or vision_tower is not None:
            raise ValueError(f"{checkpoint} is a miniature: its tokenizer and its CLIP are its own")
        return load_saved(Path(checkpoint), texts, device, dtype)
    found = _find(checkpoint, vision_tower, tokenizer, revision)
    files = [file for folder in found.values() for file in weight_files(folder)]
    facts = LlavaFacts(revision=LateHash(files))
    load = load_original if "vision tower" in found else load_published
    return load(facts, texts, found, device, dtype or torch.float16)


def _find(
    checkpoint: str | Path,
    vision_tower: str | Path | None,
    tokenizer: str | Path | None,
    revision: str | None,
) -> dict[str, Path]:
    """Find the parts; CLIP is one of them in the authors' format only."""
    if vision_tower is None and str(checkpoint) == PAPER_CHECKPOINT:
        vision_tower = VISION_TOWER  # so that both are listed where both are missing
    parts = [Part("checkpoint", checkpoint, revision, (*WEIGHTS, "tokenizer.model"))]
    if vision_tower is not None:
        parts.append(Part("vision tower", vision_tower))
    if tokenizer is not None:
        parts.append(tokenizer_part(tokenizer))
    found = find_parts("llava", parts)
    named = read_config(found["checkpoint"]).get("mm_vision_tower")
    if named is None and vision_tower is not None:
        raise ValueError(f"{checkpoint} has its own CLIP; leave out vision_tower")
    if named is not None and vision_tower is None:
        found |= find_parts("llava", [Part("vision tower", named)])
    return found
