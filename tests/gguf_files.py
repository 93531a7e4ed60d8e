"""GGUF files for tests: a tiny LLaMA with its tokenizer, as llama.cpp's converter writes them."""

from __future__ import annotations

import json
from pathlib import Path

import gguf
import numpy as np
from gguf.quants import quantize
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from tests.tiny import tiny_tokenizer
from tests.tiny_gated import tiny_llama

BASE = 5_000.0  # of the rotary frequencies: not what transformers takes where none is said
NORMAL, CONTROL = 1, 3  # kinds of tokens
NAMES = {  # of a layer's tensors, transformers' and llama.cpp's
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ffn_norm",
}


def gguf_llama(seed: int = 0) -> LlamaForCausalLM:
    """Build the LLaMA that a test's file holds: 2 layers, width 64, 96 gated units."""
    sizes = {"layers": 2, "width": 64, "units": 96, "rope_theta": BASE}
    return tiny_llama(seed, vocabulary=len(tiny_tokenizer()), **sizes)


def file_name(name: str) -> str:
    """Return llama.cpp's name of a tensor of transformers' LLaMA."""
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    stem = name.removesuffix(".weight")
    if stem in whole:
        return f"{whole[stem]}.weight"
    layer, rest = stem.removeprefix("model.layers.").split(".", 1)
    return f"blk.{layer}.{NAMES[rest]}.weight"


def stored(model: LlamaForCausalLM, kind: gguf.GGMLQuantizationType | None) -> dict:
    """Return a model's tensors as a file has them: (array, kind) by llama.cpp's names.

    Rows of queries and keys lie in llama.cpp's order, where the two entries that are turned
    together are neighbours; ``kind`` is that of matrices, None for float32.
    """
    heads = {"attn_q": model.config.num_attention_heads, "attn_k": model.config.num_key_value_heads}
    found = {}
    for key, value in model.state_dict().items():
        name, array = file_name(key), value.numpy()
        for part, count in heads.items():
            if part in name:
                array = np.concatenate([
                    np.stack(np.split(head, 2), 1).reshape(head.shape)
                    for head in np.split(array, count)
                ])  # fmt: skip
        plain = kind is None or array.ndim == 1
        found[name] = (array, None) if plain else (quantize(array, kind), kind)
    return found


def write_gguf(
    file: Path,
    model: LlamaForCausalLM,
    kind: gguf.GGMLQuantizationType | None = None,
    without: str = "",
    architecture: str = "llama",
) -> Path:
    """Write a model and ``tiny_tokenizer`` to a file, one tensor left out by its name."""
    writer, config = gguf.GGUFWriter(file, architecture), model.config
    writer.add_name("tiny")
    writer.add_block_count(config.num_hidden_layers)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_rope_freq_base(BASE)
    writer.add_rope_dimension_count(config.head_dim)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_vocab_size(config.vocab_size)
    _add_tokenizer(writer, tiny_tokenizer())
    for name, (array, of_array) in stored(model, kind).items():
        if name != without:
            writer.add_tensor(name, array, raw_dtype=of_array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return file


def _add_tokenizer(writer: gguf.GGUFWriter, tokenizer: PreTrainedTokenizerFast) -> None:
    learnt = json.loads(tokenizer.backend_tokenizer.to_str())["model"]["merges"]
    tokens = tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    special = set(tokenizer.all_special_tokens)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([CONTROL if token in special else NORMAL for token in tokens])
    writer.add_token_merges([" ".join(pair) for pair in learnt])
    writer.add_bos_token_id(tokenizer.bos_token_id)
    writer.add_eos_token_id(tokenizer.eos_token_id)
    writer.add_unk_token_id(tokenizer.eos_token_id)
    writer.add_pad_token_id(tokenizer.eos_token_id)
    writer.add_add_bos_token(False)
    writer.add_add_space_prefix(False)
