"""MoverScore and BLEURT: how alike a candidate and a reference are, beside BERTScore.

Scales. MoverScore is 1 minus a transport distance, so 1 is the same text. Between unit
vectors the Euclidean distance is 0 to 2, so the score is -1 to 1. Where unrelated words lie
depends on the encoder: at about -0.4 with the default one (20 000 pairs), so paper B's
0.66 to 0.73, of an encoder that it does not name, are on another scale. BLEURT is what its
checkpoint says, about 0 to 1 for BLEURT-20: no number without a checkpoint.
"""

from __future__ import annotations

import string
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from math import log
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import ot
import torch
from scipy.spatial.distance import cdist
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
from mmn_utils.measures.metrics import (
    TokenVectors,
    check_pairs,
    encoder_identifier,
    token_vectors,
    weights_identifier,
)

Pair = tuple[str, str]  # candidate, reference

# The ground distance between unit vectors: of the metric's paper, and of its first code.
COSTS = {"euclidean": "euclidean", "squared": "sqeuclidean"}
CONTINUES = "##"  # how WordPiece marks a token that continues a word
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


# --- MoverScore ------------------------------------------------------------------------


class Cloud(NamedTuple):
    """A text to be moved: unit vectors (n, width) and their masses (n,), which sum to 1."""

    vectors: np.ndarray
    masses: np.ndarray


def moverscore(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    encoder: str | Path | None = None,
    layer: int | None = None,
    *,
    idf: bool = True,
    cost: str = "euclidean",
    batch_size: int = 64,
    device: str = "cpu",
) -> np.ndarray:
    """Return each candidate's MoverScore (unigrams), averaged over its references.

    1 minus the least cost of moving the candidate's tokens onto the reference's, solved
    exactly. Encoder and layer as in ``metrics.bertscore``, with one layer where the
    metric's first code joins five. ``cost``: ``euclidean`` distance of unit vectors, as
    its paper has it, or ``squared`` (2 - 2 cosines), as that code has it; the score is
    then -3 to 1. Masses follow ``idf`` over the candidates and over the references, each
    distinct text counted once; without it they are equal. As published, pieces that
    continue a word and punctuation have no mass; a text of nothing else keeps it, and so
    does one whose words are all in every text. A blank text matches nothing and scores 0.
    Each distinct pair is scored once, each distinct text embedded once a call. Returns
    float64 (candidates,). ValueError for a string in place of a list, unequal lengths,
    no reference, or another cost.
    """
    if cost not in COSTS:
        raise ValueError(f"cost={cost!r}: give {' or '.join(map(repr, COSTS))}")

    def score(pairs: list[Pair]) -> list[float]:
        sides = [sorted(set(side)) for side in zip(*pairs, strict=True)]
        seen = token_vectors([*sides[0], *sides[1]], encoder, layer, batch_size, device)
        ours, theirs = (_clouds({text: seen[text] for text in side}, idf) for side in sides)
        return [1 - distance(ours[c], theirs[r], cost) for c, r in pairs]

    return _over_references(candidates, references, score)


def moverscore_identifier(
    encoder: str | Path | None = None,
    layer: int | None = None,
    *,
    idf: bool = True,
    cost: str = "euclidean",
) -> str:
    """Return what fixes the numbers of :func:`moverscore`, for provenance."""
    return (
        f"MoverScore, unigrams, {encoder_identifier(encoder, layer)}, "
        f"{'idf' if idf else 'no idf'}, {cost} cost, 1 - distance, POT {version('POT')}, "
        f"transformers {version('transformers')}"
    )


def distance(ours: Cloud, theirs: Cloud, cost: str = "euclidean") -> float:
    """Return the least cost of moving one text onto another; 1 where a text has no tokens."""
    if not len(ours.masses) or not len(theirs.masses):
        return 1.0
    costs = cdist(ours.vectors, theirs.vectors, COSTS[cost])
    if 1 in costs.shape:  # all mass comes from, or goes to, one place: there is one plan
        return float(ours.masses @ costs @ theirs.masses)
    return float(ot.emd2(ours.masses, theirs.masses, costs))


def _clouds(texts: dict[str, TokenVectors], idf: bool) -> dict[str, Cloud]:
    """Give the tokens of each text their masses; the texts are the corpus of the idf."""
    found = Counter(token for seen in texts.values() for token in set(seen.tokens))
    weights = {token: log((len(texts) + 1) / (n + 1)) if idf else 1.0 for token, n in found.items()}
    return {text: _cloud(seen, weights) for text, seen in texts.items()}


def _cloud(seen: TokenVectors, weights: dict[str, float]) -> Cloud:
    """Lay one text out; where no word has a weight, its tokens have equal ones."""
    words = [i for i, token in enumerate(seen.tokens) if _is_word(token)]
    kept = words or list(range(len(seen.tokens)))
    masses = np.array([weights[seen.tokens[i]] for i in kept], dtype=np.float64)
    if not masses.any():
        masses = np.ones(len(kept))
    return Cloud(seen.vectors[kept].double().numpy(), masses / masses.sum())


def _is_word(token: str) -> bool:
    return CONTINUES not in token and token not in string.punctuation


# --- BLEURT ----------------------------------------------------------------------------


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
        for start in range(0, len(pairs), batch_size):
            rows = order[start : start + batch_size]
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
    scores = _over_references(candidates, references, lambda p: loaded.scores(p, batch_size))
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


# --- what both do ------------------------------------------------------------------------


def _over_references(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    score: Callable[[list[Pair]], Iterable[float]],
) -> np.ndarray:
    """Score each distinct pair once; average each candidate's over its references."""
    check_pairs(candidates, references)
    of_candidate = zip(candidates, references, strict=True)
    asked = [(c.strip(), r.strip()) for c, rs in of_candidate for r in rs]
    pairs = sorted(set(asked))
    scored = dict(zip(pairs, score(pairs), strict=True)) if pairs else {}
    each = iter(asked)
    return np.array([np.mean([scored[next(each)] for _ in rs]) for rs in references], dtype=float)
