"""Variants of the last token side by side are what each would be alone."""

from __future__ import annotations

import torch

from mmn_utils.models.abreast import Abreast, is_hooked
from mmn_utils.models.capture import capture
from mmn_utils.models.upper import streams_into
from tests.tiny import tiny_images
from tests.tiny_systems import each_of

system = each_of("limber", "gated", "llava", "mplug_owl2")


@torch.no_grad()
def test_each_variant_has_the_logits_that_it_has_alone(system):
    prompt, variants = system.prompt(tiny_images(1)), []
    ids = torch.tensor([5, 9, 301, 40])
    with streams_into(system, 1) as seen:
        for token in ids:
            longer = prompt.extend(system.embed(token[None, None]))
            logits, past = system.forward(longer, use_cache=True)
            variants.append((seen[-1][0, -1], logits[0]))
    hidden = longer.hidden(longer.mask.clone().index_fill_(1, torch.tensor([2]), 0))
    for whole, cache in ((longer, past), (hidden, system.forward(hidden, use_cache=True)[1])):
        abreast = Abreast.of(system, whole, cache)
        found = abreast.logits(system, 1, torch.stack([stream for stream, _ in variants]))
        same = torch.allclose(found, torch.stack([own for _, own in variants]), atol=1e-4)
        assert same == (whole is longer)
    assert Abreast.of(system, longer, past).agrees(system, 1, *variants[-1])
    assert not Abreast.of(system, longer, past).agrees(system, 1, variants[0][0], variants[1][1])


@torch.no_grad()
def test_nothing_lies_abreast_where_somebody_looks(system):
    prompt = system.prompt(tiny_images(1))
    _, past = system.forward(prompt, use_cache=True)
    with capture(system, layers=[1]):
        assert is_hooked(system)
        assert Abreast.of(system, prompt, past) is None
    assert not is_hooked(system)
    assert Abreast.of(system, prompt, object()) is None
