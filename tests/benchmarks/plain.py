"""A system as one would write it down: transformers' own model, torch's hooks, one picture a time.

What the benchmarks of ``bench_smol`` hold ours against. Nothing here is batched, cached between
pictures or shared, but for the keys and values that ``generate`` keeps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from PIL import Image
from torch import Tensor

Units = Iterable[tuple[int, int]]  # (layer, unit)


class Plain:
    """The parts of a system of LiMBeR's kind around LLaMA: image tokens first, then its prefix."""

    def __init__(self, model) -> None:
        self.language, self.encoder = model.language_model, model.encoder
        self.projection, self.preprocess = model.projection, model.preprocess
        self.ends, self.places = sorted(model.end_tokens), model.image_tokens.count
        self.words = torch.tensor([model.tokenizer.encode(model.prefix, add_special_tokens=False)])
        self.layers = self.language.model.layers

    @torch.no_grad()
    def embeds(self, image: Image.Image) -> Tensor:
        """Encode and project one picture, and put the prefix behind it: (1, T, d)."""
        soft = self.projection(self.encoder.features(self.preprocess([image])))
        return torch.cat([soft, self.language.model.embed_tokens(self.words)], dim=1)

    def forced(self, embeds: Tensor, prefix: Sequence[int]) -> Tensor:
        """Put the beginning of a caption behind a prompt."""
        ids = torch.tensor([list(prefix)], dtype=torch.long)
        return torch.cat([embeds, self.language.model.embed_tokens(ids)], dim=1)

    @torch.no_grad()
    def caption(self, embeds: Tensor, tokens: int) -> tuple[int, ...]:
        """Caption greedily by transformers' ``generate``: token ids without the end."""
        mask = torch.ones(embeds.shape[:2], dtype=torch.long)
        found = self.language.generate(
            inputs_embeds=embeds, attention_mask=mask, max_new_tokens=tokens, do_sample=False,
            use_cache=True, eos_token_id=self.ends, pad_token_id=self.ends[0],
        )  # fmt: skip
        return tuple(token for token in found[0].tolist() if token not in self.ends)

    def gradients(self, embeds: Tensor, token: int) -> tuple[list[Tensor], tuple[Tensor, ...]]:
        """Run forward and backward to each layer's Z: (T, units) each, and its gradients."""
        seen: list[Tensor] = []

        def keep(_module, _inputs, output: Tensor) -> None:
            seen.append(output if output.requires_grad else output.requires_grad_(True))

        hooks = [layer.mlp.gate_proj.register_forward_hook(keep) for layer in self.layers]
        out = self.language(inputs_embeds=embeds, use_cache=False, logits_to_keep=1)
        found = torch.autograd.grad(out.logits[0, -1, token], seen)
        for hook in hooks:
            hook.remove()
        return seen, found

    def scores(self, embeds: Tensor, token: int, k: int) -> Tensor:
        """Score units by the maximum of Z times its gradient over patches: the top k, sorted."""
        pairs = zip(*self.gradients(embeds, token), strict=True)
        fields = [(z * gradient)[0, : self.places].amax(0) for z, gradient in pairs]
        return torch.cat(fields).detach().topk(k).values

    @torch.no_grad()
    def probability(self, embeds: Tensor, token: int) -> float:
        """Return the probability of a token behind a prompt."""
        logits = self.language(inputs_embeds=embeds, use_cache=False, logits_to_keep=1).logits
        return float(logits[0, -1].softmax(-1)[token])

    @contextmanager
    def without(self, units: Units) -> Iterator[None]:
        """Switch units off by hooks."""
        groups: dict[int, list[int]] = {}
        for layer, unit in units:
            groups.setdefault(layer, []).append(unit)

        def switch_off(some: list[int]):
            def change(_module, inputs: tuple) -> tuple:
                activation = inputs[0].clone()
                activation[..., some] = 0
                return (activation,)

            return change

        hooks = [self.layers[layer].mlp.down_proj.register_forward_pre_hook(switch_off(some))
                 for layer, some in groups.items()]  # fmt: skip
        yield
        for hook in hooks:
            hook.remove()

    @contextmanager
    @torch.no_grad()
    def written(self, units: Units, deltas: Tensor) -> Iterator[None]:
        """Add to write vectors, in the weights, while the context lasts."""
        units = list(units)
        before = [self.layers[layer].mlp.down_proj.weight[:, unit].clone() for layer, unit in units]
        for (layer, unit), delta in zip(units, deltas, strict=True):
            self.layers[layer].mlp.down_proj.weight[:, unit] += delta
        yield
        for (layer, unit), column in zip(units, before, strict=True):
            self.layers[layer].mlp.down_proj.weight[:, unit] = column
