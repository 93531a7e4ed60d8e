"""Folders with systems of one's own: a miniature is what ``save_pretrained`` writes, and facts.

``facts.json`` beside the weights says what a loader would otherwise know of a published
system, and, where several miniatures share a frozen language model, the folder (relative
to this one) that holds its weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn
from transformers import LlamaForCausalLM, PreTrainedConfig, PreTrainedModel

from mmn_utils.models.base import LateHash
from mmn_utils.models.hub import cast, load_whole, require_files, weight_files

FACTS = "facts.json"
_NOT_OF_THE_FACTS = ("system", "language_model")
Facts = TypeVar("Facts")


def read_record(folder: str | Path) -> dict[str, Any]:
    """Read ``facts.json``; ``ValueError`` where it is no JSON object with a ``system``."""
    path = Path(folder) / FACTS
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is no JSON ({error}); save the system again") from error
    if not isinstance(record, dict) or not isinstance(record.get("system"), str):
        raise ValueError(f"{path} names no 'system'; it is a JSON object such as a save_... writes")
    return record


def read_facts(folder: str | Path, system: str, kind: type[Facts]) -> tuple[Facts, Path]:
    """Read a miniature's facts, and find the folder that holds its language model's weights.

    The folder itself, unless ``language_model`` names another. ``ValueError`` for the
    facts of another system and for a fact that ``kind`` does not have.
    """
    folder, record = Path(folder), read_record(folder)
    if record["system"] != system:
        raise ValueError(f"{folder} holds a system of kind {record['system']!r}, not {system!r}")
    known = [field.name for field in fields(kind)]
    strange = sorted(set(record) - {*known, *_NOT_OF_THE_FACTS})
    if strange:
        raise ValueError(f"{folder / FACTS}: unknown {strange}; known are {', '.join(known)}")
    values = {key: record[key] for key in known if key in record}
    values = {key: tuple(v) if isinstance(v, list) else v for key, v in values.items()}
    shared = record.get("language_model")
    return kind(**values), folder / shared if shared else folder


def write_facts(folder: str | Path, system: str, facts, language_model: str | None = None) -> None:
    """Write ``facts.json``; the revision is left out, as it follows from the weights."""
    record = {"system": system, **asdict(facts)}
    record.pop("revision", None)
    if language_model is not None:
        record["language_model"] = language_model
    text = json.dumps(record, indent=2, ensure_ascii=False)
    (Path(folder) / FACTS).write_text(text + "\n", encoding="utf-8")


def miniature_files(folder: Path, home: Path) -> list[Path]:
    """List what a miniature cannot do without, its language model lying in ``home``."""
    own = [folder / name for name in ("model.safetensors", "config.json", "tokenizer.json")]
    return own if home == folder else [*own, home / "model.safetensors", home / "config.json"]


# --- systems that transformers has a class for ------------------------------------------


@dataclass(frozen=True)
class Layout:
    """How transformers lays out the systems of one kind, with LLaMA as their language model.

    ``whole`` is transformers' class; ``language`` says where in it the parts of a
    ``LlamaForCausalLM`` lie, "" for all of it; ``facts`` is the class of what is fixed about
    a system; ``needed`` are files that a folder must have beside those of every miniature.
    """

    system: str
    facts: type
    whole: type[PreTrainedModel]
    language: Mapping[str, str]
    needed: tuple[str, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """What the names of the language model's weights begin with."""
        return tuple(f"{place}." for place in self.language)

    def hollow(self, config: PreTrainedConfig) -> nn.Module:
        """Build the whole without weights, to put parts into."""
        with torch.device("meta"):
            return self.whole(config)

    def put(self, whole: nn.Module, language_model: nn.Module) -> None:
        """Put a language model into its place in the whole; the weights are shared."""
        for place, part in self.language.items():
            whole.set_submodule(place, language_model.get_submodule(part))

    def cast(self, whole: nn.Module, device: str, dtype: torch.dtype) -> None:
        """Move the language model in the whole, and give its weights a type, as ``hub.cast``."""
        for place in self.language:
            cast(whole.get_submodule(place), device, dtype)

    def save(
        self,
        whole: PreTrainedModel,
        facts,
        tokenizer,
        folder: str | Path,
        language_model: str | None,
        dtype: torch.dtype,
    ) -> None:
        """Save a whole with its facts and tokenizer as a folder for ``load``.

        ``language_model`` names a folder, relative to this one, that holds the language
        model's weights as ``LlamaForCausalLM`` saves them; they are then not stored here.
        """
        state = {key: value.to(dtype) for key, value in whole.state_dict().items()}
        if language_model is not None:
            state = {key: value for key, value in state.items() if not key.startswith(self.names)}
        whole.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)
        write_facts(folder, self.system, facts, language_model)

    def load(self, folder: Path) -> tuple[Any, nn.Module]:
        """Load the facts, with the revision, and the whole of what ``save`` saved.

        ``MissingParts`` naming files that are absent, ``ValueError`` as ``read_facts`` and
        ``load_whole``.
        """
        facts, home = read_facts(folder, self.system, self.facts)
        needed = [folder / name for name in self.needed]
        require_files(facts.name, [*miniature_files(folder, home), *needed])
        shared = home != folder
        whole = load_whole(self.whole, folder, self.names if shared else ())
        files = weight_files(folder)
        if shared:
            self.put(whole, load_whole(LlamaForCausalLM, home))
            files = [*files, *weight_files(home)]
        return replace(facts, revision=LateHash(files)), whole
