"""The training: stage after stage, with a checkpoint to resume from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
import torch
from timm.models.beit import Beit
from torch import Tensor, nn

from mmn_utils.miniature.scenes.sets import SceneSet
from mmn_utils.miniature.vision.codes import feature_codes, pixel_codes
from mmn_utils.miniature.vision.encoder import build_encoder, to_input
from mmn_utils.miniature.vision.objective import MaskedImageModel, block_mask, cut_windows
from mmn_utils.miniature.vision.probe import probe
from mmn_utils.miniature.vision.progress import ProgressLog
from mmn_utils.miniature.vision.recipe import OWN, Recipe, Stage, learning_rate
from mmn_utils.training.loop import (
    Summand,
    Workers,
    fast_autocast,
    rate_factor,
    save_atomically,
)
from mmn_utils.training.muon import Muon, parameter_groups


class Trainer:
    """Trains the encoder stage by stage and keeps a checkpoint to resume from."""

    def __init__(
        self,
        recipe: Recipe,
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
        encoder = build_encoder(self.recipe.config)
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
