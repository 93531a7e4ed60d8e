"""Find what a system is made of: in a folder, in the hub's cache, or on the hub.

A loader lists its parts, and ``find_parts`` finds all of them or raises one error that
says of each missing one how to get it. A miniature is a folder as ``save_pretrained``
writes it, with a ``facts.json`` beside the weights: what the loader would otherwise know
of a published system, and, where several miniatures share a frozen language model, the
folder (relative to this one) that holds its weights.
"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

FACTS = "facts.json"
WEIGHTS = ("*.json", "*.safetensors", "pytorch_model*.bin")
_NOT_OF_THE_FACTS = ("system", "language_model")
Facts = TypeVar("Facts")


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
        return present and (not self.weights or _has_weights(folder))


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
        folder, reason = Path(part.source), "the folder is there, but not complete"
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


def weight_files(folder: Path) -> list[Path]:
    """List a folder's weight files: safetensors where there are any, else PyTorch's."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def _has_weights(folder: Path) -> bool:
    """Say whether there are weights, and every shard that their index names."""
    files = weight_files(folder)
    if not files:
        return False
    safe = files[0].suffix == ".safetensors"
    index = folder / ("model.safetensors" if safe else "pytorch_model.bin")
    index = index.with_name(f"{index.name}.index.json")
    if not index.is_file():
        return True
    shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
    return all((folder / shard).is_file() for shard in shards)


# --- miniatures --------------------------------------------------------------------------


def miniature_files(folder: Path, home: Path) -> list[Path]:
    """List what a miniature cannot do without, its language model lying in ``home``."""
    own = [folder / name for name in ("model.safetensors", "config.json", "tokenizer.json")]
    return own if home == folder else [*own, home / "model.safetensors", home / "config.json"]


def require_files(system: str, files: Iterable[Path]) -> None:
    """Raise ``MissingParts`` naming the files of a miniature that are absent."""
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise MissingParts(
            f"{system} lacks {', '.join(missing)}; restore the files from the repository, or train "
            "them again with `make miniature`"
        )


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


# --- transformers' own folders -----------------------------------------------------------


def load_whole(kind, folder: Path, elsewhere: tuple[str, ...] = ()) -> nn.Module:
    """Load a model of transformers in the type of its configuration, every weight of it.

    transformers gives random values to weights that a checkpoint lacks, with a warning;
    here that is ``ValueError``, except for names that start with one of ``elsewhere``.
    """
    with _silent(bool(elsewhere)):
        model, seen = kind.from_pretrained(folder, dtype="auto", output_loading_info=True)
    lost = [key for key in seen["missing_keys"] if not elsewhere or not key.startswith(elsewhere)]
    if lost:
        raise ValueError(
            f"{folder} lacks {len(lost)} weights of {kind.__name__}, among them {sorted(lost)[0]}; "
            "fetch or save it again"
        )
    return model


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

    config = folder / "config.json"
    if not config.is_file():
        return False
    return json.loads(config.read_text(encoding="utf-8")).get("model_type") not in CONFIG_MAPPING


def _importable(name: str) -> bool:
    try:
        return importlib.util.find_spec(name) is not None
    except ModuleNotFoundError:
        return False


def own_vocabulary(tokenizer, head: nn.Linear) -> int:
    """Count the tokenizer's own tokens, added ones left out, as far as the head has rows."""
    return min(tokenizer.vocab_size, head.weight.shape[0])


@contextmanager
def _silent(really: bool) -> Iterator[None]:
    """Keep transformers from warning of weights whose absence is meant."""
    from transformers.utils import logging

    level = logging.get_verbosity()
    if really:
        logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
