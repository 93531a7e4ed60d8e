"""GGUF files become folders of transformers' own: the same numbers, once, or an error."""

from __future__ import annotations

import gguf
import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType as Kind
from safetensors.torch import load_file

from mmn_utils.models import gguf as module
from mmn_utils.models.gguf import dequantised
from mmn_utils.models.hub import MissingParts, load_tokenizer
from mmn_utils.models.smol import load_language
from tests.gguf_files import file_name, gguf_llama, stored, write_gguf
from tests.tiny import SENTENCES, tiny_tokenizer


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    return tmp_path_factory.mktemp("gguf")


@pytest.fixture(scope="module")
def plain(place):
    """The folder of a file in float32."""
    return dequantised(write_gguf(place / "plain.gguf", gguf_llama()), place / "cache")


@torch.no_grad()
def test_a_file_in_float32_gives_the_logits_of_its_weights(plain):
    ids = torch.randint(
        0, len(tiny_tokenizer()), (2, 9), generator=torch.Generator().manual_seed(0)
    )
    # rows of queries and keys in another order, or another base of the rotary, would show
    torch.testing.assert_close(load_language(plain)(ids).logits, gguf_llama()(ids).logits)


@pytest.mark.parametrize("kind", [Kind.Q4_1, Kind.Q8_0])
def test_quantised_weights_are_those_that_gguf_gives_back(place, kind):
    model = gguf_llama()
    folder = dequantised(write_gguf(place / f"{kind.name}.gguf", model, kind), place / "cache")
    found = load_file(folder / "model.safetensors")
    assert found.keys() == model.state_dict().keys()
    rounded = 0
    for name, (array, of_array) in stored(model, kind).items():
        key = next(key for key in found if file_name(key) == name)
        value = array if of_array is None else gguf.dequantize(array, of_array)
        for part, heads in (("attn_q", 4), ("attn_k", 2)):
            if part in name:  # neighbours in the file are half a head apart in transformers
                value = np.concatenate(
                    [np.concatenate([head[::2], head[1::2]]) for head in np.split(value, heads)]
                )
        np.testing.assert_array_equal(found[key].numpy(), value)
        assert found[key].dtype == torch.float32
        rounded += not torch.equal(found[key], model.state_dict()[key])
    assert rounded == sum(value.ndim > 1 for value in found.values())


def test_a_shared_unembedding_stays_shared(place):
    model = gguf_llama()
    model.lm_head.weight = model.model.embed_tokens.weight
    file = write_gguf(place / "tied.gguf", model, without="output.weight")
    folder = dequantised(file, place / "cache")
    assert "lm_head.weight" not in load_file(folder / "model.safetensors")
    found = load_language(folder)
    assert found.lm_head.weight.data_ptr() == found.model.embed_tokens.weight.data_ptr()
    assert torch.equal(found.lm_head.weight, model.lm_head.weight)


def test_the_tokenizer_comes_along(plain):
    found, own = load_tokenizer(plain), tiny_tokenizer()
    for text in (*SENTENCES, " an été", "A  dog's 12 cats"):
        assert found.encode(text, add_special_tokens=False) == own.encode(text)
        assert found.decode(found.encode(text)) == text
    assert found.eos_token_id == own.eos_token_id


def test_a_file_is_read_once_and_anew_when_its_bytes_are_others(place, plain, monkeypatch):
    monkeypatch.setattr(module, "_read", None)  # nothing reads any more
    assert dequantised(place / "plain.gguf", place / "cache") == plain
    (place / "other").mkdir()
    other = write_gguf(place / "other" / "plain.gguf", gguf_llama(seed=1))
    with pytest.raises(TypeError):
        dequantised(other, place / "cache")
    left = [path.name for path in (place / "cache").iterdir() if path.name.startswith(".")]
    assert left == []


def test_what_is_no_such_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none\.gguf is not there"):
        dequantised(tmp_path / "none.gguf", tmp_path / "cache")
    (tmp_path / "page.gguf").write_text("<html>")
    with pytest.raises(ValueError, match=r"page\.gguf begins with b'<htm'.*fetch it again"):
        dequantised(tmp_path / "page.gguf", tmp_path / "cache")
    assert not (tmp_path / "cache").exists()


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_a_file_that_is_cut_off_leaves_nothing(tmp_path, share):
    content = write_gguf(tmp_path / "whole.gguf", gguf_llama()).read_bytes()
    (tmp_path / "cut.gguf").write_bytes(content[: int(share * len(content))])
    with pytest.raises(ValueError, match=r"cut\.gguf does not give a whole model .*fetch it again"):
        dequantised(tmp_path / "cut.gguf", tmp_path / "cache")
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_file_that_lacks_a_weight_is_refused(tmp_path):
    file = write_gguf(tmp_path / "a.gguf", gguf_llama(), without="blk.1.ffn_up.weight")
    with pytest.raises(ValueError, match=r"lacks 1 weights .*layers\.1\.mlp\.up_proj\.weight"):
        dequantised(file, tmp_path / "cache")


def test_without_the_reader_the_package_is_named(tmp_path, monkeypatch):
    file = write_gguf(tmp_path / "a.gguf", gguf_llama())
    monkeypatch.setattr("transformers.utils.is_gguf_available", lambda *_: False)
    with pytest.raises(MissingParts, match="pip install gguf"):
        dequantised(file, tmp_path / "cache")
