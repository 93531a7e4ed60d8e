"""Claims of the papers against the choices that these leave open: what turns a conclusion?

``data/switches/<preset>.csv`` has a row for each switch, setting and claim (``make switches``),
those of the defaults under the switch ``default``, which alone have the statement; and how much of
the lists of top units is left, as the claims ``overlap-20`` and ``overlap-100``. A setting that
could not be had, or was not run, has the reason in ``why``. A claim without a row under a setting
is one whose notebook the setting does not concern, so that it stays what it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pandas as pd

from mmn_utils.datasets.published import GATE
from mmn_utils.exhibits.judging import NO, OPEN, YES
from mmn_utils.exhibits.ledger import VERDICTS
from mmn_utils.presets import data_path

COLUMNS = ["switch", "setting", "claim", "holds", "value", "ci_low", "ci_high", "n"]
COLUMNS += ["statement", "why"]
NUMBERS = ["value", "ci_low", "ci_high", "n"]
OVERLAP = "overlap-"
DEFAULT = "default"
NOT_RUN = "not run"  # why a setting has no verdict, where nothing else stands in the way
TESTED = (YES, NO, OPEN)
FEW = 6  # statements that one sentence lists
FIGURE = "figures/miniature/C-switches.png"
# Switches beneath the papers' choices: how numbers are kept and summed.
NUMERICS = ("dtype", "attention", "batch", "threads")


def table_path(preset: str, root: str | Path | None = None) -> Path:
    """Return where the table of a preset lies."""
    return Path(root or data_path("switches")) / f"{preset}.csv"


@dataclass(frozen=True, eq=False)
class Verdicts:
    """One preset's table: its rows as ``read`` checked them."""

    preset: str
    rows: pd.DataFrame

    @cached_property
    def default(self) -> pd.Series:
        """The verdict on each claim by default, in the table's order."""
        rows = self.rows[self.rows["switch"] == DEFAULT]
        return rows.set_index("claim")["holds"]

    def statement(self, claim: str) -> str:
        """Return what a claim states; of one that is judged by the gate alone, says so."""
        rows = self.rows[(self.rows["switch"] == DEFAULT) & (self.rows["claim"] == claim)]
        stated = rows["statement"].iloc[0].rstrip(".")
        return f"{stated} (by the gate)." if claim.endswith(GATE) else f"{stated}."

    @cached_property
    def judged(self) -> pd.DataFrame:
        """The rows of claims under a setting, with the default's verdict as ``before``.

        ``turned`` where the two differ, and both were tested.
        """
        rows = self.rows[(self.rows["switch"] != DEFAULT) & (self.rows["holds"] != "")]
        rows = rows.assign(before=rows["claim"].map(self.default))
        both = rows["holds"].isin(TESTED) & rows["before"].isin(TESTED)
        return rows.assign(turned=both & (rows["holds"] != rows["before"]))

    @cached_property
    def overlaps(self) -> pd.DataFrame:
        """The rows that compare lists: switch, setting, k, value, ci_low, ci_high, n."""
        rows = self.rows[self.rows["claim"].str.startswith(OVERLAP)]
        return rows.assign(k=rows["claim"].str.removeprefix(OVERLAP).astype(int))

    @cached_property
    def absent(self) -> pd.DataFrame:
        """The settings, or single claims under one, that were not judged: with the reason, why."""
        return self.rows[self.rows["why"] != ""]

    @property
    def waiting(self) -> pd.DataFrame:
        """The rows of settings that could be judged, but were not run."""
        return self.absent[self.absent["why"] == NOT_RUN]

    @cached_property
    def matrix(self) -> pd.DataFrame:
        """Verdicts, a row for each claim and a column for each (switch, setting).

        The default first; empty where a setting does not concern a claim, or was not judged.
        """
        kept = self.rows[~self.rows["claim"].str.startswith(OVERLAP) & (self.rows["claim"] != "")]
        settings = [*dict.fromkeys(zip(kept["switch"], kept["setting"], strict=True))]
        table = pd.DataFrame("", index=list(self.default.index), columns=_pairs(settings))
        for row in kept.itertuples():
            table.loc[row.claim, (row.switch, row.setting)] = row.holds
        return table

    @property
    def decided(self) -> list[str]:
        """The claims that hold, or do not, by default."""
        return list(self.default.index[self.default.isin((YES, NO))])

    @cached_property
    def turns(self) -> dict[str, list[tuple[str, str, str]]]:
        """The settings that turn each claim, as (switch, setting, verdict); none for most."""
        found: dict[str, list[tuple[str, str, str]]] = {claim: [] for claim in self.default.index}
        for row in self.judged[self.judged["turned"]].itertuples():
            found[row.claim].append((row.switch, row.setting, row.holds))
        return found

    @property
    def tried(self) -> list[str]:
        """The decided claims that some setting judges again."""
        seen = set(self.judged.loc[self.judged["holds"].isin(TESTED), "claim"])
        return [claim for claim in self.decided if claim in seen]

    @property
    def unturned(self) -> list[str]:
        """The claims of ``tried`` that no setting turns."""
        return [claim for claim in self.tried if not self.turns[claim]]

    @cached_property
    def by_setting(self) -> pd.DataFrame:
        """How many claims each setting judged, turned and reversed (from yes to no, or back)."""
        tested = self.judged[self.judged["holds"].isin(TESTED) & self.judged["before"].isin(TESTED)]
        reversed_ = tested["turned"] & (tested["holds"] != OPEN) & (tested["before"] != OPEN)
        counted = tested.assign(judged=1, reversed=reversed_).groupby(
            ["switch", "setting"], sort=False
        )[["judged", "turned", "reversed"]]
        return counted.sum().astype(int).reset_index()

    def most(self) -> dict[str, int]:
        """Return the settings that turn most claims, with how many; none where nothing turns."""
        found = self.by_setting
        largest = int(found["turned"].max()) if len(found) else 0
        rows = found[(found["turned"] == largest) & (largest > 0)]
        return {said(row.switch, row.setting): largest for row in rows.itertuples()}


def _pairs(settings: Iterable[tuple[str, str]]) -> pd.MultiIndex:
    return pd.MultiIndex.from_tuples(list(settings), names=["switch", "setting"])


def read(preset: str, root: str | Path | None = None) -> Verdicts:
    """Read the table of a preset.

    ValueError where there is none, with how to make it, for other columns, for an unknown verdict,
    for a claim that is there twice, and for one that was not judged by default.
    """
    path = table_path(preset, root)
    if not path.is_file():
        raise ValueError(f"{path} is not there; make it with 'make switches PRESET={preset}'")
    rows = pd.read_csv(path, dtype=str, keep_default_na=False)
    if list(rows.columns) != COLUMNS:
        raise ValueError(f"{path} has the columns {list(rows.columns)}, not {COLUMNS}")
    for name in NUMBERS:
        rows[name] = pd.to_numeric(rows[name].where(rows[name] != "")).astype(float)
    _check(rows, path)
    return Verdicts(preset, rows)


def _check(rows: pd.DataFrame, path: Path) -> None:
    strange = sorted(set(rows["holds"]) - {*VERDICTS, ""})
    if strange:
        raise ValueError(f"{path}: {strange[0]!r} is no verdict; known are {', '.join(VERDICTS)}")
    keys = rows[["switch", "setting", "claim"]]
    if (twice := keys[keys.duplicated()]).size:
        raise ValueError(f"{path}: {' '.join(twice.iloc[0])} is there twice")
    known = set(rows.loc[rows["switch"] == DEFAULT, "claim"])
    if not known:
        raise ValueError(f"{path} has no rows of the switch {DEFAULT!r}, to compare with")
    claims = rows.loc[~rows["claim"].str.startswith(OVERLAP) & (rows["claim"] != ""), "claim"]
    if unknown := sorted(set(claims) - known):
        raise ValueError(f"{path}: {unknown[0]} was not judged by default")


def there(root: str | Path | None = None) -> list[str]:
    """List the presets that have a table."""
    return sorted(path.stem for path in Path(root or data_path("switches")).glob("*.csv"))


# --- words ------------------------------------------------------------------------------------


def said(switch: str, setting: str) -> str:
    """Name a setting as texts do."""
    return f"{switch}: {setting}" if setting else switch


def turned_table(tables: Iterable[Verdicts]) -> pd.DataFrame:
    """List the claims that a setting turns: paper, claim, statement, by default, turned by."""
    rows = []
    for table in tables:
        for claim, found in table.turns.items():
            if not found:
                continue
            by = "; ".join(f"{said(*pair)} ({verdict})" for *pair, verdict in found)
            cells = (claim, table.statement(claim), table.default[claim], by)
            rows.append(cells)
    return pd.DataFrame(rows, columns=["claim", "statement", "by default", "turned by"])


def overlap_table(tables: Iterable[Verdicts]) -> pd.DataFrame:
    """Lay the overlaps out: preset, switch, a column for each k with its interval, pictures."""
    rows = []
    for table in tables:
        for (switch, setting), part in table.overlaps.groupby(["switch", "setting"], sort=False):
            cells = {"preset": table.preset, "switch": said(switch, setting)}
            for row in part.itertuples():
                cells[f"top {row.k}"] = _share(row.value, row.ci_low, row.ci_high)
            rows.append({**cells, "pictures": int(part["n"].iloc[0])})
    return pd.DataFrame(rows)


def overlap_rows(tables: Iterable[Verdicts]) -> pd.DataFrame:
    """Return the rows beneath ``overlap_table``: preset, switch, setting, k and the estimate."""
    parts = [one.overlaps.assign(preset=one.preset) for one in tables]
    return pd.concat(parts, ignore_index=True)[["preset", "switch", "setting", "k", *NUMBERS]]


def least_overlaps(tables: Iterable[Verdicts], k: int = 20) -> list[dict[str, object]]:
    """Name, for each preset and kind of switch, the setting that leaves least of the first k units.

    Keys preset, kind, setting, share, and ``alike``, the settings whose intervals meet that one's;
    nothing of a kind that compares no lists.
    """
    rows = overlap_rows(tables)
    rows = rows[rows["k"] == k].assign(kind=lambda some: some["switch"].map(kind_of))
    found, ordered = [], rows.sort_values("value", kind="stable")
    for (preset, kind), some in ordered.groupby(["preset", "kind"]):
        least, *others = some.itertuples()
        alike = [said(one.switch, one.setting) for one in others if one.ci_low <= least.ci_high]
        names = {"preset": preset, "kind": kind, "setting": said(least.switch, least.setting)}
        found.append({**names, "share": least.value, "alike": _listed(alike) if alike else ""})
    return found


def reversed_rows(tables: Iterable[Verdicts]) -> list[dict[str, str]]:
    """List the claims that are turned round, from yes to no or back: statement, before, by, holds.

    The settings that turn a claim the same way are joined in ``by``.
    """
    found: dict[tuple[str, str, str], list[str]] = {}
    for table in tables:
        rows = table.judged[table.judged["turned"]]
        rows = rows[(rows["holds"] != OPEN) & (rows["before"] != OPEN)]
        for row in rows.itertuples():
            key = (table.statement(row.claim), row.before, row.holds)
            found.setdefault(key, []).append(said(row.switch, row.setting))
    names = ("statement", "before", "holds")
    return [dict(zip(names, key, strict=True)) | {"by": _listed(by)} for key, by in found.items()]


def _share(value: float, low: float, high: float) -> str:
    return f"{value:.1%} [{low:.1%}, {high:.1%}]"


def numbers(tables: Iterable[Verdicts]) -> pd.DataFrame:
    """Return the rows beneath the figure: a verdict each, with what it was by default.

    Columns preset, kind (choice, or numerics, or default), switch, setting, claim, holds, before,
    value, ci_low, ci_high, n; ``decided`` where it holds, or does not, by default; ``turned``,
    ``same``.
    """
    parts = []
    for table in tables:
        usual = table.rows[table.rows["switch"] == DEFAULT]
        usual = usual.assign(before=usual["holds"], turned=False)
        rows = pd.concat([usual, table.judged], ignore_index=True).assign(preset=table.preset)
        parts.append(rows[rows["holds"].isin(TESTED) & rows["before"].isin(TESTED)])
    every = pd.concat(parts, ignore_index=True)
    kinds = [DEFAULT if one == DEFAULT else kind_of(one) for one in every["switch"]]
    marks = {"turned": every["turned"].astype(int), "same": (~every["turned"]).astype(int)}
    decided = every["before"].isin((YES, NO)).astype(int)
    every = every.assign(kind=kinds, decided=decided, **marks)
    columns = ["preset", "kind", "switch", "setting", "claim", "holds", "before", *NUMBERS]
    return every[[*columns, "decided", "turned", "same"]]


def kind_of(switch: str) -> str:
    """Say whether a switch is one of the numerics, or a choice that the papers leave open."""
    return "numerics" if switch in NUMERICS else "choice"


def told(tables: Iterable[Verdicts]) -> Mapping[str, object]:
    """Return what can be read out of the tables: what was tried, what nothing turns, what turns.

    ``counted`` has a row for each preset and setting; ``by_numerics`` and ``by_choices`` count the
    verdicts that either turns.
    """
    tables = list(tables)
    counted = pd.concat([one.by_setting.assign(preset=one.preset) for one in tables])
    numerics = counted["switch"].isin(NUMERICS)
    return {
        "tried": {one.preset: one.tried for one in tables},
        "unturned": {one.preset: one.unturned for one in tables},
        "most": {one.preset: one.most() for one in tables},
        "counted": counted,
        "by_numerics": int(counted.loc[numerics, "turned"].sum()),
        "by_choices": int(counted.loc[~numerics, "turned"].sum()),
        "absent": {one.preset: one.absent for one in tables if len(one.absent)},
    }


def sentence(root: str | Path | None = None) -> str:
    """Say in one sentence which conclusions no switch turns, as Markdown; of none, how to ask."""
    tables = [read(preset, root) for preset in there(root)]
    if not tables:
        return "`make switches` says which conclusions no switch turns.\n"
    judged = [claim for one in tables for claim in one.tried]
    turned = [one.statement(id) for one in tables for id in one.tried if one.turns[id]]
    settings = {said(*pair) for one in tables for pair in _settings(one)}
    runs = _listed([f"`{one.preset}`" for one in tables])
    text = (
        f"Of {len(judged)} statements of the papers that hold, or do not, on {runs}, "
        f"**{len(judged) - len(turned)} come out the same under every setting that concerns "
        "them**, "
        f"of {len(settings)} settings of what the papers leave open and of the numerics beneath"
    )
    waiting = {said(row.switch, row.setting) for one in tables for row in one.waiting.itertuples()}
    if waiting - settings:
        text += f" ({len(waiting - settings)} more are yet to be run)"
    if 0 < len(turned) <= FEW:
        text += f", all but: {' '.join(turned)}"
    return f"{text.rstrip('.')} ([which]({FIGURE})).\n"


def _settings(table: Verdicts) -> list[tuple[str, str]]:
    rows = table.by_setting
    return list(zip(rows["switch"], rows["setting"], strict=True))


def _listed(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"

