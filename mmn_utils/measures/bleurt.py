"""BLEURT: a trained judge of a candidate against a reference, where a checkpoint is at hand.

Scale: what the checkpoint says, about 0 to 1 for BLEURT-20; no number without one.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertTokenizer,
    DebertaV2Tokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    RemBertConfig,
    RemBertForSequenceClassification,
)
from transformers.utils import cached_file, is_protobuf_available, is_sentencepiece_available

from mmn_utils.compat import quiet_loading
from mmn_utils.measures.encoder import weights_identifier
from mmn_utils.measures.pairs import Pair, check_pairs, over_references
from mmn_utils.memory import in_batches

MAX_LENGTH = 512  # tokens of reference and candidate together, in BLEURT's checkpoints
NO_CHECKPOINT = "not tested: no checkpoint"
SHARED_FACTS = (
    "vocab_size",
    "hidden_size",
    "num_hidden_layers",
    "num_attention_heads",
    "intermediate_size",
    "hidden_act",
    "max_position_embeddings",
    "type_vocab_size",
    "layer_norm_eps",
    "pad_token_id",
)  # of a port's configuration with BERT's and RemBERT's


@dataclass(frozen=True)
class BleurtResult:
    """BLEURT of each candidate, float64 (candidates,); None where it was not tested.

    ``note`` says which checkpoint gave the numbers, or why there are none.
    """

    scores: np.ndarray | None
    note: str

    @property
    def tested(self) -> bool:
        """Say whether there are numbers."""
        return self.scores is not None


class Bleurt:
    """A checkpoint of the published form: (reference, candidate) to encoder to one number."""

    def __init__(self, model: Any, tokenizer: Any, name: str = "bleurt") -> None:
        """Take a regression model as it is (device, dtype) with its tokenizer.

        ValueError where the model gives more than one number, or lacks tokens that the
        tokenizer has.
        """
        if model.config.num_labels != 1:
            raise ValueError(
                f"{name} gives {model.config.num_labels} numbers for a pair, BLEURT one: "
                "pass a checkpoint with a regression head"
            )
        if len(tokenizer) > model.config.vocab_size:
            raise ValueError(
                f"{name}'s tokenizer has {len(tokenizer)} tokens, its model "
                f"{model.config.vocab_size}: pass a folder where they belong together"
            )
        self.model = model.eval()
        self.tokenizer = tokenizer
        self.name = name
        self.max_length = min(MAX_LENGTH, model.config.max_position_embeddings)

    @torch.no_grad()
    def scores(self, pairs: Sequence[Pair], batch_size: int = 64) -> np.ndarray:
        """Score pairs (candidate, reference), each distinct or not: float64 (pairs,).

        Pairs beyond the length limit are cut, the longer text first. Batches hold pairs
        of like length.
        """
        order = sorted(range(len(pairs)), key=lambda i: sum(map(len, pairs[i])))
        found = np.empty(len(pairs))

        def compute(rows: list[int]) -> None:
            candidates, references = zip(*(pairs[row] for row in rows), strict=True)
            inputs = self.tokenizer(
                list(references),
                list(candidates),
                padding=True,
                truncation=True,
                max_length=self.max_length,
                return_tensors="pt",
            ).to(self.model.device)
            found[rows] = self.model(**inputs).logits[:, 0].double().cpu().numpy()

        in_batches(compute, order, batch_size, "pairs of texts")
        return found


def bleurt(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    checkpoint: str | Path | None = None,
    *,
    batch_size: int = 64,
    device: str = "cpu",
) -> BleurtResult:
    """Return each candidate's BLEURT, averaged over its references, or that there is none.

    ``checkpoint``: a folder or a name on the hub (see :func:`load_bleurt`). None, or one
    that is not there, is no error: the result then says "not tested: no checkpoint". A
    blank text is scored as the model sees it. Each distinct pair is scored once a call.
    ValueError for a string in place of a list, unequal lengths, no reference, or a
    checkpoint that is no BLEURT.
    """
    check_pairs(candidates, references)
    if checkpoint is None:
        return BleurtResult(None, NO_CHECKPOINT)
    try:
        loaded = load_bleurt(checkpoint, device)
    except FileNotFoundError:
        return BleurtResult(None, f"{NO_CHECKPOINT} {Path(checkpoint).name!r}")
    scores = over_references(candidates, references, lambda p: loaded.scores(p, batch_size))
    return BleurtResult(scores, bleurt_identifier(checkpoint))


def bleurt_identifier(checkpoint: str | Path) -> str:
    """Return what fixes the numbers of :func:`bleurt`, for provenance."""
    return f"BLEURT, {weights_identifier(checkpoint)}, transformers {version('transformers')}"


@cache
def load_bleurt(checkpoint: str | Path, device: str = "cpu") -> Bleurt:
    """Load a BLEURT in float32: a folder or a name on the hub.

    A sequence classifier of transformers with one output, or one of the PyTorch ports of
    the published checkpoints (``model_type`` bleurt: BERT, or RemBERT where the
    embeddings have a width of their own, as in BLEURT-20 and its small relatives).
    FileNotFoundError where there is none, ValueError where weights or the tokenizer are
    missing.
    """
    name = str(checkpoint)
    try:
        with quiet_loading():
            facts, _ = PreTrainedConfig.get_config_dict(name)
            ported = facts.get("model_type") == "bleurt"
            tokenizer = _ported_tokenizer(name) if ported else AutoTokenizer.from_pretrained(name)
            model, loaded = _ported_model(name, facts) if ported else _plain_model(name)
    except OSError as error:
        raise FileNotFoundError(
            f"no BLEURT at {name}: pass the folder of a saved checkpoint with its tokenizer, or "
            "load the name once with network access"
        ) from error
    if loaded["missing_keys"]:
        # They would be random numbers, and so would the scores.
        raise ValueError(
            f"{name} lacks weights of a BLEURT ({min(loaded['missing_keys'])}): pass a checkpoint "
            "with its regression head"
        )
    return Bleurt(model.to(device), tokenizer, name)


def _plain_model(name: str) -> tuple[Any, dict]:
    return AutoModelForSequenceClassification.from_pretrained(
        name, dtype=torch.float32, output_loading_info=True
    )


def _ported_model(name: str, facts: dict) -> tuple[Any, dict]:
    """Load a port's weights into the class of transformers that computes the same."""
    known = BertConfig().to_dict()
    shared = {key: facts.get(key, known[key]) for key in SHARED_FACTS}
    renamed = {r"^bleurt\.": "bert."}
    kind, config = BertForSequenceClassification, BertConfig(**shared, num_labels=1)
    if facts.get("embedding_size") is not None:
        width, marks = facts["embedding_size"], {"bos_token_id": None, "eos_token_id": None}
        config = RemBertConfig(**shared, **marks, input_embedding_size=width, num_labels=1)
        kind = RemBertForSequenceClassification
        renamed = {
            r"^bleurt\.encoder\.embedding_projection\.": (
                "rembert.encoder.embedding_hidden_mapping_in."
            ),
            r"^bleurt\.": "rembert.",
        }
    return kind.from_pretrained(
        name,
        config=config,
        key_mapping=renamed,
        dtype=torch.float32,
        output_loading_info=True,
    )


def _ported_tokenizer(name: str) -> Any:
    """Load a port's tokenizer, whose own class transformers does not know, by its files.

    ImportError where that takes a package which is not installed.
    """
    kinds = {
        "tokenizer.json": PreTrainedTokenizerFast,
        "vocab.txt": BertTokenizer,
        "spm.model": DebertaV2Tokenizer,
    }
    for file, kind in kinds.items():
        if not cached_file(name, file, _raise_exceptions_for_missing_entries=False):
            continue
        if file == "spm.model" and not (is_sentencepiece_available() and is_protobuf_available()):
            raise ImportError(
                f"{name}'s tokenizer is a sentencepiece model: install sentencepiece and protobuf, "
                "or put its tokenizer.json beside it"
            )
        return kind.from_pretrained(name)
    raise ValueError(f"{name} has no tokenizer; put {' or '.join(kinds)} there")
