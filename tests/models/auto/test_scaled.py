"""Norms behind MLPs, factors and caps: exact against the true classes of transformers.

References never see the adapter: they are the model's own forward on ids and pixels, with a
column zeroed or changed, and what its own modules give.
"""

from __future__ import annotations

import copy
import math
from contextlib import contextmanager

import pytest
import torch

from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.editing import pulls_of
from mmn_utils.interventions.weights import Added
from mmn_utils.models.architectures import Adds, Scales
from mmn_utils.models.auto.sums import accepted
from mmn_utils.models.doctor import doctor
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.contribution import contribution_layers_field
from mmn_utils.neurons.decoding import decode
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.concepts.specificity import score_matrix
from tests.models.auto.scaled import SCALED, scaled, unscaled
from tests.tiny import tiny_images

every = pytest.mark.parametrize("family", list(SCALED))
BEHIND = {  # the module behind each MLP, and the factor of what it gives in layers 0 and 1
    "gemma3": ("post_feedforward_layernorm", (1, 1)),
    "paligemma2": ("post_feedforward_layernorm", (1, 1)),
    "granite": ("mlp", (0.22, 0.22)),
    "olmo2": ("post_feedforward_layernorm", (1, 1)),
    "gemma4": ("post_feedforward_layernorm", (0.7 * 0.45, 0.45)),
    "gemma4_per_layer": ("post_feedforward_layernorm", (0.7 * 0.45, 0.45)),
    "cohere_compass": ("mlp", (1, 1)),
    "phi": ("mlp", (1, 1)),
    "bitnet": ("mlp", (1, 1)),
    "relu": ("mlp", (1, 1)),
}
CENTRED = ("phi", "cohere_compass")  # their final norm takes the mean away
CAPS = {"paligemma2": 2.0, "gemma4": 3.0, "gemma4_per_layer": 3.0}
GOAL = Target("0", "noun", 5, ())
OTHER = Target("0", "other", 9, ())
NEURON = Neuron(0, 3)


def own_logits(family, model=None):
    """Run the true class on ids and pixels: (T, V)."""
    whole = model or unscaled(family)
    inputs = accepted(whole.forward, scaled(family).reader(tiny_images(1)))
    with torch.no_grad():
        return whole(**inputs).logits[0]


@contextmanager
def noted(family, names):
    """Note what modules of each layer read and give in the true class's own forward."""
    whole, seen, hooks = unscaled(family), {}, []
    for index, layer in enumerate(whole.model.language_model.layers):
        for name in names:

            def note(_module, args, output, key=(index, name)):
                seen[key] = args[0][0], output[0]

            hooks.append(layer.get_submodule(name).register_forward_hook(note))

    def final(_module, args, output):
        seen["norm"] = args[0][0], output[0]

    hooks.append(whole.model.language_model.norm.register_forward_hook(final))
    logits = own_logits(family)
    for hook in hooks:
        hook.remove()
    yield seen, logits


@every
def test_the_doctor_passes(family):
    report = doctor(scaled(family), tiny_images(2))
    assert report["passed"].all(), report.to_string()
    assert not report["passed"].isna().any()


@every
@torch.no_grad()
def test_logits_are_those_of_the_own_forward_and_generate(family):
    model, whole = scaled(family), unscaled(family)
    own = own_logits(family)
    prompt = model.prompt(tiny_images(1))
    mine, _ = model.forward(prompt, last_only=False)
    torch.testing.assert_close(mine[0], own, atol=2e-5, rtol=1e-4)
    inputs = accepted(whole.forward, model.reader(tiny_images(1)))
    ids = whole.generate(**inputs, max_new_tokens=5, min_new_tokens=5, do_sample=False)[0, -5:]
    logits, past = model.forward(prompt, use_cache=True)
    for token in ids:
        assert int(logits[0].argmax()) == int(token)
        prompt = prompt.extend(model.embed(token[None, None]))
        logits, past = model.forward(prompt.tail(1), past=past, use_cache=True)


@every
@torch.no_grad()
def test_ablation_is_a_zeroed_column(family):
    model, whole = scaled(family), copy.deepcopy(unscaled(family))
    weight = whole.get_submodule(f"model.language_model.layers.0.{model.architecture.act}").weight
    weight[:, NEURON.unit] = 0
    with ablate(model, Ablation((NEURON,))):
        mine, _ = model.forward(model.prompt(tiny_images(1)), last_only=False)
    torch.testing.assert_close(mine[0], own_logits(family, whole), atol=2e-5, rtol=1e-4)
    assert (mine[0] - own_logits(family)).abs().max() > 1e-3


@every
@torch.no_grad()
def test_an_edit_is_a_changed_column(family):
    model, whole = scaled(family), copy.deepcopy(unscaled(family))
    delta = torch.randn(1, 32, generator=torch.Generator().manual_seed(0))
    weight = whole.get_submodule(f"model.language_model.layers.0.{model.architecture.act}").weight
    weight[:, NEURON.unit] += delta[0]
    added = Added(model, [NEURON], delta, "edit")
    mine, _ = model.forward(model.prompt(tiny_images(1)), last_only=False)
    added.undo()
    torch.testing.assert_close(mine[0], own_logits(family, whole), atol=2e-5, rtol=1e-4)
    assert (mine[0] - own_logits(family)).abs().max() > 1e-3


@pytest.mark.parametrize("family", [name for name in BEHIND if name not in CENTRED])
@torch.no_grad()
def test_contributions_sum_to_what_the_mlps_add_to_the_logit(family):
    """Of an RMS norm, output over input at each entry is its gain over its scale."""
    model, (behind, factors) = scaled(family), BEHIND[family]
    field = contribution_layers_field(model, tiny_images(1), [GOAL], contribution_norm="final")
    with noted(family, [behind]) as (seen, logits):
        stream, normed = (side[-1] for side in seen["norm"])
    row = unscaled(family).lm_head.weight[GOAL.token]
    for layer, factor in enumerate(factors):
        expected = factor * (row * seen[layer, behind][1][-1] * normed / stream).sum()
        assert field[layer].sum().item() == pytest.approx(expected.item(), abs=1e-5)
    total, cap = (row * normed).sum(), CAPS.get(family)  # all shares: the logit before the cap
    capped = total if cap is None else cap * torch.tanh(total / cap)
    assert capped.item() == pytest.approx(logits[-1, GOAL.token].item(), abs=1e-5)


@pytest.mark.parametrize("family", ["gemma3", "paligemma2", "gemma4_per_layer", "granite"])
@torch.no_grad()
def test_what_a_neuron_pulls_decodes_to_and_scores_goes_through_the_norm(family):
    model, (behind, factors) = scaled(family), BEHIND[family]
    with noted(family, [behind, "mlp.down_proj"]) as (seen, _):
        through = torch.ones(32) if behind == "mlp" else torch.div(*seen[0, behind][::-1])[-1]
        o = seen[0, "mlp.down_proj"][0][-1, NEURON.unit]
    whole, images = unscaled(family), tiny_images(1)
    rows = whole.lm_head.weight
    pull = pulls_of(model, images, [GOAL], [(9,)], [[NEURON]])[0][0]
    apart = rows[GOAL.token] - rows[9]
    torch.testing.assert_close(pull, o * factors[0] * through * apart, atol=1e-5, rtol=1e-4)
    column = whole.model.language_model.layers[0].mlp.down_proj.weight[:, NEURON.unit]
    best = (rows @ (through * column)).argmax()
    assert decode(model, [NEURON], 1)["token"].item() == best
    score = score_matrix(model, images, [GOAL], [NEURON])[0, 0]
    expected = o * factors[0] * (rows[GOAL.token] * through * column).sum()
    assert score.item() == pytest.approx(expected.item(), abs=1e-5)


@pytest.mark.parametrize("family", ["paligemma2", "gemma4"])
def test_attribution_goes_through_the_cap_on_either_way(family):
    """Targets of one caption are read off the final norm, a single one off the logits."""
    model, image = scaled(family), tiny_images(1)[0]
    both = attribution(model, [image, image], [GOAL, OTHER], k=5)
    alone = attribution(model, [image], [GOAL], k=5)
    mine = both[both["target"] == "noun"].reset_index(drop=True)
    assert mine["unit"].tolist() == alone["unit"].tolist()
    assert mine["score"].to_numpy() == pytest.approx(alone["score"].to_numpy(), rel=1e-4)


FOUND = {
    "gemma3": Scales(),
    "paligemma2": Scales(cap=2.0),
    "granite": Scales(3.0, (Adds(1.0, 0.22, 0.22),) * 2),
    "gemma4": Scales(layers=(Adds(0.7), Adds(0.45)), cap=3.0),
    "gemma4_per_layer": Scales(layers=(Adds(0.7, also=(1.0,)), Adds(0.45, also=(1.0,))), cap=3.0),
    "cohere_compass": Scales(logits=0.25),
    "phi": Scales(),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("family", list(FOUND))
def test_factors_and_caps_are_found_in_any_type(family, dtype):
    found, wanted = scaled(family, dtype).architecture, FOUND[family]
    coarse = dtype == torch.bfloat16  # a factor that is a weight is rounded to the type
    assert found.mlp_norm == (BEHIND[family][0] if BEHIND[family][0] != "mlp" else None)
    assert found.scales.cap == (None if wanted.cap is None else pytest.approx(wanted.cap, rel=1e-5))
    assert found.scales.embeddings == pytest.approx(wanted.embeddings, rel=1e-5)
    assert found.scales.logits == wanted.logits
    assert len(found.scales.layers) == len(wanted.layers)
    for mine, theirs in zip(found.scales.layers, wanted.layers, strict=True):
        assert mine.whole == pytest.approx(theirs.whole, rel=4e-3 if coarse else 1e-6)
        assert (mine.attention, mine.mlp) == pytest.approx((theirs.attention, theirs.mlp), rel=1e-5)
        assert mine.also == pytest.approx(theirs.also, rel=1e-5)
    assert math.prod(one.whole for one in found.scales.layers) <= 1
