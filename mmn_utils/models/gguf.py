"""GGUF files: quantised weights, turned once into float32 in a folder of transformers' own.

Everything behind then reads an ordinary folder: it can edit weights, which quantised ones
cannot be, and starts without the quarter of a minute that the reading takes.
"""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from mmn_utils.cache import atomic, locked
from mmn_utils.compat import quiet_loading
from mmn_utils.models.base import files_hash
from mmn_utils.models.hub import MissingParts, load_whole
from mmn_utils.models.weights import weight_files
from mmn_utils.presets import data_path

GGUF = ".gguf"
_START = b"GGUF"


def dequantised(file: str | Path, cache: str | Path | None = None) -> Path:
    """Return a folder with config, weights in float32 and tokenizer of a GGUF file.

    Made once, in ``cache`` (data/cache/models), under the file's name and the hash of its
    bytes. ``ValueError`` for what is no GGUF file or not whole, or lacks weights of its model;
    ``MissingParts`` where nothing here reads such files.
    """
    file = Path(file)
    _require_gguf(file)
    home = Path(cache or data_path("cache", "models"))
    folder = home / f"{file.stem}-{files_hash([file])[:16]}"
    with locked(home):
        if not weight_files(folder):
            _require_reader()
            with atomic(folder) as fresh:
                _write(file, fresh)
    return folder


def _require_gguf(file: Path) -> None:
    if not file.is_file():
        raise ValueError(f"{file} is not there; give a GGUF file")
    with file.open("rb") as stream:
        start = stream.read(len(_START))
    if start != _START:
        raise ValueError(f"{file} begins with {start!r}, not as a GGUF file does; fetch it again")


def _require_reader() -> None:
    from transformers.utils import is_gguf_available

    if not is_gguf_available():
        raise MissingParts(
            "the package gguf, which reads such files, is not here: pip install gguf"
        )


@quiet_loading()
def _read(file: Path) -> tuple[nn.Module, PreTrainedTokenizerBase]:
    """Read model and tokenizer by transformers, every weight of the model."""
    try:
        model = load_whole(
            AutoModelForCausalLM, file.parent, dtype=torch.float32, gguf_file=file.name
        )
        return model, AutoTokenizer.from_pretrained(file.parent, gguf_file=file.name)
    except Exception as error:  # a file that is cut off ends in any error
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise ValueError(
            f"{file} does not give a whole model ({reason}); fetch it again"
        ) from error


def _write(file: Path, folder: Path) -> None:
    """Write what transformers reads out of a GGUF file as it would lie on the hub."""
    model, tokenizer = _read(file)
    # The weights are plain now, but the configuration still says quantised, and transformers
    # refuses to save such a model.
    config = model.config
    if hasattr(config, "quantization_config"):
        del config.quantization_config
    folder.mkdir(parents=True)
    tokenizer.save_pretrained(folder)
    config.save_pretrained(folder)
    tied = set(model.all_tied_weights_keys or ())
    state = {key: value.contiguous() for key, value in model.state_dict().items()}
    kept = {key: value for key, value in state.items() if key not in tied}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})
