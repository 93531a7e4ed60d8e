"""Weight files as they lie on a disk: whole or not, and one tensor of them at a time.

A download that broke off, a clone without its large files and a shard that was forgotten end
in messages of other libraries that name neither file nor remedy. Here each is seen before a
file is read, off its first bytes and its size, however large it is.
"""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

POINTER = b"version https://git-lfs.github.com/spec/"
_PICKLE = b"\x80"  # how PyTorch's files began before they were zip archives


def weight_files(folder: Path) -> list[Path]:
    """List a folder's weight files: safetensors where there are any, else PyTorch's."""
    return sorted(folder.glob("*.safetensors")) or sorted(folder.glob("pytorch_model*.bin"))


def missing_shards(folder: Path) -> list[str]:
    """List the shards that the index of a folder's weights names and that are not there."""
    files = weight_files(folder)
    safe = bool(files) and files[0].suffix == ".safetensors"
    names = ["model.safetensors", "pytorch_model.bin"]
    for name in names[:1] if safe else reversed(names):
        index = folder / f"{name}.index.json"
        if index.is_file():
            shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
            return sorted(shard for shard in shards if not (folder / shard).is_file())
    return []


def check_files(files: Iterable[Path]) -> None:
    """Raise ``ValueError`` for a weight file that cannot be whole, with what to do about it."""
    for file in files:
        fault = _fault(file)
        if fault:
            raise ValueError(f"{file} {fault}")


def read_tensors(file: Path) -> dict[str, Tensor]:
    """Read a weight file, tensors only, without copying PyTorch's into memory before their use.

    ``ValueError``, naming the file, where it is not whole or holds anything but tensors.
    """
    check_files([file])
    if file.suffix == ".safetensors":
        with safe_open(file, "pt") as opened:
            return {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    return read_pickle(file, mmap=zipfile.is_zipfile(file))


def read_pickle(file: str | Path, mmap: bool = False) -> dict[str, Tensor]:
    """Read a state dict of PyTorch's, tensors only; ``ValueError``, naming the file, otherwise."""
    check_files([Path(file)])
    try:
        return torch.load(file, map_location="cpu", weights_only=True, mmap=mmap)
    except Exception as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"{file} cannot be read as tensors ({reason}); fetch it again where it was published"
        ) from error


class Tensors:
    """The tensors of some weight files by name, each read when it is asked for."""

    def __init__(self, files: Iterable[Path]) -> None:
        self._files: dict[str, Path] = {}
        self._held: dict[Path, dict[str, Tensor]] = {}
        for file in files:
            check_files([file])
            for name in self._names(file):
                self._files[name] = file

    def __iter__(self):
        return iter(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def __getitem__(self, name: str) -> Tensor:
        """Read one tensor, on the CPU and in the type of its file."""
        file = self._files[name]
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                return opened.get_tensor(name)
        return self._held[file][name]

    def _names(self, file: Path) -> list[str]:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                return list(opened.keys())
        self._held[file] = read_pickle(file, mmap=zipfile.is_zipfile(file))  # pages, not copies
        return list(self._held[file])


def _fault(file: Path) -> str:
    """Say what is wrong with a weight file and what to do, or nothing."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        start = stream.read(len(POINTER))
    if start == POINTER:
        return (
            "is a git-LFS pointer, not the weights; run `git lfs pull` in its repository, or fetch "
            "it with `hf download`"
        )
    if size == 0:
        return "is empty; fetch it again"
    if file.suffix == ".safetensors":
        return _fault_of_safetensors(file)
    if zipfile.is_zipfile(file) or start.startswith(_PICKLE):
        return ""
    return f"is cut off or no file of PyTorch's, at {size:,} bytes; fetch it again"


def _fault_of_safetensors(file: Path) -> str:
    try:
        with safe_open(file, "pt"):
            return ""
    except SafetensorError as error:
        return (
            f"is cut off or no safetensors file, at {file.stat().st_size:,} bytes ({error}); "
            "fetch it again"
        )
