"""Pictures and text as the own forward of any model of transformers takes them.

Every picture is resized to one square, so that all have the same number of image tokens
behind the same text. Where the tokens are (``token_span``) and whether they have a place in
the picture (``token_grid``) is read off ids and counts.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch
from PIL import Image
from torch import Tensor, nn

from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.pixels import to_pixels, to_rgb, to_square

FOUND = "found"  # the grid that count and facts of the model suggest
RESAMPLERS = ("resampler", "perceiver", "qformer", "abstractor")  # their tokens have no place


@dataclass(frozen=True)
class AutoFacts:
    """What a model's files do not settle.

    ``template`` is the whole text up to where the caption begins, with the processor's
    placeholder of one image; None: the processor's chat template around ``question``,
    then ``opening``. ``pixels`` is the side of the square that every picture is resized
    to, so that all have the same number of tokens; None: the vision tower's. ``grid``
    overrides the (rows, columns) found, or None for tokens without a place. ``options``
    go to the processor's call; ``mean`` and ``std`` serve where there is only a tokenizer.
    ``end`` names the token that ends a caption where it is not the tokenizer's end of
    text. ``fold_norms`` see ``norms.fold_norm``. ``check`` compares with the model's own
    ``generate``.
    """

    template: str | None = None
    question: str = "Describe the image in few words."
    opening: str = "An image of"
    pixels: int | None = None
    grid: tuple[int, int] | str | None = FOUND
    options: Mapping[str, object] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    end: str | None = None
    fold_norms: bool = False
    check: bool = True
    vocabulary: int | None = None
    revision: str | None = None


class Reader:
    """Pictures to the inputs of the model's own forward, each behind the same text."""

    def __init__(self, model: nn.Module, processor, facts: AutoFacts) -> None:
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.processor = None if self.tokenizer is processor else processor
        self.facts, self.pixels = facts, facts.pixels or _side(model)
        self.image_token = _image_token(model)
        self.text = self._checked(_text(self.processor, facts))
        self.options = {**_one_view(self.processor), **facts.options}
        bos = self.tokenizer.bos_token
        if bos and self.text.startswith(bos):
            self.options["add_special_tokens"] = False
        self.count = _count(model, self.pixels) if self.processor is None else None

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Make input ids, pixels and what else there is, all rows of the same ids."""
        if self.processor is None:
            pixels = to_pixels(images, self.pixels, self.facts.mean, self.facts.std)
            ids = torch.tensor([self._ids()] * len(images))
            return {"input_ids": ids, "pixel_values": pixels}
        squares = [[square] for square in _squares(images, self.pixels)]
        inputs = self.processor(
            text=[self.text] * len(squares), images=squares, return_tensors="pt", **self.options
        )
        ids = inputs["input_ids"]
        if not (ids == ids[:1]).all():
            raise ValueError("pictures of the same size got different tokens; check the options")
        return {name: value for name, value in inputs.items() if isinstance(value, Tensor)}

    def _checked(self, text: str) -> str:
        """Check that a text has the placeholder of one image."""
        token = getattr(self.processor, "image_token", None)
        token = token or self.tokenizer.convert_ids_to_tokens(self.image_token)
        if text.count(token) != 1:
            raise ValueError(f"template = {text!r}: give a text with {token} in it once")
        return text

    def _ids(self) -> list[int]:
        """Tokenize the text and repeat its one image token."""
        ids = self.tokenizer(self.text, **self.options)["input_ids"]
        place = ids.index(self.image_token)
        return [*ids[:place], *[self.image_token] * self.count, *ids[place + 1 :]]


def _squares(images: Sequence[Image.Image], side: int) -> list[Image.Image]:
    """Resize pictures of any mode to RGB squares, so that each has the same number of tokens."""
    if isinstance(images, Image.Image):
        raise ValueError("give a list of pictures, [image] for a single one")
    if len(images) == 0:
        raise ValueError("no pictures; give a list of at least one")
    return [to_square(to_rgb(image), side, resample="bicubic") for image in images]


def _side(model: nn.Module) -> int:
    """Take the side of the vision tower's picture; 16 x 16 tokens where it takes any size."""
    vision = getattr(model.config, "vision_config", None)
    size = getattr(vision, "image_size", None)
    size = size[0] if isinstance(size, (list, tuple)) else size
    if size:
        return int(size)
    patch, merge = (getattr(vision, name, None) for name in ("patch_size", "spatial_merge_size"))
    if patch and merge:
        return 16 * patch * merge
    raise ValueError(
        f"the configuration of {type(model).__name__} names no size of pictures; give pixels"
    )


def _image_token(model: nn.Module) -> int:
    """Take the id that stands for a piece of the picture."""
    for name in ("image_token_id", "image_token_index"):
        if getattr(model.config, name, None) is not None:
            return int(getattr(model.config, name))
    raise Unsupported(
        f"the configuration of {type(model).__name__} names no image token, so pictures do not "
        "enter among the tokens"
    )


def _text(processor, facts: AutoFacts) -> str:
    """Write the text up to where the caption begins."""
    if facts.template is not None:
        return facts.template
    if getattr(processor, "chat_template", None) is None:
        raise ValueError(
            "there is no processor with a chat template; give template='...', the whole text up "
            "to where the caption begins, with the placeholder of one image"
        )
    content = [{"type": "image"}]
    if facts.question:
        content.append({"type": "text", "text": facts.question})
    chat = [{"role": "user", "content": content}]
    text = processor.apply_chat_template(chat, add_generation_prompt=True)
    blank = " " if facts.opening and not text[-1:].isspace() else ""
    return f"{text}{blank}{facts.opening}"


def _one_view(processor) -> dict:
    """Ask for the picture as a whole where it would be split into several."""
    splits = hasattr(getattr(processor, "image_processor", None), "do_image_splitting")
    return {"do_image_splitting": False} if splits else {}


@torch.no_grad()
def _count(model: nn.Module, side: int) -> int:
    """Count the tokens of a picture that goes to the vision tower as it is."""
    pixels = torch.rand(1, 3, side, side).to(model.device, model.dtype)
    return token_rows(model.get_image_features(pixel_values=pixels)).shape[0]


def token_rows(features) -> Tensor:
    """Put the projected features of all pictures behind each other: (tokens, d)."""
    pooled = getattr(features, "pooler_output", features)
    pooled = torch.cat(list(pooled)) if isinstance(pooled, (list, tuple)) else pooled
    return pooled.flatten(0, -2)


def token_span(model: nn.Module, ids: Tensor, token: int) -> tuple[int, int]:
    """Find the image tokens in a prompt's ids (T): start and count."""
    places = (ids == token).nonzero().flatten()
    if len(places) == 0:
        raise ValueError(
            f"the prompt of {type(model).__name__} has no image token {token}; put the processor's "
            "placeholder of one image into the template"
        )
    runs = torch.tensor_split(places, (places.diff() > 1).nonzero().flatten().cpu() + 1)
    if len(runs) > 1:
        lengths = ", ".join(str(len(run)) for run in runs)
        raise Unsupported(
            f"the image tokens of {type(model).__name__} are not contiguous (runs of {lengths}); "
            "give options that ask the processor for one view, or smaller pixels"
        )
    return int(places[0]), len(places)


def token_grid(
    model: nn.Module, facts: AutoFacts, inputs: Mapping, tower: int, count: int
) -> tuple[int, int] | None:
    """Find rows and columns of the image tokens, None where they have no place.

    Of merged patches where the processor tells their number; otherwise a square, if the
    ``tower`` tokens (one more with a class token) are that square or a finer one.
    """
    if facts.grid != FOUND:
        if facts.grid is not None and math.prod(facts.grid) != count:
            raise ValueError(f"grid = {facts.grid} does not hold {count} image tokens")
        return facts.grid
    if "image_grid_thw" in inputs:
        time, rows, columns = inputs["image_grid_thw"][0].tolist()
        merge = math.isqrt(time * rows * columns // count)
        return (rows // merge, columns // merge) if time == 1 else None
    kinds = {type(module).__name__.lower() for module in model.modules()}
    if any(name in kind for name in RESAMPLERS for kind in kinds):
        return None
    side = math.isqrt(count)
    finer = {(side * k) ** 2 + extra for k in range(1, 9) for extra in (0, 1)}
    return (side, side) if side * side == count and tower in finer else None
