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
from safetensors.torch import load_file
from torch import Tensor, nn

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


def read_config(folder: Path) -> dict[str, Any]:
    """Read a folder's config.json."""
    return json.loads((folder / "config.json").read_text(encoding="utf-8"))


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a weight file, tensors only, without copying PyTorch's into memory before their use."""
    if file.suffix == ".safetensors":
        return load_file(file)
    return torch.load(file, map_location="cpu", weights_only=True, mmap=True)


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


def require_files(system: str, files: Iterable[Path]) -> None:
    """Raise ``MissingParts`` naming the files of a miniature that are absent."""
    missing = [str(file) for file in files if not file.is_file()]
    if missing:
        raise MissingParts(
            f"{system} lacks {', '.join(missing)}; restore the files from the repository, or train "
            "them again with `make miniature`"
        )


# --- transformers' own folders ----------------------------------------------------------


def load_whole(
    kind, folder: Path, elsewhere: tuple[str, ...] = (), dtype: torch.dtype | str = "auto"
) -> nn.Module:
    """Load a model of transformers, by default in the type of its files, every weight of it.

    transformers gives random values to weights that a checkpoint lacks, with a warning;
    here that is ``ValueError``, except for names that start with one of ``elsewhere``.
    """
    with _silent(bool(elsewhere)):
        model, seen = kind.from_pretrained(folder, dtype=dtype, output_loading_info=True)
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
