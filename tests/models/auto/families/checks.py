"""Independent checks of a family: the adapter beside a second copy that it never had.

Each compares with the copy's own forward on ids and pixels, or its ``generate``.
"""

from __future__ import annotations

import copy

import pytest
import torch
from PIL import Image, ImageOps
from torch import Tensor, nn

from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models.auto.adapter import placed
from mmn_utils.models.auto.sums import accepted
from mmn_utils.models.capture import capture, mlp_scales, replace
from mmn_utils.models.doctor import _others, _outputs, _reached_bias
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from tests.tiny import tiny_images

STEPS = 4


def close(name: str, mine: Tensor, own: Tensor, tolerance: float = 1e-4) -> None:
    """Compare relative to the largest reference; ``AssertionError`` names the check."""
    worst = float((mine.double() - own.double()).abs().max() / own.double().abs().max())
    assert worst <= tolerance, f"{name}: off by {worst:.1e} of the largest"


@torch.no_grad()
def logits(system, whole) -> None:
    """Hold the logits of all tokens against the own forward."""
    images = tiny_images(2)
    own = own_logits(system, whole, images)
    mine, _ = system.forward(system.prompt(images), last_only=False)
    close("logits", mine, own)
    assert (own[0] - own[1]).abs().max() > 1e-3, "the pictures do not matter"


@torch.no_grad()
def caption(system, whole) -> None:
    """Hold a greedy caption against the own ``generate``, whole and token by token."""
    images = tiny_images(2)
    own = [
        whole.generate(
            **accepted(whole.forward, inputs_of(system, [image])), max_new_tokens=STEPS,
            min_new_tokens=STEPS, do_sample=False, output_logits=True, return_dict_in_generate=True,
        )
        for image in images
    ]  # fmt: skip
    ids = torch.cat([one.sequences[:, -STEPS:] for one in own])
    expected = torch.cat([torch.stack(one.logits, dim=1) for one in own])
    prompt, expected = system.prompt(images), expected[..., : system.sizes.vocabulary]
    forced = prompt.extend(system.embed(ids[:, :-1]))
    close("caption", system.forward(forced, last=STEPS, last_only=False)[0], expected)
    _, past = system.forward(prompt, use_cache=True)
    for step in range(STEPS - 1):
        prompt = prompt.extend(system.embed(ids[:, step : step + 1]))
        one, past = system.forward(prompt.tail(1), past=past, use_cache=True)
        close("caption with the cache", one, expected[:, step + 1])


@torch.no_grad()
def contributions(system, whole) -> None:
    """Hold what units and attention write, summed, against what the own layers add."""
    image, layers = tiny_images(1), range(system.sizes.layers)
    own: dict[int, tuple[Tensor, Tensor]] = {}
    listed = whole.get_submodule(system.architecture.layers.removeprefix("whole."))
    hooks = [listed[i].register_forward_hook(_noter(own, i), with_kwargs=True) for i in layers]
    own_logits(system, whole, image)
    for hook in hooks:
        hook.remove()
    with (
        _outputs(system.attention_module, layers) as attended,
        _others(system, layers) as others,
        mlp_scales(system) as scales,
        capture(system) as seen,
    ):
        system.forward(system.prompt(image), last_only=False)
    for layer in layers:
        adds, (read, out) = system.adds(layer), own[layer]
        units = seen.values[layer] @ system.written_vectors(layer) + _reached_bias(system, layer)
        units = units / scales[layer][..., None] if layer in scales else units
        beside = zip((adds.attention, *adds.also), (attended, *others), strict=True)
        more = sum(factor * part[layer] for factor, part in beside)
        later = system.carried(layer) / adds.whole
        mine = units + system.always_added(layer) + system.carried(layer) * more
        close(f"contributions of layer {layer}", mine, later * (out - adds.whole * read))


def _noter(store: dict, layer: int):
    def hook(_module, args, kwargs, output) -> None:
        read = args[0] if args else kwargs["hidden_states"]
        store[layer] = read, (output[0] if isinstance(output, tuple) else output)

    return hook


@torch.no_grad()
def columns(system, whole) -> None:
    """Hold an ablation and an edit against a deep copy with other columns."""
    images, width = tiny_images(2), system.sizes.width
    added = torch.randn(width, generator=torch.Generator().manual_seed(0))
    chosen = {i: _alive(system, images, i) for i in range(system.sizes.layers)}

    def silent(units: Tensor):
        return lambda value: value.index_fill(-1, units, 0.0)

    prompt = system.prompt(images)
    with replace(system, {i: silent(units) for i, units in chosen.items()}):
        ablated = system.forward(prompt)[0]
    plain = system.forward(prompt)[0]
    one = copy.deepcopy(whole)
    for layer, units in chosen.items():
        for unit in units.tolist():
            column(system, one, layer, unit).zero_()
    close("ablation", ablated, own_logits(system, one, images)[:, -1])
    assert (ablated - plain).abs().max() > 1e-4, "the ablation changes nothing"
    one, layer = copy.deepcopy(whole), 0
    unit = int(chosen[layer][0])
    column(system, one, layer, unit).add_(added)
    system.write_vectors(layer)[unit] += added
    edited = system.forward(prompt)[0]
    system.write_vectors(layer)[unit] -= added
    close("edit", edited, own_logits(system, one, images)[:, -1])


def _alive(system, images, layer: int) -> Tensor:
    """Choose the three units that are most active at the last token."""
    with capture(system, layers=[layer]) as seen:
        system.forward(system.prompt(images))
    return seen.values[layer][:, -1].abs().sum(0).topk(3).indices


def column(system, whole: nn.Module, layer: int, unit: int) -> Tensor:
    """Find the weights (d) that a unit writes, in another copy of the model."""
    parts = system.architecture
    if parts.experts is not None:
        return _of_experts(system, whole, layer, unit)
    path = f"{parts.layers.removeprefix('whole.')}.{layer}.{parts.act.removesuffix('.inner')}"
    return whole.get_submodule(path).weight[:, unit]


def _of_experts(system, whole: nn.Module, layer: int, unit: int) -> Tensor:
    """Find the column of an expert's unit, of a shared expert's behind them."""
    experts = system.architecture.experts
    inside = whole.get_submodule(f"{system.architecture.layers.removeprefix('whole.')}.{layer}")
    if unit >= experts.count * experts.units:
        shared = next(
            m for n, m in inside.named_modules() if n.endswith(("shared_expert", "shared_experts"))
        )
        return shared.down_proj.weight[:, unit - experts.count * experts.units]
    down = next(p for n, p in inside.named_parameters() if n.endswith("down_proj") and p.ndim == 3)
    expert, unit = divmod(unit, experts.units)
    return down[expert, unit] if down.shape[1] == experts.units else down[expert, :, unit]


@torch.no_grad()
def patch(system, whole) -> None:
    """Invert each of some patches: its own image token moves, and none much further.

    Where convolutions look beyond a patch, as SAM's neck does, a neighbour may move as far.
    """
    if system.image_tokens.grid is None:
        return
    rows, columns = system.require_grid()
    side = system.image_tokens.pixels
    images = [image.resize((side, side)) for image in tiny_images(4)]
    before = system.soft_prompt(images)
    high, wide = side // rows, side // columns
    for row, place in {(0, 0), (rows - 1, 0), (rows // 2, columns - 1)}:
        box = (place * wide, row * high, (place + 1) * wide, (row + 1) * high)
        others = [image.copy() for image in images]
        for other in others:
            other.paste(ImageOps.invert(other.crop(box)), box[:2])
        moved = (system.soft_prompt(others) - before).norm(dim=-1).sum(0)
        own = row * columns + place
        assert moved[own] > 0.8 * moved.max(), f"patch {own} moved token {int(moved.argmax())}"


def inputs_of(system, images: list[Image.Image]) -> dict[str, Tensor]:
    """Make the inputs of an own forward, in the weights' type."""
    return placed(system.reader(images), system.device, system.dtype)


def own_logits(system, whole, images: list[Image.Image]) -> Tensor:
    """Run another copy's own forward on ids and pixels, of each picture alone."""
    each = [whole(**accepted(whole.forward, inputs_of(system, [one]))).logits for one in images]
    return torch.cat(each)[..., : system.sizes.vocabulary]


CHECKS = (logits, caption, contributions, columns, patch)


def check(system, whole) -> None:
    """Run all of them; ``AssertionError`` with the first that fails."""
    for one in CHECKS:
        one(system, whole)


@torch.no_grad()
def sweep_cuts_the_cache(system, layer: int) -> None:
    """Hold a sweep, which cuts and repeats the cache, against whole passes without one."""
    images = tiny_images(1)
    prompt = system.prompt(images)
    whole = generate(system, prompt, STEPS)[0]
    goal = Target("0", "noun", 5, whole.ids[:2])
    result = sweep(system, prompt, goal, [[], [Neuron(layer, 3)]], max_new_tokens=STEPS)
    assert result.unablated.ids == whole.ids
    forced = prompt.extend(system.embed(torch.tensor([list(whole.ids[:2])])))
    expected = float(system.forward(forced)[0][0, 5])
    assert result.logit[0] == pytest.approx(expected, abs=1e-4)
    assert result.logit[1] != result.logit[0]
