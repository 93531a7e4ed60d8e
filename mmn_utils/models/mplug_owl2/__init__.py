"""mPLUG-Owl2: ViT-L, a visual abstractor, a modality-adaptive LLaMA-2 (Ye et al. 2024).

The third system of paper B, and its miniature: one class, two sets of facts. As its
authors' code and paper B's have it:

- the prompt is ``USER: <|image|>Describe the image in few words. ASSISTANT: An image of``;
  each side of the picture is tokenised by itself, with the beginning-of-text token in
  front. With LLaMA's tokenizer the 65 image tokens are tokens 5 to 69, and the prompt 86;
- 64 image tokens are queries, which have no place in the picture, and the last is a learned
  token that ends the picture. All 65 go through the weights for image tokens;
- a picture is first stretched to a square of its longer side, then scaled to 448 pixels,
  both bicubic, with CLIP's mean and standard deviation. Paper B's code leaves the first
  step out, so that the processor cuts the middle out of the picture: ``fit="crop"``;
- the language model computes in float16 unless ``dtype`` says otherwise, as its authors'
  code does; vision tower and abstractor always compute in float32.

transformers has no class for it, and its authors' code runs with one old version of
transformers alone. ``config``, ``tower``, ``abstractor``, ``decoder`` and ``network`` are
written from the published facts; modules and parameters bear the published names, so that
the published weights load by their names. None has buffers: rotary and sine-cosine
embeddings are computed in float32 in each pass, so that no cast of the model rounds them.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch

from mmn_utils.models.base import LateHash
from mmn_utils.models.folders import FACTS, miniature_files, read_facts
from mmn_utils.models.hub import (
    Part,
    find_parts,
    load_tokenizer,
    own_vocabulary,
    require_files,
    tokenizer_part,
    weight_files,
)
from mmn_utils.models.mplug_owl2.system import NAME, MplugOwl2, MplugOwl2Facts, build_mplug_owl2
from mmn_utils.models.mplug_owl2.weights import network_of

HUB = "MAGAer13/mplug-owl2-llama2-7b"
_FILES = ("*.json", "*.safetensors", "pytorch_model*.bin", "tokenizer.model")


def load_mplug_owl2(
    checkpoint: str | Path = HUB,
    *,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    fit: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> MplugOwl2:
    """Load mPLUG-Owl2 from the hub, its cache or a folder, or a miniature from its folder.

    ``revision`` is that on the hub. ``tokenizer`` None is the checkpoint's own, ``fit`` None
    the folder's, that of its authors for the published one. ``dtype`` None computes in
    float16, a miniature in float32. Raises ``MissingParts`` with every part that is missing
    and how to get it, ``ValueError`` for weights that do not fit.
    """
    folder = Path(checkpoint)
    saved = (folder / FACTS).is_file()
    if saved:
        facts, home = read_facts(folder, NAME, MplugOwl2Facts)
        require_files(facts.name, miniature_files(folder, home))
    else:
        folder, tokenizer = _find(checkpoint, tokenizer, revision)
        facts, home = MplugOwl2Facts(), folder
    words = load_tokenizer(Path(tokenizer or folder))
    text = [] if home == folder else weight_files(home)
    network = network_of(folder, text, device, dtype or (torch.float32 if saved else torch.float16))
    if not saved:
        facts = replace(facts, vocabulary=own_vocabulary(words, network.lm_head))
    files = [*text, *weight_files(folder)]
    facts = replace(facts, fit=fit or facts.fit, revision=LateHash(files))
    return build_mplug_owl2(facts, network, words)


def _find(
    checkpoint: str | Path, tokenizer: str | Path | None, revision: str | None
) -> tuple[Path, Path]:
    """Find the folders of a published checkpoint and of its tokenizer."""
    parts = [Part("checkpoint", checkpoint, revision, _FILES)]
    if tokenizer is not None:
        parts.append(tokenizer_part(tokenizer))
    found = find_parts(NAME, parts)
    if tokenizer is None:  # it lies beside the weights
        found |= find_parts(NAME, [tokenizer_part(found["checkpoint"])])
    return found["checkpoint"], found["tokenizer"]
