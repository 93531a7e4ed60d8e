"""LLaVA: CLIP's patches through a projector into LLaMA, in two formats (Liu et al. 2023).

transformers' ``LlavaForConditionalGeneration`` (the published LLaVA-1.5 and the
miniature), and the authors' own format, in which paper B's checkpoint is kept: LLaMA's
weights, one linear projector, and CLIP by its name on the hub. What holds for both:

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

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import (
    CLIPVisionModel,
    LlamaConfig,
    LlamaForCausalLM,
    LlavaConfig,
    LlavaForConditionalGeneration,
)
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from mmn_utils.compat import quiet_loading
from mmn_utils.models.base import LLAMA, ImageTokens, Prompt, VisionLanguageModel, files_hash
from mmn_utils.models.hub import (
    FACTS,
    WEIGHTS,
    Part,
    cast,
    find_parts,
    load_tokenizer,
    load_whole,
    miniature_files,
    own_vocabulary,
    read_facts,
    require_files,
    tokenizer_part,
    weight_files,
    write_facts,
)
from mmn_utils.models.pixels import CLIP_MEAN, CLIP_STD, to_pixels

CHECKPOINT = "llava-hf/llava-1.5-7b-hf"
PAPER_CHECKPOINT = "liuhaotian/llava-llama-2-13b-chat-lightning-preview"
VISION_TOWER = "openai/clip-vit-large-patch14"  # of the paper's checkpoint
QUESTION = "Describe the image in few words."
OPENING = "An image of"
_SYSTEM = (
    "You are a helpful language and vision assistant. You are able to understand the visual "
    "content that the user provides, and assist the user with a variety of tasks using natural "
    "language."
)
TEMPLATES = {  # text before the picture, text behind it
    "llama_2": (
        f"[INST] <<SYS>>\n{_SYSTEM}\n<</SYS>>\n\n",
        "\n{question} [/INST]{opening}",
    ),
    "vicuna": ("USER: ", "\n{question} ASSISTANT: {opening}"),
}
_IMAGE = "<image>"  # the placeholder, where a tokenizer has one


def wording(template: str, question: str = QUESTION, opening: str = OPENING) -> tuple[str, str]:
    """Return the texts before and behind the picture in one of ``TEMPLATES``."""
    if template not in TEMPLATES:
        raise ValueError(f"template = {template!r}: choose from {', '.join(TEMPLATES)}")
    before, behind = TEMPLATES[template]
    return before, behind.format(question=question, opening=opening).rstrip(" ")


@dataclass(frozen=True)
class LlavaFacts:
    """What is fixed about one system of this kind.

    ``before`` is the text in front of the picture, behind the token for the beginning of
    text if ``bos``; ``fit`` and ``resample`` as ``pixels.to_square``; ``vision_layer``
    indexes CLIP's hidden states. ``vocabulary`` None for all rows of the unembedding,
    ``revision`` None to hash the tensors instead of files.
    """

    name: str = "llava"
    before: str = TEMPLATES["vicuna"][0]
    prefix: str = wording("vicuna")[1]
    bos: bool = True
    mean: tuple[float, float, float] = CLIP_MEAN
    std: tuple[float, float, float] = CLIP_STD
    fit: str = "crop"
    resample: str = "bicubic"
    vision_layer: int = -2
    vocabulary: int | None = None
    revision: str | None = None


class Llava(VisionLanguageModel):
    """Text, CLIP's patches through a projector, text, into LLaMA."""

    def __init__(
        self,
        facts: LlavaFacts,
        vision: CLIPVisionModel,
        projector: nn.Module,
        language_model: LlamaForCausalLM,
        tokenizer,
        config: LlavaConfig | None = None,
    ) -> None:
        self.facts = facts
        self.config = config
        self._placeholder = tokenizer.get_added_vocab().get(_IMAGE)
        side = vision.config.image_size
        rows = side // vision.config.patch_size
        before, _ = self._ids(tokenizer, facts.prefix)
        super().__init__(
            facts.name,
            language_model,
            tokenizer,
            LLAMA,
            ImageTokens(len(before), rows * rows, (rows, rows), side),
            prefix=facts.prefix,
            vocabulary=facts.vocabulary,
            revision=facts.revision,
        )
        _check_fit(projector, vision.config.hidden_size, self.sizes.width)
        self.vision = vision.to(self.device, torch.float32).eval().requires_grad_(False)
        self.projector = projector.to(self.device, torch.float32).eval().requires_grad_(False)

    def modules(self) -> tuple[nn.Module, ...]:
        """Language model, CLIP, projector."""
        return (self.language_model, self.vision, self.projector)

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn pictures of any mode into (B, 3, pixels, pixels) float32; see ``pixels``."""
        facts = self.facts
        side = self.image_tokens.pixels
        return to_pixels(
            images, side, facts.mean, facts.std, fit=facts.fit, resample=facts.resample
        )

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: (B, patches, CLIP's width) float32, CLS dropped."""
        pixels = self.preprocess(images).to(self.device)
        states = self.vision(pixel_values=pixels, output_hidden_states=True).hidden_states
        return states[self.facts.vision_layer][:, 1:]

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures: (B, patches, d), in the language model's type."""
        return self.projector(self.image_features(images)).to(self.dtype)

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: text, image tokens, then ``text`` (None: the system's prefix)."""
        soft = self.soft_prompt(images)
        ids = self._ids(self.tokenizer, self.prefix if text is None else text)
        words = [self.embed(torch.tensor([part], dtype=torch.long)) for part in ids]
        before, behind = (part.expand(len(soft), -1, -1) for part in words)
        return Prompt.of(torch.cat([before, soft, behind], dim=1))

    def _ids(self, tokenizer, text: str) -> tuple[list[int], list[int]]:
        """Encode the texts around the picture.

        In one piece where the tokenizer has a placeholder for pictures, as transformers'
        processor does, otherwise each on its own, as the authors' code does. Tokenizers
        of the sentencepiece family may differ in a blank between the two.
        """
        start = [_beginning(tokenizer)] if self.facts.bos else []
        if self._placeholder is None:
            parts = [
                tokenizer.encode(part, add_special_tokens=False)
                for part in (self.facts.before, text)
            ]
            return start + parts[0], parts[1]
        whole = f"{self.facts.before}{_IMAGE}{text}"
        ids = tokenizer.encode(whole, add_special_tokens=False)
        if ids.count(self._placeholder) != 1:
            raise ValueError(f"the text {text!r} holds {_IMAGE}; the picture's place is fixed")
        place = ids.index(self._placeholder)
        return start + ids[:place], ids[place + 1 :]


def _beginning(tokenizer) -> int:
    """Return the token for the beginning of text, which must exist."""
    if tokenizer.bos_token_id is None:
        raise ValueError("the tokenizer has no token for the beginning of text; set bos=False")
    return tokenizer.bos_token_id


def _check_fit(projector: nn.Module, features: int, width: int) -> None:
    linears = [part for part in projector.modules() if isinstance(part, nn.Linear)]
    found = (linears[0].in_features, linears[-1].out_features) if linears else None
    if found != (features, width):
        raise ValueError(
            f"a projector from and to {found} does not fit these parts; give one from {features} "
            f"to {width}"
        )


def build_llava(facts: LlavaFacts, model: LlavaForConditionalGeneration, tokenizer) -> Llava:
    """Take transformers' model apart into a system; it is frozen in place.

    ``vision_layer`` is the model's own. ``ValueError`` for a language model other than
    LLaMA, an encoder other than CLIP, several layers' features, and features with CLS.
    """
    config = model.config
    kinds = (config.vision_config.model_type, config.text_config.model_type)
    if kinds != ("clip_vision_model", "llama"):
        raise ValueError(f"a LLaVA of {' and '.join(kinds)}; here it is CLIP and LLaMA")
    layer, strategy = config.vision_feature_layer, config.vision_feature_select_strategy
    if not isinstance(layer, int) or strategy != "default":
        raise ValueError(
            f"vision_feature_layer = {layer}, vision_feature_select_strategy = {strategy!r}: here "
            "the features are one layer's, without CLS ('default')"
        )
    return Llava(
        replace(facts, vision_layer=layer),
        model.model.vision_tower,
        model.model.multi_modal_projector,
        _decoder(model),
        tokenizer,
        config,
    )


def _decoder(model: LlavaForConditionalGeneration) -> LlamaForCausalLM:
    """Put the model's decoder and head into a LLaMA of its own; the weights are shared."""
    with torch.device("meta"):
        decoder = LlamaForCausalLM(model.config.text_config)
    decoder.model, decoder.lm_head = model.model.language_model, model.lm_head
    return decoder


# --- a folder of one's own ---------------------------------------------------------------


def save_llava(
    model: Llava,
    folder: str | Path,
    *,
    language_model: str | None = None,
    dtype: torch.dtype = torch.float16,
) -> None:
    """Save a system as a folder for ``load_llava``: transformers' format, tokenizer, facts.

    ``language_model`` names a folder, relative to this one, that holds the language
    model's weights as ``LlamaForCausalLM`` saves them; they are then not stored here.
    ``ValueError`` for a system in the authors' format.
    """
    if model.config is None:
        raise ValueError(f"{model.name} is in the authors' format; copy its files instead")
    with torch.device("meta"):
        whole = LlavaForConditionalGeneration(model.config)
    whole.model.vision_tower, whole.model.multi_modal_projector = model.vision, model.projector
    whole.model.language_model = model.language_model.model
    whole.lm_head = model.language_model.lm_head
    state = {key: value.to(dtype) for key, value in whole.state_dict().items()}
    if language_model is not None:
        state = {key: value for key, value in state.items() if not key.startswith(_LANGUAGE)}
    whole.save_pretrained(folder, state_dict=state)
    model.tokenizer.save_pretrained(folder)
    write_facts(folder, "llava", model.facts, language_model)


_LANGUAGE = ("model.language_model.", "lm_head.")


def _load_folder(folder: Path, texts: dict, device: str, dtype: torch.dtype | None) -> Llava:
    """Load what ``save_llava`` saved; float32 unless ``dtype`` says otherwise."""
    facts, home = read_facts(folder, "llava", LlavaFacts)
    shared = home != folder
    require_files(facts.name, miniature_files(folder, home))
    whole = load_whole(LlavaForConditionalGeneration, folder, _LANGUAGE if shared else ())
    if shared:
        language_model = load_whole(LlamaForCausalLM, home)
        whole.model.language_model, whole.lm_head = language_model.model, language_model.lm_head
    files = [*weight_files(folder), *(weight_files(home) if shared else [])]
    facts = replace(facts, revision=files_hash(files), **texts)
    return _placed(facts, whole, load_tokenizer(folder), device, dtype or torch.float32)


def _placed(
    facts: LlavaFacts,
    whole: LlavaForConditionalGeneration,
    tokenizer,
    device: str,
    dtype: torch.dtype,
) -> Llava:
    """Move the language model to its place and type, then build; the rest follows it."""
    cast(whole.model.language_model, device, dtype)
    cast(whole.lm_head, device, dtype)
    return build_llava(facts, whole, tokenizer)


# --- the published ones ------------------------------------------------------------------


@quiet_loading()
def load_llava(
    checkpoint: str | Path = CHECKPOINT,
    *,
    template: str | None = None,
    before: str | None = None,
    prefix: str | None = None,
    vision_tower: str | Path | None = None,
    tokenizer: str | Path | None = None,
    revision: str | None = None,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
) -> Llava:
    """Load a LLaVA from the hub, its cache or a folder, in either format.

    ``template`` None is a miniature's own, "vicuna" for transformers' format, "llama_2"
    for the authors'; ``before`` and ``prefix`` replace its texts. ``vision_tower`` is for
    the authors' format (None: what its configuration names), ``revision`` that of the
    checkpoint. Raises ``MissingParts`` with every part that is missing and how to get it.
    """
    texts = _texts(template) if template is not None else {}
    given = {"before": before, "prefix": prefix}
    texts |= {key: text for key, text in given.items() if text is not None}
    if (Path(checkpoint) / FACTS).is_file():
        if tokenizer is not None or vision_tower is not None:
            raise ValueError(f"{checkpoint} is a miniature: its tokenizer and its CLIP are its own")
        return _load_folder(Path(checkpoint), texts, device, dtype)
    found = _find(checkpoint, vision_tower, tokenizer, revision)
    files = [file for folder in found.values() for file in weight_files(folder)]
    facts = LlavaFacts(revision=files_hash(files))
    load = _load_published if "vision tower" not in found else _load_original
    return load(facts, texts, found, device, dtype or torch.float16)


def _texts(template: str) -> dict[str, str]:
    return dict(zip(("before", "prefix"), wording(template), strict=True))


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
    named = _read_config(found["checkpoint"]).get("mm_vision_tower")
    if named is None and vision_tower is not None:
        raise ValueError(f"{checkpoint} has its own CLIP; leave out vision_tower")
    if named is not None and vision_tower is None:
        found |= find_parts("llava", [Part("vision tower", named)])
    return found


def _read_config(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def _load_published(
    facts: LlavaFacts, texts: dict, found: dict[str, Path], device: str, dtype: torch.dtype
) -> Llava:
    """Load transformers' format."""
    whole = load_whole(LlavaForConditionalGeneration, found["checkpoint"])
    tokenizer = load_tokenizer(found.get("tokenizer", found["checkpoint"]))
    vocabulary = own_vocabulary(tokenizer, whole.lm_head)
    facts = replace(facts, vocabulary=vocabulary, **texts)
    return _placed(facts, whole, tokenizer, device, dtype)


# --- the authors' format -----------------------------------------------------------------


def _load_original(
    facts: LlavaFacts, texts: dict, found: dict[str, Path], device: str, dtype: torch.dtype
) -> Llava:
    """Load the authors' format and the CLIP that belongs to it."""
    folder = found["checkpoint"]
    config = _read_config(folder)
    state: dict[str, Tensor] = {}
    for file in weight_files(folder):
        state |= _read_weights(file)
    language_model, projector = read_original(config, state)
    tokenizer = load_tokenizer(found.get("tokenizer", folder))
    facts = replace(
        facts,
        vision_layer=config.get("mm_vision_select_layer", LlavaFacts.vision_layer),
        vocabulary=own_vocabulary(tokenizer, language_model.lm_head),
        **{**_texts("llama_2"), **texts},
    )
    vision = load_whole(CLIPVisionModel, found["vision tower"])
    return Llava(facts, vision, projector, cast(language_model, device, dtype), tokenizer)


def _read_weights(file: Path) -> dict[str, Tensor]:
    """Read tensors only, without copying them into memory before they are used."""
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


_LLAMA_FACTS = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
    "hidden_act",
    "max_position_embeddings",
    "rms_norm_eps",
    "rope_theta",
    "bos_token_id",
    "eos_token_id",
)
_PROJECTOR = "model.mm_projector."
_LEFT_OUT = ("model.vision_tower.",)  # CLIP was not trained and comes from its own place
_COMPUTED = ".rotary_emb.inv_freq"


def read_original(
    config: Mapping[str, Any], state: Mapping[str, Tensor]
) -> tuple[LlamaForCausalLM, nn.Linear]:
    """Build LLaMA and the projector from the authors' configuration and state dict.

    LLaMA's keys are transformers' own; the projector is ``model.mm_projector`` with
    ``weight`` (d, CLIP's width) and ``bias`` (d). The tensors are taken over, not copied.
    ``ValueError`` for what the format allows but paper B's checkpoint does not have:
    marks around the picture, a projector of several layers, CLS among the features.
    """
    _check_original(config)
    left = {
        key: value
        for key, value in state.items()
        if not key.startswith(_LEFT_OUT) and not key.endswith(_COMPUTED)
    }
    ends = {key: left.pop(key) for key in list(left) if key.startswith(_PROJECTOR)}
    ends = {key.removeprefix(_PROJECTOR): value for key, value in ends.items()}
    if sorted(ends) != ["bias", "weight"]:
        raise ValueError(
            f"the checkpoint's projector holds {sorted(ends)}, not one linear map's 'weight' and "
            f"'bias'; take a checkpoint in transformers' format, such as {CHECKPOINT}"
        )
    llama = LlamaConfig(**{key: config[key] for key in _LLAMA_FACTS if key in config})
    with torch.device("meta"):
        language_model = LlamaForCausalLM(llama)
        projector = nn.Linear(*reversed(ends["weight"].shape))
    try:
        language_model.load_state_dict(left, assign=True)
        projector.load_state_dict(ends, assign=True)
    except RuntimeError as error:
        raise ValueError(f"the checkpoint does not fit its config.json: {error}") from error
    language_model.model.rotary_emb = LlamaRotaryEmbedding(llama)  # computed, not in the file
    return language_model, projector


def _check_original(config: Mapping[str, Any]) -> None:
    wanted = {
        "mm_use_im_start_end": False,
        "mm_projector_type": "linear",
        "mm_vision_select_feature": "patch",
    }
    for key, value in wanted.items():
        if config.get(key, value) != value:
            raise ValueError(
                f"{key} = {config[key]!r}: of the authors' format only {value!r} is read; take a "
                f"checkpoint in transformers' format, such as {CHECKPOINT}"
            )
