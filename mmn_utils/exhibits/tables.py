"""Tables of measured means beside the paper's own."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from mmn_utils.measures.estimates import Estimate

JUDGES = {"bertscore": ("BERTScore", ".4f"), "clipscore": ("CLIPScore", ".2f")}

Measured = Mapping[str, Mapping[str, Estimate]]  # by judge, by kind of text
Printed = Mapping[str, Mapping[str, float]]


def texts_by_judges(measured: Measured, printed: Printed, names: Mapping[str, str]) -> pd.DataFrame:
    """Lay means out with a row for each kind of text and the judges side by side (A, Table 1).

    ``names`` says how the kinds of text are called, in their order.
    """
    rows = []
    for kind, name in names.items():
        row = {"": name}
        for judge, means in measured.items():
            title, spec = JUDGES[judge]
            row[title] = format(means[kind], spec)
            row[f"{title}, paper"] = format(printed[judge][kind], spec)
        rows.append(row)
    return pd.DataFrame(rows)


def judges_by_texts(measured: Measured, printed: Printed, names: Mapping[str, str]) -> pd.DataFrame:
    """Lay means out with two rows for each judge, ours over the paper's (A, Table 2).

    Blank where the paper has no such kind of text.
    """
    rows = []
    for judge, means in measured.items():
        (title, spec), theirs = JUDGES[judge], printed[judge]
        ours = {name: format(means[kind], spec) for kind, name in names.items()}
        paper = {n: format(theirs[k], spec) if k in theirs else "" for k, n in names.items()}
        rows += [{"": title, **ours}, {"": f"{title}, paper", **paper}]
    return pd.DataFrame(rows)
