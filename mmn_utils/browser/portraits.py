"""From an atlas and its system to what a figure shows of a neuron."""

from __future__ import annotations

from collections.abc import Sequence

from PIL import Image

from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.datasets import Photograph
from mmn_utils.exhibits.figures.cards import PICTURES, Portrait
from mmn_utils.neurons.receptive_fields import activation_maps, seen_picture
from mmn_utils.neurons.table import Neuron, address


def top_neuron(atlas: Atlas, image: str, method: str = "attribution") -> tuple[Neuron, str, float]:
    """Return the best neuron of a picture's first noun, the noun, and its score.

    ValueError for a picture whose caption has no noun.
    """
    found = atlas.image(image)
    if not found.nouns:
        raise ValueError(f"the caption of picture {image} has no noun: {found.caption!r}")
    noun = found.nouns[0].noun
    rows = found.scores.query("method == @method and target == @noun")
    best = rows.sort_values("rank").iloc[0]
    return Neuron(int(best["layer"]), int(best["unit"])), noun, float(best["score"])


def first_shown(atlas: Atlas, photographs: Sequence[Photograph]) -> Photograph:
    """Return the first photograph that shows the first noun of its caption.

    Where no caption's first noun names an object, the first with a noun; ValueError where
    there is none of these either.
    """
    first: Photograph | None = None
    for one in photographs:
        nouns = atlas.image(one.id).nouns
        first = first or (one if nouns else None)
        if nouns and nouns[0].noun.casefold() in {i.category for i in one.instances}:
            return one
    if first is None:
        raise ValueError(f"none of {len(photographs)} captions has a noun; take other photographs")
    return first


def portrait(
    system, atlas: Atlas, photographs: Sequence[Photograph], image: str, neuron: Neuron, title: str
) -> Portrait:
    """Collect what is drawn of a neuron on one of the photographs: of each what is seen of it."""
    known = {one.id: one for one in photographs}

    def shown(id: str) -> Image.Image:
        return seen_picture(system, known[id].open())

    card, picture, reason = atlas.neuron(neuron), known[image].open(), system.no_grid
    field = None
    if reason is None:
        field = activation_maps(system, [picture], [neuron], [image])[0, 0].cpu().numpy()
    sights = [
        (one.image, shown(one.image), one.value, _place(atlas.facts.grid, one.patch))
        for one in card.sights["strongest"][:PICTURES]
    ]
    return Portrait(
        title=f"{address(system, neuron)} {title}",
        picture=shown(image),
        field=field,
        no_grid=reason or "",
        writes=[(token.text, token.logit) for token in card.writes],
        suppresses=[(token.text, token.logit) for token in card.suppresses],
        histogram=card.histogram,
        edges=card.edges,
        strongest=sights,
    )


def _place(grid: tuple[int, int] | None, patch: int) -> tuple[float, float] | None:
    """Return where a patch has its middle, as shares of the picture's width and height."""
    if grid is None:
        return None
    row, column = divmod(patch, grid[1])
    return (column + 0.5) / grid[1], (row + 0.5) / grid[0]
