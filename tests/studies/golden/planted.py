"""Tiny language models in the published layouts, and tables that print what they decode to."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pandas as pd
import torch
from safetensors.torch import save_file

from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.golden.decodings import Setting
from tests.tiny import PADDING, tiny_language_model, tiny_tokenizer
from tests.tiny_gated import tiny_llama

OWN = len(tiny_tokenizer()) - 40  # tokens of the system's vocabulary, as LiMBeR's is cut
LAYERS, UNITS = 3, 128
PRINTED = [Neuron(layer, unit) for layer in range(LAYERS) for unit in range(1, UNITS, 4)]


def gptj(folder: Path):
    """Lay a tiny GPT-J out as the hub has it, its tokenizer in a folder of its own."""
    model = tiny_language_model(3, vocabulary=len(tiny_tokenizer()), layers=LAYERS)
    model.save_pretrained(folder / "gptj", max_shard_size="100KB")
    tiny_tokenizer().save_pretrained(folder / "gpt2")
    return model, {"language_model": folder / "gptj", "tokenizer": folder / "gpt2"}


def tokens_by_hand(model, neuron: Neuron, setting: Setting, k: int = 5) -> list[str]:
    """Decode a neuron of GPT-J with its own modules, one at a time."""
    rounded = torch.bfloat16 if setting.rounding == "bfloat16" else torch.float32
    head, norm = model.lm_head, model.transformer.ln_f

    def read(tensor):
        return tensor.detach().to(rounded).float()

    vector = read(model.transformer.h[neuron.layer].mlp.fc_out.weight)[:, neuron.unit]
    if setting.decode_norm == "final":
        centred = vector - vector.mean()
        vector = centred / (centred.square().mean() + norm.eps).sqrt()
        vector = vector * read(norm.weight) + read(norm.bias)
    logits = read(head.weight) @ vector + (read(head.bias) if setting.decode_bias else 0)
    rows = OWN if setting.vocabulary == "own" else len(logits)
    order = logits[:rows].sort(descending=True).indices.tolist()
    return [tiny_tokenizer().decode([token]) for token in order[:k]]


def print_table_of_a(folder: Path, model, setting: Setting) -> None:
    """Write Table S.1 as if the paper had decoded this model under this setting."""
    rows = []
    for neuron in PRINTED:
        address = Neuron(neuron.layer + setting.layers_from, neuron.unit + setting.units_from)
        tokens = tokens_by_hand(model, neuron, setting)
        rows.append({"image": 1, "neuron": str(address), "patch": 0})
        rows[-1] |= {f"token_{i}": token for i, token in enumerate(tokens, 1)}
    pd.DataFrame(rows).to_csv(folder / "A-table-S1.csv", index=False, quoting=csv.QUOTE_ALL)


LAYOUTS = {  # what is in front of the decoder's and of the head's tensors in a checkpoint
    "llava": ("model.", ""),
    "llava15": ("language_model.model.", "language_model."),
    "llava15, saved lately": ("model.language_model.", ""),
    "instructblip": ("language_model.model.", "language_model."),
    "mplug_owl2": ("model.", ""),
}


def llama(folder: Path, layout: str, nested: bool):
    """Lay a tiny LLaMA out as a part of a checkpoint with an encoder, in two shards."""
    model = tiny_llama(4, vocabulary=len(tiny_tokenizer()) + PADDING)
    decoder, head = LAYOUTS[layout]
    state = {
        f"{decoder}{name.removeprefix('model.')}"
        if name.startswith("model.")
        else head + name: value
        for name, value in model.state_dict().items()
    }
    state["vision_tower.layers.0.mlp.down_proj.weight"] = torch.zeros(4, 4)
    names = sorted(state)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    for shard, part in zip(shards, (names[::2], names[1::2]), strict=True):
        save_file({name: state[name].half() for name in part}, folder / shard)
    where = {name: shards[place % 2] for place, name in enumerate(names)}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": where}))
    config = model.config.to_dict()
    facts = {"model_type": "llava", "text_config": config} if nested else config
    (folder / "config.json").write_text(json.dumps(facts | {"model_type": "llava"}))
    tiny_tokenizer().save_pretrained(folder)
    return model.half().float()
