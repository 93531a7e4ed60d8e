"""The recipe: rounds of training, what each takes its codes from, and their learning rate."""

from __future__ import annotations

from dataclasses import dataclass, field

from mmn_utils.miniature.scenes import SCENES
from mmn_utils.miniature.scenes.sprites import SHOWN
from mmn_utils.miniature.vision.encoder import CONFIG
from mmn_utils.training.loop import rate_factor

OWN = "own"  # of ``scenes.COLOURS``, those that the codes are made of


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
class Recipe:
    """Everything that decides the encoder's weights."""

    stages: tuple[Stage, ...] = STAGES
    config: dict = field(default_factory=lambda: dict(CONFIG))
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


def learning_rate(stage: Stage, recipe: Recipe, step: int) -> float:
    """Return the rate of a step."""
    total = max(1, (stage.rate_images or stage.images) // recipe.batch)
    return stage.peak_lr * rate_factor(step, total, recipe.warmup, stage.final_lr)
