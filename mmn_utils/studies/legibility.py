"""Why do a picture's top units write its word, or not? Lists by many ways, and what each writes.

Paper A reads the units that its score ranks first through the unembedding, and finds the noun's
own words. Where that fails, the cause may lie in the input (image tokens are like no words), in
the score, in the place that is scored, in a few units that top every list, or in how a write
vector is read. Each is a list, or a reading, of its own here, of the same nouns on the same
photographs: *the same target token behind the same prefix*.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch

from mmn_utils.measures.estimates import share_of, shares_of
from mmn_utils.models.base import Prompt
from mmn_utils.neurons.attribution import attribution
from mmn_utils.neurons.decoding import (
    WORDS,
    decoded_words,
    interpretable,
    nearest_tokens,
    signed,
)
from mmn_utils.neurons.effects import exact_ablation
from mmn_utils.neurons.table import Neuron, neuron_table, neurons_of, random_like
from mmn_utils.studies.agreement import listed, writes_noun
from mmn_utils.studies.concepts.scoring import top_neurons as by_methods
from mmn_utils.studies.store import per_photograph
from mmn_utils.studies.subjects import Subjects, top_neurons

if TYPE_CHECKING:
    from mmn_utils.datasets import Photograph

PICTURE = "picture"  # attribution at the image tokens, the paper's list
SIGNED = "signed"  # the reading that the papers' own is compared with
GENERIC = 0.5  # share of all lists in which a generic unit is, or more
# How a write vector is read: with the sign of the activation, and through the final norm.
READINGS = {
    "plain": (False, "none"),
    SIGNED: (True, "none"),
    "normed": (True, "final"),
}


# --- other inputs -------------------------------------------------------------------------


def told(photograph: Photograph) -> str:
    """Return what a photograph shows as a sentence, its first caption.

    ``ValueError`` where it has none.
    """
    first = next(iter(photograph.captions), "").strip().rstrip(".")
    if not first:
        raise ValueError(
            f"photograph {photograph.id!r} comes without a caption, so it cannot be told in words; "
            "take a data set with captions"
        )
    return f"{first[:1].upper()}{first[1:]}."


@torch.no_grad()
def described_in_words(model, some: Subjects, row: int) -> tuple[Prompt, slice]:
    """Return the prompt of a photograph told in words, and where in it the words lie.

    Its first reference caption stands in place of the image tokens; what stands before and behind
    them is the same, token by token. ``ValueError`` for a photograph without a caption.
    """
    photograph = some.photographs[row]
    blank = "" if model.prefix[:1].isspace() else "\n"  # no text goes on right behind a full stop
    words, gap = (
        model.tokenizer.encode(text, add_special_tokens=False) for text in (told(photograph), blank)
    )
    shown, image = model.prompt([photograph.open()]).embeds, model.image_tokens
    middle = model.embed(torch.tensor([words + gap], dtype=torch.long)).to(shown)
    behind = shown[:, image.start + image.count :]
    embeds = torch.cat([shown[:, : image.start], middle, behind], dim=1)
    return Prompt.of(embeds), slice(image.start, image.start + len(words))


@torch.no_grad()
def snapped(model, some: Subjects, row: int) -> tuple[Prompt, None]:
    """Return a photograph's prompt with each image token replaced by the nearest word.

    Nearest by cosine among the embeddings; what reaches the first layer is then words, and
    whatever else a system is given of the picture is left out. The image tokens' places are scored.
    """
    prompt = model.prompt([some.photographs[row].open()])
    where = model.image_tokens.places
    ids, _ = nearest_tokens(model, prompt.embeds[0, where], k=1)
    embeds = prompt.embeds.clone()
    embeds[0, where] = model.embed(ids.T)[0].to(embeds)
    return Prompt.of(embeds, prompt.mask), None


def by_input(
    model, some: Subjects, name: str, prompt_of: Callable, k: int, batch_size: int = 1
) -> pd.DataFrame:
    """Attribute each photograph's noun in prompts of another kind: the neuron table, cached.

    ``prompt_of`` (model, subjects, row) gives a prompt and the positions that are scored. It may
    read the photograph's file and its first caption: these are what the cache knows it by.
    """

    def compute(rows: list[int]) -> pd.DataFrame:
        tables = []
        for row in rows:
            prompt, positions = prompt_of(model, some, row)
            tables.append(attribution(model, prompt, [some.targets[row]], k=k, positions=positions))
        return pd.concat(tables, ignore_index=True)

    table = per_photograph(
        f"legibility-{name}", model, some.photographs, compute, {"k": k, "input": name},
        targets=_with(some, [photograph.captions[:1] for photograph in some.photographs]),
        batch_size=batch_size,
    )  # fmt: skip
    return neuron_table(table)


def _with(some: Subjects, further: Sequence) -> list[list]:
    """Pair each photograph's target with what else its results are of, for the cache to know."""
    return [[target, one] for target, one in zip(some.targets, further, strict=True)]


# --- lists --------------------------------------------------------------------------------


def exact(
    model, some: Subjects, lists: Mapping[str, pd.DataFrame], tried: int, batch_size: int = 64
) -> pd.DataFrame:
    """Ablate the ``tried`` units that lists rank first for each photograph, each alone.

    Scores are what y loses. The neuron table, all ``tried`` of each photograph, best first;
    cached. ``activation`` is that of the list where a unit stood highest. ``ValueError`` as
    ``candidates``.
    """
    chosen = {image: candidates(lists, image, tried) for image in some.ids}
    units = [[list(place) for place in found.index.tolist()] for found in chosen.values()]

    def compute(rows: list[int]) -> pd.DataFrame:
        return pd.concat([alone(row) for row in rows], ignore_index=True)

    def alone(row: int) -> pd.DataFrame:
        prompt = model.prompt([some.photographs[row].open()])
        neurons = [Neuron(*place) for place in units[row]]
        return exact_ablation(model, prompt, some.targets[row], neurons, batch_size=batch_size)

    table = per_photograph(
        "legibility-exact", model, some.photographs, compute, {},
        targets=_with(some, units), batch_size=1,
    )  # fmt: skip
    places = zip(table["image"], neurons_of(table), strict=True)
    active = [chosen[image].loc[(neuron.layer, neuron.unit)] for image, neuron in places]
    return neuron_table(table.assign(activation=active))


def candidates(lists: Mapping[str, pd.DataFrame], image: str, count: int) -> pd.Series:
    """Take the ``count`` units of a photograph that lists rank first, in turns: their activations.

    Indexed by (layer, unit). ``ValueError`` where the lists together hold fewer.
    """
    parts = [table[table["image"] == image] for table in lists.values()]
    turns = [part.assign(turn=range(len(part))) for part in parts]
    every = pd.concat(turns).sort_values("turn", kind="stable").drop_duplicates(["layer", "unit"])
    if len(every) < count:
        raise ValueError(
            f"{count} units of photograph {image} are to be ablated, but the lists hold "
            f"{len(every)}; ask for longer lists or fewer units"
        )
    return every.head(count).set_index(["layer", "unit"])["activation"]


def lists_of(model, some: Subjects, k: int, depth: int) -> dict[str, pd.DataFrame]:
    """Rank units for each photograph's noun in six ways: {way: neuron table, ``depth`` a noun}.

    ``picture`` and ``picture_summed``: attribution at the image tokens, by the maximum and by
    the sum over them. ``last_token`` by contribution, and ``last_active`` by activation.
    ``words`` and ``snapped``: attribution where a caption, or words nearest to the image tokens,
    stand in the picture's place. ``ValueError`` for a ``depth`` that holds no ``k``, and, before
    anything is computed, for a photograph without a caption.
    """
    if not 1 <= k <= depth:
        raise ValueError(f"k = {k}, depth = {depth}: give a k from 1, and a depth of k or more")
    for photograph in some.photographs:
        told(photograph)
    first = Subjects(some.photographs, some.captions, [[target] for target in some.targets])
    last = by_methods(model, first, k=depth)
    return {
        PICTURE: top_neurons(model, some, k=depth),
        "picture_summed": top_neurons(model, some, k=depth, rank_by="sum"),
        "last_token": last["contribution"],
        "last_active": last["activation"],
        "words": by_input(model, some, "words", described_in_words, depth),
        "snapped": by_input(model, some, "snapped", snapped, depth),
    }


def top(table: pd.DataFrame, k: int) -> pd.DataFrame:
    """Take each photograph's first ``k`` units; ``ValueError`` where it has fewer."""
    counts = table.groupby("image", sort=False).size()
    if (counts < k).any():
        image = counts.index[counts < k][0]
        raise ValueError(
            f"{k} units of photograph {image} are asked for, but its list holds {counts[image]}; "
            "rank more units (depth), or ask for fewer (k)"
        )
    return table.groupby("image", sort=False).head(k).reset_index(drop=True)


# --- generic units ------------------------------------------------------------------------


def generic_units(table: pd.DataFrame, k: int, share: float = GENERIC) -> pd.DataFrame:
    """Find units that are among the top ``k`` of at least ``share`` of all photographs.

    Columns layer, unit, lists (the share), most frequent first.
    """
    images = table["image"].nunique()
    counts = top(table, k).groupby(["layer", "unit"], sort=False)["image"].nunique() / images
    found = counts[counts >= share].sort_values(ascending=False, kind="stable")
    return found.rename("lists").reset_index()


def without(table: pd.DataFrame, generic: pd.DataFrame) -> pd.DataFrame:
    """Drop generic units from a table; what stood behind them moves up."""
    drop = pd.MultiIndex.from_frame(generic[["layer", "unit"]])
    here = pd.MultiIndex.from_frame(table[["layer", "unit"]])
    return table[~here.isin(drop)].reset_index(drop=True)


# --- what they write ----------------------------------------------------------------------


@dataclass(frozen=True)
class Written:
    """What units of lists write: ``rows`` (image, way, reading, share), and their ``units``."""

    rows: pd.DataFrame
    units: pd.DataFrame


def written(
    model, lists: Mapping[str, pd.DataFrame], nouns: Mapping[str, str], k: int, seed: int = 0
) -> Written:
    """Measure the share of each photograph's top ``k`` units that write its noun, in each reading.

    Beside each list, under ``<way>_random``, as many random units of the same layers, each read
    from the end of its vector that the unit beside it writes: then the choice of the unit is all
    that differs. Its own activation at that place may have the other sign; controls that are read
    by it, at image tokens alone, are in ``signs.signed_controls``. ``ValueError`` as ``top``.
    """
    parts = []
    for way, table in lists.items():
        chosen = top(table, k)
        parts.append(chosen.assign(way=way))
        parts.append(_random_beside(chosen, model.sizes.units, seed).assign(way=f"{way}_random"))
    units = pd.concat(parts, ignore_index=True)
    shares = []
    for reading, (by_sign, norm) in READINGS.items():
        pairs = signed(units) if by_sign else neurons_of(units)
        words = decoded_words(model, pairs, WORDS, decode_norm=norm)
        named = [
            writes_noun(words[pair], nouns[image])
            for pair, image in zip(pairs, units["image"], strict=True)
        ]
        each = units.assign(named=named).groupby(["image", "way"], sort=False)["named"].mean()
        shares.append(each.rename("share").reset_index().assign(reading=reading))
    rows = pd.concat(shares, ignore_index=True)
    return Written(rows[["image", "way", "reading", "share"]], units)


def _random_beside(chosen: pd.DataFrame, units: int, seed: int) -> pd.DataFrame:
    """Replace each unit by a random one of its layer; its sign is that of the unit beside it.

    The draw depends on the seed and the image alone, so more images leave it as it is.
    """
    parts = []
    for image, part in chosen.groupby("image", sort=False):
        rng = np.random.default_rng([seed, zlib.crc32(str(image).encode())])
        drawn = random_like(neurons_of(part), units, rng)
        parts.append(part.assign(unit=[neuron.unit for neuron in drawn]))
    return pd.concat(parts, ignore_index=True)


def shares_by_layer(model) -> pd.DataFrame:
    """Return, for each layer, the share of all its units that are interpretable: layer, share."""
    rows = []
    for layer in range(model.sizes.layers):
        units = [Neuron(layer, unit) for unit in range(model.sizes.units)]
        rows.append(
            {"layer": layer, "share": float(np.mean([*interpretable(model, units).values()]))}
        )
    return pd.DataFrame(rows)


def early_share(table: pd.DataFrame, k: int, layers: int) -> pd.Series:
    """Return the share of each photograph's top ``k`` units in the first tenth of the layers."""
    chosen = top(table, k)
    early = chosen["layer"] < max(1, round(layers / 10))
    return early.groupby(chosen["image"], sort=False).mean()


def side_by_side(lists: Mapping[str, pd.DataFrame], k: int, layers: int) -> pd.DataFrame:
    """Return ``early_share`` of each list: a row a photograph, image and a column each way."""
    shares = {way: early_share(table, k, layers) for way, table in lists.items()}
    return pd.DataFrame(shares).rename_axis("image").reset_index()


def generic_rows(
    model, lists: Mapping[str, pd.DataFrame], nouns: Mapping[str, str], k: int, seed: int = 0
) -> pd.DataFrame:
    """Measure what a picture's list writes as it is and without its generic units.

    Rows image, way, share, by the signed reading; ``lists`` must hold more than ``k`` units.
    """
    whole = lists[PICTURE]
    generic = generic_units(whole, k)
    both = {PICTURE: whole, "without_generic": without(whole, generic)}
    return signed_rows(written(model, both, nouns, k, seed).rows)


def generic_table(model, lists: Mapping[str, pd.DataFrame], k: int) -> pd.DataFrame:
    """Describe each generic unit: address, share of lists, share of negative activations, words."""
    whole = top(lists[PICTURE], k)
    rows = []
    for layer, unit, share in generic_units(whole, k).itertuples(index=False):
        own = whole[(whole["layer"] == layer) & (whole["unit"] == unit)]
        neuron = Neuron(int(layer), int(unit))
        negative = float((own["activation"] < 0).mean())
        sign = -1 if negative > 0.5 else 1
        words = decoded_words(model, [(neuron, sign)], WORDS)[neuron, sign]
        rows.append((str(neuron), share, negative, listed(words)))
    return pd.DataFrame(rows, columns=["neuron", "lists", "negative", "words"])


def same_units(first: pd.DataFrame, second: pd.DataFrame, k: int) -> pd.Series:
    """Return, for each photograph of both tables, how many of the top ``k`` units are the same."""
    sets = [
        {image: set(neurons_of(part)) for image, part in top(table, k).groupby("image", sort=False)}
        for table in (first, second)
    ]
    both = [image for image in sets[0] if image in sets[1]]
    return pd.Series({image: len(sets[0][image] & sets[1][image]) for image in both}, dtype=float)


# --- tables ---------------------------------------------------------------------------------


def signed_rows(rows: pd.DataFrame) -> pd.DataFrame:
    """Keep the signed reading of ``Written.rows``: image, way, share."""
    return rows[rows["reading"] == SIGNED].drop(columns="reading").reset_index(drop=True)


def wide(rows: pd.DataFrame, reading: str = SIGNED) -> pd.DataFrame:
    """Lay one reading out: a row for each photograph, a column for each way."""
    some = rows[rows["reading"] == reading]
    return some.pivot(index="image", columns="way", values="share")[
        list(dict.fromkeys(some["way"]))
    ]


def decoding_table(
    rows: pd.DataFrame, names: Callable[[Sequence[str]], list[str]], seed: int = 0
) -> pd.DataFrame:
    """Return the share of top units that write the noun, by way and reading, with intervals."""
    cells = {
        reading: {
            way: format(one, ".1%") for way, one in shares_of(wide(rows, reading), seed).items()
        }
        for reading in READINGS
    }
    table = pd.DataFrame(cells)
    table.insert(0, "units", names(table.index))
    return table.reset_index(drop=True)


def exact_table(
    rows: pd.DataFrame,
    lists: Mapping[str, pd.DataFrame],
    truth: pd.DataFrame,
    k: int,
    names: Callable[[Sequence[str]], list[str]],
    seed: int = 0,
) -> pd.DataFrame:
    """Compare lists with the truth: what writes the noun, and the share of its top each has."""
    found = shares_of(wide(rows), seed)
    same = shares_of({way: same_units(table, truth, k) / k for way, table in lists.items()}, seed)
    return pd.DataFrame(
        [
            {
                "units": names([way])[0],
                "write the noun": format(one, ".1%"),
                f"of the true top {k}": format(same[way], ".0%") if way in same else "",
            }
            for way, one in found.items()
        ]
    )


def tokens_table(rows, system, larger, some: Subjects, said, seed: int = 0) -> pd.DataFrame:
    """Compare two sizes of input: image tokens, units that write the noun, captions that stay.

    ``rows`` of ``signed_rows`` with the ways ``picture`` and ``larger``; ``said`` are the captions
    of ``larger``.
    """
    found = shares_of(rows.pivot(index="image", columns="way", values="share"), seed)
    same = [float(a.text == b.text) for a, b in zip(said, some.captions, strict=True)]
    kept = {PICTURE: "", "larger": format(share_of(same, seed), ".0%")}
    return pd.DataFrame(
        [
            {
                "image tokens": model.image_tokens.count,
                "write the noun": format(found[way], ".1%"),
                "random units": format(found[f"{way}_random"], ".1%"),
                "captions as with the first": kept[way],
            }
            for way, model in ((PICTURE, system), ("larger", larger))
        ]
    )
