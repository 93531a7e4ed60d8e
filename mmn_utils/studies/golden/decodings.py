"""Every reading of "decode", and how much of the printed lists it gives back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import product

import pandas as pd
import torch

from mmn_utils.models.alone import LanguageModelAlone, load_alone
from mmn_utils.neurons.decoding import decode_vectors, write_vectors
from mmn_utils.neurons.table import Neuron
from mmn_utils.studies.golden.printed import PrintedList

ROUNDINGS = {"none": None, "bfloat16": torch.bfloat16}
# What byte-level and sentencepiece tokenizers write for a blank inside a token.
BLANKS = str.maketrans({"\u0120": " ", "\u2581": " "})


@dataclass(frozen=True)
class Setting:
    """One reading: the switches of ``decode``, and how addresses and weights are meant.

    ``vocabulary`` "own" cuts to the system's, "all" takes every row; ``rounding`` is that of the
    weights; layers and units are counted from 0 or from 1.
    """

    decode_norm: str = "none"
    decode_bias: bool = False
    vocabulary: str = "own"
    rounding: str = "none"
    layers_from: int = 0
    units_from: int = 0

    def __str__(self) -> str:
        return ", ".join(f"{name} = {value}" for name, value in asdict(self).items())


@dataclass(frozen=True)
class Result:
    """What the settings give: ``table`` with a row for each, the best first, and the lists.

    ``lists`` {setting: {printed list: decoded tokens}}, None where there is no such neuron.
    """

    table: pd.DataFrame
    lists: dict[Setting, dict[PrintedList, list[str] | None]]

    @property
    def best(self) -> list[Setting]:
        """The settings that give the most back, all that do."""
        columns = ["lists", "share"]
        top = self.table[columns].iloc[0]
        same = (self.table[columns] == top).all(axis=1)
        return [setting for setting, best in zip(self.lists, same, strict=True) if best]


def try_settings(system: str, printed: Sequence[PrintedList], **parts) -> Result:
    """Decode the printed neurons under every setting, and count what comes out as printed.

    ``parts`` as ``load_alone``. The table has the settings' fields and ``lists``, printed token
    for token in their order, ``any_order``, with the same tokens, ``share`` of all printed tokens
    that are among as many decoded ones, and ``absent``, neurons that the system has not.
    """
    lists: dict[Setting, dict[PrintedList, list[str] | None]] = {}
    rows = []
    for rounding, kind in ROUNDINGS.items():
        model = load_alone(system, rounding=kind, **parts)
        every = model.with_rows(None)  # names the tokens of all rows
        for setting, found in _decoded(model, every, printed, rounding):
            rows.append({**asdict(setting), **_counts(every, found)})
            lists[setting] = {
                one: ids and [every.token_strings[token] for token in ids]
                for one, ids in found.items()
            }
    # Stable: of settings that give the same back, the papers' own reading comes first.
    table = pd.DataFrame(rows).sort_values(
        ["lists", "any_order", "share"], ascending=False, kind="stable"
    )
    settings = list(lists)
    ordered = {settings[place]: lists[settings[place]] for place in table.index}
    return Result(table.reset_index(drop=True), ordered)


def _decoded(
    model: LanguageModelAlone,
    every: LanguageModelAlone,
    printed: Sequence[PrintedList],
    rounding: str,
) -> Iterable[tuple[Setting, dict[PrintedList, list[int] | None]]]:
    """Decode under the settings of one rounding: token ids of each list that has a neuron."""
    most = max(len(one.tokens) for one in printed)
    biases = (False, True) if model.unembedding[1] is not None else (False,)
    vocabularies = {"own": model, "all": every}
    if every.sizes == model.sizes:
        del vocabularies["all"]
    for layers_from, units_from in product((0, 1), repeat=2):
        there = {one: meant(one.neuron, model, layers_from, units_from) for one in printed}
        known = [one for one, neuron in there.items() if neuron is not None]
        vectors = write_vectors(model, [there[one] for one in known])
        for (name, over), norm, bias in product(vocabularies.items(), ("none", "final"), biases):
            ids = decode_vectors(over, vectors, most, norm, bias)[0].tolist()
            setting = Setting(norm, bias, name, rounding, layers_from, units_from)
            yield setting, {**dict.fromkeys(printed), **dict(zip(known, ids, strict=True))}


def meant(neuron: Neuron, model, layers_from: int, units_from: int) -> Neuron | None:
    """Return the neuron that an address means, or None where the model has no such one."""
    layer, unit = neuron.layer - layers_from, neuron.unit - units_from
    inside = 0 <= layer < model.sizes.layers and 0 <= unit < model.sizes.units
    return Neuron(layer, unit) if inside else None


def spellings(model, token: int, blanks: bool) -> set[str]:
    """Return how a token may be printed: as text, or as the tokenizer stores it.

    Paper A prints the stored form: tokens outside ASCII as the letters that stand for their bytes.
    """
    stored = model.tokenizer.convert_ids_to_tokens(token) if token < len(model.tokenizer) else ""
    forms = {model.token_strings[token], (stored or "").translate(BLANKS)}
    return forms if blanks else {form.strip() for form in forms}


def _counts(model, found: dict[PrintedList, list[int] | None]) -> dict[str, float]:
    """Count what was printed among what was decoded."""
    same = any_order = hits = 0
    for one, ids in found.items():
        forms = [spellings(model, token, one.blanks) for token in (ids or [])[: len(one.tokens)]]
        same += len(forms) > 0 and all(map(set.__contains__, forms, one.tokens))
        here = matched(one.tokens, forms)
        any_order += here == len(one.tokens)
        hits += here
    total = sum(len(one.tokens) for one in found)
    absent = sum(ids is None for ids in found.values())
    return {"lists": same, "any_order": any_order, "share": hits / total, "absent": absent}


def matched(tokens: Sequence[str], forms: Sequence[set[str]]) -> int:
    """Count the printed tokens that are among decoded ones, each decoded one taken once."""
    left, count = list(forms), 0
    for text in tokens:
        place = next((i for i, form in enumerate(left) if text in form), None)
        if place is not None:
            left.pop(place)
            count += 1
    return count
