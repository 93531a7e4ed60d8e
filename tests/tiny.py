"""Tiny random systems of the true classes, for every test that needs a model.

Random weights with lively biases, norms and embeddings, so that a forgotten bias or norm
shows. The unembedding has more rows than the vocabulary, as GPT-J's has.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw
from timm.models.beit import Beit
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import nn
from transformers import BeitConfig, BeitModel, GPTJConfig, GPTJForCausalLM, PreTrainedTokenizerFast

from mmn_utils.datasets import Photograph
from mmn_utils.models.encoders import HubBeit, ImageEncoder, TimmBeit, timm_weights
from mmn_utils.models.limber import LimberFacts, build_limber

END = "<|endoftext|>"
SENTENCES = (
    "A picture of a horse in a field.",
    "A picture of two horses near a red barn.",
    "A picture of a boat on the water.",
    "A picture of a dog and a cat on the grass.",
    "A picture of a bird above the house.",
    "The horse eats grass and the dog drinks water.",
    "Cats and dogs and birds live in the house by the field.",
    "A man rides a horse, a woman sails a boat.",
    "A bowl of fruit: an apple, a banana and an orange.",
    "The train stops at the station and the bus at the school.",
)
PIXELS, PATCH, WIDTH = 32, 8, 24  # the encoder's picture, patch and feature
PADDING = 6  # rows of the unembedding beyond the vocabulary


@lru_cache(maxsize=1)
def tiny_tokenizer() -> PreTrainedTokenizerFast:
    """Train a byte-level BPE on a few sentences; their words are tokens, as ' horse' is."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=[END],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token=END, bos_token=END)
    fast.pad_token = END
    return fast


def tiny_language_model(
    seed: int = 0, vocabulary: int = 400, layers: int = 3, width: int = 32, positions: int = 96
) -> GPTJForCausalLM:
    """Build a random GPT-J of ``layers`` layers with 4 x ``width`` units each."""
    torch.manual_seed(seed)
    config = GPTJConfig(
        vocab_size=vocabulary,
        n_positions=positions,
        n_embd=width,
        n_layer=layers,
        n_head=4,
        rotary_dim=4,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
    )
    return _liven(GPTJForCausalLM(config))


def tiny_hub_beit(seed: int = 0, **facts) -> BeitModel:
    """Build a random BEiT of transformers, with the paper's kind of facts."""
    torch.manual_seed(seed)
    config = BeitConfig(
        image_size=PIXELS,
        patch_size=PATCH,
        hidden_size=WIDTH,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=4 * WIDTH,
        initializer_range=0.2,
        layer_scale_init_value=0.5,
        **{"use_shared_relative_position_bias": True, "use_mask_token": True, **facts},
    )
    return _liven(BeitModel(config, add_pooling_layer=False))


def tiny_timm_beit(hub: BeitModel, **facts) -> Beit:
    """Build timm's BEiT with the weights of transformers'."""
    beit = Beit(
        img_size=PIXELS,
        patch_size=PATCH,
        embed_dim=WIDTH,
        depth=2,
        num_heads=4,
        num_classes=0,
        global_pool="avg",
        use_fc_norm=True,
        init_values=0.5,
        **{"use_abs_pos_emb": False, "use_shared_rel_pos_bias": True, **facts},
    )
    state = timm_weights(hub.state_dict())
    missing, unexpected = beit.load_state_dict(state, strict=False)
    assert not unexpected, unexpected
    assert all(key.startswith("fc_norm") for key in missing), missing
    return beit


def tiny_encoder(seed: int = 0, encoder: str = "timm") -> ImageEncoder:
    """Build a random encoder; both kinds have the same weights for the same seed."""
    if encoder not in ("timm", "transformers"):
        raise ValueError(f"encoder={encoder!r}: give 'timm' or 'transformers'")
    hub = tiny_hub_beit(seed)
    return HubBeit(hub) if encoder == "transformers" else TimmBeit(tiny_timm_beit(hub))


def tiny_limber(seed: int = 0, encoder: str = "timm", **facts):
    """Build a random LiMBeR: 32 px, 4 x 4 patches, 3 layers of 128 units, width 32.

    A new model with each call, the same one for the same seed; ``facts`` as LimberFacts.
    """
    tokenizer = tiny_tokenizer()
    language_model = tiny_language_model(seed, vocabulary=len(tokenizer) + PADDING)
    torch.manual_seed(seed + 1000)
    projection = nn.Linear(WIDTH, language_model.config.n_embd)
    nn.init.normal_(projection.weight, std=0.2)
    return build_limber(
        LimberFacts(**{"name": "tiny", "vocabulary": len(tokenizer), **facts}),
        tiny_encoder(seed, encoder),
        projection,
        language_model,
        tokenizer,
    )


def tiny_images(n: int = 2, seed: int = 0, side: int = 40) -> list[Image.Image]:
    """Draw ``n`` pictures, each a bright box somewhere on noise."""
    rng = np.random.default_rng(seed)
    images = []
    for _ in range(n):
        image = Image.fromarray(rng.integers(0, 120, (side, side + 8, 3), dtype=np.uint8))
        left, top = rng.integers(0, side // 2, 2).tolist()
        colour = tuple(rng.integers(150, 256, 3).tolist())
        ImageDraw.Draw(image).rectangle([left, top, left + side // 3, top + side // 3], fill=colour)
        images.append(image)
    return images


def tiny_photographs(folder: Path, n: int) -> list[Photograph]:
    """Write ``n`` of ``tiny_images`` to a folder, and return them as photographs "0", "1" ..."""
    photographs = []
    for i, image in enumerate(tiny_images(n)):
        image.save(folder / f"{i}.png")
        photographs.append(Photograph(str(i), folder / f"{i}.png"))
    return photographs


def _liven(model: nn.Module) -> nn.Module:
    """Give biases, norms, tables and embeddings random values instead of zeros and ones."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim == 1 or "token" in name or "table" in name or "position" in name:
                parameter.add_(0.3 * torch.randn_like(parameter))
    return model.eval()
