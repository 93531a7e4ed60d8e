"""Do neurons write the concept they were found for? Semantic sensitivity of several methods.

Paper B, section 2.4 and Table 3: the top 10 neurons of a concept, each decoded to its top
10 tokens, compared with the concept's word by BERTScore, MoverScore and BLEURT; the mean
over concepts, then over images. How ten tokens of ten neurons become one number the paper
leaves open; every choice is a parameter here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from mmn_utils.measures.bertscore import bertscore, bertscore_identifier
from mmn_utils.measures.bleurt import bleurt as bleurt_of
from mmn_utils.measures.moverscore import moverscore, moverscore_identifier
from mmn_utils.neurons.decoding import decoded_words, signs_of
from mmn_utils.neurons.table import Neuron, address, neuron_table, top_k
from mmn_utils.studies.agreement import listed

METRICS = ("bertscore", "moverscore", "bleurt")
COMPARE = ("tokens", "joined")
OVER = ("mean", "max")
BLANK = ("own", "zero", "leave_out")
CONCEPT = ["image", "noun"]


@dataclass(frozen=True)
class Sensitivity:
    """One value for each (image, noun, method, metric), and where the numbers come from.

    ``values`` has the columns image, noun, method, metric, value (float64; NaN where
    blanks were left out and nothing else was there). ``notes`` says for each metric what
    fixes its numbers, or why it was not tested and has no rows.
    """

    values: pd.DataFrame
    notes: dict[str, str]

    def by_image(self, metric: str) -> pd.DataFrame:
        """Average over each image's concepts: one row an image, one column a method.

        What ``estimates.mean_of`` and ``difference_of`` take. ValueError for a metric
        that has no values.
        """
        chosen = self.values[self.values["metric"] == metric]
        if chosen.empty:
            raise ValueError(f"{metric!r} has no values: {self.notes.get(metric, 'not asked for')}")
        wide = chosen.groupby(["image", "method"], sort=False)["value"].mean().unstack()
        return wide.loc[chosen["image"].unique(), chosen["method"].unique()]


# --- what the neurons write --------------------------------------------------------------


def top_words(
    model,
    tables: Mapping[str, pd.DataFrame],
    *,
    neurons: int = 10,
    tokens: int = 10,
    signed: bool = True,
    decode_norm: str = "none",
    decode_bias: bool = False,
) -> pd.DataFrame:
    """Decode the top neurons of each concept by each method (paper B, Table 2).

    ``tables``: a neuron table for each method, all with the same images and nouns, as
    from ``methods.by_methods``. One row for each (image, noun, method, rank from 0): neuron
    (its address), score, sign, words (list of ``tokens`` texts, most probable first, with
    their leading blanks). A neuron counts once for a concept, with its highest score.

    A neuron whose activation is negative where it scored wrote the opposite of its write
    vector there, and is decoded so (sign -1). With ``signed`` False every neuron is decoded
    along its write vector (sign 1), as printed. Each distinct (neuron, sign) is decoded once.
    ValueError where the concepts of two methods differ, one has too few neurons, or a neuron
    to be signed has no activation.
    """
    top = _top(tables, neurons)
    top["sign"] = signs_of(top["activation"]) if signed else 1
    found = [Neuron(layer, unit) for layer, unit in zip(top["layer"], top["unit"], strict=True)]
    keys = list(zip(found, top["sign"].tolist(), strict=True))
    words = decoded_words(model, keys, tokens, decode_norm, decode_bias)
    top["neuron"] = [address(model, neuron) for neuron in found]
    top["words"] = [words[key] for key in keys]
    return top[[*CONCEPT, "method", "rank", "neuron", "score", "sign", "words"]]


def _top(tables: Mapping[str, pd.DataFrame], neurons: int) -> pd.DataFrame:
    """Gather each concept's top neurons of every method, rank from 0."""
    if not tables:
        raise ValueError("no neuron tables; give one for each method")
    parts = {}
    for method, table in tables.items():
        once = neuron_table(table).drop_duplicates(["image", "target", "layer", "unit"])
        part = top_k(once, neurons).rename(columns={"target": "noun"})
        part["rank"] = part.groupby(CONCEPT, sort=False).cumcount()
        parts[method] = part
    _check_concepts(parts, neurons)
    return pd.concat(parts, names=["method"]).reset_index("method").reset_index(drop=True)


def _check_concepts(parts: Mapping[str, pd.DataFrame], neurons: int) -> None:
    """Raise ``ValueError`` unless all methods have all neurons of the same concepts."""
    sizes = {method: part.groupby(CONCEPT, sort=False).size() for method, part in parts.items()}
    first, expected = next(iter(sizes.items()))
    for method, size in sizes.items():
        differ = set(size.index) ^ set(expected.index)
        if differ:
            raise ValueError(
                f"only one of {first!r} and {method!r} has the concept {min(differ)}: score the "
                "same targets by every method"
            )
        if (size < neurons).any():
            raise ValueError(
                f"{method!r} has {size.min()} neurons for {size.idxmin()}, {neurons} are asked "
                "for: score with a larger k"
            )


# --- how near that is to the concept -------------------------------------------------------


def sensitivity(
    words: pd.DataFrame,
    *,
    metrics: Sequence[str] = METRICS,
    compare: str = "tokens",
    over_tokens: str = "mean",
    over_neurons: str = "mean",
    blank: str = "own",
    encoder: str | Path | None = None,
    layer: int | None = None,
    bleurt: str | Path | None = None,
) -> Sensitivity:
    """Compare what neurons write with the concept they were found for (paper B, Table 3).

    ``words`` as from :func:`top_words`. ``compare`` ``tokens``: each token by itself with
    the concept's word, then their ``over_tokens`` (``mean`` or ``max``) for the neuron;
    ``joined``: the neuron's tokens as one text, comma-separated without the blank ones.
    ``over_neurons`` (``mean`` or ``max``) makes one value of a concept's neurons.

    ``blank`` is for tokens, or joined texts, of white space alone: ``own`` leaves them to
    the metric (0 for BERTScore and MoverScore, what the checkpoint says for BLEURT),
    ``zero`` counts them as 0 everywhere, ``leave_out`` does not count them. ``encoder``
    and ``layer`` are BERTScore's and MoverScore's, ``bleurt`` is a checkpoint; without
    one BLEURT is not tested. Each distinct (concept, text) is scored once a metric.
    ValueError for other choices.
    """
    _check_choices(metrics, compare, over_tokens, over_neurons, blank)
    texts = _texts(words, compare)
    pairs = texts[["noun", "text"]].drop_duplicates(ignore_index=True)
    values, notes = [], {}
    for metric in metrics:
        scores, notes[metric] = _SCORERS[metric](pairs, encoder, layer, bleurt)
        if scores is None:
            continue
        scores = _with_blanks(pairs["text"], scores, blank)
        each = texts.merge(pairs.assign(value=scores), on=["noun", "text"], validate="many_to_one")
        values.append(_reduced(each, over_tokens, over_neurons).assign(metric=metric))
    columns = [*CONCEPT, "method", "metric", "value"]
    table = pd.concat(values, ignore_index=True) if values else pd.DataFrame(columns=columns)
    return Sensitivity(table[columns], notes)


def _check_choices(
    metrics: Sequence[str], compare: str, over_tokens: str, over_neurons: str, blank: str
) -> None:
    for name, value, choices in (
        *(("metrics", metric, METRICS) for metric in metrics),
        ("compare", compare, COMPARE),
        ("over_tokens", over_tokens, OVER),
        ("over_neurons", over_neurons, OVER),
        ("blank", blank, BLANK),
    ):
        if value not in choices:
            raise ValueError(f"{name}={value!r}: choose from {', '.join(choices)}")


def _texts(words: pd.DataFrame, compare: str) -> pd.DataFrame:
    """Lay out the texts to compare: image, noun, method, rank, text."""
    lists = words["words"].map(lambda tokens: [token.strip() for token in tokens])
    if compare == "joined":
        lists = lists.map(lambda tokens: [listed(filter(None, tokens))])
    texts = words[[*CONCEPT, "method", "rank"]].assign(text=lists)
    return texts.explode("text", ignore_index=True)


def _with_blanks(texts: pd.Series, scores: np.ndarray, blank: str) -> np.ndarray:
    instead = {"own": scores, "zero": 0.0, "leave_out": np.nan}[blank]
    return np.where(texts == "", instead, scores)


def _reduced(each: pd.DataFrame, over_tokens: str, over_neurons: str) -> pd.DataFrame:
    """Make one value of the tokens of a neuron, and of the neurons of a concept."""
    concept = [*CONCEPT, "method"]
    neurons = each.groupby([*concept, "rank"], sort=False)["value"].agg(over_tokens)
    return neurons.groupby(concept, sort=False).agg(over_neurons).reset_index()


def _by_bertscore(pairs: pd.DataFrame, encoder, layer, _) -> tuple[np.ndarray, str]:
    return bertscore(*_aligned(pairs), encoder, layer), bertscore_identifier(encoder, layer)


def _by_moverscore(pairs: pd.DataFrame, encoder, layer, _) -> tuple[np.ndarray, str]:
    return moverscore(*_aligned(pairs), encoder, layer), moverscore_identifier(encoder, layer)


def _by_bleurt(pairs: pd.DataFrame, _, __, checkpoint) -> tuple[np.ndarray | None, str]:
    result = bleurt_of(*_aligned(pairs), checkpoint)
    return result.scores, result.note


def _aligned(pairs: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Return texts as candidates, each with its concept as the only reference."""
    return pairs["text"].tolist(), [[noun] for noun in pairs["noun"]]


_SCORERS: dict[str, Callable] = {
    "bertscore": _by_bertscore,
    "moverscore": _by_moverscore,
    "bleurt": _by_bleurt,
}
