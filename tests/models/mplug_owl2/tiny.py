"""Tiny networks of mPLUG-Owl2, systems of them, and what they are compared with."""

from __future__ import annotations

import copy
from dataclasses import replace as changed
from functools import lru_cache

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from mmn_utils.models.mplug_owl2.config import AbstractorConfig, MplugOwl2Config, VisionConfig
from mmn_utils.models.mplug_owl2.network import MplugOwl2ForCausalLM
from mmn_utils.models.mplug_owl2.system import MplugOwl2Facts, build_mplug_owl2
from tests.tiny import PADDING, tiny_tokenizer

VISION = VisionConfig(
    hidden_size=24,
    intermediate_size=40,
    num_hidden_layers=2,
    num_attention_heads=3,
    image_size=28,
    patch_size=7,
)
ABSTRACTOR = AbstractorConfig(
    num_learnable_queries=5,
    hidden_size=24,
    intermediate_size=20,
    num_hidden_layers=2,
    num_attention_heads=4,
)
CONFIG = MplugOwl2Config(
    vocab_size=len(tiny_tokenizer()) + PADDING,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=3,
    num_attention_heads=4,
    num_key_value_heads=2,
    max_position_embeddings=96,
    rms_norm_eps=2e-5,
    vision=VISION,
    abstractor=ABSTRACTOR,
)
FULL_HEADS = changed(CONFIG, num_key_value_heads=4)
SPAN = (3, 9)


def lively(network: nn.Module, seed: int = 0) -> nn.Module:
    """Give every parameter random values, norms around 1."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm = "norm" in name or "ffn_ln" in name
            parameter.copy_(0.25 * noise + float(is_norm and name.endswith("weight")))
    return network.eval()


@lru_cache(maxsize=4)
def _network(config: MplugOwl2Config, seed: int) -> MplugOwl2ForCausalLM:
    return lively(MplugOwl2ForCausalLM(config), seed).requires_grad_(False)


def network(config: MplugOwl2Config = CONFIG, seed: int = 0) -> MplugOwl2ForCausalLM:
    return copy.deepcopy(_network(config, seed))


def tiny(seed: int = 0, config: MplugOwl2Config = CONFIG, **facts):
    facts = {"before": "The horse", "prefix": " A picture of", **facts}
    facts = MplugOwl2Facts(name="tiny", vocabulary=len(tiny_tokenizer()), **facts)
    return build_mplug_owl2(facts, network(config, seed), tiny_tokenizer())


def as_llama(model: MplugOwl2ForCausalLM) -> LlamaForCausalLM:
    """Build transformers' LLaMA with the weights for text."""
    config = model.config
    llama = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=config.vocab_size,
            hidden_size=config.hidden_size,
            intermediate_size=config.intermediate_size,
            num_hidden_layers=config.num_hidden_layers,
            num_attention_heads=config.num_attention_heads,
            num_key_value_heads=config.num_key_value_heads,
            max_position_embeddings=config.max_position_embeddings,
            rms_norm_eps=config.rms_norm_eps,
            tie_word_embeddings=False,
        )
    )
    state = {}
    for name, tensor in model.state_dict().items():
        if "vision_model" not in name and "abstractor" not in name and ".multiway.1" not in name:
            state[name.replace(".multiway.0", "")] = tensor
    llama.load_state_dict(state)
    return llama.eval().requires_grad_(False)


def embeddings(rows: int = 2, tokens: int = 14, seed: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(rows, tokens, CONFIG.hidden_size, generator=generator)


def llama_tokenizer() -> PreTrainedTokenizerFast:
    """Build a tokenizer that cuts the template's text as LLaMA's does."""
    pieces = "<unk> <s> </s> ▁US ER : ▁ ▁Desc ribe ▁the ▁image ▁in ▁few ▁words . ▁A SS IST ANT"
    pieces = [*pieces.split(), "▁An", "▁of", "▁a", "a"]
    unigram = models.Unigram([(piece, -1.0) for piece in pieces], unk_id=0)
    tokenizer = Tokenizer(unigram)
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="first", split=False)
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="first")
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
