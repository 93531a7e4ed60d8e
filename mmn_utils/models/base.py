"""The contract: what every vision-language system offers to the analyses.

A system is a causal language model of transformers behind an encoder that turns a
picture into *image tokens*. Which modules hold the neurons is data, a record of module
paths (``Architecture``); nothing here or above asks which model it has. An adapter of a
new system says how pictures become image tokens (``preprocess``, ``image_features``,
``soft_prompt``) and, where its template has text before the picture, ``prompt``.
"""

from __future__ import annotations

import copy
import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor, nn

from mmn_utils.models.architectures import Architecture
from mmn_utils.models.past import roomy
from mmn_utils.models.prompts import ImageTokens, Prompt
from mmn_utils.models.stream import Stream

_BLOB = re.compile(r"[0-9a-f]{64}")  # the hub's cache names a file by its SHA-256


@dataclass(frozen=True)
class Sizes:
    """Layers, units of each layer's MLP, width of the residual stream, tokens."""

    layers: int
    units: int
    width: int
    vocabulary: int


class VisionLanguageModel(Stream, ABC):
    """A frozen language model with image tokens in its prompt; see the module's text."""

    placeless = "have no place in the picture (they are queries)"  # its image tokens, without grid
    without_grid = "use scores without patches"  # what to do then
    int8 = False  # whether the weights lie on a grid of eight bits (``computing``)

    def __init__(
        self,
        name: str,
        language_model: nn.Module,
        tokenizer,
        architecture: Architecture,
        image_tokens: ImageTokens,
        *,
        prefix: str,
        vocabulary: int | None = None,
        revision: str | LateHash | None = None,
    ) -> None:
        self.name = name
        self.language_model = language_model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.architecture = architecture
        self.image_tokens = image_tokens
        self.prefix = prefix
        self._layers = self._part(architecture.layers)
        self.sizes = self._measure(vocabulary)
        self._revision = revision

    # --- what an adapter must say -----------------------------------------------------

    @abstractmethod
    def preprocess(self, images: Sequence[Image.Image]) -> Tensor:
        """Turn pictures of any mode into the encoder's pixels (B, 3, H, W), float32."""

    @abstractmethod
    def image_features(self, images: Sequence[Image.Image]) -> Tensor:
        """Encode pictures: (B, count, encoder width), before the projection."""

    @abstractmethod
    def soft_prompt(self, images: Sequence[Image.Image]) -> Tensor:
        """Project encoded pictures into the language model's input space: (B, count, d)."""

    # --- in ---------------------------------------------------------------------------

    def prompt(self, images: Sequence[Image.Image], text: str | None = None) -> Prompt:
        """Build the prompt: image tokens, then ``text`` (None: the system's own prefix)."""
        text = self.prefix if text is None else text
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        return self.around(self.soft_prompt(images), [], ids)

    def around(self, soft: Tensor, before: Sequence[int], behind: Sequence[int]) -> Prompt:
        """Build the prompt of image tokens (B, count, d) between tokens, the same in each row."""
        words = [self.embed(torch.tensor([ids], dtype=torch.long)) for ids in (before, behind)]
        first, last = (part.expand(len(soft), -1, -1) for part in words)
        return Prompt.of(torch.cat([first, soft.to(first), last], dim=1))

    def embed(self, token_ids: Tensor) -> Tensor:
        """Look up input embeddings: ids (B, n) to (B, n, d)."""
        return self.language_model.get_input_embeddings()(token_ids.to(self.device))

    def forward(
        self,
        prompt: Prompt,
        past=None,
        use_cache: bool = False,
        last_only: bool = True,
        last: int = 0,
    ) -> tuple[Tensor, object | None]:
        """Run the language model's own forward; logits over ``sizes.vocabulary``, and the cache.

        ``last_only``: (B, V) at each row's last real token, the unembedding computed there
        alone; otherwise (B, T, V), or (B, ``last``, V) of the last positions. ``past`` is the
        cache that an earlier call handed back; it grows in place. ``ValueError`` for a prompt
        longer than the model's positions.
        """
        self._check(prompt, past)
        keep = prompt.ends[:, None] if last_only else last
        out = self.language_model(
            inputs_embeds=prompt.embeds,
            attention_mask=prompt.mask,
            position_ids=prompt.positions,
            past_key_values=past,
            use_cache=use_cache,
            logits_to_keep=keep,
            **prompt.extras,
        )
        logits = out.logits[..., : self.sizes.vocabulary]
        past = roomy(out.past_key_values) if use_cache else None
        return (logits[:, 0] if last_only else logits), past

    # --- the neurons ------------------------------------------------------------------

    def layer(self, layer: int) -> nn.Module:
        """Return one layer of the language model; ``ValueError`` where there is none."""
        if not 0 <= layer < self.sizes.layers:
            raise ValueError(f"layer {layer}: {self.name} has layers 0 to {self.sizes.layers - 1}")
        return self._layers[layer]

    experts = property(lambda self: self.architecture.experts, doc="How units belong to experts.")

    def pre_module(self, layer: int) -> nn.Module:
        """Return the module whose OUTPUT is the pre-activation Z (B, T, units)."""
        return self.layer(layer).get_submodule(self.architecture.pre)

    def act_module(self, layer: int) -> nn.Module:
        """Return the module whose INPUT is the activation (B, T, units)."""
        return self.layer(layer).get_submodule(self.architecture.act)

    def gate_module(self, layer: int) -> nn.Module:
        """Return the module whose OUTPUT is the gate activation; ``ValueError`` without gates."""
        if self.architecture.gate is None:
            raise ValueError(f"the MLPs of {self.name} have no gate; give what='activation'")
        return self.layer(layer).get_submodule(self.architecture.gate)

    def attention_module(self, layer: int) -> nn.Module:
        """Return the module whose OUTPUT attention adds to the residual stream (B, T, d)."""
        return self.layer(layer).get_submodule(self.architecture.attention_of(layer))

    def write_vectors(self, layer: int) -> Tensor:
        """Return what each unit writes: (units, d), a view into the weights.

        What of that reaches the residual stream ``written_vectors`` tells.
        ``ValueError`` for integer weights: without their scales they are not what is written.
        """
        weight = self.act_module(layer).weight
        if not weight.is_floating_point():
            raise ValueError(
                f"the weights of {self.name} are quantised ({weight.dtype}), so what a neuron "
                "writes cannot be read; load the model in float32, bfloat16 or float16"
            )
        return weight.T

    # --- out --------------------------------------------------------------------------

    @property
    def unembedding(self) -> tuple[Tensor, Tensor | None]:
        """Weight (V, d) and bias (V) or None, views cut to ``sizes.vocabulary``."""
        head = self._part(self.architecture.unembed)
        bias = getattr(head, "bias", None)
        cut = self.sizes.vocabulary
        return head.weight[:cut], None if bias is None else bias[:cut]

    @property
    def final_norm(self) -> nn.Module:
        """The norm between the residual stream and the unembedding."""
        return self._part(self.architecture.norm)

    @cached_property
    def token_strings(self) -> list[str]:
        """Each token of the vocabulary as text, with its leading blank.

        Decoded behind a letter, as tokenizers of the sentencepiece family drop the blank
        at the start of a text. Ids that the tokenizer does not know are empty strings.
        """
        anchor = self.tokenizer.encode("a", add_special_tokens=False)
        known = min(self.sizes.vocabulary, len(self.tokenizer))
        options = {"clean_up_tokenization_spaces": False, "skip_special_tokens": False}
        start = len(self.tokenizer.decode(anchor, **options))
        texts = self.tokenizer.batch_decode([[*anchor, token] for token in range(known)], **options)
        return [text[start:] for text in texts] + [""] * (self.sizes.vocabulary - known)

    # --- facts ------------------------------------------------------------------------

    caveat: str = ""  # what every page with numbers of the system has to say of them

    @property
    def end_tokens(self) -> frozenset[int]:
        """The ids that end a caption: those that end the model's own ``generate``, and end of text.

        Its generation config names the first, often ends of a turn too; the model's config where
        that one has none. End of text is the tokenizer's.
        """
        model = self.language_model
        own = getattr(getattr(model, "generation_config", None), "eos_token_id", None)
        own = getattr(model.config, "eos_token_id", None) if own is None else own
        ends = own if isinstance(own, (list, tuple)) else [own]
        return frozenset({*ends, self.tokenizer.eos_token_id} - {None})

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.language_model.get_input_embeddings().weight.device

    @property
    def dtype(self) -> torch.dtype:
        """The language model's floating point type."""
        return self.language_model.get_input_embeddings().weight.dtype

    @cached_property
    def revision(self) -> str:
        """SHA-256 of the weights: of the files they came from, else of the tensors."""
        return self._of_files() or state_hash(*self.modules())

    def _of_files(self) -> str | None:
        """Return the hash of the files that the weights came from; None of other weights."""
        return self._revision() if isinstance(self._revision, LateHash) else self._revision

    def modules(self) -> tuple[nn.Module, ...]:
        """All parts with weights, the language model first."""
        return (self.language_model,)

    def require_grid(self) -> tuple[int, int]:
        """Return (rows, columns) of the patches, or explain why there are none."""
        if self.image_tokens.grid is None:
            raise ValueError(f"{self.no_grid}, so there is no heat map; {self.without_grid}")
        return self.image_tokens.grid

    @property
    def no_grid(self) -> str | None:
        """Why the image tokens have no place in the picture, in words; None where they have."""
        if self.image_tokens.grid is not None:
            return None
        return f"the {self.image_tokens.count} image tokens of {self.name} {self.placeless}"

    def seen(self, size: tuple[int, int]) -> tuple[int, int, int, int]:
        """Return the part of a picture of (width, height) that the encoder sees: all of it.

        (left, top, right, bottom); an adapter that cuts the middle out says so.
        """
        return (0, 0, *size)

    def require_editable(self) -> None:
        """Raise ``ValueError`` where write vectors cannot be changed: quantised weights."""
        weight = self.act_module(0).weight
        whole = weight.is_floating_point() and torch.finfo(weight.dtype).bits >= 16
        quantised = self.int8 or getattr(self.language_model, "is_quantized", False)
        if quantised or not whole:
            kind = "int8" if self.int8 else weight.dtype
            raise ValueError(
                f"the weights of {self.name} are quantised ({kind}) and cannot be edited; "
                "load the model in float32, bfloat16 or float16"
            )

    def twin(self, dtype: torch.dtype) -> VisionLanguageModel:
        """Copy the system with the language model's weights in another type."""
        twin = copy.copy(self)
        twin.language_model = copy.deepcopy(self.language_model).to(dtype)
        twin._layers = twin._part(self.architecture.layers)
        return twin

    # --- inside -----------------------------------------------------------------------

    def _part(self, path: str) -> nn.Module:
        try:
            return self.language_model.get_submodule(path)
        except AttributeError as error:
            kind = type(self.language_model).__name__
            raise ValueError(f"{kind} has no module {path!r}; correct the architecture") from error

    def _measure(self, vocabulary: int | None) -> Sizes:
        """Read the sizes off the weights, not off a configuration."""
        units = self._layers[0].get_submodule(self.architecture.act).in_features
        width = self.language_model.get_input_embeddings().weight.shape[1]
        rows = self._part(self.architecture.unembed).weight.shape[0]
        if vocabulary is not None and not 0 < vocabulary <= rows:
            raise ValueError(f"vocabulary = {vocabulary}: the unembedding has {rows} rows")
        return Sizes(len(self._layers), units, width, vocabulary or rows)

    def _check(self, prompt: Prompt, past) -> None:
        held = past.get_seq_length() if past is not None else 0
        tokens = prompt.embeds.shape[1]
        if prompt.mask.shape[1] != held + tokens:
            raise ValueError(
                f"the mask covers {prompt.mask.shape[1]} tokens, but the cache holds {held} and "
                f"{tokens} follow; extend the whole prompt and pass its tail"
            )
        limit = getattr(self.language_model.config, "max_position_embeddings", None)
        if limit is not None and int(prompt.positions.max()) >= limit:
            raise ValueError(
                f"the prompt reaches position {int(prompt.positions.max())}, but {self.name} has "
                f"{limit}; shorten the text or the caption"
            )


def files_hash(files: Iterable[Path]) -> str:
    """Hash weight files, in the order of their names, to 16 hexadecimal digits.

    A file of the hub's cache is not read: its blob already bears the SHA-256 as its name.
    """
    digest = hashlib.sha256()
    for file in sorted(map(Path, files), key=lambda file: file.name):
        blob = file.resolve().name
        digest.update(file.name.encode())
        digest.update((blob if _BLOB.fullmatch(blob) else _content_hash(file)).encode())
    return digest.hexdigest()[:16]


class LateHash:
    """The hash of weight files, made when it is asked for: what is loaded need not wait for it.

    With ``more`` behind it. ``ValueError`` where a file has changed since.
    """

    def __init__(self, files: Iterable[Path], more: str = "") -> None:
        self.stamps, self.more = {Path(file): _stamp(Path(file)) for file in files}, more
        self._found: str | None = None

    def __call__(self) -> str:
        """Hash the files as ``files_hash`` does, once."""
        if self._found is None:
            self._found = self._hash()
        return self._found

    def _hash(self) -> str:
        changed = [str(file) for file, stamp in self.stamps.items() if _stamp(file) != stamp]
        if changed:
            raise ValueError(
                f"{', '.join(changed)} changed after the model was loaded, so nobody can say which "
                "weights it has; load the model again"
            )
        return files_hash(self.stamps) + self.more


def _stamp(file: Path) -> tuple[int, int] | None:
    """Return size and time of a file; None where there is none."""
    if not file.is_file():
        return None
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _content_hash(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def state_hash(*modules: nn.Module) -> str:
    """Hash all parameters and persistent buffers of modules to 16 hexadecimal digits."""
    digest = hashlib.sha256()
    for module in modules:
        for name, tensor in module.state_dict().items():
            digest.update(name.encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()[:16]
