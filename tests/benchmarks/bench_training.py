"""What the miniature's training leaves out: ``python -m tests.benchmarks.bench_training``.

Two pairs of steps at full size, on one thread: the encoder on whole scenes and on windows of
them; the language model's MLPs computed for every row and only for the rows that keep them. The
second pair has to agree, and its gradients are compared before the times are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from unittest.mock import patch

import numpy as np
import torch

from mmn_utils.miniature import language
from mmn_utils.miniature.training import keep_freed_memory
from mmn_utils.miniature.vision import MaskedImageModel, VisionRecipe, block_mask
from tests.benchmarks.timing import best_times
from tests.tiny import tiny_language_model

VOCABULARY, WHOLE, WINDOW = 1536, 14, 10


def encoder_step(model: MaskedImageModel, recipe: VisionRecipe, side: int) -> Callable[[], None]:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    repeats = parser.parse_args().repeats
    keep_freed_memory()
    torch.manual_seed(0)
    recipe, options = VisionRecipe(), language.LanguageOptions()
    encoder = MaskedImageModel(recipe.config, recipe.stages[0].codes)
    model = tiny_language_model(vocabulary=VOCABULARY, layers=6, width=256, positions=256)
    ids, keep = torch.randint(VOCABULARY, (8, options.row)), language._keep(options, 0)[:, :8]
    text = {name: partial(text_step, model, ids, keep, name == "kept rows") for name in
            ("every row", "kept rows")}  # fmt: skip
    for one, other in zip(*(step() for step in text.values()), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)
    sides = {f"{side} x {side}": encoder_step(encoder, recipe, side) for side in (WHOLE, WINDOW)}
    pairs = {"encoder": sides, "language model": text}
    for what, steps in pairs.items():
        times = best_times(steps, repeats)
        first, second = times.values()
        told = ", ".join(f"{name} {1000 * seconds:.0f} ms" for name, seconds in times.items())
        print(f"{what}: {told}, ratio {first / second:.2f}")


if __name__ == "__main__":
    main()
