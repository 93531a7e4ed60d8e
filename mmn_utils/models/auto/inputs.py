"""Pictures and text as the own forward of any model of transformers takes them.

Every picture is resized to one square, so that all have the same number of image tokens
behind the same text. Where the tokens are (``token_span``) and whether they have a place in
the picture (``token_grid``) is read off ids and counts.
"""

from __future__ import annotations

import inspect
import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

import torch
from PIL import Image
from torch import Tensor, nn

from mmn_utils.models.auto.modules import Unsupported
from mmn_utils.models.auto.sums import accepted
from mmn_utils.models.auto.templates import fill
from mmn_utils.models.base import LateHash
from mmn_utils.models.pixels import to_pixels, to_rgb, to_square

FOUND = "found"  # the grid that count and facts of the model suggest
IMAGE_TOKENS = ("image_token_id", "image_token_index")
PIXELS = ("pixel_values", "image_patches", "image_pixel_values")  # beginnings of inputs' names
RESAMPLERS = ("resampler", "perceiver", "qformer", "abstractor")  # their tokens have no place


@dataclass(frozen=True)
class AutoFacts:
    """What a model's files do not settle.

    ``template`` is the whole text up to where the caption begins, with the processor's
    placeholder of one image; None: ``chat_template``, its text or a file, or else the
    processor's own, around ``question``, then ``opening``. ``pixels`` is the side of the
    square that every picture is resized to, so that all have the same number of tokens;
    None: the vision tower's. ``grid``
    overrides the (rows, columns) found, or None for tokens without a place. ``options``
    go to the processor's call; ``mean`` and ``std`` serve where there is only a tokenizer.
    ``end`` names one more token that ends a caption, besides those that end the model's own
    ``generate`` and the tokenizer's end of text. ``check`` compares with the model's own
    ``generate``.
    """

    template: str | None = None
    chat_template: str | None = None
    question: str = "Describe the image in few words."
    opening: str = "An image of"
    pixels: int | None = None
    grid: tuple[int, int] | str | None = FOUND
    options: Mapping[str, object] = field(default_factory=dict)
    mean: tuple[float, float, float] = (0.5, 0.5, 0.5)
    std: tuple[float, float, float] = (0.5, 0.5, 0.5)
    end: str | None = None
    check: bool = True
    vocabulary: int | None = None
    revision: str | LateHash | None = None


class Reader:
    """Pictures to the inputs of the model's own forward, each behind the same text."""

    def __init__(self, model: nn.Module, processor, facts: AutoFacts) -> None:
        self.tokenizer = getattr(processor, "tokenizer", processor)
        self.processor = None if self.tokenizer is processor else processor
        self.image_token = _image_token(model, self.processor, self.tokenizer)
        self.facts, self.pixels = facts, facts.pixels or _side(model)
        self.options = {**_one_view(self.processor), **facts.options}
        self.text, self.behind = _text(self.processor, facts), []
        if self.text is None and self._places_itself(facts.opening):
            self.text = facts.opening
        self.text = self._checked(self.text)
        bos = self.tokenizer.bos_token
        if bos and self.text.startswith(bos):
            self.options["add_special_tokens"] = False
        self.behind = _behind(self.tokenizer, self.options)
        self.count = _count(model, self.pixels) if self.processor is None else None

    def __call__(self, images: Sequence[Image.Image]) -> dict[str, Tensor]:
        """Make input ids, pixels and what else there is, all rows of the same ids."""
        if self.processor is None:
            pixels = to_pixels(images, self.pixels, self.facts.mean, self.facts.std)
            ids = torch.tensor([self._ids()] * len(images))
            return self._open({"input_ids": ids, "pixel_values": pixels})
        inputs = self._processed(_squares(images, self.pixels))
        ids = inputs["input_ids"]
        if not (ids == ids[:1]).all():
            raise ValueError("pictures of the same size got different tokens; check the options")
        return self._open({name: v for name, v in inputs.items() if isinstance(v, Tensor)})

    def _processed(self, squares: Sequence[Image.Image]) -> Mapping:
        """Let the processor read pictures, one for each text, as lists of one if it takes those."""
        call = partial(self.processor, text=[self.text] * len(squares), return_tensors="pt")
        try:
            return call(images=[[square] for square in squares], **self.options)
        except (ValueError, TypeError) as error:
            try:
                return call(images=squares, **self.options)
            except (ValueError, TypeError):
                raise error from None

    def _open(self, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """Take off what the tokenizer put behind the text, where the caption is to begin."""
        ids = inputs["input_ids"]
        own = self.tokenizer(self.text, add_special_tokens=False)["input_ids"]
        if _repeats(ids[0].tolist(), self.behind) <= _repeats(own, self.behind):
            return inputs
        length = ids.shape[1] - len(self.behind)
        along = {  # what has a value for each token
            name: value[:, :length]
            for name, value in inputs.items()
            if value.shape[:2] == ids.shape and not name.startswith(("pixel", "image"))
        }
        return {**inputs, **along}

    def _places_itself(self, text: str) -> bool:
        """Say whether the processor puts the picture's tokens before a text without placeholder."""
        if self.processor is None:
            return False
        self.text = text
        try:
            ids = self([Image.new("RGB", (self.pixels, self.pixels))])["input_ids"]
        except (ValueError, IndexError, RuntimeError):
            return False  # as many placeholders as pictures, it says
        return bool((ids == self.image_token).any())

    def _checked(self, text: str | None) -> str:
        """Check that a text has the placeholder of one image, if the processor needs it."""
        if text is None:
            raise ValueError(
                "there is no processor with a chat template; give template='...', the whole text "
                "up to where the caption begins, with the placeholder of one image"
            )
        token = getattr(self.processor, "image_token", None)
        token = str(token or self.tokenizer.convert_ids_to_tokens(self.image_token))
        if token not in text and self._places_itself(text):
            return text
        if len(re.findall(f"(?:{re.escape(token)})+", text)) != 1:  # some write one for each piece
            raise ValueError(f"template = {text!r}: give a text with {token} in it once")
        return text

    def _ids(self) -> list[int]:
        """Tokenize the text and repeat its one image token."""
        ids = self.tokenizer(self.text, **self.options)["input_ids"]
        place = ids.index(self.image_token)
        return [*ids[:place], *[self.image_token] * self.count, *ids[place + 1 :]]


def _behind(tokenizer, options: Mapping) -> list[int]:
    """Return what a tokenizer puts behind every text: its end of text, or nothing."""
    text, special = "a", options.get("add_special_tokens", True)
    plain = tokenizer(text, add_special_tokens=False)["input_ids"]
    whole = tokenizer(text, add_special_tokens=special)["input_ids"]
    for start in range(len(whole) - len(plain) + 1):
        if whole[start : start + len(plain)] == plain:
            return whole[start + len(plain) :]
    return []


def _repeats(ids: Sequence[int], tail: Sequence[int]) -> int:
    """Count how often ids end with a tail."""
    count, left = 0, list(ids)
    while tail and left[-len(tail) :] == tail:
        count, left = count + 1, left[: -len(tail)]
    return count


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
    owner = model.config if vision is None else vision
    patch, merge = (getattr(owner, name, None) for name in ("patch_size", "spatial_merge_size"))
    if patch and (merge or vision is None):
        return 16 * patch * (merge or 1)
    raise ValueError(
        f"the configuration of {type(model).__name__} names no size of pictures; give pixels"
    )


def _image_token(model: nn.Module, processor, tokenizer) -> int:
    """Take the id of a piece of the picture, the configuration's or the processor's."""
    for owner, name in itertools.product((model.config, processor), IMAGE_TOKENS):
        if isinstance(getattr(owner, name, None), int):
            return int(getattr(owner, name))
    token = getattr(processor, "image_token", None)
    if token is not None and str(token) in tokenizer.get_vocab():
        return tokenizer.get_vocab()[str(token)]
    raise Unsupported(
        f"neither the configuration of {type(model).__name__} nor its processor names an image "
        "token, so where the picture is in a prompt is not known"
    )


def _text(processor, facts: AutoFacts) -> str | None:
    """Write the text up to where the caption begins; None where nothing says how."""
    if facts.template is not None:
        return facts.template
    if not facts.chat_template and getattr(processor, "chat_template", None) is None:
        return None
    content = [{"type": "image"}]
    if facts.question:
        content.append({"type": "text", "text": facts.question})
    chat = [{"role": "user", "content": content}]
    text = fill(processor, chat, facts.chat_template)
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
    features = model.get_image_features(pixel_values=pixels)
    pooled = getattr(features, "pooler_output", features)
    pooled = torch.cat(list(pooled)) if isinstance(pooled, (list, tuple)) else pooled
    return pooled.flatten(0, -2).shape[0]


@torch.no_grad()
def tower_states(model: nn.Module, inputs: Mapping) -> Tensor | None:
    """Return what the vision tower gives (..., its width), before any merging; None if untold."""
    inputs = {**inputs, "pixel_values": pixels_of(inputs)}
    for owner in (getattr(model, "model", None), model):  # the outer may only pass on what it names
        function = getattr(owner, "get_image_features", None)
        if function is None or not _suffice(function, inputs):
            continue
        states = getattr(function(**accepted(function, inputs)), "last_hidden_state", None)
        return states if isinstance(states, Tensor) else None
    return None


def _suffice(function, inputs: Mapping) -> bool:
    """Say whether a function needs nothing that inputs lack."""
    try:
        inspect.signature(function).bind(**accepted(function, inputs))
    except TypeError:
        return False
    return True


def pixels_of(inputs: Mapping[str, Tensor]) -> Tensor:
    """Return the pixels among the inputs of a model, whatever it calls them."""
    name = next(name for name in inputs if name.startswith(PIXELS))
    return inputs[name]


def token_span(model: nn.Module, ids: Tensor, token: int) -> tuple[int, int, frozenset[int]]:
    """Find the image tokens in a prompt's ids (T): start, count, and which of these are others.

    Those between the first and the last that are no piece of the picture end a row, or stand
    between two views.
    """
    places = (ids == token).nonzero().flatten().tolist()
    if not places:
        raise ValueError(
            f"the prompt of {type(model).__name__} has no image token {token}; put the processor's "
            "placeholder of one image into the template"
        )
    start, count = places[0], places[-1] - places[0] + 1
    return start, count, frozenset(range(count)) - {place - start for place in places}


def token_grid(
    model: nn.Module,
    facts: AutoFacts,
    inputs: Mapping,
    tower: int,
    count: int,
    between: Collection[int] = (),
) -> tuple[int, int] | None:
    """Find rows and columns of the image tokens, None where they have no place.

    Where others are ``between``, the square whose rows they end; of merged patches where the
    processor tells their number; otherwise a square, if the ``tower`` tokens (one more with a
    class token) are that square or a finer one.
    """
    pieces = count - len(between)
    if facts.grid != FOUND:
        if facts.grid is not None and math.prod(facts.grid) != pieces:
            raise ValueError(f"grid = {facts.grid} does not hold {pieces} image tokens")
        return facts.grid
    side = math.isqrt(pieces)
    if between:
        ends = {row * (side + 1) - 1 for row in range(1, side)}
        return (side, side) if side * side == pieces and set(between) == ends else None
    if "image_grid_thw" in inputs:
        time, rows, columns = inputs["image_grid_thw"][0].tolist()
        merge = math.isqrt(time * rows * columns // count)
        rows, columns = rows // merge, columns // merge
        return (rows, columns) if time == 1 and rows * columns == count else None
    kinds = {type(module).__name__.lower() for module in model.modules()}
    if any(name in kind for name in RESAMPLERS for kind in kinds):
        return None
    finer = {(side * k) ** 2 + extra for k in range(1, 9) for extra in (0, 1)}
    return (side, side) if side * side == count and tower in finer else None
