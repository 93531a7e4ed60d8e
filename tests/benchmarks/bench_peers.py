"""Attribution against other packages: ``python -m tests.benchmarks.bench_peers``.

Two systems, one noun of one picture: LLaVA's kind, 12 layers of width 512 behind 576 image tokens,
and the miniature's shape. All have the same frozen weights, one thread, and are asked for one
thing: each unit's largest gradient times pre-activation over the image tokens. What they say is
compared before anything is timed. Each multiplies once with torch's own products and once with
ours (``models.products``).

Besides hooks of torch's and Captum, contestants are not in the lock. Those that an environment of
one's own has beside it are timed: ``pip install nnsight pyvene transformer-lens``.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
from collections.abc import Callable, Iterable
from importlib import metadata

import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor
from transformers.activations import ACT2FN

from mmn_utils.models.limber import ONE_KERNEL
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.targets import teacher_forced
from tests.benchmarks.timing import best_times, plainly, random_llava, random_system, random_targets

SYSTEMS = {"llava": random_llava, "miniature": random_system}
OURS, K = "ours", 100

Way = Callable[[], Tensor]


class Question:
    """What contestants are asked: transformers' own model, frozen, its input and the token."""

    def __init__(self, system: str, **shape) -> None:
        self.model, self.prompt = SYSTEMS[system](1, **shape)
        for module in self.model.language_model.modules():
            if hasattr(module, "fc_in"):  # GPT-J: the GELU in one kernel, for all
                module.act = ACT2FN[ONE_KERNEL["activation_function"]]
        self.targets = random_targets(self.model, 1)
        forced = teacher_forced(self.model, self.prompt, [self.targets[0].prefix])
        self.given = {"inputs_embeds": forced.embeds, "use_cache": False, "logits_to_keep": 1}
        self.token, self.first = self.targets[0].token, self.model.image_tokens.count
        self.plain = self.model.twin(self.model.dtype).language_model.requires_grad_(False)
        parts = self.model.architecture
        self.paths = [f"{parts.layers}.{i}.{parts.pre}" for i in range(self.model.sizes.layers)]
        self.modules = [self.plain.get_submodule(path) for path in self.paths]

    def logit(self, logits: Tensor) -> Tensor:
        """Read the token's logit at the last position."""
        return logits[0, -1, self.token]

    def best(self, products: Iterable[Tensor]) -> Tensor:
        """Rank units by the largest of their products (1, T, units) over the image tokens."""
        return torch.stack([one[0, : self.first].amax(0) for one in products]).flatten().topk(K)[0]

    def by_gradients(self, seen: list[Tensor], gradients: Iterable[Tensor]) -> Tensor:
        """Rank units by activations and their gradients, each layer by layer."""
        pairs = zip(seen, gradients, strict=True)
        return self.best(value.detach() * gradient for value, gradient in pairs)

    def ours(self) -> Tensor:
        """Ask ``attribution``."""
        table = attribution(self.model, self.prompt, self.targets, k=K)
        return torch.tensor(table["score"].to_list())


def leaf(seen: list[Tensor], value: Tensor) -> Tensor:
    """Keep a value; from the first on torch records what is computed."""
    seen.append(value if value.requires_grad else value.requires_grad_(True))
    return seen[-1]


def plain_hooks(asked: Question) -> Way:
    """Torch's hooks on transformers' own model."""

    def way() -> Tensor:
        seen: list[Tensor] = []
        hooks = [
            module.register_forward_hook(lambda _module, _inputs, out: leaf(seen, out))
            for module in asked.modules
        ]
        logit = asked.logit(asked.plain(**asked.given).logits)
        for hook in hooks:
            hook.remove()
        return asked.by_gradients(seen, torch.autograd.grad(logit, seen))

    return way


def captum(asked: Question) -> Way:
    """Captum's layer gradient x activation, all layers in one call."""

    def forward(embeds: Tensor) -> Tensor:
        return asked.logit(asked.plain(**{**asked.given, "inputs_embeds": embeds}).logits)[None]

    method = LayerGradientXActivation(forward, asked.modules)
    return lambda: asked.best(method.attribute(asked.given["inputs_embeds"].clone()))


def nnsight(asked: Question) -> Way:
    """A trace of nnsight, and one of the backward pass within."""
    from nnsight import NNsight

    traced = NNsight(asked.plain)
    modules = [traced.get(path) for path in asked.paths]

    def way() -> Tensor:
        given = {**asked.given, "inputs_embeds": asked.given["inputs_embeds"].clone()}
        given["inputs_embeds"].requires_grad_(True)
        with traced.trace(**given):
            seen = list().save()  # noqa: C408 (a literal has no such method)
            gradients = list().save()  # noqa: C408
            for module in modules:
                seen.append(module.output)
            logit = traced.output.logits[0, -1, asked.token]
            with logit.backward():
                for value in reversed(seen):
                    gradients.append(value.grad)
        return asked.by_gradients(seen, gradients[::-1])

    return way


def pyvene(asked: Question) -> Way:
    """Interventions of pyvene that keep what they see."""
    from pyvene import IntervenableModel

    seen: list[Tensor] = []

    def keep(base: Tensor, _source: Tensor | None = None) -> Tensor:
        return leaf(seen, base)

    parts = [{"component": f"{path}.output", "intervention": keep} for path in asked.paths]
    intervened = IntervenableModel(parts, model=asked.plain)

    def way() -> Tensor:
        seen.clear()
        logit = asked.logit(intervened(dict(asked.given))[1].logits)
        return asked.by_gradients(seen, torch.autograd.grad(logit, seen))

    return way


def transformer_lens(asked: Question) -> Way:
    """Hooks of TransformerLens' bridge to the model; it attends eagerly, as its hooks ask for."""
    from transformer_lens.model_bridge import TransformerBridge

    plain = copy.deepcopy(asked.plain)  # the bridge puts modules of its own into it
    with tempfile.TemporaryDirectory() as folder:
        plain.config.save_pretrained(folder)
        tokenizer = copy.deepcopy(asked.model.tokenizer)
        tokenizer.save_pretrained(folder)
        tokenizer.init_kwargs["name_or_path"] = folder
        bridge = TransformerBridge.boot_transformers(
            folder, hf_model=plain, tokenizer=tokenizer, device="cpu"
        )
    inside = "gate" if asked.model.architecture.gate else "in"
    names = [f"blocks.{i}.mlp.{inside}.hook_out" for i in range(len(asked.paths))]
    embeds = asked.given["inputs_embeds"]
    tokens = torch.zeros(embeds.shape[:2], dtype=torch.long)

    def way() -> Tensor:
        seen: list[Tensor] = []
        hooks = [(name, lambda value, hook: leaf(seen, value)) for name in names]
        with bridge.hooks([("embed.hook_out", lambda value, hook: embeds), *hooks]):
            logit = asked.logit(bridge(tokens, return_type="logits"))
        return asked.by_gradients(seen, torch.autograd.grad(logit, seen))

    return way


PEERS = {
    "captum": captum,
    "nnsight": nnsight,
    "pyvene": pyvene,
    "transformer-lens": transformer_lens,
}


def measure(system: str, repeats: int = 3, **shape) -> dict[str, float]:
    """Time all ways that are here over ours; ``AssertionError`` where one disagrees."""
    asked = Question(system, **shape)
    makers = {"plain hooks": plain_hooks}
    makers |= {name: make for name, make in PEERS.items() if version_of(name)}
    expected, ways = asked.ours(), {OURS: asked.ours}
    for name, make in makers.items():
        way = make(asked)
        torch.testing.assert_close(way(), expected, rtol=1e-4, atol=1e-6)
        ways |= {name: plainly(way), f"{name}, our products": way}
    times = best_times(ways, repeats)
    return {name: times[name] / times[OURS] for name in ways if name != OURS}


def version_of(name: str) -> str | None:
    """Return the version of a distribution, None where it is not there."""
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    repeats = parser.parse_args().repeats
    for name in PEERS:
        print(name, version_of(name) or "is not installed")
    for system in SYSTEMS:
        for way, ratio in measure(system, repeats).items():
            print(f"{system}: {way}, over ours: {ratio:.2f} x")


if __name__ == "__main__":
    main()
