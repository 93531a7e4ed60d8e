"""What a real language model shows: how it learnt to name, and where its units lie."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from mmn_utils.exhibits import plots
from mmn_utils.studies.layers import layer_counts

# Each way of ranking units has one colour and one name everywhere.
COLOURS = {
    "picture": "multimodal",
    "words": "prompts",
    "snapped": "coco",
    "last_token": "interpretable",
}
NAMES = {
    "picture": "attribution, at the picture",
    "picture_summed": "attribution, summed over it",
    "words": "attribution, told in words",
    "snapped": "attribution, nearest words",
    "last_token": "contribution, last token",
    "last_active": "activation, last token",
    "exact": "ablated alone",
    "without_generic": "attribution, generic units left out",
}
SETS = {
    "caltech101": ("Caltech-101", "multimodal"),
    "imagenette": ("Imagenette", "interpretable"),
    "coco_val2017": ("COCO, first noun", "prompts"),
}


def named(ways: pd.Index | pd.Series) -> list[str]:
    """Name ways as tables show them, random units as such."""
    short = [way.removesuffix("_random") for way in ways]
    return [
        NAMES.get(one, one) + (", random units" if one != way else "")
        for one, way in zip(short, ways, strict=True)
    ]


def set_named(source: str) -> str:
    """Name a set of photographs as exhibits show it."""
    return SETS.get(source, (source, ""))[0]


def learning(curve: pd.DataFrame, decoded: pd.DataFrame) -> Figure:
    """Draw, over steps, how often captions name the class, and how often top units write the noun.

    ``curve`` has steps, source, share, low, high; ``decoded`` steps, way, share, low, high.
    """
    fig = Figure(figsize=(plots.WIDTH["page"], 2.4))
    left, right = fig.subplots(1, 2)
    for source, part in curve.groupby("source", sort=False):
        name, colour = SETS.get(source, (source, "random"))
        _line(left, part, colour, name)
    for way, part in decoded.groupby("way", sort=False):
        colour = "multimodal" if way == "picture" else "random"
        _line(right, part, colour, {"picture": "top units"}.get(way, "random units"))
    left.set(xlabel="steps", ylabel="captions that name the class", ylim=(0, 1))
    right.set(xlabel="steps", ylabel="units that write the noun")
    right.set_ylim(bottom=0)
    for ax in (left, right):
        plots.legend_above(ax)
    return fig


def _line(ax: Axes, part: pd.DataFrame, colour: str, name: str) -> None:
    columns = (part[column] for column in ("steps", "share", "low", "high"))
    plots.line_with_interval(ax, *columns, colour, name)


def depth(lists: Mapping[str, pd.DataFrame], readable: pd.DataFrame, k: int) -> Figure:
    """Draw in which layers top units lie by several ways, and how many units there can be read.

    ``lists`` by way, neuron tables; ``readable`` has layer and share, of all units.
    """
    fig = Figure(figsize=(plots.WIDTH["page"], 2.4))
    left, right = fig.subplots(1, 2)
    drawn = {way: lists[way] for way in COLOURS if way in lists}
    counts = layer_counts(drawn, len(readable), [k])
    for way, part in counts.groupby("method", sort=False):
        shares = part["entries"] / part["entries"].sum()
        left.plot(part["layer"], shares, color=plots.palette(COLOURS[way]), label=NAMES[way])
    left.set(xlabel="layer", ylabel=f"share of the top {k}")
    left.legend(loc="upper center", fontsize=6.5)
    right.bar(readable["layer"], readable["share"], color=plots.palette("random"))
    right.set(xlabel="layer", ylabel="interpretable, of all units")
    return fig
