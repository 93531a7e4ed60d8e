"""Weights of mPLUG-Owl2: read from files, compared with the network's, saved, shared with LLaMA."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from mmn_utils.models.folders import write_facts
from mmn_utils.models.hub import read_config, read_ends
from mmn_utils.models.mplug_owl2.abstractor import grid_embedding, line_embedding
from mmn_utils.models.mplug_owl2.config import MplugOwl2Config
from mmn_utils.models.mplug_owl2.network import MplugOwl2ForCausalLM
from mmn_utils.models.mplug_owl2.system import NAME, MplugOwl2
from mmn_utils.models.weights import read_tensors, weight_files


def network_of(
    folder: Path, text: Sequence[Path], device: str, dtype: torch.dtype
) -> MplugOwl2ForCausalLM:
    """Build the model that config.json describes, with the folder's weights and those in ``text``.

    Where both have a tensor, the folder's own is taken.
    """
    with torch.device("meta"):
        network = MplugOwl2ForCausalLM(MplugOwl2Config.from_dict(read_config(folder)))
    state = text_weights(_read(text, device, dtype))
    state.update(_read(weight_files(folder), device, dtype))
    try:
        load_weights(network, state)
    except ValueError as error:
        raise ValueError(f"{folder}: {error}") from error
    network.generation_config = read_ends(folder)
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


_VISUAL = ("model.vision_model.", "model.visual_abstractor.")


def _read(files: Sequence[Path], device: str, dtype: torch.dtype) -> dict[str, Tensor]:
    """Read tensors to where they are used, and give them the type that they are used in."""
    state = {}
    for file in files:
        for name, tensor in read_tensors(file).items():
            visual = name.startswith(_VISUAL)
            state[name] = tensor.to(device, torch.float32 if visual else dtype)
    return state


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
    if (ends := model.language_model.generation_config).eos_token_id is not None:
        ends.save_pretrained(folder)
    write_facts(folder, NAME, model.facts, elsewhere)
    model.tokenizer.save_pretrained(folder)
    return folder


def _beyond(state: Mapping[str, Tensor], shared: Path) -> dict[str, Tensor]:
    """Leave out what a language model's folder holds, to the bit, in the model's type."""
    some = state["model.embed_tokens.weight"]
    text = text_weights(_read(weight_files(shared), some.device, some.dtype))
    same = {name for name, tensor in text.items() if name in state and _equal(tensor, state[name])}
    if not same:
        raise ValueError(f"{shared} has no tensor in common with the model; give its own LLaMA")
    return {name: tensor for name, tensor in state.items() if name not in same}


def _equal(one: Tensor, other: Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)
