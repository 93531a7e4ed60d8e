"""The ablation sweep against plain hooks: ``python -m tests.benchmarks.bench_ablation``.

One image, eight k in three conditions and the whole model, captions of ten tokens: the paper's
Fig. 6 and S.3. The plain ways are transformers' own model with torch's hooks: each condition by
itself, on its cache of keys and values; all in one batch, with a mask for each row; and, as one
first writes it, each by itself without a cache. Units come from the scores of both papers, on two
systems of random weights: a LLaVA of 12 layers x 512 with 576 image tokens, and the miniature's
shape; with torch's own products, and with ours (``models.products``). Behind trained weights
contributions grow towards the last layers; here write vectors do, by ``GROWTH`` from layer to
layer. Captions and logits are compared before the ratios are printed.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import numpy as np
import torch
from torch import Tensor

from mmn_utils.interventions.sweeps import SweepResult, sweep
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.table import Neuron, by_layer, neurons_of
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.ablation import ablation_rows, scaled_counts
from tests.benchmarks.timing import best_times, plainly, random_llava, random_system, random_targets

SYSTEMS = {"llava": random_llava, "miniature": random_system}
SCORES = {"contribution": contribution, "attribution": attribution}
WAYS = ("batch", "cache", "from the start")
OURS = ", our products"  # behind the name of a way that has them; the others have torch's own
GROWTH = 1.3  # of write vectors, from one layer to the next
Found = tuple[list[float], list[list[int]]]  # each row's logit of the target, and its caption


class PlainSweep:
    """Ablations written down plainly: what is switched off is a mask over activations."""

    def __init__(self, model, prompt, target: Target, tokens: int) -> None:
        self.model, self.language = model, model.language_model
        self.embed, self.ends = self.language.get_input_embeddings(), model.end_tokens
        self.embeds, self.target, self.tokens = prompt.embeds, target, tokens

    @contextmanager
    def without(self, rows: Sequence[Sequence[Neuron]]) -> Iterator[None]:
        """Switch each row's units off, by hooks."""
        keep: dict[int, Tensor] = {}
        for i, row in enumerate(rows):
            for layer, units in by_layer(row).items():
                whole = torch.ones(len(rows), 1, self.model.sizes.units)
                keep.setdefault(layer, whole)[i, 0, units] = 0

        def switch_off(layer: int):
            return lambda _module, inputs: (inputs[0] * keep[layer],)

        with ExitStack() as stack:
            for layer in keep:
                hook = self.model.act_module(layer).register_forward_pre_hook(switch_off(layer))
                stack.callback(hook.remove)
            yield

    def run(self, embeds: Tensor, past=None) -> tuple[Tensor, object]:
        """Run embeddings (B, n, d): the logits (B, V) behind them, and the cache."""
        out = self.language(
            inputs_embeds=embeds, past_key_values=past, use_cache=True, logits_to_keep=1
        )
        return out.logits[:, -1, : self.model.sizes.vocabulary], out.past_key_values

    def on_cache(self, rows: Sequence[Sequence[Neuron]]) -> Found:
        """Run rows as one batch on the cache, and each to the last token of a caption."""
        prefix = torch.tensor([self.target.prefix]).expand(len(rows), -1)
        with self.without(rows):
            logits, past = self.run(self.embeds.expand(len(rows), -1, -1))
            at_target = self.run(self.embed(prefix), past)[0]
            past.crop(-prefix.shape[1])
            tokens = [logits.argmax(-1)]
            while len(tokens) < self.tokens:
                logits, past = self.run(self.embed(tokens[-1])[:, None], past)
                tokens.append(logits.argmax(-1))
        return at_target[:, self.target.token].tolist(), torch.stack(tokens, 1).tolist()

    def from_the_start(self, row: Sequence[Neuron]) -> Found:
        """Run one row without a cache."""
        ids: list[int] = []

        def behind(some: Sequence[int]) -> Tensor:
            words = self.embed(torch.tensor([list(some)], dtype=torch.long))
            return self.run(torch.cat([self.embeds, words], dim=1))[0]

        with self.without([row]):
            logit = float(behind(self.target.prefix)[0, self.target.token])
            while len(ids) < self.tokens:
                ids.append(int(behind(ids).argmax()))
        return [logit], [ids]

    def ways(self, rows: Sequence[Sequence[Neuron]]) -> dict:
        """Give the ways by their names."""

        def each(one) -> Found:
            found = [one(row) for row in rows]
            return [logit for a, _ in found for logit in a], [ids for _, b in found for ids in b]

        return {
            "batch": lambda: self.on_cache(rows),
            "cache": lambda: each(lambda row: self.on_cache([row])),
            "from the start": lambda: each(self.from_the_start),
        }


def conditions(model, prompt, target: Target, score: str) -> list[list[Neuron]]:
    """Make the rows of paper A's Fig. 6 of a score's top units, every second taken for readable."""
    counts, sizes = scaled_counts(model), model.sizes
    deep = min(sizes.layers * sizes.units, 3 * max(counts) + 2)
    ranked = neurons_of(SCORES[score](model, prompt, [target], k=deep))
    readable = {neuron: neuron.unit % 2 == 0 for neuron in ranked}
    return ablation_rows(ranked, readable, counts, sizes.units, np.random.default_rng(0))[0]


def agree(mine: SweepResult, other: Found, ends: frozenset[int]) -> int:
    """Count equal captions; ``AssertionError`` where logits are not, to 1e-4."""
    np.testing.assert_allclose(mine.logit, other[0], atol=1e-4, rtol=1e-5)
    cut = [ids[: next((i for i, t in enumerate(ids) if t in ends), len(ids))] for ids in other[1]]
    return sum(list(a.ids) == b for a, b in zip(mine.captions, cut, strict=True))


@torch.no_grad()
def measure(
    system: str = "llava",
    score: str = "contribution",
    tokens: int = 10,
    repeats: int = 1,
    ways: Sequence[str] = WAYS,
    **shape: int,
) -> tuple[int, dict[str, int], dict[str, float]]:
    """Time all ways: rows, captions of each way that equal the sweep's, and its time over ours."""
    torch.set_num_threads(1)
    model, prompt = SYSTEMS[system](1, growth=GROWTH, **shape)
    target = random_targets(model, 1)[0]
    rows = conditions(model, prompt, target, score)
    plain = PlainSweep(model, prompt, target, tokens).ways(rows)
    found: dict = {}

    def run(name: str, way) -> None:
        found[name] = way()

    ours = {"sweep": lambda: run("sweep", lambda: sweep(model, prompt, target, rows, tokens))}
    theirs = {}
    for name in ways:
        theirs[name] = plainly(lambda name=name: run(name, plain[name]))
        theirs[name + OURS] = lambda name=name: run(name + OURS, plain[name])
    times = best_times({**ours, **theirs}, repeats)
    equal = {name: agree(found["sweep"], found[name], model.end_tokens) for name in theirs}
    return len(rows), equal, {name: times[name] / times["sweep"] for name in theirs}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--systems", nargs="+", choices=list(SYSTEMS), default=list(SYSTEMS))
    parser.add_argument("--scores", nargs="+", choices=list(SCORES), default=list(SCORES))
    parser.add_argument("--ways", nargs="+", choices=WAYS, default=["batch", "cache"])
    chosen = parser.parse_args()
    for system in chosen.systems:
        for score in chosen.scores:
            options = chosen.tokens, chosen.repeats, chosen.ways
            rows, equal, ratios = measure(system, score, *options)
            for name, ratio in ratios.items():
                print(
                    f"{system}, top units by {score}: plain hooks, {name}, {ratio:.2f} x ours; "
                    f"{equal[name]} of {rows} captions equal",
                    flush=True,
                )


if __name__ == "__main__":
    main()
