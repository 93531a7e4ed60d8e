"""BLEURT against its own formula."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from scipy.special import erf, softmax
from transformers import (
    BertConfig,
    BertForSequenceClassification,
    BertModel,
    BertTokenizer,
    RemBertConfig,
    RemBertForSequenceClassification,
)

from mmn_utils.measures import bleurt as bleurt_module
from mmn_utils.measures.bleurt import Bleurt, bleurt, bleurt_identifier, load_bleurt

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
    monkeypatch.setattr(bleurt_module, "is_sentencepiece_available", lambda: False)
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
    for checkpoint in (folder, port):
        assert bleurt(["a horse", ""], [["a pony"], ["a boat"]], checkpoint).tested
    printed = capfd.readouterr()
    assert printed.out == printed.err == ""
