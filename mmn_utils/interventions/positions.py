"""Where in the sequence a running pass stands: the image tokens, the caption, or all of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

POSITIONS = ("all", "image", "generated")


def check_positions(positions: str) -> None:
    """Raise ``ValueError`` for positions that are none of ``POSITIONS``."""
    if positions not in POSITIONS:
        raise ValueError(f"positions={positions!r}: give one of {', '.join(POSITIONS)}")


class Place:
    """Where in the sequence the running pass stands, read off the language model's calls."""

    def __init__(self, model, positions: str, prompt_length: int | None):
        self.image, self.positions = model.image_tokens, positions
        self.prompt_length, self.offset, self.length = prompt_length, 0, 0

    def read(self, module, args, kwargs) -> None:
        """Take the numbers of tokens, cached and new, as a forward pre-hook with keywords."""
        past = kwargs.get("past_key_values")
        self.offset = 0 if past is None else past.get_seq_length()
        self.length = kwargs["inputs_embeds"].shape[1]

    def count(self) -> int:
        """Count the positions of the running pass that are touched."""
        touched = self.where(self.length)
        return touched.stop - touched.start

    def where(self, length: int) -> slice:
        """Return which of the last ``length`` tokens of the running pass are touched, maybe none.

        All of a pass's, but in a layer that computes the last ones alone.
        """
        if self.positions == "all":
            return slice(0, length)
        if self.positions == "image":
            first, last = self.image.start, self.image.start + self.image.count
        else:
            if self.prompt_length is None:
                raise ValueError("positions='generated' began within a caption; give prompt_length")
            first, last = self.prompt_length, self.offset + self.length
        begin = self.offset + self.length - length
        return slice(*(min(max(edge - begin, 0), length) for edge in (first, last)))


@contextmanager
def placed(model, positions: str, prompt_length: int | None = None) -> Iterator[Place]:
    """Follow the language model's passes while the context lasts.

    Without ``prompt_length`` the prompt is what the last pass without a cache held.
    """
    place, given = Place(model, positions, prompt_length), prompt_length is not None

    def read(module, args, kwargs) -> None:
        place.read(module, args, kwargs)
        if not given and place.offset == 0:
            place.prompt_length = kwargs["inputs_embeds"].shape[1]

    handle = model.language_model.register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield place
    finally:
        handle.remove()
