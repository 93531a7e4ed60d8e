"""Train the miniature's language model: GPT-J's class, text alone.

The model is ``transformers.GPTJForCausalLM``; only training uses the fused
forward below, which the tests compare with the class's own.
"""

from __future__ import annotations

import argparse
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path

import torch
import torch.nn.functional as F
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

from mmn_utils.miniature.corpus import CorpusOptions, documents
from mmn_utils.miniature.world import WORK, World, load_world
from mmn_utils.training.loop import Schedule, Summand, fast_autocast, keep_freed_memory, train

END = "<|endoftext|>"


@dataclass(frozen=True)
class LanguageOptions:
    """Shape and training of the language model."""

    layers: int = 6
    width: int = 256
    heads: int = 4
    rotary: int = 32
    positions: int = 256
    vocabulary: int = 1536
    row: int = 224  # tokens in a row of a batch
    batch: int = 16
    steps: int = 1200
    rate: float = 2e-3
    embedding_std: float = 1.0  # GPT-J's .02 lets the first MLP dwarf the word
    drop_first: float = 0.5  # chance that a row goes without the first layer's MLP
    drop_other: float = 0.17
    seed: int = 0
    corpus: CorpusOptions = field(default_factory=CorpusOptions)


def build_tokenizer(world: World, options: LanguageOptions) -> PreTrainedTokenizerFast:
    """Learn a byte-level BPE from the corpus, as GPT-2's is."""
    texts = documents(world, options.corpus, seed=options.seed + 1)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=options.vocabulary,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator((next(texts) for _ in range(12_000)), trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END)
    fast.pad_token = END
    return fast


def build_model(options: LanguageOptions, tokenizer: PreTrainedTokenizerFast) -> GPTJForCausalLM:
    """Build the untrained model; word embeddings start with a standard deviation of their own."""
    torch.manual_seed(options.seed)
    config = GPTJConfig(
        vocab_size=len(tokenizer),
        n_positions=options.positions,
        n_embd=options.width,
        n_layer=options.layers,
        n_head=options.heads,
        rotary_dim=options.rotary,
        embd_pdrop=0.0,
        attn_pdrop=0.0,
        resid_pdrop=0.0,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = GPTJForCausalLM(config)
    torch.nn.init.normal_(model.transformer.wte.weight, std=options.embedding_std)
    return model


def rotate(x: torch.Tensor, table: torch.Tensor, rotary: int) -> torch.Tensor:
    """Turn the first ``rotary`` of each head's dimensions pairwise, as GPT-J does.

    ``x`` (B, heads, T, head width); ``table`` (T, rotary), sines then cosines.
    """
    sin, cos = (part.repeat_interleave(2, dim=-1).to(x.dtype) for part in table.chunk(2, dim=-1))
    turning, rest = x[..., :rotary], x[..., rotary:]
    turned = torch.stack((-turning[..., 1::2], turning[..., ::2]), dim=-1).flatten(-2)
    return torch.cat((turning * cos + turned * sin, rest), dim=-1)


@dataclass(frozen=True)
class Thinned:
    """Some of a picture's tokens, at the head of the embeddings, standing for all of them.

    Those at ``kept`` (n,), ascending, of ``whole``: each has its own position and is attended
    to as ``whole / n`` tokens are.
    """

    kept: torch.Tensor
    whole: int

    def positions(self, tokens: int) -> torch.Tensor:
        """Return the positions (T,) of so many embeddings: the others follow the picture."""
        behind = torch.arange(self.whole, self.whole + tokens - len(self.kept))
        return torch.cat((self.kept, behind))

    def log_counts(self, tokens: int) -> torch.Tensor:
        """Return the logarithm (T,) of how many tokens each embedding is attended to as."""
        counts = torch.zeros(tokens)
        counts[: len(self.kept)] = math.log(self.whole / len(self.kept))
        return counts


def fused_hidden(
    model: GPTJForCausalLM,
    embeds: torch.Tensor,
    keep: torch.Tensor | None = None,
    count: int | None = None,
    thinned: Thinned | None = None,
) -> torch.Tensor:
    """Run the blocks with fused attention; (B, T, d) to (B, T, d) before the final norm.

    ``keep`` (layers, B) switches the MLP of a layer off for a row of the batch. With
    ``count`` the last block goes on with the last ``count`` tokens alone: (B, count, d).
    Rows have no padding on their left. With ``thinned`` the embeddings begin with some of a
    picture's tokens.
    """
    x, heads, tokens = embeds, model.config.n_head, embeds.shape[1]
    positions = slice(tokens) if thinned is None else thinned.positions(tokens)
    log_counts = None if thinned is None else thinned.log_counts(tokens)
    for index, block in enumerate(model.transformer.h):
        h, attention = block.ln_1(x), block.attn
        k, v = (_heads(layer(h), heads) for layer in (attention.k_proj, attention.v_proj))
        if index == len(model.transformer.h) - 1 and count:
            h, x = h[:, -count:], x[:, -count:]
        q = _heads(attention.q_proj(h), heads)
        table = attention.embed_positions[positions].to(h.device)
        q, k = (rotate(t, table[-t.shape[2] :], attention.rotary_dim) for t in (q, k))
        mixed = causal_attention(q, k, v, log_counts)
        x = x + attention.out_proj(mixed.transpose(1, 2).flatten(2))
        x = add_written(x, h, partial(_mlp, block.mlp), None if keep is None else keep[index])
    return x


def _mlp(mlp: torch.nn.Module, h: torch.Tensor) -> torch.Tensor:
    """Return what an MLP writes, by GELU's fast kernel in place of the class's own formula."""
    return mlp.fc_out(F.gelu(mlp.fc_in(h), approximate="tanh"))


def add_written(
    x: torch.Tensor, h: torch.Tensor, mlp: Callable, keep: torch.Tensor | None
) -> torch.Tensor:
    """Add to x (B, T, d) what an MLP writes of h, in the rows that ``keep`` (B,) has, or in all.

    Rows that go without it cost nothing.
    """
    if keep is None:
        return x + mlp(h)
    rows = keep.nonzero().flatten()
    return x.index_add(0, rows, mlp(h[rows]).to(x.dtype))


def _heads(x: torch.Tensor, heads: int) -> torch.Tensor:
    """Split (B, T, d) into heads, (B, heads, T, d / heads)."""
    return x.unflatten(2, (heads, -1)).transpose(1, 2)


def causal_attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, log_counts: torch.Tensor | None = None
) -> torch.Tensor:
    """Attend from the last tokens, q (B, heads, n, c), to all before, k and v (B, heads, T, c).

    ``log_counts`` (T,) is the logarithm of how many tokens each of k counts as, one without it.
    """
    queries, keys = q.shape[2], k.shape[2]
    if queries == keys and log_counts is None:
        return F.scaled_dot_product_attention(q, k, v, is_causal=True)
    seen = torch.ones(queries, keys, dtype=torch.bool, device=q.device).tril(keys - queries)
    if log_counts is not None:
        seen = torch.where(seen, log_counts.to(q), -torch.inf)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=seen)


def logits_of(model: GPTJForCausalLM, hidden: torch.Tensor) -> torch.Tensor:
    """Apply the final norm and the unembedding."""
    return model.lm_head(model.transformer.ln_f(hidden))


def last_logits(
    model: GPTJForCausalLM, embeds: torch.Tensor, count: int, thinned: Thinned | None = None
) -> torch.Tensor:
    """Predict what follows the last ``count`` of embeddings (B, T, d): (B, count, V)."""
    return logits_of(model, fused_hidden(model, embeds, count=count, thinned=thinned))


class Rows:
    """Rows of packed documents, a pure function of (seed, step)."""

    def __init__(self, world, tokenizer, options: LanguageOptions, seed: int):
        self.world, self.tokenizer, self.options, self.seed = world, tokenizer, options, seed

    def texts(self, step: int) -> Iterator[str]:
        """Yield the documents of a step, as text."""
        return documents(self.world, self.options.corpus, seed=self.seed * 1_000_003 + step)

    def documents(self, step: int) -> Iterator[list[int]]:
        """Yield the documents of a step, as token ids that end with the end of text."""
        for text in self.texts(step):
            yield [*self.tokenizer.encode(text), self.tokenizer.eos_token_id]

    def batch(self, step: int) -> torch.Tensor:
        """Return (batch, row) token ids; each row starts with a document."""
        options, found = self.options, self.documents(step)
        rows = []
        for _ in range(options.batch):
            row: list[int] = []
            while len(row) < options.row:
                row += next(found)
            rows.append(row[: options.row])
        return torch.tensor(rows)


def _keep(options: LanguageOptions, step: int) -> torch.Tensor:
    """Draw which MLPs run in this step: (layers, batch) of 0 and 1."""
    generator = torch.Generator().manual_seed(options.seed * 7_919 + step)
    chance = torch.full((options.layers, 1), options.drop_other)
    chance[0] = options.drop_first
    return (torch.rand(options.layers, options.batch, generator=generator) >= chance).float()


def text_losses(logits_for: Callable, rows: Rows, step: int, part: int = 8) -> list[Summand]:
    """Return the summands of the loss of a step's rows, with some of the MLPs left out.

    ``logits_for`` takes ids (B, T) and ``keep`` as ``fused_hidden`` does, to logits
    (B, T - 1, V) of all tokens but the first; it is given ``part`` rows at a time.
    """
    whole, keep = rows.batch(step), _keep(rows.options, step)

    def summand(start: int) -> torch.Tensor:
        ids = whole[start : start + part]
        with fast_autocast():
            logits = logits_for(ids, keep[:, start : start + part])
        loss = F.cross_entropy(logits.float().flatten(0, 1), ids[:, 1:].flatten())
        return loss * len(ids) / len(whole)

    return [partial(summand, start) for start in range(0, len(whole), part)]


def fit(name: str, model: torch.nn.Module, logits_for: Callable, rows: Rows, work: Path) -> None:
    """Train a language model on rows, from nothing or from its last checkpoint."""
    options = rows.options
    train(
        name,
        list(model.parameters()),
        partial(text_losses, logits_for, rows),
        Schedule(steps=options.steps, rate=options.rate),
        work,
        items_per_step=options.batch * options.row,
        state=model,
    )


def save_language_model(model, tokenizer, options: LanguageOptions, folder: Path):
    """Save in half precision with how it was made; return it as it is now stored, in float32."""
    model.half().save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "training.json").write_text(json.dumps(asdict(options), indent=1) + "\n")
    return model.float().eval()


def train_language_model(
    options: LanguageOptions, folder: Path, work: Path, world: World | None = None
) -> GPTJForCausalLM:
    """Train from nothing (or from the last checkpoint) and save to ``folder`` in half precision."""
    world = world or load_world()
    tokenizer = build_tokenizer(world, options)
    model = build_model(options, tokenizer)

    def logits_for(ids: torch.Tensor, keep: torch.Tensor) -> torch.Tensor:
        return logits_of(model, fused_hidden(model, model.transformer.wte(ids), keep)[:, :-1])

    fit("language", model, logits_for, Rows(world, tokenizer, options, options.seed + 2), work)
    return save_language_model(model, tokenizer, options, folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--folder", type=Path, default=Path("data/miniature/language_model"))
    parser.add_argument("--work", type=Path, default=WORK)
    parser.add_argument("--steps", type=int, default=LanguageOptions.steps)
    arguments = parser.parse_args()
    keep_freed_memory()
    train_language_model(LanguageOptions(steps=arguments.steps), arguments.folder, arguments.work)


if __name__ == "__main__":
    main()
