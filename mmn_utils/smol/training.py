"""Train the projection of ``smol``: captions of photographs, through a frozen language model.

As in LiMBeR: the loss is that of the caption's tokens behind the image tokens and "A picture
of"; its gradient reaches the projection alone. The language model computes in bfloat16 where
the processor multiplies it fast (four times as fast as float32 with AVX-512's instructions for
it); what was trained is then measured in float32.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property, partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor, nn

from mmn_utils.cache import atomic
from mmn_utils.models.base import state_hash
from mmn_utils.models.smol import PREFIX
from mmn_utils.smol.photographs import Shown, sources_of
from mmn_utils.smol.views import VIEWS
from mmn_utils.training.features import FeatureStore, fold
from mmn_utils.training.loop import Schedule, Summand, train

CAPTION_LENGTH = 20  # tokens, full stop and end of text among them


@dataclass(frozen=True)
class Later:
    """What a training does otherwise once its steps are done; see ``Options``.

    Captions that people wrote teach what is in a scene, and to begin with "a man" or "a dog"
    whatever else is shown: fewer of them at last, and more photographs are named by their class.
    """

    steps: int = 1500
    rate: float = 1e-3
    shares: tuple[tuple[str, float], ...] = (
        ("caltech101", 0.6),
        ("flickr", 0.04),
        ("imagenette", 0.36),
    )


@dataclass(frozen=True)
class Options:
    """Training of a projection.

    ``shares`` of the examples by set, those not named share the rest alike; ``shown`` is how many
    image tokens a step shows, drawn anew each time, None for all; ``dropout`` is the share of a
    photograph's features that are zero in a step, the same at all its tokens. After ``steps`` it
    goes on as ``later`` has it, warmed up anew, or ends.
    """

    steps: int = 5000
    batch: int = 8  # small: at the same number of photographs, twice the steps taught more
    part: int = 4  # of the batch, at a time: does not change what is learnt
    rate: float = 2e-3
    final: float = 0.02
    weight_decay: float = 0.5
    dropout: float = 0.25  # without it, and decay, the map learnt its photographs by heart
    shown: int | None = 36  # of 49
    marks: tuple[int, ...] = (100, 250, 500, 1000, 2000, 3000)  # whose states are kept, to judge
    shares: tuple[tuple[str, float], ...] = (
        ("caltech101", 0.6),
        ("flickr", 0.1),
        ("imagenette", 0.3),
    )
    seed: int = 0
    later: Later | None = None

    @property
    def total(self) -> int:
        """All steps of the training."""
        return self.steps + (self.later.steps if self.later else 0)

    def stages(self) -> list[Options]:
        """Return what the training does, one stage after the other."""
        first = replace(self, later=None)
        if self.later is None:
            return [first]
        return [first, replace(first, marks=(), seed=self.seed + 1, **vars(self.later))]

    def with_shares(self, shares: Sequence[tuple[str, float]]) -> Options:
        """Return the same training with other shares of the sets, in all its stages."""
        later = self.later and replace(self.later, shares=tuple(shares))
        return replace(self, shares=tuple(shares), later=later)


def fast_type() -> torch.dtype:
    """Return bfloat16 where the processor has instructions for it, else float32."""
    fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if fast else torch.float32


@dataclass(frozen=True)
class Draws:
    """Which photographs, views, captions and image tokens a step shows; of (seed, step) alone."""

    shown: Sequence[Shown]
    captions: Sequence[Sequence[Sequence[int]]]  # token ids, of each photograph
    patches: int
    options: Options

    def at(self, step: int) -> tuple[np.ndarray, Tensor, np.ndarray | None]:
        """Return rows of the features (B,), labels (B, L) with -100, and image tokens, or None."""
        rng = np.random.default_rng((self.options.seed, step))
        rows = rng.choice(len(self.shown), size=self.options.batch, p=self.chances)
        said = [self.captions[row][rng.integers(len(self.captions[row]))] for row in rows]
        labels = torch.full((len(said), max(map(len, said))), -100)
        for row, ids in enumerate(said):
            labels[row, : len(ids)] = torch.tensor(ids)
        views = rows * VIEWS + rng.integers(VIEWS, size=len(rows))
        if self.options.shown is None:
            return views, labels, None
        return views, labels, np.sort(rng.permutation(self.patches)[: self.options.shown])

    def kept(self, step: int, width: int) -> Tensor | None:
        """Return what features are multiplied by, (B, 1, width): 0 where they are dropped.

        Scaled so that their expectation stays; None without dropout.
        """
        rate = self.options.dropout
        if rate == 0:
            return None
        rng = np.random.default_rng((self.options.seed, step, 1))
        stays = rng.random((self.options.batch, 1, width)) >= rate
        return torch.from_numpy(stays).float() / (1 - rate)

    @cached_property
    def chances(self) -> np.ndarray:
        """Each photograph's chance to be drawn."""
        return chances_of(self.shown, self.options)


def chances_of(shown: Sequence[Shown], options: Options) -> np.ndarray:
    """Return each photograph's chance to be drawn; ``ValueError`` for sets that have none."""
    sources = sources_of(shown)
    shares = {key: value for key, value in options.shares if key in sources}
    others = [source for source in sources if source not in shares]
    rest = max(0.0, 1 - sum(shares.values()))
    shares |= {source: rest / len(others) for source in others}
    never = [source for source, share in shares.items() if not share > 1e-9]
    if never:
        raise ValueError(f"no share is left for {', '.join(never)}: give each set one (--shares)")
    counts = {source: sum(one.source == source for one in shown) for source in sources}
    chances = np.array([shares[one.source] / counts[one.source] for one in shown])
    return chances / chances.sum()


def caption_ids(shown: Sequence[Shown], tokenizer) -> list[list[list[int]]]:
    """Encode what is said of each photograph: " a dog.", and the end of text."""
    ends = [tokenizer.eos_token_id]
    return [
        [(_plain_ids(tokenizer, f" {text}.") + ends)[:CAPTION_LENGTH] for text in one.captions]
        for one in shown
    ]


def _plain_ids(tokenizer, text: str) -> list[int]:
    """Encode a text as a prompt is, with no token at its beginning."""
    return tokenizer.encode(text, add_special_tokens=False)


def caption_loss(language: nn.Module, prefix: Sequence[int], soft: Tensor, labels: Tensor):
    """Sum the cross-entropy of captions over their tokens, and divide by their number.

    ``soft`` (B, n, d) are image tokens, ``labels`` (B, L) ids, -100 for none. Logits are computed
    at the caption's tokens alone.
    """
    inner, head = language.model, language.lm_head
    words = torch.cat([torch.tensor(prefix).expand(len(labels), -1), labels[:, :-1].clamp(0)], 1)
    embeds = torch.cat([soft.to(head.weight.dtype), inner.embed_tokens(words)], dim=1)
    hidden = inner(inputs_embeds=embeds, use_cache=False).last_hidden_state
    said = labels >= 0
    logits = head(hidden[:, -labels.shape[1] :][said])
    return F.cross_entropy(logits.float(), labels[said])


def new_projection(store: FeatureStore, language: nn.Module, seed: int) -> nn.Linear:
    """Return an untrained map whose outputs are about as large as embeddings of words."""
    torch.manual_seed(seed)
    words = language.model.embed_tokens.weight.float()
    linear = nn.Linear(store.values.shape[2], words.shape[1])
    with torch.no_grad():
        linear.weight.normal_(std=float(words.pow(2).mean().sqrt()) / linear.in_features**0.5)
        linear.bias.zero_()
    return linear


def train_projection(
    name: str,
    language: nn.Module,
    tokenizer,
    store: FeatureStore,
    shown: Sequence[Shown],
    options: Options,
    work: Path,
) -> dict[str, Tensor]:
    """Train a projection, or go on from its checkpoint in ``work``; return weight and bias.

    ``store`` holds ``VIEWS`` views of each photograph in ``shown``. ``ValueError`` for a
    checkpoint of other options, photographs or models.
    """
    linear = new_projection(store, language, options.seed)
    ids = caption_ids(shown, tokenizer)
    first, *later = options.stages()
    _train(name, linear, language, tokenizer, Draws(shown, ids, store.patches, first), store, work)
    for stage in later:
        save_projection(_mark(work, name, first.steps), fold(linear, store), {"steps": first.steps})
        draws = Draws(shown, ids, store.patches, stage)
        _train(f"{name}_later", linear, language, tokenizer, draws, store, work)
    return fold(linear, store)


def _train(
    name: str,
    linear: nn.Linear,
    language: nn.Module,
    tokenizer,
    draws: Draws,
    store: FeatureStore,
    work: Path,
) -> None:
    """Train a map through one stage, or go on from its checkpoint."""
    options, prefix = draws.options, _plain_ids(tokenizer, PREFIX)
    _claim(work, name, _asked(draws, linear, store, language))

    def summand(rows: np.ndarray, labels: Tensor, patches, kept, share: float) -> Tensor:
        labels = labels[:, : int((labels >= 0).sum(1).max())]
        features = store.batch(rows, patches)
        soft = linear(features if kept is None else kept * features)
        return share * caption_loss(language, prefix, soft, labels)

    def losses_at(step: int) -> list[Summand]:
        if step in options.marks:
            save_projection(_mark(work, name, step), fold(linear, store), {"steps": step})
        rows, labels, patches = draws.at(step)
        kept = draws.kept(step, linear.in_features)
        return [
            partial(
                summand,
                rows[part],
                labels[part],
                patches,
                None if kept is None else kept[part],
                share,
            )
            for part, share in _parts(labels, options.part)
        ]

    warmup = min(100, options.steps // 10)
    schedule = Schedule(
        options.steps, options.rate, warmup, options.final, weight_decay=options.weight_decay
    )
    train(name, list(linear.parameters()), losses_at, schedule, work, options.batch, state=linear)


def _parts(labels: Tensor, size: int) -> list[tuple[slice, float]]:
    """Cut a batch into parts of ``size`` rows; each with its share of the captions' tokens."""
    parts = [slice(start, start + size) for start in range(0, len(labels), size)]
    said = labels >= 0
    return [(part, int(said[part].sum()) / int(said.sum())) for part in parts]


def _asked(draws: Draws, linear: nn.Linear, store: FeatureStore, language: nn.Module) -> dict:
    """Return what a training is of: its options, and a hash of all that it reads.

    The map that it begins with is among that.
    """
    read = hashlib.sha256(repr((draws.captions, [one.source for one in draws.shown])).encode())
    for part in (store.mean, store.std):
        read.update(part.numpy().tobytes())
    for module in (linear, language):
        read.update(state_hash(module).encode())
    return {**asdict(draws.options), "read": read.hexdigest()[:16]}


def _claim(work: Path, name: str, asked: dict) -> None:
    """Note what a training is of; refuse to go on with one of something else.

    What begins anew does so without the states that an earlier one kept.
    """
    note, checkpoint = work / f"{name}.json", work / f"{name}.pt"
    text = json.dumps(asked, sort_keys=True, indent=1)
    if not checkpoint.exists():
        for _, file in marked(work, name):
            file.unlink()
        with atomic(note) as fresh:
            fresh.write_text(text, encoding="utf-8")
    elif not note.is_file() or note.read_text(encoding="utf-8") != text:
        raise ValueError(
            f"{checkpoint} was made with other options, photographs or models: move it away to "
            "start anew"
        )


def _mark(work: Path, name: str, steps: int) -> Path:
    """Return where the state after so many steps is kept."""
    return work / f"{name}-{steps}.safetensors"


def marked(work: Path, name: str) -> list[tuple[int, Path]]:
    """List the states that a training kept on its way: how many steps, and the file."""
    files = work.glob(f"{name}-*.safetensors")
    return sorted((int(file.stem.rpartition("-")[2]), file) for file in files)


def save_projection(path: Path, weights: dict[str, Tensor], training: dict) -> None:
    """Save weight (d, width) and bias (d,), with how they were trained.

    In half precision, or in float32 where one of them is too large for that: behind an encoder
    whose features hardly differ they are. ``ValueError`` where one is not finite.
    """
    for key, value in weights.items():
        if not value.isfinite().all():
            raise ValueError(f"{path}: {key} is not finite; was the rate too high?")
    largest = max(float(value.abs().max()) for value in weights.values())
    dtype = torch.float16 if largest <= torch.finfo(torch.float16).max else torch.float32
    kept = {key: value.to(dtype).contiguous() for key, value in weights.items()}
    with atomic(path) as fresh:
        save_file(kept, fresh, metadata={"training": json.dumps(training, sort_keys=True)})


def record_of(options: Options, language: nn.Module, shown: Sequence[Shown]) -> dict:
    """Return what belongs beside the weights: options, type, and the photographs by set."""
    counts = {name: sum(one.source == name for one in shown) for name in sources_of(shown)}
    dtype = str(language.dtype).removeprefix("torch.")
    return {**asdict(options), "total": options.total, "dtype": dtype, "photographs": counts}
