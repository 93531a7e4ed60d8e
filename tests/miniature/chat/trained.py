"""Tiny trainings of the chat systems, and the parts that they begin with."""

from __future__ import annotations

from dataclasses import replace

import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel

from mmn_utils.miniature import instructblip, llava, mplug_owl2
from mmn_utils.miniature.captioning import CaptionIds
from mmn_utils.miniature.clip import patch_states
from mmn_utils.miniature.corpus import CorpusOptions
from mmn_utils.miniature.instructblip import InstructBlipOptions
from mmn_utils.miniature.llama import LlamaOptions, load_llama
from mmn_utils.miniature.llava import LlavaOptions
from mmn_utils.miniature.mplug_owl2 import MplugOwl2Options
from mmn_utils.training.features import statistics
from mmn_utils.training.loop import Schedule

SIDE, PATCH, SCENES = 32, 8, 8
TEXT = LlamaOptions(
    layers=2,
    width=32,
    heads=2,
    rotary=16,
    units=48,
    positions=128,
    row=24,
    batch=2,
    corpus=CorpusOptions(longest=12),
)
OPTIONS = {
    "llava": LlavaOptions(
        batch=2,
        alignment=Schedule(3, 1e-2),
        tuning=Schedule(5, 1e-2, save_every=2),
        text=TEXT,
    ),
    "instructblip": InstructBlipOptions(
        depth=3,
        queries=3,
        contrast_width=8,
        contrast_batch=4,
        contrast=Schedule(3, 1e-2),
        batch=2,
        speaking=Schedule(5, 1e-2, save_every=2),
    ),
    "mplug_owl2": MplugOwl2Options(
        queries=3, depth=1, units=20, batch=2, stage=Schedule(5, 1e-2, save_every=2)
    ),
}
MAKE = {
    "llava": llava.make_llava,
    "instructblip": instructblip.make_instructblip,
    "mplug_owl2": mplug_owl2.make_mplug_owl2,
}
LAST = {
    "llava": "llava_tuning",
    "instructblip": "instructblip_speaking",
    "mplug_owl2": "mplug_owl2",
}
SYSTEMS = tuple(MAKE)


def make(name, data, work, scenes, world):
    return MAKE[name](scenes, world, data, work, OPTIONS[name])


def tiny_clip() -> CLIPModel:
    torch.manual_seed(5)
    shape = {"intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"hidden_size": 24, "image_size": SIDE, "patch_size": PATCH, **shape}
    text = {"hidden_size": 16, "vocab_size": 9, **shape}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with torch.no_grad():
        for parameter in clip.vision_model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return clip.eval()


def vision_of(data):
    return CLIPModel.from_pretrained(data / "clip", dtype=torch.float32).vision_model


def trainer(name, data, scenes, world, **changes):
    """Build a trainer; also what it trains, whole."""
    options = replace(OPTIONS[name], **changes)
    language_model, tokenizer = load_llama(data / "llama")
    if name == "llava":
        whole = llava.join(vision_of(data), language_model)
        store = statistics(patch_states(whole.model.vision_tower, scenes.images, -2).numpy())
        ids = CaptionIds(scenes, world, tokenizer).ids
        return whole, llava.LlavaTrainer(
            whole, language_model, tokenizer, store, ids, world, options
        )
    if name == "instructblip":
        words = instructblip.qformer_tokenizer(world)
        whole = instructblip.join(vision_of(data), language_model, words, scenes.images, options)
        return whole, instructblip.InstructBlipTrainer(
            whole, tokenizer, words, scenes, world, options
        )
    whole = mplug_owl2.join(vision_of(data), language_model, tokenizer, options)
    return whole, mplug_owl2.MplugOwl2Trainer(whole, tokenizer, scenes, world, options)


def whole_loss(loss):
    """Return a loss that may come in summands."""
    return loss if isinstance(loss, torch.Tensor) else sum(summand() for summand in loss)


def pictures(scenes, rows=slice(None)):
    return [Image.fromarray(image) for image in scenes.images[rows]]


LEARN = {  # names of what learns, loss, stage, share of the loss that may be left
    "llava": ("multi_modal|language_model|lm_head", "tuning_losses", Schedule(40, 3e-2), 0.8),
    "instructblip": ("vision_model|query|qformer", "contrast_loss", Schedule(120, 2e-3), 0.85),
    "mplug_owl2": ("vision_model|abstractor|multiway.1", "losses", Schedule(40, 3e-2), 0.9),
}
