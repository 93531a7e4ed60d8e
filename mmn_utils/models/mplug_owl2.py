"""mPLUG-Owl2: ViT-L, a visual abstractor, a modality-adaptive LLaMA-2 (Ye et al. 2024).

The third system of paper B, and its miniature: one class, two sets of facts. The torch
modules are in ``mplug_owl2_modules``. As its authors' code and paper B's have it:

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
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

from mmn_utils.models.base import LLAMA, ImageTokens, Prompt, VisionLanguageModel, files_hash
from mmn_utils.models.hub import (
    FACTS,
    Part,
    find_parts,
    load_tokenizer,
    miniature_files,
    own_vocabulary,
    read_facts,
    require_files,
    tokenizer_part,
    weight_files,
    write_facts,
)
from mmn_utils.models.mplug_owl2_modules import (
    MplugOwl2Config,
    MplugOwl2ForCausalLM,
    grid_embedding,
    line_embedding,
)
from mmn_utils.models.pixels import CLIP_MEAN, CLIP_STD, to_pixels, to_rgb
from mmn_utils.presets import data_path

__all__ = [
    "MplugOwl2",
    "MplugOwl2Config",
    "MplugOwl2Facts",
    "MplugOwl2ForCausalLM",
    "build_mplug_owl2",
    "load_mplug_owl2",
    "save_mplug_owl2",
    "text_weights",
]

HUB = "MAGAer13/mplug-owl2-llama2-7b"
NAME, MINIATURE = "mplug_owl2", "miniature/mplug_owl2"
_WHOLE = Part(
    "checkpoint",
    HUB,
    patterns=("*.json", "*.safetensors", "pytorch_model*.bin", "tokenizer.model"),
)


@dataclass(frozen=True)
class MplugOwl2Facts:
    """What is fixed about one system of this kind.

    ``before`` and ``prefix`` are the texts on the two sides of the picture, the first behind
    the token for the beginning of text if ``bos``; ``fit`` is "square" as its authors or
    "crop" as paper B's code. ``vocabulary`` None for all rows of the unembedding,
    ``revision`` None to hash the tensors instead of files.
    """

    name: str = NAME
    before: str = "USER: "
    prefix: str = "Describe the image in few words. ASSISTANT: An image of"
    bos: bool = True
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fit: str = "square"
    vocabulary: int | None = None
    revision: str | None = None


class MplugOwl2(VisionLanguageModel):
    """Text, 65 image tokens without a place in the picture, text."""

    def __init__(self, facts: MplugOwl2Facts, model: MplugOwl2ForCausalLM, tokenizer) -> None:
        self.facts = facts
        self.before = _before(facts, tokenizer)
        start, count = len(self.before), model.config.abstractor.num_learnable_queries + 1
        super().__init__(
            facts.name,
            model,
            tokenizer,
            LLAMA,
            ImageTokens(start, count, None, model.config.vision.image_size),
            prefix=facts.prefix,
            vocabulary=facts.vocabulary,
            revision=facts.revision,
        )
        model.image_span = (start, start + count)
        self._vision = model.model.vision_model.float()
        self._abstractor = model.model.visual_abstractor.float()

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn pictures of any mode into (B, 3, pixels, pixels) float32; see ``fit``."""
        facts, side = self.facts, self.image_tokens.pixels
        # One picture that is not in a list is refused by to_pixels.
        if facts.fit == "square" and not isinstance(images, Image.Image):
            images = [stretched(to_rgb(image)) for image in images]
        return to_pixels(images, side, facts.mean, facts.std, fit=facts.fit, resample="bicubic")

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: the abstractor's queries (B, 64, width) float32, not yet projected.

        One less than image tokens: the last of those is learned, and looks at no picture.
        """
        return self._abstractor.queries(self._vision(self.preprocess(images).to(self.device)))

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures and end them: (B, 65, d), in the language model's type."""
        return self._abstractor.project(self.image_features(images)).to(self.dtype)

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: template, image tokens, ``text`` (None: the system's own prefix)."""
        rest = super().prompt(images, text).embeds
        before = self.embed(torch.tensor([self.before], dtype=torch.long))
        return Prompt.of(torch.cat([before.expand(len(rest), -1, -1), rest], dim=1))


def _before(facts: MplugOwl2Facts, tokenizer) -> list[int]:
    """Tokenise what stands before the picture, apart from what follows it."""
    ids = tokenizer.encode(facts.before, add_special_tokens=False)
    if not facts.bos:
        return ids
    if tokenizer.bos_token_id is None:
        raise ValueError("the tokenizer has no token for the beginning of text; set bos=False")
    return [tokenizer.bos_token_id, *ids]


def stretched(image: Image.Image) -> Image.Image:
    """Stretch a picture to the square of its longer side."""
    longer = max(image.size)
    return image.resize((longer, longer), Image.Resampling.BICUBIC)


def build_mplug_owl2(facts: MplugOwl2Facts, model: MplugOwl2ForCausalLM, tokenizer) -> MplugOwl2:
    """Join a model and its tokenizer; the model is frozen and put into evaluation mode in place."""
    return MplugOwl2(facts, model, tokenizer)


# --- loading ----------------------------------------------------------------------------


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

    ``checkpoint`` may also be a name, ``mplug_owl2`` or ``miniature/mplug_owl2``;
    ``revision`` is that on the hub. ``tokenizer`` None is the checkpoint's own, ``fit`` None
    the folder's, that of its authors for the published one. ``dtype`` None computes in
    float16, a miniature in float32. Raises ``MissingParts`` with every part that is missing
    and how to get it, ``ValueError`` for weights that do not fit.
    """
    name = str(checkpoint)
    folder = data_path("miniature", NAME) if name == MINIATURE else Path(checkpoint)
    saved = name == MINIATURE or (folder / FACTS).is_file()
    if saved:
        facts, home = _saved(name, folder)
    else:
        checkpoint = HUB if name == NAME else checkpoint
        folder, tokenizer = _find(checkpoint, tokenizer, revision)
        facts, home = MplugOwl2Facts(), folder
    words = load_tokenizer(Path(tokenizer or folder))
    text = [] if home == folder else weight_files(home)
    network = _network(folder, text, device, dtype or (torch.float32 if saved else torch.float16))
    if not saved:
        facts = replace(facts, vocabulary=own_vocabulary(words, network.lm_head))
    files = [*text, *weight_files(folder)]
    facts = replace(facts, fit=fit or facts.fit, revision=files_hash(files))
    return build_mplug_owl2(facts, network, words)


def _find(checkpoint, tokenizer, revision: str | None) -> tuple[Path, Path]:
    """Find the folders of a published checkpoint and of its tokenizer."""
    parts = [replace(_WHOLE, source=checkpoint, revision=revision)]
    if tokenizer is not None:
        parts.append(tokenizer_part(tokenizer))
    found = find_parts(NAME, parts)
    if tokenizer is None:  # it lies beside the weights
        beside = tokenizer_part(found["checkpoint"])
        found |= find_parts(NAME, [beside])
    return found["checkpoint"], found["tokenizer"]


def _saved(name: str, folder: Path) -> tuple[MplugOwl2Facts, Path]:
    """Read the facts that ``save_mplug_owl2`` wrote, and find the language model's folder."""
    require_files(name, [folder / FACTS])
    facts, home = read_facts(folder, NAME, MplugOwl2Facts)
    require_files(name, miniature_files(folder, home))
    return facts, home


def _network(
    folder: Path, text: Sequence[Path], device: str, dtype: torch.dtype
) -> MplugOwl2ForCausalLM:
    """Build the model that config.json describes, with the folder's weights and those in ``text``.

    Where both have a tensor, the folder's own is taken.
    """
    content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    with torch.device("meta"):
        network = MplugOwl2ForCausalLM(MplugOwl2Config.from_dict(content))
    state = text_weights(_read_weights(text, device, dtype))
    state.update(_read_weights(weight_files(folder), device, dtype))
    load_weights(network, state)
    return network


def load_weights(model: MplugOwl2ForCausalLM, state: Mapping[str, Tensor]) -> None:
    """Give a model its tensors by their published names, without copying them.

    Rotary frequencies and sine-cosine embeddings, which some checkpoints carry, are left
    out; the latter are compared with those that the model computes. ``ValueError`` with the
    names of tensors that are missing, not known, of another shape, or not comparable.
    """
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    found = {name: tensor for name, tensor in state.items() if not name.endswith(_COMPUTED)}
    shared = wanted.keys() & found.keys()
    wrong = {
        "missing": wanted.keys() - found.keys(),
        "not known": found.keys() - wanted.keys(),
        "of another shape": {name for name in shared if tuple(found[name].shape) != wanted[name]},
        "not what they are computed to": _different_places(model.config, state),
    }
    faults = [f"{len(names)} {what}: {_some(names)}" for what, names in wrong.items() if names]
    if faults:
        raise ValueError(
            "the weights do not fit config.json; give those that belong together. Tensors "
            + "; ".join(faults)
        )
    model.load_state_dict(found, assign=True)


_QUERIES, _KEYS = "attention.q_pos_embed", "attention.k_pos_embed"
_COMPUTED = ("rotary_emb.inv_freq", _QUERIES, _KEYS)
_HALF = 0.01  # rounding to 8 bits of numbers up to 1


def _different_places(config: MplugOwl2Config, state: Mapping[str, Tensor]) -> set[str]:
    """Find stored sine-cosine embeddings that are not those that the model computes."""
    width = config.abstractor.hidden_size
    computed = {
        _QUERIES: line_embedding(config.abstractor.num_learnable_queries, width),
        _KEYS: grid_embedding(config.vision.side, width),
    }
    different = set()
    for ending, places in computed.items():
        for name in (name for name in state if name.endswith(ending)):
            stored = state[name].float().cpu()
            same = stored.shape == places.shape and torch.allclose(stored, places, 0, _HALF)
            different |= set() if same else {name}
    return different


def _some(names: set[str], most: int = 12) -> str:
    listed = ", ".join(sorted(names)[:most])
    return listed if len(names) <= most else f"{listed} and {len(names) - most} more"


def text_weights(llama: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Rename the weights of a ``LlamaForCausalLM`` to those for text tokens.

    What is shared by both modalities keeps its name. Where the unembedding is tied to the
    embeddings and not stored, it becomes a copy of them.
    """
    state = {_adaptive_name(name): tensor for name, tensor in llama.items()}
    if "model.embed_tokens.weight" in state:
        state.setdefault("lm_head.weight", state["model.embed_tokens.weight"].clone())
    return state


_BY_MODALITY = ("k_proj", "v_proj", "input_layernorm", "post_attention_layernorm")


def _adaptive_name(name: str) -> str:
    """Name a weight of LLaMA as the text branch does, where there is one."""
    stem, _, kind = name.rpartition(".")
    return f"{stem}.multiway.0.{kind}" if stem.endswith(_BY_MODALITY) else name


def _read_weights(files: Sequence[Path], device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Read tensors from safetensors or from PyTorch's own files, as tensors only."""
    state = {}
    for file in files:
        if file.suffix == ".safetensors":
            tensors = load_file(file)
        else:
            tensors = torch.load(file, map_location="cpu", weights_only=True, mmap=True)
        for name, tensor in tensors.items():
            visual = name.startswith(_VISUAL)
            state[name] = tensor.to(device, torch.float32 if visual else dtype)
    return state


_VISUAL = ("model.vision_model.", "model.visual_abstractor.")


# --- saving -----------------------------------------------------------------------------


def save_mplug_owl2(
    model: MplugOwl2,
    folder: str | Path,
    shared: str | Path | None = None,
    *,
    dtype: torch.dtype | None = None,
) -> Path:
    """Write model.safetensors, config.json, facts.json and the tokenizer into a folder.

    ``shared`` is the folder of a ``LlamaForCausalLM``: tensors for text that equal its own
    are not written but read from there, and facts.json names it by its path from
    ``folder``. ``dtype`` is the type to write in, by default the model's. ``ValueError``
    where the two have no tensor in common.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    state = {name: tensor.detach() for name, tensor in model.language_model.state_dict().items()}
    elsewhere = None
    if shared is not None:
        state = _beyond(state, Path(shared))
        elsewhere = Path(os.path.relpath(shared, folder)).as_posix()
    state = {name: tensor.to("cpu", dtype).contiguous() for name, tensor in state.items()}
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.dumps(model.language_model.config.to_dict(), indent=2)
    (folder / "config.json").write_text(config + "\n", encoding="utf-8")
    write_facts(folder, NAME, model.facts, elsewhere)
    model.tokenizer.save_pretrained(folder)
    return folder


def _beyond(state: Mapping[str, Tensor], shared: Path) -> dict[str, Tensor]:
    """Leave out what a language model's folder holds, to the bit, in the model's type."""
    some = state["model.embed_tokens.weight"]
    text = text_weights(_read_weights(weight_files(shared), some.device, some.dtype))
    same = {name for name, tensor in text.items() if name in state and _equal(tensor, state[name])}
    if not same:
        raise ValueError(f"{shared} has no tensor in common with the model; give its own LLaMA")
    return {name: tensor for name, tensor in state.items() if name not in same}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
