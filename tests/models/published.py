"""Tiny systems laid out as the published ones are: names of files and of tensors, shards, strays.

Names of tensors are those under which the checkpoints were published, written down here and not
those that the installed transformers would save.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPVisionModel

from mmn_utils.models.llava.original import _LLAMA_FACTS
from tests.models.llava.tiny import WIDTH, clip_config, tiny_whole
from tests.models.mplug_owl2.test_weights import llama_tokenizer
from tests.models.mplug_owl2.tiny import network
from tests.models.test_instructblip import qformer_words
from tests.models.test_instructblip import tiny_whole as tiny_instructblip
from tests.models.words import words
from tests.tiny import WIDTH as BEIT_WIDTH
from tests.tiny import tiny_hub_beit, tiny_language_model, tiny_tokenizer
from tests.tiny_gated import tiny_llama


@dataclass
class Repository:
    """One repository of the hub: its tensors by their published names, and how they lie there."""

    state: dict[str, Tensor]
    config: dict
    bin: bool = False
    shards: int = 2
    tokenizers: dict[str, object] = field(default_factory=dict)  # by folder

    def write(self, folder: Path) -> Path:
        folder.mkdir(parents=True)
        stem, end = ("pytorch_model", "bin") if self.bin else ("model", "safetensors")
        names, where = sorted(self.state), {}
        for i in range(self.shards):
            part = {name: self.state[name].contiguous() for name in names[i :: self.shards]}
            name = (
                f"{stem}-{i + 1:05}-of-{self.shards:05}.{end}"
                if self.shards > 1
                else f"{stem}.{end}"
            )
            save = torch.save if self.bin else save_file
            save(part, folder / name)
            where |= dict.fromkeys(part, name)
        if self.shards > 1:
            index = {"metadata": {}, "weight_map": where}
            (folder / f"{stem}.{end}.index.json").write_text(json.dumps(index))
        (folder / "config.json").write_text(json.dumps(self.config))
        for place, tokenizer in self.tokenizers.items():
            tokenizer.save_pretrained(folder / place)
        return folder


def renamed(state: dict[str, Tensor], *rules: tuple[str, str]) -> dict[str, Tensor]:
    """Rename tensors by regular expressions, one after the other."""
    found = {}
    for name, tensor in state.items():
        for pattern, to in rules:
            name = re.sub(pattern, to, name)
        found[name] = tensor.clone()
    return found


# --- LiMBeR -----------------------------------------------------------------------------


def gptj() -> Repository:
    """GPT-J: one file of PyTorch's, with the causal masks that older versions stored."""
    model = tiny_language_model(7, vocabulary=50400).half()
    state = dict(model.state_dict())
    for layer in range(model.config.n_layer):
        at = f"transformer.h.{layer}.attn"
        state[f"{at}.bias"] = torch.ones(1, 1, 8, 8, dtype=torch.bool)
        state[f"{at}.masked_bias"] = torch.tensor(-1e9)
    return Repository(state, model.config.to_dict(), bin=True, shards=1)


def beit() -> Repository:
    """BEiT as it was trained alone: inside a model with a norm and a head of its own."""
    model = tiny_hub_beit(7)
    state = renamed(
        model.state_dict(),
        (r"^shared_position_bias\.", "encoder.relative_position_bias."),
        (r"^layers\.", "encoder.layer."),
        (r"attention\.q_proj", "attention.attention.query"),
        (r"attention\.k_proj", "attention.attention.key"),
        (r"attention\.v_proj", "attention.attention.value"),
        (r"attention\.o_proj", "attention.output.dense"),
        (r"mlp\.fc1", "intermediate.dense"),
        (r"mlp\.fc2", "output.dense"),
        (r"^", "beit."),
    )
    state |= {"layernorm.weight": torch.ones(BEIT_WIDTH), "layernorm.bias": torch.zeros(BEIT_WIDTH)}
    state |= {"lm_head.weight": torch.ones(9, BEIT_WIDTH), "lm_head.bias": torch.zeros(9)}
    return Repository(state, model.config.to_dict(), bin=True, shards=1)


def projection(width: int = 32) -> dict[str, Tensor]:
    torch.manual_seed(7)
    return {"weight": torch.randn(width, BEIT_WIDTH), "bias": torch.randn(width)}


def limber(folder: Path) -> dict:
    folder.mkdir()
    tiny_tokenizer().save_pretrained(folder / "gpt2")
    torch.save(projection(), folder / "proj.ckpt")
    return {
        "language_model": gptj().write(folder / "gptj"),
        "encoder": beit().write(folder / "beit"),
        "tokenizer": folder / "gpt2",
        "projection": folder / "proj.ckpt",
    }


# --- LLaVA ------------------------------------------------------------------------------


def llava15(folder: Path) -> dict:
    """transformers' format, as it was called before its classes were rebuilt."""
    whole = tiny_whole(5).half()
    state = renamed(
        whole.state_dict(),
        (r"^model\.language_model\.", "language_model.model."),
        (r"^lm_head\.", "language_model.lm_head."),
        (r"^model\.multi_modal_projector\.", "multi_modal_projector."),
        (r"^model\.vision_tower\.", "vision_tower.vision_model."),
    )
    state["vision_tower.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    config = whole.config.to_dict()
    return {"checkpoint": Repository(state, config, tokenizers={".": words()}).write(folder / "hf")}


def llava(folder: Path) -> dict:
    """The authors' format: LLaMA with one linear projector, and the whole of CLIP elsewhere."""
    llama = tiny_llama(6, vocabulary=400).half()
    state = dict(llama.state_dict())
    torch.manual_seed(6)
    state["model.mm_projector.weight"] = torch.randn(32, WIDTH).half()
    state["model.mm_projector.bias"] = torch.randn(32).half()
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    vision = CLIPVisionModel(clip_config())
    clip = renamed(vision.state_dict(), (r"^", "vision_model."))
    clip["vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    clip["text_model.embeddings.token_embedding.weight"] = torch.ones(3, 4)
    clip |= {"text_projection.weight": torch.ones(4, 4), "logit_scale": torch.ones(())}
    clip["visual_projection.weight"] = torch.ones(4, WIDTH)
    configs = {"model_type": "clip", "vision_config": clip_config().to_dict()}
    home = Repository(clip, configs, bin=True, shards=1).write(folder / "clip")
    config = {key: getattr(llama.config, key) for key in _LLAMA_FACTS if key != "rope_theta"}
    config |= {"mm_vision_tower": str(home), "model_type": "llava", "mm_vision_select_layer": -2}
    tokenizers = {".": words(placeholder=False)}
    made = Repository(state, config, bin=True, tokenizers=tokenizers)
    return {"checkpoint": made.write(folder / "llava"), "vision_tower": home}


# --- the others of paper B --------------------------------------------------------------


def instructblip(folder: Path) -> dict:
    whole = tiny_instructblip(5).half()
    state = renamed(whole.state_dict())
    state["qformer.embeddings.position_ids"] = torch.arange(8)[None]
    tokenizers = {".": words(placeholder=False), "qformer_tokenizer": qformer_words()}
    made = Repository(state, whole.config.to_dict(), tokenizers=tokenizers)
    return {"checkpoint": made.write(folder / "instructblip")}


def mplug_owl2(folder: Path) -> dict:
    ours = network(seed=5)
    state = {name: tensor.half() for name, tensor in ours.state_dict().items()}
    state["model.layers.0.self_attn.rotary_emb.inv_freq"] = torch.ones(4)
    made = Repository(state, ours.config.to_dict(), bin=True, shards=3)
    made.tokenizers["."] = llama_tokenizer()
    return {"checkpoint": made.write(folder / "mplug")}


LAYOUTS: dict[str, Callable[[Path], dict]] = {
    "limber": limber,
    "llava": llava,
    "llava15": llava15,
    "instructblip": instructblip,
    "mplug_owl2": mplug_owl2,
}
