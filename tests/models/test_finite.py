"""What a type cannot hold names the weight or the picture, and says what to do."""

from __future__ import annotations

import re

import pytest
import torch
from PIL import Image

from mmn_utils.browser.atlas.activity import _batch
from mmn_utils.datasets import Photograph
from mmn_utils.face import ablate, caption, heat_map
from mmn_utils.interventions.ablation import unit_means
from mmn_utils.interventions.drafts import captions_now, drafts_of
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models.auto.building import build_auto
from mmn_utils.models.finite import NotFinite, require_finite_weights
from mmn_utils.neurons.captions import Caption, caption_images, generate
from mmn_utils.neurons.table import Neuron
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.selectivity.activity import unit_activations
from mmn_utils.studies.selectivity.classes import class_table
from mmn_utils.studies.subjects import captions_of
from tests.models.auto.families import llava
from tests.models.llava.tiny import tiny_llava, tiny_whole
from tests.tiny_gated import TinyGated

BFLOAT16 = "float16; load the model with dtype='bfloat16'"
DARK, BRIGHT = (Image.new("RGB", (32, 32), colour) for colour in ("black", "white"))


@pytest.fixture(scope="module")
def half():
    """A system in float16 whose image tokens overflow where a picture is bright."""
    model = TinyGated()
    model.language_model.half()
    model.projection *= 1e5
    return model


@pytest.fixture
def photographs(tmp_path):
    found = []
    for name, image in (("dark", DARK), ("bright", BRIGHT)):
        image.save(tmp_path / f"{name}.png")
        found.append(Photograph(name, tmp_path / f"{name}.png", label=name))
    return found


# --- pictures ---------------------------------------------------------------------------


def test_a_caption_names_the_picture_that_overflows(half):
    assert generate(half, half.prompt([DARK]), 3)[0].ids
    with pytest.raises(NotFinite, match=rf"the picture in row 1 of the batch .*{BFLOAT16}"):
        generate(half, half.prompt([DARK, BRIGHT]), 3)
    with pytest.raises(NotFinite, match="logits of picture '2' are not"):
        caption_images(half, [DARK, DARK, BRIGHT], 3, batch_size=2)


def test_a_script_names_the_file_that_overflows(half, photographs):
    path = photographs[1].path
    for picture, name in ((path, str(path)), (photographs[1], "bright"), (BRIGHT, "picture")):
        with pytest.raises(NotFinite, match=f"picture '{re.escape(name)}'"):
            caption(half, picture)


def test_heat_maps_and_receipts_name_the_file_that_overflows(half, photographs):
    path, neurons = photographs[1].path, [Neuron(0, 1)]
    for ask in (heat_map, ablate):
        with pytest.raises(NotFinite, match=rf"picture '{re.escape(str(path))}' .*{BFLOAT16}"):
            ask(half, path, neurons)
    with pytest.raises(NotFinite, match="activations of picture 'bright'"):
        unit_activations(half, photographs, neurons, progress=False)


def test_a_prompts_names_go_with_its_rows(half):
    prompt = half.prompt([DARK, BRIGHT]).named(["dark", "bright"])
    assert prompt.select([1, 0, 1]).names == ("bright", "dark", "bright")
    assert prompt.select(slice(1, None)).repeat(2).names == ("bright", "bright")
    assert prompt.select(torch.tensor([False, True])).names == ("bright",)
    assert prompt.join([prompt]).names == ("dark", "bright") * 2
    assert prompt.join([half.prompt([DARK])]).names == ()
    assert prompt.extend(prompt.embeds).tail(1).names == ("dark", "bright")
    with pytest.raises(ValueError, match="1 names for 2 rows"):
        prompt.named(["one"])
    with pytest.raises(NotFinite, match="picture 'bright'"):
        generate(half, prompt, 3)


def test_the_atlas_names_the_photograph_that_overflows(half, photographs):
    with pytest.raises(NotFinite, match="activations of layer 0 of picture 'bright'"):
        _batch(half, photographs, [(), ()])


def test_bfloat16_is_the_remedy(half):
    wide = half.twin(torch.bfloat16)
    assert generate(wide, wide.prompt([DARK, BRIGHT]), 3)[1].ids


def test_a_sweep_names_the_picture_that_overflows(half):
    rows, prompt = [[], [Neuron(0, 1)]], half.prompt([BRIGHT])
    for tokens, prefix in ((0, ()), (3, (5, 9))):
        target = Target("bright", "horse", 30, prefix)
        with pytest.raises(NotFinite, match=rf"logits of picture 'bright' .*{BFLOAT16}"):
            sweep(half, prompt, target, rows, tokens)


def test_drafts_and_means_name_the_picture_that_overflows(half, photographs):
    drafts = drafts_of(half, photographs, [Caption("", ()), Caption("", ())])
    with pytest.raises(NotFinite, match="picture 'bright'"):
        captions_now(half, drafts, ["bright"])
    with pytest.raises(NotFinite, match="activations of layer 0 of picture '1'"):
        unit_means(half, [DARK, BRIGHT], batch_size=1)


@pytest.mark.parametrize(
    "study",
    [lambda *given: captions_of(*given, progress=False),
     lambda *given: class_table(*given, progress=False)],
    ids=["captions", "classes"],
)  # fmt: skip
def test_studies_name_the_photograph_that_overflows(half, photographs, study):
    with pytest.raises(NotFinite, match="logits of picture 'bright'"):
        study(half, photographs)


# --- weights ----------------------------------------------------------------------------


def too_large(weight: torch.Tensor) -> None:
    with torch.no_grad():
        weight.view(-1)[5] = 1e5


def test_a_weight_that_overflows_on_loading_is_named():
    whole = tiny_whole()
    too_large(whole.model.language_model.layers[1].mlp.down_proj.weight)
    require_finite_weights("tiny", whole)
    says = rf"^1 of the \d+ numbers in the weight \S*layers.1.mlp.down_proj.* tiny .*{BFLOAT16}"
    with pytest.raises(NotFinite, match=says):
        require_finite_weights("tiny", whole.half())


def test_every_system_looks_at_its_weights(monkeypatch):
    monkeypatch.setattr("tests.models.llava.tiny.tiny_whole", lambda seed: broken())
    with pytest.raises(NotFinite, match=r"layers.0.mlp.up_proj.weight of tiny"):
        tiny_llava()


def broken():
    whole = tiny_whole()
    too_large(whole.model.language_model.layers[0].mlp.up_proj.weight)
    whole.model.language_model.half()
    return whole


@pytest.mark.parametrize(
    ("scale", "says"),
    [(1e6, r"weight \S*layers.1.mlp.up_proj.weight of llava"),
     (1e4, r"layers.1\S* of llava gives numbers that are not finite in torch.float16")],
)  # fmt: skip
def test_an_overflow_is_not_taken_for_something_that_adds_more(scale, says):
    model, processor, facts = llava()
    with torch.no_grad():
        model.model.language_model.layers[1].mlp.up_proj.weight.mul_(scale)
        model.model.language_model.layers[1].mlp.down_proj.weight.mul_(scale)
    with pytest.raises(NotFinite, match=says):
        build_auto("llava", model.half(), processor, **facts)
