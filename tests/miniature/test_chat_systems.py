"""The chat systems' trainings: their losses, what learns, resuming, and what is saved."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace
from functools import partial
from itertools import islice

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPConfig, CLIPModel
from transformers.loss.loss_utils import ForCausalLMLoss

from mmn_utils.datasets.base import Photograph
from mmn_utils.miniature import captioning, chat, instructblip, language, llava, mplug_owl2
from mmn_utils.miniature.captioning import Batches, CaptionIds
from mmn_utils.miniature.chat import TEMPLATES
from mmn_utils.miniature.clip import patch_states
from mmn_utils.miniature.corpus import CorpusOptions
from mmn_utils.miniature.instructblip import InstructBlipOptions
from mmn_utils.miniature.language import save_language_model
from mmn_utils.miniature.llama import (
    LlamaOptions,
    build_llama,
    chat_tokenizer,
    load_llama,
    merge_words,
)
from mmn_utils.miniature.llava import LlavaOptions
from mmn_utils.miniature.mplug_owl2 import MplugOwl2Options
from mmn_utils.miniature.projection import fold, statistics
from mmn_utils.miniature.scenes import SceneSet
from mmn_utils.miniature.training import Schedule, train
from mmn_utils.miniature.vision import to_input
from mmn_utils.miniature.world import load_world
from mmn_utils.models import load_model
from mmn_utils.models.base import state_hash
from mmn_utils.models.doctor import doctor
from mmn_utils.models.llava import build_llava
from mmn_utils.models.mplug_owl2 import build_mplug_owl2
from mmn_utils.presets import data_path
from tests.tiny import tiny_tokenizer

SIDE, PATCH, SCENES = 32, 8, 8
TEXT = LlamaOptions(
    layers=2,
    width=32,
    heads=2,
    rotary=16,
    units=48,
    positions=128,
    row=24,
    batch=2,
    corpus=CorpusOptions(longest=12),
)
OPTIONS = {
    "llava": LlavaOptions(
        batch=2,
        alignment=Schedule(3, 1e-2),
        tuning=Schedule(5, 1e-2, save_every=2),
        text=TEXT,
    ),
    "instructblip": InstructBlipOptions(
        depth=3,
        queries=3,
        contrast_width=8,
        contrast_batch=4,
        contrast=Schedule(3, 1e-2),
        batch=2,
        speaking=Schedule(5, 1e-2, save_every=2),
    ),
    "mplug_owl2": MplugOwl2Options(
        queries=3, depth=1, units=20, batch=2, stage=Schedule(5, 1e-2, save_every=2)
    ),
}
MAKE = {
    "llava": llava.make_llava,
    "instructblip": instructblip.make_instructblip,
    "mplug_owl2": mplug_owl2.make_mplug_owl2,
}
LAST = {
    "llava": "llava_tuning",
    "instructblip": "instructblip_speaking",
    "mplug_owl2": "mplug_owl2",
}
SYSTEMS = tuple(MAKE)


@pytest.fixture(scope="module")
def world():
    return load_world(data_path("miniature", "concepts.yaml"))


@pytest.fixture(scope="module")
def scenes() -> SceneSet:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (SCENES, SIDE, SIDE, 3), dtype=np.uint8)
    concepts = np.full((SCENES, 3), -1, np.int8)
    concepts[:, 0] = np.arange(SCENES)
    concepts[3, 1], concepts[5, 1:] = 7, (2, 4)
    grounds = np.arange(SCENES, dtype=np.int8) % 3
    return SceneSet(images, concepts, grounds, np.zeros((SCENES, 1), np.int8))


@pytest.fixture(scope="module")
def data(tmp_path_factory, scenes, world):
    """A folder with a random language model and a random CLIP, as the trainings find them."""
    folder = tmp_path_factory.mktemp("data")
    said = [f" {text}." for i in range(SCENES) for text in scenes.captions(i, world)]
    base = tiny_tokenizer()
    words = type(base)(
        tokenizer_object=merge_words(base.backend_tokenizer, said), eos_token=base.eos_token
    )
    tokenizer = chat_tokenizer(words)
    (folder / "llama").mkdir()
    language_model = build_llama(TEXT, tokenizer)
    with torch.no_grad():
        for parameter in language_model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    save_language_model(language_model, tokenizer, TEXT, folder / "llama")
    _clip().half().save_pretrained(folder / "clip")
    return folder


def _clip() -> CLIPModel:
    torch.manual_seed(5)
    shape = {"intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {"hidden_size": 24, "image_size": SIDE, "patch_size": PATCH, **shape}
    text = {"hidden_size": 16, "vocab_size": 9, **shape}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=8))
    with torch.no_grad():
        for parameter in clip.vision_model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return clip.eval()


def make(name, data, work, scenes, world):
    return MAKE[name](scenes, world, data, work, OPTIONS[name])


@pytest.fixture(scope="module")
def made(data, scenes, world, tmp_path_factory):
    """All three systems, trained for a few steps and saved in ``data``."""
    work = tmp_path_factory.mktemp("work")
    return {name: make(name, data, work, scenes, world) for name in SYSTEMS}


@pytest.fixture
def parts(data):
    return load_llama(data / "llama")


def vision_of(data):
    return CLIPModel.from_pretrained(data / "clip", dtype=torch.float32).vision_model


def trainer(name, data, scenes, world, **changes):
    """Build a trainer; also what it trains, whole."""
    options = replace(OPTIONS[name], **changes)
    language_model, tokenizer = load_llama(data / "llama")
    if name == "llava":
        whole = llava.join(vision_of(data), language_model)
        store = statistics(patch_states(whole.model.vision_tower, scenes.images, -2).numpy())
        ids = CaptionIds(scenes, world, tokenizer).ids
        return whole, llava.LlavaTrainer(
            whole, language_model, tokenizer, store, ids, world, options
        )
    if name == "instructblip":
        words = instructblip.qformer_tokenizer(world)
        whole = instructblip.join(vision_of(data), language_model, words, scenes.images, options)
        return whole, instructblip.InstructBlipTrainer(
            whole, tokenizer, words, scenes, world, options
        )
    whole = mplug_owl2.join(vision_of(data), language_model, tokenizer, options)
    return whole, mplug_owl2.MplugOwl2Trainer(whole, tokenizer, scenes, world, options)


def whole_loss(loss):
    """Return a loss that may come in summands."""
    return loss if isinstance(loss, torch.Tensor) else sum(summand() for summand in loss)


def pictures(scenes, rows=slice(None)):
    return [Image.fromarray(image) for image in scenes.images[rows]]


# --- text ---------------------------------------------------------------------------------


def test_the_text_among_the_pictures_is_a_function_of_seed_and_step_alone(data, scenes, world):
    one, again = (trainer("llava", data, scenes, world)[1] for _ in range(2))
    again.rows.batch(0)
    assert torch.equal(one.rows.batch(2), again.rows.batch(2))
    assert not torch.equal(one.rows.batch(2), one.rows.batch(3))
    other = trainer("llava", data, scenes, world, seed=1)[1]
    assert not torch.equal(one.rows.batch(2), other.rows.batch(2))
    assert torch.equal(whole_loss(one.tuning_losses(2)), whole_loss(again.tuning_losses(2)))
    without = trainer("llava", data, scenes, world, text_weight=0.0)[1].tuning_losses(2)
    text = language.text_losses(partial(llava.next_logits, one.language), one.rows, 2)
    expected = whole_loss(without) + 0.5 * whole_loss(text)
    torch.testing.assert_close(whole_loss(one.tuning_losses(2)), expected)


# --- losses, against transformers ---------------------------------------------------------


def with_captions(tokenizer, name, count, labels, placeholder):
    """Spell out a batch as transformers takes it: ids with placeholders, labels with -100."""
    before, behind = TEMPLATES[name].ids(tokenizer)
    head = [*before, *[placeholder] * count, *behind]
    ids = torch.cat([torch.tensor(head).expand(len(labels), -1), labels.clamp(min=0)], dim=1)
    return ids, torch.cat([torch.full((len(labels), len(head)), -100), labels], dim=1)


def unused(tokenizer):
    return tokenizer.convert_tokens_to_ids("#")


@torch.no_grad()
def test_llavas_loss_is_transformers_own(data, scenes, world, parts):
    whole, ours = trainer("llava", data, scenes, world)
    found = whole_loss(ours.picture_losses(1, 2))
    drawn = Batches(ours.captions, 2, (0, 1)).at(2)
    tokenizer = parts[1]
    ids, labels = with_captions(tokenizer, "llava", 16, drawn.labels, unused(tokenizer))
    projector = whole.model.multi_modal_projector
    projector.linear_1.load_state_dict(fold(projector.linear_1, ours.store))
    whole.config.image_token_index = whole.model.config.image_token_index = unused(tokenizer)
    pixels = to_input(scenes.images[drawn.rows])
    expected = whole(
        input_ids=ids, pixel_values=pixels, attention_mask=torch.ones_like(ids), labels=labels
    ).loss
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=2e-3)  # features kept in 16 bits


@torch.no_grad()
def test_instructblips_loss_is_transformers_own(data, scenes, world, parts):
    whole, ours = trainer("instructblip", data, scenes, world)
    found, drawn = whole_loss(ours.speaking_losses(2)), ours.batches.at(2)
    tokenizer = parts[1]
    ids, labels = with_captions(tokenizer, "instructblip", 3, drawn.labels, unused(tokenizer))
    whole.config.image_token_index = unused(tokenizer)
    instruction = ours.words("Describe the image in few words. An image of")["input_ids"]
    expected = whole(
        pixel_values=to_input(scenes.images[drawn.rows]),
        qformer_input_ids=torch.tensor(instruction).expand(2, -1),
        input_ids=ids,
        labels=labels,
    ).loss
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_mplug_owl2s_loss_is_transformers_own_of_its_logits(data, scenes, world, parts):
    whole, ours = trainer("mplug_owl2", data, scenes, world)
    found, drawn = whole_loss(ours.losses(2)), ours.batches.at(2)
    tokenizer = parts[1]
    system = build_mplug_owl2(mplug_owl2.FACTS, whole, tokenizer)
    prompt = system.prompt(pictures(scenes, drawn.rows))
    longer = prompt.extend(system.embed(drawn.labels.clamp(min=0)))
    logits, _ = system.forward(longer, last_only=False)
    _, labels = with_captions(tokenizer, "mplug_owl2", 4, drawn.labels, 0)
    expected = ForCausalLMLoss(logits, labels, vocab_size=logits.shape[-1])
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
@pytest.mark.parametrize("name", SYSTEMS)
def test_bfloat16_changes_the_loss_little(name, data, scenes, world, monkeypatch):
    _, ours = trainer(name, data, scenes, world)
    losses = {
        "llava": ("tuning_losses",),
        "instructblip": ("contrast_loss", "speaking_losses"),
        "mplug_owl2": ("losses",),
    }
    for loss in losses[name]:
        exact = float(whole_loss(getattr(ours, loss)(1)))
        with monkeypatch.context() as patch:
            for module in (captioning, language, llava, instructblip, mplug_owl2):
                cast = partial(torch.autocast, "cpu", dtype=torch.bfloat16)
                patch.setattr(module, "fast_autocast", cast)
            rounded = float(whole_loss(getattr(ours, loss)(1)))
        assert rounded == pytest.approx(exact, rel=0.03)
        assert rounded != exact


# --- what learns --------------------------------------------------------------------------


def reached(whole) -> set[str]:
    """Name the parameters that a gradient has reached, and forget it."""
    names = {
        name
        for name, parameter in whole.named_parameters()
        if parameter.grad is not None and bool(parameter.grad.any())
    }
    whole.zero_grad(set_to_none=True)
    return names


def named(whole, *starts: str) -> set[str]:
    return {name for name, _ in whole.named_parameters() if name.startswith(starts)}


def test_llava_teaches_the_projector_then_the_language_model_too(data, scenes, world):
    whole, ours = trainer("llava", data, scenes, world)
    ours.projector.requires_grad_(True)
    whole_loss(ours.picture_losses(0, 0)).backward()
    projector = named(whole, "model.multi_modal_projector.")
    assert reached(whole) == projector
    ours.language.requires_grad_(True)
    whole_loss(ours.tuning_losses(0)).backward()
    language_model = named(whole, "model.language_model.", "lm_head.")
    assert reached(whole) == projector | language_model


def test_instructblip_never_teaches_the_language_model(data, scenes, world):
    whole, ours = trainer("instructblip", data, scenes, world)
    ours.contrast_loss(0).backward()
    first = reached(whole)
    eyes = named(whole, "vision_model.", "query_tokens", "qformer.")
    assert first <= eyes
    for part in ("vision_model.embeddings", "query_tokens", "qformer.encoder.layer.2.crossatt"):
        assert named(whole, part) <= first
    assert named(whole, "qformer.encoder.layer.2.intermediate.") <= first  # that reads text
    assert all(p.grad is not None for p in ours.contrast.parameters())
    whole_loss(ours.speaking_losses(0)).backward()
    second = reached(whole)
    assert second <= eyes | named(whole, "language_projection.")
    for part in ("vision_model.embeddings", "query_tokens", "language_projection."):
        assert named(whole, part) <= second
    assert any("word_embeddings" in name for name in second)  # the instruction is read


def test_queries_begin_unlike(data, scenes, world):
    _, ours = trainer("instructblip", data, scenes, world)
    with torch.no_grad():
        read = ours.queries(to_input(scenes.images[:2]), ours.instruction)
    assert float((read[:, 0] - read[:, 1]).abs().mean()) > 0.1
    assert float((read[0] - read[1]).abs().mean()) > 1e-4


def test_mplug_owl2_teaches_nothing_that_text_goes_through(data, scenes, world):
    whole, ours = trainer("mplug_owl2", data, scenes, world)
    names = (mplug_owl2.FRESH, mplug_owl2.TOWER)
    chosen = {id(parameter) for part in names for parameter in mplug_owl2.unfrozen(whole, part)}
    whole_loss(ours.losses(0)).backward()
    found = reached(whole)
    assert {id(p) for name, p in whole.named_parameters() if name in found} <= chosen
    for name, _ in whole.named_parameters():
        for_images = "vision_model" in name or "abstractor" in name or ".multiway.1." in name
        # A key's bias changes nothing; in the last layer only keys and values are looked at.
        idle = name.endswith("attention.key.bias") or name.startswith("model.layers.1.post")
        assert (name in found) == for_images or (idle and for_images), name


# --- parts that begin as another's --------------------------------------------------------


@torch.no_grad()
def test_mplug_owl2s_tower_begins_as_clips(data, scenes, world):
    whole, _ = trainer("mplug_owl2", data, scenes, world)
    clip, pixels = vision_of(data), to_input(scenes.images[:2])
    expected = clip.post_layernorm(clip(pixel_values=pixels).last_hidden_state)
    found = whole.model.vision_model(pixels)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_mplug_owl2_begins_as_its_language_model_for_both_modalities(data, scenes, world, parts):
    whole, _ = trainer("mplug_owl2", data, scenes, world)
    embeds = torch.randn(2, 12, 32, generator=torch.manual_seed(1))
    expected = parts[0](inputs_embeds=embeds).logits
    start = len(TEMPLATES["mplug_owl2"].ids(parts[1])[0])
    assert whole.image_span == (start, start + 4)
    torch.testing.assert_close(whole(embeds).logits, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_instructblips_tower_begins_as_clips(data, scenes, world):
    """Exactly, where CLIP's first norm divides every patch of the pictures by the same."""
    whole, _ = trainer("instructblip", data, scenes, world)
    clip, pixels = vision_of(data), to_input(scenes.images)
    theirs = clip.embeddings(pixels)
    spread = (theirs.var(-1, correction=0) + clip.pre_layrnorm.eps).sqrt()
    bias = clip.pre_layrnorm.bias
    expected = (clip.pre_layrnorm(theirs) - bias) * spread[..., None]  # centred and scaled only
    ours = whole.vision_model.embeddings(pixels) - bias
    # CLS and places are divided by the mean of their own spread, patches by that of all.
    places = clip.embeddings.position_embedding.weight[1:]
    places = (places - places.mean(-1, keepdim=True)) * clip.pre_layrnorm.weight
    means = spread.mean(0)
    torch.testing.assert_close(ours[:, 0], expected[:, 0] / means[0])
    pixels_alone = expected[:, 1:] - places
    torch.testing.assert_close(
        ours[:, 1:], pixels_alone / means[1:].mean() + places / means[1:, None]
    )
    states = torch.randn(2, 5, clip.config.hidden_size)
    for ours, theirs in zip(whole.vision_model.encoder.layers, clip.encoder.layers, strict=True):
        torch.testing.assert_close(ours(states), theirs(states, None))


def test_parts_that_do_not_fit_are_refused(data, parts, monkeypatch):
    monkeypatch.setattr(mplug_owl2, "tower_weights", lambda vision: {"odd": torch.ones(1)})
    with pytest.raises(ValueError, match=r"CLIP and LLaMA do not fit: .*model\.vision_model\.odd"):
        mplug_owl2.join(vision_of(data), *parts, OPTIONS["mplug_owl2"])


# --- training -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_resumed_training_ends_with_the_weights_of_an_uninterrupted_one(
    name, made, data, scenes, world, tmp_path, monkeypatch
):
    draw = Batches.at

    def killed(self, step):
        if step == 3 and self.size == 2:
            raise KeyboardInterrupt
        return draw(self, step)

    with monkeypatch.context() as patch:
        patch.setattr(Batches, "at", killed)
        with pytest.raises(KeyboardInterrupt):
            make(name, data, tmp_path, scenes, world)
    saved = torch.load(tmp_path / f"{LAST[name]}.pt", weights_only=True)
    assert saved["step"] == 2
    again = make(name, data, tmp_path, scenes, world)
    assert state_hash(*again.modules()) == state_hash(*made[name].modules())
    assert (tmp_path / f"{LAST[name]}.csv").read_text().startswith("step,items,loss\n")
    assert not list(tmp_path.glob("*.tmp"))


def changed(before, after) -> set[str]:
    """Name the parameters that differ."""
    state = dict(after.named_parameters())
    return {name for name, old in before.named_parameters() if not torch.equal(old, state[name])}


def test_training_changes_what_learns_and_nothing_else(made, data, scenes, world, parts):
    text = parts[0]
    assert len(changed(text, made["llava"].language_model)) == len(list(text.parameters()))
    assert not changed(vision_of(data), made["llava"].vision)
    assert not changed(text, made["instructblip"].language_model)
    before, _ = trainer("instructblip", data, scenes, world)
    assert "patch_embedding.weight" in str(
        changed(before.vision_model, made["instructblip"].queries.vision_model)
    )
    owl, _ = trainer("mplug_owl2", data, scenes, world)
    moved = changed(owl, made["mplug_owl2"].language_model)
    assert {name for name in moved if name.startswith("model.layers.0")} == {
        f"model.layers.0.{part}.multiway.1.weight"
        for part in (
            "self_attn.k_proj",
            "self_attn.v_proj",
            "input_layernorm",
            "post_attention_layernorm",
        )
    }
    assert not moved & {"model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"}


LEARN = {  # names of what learns, loss, stage, share of the loss that may be left
    "llava": ("multi_modal|language_model|lm_head", "tuning_losses", Schedule(40, 3e-2), 0.8),
    "instructblip": ("vision_model|query|qformer", "contrast_loss", Schedule(120, 2e-3), 0.85),
    "mplug_owl2": ("vision_model|abstractor|multiway.1", "losses", Schedule(40, 3e-2), 0.9),
}


@pytest.mark.parametrize("name", SYSTEMS)
def test_eight_pictures_are_learnt(name, data, scenes, world, tmp_path):
    names, loss, stage, share = LEARN[name]
    whole, ours = trainer(name, data, scenes, world)
    parameters = [p for n, p in whole.named_parameters() if re.search(names, n)]
    parameters += ours.contrast.parameters() if name == "instructblip" else []
    for parameter in parameters:
        parameter.requires_grad_(True)
    loss_at, steps = getattr(ours, loss), range(90, 98)
    before = sum(whole_loss(loss_at(step)).item() for step in steps)
    train("toy", parameters, loss_at, stage, tmp_path, 2)
    assert sum(whole_loss(loss_at(step)).item() for step in steps) < share * before


# --- what is saved ------------------------------------------------------------------------


@pytest.mark.parametrize("name", SYSTEMS)
def test_a_saved_system_loads_by_its_folder_and_the_doctor_passes(name, made, data, scenes, world):
    model = load_model(data / name)
    assert (type(model), model.name) == (type(made[name]), f"miniature/{name}")
    recipe = json.loads((data / name / "training.json").read_text())
    whole, _ = trainer(name, data, scenes, world)
    learns = f"{LEARN[name][0]}|language_projection"
    assert recipe.pop("trained_parameters") == sum(
        parameter.numel() for n, parameter in whole.named_parameters() if re.search(learns, n)
    )
    assert recipe == json.loads(json.dumps(asdict(OPTIONS[name])))
    report = doctor(model, pictures(scenes, slice(3)))
    assert report["passed"].all(), report.to_string()
    images = pictures(scenes, slice(2))
    expected, _ = made[name].forward(made[name].prompt(images))
    found, _ = model.forward(model.prompt(images))
    torch.testing.assert_close(found, expected, atol=0.05, rtol=0.02)  # kept in 16 bits


@pytest.mark.parametrize("name", SYSTEMS)
def test_the_prompt_of_training_is_that_of_the_system(name, made, scenes):
    system = made[name]
    before, behind = TEMPLATES[name].ids(system.tokenizer)
    prompt, tokens = system.prompt(pictures(scenes, slice(1))).embeds[0], system.image_tokens
    assert tokens.start == len(before)
    assert torch.equal(prompt[: tokens.start], system.embed(torch.tensor(before).long()))
    assert torch.equal(prompt[tokens.start + tokens.count :], system.embed(torch.tensor(behind)))
    assert system.prefix.endswith("An image of")
    assert "Describe the image in few words." in system.prefix


@pytest.mark.parametrize("name", SYSTEMS)
def test_systems_see_the_pixels_that_they_were_trained_on(name, made, scenes):
    expected = to_input(scenes.images)
    found = made[name].preprocess(pictures(scenes))
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


def test_the_language_model_is_stored_once(made, data):
    sizes = {
        name: (data / name / "model.safetensors").stat().st_size for name in (*SYSTEMS, "llama")
    }
    assert sizes["llava"] > sizes["llama"]
    for name in ("instructblip", "mplug_owl2"):
        text = '"language_model": "../llama"'
        assert text in (data / name / "facts.json").read_text()
        stored = sum(p.numel() for part in made[name].modules() for p in part.parameters())
        shared = sum(p.numel() for p in load_llama(data / "llama")[0].parameters())
        own = stored - shared
        assert sizes[name] < 2 * own + 40_000  # names and shapes come on top


def test_features_are_the_adapters(made, data, scenes):
    store = statistics(patch_states(vision_of(data), scenes.images, -2, batch=3).numpy())
    expected = made["llava"].image_features(pictures(scenes))
    found = torch.from_numpy(store.values).float()
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=2e-3)
    flat = found.flatten(0, 1)
    torch.testing.assert_close(store.mean, flat.mean(0), atol=1e-4, rtol=1e-4)


def test_folding_makes_the_projector_take_features_as_they_are(data, scenes, world, parts):
    whole, ours = trainer("llava", data, scenes, world)
    with torch.no_grad():
        expected = ours.projector(ours.store.batch(np.arange(2)))
    first = ours.projector.linear_1
    first.load_state_dict(fold(first, ours.store))
    system = build_llava(llava.FACTS, whole, parts[1])
    found = system.soft_prompt(pictures(scenes, slice(2)))
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-3)


def test_the_qformers_tokenizer_knows_instruction_and_world(world):
    words = instructblip.qformer_tokenizer(world)
    texts = ["Describe the image in few words. An image of", "a dog and a cat on the grass"]
    for ids in words(texts)["input_ids"]:
        assert words.unk_token_id not in ids
        assert (ids[0], ids[-1]) == (words.bos_token_id, words.eos_token_id)
    longer = words("fewer swords")["input_ids"]
    assert longer[1:-1] == [words.unk_token_id] * 2


@pytest.mark.parametrize("name", SYSTEMS)
def test_quality_is_measured_on_the_loaded_system(name, made, data, scenes, world, tmp_path):
    photographs = []
    for i, image in enumerate(pictures(scenes, slice(3))):
        image.save(tmp_path / f"{i}.png")
        photographs.append(
            Photograph(str(i), tmp_path / f"{i}.png", scenes.captions(i, world), size=(SIDE, SIDE))
        )
    found = chat.first_noun(load_model(data / name), photographs, world)
    assert found["scenes"] == 3
    assert 0 <= found["first_noun"] <= 1


def test_what_is_recorded_is_what_was_measured(made, data, world, monkeypatch):
    monkeypatch.setattr(chat, "load_dataset", lambda name: type("Few", (), {"sample": list_of}))
    measured = {"first_noun": 0.51239, "low": 0.4, "high": 0.6, "scenes": 7}
    monkeypatch.setattr(chat, "first_noun", lambda model, photographs, world: dict(measured))
    found = chat.record_quality(data / "llava", world, scenes=7)
    assert found == {**measured, "first_noun": 0.5124}
    assert '"first_noun": 0.5124' in (data / "llava" / "quality.json").read_text()


def list_of(count: int, seed: int) -> list:
    return list(islice(range(1000), count))
