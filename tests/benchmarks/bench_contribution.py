"""Contribution against the published way: ``python -m tests.benchmarks.bench_contribution``.

Scores of a caption's five nouns, from the activations at the steps that predict them to the
ranked neurons, on two shapes of random weights: the miniature's (6 layers) and one layer of
LLaVA-7B's. The pass through the model is the same for both ways and not counted.

The published way multiplies all write vectors with the whole unembedding once per model,
in float32, and stores the product in float16: its preparation. Then it takes a column per
noun, multiplies in float16 and sorts all units. Ours multiplies the write vectors with the
nouns' rows alone and keeps the top units; its time includes the neuron table. Processor
time on one thread, in three ratios: for one caption with the preparation, as when a model
or an edit of it is new; with the preparation spread over the paper's 1,000 images; and
without it. The top units of both are compared first, within the rounding of float16.

At last one noun from the pass on, against hooks on transformers' own model, with torch's own
products and with ours (``models.products``).
"""

from __future__ import annotations

import argparse
from types import SimpleNamespace
from unittest.mock import patch

import torch

from mmn_utils.models.architectures import LLAMA
from mmn_utils.models.stream import Stream
from mmn_utils.neurons import contribution as contribution_module
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.targets import Target, teacher_forced
from tests.benchmarks.timing import best_times, plainly, random_system, random_targets

NOUNS, TOP, KEPT, IMAGES = 5, 100, 10_000, 1000
SHAPES = {  # layers, width, units, vocabulary
    "miniature": (6, 256, 1024, 1536),
    "LLaVA-7B, one layer": (1, 4096, 11008, 32000),
}


class Weights(Stream):
    """Random second matrices (d, units) and unembedding, with the activations of the nouns."""

    def __init__(self, layers: int, width: int, units: int, vocabulary: int) -> None:
        generator = torch.Generator().manual_seed(0)

        def draw(*shape: int) -> torch.Tensor:
            return torch.randn(*shape, generator=generator)

        self.down = [draw(width, units) / width**0.5 for _ in range(layers)]
        self.unembed = draw(vocabulary, width)
        self.activations = [draw(NOUNS, units) for _ in range(layers)]
        step = vocabulary // NOUNS
        self.targets = [Target("image", str(i), i * step + 7, ()) for i in range(NOUNS)]
        self.sizes = SimpleNamespace(layers=layers, units=units)
        self.architecture = LLAMA
        self.unembedding = (self.unembed, None)

    def write_vectors(self, layer: int) -> torch.Tensor:
        return self.down[layer].T

    def feed(self, model, images, targets, takers, scales) -> None:
        """Hand the activations over, in the place of a pass through the model."""
        for layer, values in enumerate(self.activations):
            for take in takers.values():
                take(layer, values)


def ours(weights: Weights):
    """Score all nouns: the neuron table."""
    with patch.object(contribution_module, "at_steps", weights.feed):
        return contribution(weights, weights.targets, weights.targets, k=TOP)


def prepare(weights: Weights) -> list[torch.Tensor]:
    """Multiply every write vector with every token: (units, V) float16 of each layer."""
    return [(down.T @ weights.unembed.T).half() for down in weights.down]


def published(weights: Weights, products: list[torch.Tensor]) -> list[list[list[int]]]:
    """Score all nouns one by one: the first (layer, unit) of each, of a full sort."""
    found = []
    for i, target in enumerate(weights.targets):
        columns = [
            values[i].half() * product[:, target.token]
            for values, product in zip(weights.activations, products, strict=True)
        ]
        order = torch.cat(columns).sort(descending=True).indices[:KEPT]
        units = weights.sizes.units
        found.append(torch.stack([order // units, order % units], dim=1).tolist())
    return found


def agree(weights: Weights, products: list[torch.Tensor]) -> float:
    """Return the share of top units that both ways name."""
    table, shares = ours(weights), []
    for target, found in zip(weights.targets, published(weights, products), strict=True):
        mine = table[table.target == target.noun][["layer", "unit"]].to_numpy().tolist()
        shares.append(len({*map(tuple, mine)} & {*map(tuple, found[:TOP])}) / TOP)
    return sum(shares) / len(shares)


def hooked(model, prompt, target: Target) -> list[tuple[int, int]]:
    """Score one noun as one writes it down: transformers' own model, a hook on each layer."""
    seen: list[torch.Tensor] = []
    layers = range(model.sizes.layers)
    hooks = [
        model.act_module(layer).register_forward_pre_hook(
            lambda _module, inputs: seen.append(inputs[0][0, -1])
        )
        for layer in layers
    ]
    forced = teacher_forced(model, prompt, [target.prefix])
    model.language_model(inputs_embeds=forced.embeds, use_cache=False, logits_to_keep=1)
    for hook in hooks:
        hook.remove()
    row = model.language_model.get_output_embeddings().weight[target.token]
    scores = [act * (row @ model.act_module(i).weight) for i, act in enumerate(seen)]
    best, units = torch.cat(scores).topk(TOP).indices.tolist(), model.sizes.units
    return [(place // units, place % units) for place in best]


@torch.no_grad()
def against_hooks(repeats: int = 5, layers: int = 6) -> dict[str, float]:
    """Time one noun from the pass on, on the miniature's shape: ours over each plain way.

    With the one-kernel GELU for all. ``AssertionError`` where the top units differ.
    """
    model, prompt = random_system(1, layers)
    for layer in range(layers):
        model.layer(layer).mlp.act = torch.nn.GELU(approximate="tanh")
    targets = random_targets(model, 1)
    mine = contribution(model, prompt, targets, k=TOP)[["layer", "unit"]].to_numpy().tolist()
    assert [*map(tuple, mine)] == hooked(model, prompt, targets[0])
    times = best_times(
        {
            "ours": lambda: contribution(model, prompt, targets, k=TOP),
            "plain hooks": plainly(lambda: hooked(model, prompt, targets[0])),
            "plain hooks with our products": lambda: hooked(model, prompt, targets[0]),
        },
        repeats,
    )
    ours = times.pop("ours")
    return {way: ours / time for way, time in times.items()}


def measure(name: str, repeats: int, shape: tuple[int, int, int, int] | None = None) -> None:
    weights = Weights(*(shape or SHAPES[name]))
    products: list[torch.Tensor] = []
    few = 1 if "7B" in name else repeats
    once = best_times({"prepare": lambda: products.__setitem__(slice(None), prepare(weights))}, few)
    share = agree(weights, products)
    times = best_times(
        {"ours": lambda: ours(weights), "published": lambda: published(weights, products)}, repeats
    )
    preparation, rest, mine = once["prepare"], times["published"], times["ours"]
    stored = sum(product.numel() for product in products) * 2 / 1e6
    print(f"{name}: {share:.1%} of the top {TOP} the same; ours {mine * 1e3:.1f} ms")
    print(f"  one caption with the preparation: {(preparation + rest) / mine:.0f} x")
    print(f"  the preparation spread over {IMAGES} images: "
          f"{(preparation / IMAGES + rest) / mine:.2f} x")  # fmt: skip
    print(f"  without the preparation: {rest / mine:.2f} x, with {stored:.0f} MB held ready")


@torch.no_grad()
def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--shape", choices=list(SHAPES), help="only this one")
    arguments = parser.parse_args()
    for name in [arguments.shape] if arguments.shape else SHAPES:
        measure(name, arguments.repeats)
    for way, ratio in against_hooks(arguments.repeats).items():
        print(f"one noun with its pass: ours {ratio:.2f} x {way}")


if __name__ == "__main__":
    main()
