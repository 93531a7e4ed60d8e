"""Captions, and what the text encoder makes of them, found without the package."""

from __future__ import annotations

import numpy as np
import torch
from transformers import (
    AutoModel,
    AutoTokenizer,
)

from mmn_utils.measures.encoder import default_encoder

CAPTIONS = ["a horse in a field", "two ponies near a barn.", "a red boat", "horse, boat", "a dog"]


def encoded(text: str) -> tuple[list[str], np.ndarray]:
    """Return a text's tokens without the special ones and their unit vectors."""
    tokenizer = AutoTokenizer.from_pretrained(default_encoder())
    model = AutoModel.from_pretrained(default_encoder())
    inputs = tokenizer(text, return_tensors="pt")
    with torch.no_grad():
        vectors = model(**inputs).last_hidden_state[0, 1:-1].double().numpy()
    tokens = tokenizer.convert_ids_to_tokens(inputs["input_ids"][0, 1:-1].tolist())
    return tokens, vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
