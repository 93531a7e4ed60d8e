"""Neurons written in by hand: every stage must find what was planted.

A picture is a grid of coloured patches, and an adapter as small as can be hands each
patch's colour to a tiny random GPT-J as a direction of its input space. Into that GPT-J
three neurons are written: each fires on one colour and writes one word. A head of the
next layer carries what they wrote to the last token. All else stays random.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

import mmn_utils.compat  # noqa: F401  (before transformers)
from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.sweeps import sweep
from mmn_utils.models.architectures import GPTJ
from mmn_utils.models.base import ImageTokens, VisionLanguageModel
from mmn_utils.models.capture import capture
from mmn_utils.models.pixels import seen_box, to_square
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.contribution import contribution
from mmn_utils.neurons.decoding import decode, decoded_words, signed
from mmn_utils.neurons.effects import exact_ablation
from mmn_utils.neurons.receptive_fields import (
    activation_maps,
    iou,
    mask,
    over_picture,
    resize_truth,
    seen_truth,
    upsample,
)
from mmn_utils.neurons.table import Neuron, unique_neurons
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.ablation import ablation_rows

GRID, PIXELS = (20, 5), 160  # one row of patches is 1/20 of the picture: the mask's share
WIDTH, LAYER = 64, 1
WORDS = ["horse", "plane", "boat"]
COLOURS = {"horse": (255, 0, 0), "plane": (0, 255, 0), "boat": (0, 0, 255)}
UNITS = {"horse": 17, "plane": 101, "boat": 200}
FILLERS = [f"w{i}" for i in range(33)]
VOCABULARY = ["<end>", "A", "picture", "of", *WORDS, *FILLERS]


def squares(images) -> torch.Tensor:
    arrays = [np.asarray(image, np.float32) / 255 for image in images]
    return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)


class Colours(VisionLanguageModel):
    """An adapter whose encoder is each patch's mean colour, and whose projection is linear."""

    def preprocess(self, images):
        return squares([image.resize((PIXELS, PIXELS)) for image in images])

    def image_features(self, images):
        pooled = torch.nn.functional.adaptive_avg_pool2d(self.preprocess(images), GRID)
        return pooled.flatten(2).transpose(1, 2)

    def soft_prompt(self, images):
        return self.ground + self.image_features(images) @ self.projection


def tokenizer() -> PreTrainedTokenizerFast:
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(VOCABULARY)}, unk_token="w0"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, eos_token="<end>", unk_token="w0")


def orthonormal(rows: int) -> torch.Tensor:
    """Draw orthonormal rows without a mean, which LayerNorm would take away."""
    ones = torch.ones(WIDTH, 1)
    columns = torch.linalg.qr(torch.cat([ones, torch.randn(WIDTH, rows)], dim=1)).Q
    return columns[:, 1:].T


@torch.no_grad()
def planted_system() -> Colours:
    """Build the system and write the three neurons into it."""
    torch.manual_seed(0)
    config = GPTJConfig(
        vocab_size=len(VOCABULARY), n_positions=160, n_embd=WIDTH, n_layer=4, n_head=4,
        rotary_dim=8, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    gptj = GPTJForCausalLM(config)
    system = Colours(
        "planted", gptj, tokenizer(), GPTJ,
        ImageTokens(0, GRID[0] * GRID[1], GRID, PIXELS), prefix="A picture of",
    )  # fmt: skip
    directions = orthonormal(len(VOCABULARY) + len(WORDS))
    words, colours = directions[: len(VOCABULARY)], directions[len(VOCABULARY) :]
    ground = torch.randn(GRID[0] * GRID[1], WIDTH)
    system.ground = ground - ground @ directions.T @ directions
    system.projection = 16 * colours
    _write_head(gptj, words)
    block = gptj.transformer.h[LAYER].mlp
    for word, colour in zip(WORDS, colours, strict=True):
        unit, token = UNITS[word], VOCABULARY.index(word)
        block.fc_in.weight[unit], block.fc_in.bias[unit] = colour, -4.0
        block.fc_out.weight[:, unit] = 4 * words[token]
    return system


def _write_head(gptj, words: torch.Tensor) -> None:
    """Let the next layer average the planted words over positions, and captions end after one."""
    gptj.lm_head.weight.copy_(3 * words)
    gptj.lm_head.bias.zero_()
    carried = words[[VOCABULARY.index(word) for word in WORDS]]
    attention = gptj.transformer.h[LAYER + 1].attn
    attention.q_proj.weight.zero_()
    attention.v_proj.weight.copy_(torch.eye(WIDTH))
    attention.out_proj.weight.copy_(40 * carried.T @ carried)
    embeddings = gptj.transformer.wte.weight
    embeddings.normal_(std=0.3)
    for word in WORDS:
        embeddings[VOCABULARY.index(word)] = 200 * words[0]


def picture(bands: dict[str, int]) -> Image.Image:
    """Paint full-width bands, one patch high, on black: {word: row of patches}."""
    pixels = np.zeros((PIXELS, PIXELS, 3), np.uint8)
    height = PIXELS // GRID[0]
    for word, row in bands.items():
        pixels[row * height : (row + 1) * height] = COLOURS[word]
    return Image.fromarray(pixels)


def target(word: str) -> Target:
    return Target("scene", word, VOCABULARY.index(word), ())


@pytest.fixture(scope="module")
def system() -> Colours:
    return planted_system()


def planted(word: str) -> Neuron:
    return Neuron(LAYER, UNITS[word])


@pytest.mark.parametrize("word", WORDS)
def test_the_caption_names_what_is_there(system, word):
    caption = generate(system, system.prompt([picture({word: 7})]), 5)[0]
    assert caption.text == word


@pytest.mark.parametrize("rank_by", ["max", "sum", "pair"])
@pytest.mark.parametrize("of", ["logit", "probability"])
@pytest.mark.parametrize("word", WORDS)
def test_attribution_ranks_the_planted_neuron_first(system, word, of, rank_by):
    table = attribution(
        system, [picture({word: 7})], [target(word)], k=20, target=of, rank_by=rank_by
    )
    assert unique_neurons(table)[0] == planted(word)
    best = table[(table.layer == LAYER) & (table.unit == UNITS[word])]
    if rank_by == "pair":  # five patches of the band, and before anything else
        assert set(best.patch[:5]) == set(range(35, 40))
        assert list(best.index[:5]) == [0, 1, 2, 3, 4]
    assert table.score[0] > 5 * table.score[len(best)]


def test_attribution_and_exact_ablation_tell_two_planted_neurons_apart(system):
    image = picture({"horse": 3, "plane": 12})
    for word in ("horse", "plane"):
        table = attribution(system, [image], [target(word)], k=5)
        assert unique_neurons(table)[0] == planted(word)
        others = [Neuron(LAYER, unit) for unit in range(0, 256, 9)]
        truth = exact_ablation(
            system, system.prompt([image]), target(word), [planted(w) for w in WORDS] + others
        )
        assert unique_neurons(truth)[0] == planted(word)


@pytest.mark.parametrize("word", WORDS)
def test_decoding_names_the_word(system, word):
    assert decoded_words(system, [planted(word)])[planted(word)][0].strip() == word
    table = decode(system, [planted(word)], k=2)
    assert table.token[0] == VOCABULARY.index(word)
    assert table.probability[0] > 0.9


@pytest.mark.parametrize(("word", "row"), [("horse", 0), ("plane", 7), ("boat", 19)])
def test_the_mask_is_the_planted_region(system, word, row):
    image = picture({word: row})
    maps = upsample(activation_maps(system, [image], [planted(word)]), PIXELS)
    region = np.asarray(image).any(-1)
    assert iou(mask(maps), resize_truth(region, PIXELS)).item() == 1.0
    other = Neuron(LAYER, UNITS[word] + 1)
    others = upsample(activation_maps(system, [image], [other]), PIXELS)
    assert iou(mask(others), resize_truth(region, PIXELS)).item() < 0.5


def test_of_a_cut_out_middle_the_map_lies_where_the_system_looked(system, monkeypatch):
    """Left and right of it are the colour, too, and nothing is seen there."""
    side = picture({"horse": 2})
    wide = Image.new("RGB", (3 * PIXELS, PIXELS))
    for place, one in enumerate((side, picture({"horse": 7}), side)):
        wide.paste(one, (place * PIXELS, 0))
    monkeypatch.setattr(
        type(system),
        "preprocess",
        lambda _, images: squares([to_square(i, PIXELS, "crop") for i in images]),
    )
    monkeypatch.setattr(type(system), "seen", lambda _, size: seen_box(size, "crop"))
    maps = activation_maps(system, [wide], [planted("horse")])
    found = over_picture(system, maps, (PIXELS, 3 * PIXELS))[0, 0]
    middle = slice(PIXELS, 2 * PIXELS)
    assert found[:, :PIXELS].isnan().all()
    assert found[:, 2 * PIXELS :].isnan().all()
    region = np.asarray(picture({"horse": 7})).any(-1)
    assert (mask(found[:, middle]).numpy() == region).all()
    truth = np.asarray(wide).any(-1)
    assert iou(mask(upsample(maps, PIXELS)), seen_truth(system, truth)).item() == 1.0


def test_ablation_removes_exactly_that_word(system):
    prompt = system.prompt([picture({"horse": 3, "plane": 12})])
    whole, _ = system.forward(prompt)
    names = {}
    for word in ("horse", "plane"):
        token = VOCABULARY.index(word)
        with ablate(system, Ablation((planted(word),)), prompt=prompt) as receipt:
            without, _ = system.forward(prompt)
            names[word] = generate(system, prompt, 5)[0].text
        rest = torch.arange(len(VOCABULARY)) != token
        assert without[0, token] < 0.2 * whole[0, token]
        scale = (without[0, rest] @ whole[0, rest]) / whole[0, rest].square().sum()
        apart = (without - scale * whole)[0, rest].abs().max()  # beyond the final norm's scale
        assert apart < 0.1 * (whole - without)[0, token]
        assert receipt.touched > 0
        assert receipt.logit_change > 10
    assert names == {"horse": "plane", "plane": "horse"}


def test_ablating_what_is_not_in_the_picture_changes_no_caption(system):
    prompt = system.prompt([picture({"horse": 3})])
    with ablate(system, Ablation((planted("boat"),)), prompt=prompt) as receipt:
        pass
    assert not receipt.caption_changed
    assert receipt.logit_change < 0.5


def test_a_sweep_finds_it_among_the_ranked_and_not_at_random(system):
    image = picture({"horse": 3, "plane": 12})
    prompt, goal = system.prompt([image]), target("horse")
    with torch.no_grad():
        logits, _ = system.forward(prompt)
    goal = target(VOCABULARY[int(logits.argmax())])
    ranked = unique_neurons(attribution(system, [image], [goal], k=12))
    rows, labels = ablation_rows(
        ranked, dict.fromkeys(ranked, True), [0, 1, 4], 4 * WIDTH, np.random.default_rng(0)
    )
    result = sweep(system, prompt, goal, rows, 4)
    of = labels.assign(p=result.probability[labels.row], changed=result.changed[labels.row])
    of = of.set_index(["condition", "k"])
    assert of.p["top", 1] < 0.2 * of.p["top", 0]
    assert of.changed["top", 1]
    assert of.p["random", 4] > 0.95 * of.p["top", 0]
    assert not of.changed["random", 4]
    assert not result.within_rounding.any()


def test_contribution_sees_what_is_written_at_the_last_token_only(system):
    image, goal = picture({"horse": 3}), target("horse")
    assert planted("horse") not in unique_neurons(contribution(system, [image], [goal], k=3))


@torch.no_grad()
def dented(word: str) -> tuple[Colours, Neuron]:
    """Build a system in which a unit writes the word in GELU's negative part, by a vector of -word.

    The unit that was planted for the word writes nothing.
    """
    system, unit = planted_system(), Neuron(LAYER, 33)
    block = system.language_model.transformer.h[LAYER].mlp
    with capture(system, "pre", layers=[LAYER]) as seen:
        system.forward(system.prompt([picture({word: 7})]))
    along = seen.values[LAYER][0, 7 * GRID[1], UNITS[word]] + 4  # of the colour, without the bias
    block.fc_in.weight[unit.unit] = block.fc_in.weight[UNITS[word]]
    block.fc_in.bias[unit.unit] = -0.4 - along  # where GELU still rises: -0.14
    block.fc_out.weight[:, unit.unit] = -30 * block.fc_out.weight[:, UNITS[word]]
    block.fc_out.weight[:, UNITS[word]] = 0
    return system, unit


@pytest.mark.parametrize("word", WORDS)
def test_a_unit_in_gelus_negative_part_decodes_to_what_it_wrote(word):
    system, unit = dented(word)
    image, goal = picture({word: 7}), target(word)
    assert generate(system, system.prompt([image]), 5)[0].text == word
    for rank_by in ("max", "sum"):
        table = attribution(system, [image], [goal], k=5, rank_by=rank_by)
        (first, sign), *_ = signed(table)
        assert (first, sign) == (unit, -1)
    at_patch = attribution(system, [image], [goal], k=1)["activation"].item()
    assert -0.17 < at_patch < -0.05  # GELU's least is -0.17; patches differ in their ground
    words = decoded_words(system, [unit, (unit, -1)], 1)
    assert words[unit, -1][0].strip() == word
    assert words[unit][0].strip() != word
    lost = exact_ablation(system, system.prompt([image]), goal, [unit])
    assert lost["score"].item() > 5  # without it the word's logit falls, as the sign says
