"""The miniature's image encoder: a small BEiT, trained on pictures alone.

As in BEiT, patches are masked in blocks and the encoder predicts discrete codes
of what is hidden. The codes come from k-means, first of the pixels in a window
around each patch, then (as in HuBERT) of the encoder's own middle layer. No label takes
part in the training; a linear probe of the categories is logged to watch it.

The scenes are as colourful as the world, the codes are those of the same scenes in their
objects' own colours: as one who colours a picture in, the encoder has to know a thing by
its shape to guess them.

Run ``python -m mmn_utils.miniature.vision``; it picks up where it stopped.
"""

from __future__ import annotations

import argparse
import csv
import json
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache, partial
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from numpy.lib.stride_tricks import sliding_window_view
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import mmn_utils.compat  # noqa: F401  (timm needs what it declares)

# isort: split
from timm.models.beit import Beit

from mmn_utils.miniature.muon import Muon, parameter_groups
from mmn_utils.miniature.scenes import (
    COLOURS,
    PROBE_SEED,
    SCENES,
    SHOWN,
    TRAIN_SEED,
    SceneSet,
    rendered_scenes,
)
from mmn_utils.miniature.training import (
    Summand,
    Workers,
    fast_autocast,
    keep_freed_memory,
    rate_factor,
    save_atomically,
    side_by_side,
)
from mmn_utils.miniature.world import WORLD_FILE, load_world

VISION_CONFIG = {
    "img_size": 112,
    "patch_size": 8,
    "embed_dim": 128,
    "depth": 6,
    "num_heads": 4,
    "init_values": None,  # no layer scale: it slows the start of so short a training
    "use_abs_pos_emb": False,
    "use_shared_rel_pos_bias": True,
    "num_classes": 0,
    "global_pool": "token",
}
PIXEL_MEAN = PIXEL_STD = 0.5
OWN = "own"  # of ``scenes.COLOURS``, those that the codes are made of
CACHE = Path("data/cache/miniature")


# --- the model --------------------------------------------------------------


def build_vision(config: dict | None = None) -> Beit:
    """Return timm's BEiT of a configuration, freshly initialised."""
    return Beit(**(config or VISION_CONFIG))


def load_vision(weights: Path, config: Path | None = None) -> Beit:
    """Load an encoder saved by ``save_vision``, in float32, ready to be used."""
    facts = json.loads((config or weights.parent / "vision.json").read_text(encoding="utf-8"))
    model = build_vision(facts["architecture"])
    model.load_state_dict({k: v.float() for k, v in load_file(weights).items()})
    return model.eval()


def save_vision(model: Beit, weights: Path) -> None:
    """Save an encoder in half precision, and its configuration beside it."""
    weights.parent.mkdir(parents=True, exist_ok=True)
    state = {k: v.detach().to(torch.float16).contiguous() for k, v in model.state_dict().items()}
    save_file(state, weights, metadata={"format": "pt"})
    facts = {"architecture": VISION_CONFIG, "mean": [PIXEL_MEAN] * 3, "std": [PIXEL_STD] * 3}
    (weights.parent / "vision.json").write_text(json.dumps(facts, indent=2) + "\n", "utf-8")


def to_input(images: np.ndarray) -> Tensor:
    """Turn pictures (B, H, W, 3) uint8 into the encoder's input (B, 3, H, W)."""
    pixels = torch.from_numpy(np.array(images)).permute(0, 3, 1, 2).float()
    return (pixels / 255 - PIXEL_MEAN) / PIXEL_STD


def localise(model: Beit, slope: float = 0.5, reach: float = 1.0) -> None:
    """Let each head prefer patches near a point above, below, left or right of its own.

    Masked patches all look alike and there are no absolute positions, so a local
    and directed start is what lets the first layers tell one from another.
    """
    rows, columns = model.patch_embed.grid_size
    dy, dx = np.mgrid[-(rows - 1) : rows, -(columns - 1) : columns]
    centres = [(-reach, 0), (reach, 0), (0, -reach), (0, reach)]
    table = model.rel_pos_bias.relative_position_bias_table
    with torch.no_grad():
        for head in range(table.shape[1]):
            y, x = centres[head % len(centres)]
            distance = np.hypot(dy - y, dx - x).reshape(-1)
            table[: distance.size, head] = torch.from_numpy(-slope * distance).float()


def _attend(attention: nn.Module, x: Tensor, bias: Tensor) -> Tensor:
    """Return one attention layer's output (B, N, D), as timm computes it."""
    batch, tokens, width = x.shape
    qkv_bias = torch.cat((attention.q_bias, attention.k_bias, attention.v_bias))
    qkv = F.linear(x, attention.qkv.weight, qkv_bias)
    q, k, v = qkv.view(batch, tokens, 3, attention.num_heads, -1).permute(2, 0, 3, 1, 4)
    # Spelt out: the fused kernel has no fast backward pass where the bias is learned.
    scores = torch.matmul(q * attention.scale, k.transpose(-2, -1)).add_(bias.to(q.dtype))
    mixed = scores.softmax(-1).to(v.dtype) @ v
    return attention.proj(mixed.transpose(1, 2).reshape(batch, tokens, width))


def embed(model: Beit, pixels: Tensor, masked: Tensor | None, mask_token: Tensor | None) -> Tensor:
    """Return CLS and patch embeddings (B, 1 + P, D); ``masked`` (B, P) patches are hidden.

    The pictures may be smaller than the model's, see ``position_bias``.
    """
    patches = model.patch_embed.proj(pixels).flatten(2).transpose(1, 2)
    if masked is not None:
        patches = torch.where(masked[..., None], mask_token.to(patches.dtype), patches)
    cls = model.cls_token.expand(len(pixels), -1, -1).to(patches.dtype)
    return torch.cat((cls, patches), 1)


def position_bias(model: Beit, patches: int) -> Tensor:
    """Return what attention adds for CLS and a square of patches, (heads, 1 + P, 1 + P).

    It depends on how far two patches lie apart, so a window of a picture has it as well.
    """
    bias = model.rel_pos_bias()
    rows, columns = model.patch_embed.grid_size
    if patches == rows * columns:
        return bias
    side = round(patches**0.5)
    corner = torch.arange(rows * columns).view(rows, columns)[:side, :side].flatten()
    kept = torch.cat((torch.zeros(1, dtype=torch.long), 1 + corner))
    return bias[:, kept[:, None], kept]


def layers(model: Beit, x: Tensor, depth: int | None = None) -> Iterator[Tensor]:
    """Yield the output (B, 1 + P, D) of each of the first ``depth`` blocks."""
    bias = position_bias(model, x.shape[1] - 1)[None]
    for block in model.blocks[:depth]:
        x = x + _attend(block.attn, block.norm1(x), bias)
        x = x + block.mlp.fc2(F.gelu(block.mlp.fc1(block.norm2(x))))
        yield x


@torch.no_grad()
def features(model: Beit, images: Tensor, depth: int | None = None) -> Tensor:
    """Return patch features (B, P, D): the last block's output, no CLS, no norm."""
    *_, out = layers(model, embed(model, images, None, None), depth)
    return out[:, 1:]


def encode_images(
    model: Beit, images: np.ndarray, depth: int | None = None, batch: int = 64
) -> Iterator[Tensor]:
    """Yield features (B, P, D) of pictures (N, H, W, 3), batch after batch, in float32."""

    def encoded(start: int) -> Tensor:
        with fast_autocast():
            return features(model, to_input(images[start : start + batch]), depth).float()

    starts = range(0, len(images), batch)
    with side_by_side() as pool:  # two batches at a time: no more of them are held
        for first in range(0, len(starts), 2):
            yield from pool.map(encoded, starts[first : first + 2])


# --- codes ------------------------------------------------------------------


def nearest(points: Tensor, centres: Tensor) -> Tensor:
    """Return the index (N,) of the centre (K, D) nearest to each point (N, D)."""
    half_norms = centres.square().sum(1) / 2
    chunks = [(part @ centres.T - half_norms).argmax(1) for part in points.split(16384)]
    return torch.cat(chunks)


def kmeans(points: Tensor, codes: int, seed: int, rounds: int = 15) -> Tensor:
    """Return ``codes`` centres (K, D) of points (N, D); empty ones are drawn again."""
    generator = torch.Generator().manual_seed(seed)
    centres = points[torch.randperm(len(points), generator=generator)[:codes]].clone()
    for _ in range(rounds):
        owner = nearest(points, centres)
        counts = torch.bincount(owner, minlength=codes)
        sums = torch.zeros_like(centres).index_add_(0, owner, points)
        centres = sums / counts.clamp(min=1)[:, None]
        empty = (counts == 0).nonzero().flatten()
        centres[empty] = points[torch.randint(len(points), (len(empty),), generator=generator)]
    return centres


def windows(images: np.ndarray, patch: int) -> Tensor:
    """Return the surroundings of each patch, three patches wide, as 6 x 6 means (B, P, 108)."""
    means = F.avg_pool2d(to_input(images), patch // 2)
    padded = F.pad(means, (2, 2, 2, 2), mode="replicate")
    return F.unfold(padded, kernel_size=6, stride=2).transpose(1, 2)


@dataclass(frozen=True)
class Whitener:
    """Principal axes (D, d) about a mean (D,), the spread of each partly evened out."""

    mean: Tensor
    axes: Tensor

    def __call__(self, points: Tensor) -> Tensor:
        return (points - self.mean) @ self.axes


def fit_whitener(points: Tensor, dimensions: int, power: float) -> Whitener:
    """Fit principal axes; ``power`` 0 keeps the spread of each, 1 makes all alike."""
    mean = points.mean(0)
    centred = points - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(points))
    keep = values.argsort(descending=True)[:dimensions]
    return Whitener(mean, vectors[:, keep] * values[keep].clamp(min=1e-6) ** (-power / 2))


# --- recipe -----------------------------------------------------------------


@dataclass(frozen=True)
class Stage:
    """One round of training: where the codes come from and how many pictures are seen.

    ``layer`` is the number of blocks whose output is coded, of the encoder as the stage
    finds it; without it the codes are of pixels. Either way they are of the scenes in
    ``OWN`` colours, while the encoder sees them in ``colours``, see ``scenes.COLOURS``.
    ``visible_weight`` is the weight of predicting the codes of patches in sight, which keeps
    the last layer's features about their patch. ``rate_images`` is the length of the learning
    rate's cosine, if it is longer than the stage, which then ends at a rate that is still high.
    Features are coded as means over ``reach`` x ``reach`` patches. With ``window`` the encoder
    sees of each scene a square of so many patches a side, wherever it falls, but for the last
    ``whole`` pictures: with half of the patches a step takes less than half of the time, and
    teaches as much at first, less in later rounds. The codes are of the whole scene.
    """

    name: str
    images: int
    rate_images: int | None = None
    layer: int | None = None
    colours: str = SHOWN
    window: int | None = None
    whole: int = 0
    reach: int = 3
    codes: int = 1024
    peak_lr: float = 1.5e-3
    final_lr: float = 0.1
    visible_weight: float = 1.0

    def window_at(self, seen: int) -> int | None:
        """Return the window after so many pictures of the stage, None for whole scenes."""
        return self.window if seen < self.images - self.whole else None


STAGES = (
    Stage(
        "pixels",
        images=24_000,
        rate_images=32_000,
        window=10,
        whole=8_000,
        peak_lr=2.2e-3,
        final_lr=0.3,
    ),
    Stage(
        "features",
        images=24_000,
        layer=5,
        window=10,
        whole=12_000,
        peak_lr=1.2e-3,
        final_lr=0.01,
    ),
)


@dataclass(frozen=True)
class VisionRecipe:
    """Everything that decides the encoder's weights."""

    stages: tuple[Stage, ...] = STAGES
    config: dict = field(default_factory=lambda: dict(VISION_CONFIG))
    scenes: int = SCENES
    batch: int = 16
    part: int = 8  # of the batch, at a time
    masked_share: float = 0.4
    warmup: int = 200
    head_steps: int = 200  # in which a stage's fresh head learns alone
    head_rate: float = 5e-3
    weight_decay: float = 0.05
    code_sample: int = 200_000
    probe_scenes: int = 2_000
    seed: int = 0


def block_mask(rng: np.random.Generator, side: int, count: int) -> np.ndarray:
    """Return a mask (side * side,) with exactly ``count`` patches hidden, in blocks."""
    mask = np.zeros((side, side), dtype=bool)
    while (missing := count - mask.sum()) > 0:
        area, aspect = rng.uniform(4, max(5, min(missing, 40))), np.exp(rng.uniform(-1, 1))
        rows = int(np.clip(round(np.sqrt(area * aspect)), 1, side))
        columns = int(np.clip(round(np.sqrt(area / aspect)), 1, side))
        top, left = rng.integers(side - rows + 1), rng.integers(side - columns + 1)
        mask[top : top + rows, left : left + columns] = True
    hidden = np.flatnonzero(mask)
    mask.reshape(-1)[rng.permutation(hidden)[count:]] = False
    return mask.reshape(-1)


def cut_windows(
    rng: np.random.Generator, images: np.ndarray, codes: np.ndarray, side: int
) -> tuple[np.ndarray, np.ndarray]:
    """Cut of each picture (B, H, W, 3), and of its codes (B, P), ``side`` x ``side`` patches.

    Returns (B, h, w, 3) and (B, side * side); where a window falls is drawn.
    """
    grid = codes.reshape(len(codes), round(codes.shape[1] ** 0.5), -1)
    patch = images.shape[1] // grid.shape[1]
    pixels = sliding_window_view(images, (side * patch, side * patch), axis=(1, 2))
    patches = sliding_window_view(grid, (side, side), axis=(1, 2))
    tops, lefts = rng.integers(patches.shape[1], size=(2, len(images)))
    each = np.arange(len(images))
    cut = pixels[each, tops * patch, lefts * patch]  # (B, 3, h, w): the window comes last
    return cut.transpose(0, 2, 3, 1), patches[each, tops, lefts].reshape(len(codes), -1)


class MaskedImageModel(nn.Module):
    """An encoder with a mask token and a linear head over codes."""

    def __init__(self, config: dict, codes: int) -> None:
        super().__init__()
        self.encoder = build_vision(config)
        localise(self.encoder)
        self.mask_token = nn.Parameter(torch.randn(1, 1, self.encoder.embed_dim) * 0.02)
        self.new_head(codes)

    def new_head(self, codes: int) -> list[nn.Parameter]:
        """Start a fresh head for the codes of a stage; return its parameters."""
        self.norm = nn.LayerNorm(self.encoder.embed_dim)  # the head's own; features stay without
        self.head = nn.Linear(self.encoder.embed_dim, codes)
        return [*self.norm.parameters(), *self.head.parameters()]

    def read(self, pixels: Tensor, masked: Tensor) -> Tensor:
        """Return what the encoder makes of each patch, (B, P, D), hidden or in sight."""
        x = embed(self.encoder, pixels, masked, self.mask_token)
        if torch.is_autocast_enabled("cpu"):
            x = x.to(torch.bfloat16)  # a narrow residual stream: memory is what limits speed
        *_, out = layers(self.encoder, x)
        return out[:, 1:]

    def forward(self, pixels: Tensor, masked: Tensor, codes: Tensor, visible: float) -> Tensor:
        """Return the loss at masked patches, plus ``visible`` times that at as many others.

        Shapes: pixels (B, 3, H, W), masked (B, P) bool with equal counts, codes (B, P).
        """
        patches = self.norm(self.read(pixels, masked))
        loss = F.cross_entropy(self.head(patches[masked]).float(), codes[masked])
        if visible:
            seen = ~masked
            loss = loss + visible * F.cross_entropy(self.head(patches[seen]).float(), codes[seen])
        return loss


# --- probe ------------------------------------------------------------------


def probe_accuracy(train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor]) -> float:
    """Return the test accuracy of a linear classifier on standardised (x (N, D), y (N,))."""
    (x, y), (x_test, y_test) = train, test
    mean, spread = x.mean(0), x.std(0) + 1e-6
    x, x_test = (x - mean) / spread, (x_test - mean) / spread
    weight = torch.zeros(x.shape[1] + 1, int(y.max()) + 1, requires_grad=True)
    solver = torch.optim.LBFGS([weight], max_iter=60, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        solver.zero_grad()
        loss = F.cross_entropy(x @ weight[:-1] + weight[-1], y) + 1e-4 * weight.square().sum()
        loss.backward()
        return loss

    solver.step(closure)
    with torch.no_grad():
        return float(((x_test @ weight[:-1] + weight[-1]).argmax(1) == y_test).float().mean())


def _pooled(x: Tensor, y: Tensor, scene: Tensor) -> tuple[Tensor, Tensor]:
    """Average the patches (N, D) of each object; an object is a category in a scene."""
    key, owner = torch.unique(scene * 1000 + y, return_inverse=True)
    counts = torch.bincount(owner).float()[:, None]
    return torch.zeros(len(key), x.shape[1]).index_add_(0, owner, x) / counts, key % 1000


def probe(model: Beit, scenes: SceneSet) -> dict[str, float]:
    """Return how well a linear map names the category, from a patch and from an object.

    Three quarters of the scenes teach the linear map, the rest test it.
    """
    return probe_features(torch.cat(list(encode_images(model, scenes.images))), scenes)


def probe_features(x: Tensor, scenes: SceneSet) -> dict[str, float]:
    """Return the same for features (N, P, D); a patch of theirs may be several of the scenes'."""
    y = torch.from_numpy(np.array(scenes.patch_concepts)).long()
    side = round(x.shape[1] ** 0.5)
    reach = round(y.shape[1] ** 0.5) // side
    x = x.unflatten(1, (side, side)).repeat_interleave(reach, 1).repeat_interleave(reach, 2)
    x = x.flatten(1, 2)
    scene = torch.arange(len(x))[:, None].expand_as(y)
    teaches = scene < len(x) * 3 // 4
    parts = [(x[m], y[m], scene[m]) for m in ((y >= 0) & teaches, (y >= 0) & ~teaches)]
    patch = probe_accuracy(*[(p[0], p[1]) for p in parts])
    whole = probe_accuracy(*[_pooled(*p) for p in parts])
    return {"patch": patch, "object": whole}


def colour_table(encoders: Mapping[str, Beit], scenes: Callable[[str], SceneSet]) -> pd.DataFrame:
    """Probe encoders on scenes in each of ``COLOURS``: encoder, colours, patch, object."""
    shown = {colours: scenes(colours) for colours in COLOURS}
    cells = list(product(encoders, COLOURS))
    with side_by_side() as pool:
        found = list(pool.map(lambda cell: probe(encoders[cell[0]], shown[cell[1]]), cells))
    names = pd.DataFrame(cells, columns=["encoder", "colours"])
    return names.join(pd.DataFrame(found))


# --- training ---------------------------------------------------------------


def learning_rate(stage: Stage, recipe: VisionRecipe, step: int) -> float:
    """Return the rate of a step."""
    total = max(1, (stage.rate_images or stage.images) // recipe.batch)
    return stage.peak_lr * rate_factor(step, total, recipe.warmup, stage.final_lr)


def pixel_codes(recipe: VisionRecipe, stage: Stage, images: np.ndarray) -> Tensor:
    """Return codes (N, P) of the pixels around each patch."""
    rng = np.random.default_rng([recipe.seed, 1])
    patch = recipe.config["patch_size"]
    chosen = np.sort(rng.permutation(len(images))[: max(1, recipe.code_sample // 50)])
    sample = windows(images[chosen], patch).flatten(0, 1)
    sample = sample[torch.from_numpy(rng.permutation(len(sample))[: recipe.code_sample])]
    whiten = fit_whitener(sample, sample.shape[1] * 4 // 9, power=0.5)
    centres = kmeans(whiten(sample), stage.codes, recipe.seed)
    parts = []
    for start in range(0, len(images), 512):
        window = windows(images[start : start + 512], patch)
        parts.append(nearest(whiten(window.flatten(0, 1)), centres).view(window.shape[:2]))
    return torch.cat(parts).to(torch.int16)


def neighbourhood_means(x: Tensor, reach: int) -> Tensor:
    """Return features (B, P, D) averaged over the ``reach`` x ``reach`` patches around each."""
    side = int(x.shape[1] ** 0.5)
    grid = x.transpose(1, 2).unflatten(2, (side, side))
    means = F.avg_pool2d(grid, reach, stride=1, padding=reach // 2, count_include_pad=False)
    return means.flatten(2).transpose(1, 2)


def feature_codes(recipe: VisionRecipe, stage: Stage, model: Beit, images: np.ndarray) -> Tensor:
    """Return codes (N, P) of the encoder's own features around each patch.

    Averaging over neighbours and whitening fully bring the codes closer to
    things than to strokes and colours.
    """
    rng = np.random.default_rng([recipe.seed, 2])
    parts = encode_images(model, images, stage.layer)
    out = torch.cat([neighbourhood_means(x, stage.reach).half() for x in parts])
    flat = out.flatten(0, 1)
    rows = torch.from_numpy(rng.integers(len(flat), size=recipe.code_sample))
    sample = flat[rows].float()
    whiten = fit_whitener(sample, dimensions=sample.shape[1], power=1.0)
    centres = kmeans(whiten(sample), stage.codes, recipe.seed)
    parts = [nearest(whiten(x.float()), centres) for x in flat.split(200_000)]
    return torch.cat(parts).view(out.shape[:2]).to(torch.int16)


class Trainer:
    """Trains the encoder stage by stage and keeps a checkpoint to resume from."""

    def __init__(
        self,
        recipe: VisionRecipe,
        scenes: Callable[[str], SceneSet],
        probe_scenes: Callable[[str], SceneSet] | None,
        folder: Path,
    ) -> None:
        self.recipe, self.scenes, self.probe_scenes = recipe, scenes, probe_scenes
        self.folder = folder
        self.stage_number = self.step = 0
        torch.manual_seed(recipe.seed)
        self.model = MaskedImageModel(recipe.config, recipe.stages[0].codes)
        self.codes: Tensor | None = None
        self.seen = 0
        self._new_optimizer()
        self.log = ProgressLog(folder / "vision_log.csv", sum(s.images for s in recipe.stages))

    @property
    def stage(self) -> Stage:
        """The stage in which the training is."""
        return self.recipe.stages[self.stage_number]

    @property
    def images(self) -> np.ndarray:
        """The pictures (N, H, W, 3) of the stage."""
        return self.scenes(self.stage.colours).images

    @property
    def checkpoint(self) -> Path:
        """The file that holds the state of the training."""
        return self.folder / "vision_checkpoint.pt"

    def _after(self, stage: str) -> Path:
        """The file that holds the encoder as a stage left it."""
        return self.folder / f"vision_after_{stage.replace(' ', '_')}.pt"

    def encoder_after(self, stage: str) -> Beit:
        """Return the encoder as a stage left it."""
        encoder = build_vision(self.recipe.config)
        encoder.load_state_dict(torch.load(self._after(stage), weights_only=True))
        return encoder.eval()

    def _new_optimizer(self) -> None:
        """Take an optimizer for the parameters, and workers: Muon for the blocks' matrices."""
        named = dict(self.model.named_parameters())
        plain = [p for name, p in named.items() if "token" in name or "bias" in name]
        blocks = self.model.encoder.blocks
        maps = [map for b in blocks for map in (b.attn.proj, b.mlp.fc1, b.mlp.fc2)]
        by_muon = {1: [map.weight for map in maps], 3: [b.attn.qkv.weight for b in blocks]}
        decay = self.recipe.weight_decay
        groups = parameter_groups(list(named.values()), decay, plain=plain, by_muon=by_muon)
        self.optimizer = Muon(groups, lr=0.0, betas=(0.9, 0.98), fused=True)
        self.workers = Workers(self.model.parameters())

    def resume(self) -> bool:
        """Take up the last checkpoint of the same recipe, if there is one."""
        if not self.checkpoint.is_file():
            return False
        state = torch.load(self.checkpoint, weights_only=False)
        if state["recipe"] != asdict(self.recipe):
            raise ValueError(f"{self.checkpoint} is of another recipe; move it away to start anew")
        self.stage_number, self.step, self.seen = state["stage"], state["step"], state["seen"]
        self.codes = state["codes"]
        if self.model.head.out_features != self.stage.codes:
            self.model.new_head(self.stage.codes)
        self._new_optimizer()
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        return True

    def save(self) -> None:
        """Write the checkpoint."""
        state = {
            "recipe": asdict(self.recipe),
            "stage": self.stage_number,
            "step": self.step,
            "seen": self.seen,
            "codes": self.codes,
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
        }
        save_atomically(state, self.checkpoint)

    def _make_codes(self) -> Tensor:
        """Return the codes (N, P) that this stage predicts."""
        images = self.scenes(OWN).images
        if self.stage.layer is None:
            return pixel_codes(self.recipe, self.stage, images)
        return feature_codes(self.recipe, self.stage, self.model.encoder, images)

    def _batch(self, step: int, draw: int = 3) -> tuple[Tensor, Tensor, Tensor]:
        """Return pixels, masks and codes of a step; they depend on the numbers alone."""
        recipe = self.recipe
        rng = np.random.default_rng([recipe.seed, draw, self.stage_number, step])
        rows = np.sort(rng.choice(len(self.images), recipe.batch, replace=False))
        window = self.stage.window_at(step * recipe.batch)
        side = window or self.model.encoder.patch_embed.grid_size[0]
        hidden = round(recipe.masked_share * side * side)
        masks = np.stack([block_mask(rng, side, hidden) for _ in rows])
        images, codes = cut_windows(rng, self.images[rows], self.codes[rows].numpy(), side)
        return to_input(images), torch.from_numpy(masks), torch.from_numpy(codes).long()

    def train_step(self) -> float:
        """Make one step and return its loss."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.stage, self.recipe, self.step)
        loss = self.workers.gradients(self._losses(self._batch(self.step)))
        nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        self.optimizer.step()
        self.step += 1
        self.seen += self.recipe.batch
        return loss

    def _losses(self, batch: Sequence[Tensor]) -> list[Summand]:
        """Return the summands of a batch's loss."""
        parts = zip(*(whole.split(self.recipe.part) for whole in batch), strict=True)
        return [partial(self._loss, *part) for part in parts]

    def _loss(self, pixels: Tensor, masked: Tensor, codes: Tensor) -> Tensor:
        with fast_autocast():
            loss = self.model(pixels, masked, codes, self.stage.visible_weight)
        return loss * len(pixels) / self.recipe.batch

    def _new_head(self) -> None:
        """Start a fresh head and teach it, alone, what the encoder has to say of its codes.

        The first gradients of a random head would undo half a stage of the encoder's learning.
        """
        recipe, parameters = self.recipe, self.model.new_head(self.stage.codes)
        self.model.encoder.requires_grad_(False)
        self.model.mask_token.requires_grad_(False)
        optimizer, workers = torch.optim.AdamW(parameters, weight_decay=0.0), Workers(parameters)
        for step in range(recipe.head_steps):
            for group in optimizer.param_groups:
                group["lr"] = recipe.head_rate * rate_factor(step, recipe.head_steps, 10, 0.1)
            workers.gradients(self._losses(self._batch(step, draw=4)))
            optimizer.step()
        self.model.requires_grad_(True)

    def _begin_stage(self) -> None:
        """Make the codes of a stage and give it a fresh head and optimizer."""
        print(f"stage {self.stage.name}: making codes", flush=True)
        self.codes = self._make_codes()
        if self.stage_number:
            torch.manual_seed(self.recipe.seed + self.stage_number)
            self._new_head()
            self._new_optimizer()
        self.save()

    def measure(self, scenes: int | None = None) -> dict[str, float]:
        """Probe the encoder in scenes of the stage's colours, or nothing where there are none."""
        if self.probe_scenes is None:
            return {}
        held_out = self.probe_scenes(self.stage.colours).first(scenes)
        return probe(self.model.encoder, held_out)

    def run_stage(self, stop_after: int | None = None) -> bool:
        """Train to the end of the stage (True), or for ``stop_after`` steps at most (False)."""
        if self.codes is None:
            self._begin_stage()
        steps, made = self.stage.images // self.recipe.batch, 0
        while self.step < steps:
            if made == stop_after:
                self.save()
                return False
            self.log.note(self.stage.name, self.seen, self.train_step())
            made += 1
            if self.log.due("checkpoint", 120):
                self.save()
            if self.log.due("probe", 600):
                self.log.write(self.measure(scenes=1000))
        return True

    def _finish_stage(self) -> None:
        """Keep the encoder as this stage leaves it, and log what it knows."""
        weights = self.model.encoder.state_dict()
        save_atomically(weights, self._after(self.stage.name))
        self.log.write(self.measure())

    def run(self) -> Beit:
        """Train all stages from where the last run stopped; return the encoder."""
        self.resume()
        while self.stage_number < len(self.recipe.stages):
            self.run_stage()
            self.save()
            self._finish_stage()
            if self.stage_number == len(self.recipe.stages) - 1:
                break
            self.stage_number, self.step, self.codes = self.stage_number + 1, 0, None
        return self.model.encoder.eval()


class ProgressLog:
    """Prints a line and appends a row of figures every ``every`` seconds."""

    FIELDS = ("stage", "images", "loss", "images_per_second", "patch", "object")

    def __init__(self, path: Path, total: int, every: float = 20) -> None:
        self.path, self.total, self.every = path, total, every
        self.losses: list[float] = []
        self.stage, self.seen, self.counted, self.rate = "", 0, None, 0.0
        self.clock = time.monotonic()
        self.last: dict[str, float] = {}

    def due(self, what: str, seconds: float) -> bool:
        """Say once every so many seconds that something is due."""
        now = time.monotonic()
        if now - self.last.setdefault(what, now) < seconds:
            return False
        self.last[what] = now
        return True

    def note(self, stage: str, seen: int, loss: float) -> None:
        """Take in one step."""
        if self.counted is None:
            self.counted, self.clock = seen, time.monotonic()
        self.stage, self.seen = stage, seen
        self.losses.append(loss)
        if time.monotonic() - self.clock >= self.every:
            self.write({})

    def write(self, measured: dict[str, float]) -> None:
        """Print and append the figures since the last line."""
        now = time.monotonic()
        if self.losses and not measured:  # measuring takes longer than a step
            self.rate = (self.seen - self.counted) / max(now - self.clock, 1e-9)
        left = (self.total - self.seen) / max(self.rate, 1e-9) / 60
        loss = float(np.mean(self.losses)) if self.losses else float("nan")
        row = {"stage": self.stage, "images": self.seen, "loss": round(loss, 4)}
        row |= {"images_per_second": round(self.rate, 1)}
        row |= {name: round(value, 4) for name, value in measured.items()}
        print(*(f"{k} {v}" for k, v in row.items()), f"left {left:.1f} min", flush=True)
        if self.stage:  # a run that had nothing left to train adds nothing to its curve
            self._append(row)
        self.losses, self.counted, self.clock = [], None, time.monotonic()

    def _append(self, row: dict) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        new = not self.path.is_file()
        with self.path.open("a", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, self.FIELDS)
            if new:
                writer.writeheader()
            writer.writerow(row)


def keep_curve(log: Path, target: Path) -> None:
    """Copy a training's log to where the curves are kept that ship."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(log, target)


def main() -> None:
    """Train the encoder, or go on training it, and save it beside its untrained twin."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--world", type=Path, default=WORLD_FILE)
    parser.add_argument("--out", type=Path, default=WORLD_FILE.parent)
    parser.add_argument("--cache", type=Path, default=CACHE)
    parser.add_argument("--font", type=Path, help="NotoColorEmoji.ttf, if not in a usual place")
    options = parser.parse_args()
    keep_freed_memory()
    world, recipe = load_world(options.world), VisionRecipe()

    @cache
    def scenes(colours: str, count: int = recipe.scenes, seed: int = TRAIN_SEED) -> SceneSet:
        return rendered_scenes(options.cache, world, count, seed, options.font, colours=colours)

    torch.manual_seed(recipe.seed + 1000)
    untrained = build_vision().eval()
    save_vision(untrained, options.out / "vision_untrained.safetensors")
    held_out = partial(scenes, count=recipe.probe_scenes, seed=PROBE_SEED)
    print("untrained:", probe(untrained, held_out("own").first(1000)), flush=True)
    trainer = Trainer(recipe, scenes, held_out, options.cache)
    trained = trainer.run()
    save_vision(trained, options.out / "vision.safetensors")
    keep_curve(options.cache / "vision_log.csv", options.out / "training" / "vision.csv")
    encoders = {
        "untrained": untrained,
        "first round": trainer.encoder_after(recipe.stages[0].name),
        "trained": trained,
    }
    rows = colour_table(encoders, held_out)
    table = options.out / "training" / "colours.csv"
    rows.round(4).to_csv(table, index=False, lineterminator="\n")
    print("saved", options.out / "vision.safetensors")


if __name__ == "__main__":
    main()
