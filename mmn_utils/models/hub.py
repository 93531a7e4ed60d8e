"""Find what a system is made of: in a folder, in the hub's cache, or on the hub.

A loader lists its parts, and ``find_parts`` finds all of them or raises one error that
says of each missing one how to get it.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import GenerationConfig

from mmn_utils.models.weights import check_files, missing_shards, weight_files

WEIGHTS = ("*.json", "*.safetensors", "pytorch_model*.bin")


class MissingParts(FileNotFoundError, ValueError):
    """Weights that are neither here nor to be had; the message lists each and its source."""


@dataclass(frozen=True)
class Part:
    """One part of a system, as it lies in a repository of the hub or in a folder.

    ``patterns`` are the files to fetch; ``needed`` are alternatives, one of which must be
    there as a whole, and so must weights if ``weights``. The loader's parameter of the
    same name (blanks as underscores) takes another folder.
    """

    name: str
    source: str | Path
    revision: str | None = None
    patterns: tuple[str, ...] = WEIGHTS
    needed: tuple[tuple[str, ...], ...] = (("config.json",),)
    weights: bool = True

    def complete(self, folder: Path) -> bool:
        """Say whether a folder holds the part, all shards of its weights included."""
        present = any(all((folder / name).is_file() for name in names) for names in self.needed)
        return present and (not self.weights or not self.lacking(folder))

    def lacking(self, folder: Path) -> str:
        """Say which weights a folder lacks, or nothing."""
        shards = missing_shards(folder)
        if shards:
            return f"without {', '.join(shards)}, which its index names"
        return "" if weight_files(folder) else "without weights"


def tokenizer_part(source: str | Path) -> Part:
    """Describe a tokenizer in a repository of its own, or beside other parts."""
    return Part(
        "tokenizer",
        source,
        patterns=("tokenizer*", "vocab.json", "merges.txt", "config.json"),
        needed=(("tokenizer.json",), ("vocab.json", "merges.txt"), ("tokenizer.model",)),
        weights=False,
    )


def find_parts(system: str, parts: Sequence[Part], missing: Iterable[str] = ()) -> dict[str, Path]:
    """Find every part's folder by its name, or raise ``MissingParts`` for all that lack.

    ``missing`` are descriptions of parts that the loader has looked for itself.
    """
    found, absent = {}, []
    for part in parts:
        try:
            found[part.name] = find(part)
        except MissingParts as error:
            absent.append(str(error))
    absent += missing
    if absent:
        raise MissingParts(f"{system} cannot be loaded. Missing:\n- " + "\n- ".join(absent))
    return found


def find(part: Part) -> Path:
    """Find a part: a folder that is given, the hub's cache, or the hub."""
    if Path(part.source).is_dir():
        folder = Path(part.source)
        reason = f"the folder is there, but not complete{_but(part, folder)}"
    else:
        folder, reason = _from_hub(part)
    if folder is None or not part.complete(folder):
        raise MissingParts(_how_to_get(part, reason))
    return folder


def _from_hub(part: Part) -> tuple[Path | None, str]:
    """Download or find a repository's files: its folder, or None and why."""
    from huggingface_hub import snapshot_download

    patterns = list(part.patterns)
    try:
        folder = snapshot_download(
            str(part.source), revision=part.revision, allow_patterns=patterns
        )
    except Exception as error:
        return None, f"{type(error).__name__}: {error}".splitlines()[0]
    return Path(folder), "the cache holds it only in part"


def _how_to_get(part: Part, reason: str) -> str:
    option = f" --revision {part.revision}" if part.revision else ""
    patterns = " ".join(f"'{pattern}'" for pattern in part.patterns)
    argument = part.name.replace(" ", "_")
    return (
        f"{part.name} {part.source}{f' ({part.revision})' if part.revision else ''}: {reason}\n"
        f"  with network: hf download {part.source}{option} --include {patterns}\n"
        f"  or pass {argument}=FOLDER that holds these files"
    )


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def read_ends(folder: Path) -> GenerationConfig:
    """Read the ids that end generation: generation_config.json's, else config.json's."""
    file = folder / "generation_config.json"
    content = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    ends = content.get("eos_token_id", read_config(folder).get("eos_token_id"))
    return GenerationConfig(eos_token_id=ends)


def _but(part: Part, folder: Path) -> str:
    lacking = part.lacking(folder) if part.weights else ""
    return f": it is {lacking}" if lacking else ""


def require_files(system: str, files: Iterable[Path], remedy: str = "make miniature") -> None:
    """Raise ``MissingParts`` naming files that the repository has and that are absent.

    ``remedy`` is the command that makes them anew.
    """
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise MissingParts(
            f"{system} lacks {', '.join(missing)}; restore the files from the repository, or train "
            f"them again with `{remedy}`"
        )


# --- transformers' own folders ----------------------------------------------------------


# Tensors that older versions of transformers stored, and that are computed.
_COMPUTED = (".position_ids", ".rotary_emb.inv_freq", ".attn.bias", ".attn.masked_bias")


def load_whole(
    kind,
    folder: Path,
    elsewhere: tuple[str, ...] = (),
    dtype: torch.dtype | str = "auto",
    beside: tuple[str, ...] | None = None,
    **options,
) -> nn.Module:
    """Load a model of transformers, by default in the type of its files, every weight of it.

    transformers gives random values to weights that a checkpoint lacks, with a warning;
    here that is ``ValueError``, except for names that start with one of ``elsewhere``. So
    are weights that are not whole, of another shape than config.json says, or, unless
    ``beside`` is None, not the model's and of none of these beginnings. ``options`` are those of
    ``from_pretrained``.
    """
    check_files(weight_files(folder))
    with _silent():
        model, seen = kind.from_pretrained(
            folder, dtype=dtype, output_loading_info=True, ignore_mismatched_sizes=True, **options
        )
    lost = [key for key in seen["missing_keys"] if not elsewhere or not key.startswith(elsewhere)]
    known = (*(beside or ()), *elsewhere)
    strange = [] if beside is None else [
        key for key in seen["unexpected_keys"]
        if not key.endswith(_COMPUTED) and not (known and key.startswith(known))
    ]  # fmt: skip
    wrong = [
        f"{name} ({tuple(found)}, not {tuple(wanted)})"
        for name, found, wanted in seen["mismatched_keys"]
    ]
    _refuse(
        folder,
        {
            f"lacks {len(lost)} weights of {kind.__name__}": lost,
            f"has {len(wrong)} of another shape than its config.json says": wrong,
            f"has {len(strange)} tensors that {kind.__name__} has not": strange,
        },
    )
    return model


def _refuse(folder: Path, faults: dict[str, list[str]]) -> None:
    """Raise ``ValueError`` for tensors that do not fit, with the first of each fault."""
    told = [f"{what}, among them {min(some)}" for what, some in faults.items() if some]
    if told:
        raise ValueError(f"{folder} {'; '.join(told)}; fetch or save it again")


def cast(module: nn.Module, device: str | torch.device, dtype: torch.dtype) -> nn.Module:
    """Move a module in place and give its weights a type; its buffers keep theirs.

    Rotary frequencies are such a buffer: rounded to half precision, the angle of a token
    far behind is off by much of a radian.
    """
    for buffer in module.buffers():
        buffer.data = buffer.data.to(device)
    for parameter in module.parameters():
        parameter.data = parameter.data.to(device, dtype)
    return module


def load_tokenizer(folder: Path):
    """Load a tokenizer; ``ValueError`` where its only form cannot be read here."""
    from transformers import AutoTokenizer, PreTrainedConfig

    only = not (folder / "tokenizer.json").is_file() and (folder / "tokenizer.model").is_file()
    if only and not _importable("google.protobuf"):
        raise ValueError(
            f"{folder} holds its tokenizer as tokenizer.model only; install protobuf to read "
            "it, or pass tokenizer=FOLDER with the same tokenizer as tokenizer.json"
        )
    # Of a class that it lacks, transformers would warn, and then go by an empty one all the same.
    given = {"config": PreTrainedConfig()} if _lacks_class(folder) else {}
    return AutoTokenizer.from_pretrained(folder, **given)


def _lacks_class(folder: Path) -> bool:
    """Say whether the folder's config.json is of a model that transformers does not have."""
    from transformers import CONFIG_MAPPING

    if not (folder / "config.json").is_file():
        return False
    return read_config(folder).get("model_type") not in CONFIG_MAPPING


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def own_vocabulary(tokenizer, head: nn.Linear) -> int:
    """Count the tokenizer's own tokens, added ones left out, as far as the head has rows."""
    return min(tokenizer.vocab_size, head.weight.shape[0])


@contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers from warning of weights that do not fit: it is an error here, or meant."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
