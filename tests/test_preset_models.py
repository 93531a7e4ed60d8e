"""Presets of real systems: what they name, what each may be asked, and that they agree."""

from __future__ import annotations

import re

import pytest
import yaml
from huggingface_hub.utils import validate_repo_id

from mmn_utils.models import MissingParts, load_model
from mmn_utils.presets import NOTEBOOKS, PRESETS, load_preset, resolve
from mmn_utils.running.run import check
from tests.models.published import LAYOUTS

SYSTEMS = tuple(LAYOUTS)  # those of the papers, each with an adapter of its own
ALL = {path.stem: load_preset(path.stem) for path in sorted(PRESETS.glob("*.yaml"))}
REAL = {name: one for name, one in ALL.items() if "model" in one.settings}  # not photographs alone
HUB = {name: one for name, one in REAL.items() if "/" in one.settings["model"]
       and not one.settings["model"].startswith(("miniature/", "trial/"))}  # fmt: skip
FAMILIES = {  # preset: the family by which transformers knows it
    "aria": "Aria", "aya_vision": "aya-vision", "blip2": "blip2", "gemma3": "gemma-3",
    "gemma4": "gemma-4", "glm4v": "GLM-4", "idefics3": "Idefics3", "internvl3": "InternVL3",
    "llava_next": "llava-v1.6", "llava_onevision": "llava-onevision", "mistral3": "Small-3.1",
    "mllama": "3.2-11B-Vision", "paligemma2": "paligemma2", "pixtral": "pixtral",
    "qwen2_5_vl": "Qwen2.5-VL", "qwen3_vl": "Qwen3-VL", "qwen3_vl_moe": "Qwen3-VL-30B-A3B",
    "smolvlm2": "SmolVLM2",
}  # fmt: skip
NEED_A_GRID = {"01_projection_decoding", "02_attribution", "03_selectivity"}


def test_every_system_and_family_has_a_preset():
    assert set(SYSTEMS) | {"trial", "trial-llava"} <= set(REAL)
    assert set(HUB) == set(FAMILIES)
    for name, family in FAMILIES.items():
        model = HUB[name].settings["model"]
        validate_repo_id(model.partition("@")[0])
        assert family in model
    assert len({one.settings["model"] for one in HUB.values()}) == len(HUB)


@pytest.mark.parametrize("name", sorted(set(HUB)))
def test_presets_of_the_hub_differ_in_their_model_alone(name):
    def rest(preset):
        settings = {k: v for k, v in preset.settings.items() if k != "model"}
        return settings, preset.notebooks, preset.only

    assert rest(HUB[name]) == rest(HUB["qwen2_5_vl"])
    text = (PRESETS / f"{name}.yaml").read_text()
    assert re.search(r"a GPU with \d+ GB", text)
    assert yaml.safe_load(text)["settings"]["dtype"] == "bfloat16"


@pytest.mark.parametrize("name", sorted({*HUB, *SYSTEMS, "trial", "trial-llava"}))
def test_only_is_what_a_model_can_be_asked(name, tmp_path):
    preset = REAL[name]
    assert preset.only
    chosen = preset.chosen(sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")))
    assert chosen == sorted(preset.only)
    for notebook in chosen:
        asked = resolve(notebook, preset)
        assert asked["model"] == preset.settings["model"] or notebook == "00_miniature"
    if name in SYSTEMS:  # by what its adapter says of itself
        model = load_model(name, **LAYOUTS[name](tmp_path / "parts"))
        assert name == preset.settings["model"] == model.name
        assert model.image_tokens.grid is not None or not NEED_A_GRID & set(chosen)
        model.require_editable()
    if name in HUB:  # whatever has no heat map leaves those exhibits out
        assert not NEED_A_GRID & set(chosen)


@pytest.mark.usefixtures("offline")
@pytest.mark.parametrize("name", ["qwen3_vl", "llava15", "limber"])
def test_what_is_missing_is_said_with_its_source(name, monkeypatch):
    monkeypatch.setattr("mmn_utils.models.placement.find_spec", lambda _name: True)
    settings = REAL[name].settings
    with pytest.raises(MissingParts, match=r"hf download \S+/\S+"):
        load_model(settings["model"], dtype=settings["dtype"])


@pytest.mark.usefixtures("offline")
def test_a_name_may_bear_a_revision():
    with pytest.raises(MissingParts, match=r"hf download a/model --revision v1\.0/b "):
        load_model("a/model@v1.0/b")
    with pytest.raises(MissingParts, match=r"gpt-j-6b --revision main"):
        load_model("limber@main")
    with pytest.raises(ValueError, match="revision = 'b': give one"):
        load_model("a/model@a", revision="b")


@pytest.mark.parametrize(
    ("preset", "name"), [("limber", "IMAGENET_ROOT"), ("smol-photographs", "CALTECH_ROOT")]
)
def test_a_variable_that_is_not_set_is_said_before_a_kernel_starts(
    preset, name, monkeypatch, tmp_path
):
    monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=rf"\${name} is not set in the env"):
        check("03_selectivity", preset)
    monkeypatch.setenv(name, str(tmp_path))
    assert check("03_selectivity", preset)["classes"] == f"${name}"


def test_what_smol_is_asked_of_photographs_is_what_it_is_asked_of_stamps():
    photographs, stamps = REAL["smol-photographs"], REAL["smol"]
    own = {"08_real_model", "09_method_court"}  # of what smol is, whatever it is shown
    assert set(photographs.only) == set(stamps.only) - own
    assert photographs.settings["max_new_tokens"] == stamps.settings["max_new_tokens"]
    for notebook in photographs.only:
        asked = [resolve(notebook, one) for one in (photographs, stamps)]
        differ = {name for name in asked[0] if asked[0][name] != asked[1][name]}
        most = {"preset", "run", "dataset", "n_images", "n_viewers", "classes", "class_names",
                "class_pictures", "concepts", "noise", "objects", "relatives", "sweep"}  # fmt: skip
        assert differ <= most, notebook
