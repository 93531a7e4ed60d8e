"""Gated neurons written in by hand: the contribution score must find them, the gate alone not.

A picture of one colour stands before a tiny LLaMA. Its first layer's attention carries the
colour to the last token; the next layer's MLP gets four hand-written units for each colour:

planted   gate and up read the colour, the write vector is its word
silent    the same gate, twice the write vector, but an up row near 0: it writes nothing
contrary  the same gate, up of the other sign: it takes its word away
double    up of the other sign and the word's opposite as write vector: it adds the word

The paper's published code records the gate alone and so believes the silent and the
contrary one, and misses the double one.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import LlamaConfig, LlamaForCausalLM

from mmn_utils.models.architectures import LLAMA
from mmn_utils.models.base import ImageTokens, VisionLanguageModel
from mmn_utils.models.doctor import CHECKS, doctor
from mmn_utils.neurons.activation import last_activation
from mmn_utils.neurons.captions import generate
from mmn_utils.neurons.contribution import contribution, contribution_layers_field
from mmn_utils.neurons.decoding import both_ends, decoded_words, signed
from mmn_utils.neurons.effects import exact_ablation
from mmn_utils.neurons.table import Neuron, unique_neurons
from mmn_utils.neurons.targets import Target
from mmn_utils.studies.concepts.specificity import heat_maps, specificity
from tests.tiny import tiny_tokenizer

WIDTH, LAYER, COUNT = 64, 1, 9
COLOURS = {" horse": (255, 0, 0), " boat": (0, 255, 0), " dog": (0, 0, 255)}
WORDS = list(COLOURS)
KINDS = ["planted", "silent", "contrary", "double"]


class Colours(VisionLanguageModel):
    """An adapter that hands a picture's mean colour over as nine image tokens without a place."""

    def preprocess(self, images):
        arrays = [np.asarray(image.resize((8, 8)), np.float32) / 255 for image in images]
        return torch.from_numpy(np.stack(arrays)).permute(0, 3, 1, 2)

    def image_features(self, images):
        return self.preprocess(images).mean((2, 3))[:, None].expand(-1, COUNT, -1)

    def soft_prompt(self, images):
        return self.ground + self.image_features(images) @ self.projection


def planted(kind: str, word: str) -> Neuron:
    return Neuron(LAYER, 10 * WORDS.index(word) + KINDS.index(kind))


def token(word: str) -> int:
    ids = tiny_tokenizer().encode(word)
    assert len(ids) == 1, word
    return ids[0]


def target(word: str) -> Target:
    return Target(word.strip(), word.strip(), token(word), ())


def picture(word: str) -> Image.Image:
    return Image.new("RGB", (16, 16), COLOURS[word])


@torch.no_grad()
def planted_system() -> Colours:
    """Build the system and write the units into it."""
    torch.manual_seed(0)
    tokenizer = tiny_tokenizer()
    config = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=96, num_hidden_layers=3,
        num_attention_heads=4, num_key_value_heads=4, max_position_embeddings=64,
        initializer_range=0.02, bos_token_id=0, eos_token_id=0, tie_word_embeddings=False,
    )  # fmt: skip
    llama = LlamaForCausalLM(config)
    system = Colours(
        "planted", llama, tokenizer, LLAMA, ImageTokens(0, COUNT, None, 8), prefix=" A picture of"
    )
    directions = torch.linalg.qr(torch.randn(WIDTH, 2 * len(WORDS))).Q.T
    words, colours = directions[: len(WORDS)], directions[len(WORDS) :]
    system.ground, system.projection = 0.1 * torch.randn(COUNT, WIDTH), 8 * colours
    attention = llama.model.layers[LAYER - 1].self_attn
    attention.q_proj.weight.zero_()  # the same weight for every token before
    attention.v_proj.weight.copy_(torch.eye(WIDTH))
    attention.o_proj.weight.copy_(4 * colours.T @ colours)
    for word, row in zip(WORDS, words, strict=True):
        llama.lm_head.weight[token(word)] = row
    mlp = llama.model.layers[LAYER].mlp
    for word, row, colour in zip(WORDS, words, colours, strict=True):
        for kind, up, down in [
            ("planted", 1, 1), ("silent", 1e-4, 2), ("contrary", -1, 1), ("double", -0.5, -1),
        ]:  # fmt: skip
            unit = planted(kind, word).unit
            mlp.gate_proj.weight[unit] = colour
            mlp.up_proj.weight[unit] = up * colour
            mlp.down_proj.weight[:, unit] = down * row
    return system


@pytest.fixture(scope="module")
def system() -> Colours:
    return planted_system()


def test_the_system_is_sound(system):
    # planted and contrary units cancel along one direction, which leaves no slope to compare
    checks = [check for check in CHECKS if check != "finite differences"]
    assert doctor(system, [picture(word) for word in WORDS[:2]], checks)["passed"].all()


@pytest.mark.parametrize("norm", ["none", "final"])
@pytest.mark.parametrize("word", WORDS)
def test_contribution_ranks_the_planted_unit_first(system, word, norm):
    table = contribution(system, [picture(word)], [target(word)], k=288, contribution_norm=norm)
    ranked = unique_neurons(table)
    assert ranked[:2] == [planted("planted", word), planted("double", word)]
    assert ranked[-1] == planted("contrary", word)
    assert table.score[0] > 1.5 * table.score[1] > 5 * table.score[2]
    silent = table[table.unit == planted("silent", word).unit]
    assert silent[silent.layer == LAYER].score.abs().item() < 1e-3 * table.score[0]


@pytest.mark.parametrize("word", WORDS)
def test_the_gate_alone_believes_units_that_write_nothing(system, word):
    table = contribution(system, [picture(word)], [target(word)], k=288, activation="gate")
    ranked = unique_neurons(table)
    assert ranked[0] == planted("silent", word)  # writes nothing and comes first
    assert set(ranked[1:3]) == {planted("planted", word), planted("contrary", word)}
    assert ranked[-1] == planted("double", word)  # adds the word and comes last


@pytest.mark.parametrize("word", WORDS)
def test_exact_ablation_agrees_with_the_gated_score(system, word):
    units = [planted(kind, word) for kind in KINDS]
    others = [Neuron(LAYER, unit) for unit in range(40, 96, 7)]
    truth = exact_ablation(system, system.prompt([picture(word)]), target(word), units + others)
    lost = {Neuron(row.layer, row.unit): row.score for row in truth.itertuples()}
    table = contribution(system, [picture(word)], [target(word)], k=288, contribution_norm="final")
    mine = {Neuron(row.layer, row.unit): row.score for row in table.itertuples()}
    assert unique_neurons(truth)[0] == planted("planted", word)
    assert unique_neurons(truth)[-1] == planted("contrary", word)
    assert abs(lost[planted("silent", word)]) < 1e-3 * lost[planted("planted", word)]
    order = np.argsort([lost[n] for n in units])
    assert np.argsort([mine[n] for n in units]).tolist() == order.tolist()


@pytest.mark.parametrize("word", WORDS)
def test_the_sum_of_gated_scores_is_the_words_logit(system, word):
    """With attention of the later layers near nothing, almost all of the logit is the units'."""
    images, targets = [picture(word)], [target(word)]
    exact = contribution_layers_field(system, images, targets, contribution_norm="final")
    gate = contribution_layers_field(
        system, images, targets, contribution_norm="final", activation="gate"
    )
    with torch.no_grad():
        logit = system.forward(system.prompt(images))[0][0, token(word)]
    assert sum(v.sum() for v in exact.values()).item() == pytest.approx(logit.item(), rel=0.05)
    assert sum(v.sum() for v in gate.values()).item() != pytest.approx(logit.item(), rel=0.2)


@pytest.mark.parametrize("word", WORDS)
def test_the_caption_begins_with_what_the_planted_units_write(system, word):
    assert generate(system, system.prompt([picture(word)]), 1)[0].text == word.strip()


@pytest.mark.parametrize("word", WORDS)
def test_the_base_knows_what_fires_and_not_what_it_writes(system, word):
    ranked = unique_neurons(last_activation(system, [picture(word)], [target(word)], k=1))
    assert ranked == [planted("planted", word)]
    other = target(next(w for w in WORDS if w != word))
    wrong = Target(word.strip(), other.noun, other.token, ())
    assert unique_neurons(last_activation(system, [picture(word)], [wrong], k=1)) == ranked
    assert unique_neurons(contribution(system, [picture(word)], [wrong], k=1)) != ranked


@pytest.mark.parametrize("reading", ["gated", "gate"])
@pytest.mark.parametrize("word", WORDS)
def test_units_decode_to_what_they_wrote(system, word, reading):
    """By the table's activation: the double one's is negative, and so is its write vector."""
    asked = {"k": 288, "activation": reading}
    table = contribution(system, [picture(word)], [target(word)], **asked)
    sign = dict(signed(table))
    words = decoded_words(system, list(sign.items()), 1)
    written = {n: words[n, s][0] == word for n, s in sign.items()}
    planted_sign = [sign[planted(kind, word)] for kind in ("planted", "contrary", "double")]
    if reading == "gated":
        assert planted_sign == [1, -1, -1]
        assert written[planted("planted", word)]
        assert written[planted("double", word)]
        assert not written[planted("contrary", word)]
    else:  # the gate alone is positive, and misses both that are turned round
        assert planted_sign == [1, 1, 1]
        assert written[planted("contrary", word)]
        assert not written[planted("double", word)]


@pytest.mark.parametrize("word", WORDS)
def test_ablating_a_unit_changes_the_word_as_its_sign_says(system, word):
    """The reference is the pass without it: what it wrote is lost, what it suppressed returns."""
    table = contribution(system, [picture(word)], [target(word)], k=288)
    sign = dict(signed(table))
    units = [planted(kind, word) for kind in ("planted", "contrary", "double")]
    truth = exact_ablation(system, system.prompt([picture(word)]), target(word), units)
    lost = {Neuron(row.layer, row.unit): row.score for row in truth.itertuples()}
    ends = both_ends(system, units, 1)
    for neuron, row in zip(units, ends.itertuples(), strict=True):
        writes, suppresses = (row.writes, row.suppresses)[:: sign[neuron]]
        assert word in (writes[0], suppresses[0])
        assert (lost[neuron] > 0) == (writes[0] == word)
        assert abs(lost[neuron]) > 0.1


@pytest.mark.parametrize("word", WORDS)
def test_a_negative_unit_is_specific_to_what_it_promotes(system, word):
    asked = (system, [picture(word)], [target(word)], [planted("double", word)])
    found = specificity(*asked, ms=[1, 5])
    assert found.scores["activation"][0] < 0
    assert found.scores["token"][0] == token(word)
    assert found.at(1)[word.strip()] > 0
    assert found.at(1)[word.strip()] > 3 * abs(found.at(5, "random")[word.strip()])
    printed = specificity(*asked, ms=[1, 5], related_by="write")
    assert printed.at(1)[word.strip()] < 0


def test_planted_units_are_specific(system):
    image = picture(" horse")
    targets = [Target("scene", word.strip(), token(word), ()) for word in WORDS]
    table = contribution(system, [image] * 3, targets, k=5)
    own = table[table.target == "horse"].iloc[0]
    found = heat_maps(system, [image] * 3, targets, table)[0]
    assert found.neurons[0] == planted("planted", " horse") == Neuron(own.layer, own.unit)
    assert found.normalised()[0].tolist() == pytest.approx([1, 0, 0], abs=0.02)
    mine = specificity(system, [image], targets[:1], [planted("planted", " horse")], ms=[1, 5])
    assert mine.scores.token[0] == token(" horse")
    assert mine.at(1)["scene"] == pytest.approx(own.score, rel=1e-4)
    assert mine.at(1)["scene"] > 3 * mine.at(5)["scene"]
