"""Any model of transformers that reads pictures and text, found by walking its modules.

Nothing here asks which model it has. Names of modules are data (``modules.SHAPES``
and the tuples below it); what names cannot tell is read off one pass of the model's own
forward over a picture:

==================  ==================================================================
decoder layers      the longest list of modules beside the input embeddings whose items
                    all have an attention of known names, or some a recurrence or a
                    convolution in its place
MLP                 one of ``SHAPES``, the same in every layer
norms behind them   a norm that reads the attention's output is what attention adds to the
                    residual stream; one that reads the MLP's output stands between write
                    vectors and stream, and units have their shares in what it gives
factors             of embeddings, attention, MLP, whole layers and logits, and a soft cap of
                    the logits, solved for; with what else a layer adds (``sums``)
positions           those with which the model's own forward reaches its decoder: in
                    three dimensions (M-RoPE), or counted from 1
token types         the processor's, where the forward takes them: they say which tokens
                    of the prompt see each other both ways
besides embeddings  what else its own forward hands the decoder: features added behind early
                    layers, states for cross-attention; it travels with a prompt. Where the
                    decoder takes ids, it may put the picture among embeddings itself (``flow``)
image tokens        from the first to the last; what ends rows or parts views counts with
                    them, but has no place
other MLPs          written as a plain gated one: gate and up in one map, tokens flattened
                    (``rewriting``), a mixture of experts (``experts``)
==================  ==================================================================

What was found must then account for everything that enters the residual stream and the
logits, judged in float32 whatever the model's type, and the adapter's logits must be those of
the model's own ``generate``. What is left over is refused by name (``Unsupported``): layers
of unlike sizes, several streams side by side, a stream that is normalised after each addition,
an encoder with a decoder.
"""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn
from transformers import AutoConfig, AutoModelForMultimodalLM, AutoProcessor
from transformers.models.auto.image_processing_auto import IMAGE_PROCESSOR_MAPPING_NAMES
from transformers.models.auto.modeling_auto import (
    MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES,
    MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES,
)

from mmn_utils.compat import quiet_loading
from mmn_utils.models.auto.adapter import AutoVisionLanguageModel
from mmn_utils.models.auto.building import build_auto, known_facts
from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.auto.refusals import refused
from mmn_utils.models.base import LateHash
from mmn_utils.models.hub import WEIGHTS, MissingParts, Part, find, load_whole, weight_files
from mmn_utils.models.placement import PLACED, on_one_device, require_accelerate
from mmn_utils.models.products import quicken

# Types by what a configuration calls them; with those that hear, too, if they have pictures.
KINDS = {
    kind: name
    for kind, name in MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES.items()
    if kind in MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES or kind in IMAGE_PROCESSOR_MAPPING_NAMES
}
PATTERNS = (*WEIGHTS, "*.jinja", "*.txt", "*.model")  # weights, processor and tokenizer


@quiet_loading()
def load_auto(
    name_or_path: str | Path,
    *,
    device: str = "cpu",
    dtype: torch.dtype | None = None,
    revision: str | None = None,
    **facts,
) -> AutoVisionLanguageModel:
    """Load any model that reads pictures and text from the hub, its cache or a folder.

    ``device`` "auto" lets Accelerate load it to where it fits; ``dtype`` None keeps the files'
    own; ``revision`` is the hub's; ``facts`` as ``AutoFacts``.
    Raises ``MissingParts`` where files are missing, with the command that gets them,
    ``ValueError`` where weights are, and ``Unsupported`` with the part that does not fit.
    """
    known_facts(facts)
    folder = find(Part("name_or_path", name_or_path, revision, PATTERNS))
    with refused(f"the model of {name_or_path}"):
        model = _load_model(folder, dtype or "auto", device)
    quicken(model)  # before it is compared with itself, a few passes that wait for nothing else
    try:
        processor = AutoProcessor.from_pretrained(folder)
    except (OSError, ImportError, ValueError, AttributeError, LookupError, TypeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise MissingParts(f"{name_or_path} has no processor that loads: {reason}") from error
    facts["revision"] = LateHash(weight_files(folder))
    return build_auto(str(name_or_path), model, processor, **facts)


def _load_model(folder: Path, dtype: torch.dtype | str, device: str) -> nn.Module:
    """Load a model with every weight of it, in a type from the start.

    Converted afterwards, the frequencies of rotary positions would be rounded too.
    """
    kind = AutoConfig.from_pretrained(folder).model_type
    if kind not in KINDS:
        raise Unsupported(
            f"{folder} holds a {kind!r}, which is no model of transformers that reads pictures "
            "and text"
        )
    if device != PLACED:
        return load_whole(AutoModelForMultimodalLM, folder, dtype=dtype).to(device)
    require_accelerate()
    model = load_whole(AutoModelForMultimodalLM, folder, dtype=dtype, device_map=PLACED)
    return on_one_device(model, folder)
