"""Train the language model of paper B's miniatures: LLaMA's class, text alone.

The text, its rows and what was found to matter in them are those of ``language``; the
prompts in it are those of the chat systems. The tokenizer is the one of paper A's
miniature, whose ids stay as they are, and the prompts' words behind them.

Only training uses the forward below, which the tests compare with the class's own.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from tokenizers import Tokenizer
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb, repeat_kv

from mmn_utils.miniature.chat import TEMPLATES, ChatRows
from mmn_utils.miniature.commands import parser_of
from mmn_utils.miniature.language import (
    LanguageOptions,
    add_written,
    causal_attention,
    fit,
    save_language_model,
)
from mmn_utils.miniature.world import WORLD_FILE, World, load_world
from mmn_utils.training.loop import keep_freed_memory

BEGIN = "<s>"


@dataclass(frozen=True)
class LlamaOptions(LanguageOptions):
    """Shape and training; ``units`` is the width of the gated MLPs."""

    steps: int = 900
    rotary: int = 64  # LLaMA turns the whole of each head
    units: int = 704


# --- the tokenizer ------------------------------------------------------------------------


def chat_tokenizer(base: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """Add the words of the prompts and a token for the beginning of text; other ids stay.

    The tokenizer itself puts no beginning in front of what it encodes.
    """
    texts = [text for one in TEMPLATES.values() for text in (one.before, one.behind)]
    longer = PreTrainedTokenizerFast(
        tokenizer_object=merge_words(base.backend_tokenizer, texts),
        eos_token=base.eos_token,
        pad_token=base.eos_token,
    )
    longer.add_special_tokens({"bos_token": BEGIN})
    return longer


def merge_words(tokenizer: Tokenizer, texts: Iterable[str]) -> Tokenizer:
    """Let a byte-level BPE merge on until each word of some texts is a single token.

    New merges come last, so what was a single token before still is.
    """
    words = [word for text in texts for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    state = json.loads(tokenizer.to_str())
    known, merges = state["model"]["vocab"], state["model"]["merges"]
    for word in dict.fromkeys(words):
        pieces = [token.value for token in tokenizer.model.tokenize(word)]
        for end in range(2, len(pieces) + 1):
            merges.append(["".join(pieces[: end - 1]), pieces[end - 1]])
            known.setdefault("".join(pieces[:end]), len(known))
        tokenizer = Tokenizer.from_str(json.dumps(state))
    return tokenizer


# --- the model ----------------------------------------------------------------------------


def build_llama(options: LlamaOptions, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build the untrained model; word embeddings start with a standard deviation of their own."""
    if options.rotary * options.heads != options.width:
        raise ValueError(
            f"rotary = {options.rotary}: LLaMA turns the whole of each head, "
            f"{options.width // options.heads}"
        )
    torch.manual_seed(options.seed)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=options.width,
        intermediate_size=options.units,
        num_hidden_layers=options.layers,
        num_attention_heads=options.heads,
        max_position_embeddings=options.positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        rms_norm_eps=1e-5,
        tie_word_embeddings=False,
    )
    model = LlamaForCausalLM(config)
    torch.nn.init.normal_(model.model.embed_tokens.weight, std=options.embedding_std)
    return model


def llama_hidden(
    model: LlamaForCausalLM, embeds: Tensor, keep: Tensor | None = None, count: int | None = None
) -> Tensor:
    """Run the layers with fused attention; (B, T, d) to (B, T, d) before the final norm.

    ``keep`` (layers, B) switches the MLP of a layer off for a row of the batch. With
    ``count`` the last layer goes on with the last ``count`` tokens alone: (B, count, d).
    Rows have no padding on their left.
    """
    rotary = model.model.rotary_emb(embeds, torch.arange(embeds.shape[1])[None])
    x = embeds
    for index, layer in enumerate(model.model.layers):
        last = count if index == len(model.model.layers) - 1 else None
        attended = _attend(layer.self_attn, layer.input_layernorm(x), rotary, last)
        x = x[:, -attended.shape[1] :] + attended
        h = layer.post_attention_layernorm(x)
        x = add_written(x, h, layer.mlp, None if keep is None else keep[index])
    return x


def _attend(
    attention, h: Tensor, rotary: tuple[Tensor, Tensor], count: int | None = None
) -> Tensor:
    """Return one attention layer's output for all tokens (B, T, d), or the last ``count``."""
    layers = (attention.q_proj, attention.k_proj, attention.v_proj)
    q, k, v = (layer(h).unflatten(-1, (-1, attention.head_dim)).transpose(1, 2) for layer in layers)
    q, k = apply_rotary_pos_emb(q, k, *(table.to(q.dtype) for table in rotary))
    k, v = (repeat_kv(part, attention.num_key_value_groups) for part in (k, v))
    mixed = causal_attention(q[:, :, -(count or h.shape[1]) :], k, v)
    return attention.o_proj(mixed.transpose(1, 2).flatten(2))


def next_logits(model: LlamaForCausalLM, ids: Tensor, keep: Tensor | None = None) -> Tensor:
    """Predict each next token of ids (B, T): (B, T - 1, V)."""
    hidden = llama_hidden(model, model.model.embed_tokens(ids), keep)
    return model.lm_head(model.model.norm(hidden[:, :-1]))


def last_logits(model: LlamaForCausalLM, embeds: Tensor, count: int) -> Tensor:
    """Predict what follows the last ``count`` of embeddings (B, T, d): (B, count, V)."""
    return model.lm_head(model.model.norm(llama_hidden(model, embeds, count=count)))


# --- training -----------------------------------------------------------------------------


def train_llama(
    options: LlamaOptions,
    tokenizer: PreTrainedTokenizerFast,
    folder: Path,
    work: Path,
    world: World | None = None,
) -> LlamaForCausalLM:
    """Train from nothing (or from the last checkpoint) and save to ``folder`` in half precision."""
    model = build_llama(options, tokenizer)
    rows = ChatRows(world or load_world(), tokenizer, options, options.seed + 2)
    fit("llama", model, partial(next_logits, model), rows, work)
    return save_language_model(model, tokenizer, options, folder)


def load_llama(folder: Path) -> tuple[LlamaForCausalLM, PreTrainedTokenizerFast]:
    """Load the trained language model and its tokenizer, float32, frozen."""
    language = LlamaForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return language.eval().requires_grad_(False), AutoTokenizer.from_pretrained(folder)


def main() -> None:
    """Train the language model of the chat systems, or go on training it."""
    parser = parser_of(main.__doc__)
    parser.add_argument("--steps", type=int, default=LlamaOptions.steps)
    arguments = parser.parse_args()
    keep_freed_memory()
    options = replace(LlamaOptions(), steps=arguments.steps)
    tokenizer = chat_tokenizer(AutoTokenizer.from_pretrained(arguments.data / "language_model"))
    world = load_world(arguments.data / WORLD_FILE.name)
    train_llama(options, tokenizer, arguments.data / "llama", arguments.work, world)


if __name__ == "__main__":
    main()
