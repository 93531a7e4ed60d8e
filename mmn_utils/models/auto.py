"""Any image-text-to-text model of transformers, found by walking its modules.

Nothing here asks which model it has. Names of modules are data (``auto_modules.SHAPES``
and the tuples below it); what names cannot tell is read off one pass of the model's own
forward over a picture:

==================  ==================================================================
decoder layers      the longest list of modules beside the input embeddings whose items
                    all have an attention of known names
MLP                 one of ``SHAPES``, the same in every layer
norm after it       a norm that reads the attention's output is what attention adds to the
                    residual stream; one that reads the MLP's output stands between write
                    vectors and stream, and is folded or refused (``fold_norms``)
positions           those with which the model's own forward reaches its decoder: in
                    three dimensions (M-RoPE), or counted from 1
token types         the processor's, where the forward takes them: they say which tokens
                    of the prompt see each other both ways
==================  ==================================================================

What was found must then account for everything that enters the residual stream and the
logits, and the adapter's logits must be those of the model's own ``generate``. What is
left over is refused by name (``Unsupported``): a mixture of experts, a fused gate, capped
or scaled logits, pictures that enter by cross-attention or into several layers.
"""

from __future__ import annotations

import copy
import hashlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor
from transformers.models.auto.modeling_auto import MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES

from mmn_utils.compat import quiet_loading
from mmn_utils.models.auto_inputs import AutoFacts, Reader, token_grid, token_rows, token_span
from mmn_utils.models.auto_modules import (
    Pass,
    Unsupported,
    accepted,
    find_architecture,
    judge,
    observe,
    with_norms,
)
from mmn_utils.models.base import (
    Architecture,
    ImageTokens,
    Prompt,
    VisionLanguageModel,
    files_hash,
    state_hash,
)
from mmn_utils.models.hub import WEIGHTS, MissingParts, Part, find, weight_files
from mmn_utils.models.language_part import TYPES, GivenPrompt, LanguagePart

_ROUNDING = {  # deviations of logits that the order of summation may cause
    torch.float64: 1e-5,
    torch.float32: 1e-4,
    torch.float16: 2e-2,
    torch.bfloat16: 1e-1,
}


# --- the adapter ------------------------------------------------------------------------


class AutoVisionLanguageModel(VisionLanguageModel):
    """A model of transformers behind its own processor; see the module's text."""

    def __init__(
        self,
        name: str,
        part: LanguagePart,
        reader: Reader,
        architecture: Architecture,
        image_tokens: ImageTokens,
        ids: Sequence[int],
    ) -> None:
        facts, tokenizer = reader.facts, reader.tokenizer
        after = ids[image_tokens.start + image_tokens.count :]
        options = {"skip_special_tokens": False, "clean_up_tokenization_spaces": False}
        super().__init__(
            name,
            part,
            _with_end(tokenizer, facts.end),
            replace(
                architecture,
                layers=f"whole.{architecture.layers}",
                norm=f"whole.{architecture.norm}",
                unembed=f"whole.{architecture.unembed}",
            ),
            image_tokens,
            prefix=tokenizer.decode(after, **options) if after else "",
            vocabulary=facts.vocabulary,
            revision=facts.revision,
        )
        self.reader, self.ids = reader, tuple(ids)
        self.before, self.after = ids[: image_tokens.start], after

    @cached_property
    def revision(self) -> str:
        """Hash of the weights, and of the facts that change what the model is given."""
        facts = (self.ids, self.reader.pixels, sorted(self.reader.options.items()))
        facts = repr((*facts, self.reader.facts.fold_norms)).encode()
        weights = self._revision or state_hash(*self.modules())
        return f"{weights}-{hashlib.sha256(facts).hexdigest()[:8]}"

    def require_grid(self) -> tuple[int, int]:
        """Return (rows, columns) of the patches, or explain why there are none."""
        if self.image_tokens.grid is None:
            raise ValueError(
                f"the {self.image_tokens.count} image tokens of {self.name} are no single grid "
                "over the picture (several views, row ends or queries), so there is no heat map; "
                "use scores without patches, or give grid=(rows, columns) where you know better"
            )
        return self.image_tokens.grid

    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn pictures of any mode into the processor's pixels, as this model takes them."""
        return self.reader(images)["pixel_values"]

    @torch.no_grad()
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: (B, tokens of the vision tower, its width), before any merging."""
        hidden = self._features(self._inputs(images)).last_hidden_state
        return hidden.reshape(len(images), -1, hidden.shape[-1])

    @torch.no_grad()
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures into the language model's input space: (B, count, d)."""
        tokens = token_rows(self._features(self._inputs(images)))
        shape = (len(images), self.image_tokens.count, self.sizes.width)
        if tokens.numel() != math.prod(shape):
            raise ValueError(f"{tuple(tokens.shape)} features for image tokens of {shape}")
        return tokens.reshape(shape).to(self.dtype)

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: the template up to the picture, its tokens, then ``text``.

        ``text`` None, or the system's own prefix, is the template's rest token by token.
        """
        soft, after = self.soft_prompt(images), self.after
        if text not in (None, self.prefix):
            after = self.tokenizer.encode(text, add_special_tokens=False)
        words = [self.embed(torch.tensor([ids], dtype=torch.long)) for ids in (self.before, after)]
        first, last = (part.expand(len(soft), -1, -1) for part in words)
        whole = Prompt.of(torch.cat([first, soft.to(first), last], dim=1))
        return GivenPrompt(whole.embeds, whole.mask, whole.positions, whole.embeds.shape[1])

    def forward(self, prompt: Prompt, *args, **kwargs) -> tuple[Tensor, object | None]:
        """Run the model's own forward; see ``VisionLanguageModel.forward``."""
        given = getattr(prompt, "given", self.language_model.given)
        mask = prompt.mask.clone()
        mask[:, :given] *= 2  # the mark that LanguagePart reads
        marked = Prompt(prompt.embeds, mask, prompt.positions)
        return super().forward(marked, *args, **kwargs)

    # --- the model's own way, to compare with ---

    @torch.no_grad()
    def own_logits(self, images: Sequence[Image.Image]) -> Tensor:
        """Run the model's own forward on ids and pixels: logits (B, T, V) of the whole prompt."""
        whole = self.language_model.whole
        logits = whole(**accepted(whole.forward, self._inputs(images))).logits
        return logits[..., : self.sizes.vocabulary]

    @torch.no_grad()
    def own_continuation(
        self, images: Sequence[Image.Image], steps: int = 2
    ) -> tuple[Tensor, Tensor]:
        """Let the model's own ``generate`` go on greedily: ids (B, steps), logits (B, steps, V)."""
        whole = self.language_model.whole
        out = whole.generate(
            **accepted(whole.forward, self._inputs(images)),
            max_new_tokens=steps,
            min_new_tokens=steps,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
        logits = torch.stack(out.logits, dim=1)[..., : self.sizes.vocabulary]
        return out.sequences[:, -steps:], logits

    def _inputs(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        return _placed(self.reader(images), self.device, self.dtype)

    def _features(self, inputs: Mapping[str, Tensor]):
        features = self.language_model.whole.get_image_features
        return features(**accepted(features, inputs))


def _placed(inputs: Mapping[str, Tensor], device, dtype: torch.dtype) -> dict[str, Tensor]:
    """Move inputs to a device, and floating point ones to a type."""
    return {
        name: value.to(device, dtype if value.is_floating_point() else None)
        for name, value in inputs.items()
    }


def _with_end(tokenizer, end: str | None):
    """Let a copy of the tokenizer end its texts with the token ``end``."""
    if end is None:
        return tokenizer
    if end not in tokenizer.get_vocab():
        raise ValueError(f"end = {end!r} is no token of the tokenizer")
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.eos_token = end
    return tokenizer


@torch.no_grad()
def _compare(model: AutoVisionLanguageModel, images: Sequence[Image.Image]) -> None:
    """Compare two steps with the model's own ``generate``; ``Unsupported`` where they differ."""
    ids, own = model.own_continuation(images)
    prompt = model.prompt(images)
    first, past = model.forward(prompt, use_cache=True)
    longer = prompt.extend(model.embed(ids[:, :1]))
    cached, _ = model.forward(longer.tail(1), past=past, use_cache=True)
    pairs = {
        "after the picture": (first, own[:, 0]),
        "one token later": (model.forward(longer)[0], own[:, 1]),
        "one token later, with the cache": (cached, own[:, 1]),
    }
    for when, (mine, reference) in pairs.items():
        worst = float((mine - reference).abs().max() / reference.abs().max())
        if not worst <= _ROUNDING[model.dtype]:
            kind = type(model.language_model.whole).__name__
            raise Unsupported(
                f"logits of {model.name} {when} are not those of {kind}'s own generate (off by "
                f"{worst:.1e} of the largest): its pictures or positions enter in another way "
                "than through embeddings, positions and token types"
            )


# --- building and loading ---------------------------------------------------------------


def build_auto(name: str, model: nn.Module, processor, **facts) -> AutoVisionLanguageModel:
    """Make a system of a model and its processor, or tokenizer; ``facts`` as ``AutoFacts``.

    The model is frozen and put into evaluation mode in place, and with ``fold_norms`` its
    MLPs are rewritten. Raises ``Unsupported`` with the name of the part that does not fit.
    """
    facts = AutoFacts(**facts)
    _require_decoder_only(model)
    model.eval().requires_grad_(False)
    found = find_architecture(model)
    reader = Reader(model, processor, facts)
    picture = _noise(reader.pixels)
    inputs = _placed(reader([picture]), model.device, model.dtype)
    ids = inputs["input_ids"][0]
    start, count = token_span(model, ids, reader.image_token)
    seen = observe(model, found, inputs)
    plain, found = found, with_norms(model, found, seen, facts.fold_norms)
    if found.act != plain.act:  # folded: other modules write now
        seen = observe(model, found, inputs)
    with torch.no_grad():
        judge(model, found, seen, model.get_input_embeddings()(ids[-1:])[0])
        features = model.get_image_features(**accepted(model.get_image_features, inputs))
    tower = features.last_hidden_state[..., 0].numel()
    system = AutoVisionLanguageModel(
        name,
        _language_part(model, inputs, seen, start + count),
        reader,
        found,
        ImageTokens(start, count, token_grid(model, facts, inputs, tower, count), reader.pixels),
        ids.tolist(),
    )
    if facts.check:
        _compare(system, [picture])
    return system


def _language_part(model: nn.Module, inputs: Mapping, seen: Pass, end: int) -> LanguagePart:
    """Wrap the model with the positions and token types that its own forward had."""
    ids = inputs["input_ids"]
    part = LanguagePart(model, ids.shape[1])
    if seen.positions is not None:
        positions = seen.positions
        part.place(positions[:1] if positions.ndim == 2 else positions[:, 0], end)
    for name in set(TYPES) & set(accepted(model.forward, inputs)):
        part.mark(name, inputs[name][0], end)
    return part


def _require_decoder_only(model: nn.Module) -> None:
    kind = type(model).__name__
    if getattr(model.config, "is_encoder_decoder", False):
        raise Unsupported(f"{kind} is an encoder with a decoder; its pictures enter no prompt")
    if not hasattr(model, "get_image_features"):
        raise Unsupported(
            f"{kind} has no get_image_features, so its pictures are no tokens of a prompt (as with "
            "cross-attention)"
        )


def _noise(side: int) -> Image.Image:
    """Draw a picture that no part can take for an empty one."""
    values = np.random.default_rng(0).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


PATTERNS = (*WEIGHTS, "*.jinja", "*.txt", "*.model")  # weights, processor and tokenizer


@quiet_loading()
def load_auto(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    **facts,
) -> AutoVisionLanguageModel:
    """Load any image-text-to-text model from the hub, its cache or a folder.

    ``dtype`` None keeps the files' own; ``revision`` is the hub's; ``facts`` as ``AutoFacts``.
    Raises ``MissingParts`` where files are missing, with the command that gets them,
    ``ValueError`` where weights are, and ``Unsupported`` with the part that does not fit.
    """
    folder = find(Part("name_or_path", name_or_path, revision, PATTERNS))
    model = _load_model(folder, dtype or "auto").to(device)
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ImportError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise MissingParts(f"{name_or_path} has no processor that loads: {reason}") from error
    facts["revision"] = files_hash(weight_files(folder))
    return build_auto(str(name_or_path), model, processor, **facts)


def _load_model(folder: Path, dtype: torch.dtype | str) -> nn.Module:
    """Load a model with every weight of it, in a type from the start.

    Converted afterwards, the frequencies of rotary positions would be rounded too.
    """
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES:
        raise Unsupported(
            f"{folder} holds a {kind!r}, which is no image-text-to-text model of transformers"
        )
    model, seen = AutoModelForImageTextToText.from_pretrained(
        folder, dtype=dtype, output_loading_info=True
    )
    if seen["missing_keys"]:
        lost = sorted(seen["missing_keys"])
        raise ValueError(
            f"{folder} lacks {len(lost)} weights, among them {lost[0]}; fetch it again"
        )
    return model
