"""What the miniature's training leaves out: ``python -m tests.benchmarks.bench_training``.

Pairs of steps at full size, on one thread: the encoder on whole scenes and on windows of them;
the language model's MLPs computed for every row and only for the rows that keep them; the
projection on every patch and on one of each square of four; Muon by torch, in bfloat16, and by
ours, in float32, on the encoder's matrices. The second pair has to agree, and its gradients are
compared before the times are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np
import torch

from mmn_utils.miniature import language
from mmn_utils.miniature.captioning import caption_loss
from mmn_utils.miniature.projection import drawn_patches
from mmn_utils.miniature.vision.objective import MaskedImageModel, block_mask
from mmn_utils.miniature.vision.recipe import Recipe
from mmn_utils.training.loop import keep_freed_memory
from mmn_utils.training.muon import Muon, parameter_groups
from tests.benchmarks.timing import best_times
from tests.tiny import tiny_language_model

VOCABULARY, WHOLE, WINDOW = 1536, 14, 10


def encoder_step(model: MaskedImageModel, recipe: Recipe, side: int) -> Callable[[], None]:
    """Return the gradients of some scenes, of which the encoder sees a square of patches."""
    rng, scenes = np.random.default_rng(0), recipe.part
    patches, pixels = side**2, side * recipe.config["patch_size"]
    images = torch.from_numpy(rng.standard_normal((scenes, 3, pixels, pixels), np.float32))
    hidden = [block_mask(rng, side, round(recipe.masked_share * patches)) for _ in range(scenes)]
    masks = torch.from_numpy(np.stack(hidden))
    codes = torch.from_numpy(rng.integers(recipe.stages[0].codes, size=(scenes, patches)))
    return lambda: model(images, masks, codes, 1.0).backward()


def text_step(model, ids: torch.Tensor, keep: torch.Tensor, sparing: bool) -> list[torch.Tensor]:
    """Return the gradients of rows of text in which some MLPs are left out."""

    def computed_in_vain(x, h, mlp, kept):
        return x + mlp(h) * kept[:, None, None]

    add = language.add_written if sparing else computed_in_vain
    with patch.object(language, "add_written", add):
        hidden = language.fused_hidden(model, model.transformer.wte(ids), keep)
    loss = language.logits_of(model, hidden[:, :-1]).flatten(0, 1)
    loss = torch.nn.functional.cross_entropy(loss, ids[:, 1:].flatten())
    return list(torch.autograd.grad(loss, list(model.parameters())))


def caption_step(model, block: int, scenes: int = 8, words: int = 14) -> Callable[[], None]:
    """Return the gradient of a projection by captions of some scenes."""
    options, patches = Recipe(), WHOLE**2
    linear = torch.nn.Linear(options.config["embed_dim"], model.config.n_embd)
    thinned = language.Thinned(drawn_patches(patches, block, (0,)), patches)
    read = torch.randn(scenes, len(thinned.kept), linear.in_features)
    labels = torch.randint(VOCABULARY, (scenes, words))
    logits_for = partial(language.last_logits, model, thinned=thinned)
    embed = model.transformer.wte

    def step() -> None:
        caption_loss(logits_for, embed, ([], [1, 2, 3]), linear(read), labels).backward()

    return step


def muon_step(encoder: torch.nn.Module, optimizer_of: Callable) -> Callable[[], None]:
    """Return a step on the matrices of an encoder's blocks, whose gradients are given."""
    shapes = [p.shape for p in encoder.blocks.parameters() if p.ndim == 2]
    matrices = [torch.nn.Parameter(torch.randn(shape)) for shape in shapes]
    gradients = [torch.randn(shape) for shape in shapes]
    optimizer = optimizer_of(matrices)

    def step() -> None:
        for matrix, gradient in zip(matrices, gradients, strict=True):
            matrix.grad = gradient
        optimizer.step()

    return step


def pairs_of(recipe: Recipe, layers: int = 6, width: int = 256) -> dict[str, dict[str, Callable]]:
    """Build each pair of steps; the gradients of the second one are compared first."""
    torch.manual_seed(0)
    options = language.LanguageOptions()
    encoder = MaskedImageModel(recipe.config, recipe.stages[0].codes)
    shape = {"vocabulary": VOCABULARY, "layers": layers, "width": width, "positions": 256}
    model, frozen = tiny_language_model(**shape), tiny_language_model(**shape)
    frozen.requires_grad_(False)
    ids, keep = torch.randint(VOCABULARY, (8, options.row)), language._keep(options, 0)[:, :8]
    text = {name: partial(text_step, model, ids, keep[:layers], name == "kept rows") for name in
            ("every row", "kept rows")}  # fmt: skip
    for one, other in zip(*(step() for step in text.values()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    sides = {f"{side} x {side}": encoder_step(encoder, recipe, side) for side in (WHOLE, WINDOW)}
    shown = {"every patch": caption_step(frozen, 1), "one of four": caption_step(frozen, 2)}
    muon = {
        "torch's": muon_step(encoder.encoder, torch.optim.Muon),
        "ours": muon_step(encoder.encoder, lambda m: Muon(parameter_groups(m, 0, by_muon={1: m}))),
    }
    return {"encoder": sides, "language model": text, "projection": shown, "Muon": muon}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    keep_freed_memory()
    for what, steps in pairs_of(Recipe()).items():
        times = best_times(steps, repeats)
        first, second = times.values()
        told = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in times.items())
        print(f"{what}: {told}, ratio {first / second:.2f}")


if __name__ == "__main__":
    main()
