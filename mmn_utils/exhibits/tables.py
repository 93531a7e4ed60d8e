"""Tables of measured means beside the paper's own, with the numbers behind them."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from mmn_utils.measures.estimates import Estimate

JUDGES = {"bertscore": ("BERTScore", ".4f"), "clipscore": ("CLIPScore", ".2f")}

Measured = Mapping[str, Mapping[str, Estimate]]  # by judge, by kind of text
Printed = Mapping[str, Mapping[str, float]]


def texts_by_judges(
    measured: Measured, printed: Printed, names: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lay means out with a row for each kind of text and the judges side by side (A, Table 1).

    ``names`` says how the kinds of text are called, in their order. Returns the table and its
    numbers: text, judge, mean, low, high, n.
    """
    rows, numbers = [], []
    for kind, name in names.items():
        row = {"": name}
        for judge, means in measured.items():
            title, spec = JUDGES[judge]
            row[title] = format(means[kind], spec)
            row[f"{title}, paper"] = format(printed[judge][kind], spec)
            numbers.append({"text": name, "judge": judge, **vars(means[kind])})
        rows.append(row)
    return pd.DataFrame(rows), _means(numbers)


def judges_by_texts(
    measured: Measured, printed: Printed, names: Mapping[str, str]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Lay means out with two rows for each judge, ours over the paper's (A, Table 2).

    Blank where the paper has no such kind of text. Returns the table and its numbers: judge,
    text, mean, low, high, n.
    """
    rows, numbers = [], []
    for judge, means in measured.items():
        (title, spec), theirs = JUDGES[judge], printed[judge]
        ours = {name: format(means[kind], spec) for kind, name in names.items()}
        paper = {n: format(theirs[k], spec) if k in theirs else "" for k, n in names.items()}
        rows += [{"": title, **ours}, {"": f"{title}, paper", **paper}]
        numbers += [{"judge": title, "text": n, **vars(means[k])} for k, n in names.items()]
    return pd.DataFrame(rows), _means(numbers)


def _means(rows: list[dict]) -> pd.DataFrame:
    return pd.DataFrame(rows).rename(columns={"value": "mean"})
