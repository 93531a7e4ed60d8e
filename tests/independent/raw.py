"""The miniature's systems as plain torch modules, with hooks, passes and captions of our own.

Weights and tokenizers come from the package's loaders; what is read of a picture, laid out as
a prompt, hooked, differentiated or generated is written out here, by the papers' equations.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from mmn_utils.models import load_model
from mmn_utils.presets import ROOT

MINIATURE = ROOT / "data" / "miniature"
PICTURES = MINIATURE / "coco" / "images" / "val"
LONGEST = 20  # tokens of a caption, where a notebook does not ask for fewer
Unit = tuple[int, int]  # layer and unit


@dataclass(frozen=True, eq=False)
class System:
    """A language model behind an encoder: ``see`` turns a picture into image tokens (P, d).

    ``pre``, ``out`` and ``gate`` are the layers' modules: the output of ``pre`` is Z, the input
    of ``out`` the activation, the output of ``gate`` the gate's (none without gates).
    """

    language: nn.Module
    tokenizer: Any
    see: Callable[[Image.Image], Tensor]
    before: tuple[int, ...]
    behind: tuple[int, ...]
    pre: tuple[nn.Module, ...]
    out: tuple[nn.Module, ...]
    gate: tuple[nn.Module, ...] = ()

    @property
    def embeddings(self) -> Tensor:
        """What reads tokens (V, d)."""
        return self.language.get_input_embeddings().weight

    @property
    def unembedding(self) -> Tensor:
        """What reads the stream into logits (V, d)."""
        return self.language.lm_head.weight

    def written(self, unit: Unit) -> Tensor:
        """The write vector of a unit (d)."""
        return self.out[unit[0]].weight[:, unit[1]]

    def tokens(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False)

    def text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, clean_up_tokenization_spaces=False)


@cache
def limber() -> System:
    """Paper A's system: BEiT's last block, one affine map, GPT-J; the picture stands first."""
    loaded = load_model("miniature")
    beit, projection = loaded.encoder.beit, loaded.projection
    facts = json.loads((MINIATURE / "vision.json").read_text())
    side = facts["architecture"]["img_size"]

    def see(picture: Image.Image) -> Tensor:
        seen = []
        hook = beit.blocks[-1].register_forward_hook(lambda _m, _i, out: seen.append(out))
        try:
            beit(pixels(picture, side, facts))
        finally:
            hook.remove()
        return projection(seen[0][0, 1:])  # CLS is dropped

    blocks = loaded.language_model.transformer.h
    words = loaded.tokenizer.encode("A picture of", add_special_tokens=False)
    return System(
        loaded.language_model, loaded.tokenizer, see, (), tuple(words),
        tuple(block.mlp.fc_in for block in blocks), tuple(block.mlp.fc_out for block in blocks),
    )  # fmt: skip


@cache
def llava() -> System:
    """Paper B's LLaVA: CLIP's last layer but one, a projector, LLaMA; text on both sides."""
    loaded = load_model("miniature/llava")
    facts = json.loads((MINIATURE / "llava" / "facts.json").read_text())
    tokenizer, side = loaded.tokenizer, loaded.vision.config.image_size

    def see(picture: Image.Image) -> Tensor:
        values = pixels(picture, side, facts)
        states = loaded.vision(pixel_values=values, output_hidden_states=True).hidden_states
        return loaded.projector(states[facts["vision_layer"]][:, 1:])[0]

    before = tokenizer.encode(facts["before"], add_special_tokens=False)
    behind = tokenizer.encode(facts["prefix"], add_special_tokens=False)
    mlps = [layer.mlp for layer in loaded.language_model.model.layers]
    return System(
        loaded.language_model, tokenizer, see,
        (tokenizer.bos_token_id, *before), tuple(behind),
        tuple(mlp.gate_proj for mlp in mlps), tuple(mlp.down_proj for mlp in mlps),
        tuple(mlp.act_fn for mlp in mlps),
    )  # fmt: skip


def pixels(picture: Image.Image, side: int, facts: dict) -> Tensor:
    """Scale a picture, which is a square of the right size, to an encoder's input (1, 3, s, s)."""
    assert picture.size == (side, side)
    values = torch.from_numpy(np.array(picture.convert("RGB"))).float() / 255
    mean, std = torch.tensor(facts["mean"]), torch.tensor(facts["std"])
    return ((values - mean) / std).permute(2, 0, 1)[None]


# --- pictures and passes -------------------------------------------------------------------


def picture(image: str) -> Image.Image:
    return Image.open(PICTURES / f"{int(image)}.jpg")


@cache
@torch.no_grad()
def seen(system: System, image: str) -> Tensor:
    """The image tokens of a picture (P, d)."""
    return system.see(picture(image))


def span(system: System, image: str) -> slice:
    """Where the image tokens lie in a prompt."""
    start = len(system.before)
    return slice(start, start + len(seen(system, image)))


def prompt(system: System, soft: Tensor, said: Sequence[int] = ()) -> Tensor:
    """Embed what stands before the picture, its tokens, what stands behind, the caption so far."""
    around = (system.before, [*system.behind, *said])
    first, last = (system.embeddings[torch.tensor(ids, dtype=torch.long)] for ids in around)
    return torch.cat([first, soft, last])[None].detach()


@torch.no_grad()
def caption(system: System, soft: Tensor, longest: int = LONGEST) -> tuple[int, ...]:
    """Caption image tokens greedily, by transformers' own ``generate``: ids before the end."""
    embeds = prompt(system, soft)
    ids = system.language.generate(
        inputs_embeds=embeds,
        attention_mask=torch.ones(embeds.shape[:2], dtype=torch.long),
        max_new_tokens=longest,
        do_sample=False,
        eos_token_id=system.tokenizer.eos_token_id,
        pad_token_id=system.tokenizer.eos_token_id,
    )[0].tolist()
    end = system.tokenizer.eos_token_id
    return tuple(ids[: ids.index(end)] if end in ids else ids)


@cache
def said(system: System, image: str) -> tuple[int, ...]:
    """The caption of a picture."""
    return caption(system, seen(system, image))


@contextmanager
def hooks(handles: Iterable[Any]) -> Iterator[None]:
    """Take hooks off again whatever happens."""
    with ExitStack() as stack:
        for handle in handles:
            stack.callback(handle.remove)
        yield


def without(system: System, units: Iterable[Unit]):
    """Set the activations of units to zero, at all positions, while the context lasts."""
    by_layer: dict[int, list[int]] = {}
    for layer, unit in units:
        by_layer.setdefault(layer, []).append(unit)

    def silence(units: list[int]):
        return lambda _module, inputs: (inputs[0].index_fill(-1, torch.tensor(units), 0.0),)

    each = by_layer.items()
    return hooks([system.out[i].register_forward_pre_hook(silence(some)) for i, some in each])


@torch.no_grad()
def probability(system: System, embeds: Tensor, token: int) -> float:
    """The probability of a token behind a prompt."""
    logits = system.language(inputs_embeds=embeds).logits[0, -1]
    return float(logits.softmax(-1)[token])


@torch.no_grad()
def activations(system: System, embeds: Tensor) -> tuple[Tensor, Tensor | None]:
    """Read all activations of one pass, whole and of the gates alone: (layers, T, units) each."""
    whole: list[Tensor] = []
    gates: list[Tensor] = []
    handles = [
        module.register_forward_pre_hook(lambda _module, inputs: whole.append(inputs[0][0]))
        for module in system.out
    ]
    handles += [
        module.register_forward_hook(lambda _module, _inputs, output: gates.append(output[0]))
        for module in system.gate
    ]
    with hooks(handles):
        system.language(inputs_embeds=embeds)
    return torch.stack(whole), torch.stack(gates) if gates else None


def attributions(system: System, embeds: Tensor, token: int, where: slice) -> Tensor:
    """Paper A, Eq. 2: Z dy/dZ at image tokens, y a token's logit: (layers, P, units)."""
    kept: list[Tensor] = []
    handles = [
        module.register_forward_hook(lambda _module, _inputs, output: kept.append(output))
        for module in system.pre
    ]
    with hooks(handles), torch.enable_grad():
        y = system.language(inputs_embeds=embeds.clone().requires_grad_()).logits[0, -1, token]
        slopes = torch.autograd.grad(y, kept)
    pairs = zip(kept, slopes, strict=True)
    return torch.stack([(z * slope)[0, where].detach() for z, slope in pairs])


def highest(scores: Tensor, k: int) -> list[Unit]:
    """The units of the ``k`` highest scores (layers, units), best first."""
    places = scores.flatten().topk(k).indices.tolist()
    return [divmod(place, scores.shape[1]) for place in places]
