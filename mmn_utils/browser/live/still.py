"""A view without a kernel behind it: as a piece of plain HTML, and as the code that gives it."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageColor

from mmn_utils.browser.address import View
from mmn_utils.browser.atlas.cards import Card
from mmn_utils.browser.atlas.words import END_OF
from mmn_utils.browser.live.own import OWN
from mmn_utils.browser.live.session import Session
from mmn_utils.browser.live.stack import FIELDS, Ready
from mmn_utils.browser.pictures import jpeg_uri
from mmn_utils.exhibits.plots import COLOURS
from mmn_utils.neurons.decoding import SIGN
from mmn_utils.neurons.receptive_fields import upsample

SIDE = 320  # pixels of the longer side of the picture
ROWS = 5  # neurons of each method


def html(session: Session, view: View, heat: bool = True) -> str:
    """Show a view as HTML without style or script: picture, caption, top neurons, card.

    With ``heat`` the neuron's heat map is computed and laid on the picture, where the system
    is loaded and has a grid, and so is a table that nobody has asked for yet; without it the
    system does not run. Texts are escaped; a part that cannot be shown says why.
    """
    parts = [
        _or_why(_picture, session, view, heat),
        _or_why(_table, session, view, heat),
        _or_why(_card, session, view),
    ]
    run = escape(session.atlas.facts.run)
    note = f"A still of the neuron browser, run {run}; it is live where a kernel runs."
    return f"<div>\n<p><em>{note}</em></p>\n{''.join(filter(None, parts))}</div>"


def code(session: Session, view: View, stack: Sequence[Ready] = ()) -> str:
    """Write the Python that gives what a view shows, and the outcome of a stack."""
    facts, image, noun = session.atlas.facts, view["image"], view["noun"]
    images = dict.fromkeys([image, *(one.image for one in stack)])
    lines = [
        "import mmn_utils as mmn",
        "from mmn_utils.browser.atlas.query import Atlas",
        "from mmn_utils.browser.live.session import Session",
        *(["from mmn_utils.browser.live.stack import Intervention"] if stack else []),
        "",
        f"session = Session(mmn.load({facts.model!r}), Atlas.open({facts.run!r}))",
    ]
    for name in (i.removeprefix(OWN) for i in images if i and i.startswith(OWN)):
        lines += [
            f"with open({name!r}, 'rb') as file:  # where the picture lies",
            f"    session.own({name!r}, file.read())",
        ]
    if image is not None:
        lines.append(f"picture = session.picture({image!r})")
    if image is not None and noun:
        lines.append(f"top = session.top({image!r}, {noun!r})['rows'][{view['method']!r}]")
    if view["neuron"]:
        lines.append(f"card = session.atlas.neuron({view['neuron']!r})")
    some = view["chosen"] or list(filter(None, [view["neuron"]]))
    if image is not None and some and facts.grid is not None:
        lines.append(f"maps = session.maps({image!r}, {some!r})")
    if image is not None and view["patch"] is not None and facts.grid is not None:
        lines.append(f"patch = session.patch({image!r}, {noun!r}, {view['patch']})['rows']")
    if view["search"]:
        word, end = view["search"]["word"], view["search"]["end"]
        lines.append(f"found = session.atlas.search({word!r}, end={end!r})")
    for one in stack:
        made_on = f"{one.image!r}, {one.noun!r}"
        lines.append(f"session.stack.apply({_intervention(one)}, {made_on})")
    if stack and image is not None:
        lines.append(f"print(session.stack.look({image!r}, {noun!r}))")
    return "\n".join(lines) + "\n"


# --- inside ------------------------------------------------------------------------------


def _intervention(one: Ready) -> str:
    asked = one.intervention
    named = "".join(f", {name}={getattr(asked, name)!r}" for name in FIELDS[asked.kind])
    neurons = f"map(mmn.Neuron.parse, {list(map(str, asked.neurons))!r})"
    return f"Intervention({asked.kind!r}, {neurons}{named})"


def _or_why(part, *args) -> str:
    """Draw a part, or say in its place why it cannot be."""
    try:
        return part(*args)
    except (ValueError, OSError) as error:
        return f"<p>{escape(str(error))}</p>\n"


def _picture(session: Session, view: View, heat: bool) -> str:
    if view["image"] is None or not (heat or session.quick("picture", {"image": view["image"]})):
        return ""
    shown, neuron = session.picture(view["image"]), view["neuron"]
    picture = session.open(view["image"])
    picture.thumbnail((SIDE, SIDE))
    says = f"picture {view['image']}"
    if heat and neuron and session.model is not None and session.atlas.facts.grid is not None:
        found = session.maps(view["image"], [neuron])[neuron]
        picture = _tinted(picture, np.reshape(found, session.atlas.facts.grid))
        says += f", tinted where {neuron} is most active"
    caption = "".join(
        f"<b>{escape(text)}</b>" if noun == view["noun"] and noun else escape(text)
        for text, noun in shown["pieces"]
    )
    uri = jpeg_uri(picture)
    return f'<p><img src="{uri}" alt="{escape(says)}"></p>\n<p>{caption}</p>\n'


def _tinted(picture: Image.Image, field: np.ndarray) -> Image.Image:
    """Lay a colour on a picture, the more the higher a map (rows, columns) is there."""
    large = upsample(torch.as_tensor(field)[None], (picture.height, picture.width))[0].numpy()
    low, high = float(large.min()), float(large.max())
    weight = 0.8 * (large - low) / (high - low) if high > low else np.zeros_like(large)
    pixels = np.asarray(picture, np.float32)
    tint = np.asarray(ImageColor.getrgb(COLOURS["prompts"]), np.float32)
    mixed = pixels + weight[..., None] * (tint - pixels)
    return Image.fromarray(mixed.round().astype(np.uint8))


def _table(session: Session, view: View, heat: bool) -> str:
    asked = {"image": view["image"], "noun": view["noun"]}
    if not all(asked.values()) or not (heat or session.quick("top", asked)):
        return ""
    found = session.top(view["image"], view["noun"], ROWS)
    columns = list(found["rows"])
    lines = ["<table>", _line("th", [f"{name}: {view['noun']}" for name in columns])]
    for place in range(max(map(len, found["rows"].values()), default=0)):
        rows = (found["rows"][name][place : place + 1] for name in columns)
        lines.append(_line("td", [_scored(row[0], found["about"]) if row else "" for row in rows]))
    return "\n".join([*lines, "</table>\n"])


def _scored(row: list[Any], about: dict[str, Any]) -> str:
    """Name a neuron, its score, the sign of its activation there, and what it wrote there."""
    address, score, _, sign = row
    wrote = " ".join(text.strip() for text in about[address][END_OF[sign]])
    return f"{address} {score:.3g} ({SIGN[sign]}): {wrote}"


def _card(session: Session, view: View) -> str:
    if not view["neuron"]:
        return ""
    card = session.atlas.neuron(view["neuron"])
    seen = (f"{sight.image} ({sight.value:.3g})" for sight in card.sights["strongest"][:ROWS])
    rows = [
        [str(card.neuron), "interpretable" if card.interpretable else "not interpretable"],
        ["writes", ", ".join(token.text for token in card.writes)],
        ["suppresses", ", ".join(token.text for token in card.suppresses)],
        *_written(card, view),
        ["strongest on", ", ".join(seen)],
        ["among the top of", f"{card.nouns} nouns{', generic' if card.generic else ''}"],
    ]
    return "\n".join(["<table>", *(_line("td", row) for row in rows), "</table>\n"])


def _written(card: Card, view: View) -> list[list[str]]:
    """Say which end was written for the view's noun; no row where the atlas has it among no top."""
    found = card.written(view["image"] or "", view["noun"] or "")
    said = [f"{method}: {SIGN[place.sign]}, {place.end}" for method, place in found.items()]
    return [[f"end written for {view['noun']}", "; ".join(said)]] if said else []


def _line(tag: str, texts: Sequence[str]) -> str:
    return f"<tr>{''.join(f'<{tag}>{escape(text)}</{tag}>' for text in texts)}</tr>"
