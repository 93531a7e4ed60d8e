"""Attribution against its floor and Captum: ``python -m tests.benchmarks.bench_attribution``.

The floor is one forward pass and one backward pass to the activations, with nothing made
of them. Captum's layer gradient x activation gets the same batch, for all layers in one
call and layer by layer. Processor time, since the machine may be shared; ratios only.

A larger batch goes in parts; against all of it in one pass, what are its time and its peak of
memory, which is counted? Aimed at: the same time, a quarter of the memory.
"""

from __future__ import annotations

import argparse
from functools import partial
from unittest.mock import patch

import numpy as np
import torch
from captum.attr import LayerGradientXActivation

from mmn_utils.models.capture import capture
from mmn_utils.neurons.attribution import attribution, rows_together
from mmn_utils.neurons.ranking import RANKS
from mmn_utils.neurons.targets import objective, teacher_forced
from mmn_utils.running.planning.tally import peak
from tests.benchmarks.timing import best_times, plainly, random_system, random_targets


def floor(model, prompt, targets) -> None:
    """Run forward and backward to every layer's pre-activation."""
    forced = teacher_forced(model, prompt, [t.prefix for t in targets])
    with capture(model, "pre", grad=True) as seen:
        logits, _ = model.forward(forced)
        torch.autograd.grad(objective(logits, targets).sum(), list(seen.values.values()))


def captum(model, prompt, targets, groups) -> None:
    """Run Captum on groups of layers."""
    forced = teacher_forced(model, prompt, [t.prefix for t in targets])
    rows = torch.arange(len(targets))
    places = forced.mask.cumsum(1).argmax(1)  # the last real token

    def forward(embeds):
        out = model.language_model(
            inputs_embeds=embeds, attention_mask=forced.mask, position_ids=forced.positions,
            logits_to_keep=places[:, None], use_cache=False,
        )  # fmt: skip
        return out.logits[rows, 0]

    for modules in groups:
        LayerGradientXActivation(forward, modules).attribute(
            forced.embeds.clone(), target=[t.token for t in targets]
        )


def measure(images: int = 4, repeats: int = 3, layers: int = 6) -> dict[str, float]:
    """Time all ways, in seconds."""
    model, prompt = random_system(images, layers)
    targets = random_targets(model, images)
    modules = [model.pre_module(layer) for layer in range(layers)]  # behind the encoder
    ways = {"floor": lambda: floor(model, prompt, targets)}
    for rank_by in RANKS:
        ways[rank_by] = partial(attribution, model, prompt, targets, rank_by=rank_by)
    ways["captum"] = plainly(lambda: captum(model, prompt, targets, [modules]))
    ways["captum by layer"] = plainly(lambda: captum(model, prompt, targets, modules))
    ways["floor, torch's own products"] = plainly(lambda: floor(model, prompt, targets))
    return best_times(ways, repeats)


def in_one(work, *arguments, **options):
    """Score a batch in one pass, however large it is."""
    with patch("mmn_utils.neurons.attribution.rows_together", lambda *_: len(arguments[-1])):
        return work(*arguments, **options)


def in_parts(
    images: int = 16, repeats: int = 2, layers: int = 6, rows: int | None = None
) -> dict[str, float]:
    """Compare parts with one pass: rows of a part, time and memory, each as a share."""
    model, prompt = random_system(images, layers)
    targets = random_targets(model, images)
    tokens = prompt.embeds.shape[1] + len(targets[0].prefix)
    rows = rows or rows_together(model, tokens)
    ways = {
        "parts": partial(attribution, model, prompt, targets),
        "whole": partial(in_one, attribution, model, prompt, targets),
    }
    with patch("mmn_utils.neurons.attribution.rows_together", lambda *_: rows):
        mine, expected = (way()["score"] for way in ways.values())
        np.testing.assert_allclose(mine, expected, rtol=1e-4, atol=1e-6)
        times, bytes_ = best_times(ways, repeats), {name: peak(way) for name, way in ways.items()}
    return {
        "rows": rows,
        "time": times["parts"] / times["whole"],
        "memory": bytes_["parts"] / bytes_["whole"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=4)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--layers", type=int, default=6)
    times = measure(**vars(parser.parse_args()))
    for rank_by in RANKS:
        print(f"attribution, {rank_by:>4}, over the floor: {times[rank_by] / times['floor']:.2f} x")
    plain = times["floor, torch's own products"]
    print(f"the floor with torch's own products, over ours: {plain / times['max']:.2f} x")
    print(f"Captum, all layers in one call, over ours: {times['captum'] / times['max']:.2f} x")
    print(f"Captum, layer by layer, over ours: {times['captum by layer'] / times['max']:.2f} x")
    found = in_parts()
    print(f"16 pictures by {found['rows']}: {found['time']:.2f} x the time of one pass, "
          f"{found['memory']:.2f} x the memory")  # fmt: skip


if __name__ == "__main__":
    main()
