"""CLIPScore: how well a text fits a picture.

Scale: 100 x cosine, not cut off at 0 and without the factor 2.5 of the metric's first
paper: paper A's 17 to 28 are on this scale. With a real CLIP no photograph reaches 0, so
cutting off would change nothing; with a small one it would bend means.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import CLIPModel, CLIPProcessor

from mmn_utils.compat import quiet_loading
from mmn_utils.datasets.base import Photograph
from mmn_utils.memory import in_batches
from mmn_utils.presets import data_path


class ClipEmbeddings:
    """A CLIP that embeds each distinct text and image once, for all later questions.

    Images are told apart by their pixels, so a copy costs nothing; a
    :class:`~mmn_utils.datasets.Photograph` by its file, so it is opened only once. Text
    beyond the model's length limit (77 tokens in the public ones) is cut off.
    """

    def __init__(
        self, model: CLIPModel, processor: CLIPProcessor, name: str = "clip", batch_size: int = 64
    ) -> None:
        """Take the model as it is (device, dtype); ``name`` goes into errors and provenance."""
        self.model = model.eval()
        self.processor = processor
        self.name = name
        self.batch_size = batch_size
        self._texts: dict[str, np.ndarray] = {}
        self._images: dict[Any, np.ndarray] = {}

    @property
    def width(self) -> int:
        return self.model.config.projection_dim

    def texts(self, texts: Sequence[str]) -> np.ndarray:
        """Return unit vectors, float32 (texts, width). ValueError for a lone string."""
        if isinstance(texts, str):
            raise ValueError(f"a list of texts is needed, got the text {texts!r}")
        self.learn(texts)
        return self._stack([self._texts[text] for text in texts])

    def learn(self, texts: Sequence[str]) -> None:
        """Embed what is new among texts, alike long ones together; many at once go faster."""
        new = [text for text in dict.fromkeys(texts) if text not in self._texts]
        if not new:
            return
        limit = self.model.config.text_config.max_position_embeddings
        ids = self.processor.tokenizer(new, truncation=True, max_length=limit)["input_ids"]
        order = sorted(range(len(new)), key=lambda i: len(ids[i]))

        def compute(batch: list[int]) -> None:
            vectors = self._embed_tokens([torch.tensor(ids[i]) for i in batch])
            self._texts.update(zip((new[i] for i in batch), vectors, strict=True))

        in_batches(compute, order, self.batch_size, "texts")

    def images(self, images: Sequence[Image.Image | Photograph]) -> np.ndarray:
        """Return unit vectors, float32 (images, width)."""
        keys = [_image_key(image) for image in images]
        new = {k: image for k, image in zip(keys, images, strict=True) if k not in self._images}

        def compute(batch: list) -> None:
            vectors = self._embed_images([_opened(new[key]) for key in batch])
            self._images.update(zip(batch, vectors, strict=True))

        in_batches(compute, list(new), self.batch_size)
        return self._stack([self._images[key] for key in keys])

    def _stack(self, vectors: list[np.ndarray]) -> np.ndarray:
        return np.stack(vectors) if vectors else np.zeros((0, self.width), dtype=np.float32)

    @torch.no_grad()
    def _embed_tokens(self, ids: list[Tensor]) -> np.ndarray:
        """Embed texts, each given as its tokens: unit vectors, float32 (texts, width)."""
        padded = pad_sequence(ids, True, self.processor.tokenizer.pad_token_id)
        mask = pad_sequence([torch.ones_like(row) for row in ids], True)
        padded, mask = padded.to(self.model.device), mask.to(self.model.device)
        return _unit(self.model.get_text_features(input_ids=padded, attention_mask=mask))

    @torch.no_grad()
    def _embed_images(self, images: list[Image.Image]) -> np.ndarray:
        pixels = self.processor.image_processor(images=images, return_tensors="pt")["pixel_values"]
        pixels = pixels.to(device=self.model.device, dtype=self.model.dtype)
        return _unit(self.model.get_image_features(pixel_values=pixels))


@cache
def clip_embeddings(clip: str | Path | None = None, device: str = "cpu") -> ClipEmbeddings:
    """Load a CLIP: a folder or a name on the hub; by default the miniature's own.

    The same call returns the same object, with what it has embedded so far.
    FileNotFoundError where the model cannot be had.
    """
    name = str(clip or data_path("miniature", "clip"))
    try:
        with quiet_loading():
            # float32 whatever the weights are stored in: half precision costs a digit.
            model = CLIPModel.from_pretrained(name, dtype=torch.float32).to(device)
            processor = CLIPProcessor.from_pretrained(name)
    except (OSError, ValueError) as error:
        remedy = (
            "it comes with the repository, and `make miniature` makes it again"
            if clip is None
            else "pass the folder of a saved CLIPModel with its processor, or load the name once "
            "with network access"
        )
        raise FileNotFoundError(f"no CLIP at {name}: {remedy}") from error
    return ClipEmbeddings(model, processor, name)


def clipscore(
    images: Sequence[Image.Image | Photograph],
    texts: Sequence[str],
    clip: ClipEmbeddings | str | Path | None = None,
) -> np.ndarray:
    """Return 100 x the cosine of each image with its text, float64 (pairs,).

    -100 to 100, not cut off at 0 (see the module's text). ``images[i]`` goes with
    ``texts[i]``; repeat an image to score several texts, it is embedded once. A blank
    text is scored as CLIP sees it. ValueError for unequal lengths.
    """
    if isinstance(texts, str) or len(images) != len(texts):
        raise ValueError(f"{len(images)} images but texts {texts!r:.80}: one text for each image")
    embeddings = clip if isinstance(clip, ClipEmbeddings) else clip_embeddings(clip)
    image, text = embeddings.images(images), embeddings.texts(texts)
    return 100.0 * np.einsum("nd,nd->n", image.astype(np.float64), text.astype(np.float64))


def _unit(features: Any) -> np.ndarray:
    """Normalise CLIP's projected features, float32 (n, width)."""
    # transformers 5 wraps them in an output whose pooled part holds the projection.
    tensor = features if isinstance(features, Tensor) else features.pooler_output
    return torch.nn.functional.normalize(tensor.float(), dim=-1).cpu().numpy()


def _image_key(image: Image.Image | Photograph) -> Any:
    """Return what tells an image apart: its file, or a hash of its pixels."""
    if isinstance(image, Photograph):
        return image.path
    pixels = image.convert("RGB")
    return pixels.size, hashlib.sha256(pixels.tobytes()).digest()


def _opened(image: Image.Image | Photograph) -> Image.Image:
    return image.open() if isinstance(image, Photograph) else image.convert("RGB")
