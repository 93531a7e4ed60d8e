"""Exhibits: figures and tables with their numbers, their claims and their origin.

``notebooks/exhibits.yaml`` is the one list of all exhibits, ``notebooks/texts`` has their words. A
notebook opens a ``Run`` and saves into it by exhibit id; everything lands in ``figures/<run>/``:

    <id>.png <id>.pdf            of a figure
    <id>.csv <id>.tex <id>.md    of a table; of a figure, the means or the like that it draws
    <id>.numbers.csv             the rows beneath, from which every claim can be computed again
    <id>.json                    caption and provenance, or why it is left out
    claims.csv                   what the papers state and what was measured
    versions.csv                 of the libraries, for each notebook
    report.html                  all of it on one page
    notebooks/<name>.html        the executed notebook, where it ran headless

Bytes are deterministic: same numbers, same files. What differs whenever a run is made again, time,
commit, machine, lies in ``build/<run>/provenance/<id>.json``.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd

from mmn_utils.datasets.published import published, published_claim
from mmn_utils.datasets.words import Words
from mmn_utils.exhibits.entries import (
    OF_RUNS,
    Exhibit,
    exhibits_of,
    figures_root,
    load_exhibits,
)
from mmn_utils.exhibits.formats import (
    records,
    to_csv,
    to_json,
    to_latex,
    to_markdown,
    to_png,
    write_figure,
    write_text,
)
from mmn_utils.exhibits.judging import UNTESTED, Judged, read_numbers
from mmn_utils.exhibits.leaving import (
    LeftOut,
    in_this_cell,
    stop_quietly,
    untested_rows,
    why_left_out,
)
from mmn_utils.exhibits.ledger import claims, enter, forget_exhibit, judge_all
from mmn_utils.exhibits.provenance import provenance, record_making
from mmn_utils.exhibits.texts import SAYS, Text, load_texts, render
from mmn_utils.presets import check_run_name, read_parameters
from mmn_utils.values import refuse_unknown

if TYPE_CHECKING:  # who only looks exhibits up needs no matplotlib
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Saved:
    """An exhibit as a notebook shows it: the picture or the table as it lies in the run."""

    id: str
    path: Path
    markdown: str = ""

    def _repr_mimebundle_(self, **_kinds: Any) -> dict[str, Any]:
        if self.markdown:
            return {"text/markdown": self.markdown, "text/plain": self.id}
        return {"image/png": self.path.read_bytes(), "text/plain": self.id}


@dataclass(frozen=True)
class Drawn:
    """A figure that is no exhibit of its own, as a notebook shows it."""

    png: bytes = field(repr=False)

    def _repr_png_(self) -> bytes:
        return self.png


@dataclass(frozen=True)
class Reading:
    """Sentences with numbers in them, shown as Markdown."""

    text: str

    def _repr_markdown_(self) -> str:
        return self.text

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class Judgement:
    """An exhibit's rows as they are stored, the facts that its claims use, and what came out.

    ``without``: of what the run does without, that which keeps a claim untested.
    """

    stored: str
    facts: dict[str, Any]
    claims: dict[str, dict[str, str]]
    without: dict[str, str]


class Run:
    """The exhibits of one preset, as one notebook adds to them.

    What a caption, a claim or a reading says stands in ``notebooks/texts``; the notebook hands over
    the facts. Those given with an exhibit are kept for what is said of it later. The data set's
    nouns are facts too: ``picture``, ``pictures``, ``reference``, ``references``
    (``datasets.words``), photographs with human captions where it gives none. ``without`` is a
    fact, too.
    """

    def __init__(
        self,
        name: str,
        notebook: str | Path,
        parameters: Mapping[str, Any],
        model: Any = None,
        data: Any = None,
        seed: int = 0,
        root: str | Path | None = None,
        exhibits: str | Path | None = None,
        without: Mapping[str, str] | None = None,
    ):
        """Open the run ``name`` for ``notebook``.

        ``parameters`` are recorded as they are; ``model`` and ``data`` by their name and
        revision (``provenance.describe``). ``exhibits`` names another list of exhibits.
        ``without`` says what the run does without (of ``OF_RUNS``), each with the reason:
        exhibits that need it are left out, single claims are not tested.
        """
        self.name = check_run_name(name)
        self.notebook = Path(notebook).stem
        self.parameters = dict(parameters)
        self.model, self.data, self.seed = model, data, seed
        self.folder = Path(root or figures_root()) / name
        self._list = exhibits
        self._texts = load_texts(self.notebook, exhibits)
        self._facts: dict[str, dict[str, Any]] = {}
        self._verdicts: dict[str, Judged] = {}
        self._left_out: dict[str, LeftOut] = {}
        self.without = dict(without or {})
        refuse_unknown(self.without, OF_RUNS, "something that a run may do without")
        self._begun = time.monotonic()
        self._provenance()  # what cannot be recorded is an error now, not after the work

    @classmethod
    def of(
        cls,
        notebook: str,
        names: Mapping[str, Any],
        model: Any = None,
        data: Any = None,
        without: Mapping[str, str] | None = None,
    ) -> Run:
        """Open a run with the values that a notebook's parameters have among ``names``.

        ``names`` are the notebook's ``globals()``; the rest as for the run itself. Figures drawn
        from here on have the house's look.
        """
        from mmn_utils.exhibits import plots  # here, since a look-up must not cost matplotlib

        plots.use_style()
        stop_quietly()
        parameters = {name: names[name] for name in read_parameters(notebook)}
        run = cls(
            parameters["run"],
            notebook,
            parameters,
            model,
            data,
            parameters["seed"],
            without=without,
        )
        if run.caveat:
            print(run.caveat)  # first of all that the notebook shows
        return run

    @property
    def caveat(self) -> str:
        """What the system wants said of its numbers: on the pages, and in each caption."""
        return getattr(self.model, "caveat", "")

    def needs(self, *ids: str, data: Any = None) -> None:
        """Go on where the exhibits of a cell have what they need; else leave them out and end it.

        ``exhibits.yaml`` says what that is. It is asked of the run and of its data set, or of
        ``data`` where an exhibit has photographs of its own. Raises ``LeftOut``, see ``leaving``;
        in a notebook they are left out, too, where the rest of the cell raises ``TooFew``.
        """
        exhibits = [self._check(id) for id in ids]
        for id in ids:
            if id in self._left_out:
                raise self._left_out[id]
        asked = self.data if data is None else data
        found = [why_left_out(one, asked, self.without) for one in exhibits]
        if reason := "; ".join(dict.fromkeys(filter(None, found))):
            self._leave_out(ids, reason)
        in_this_cell(partial(self._leave_out, ids))

    def leave_out(self, id: str, reason: str) -> None:
        """Enter an exhibit as left out, its claims as not tested, and end the cell.

        ``reason`` completes "left out: ", in words for the reader of the page. Raises
        ``LeftOut``.
        """
        self._leave_out([id], reason)

    def _leave_out(self, ids: Sequence[str], reason: str) -> None:
        for id in ids:
            self._check(id)
            claims = self._texts[id].claims if id in self._texts else {}
            forget_exhibit(self.folder, id)
            self._write_record(id, f"Left out: {reason}.", None, {}, left_out=reason)
            enter(self.folder, id, untested_rows(id, claims, reason, self._system))
            record_making(self.folder, id, self.notebook, self.model, self._begun)
            self._verdicts.update(dict.fromkeys(claims, UNTESTED))
            self._left_out[id] = LeftOut(id, reason)
        raise self._left_out[ids[0]]

    def save_figure(
        self,
        id: str,
        fig: Figure,
        numbers: pd.DataFrame,
        caption: str | None = None,
        plotted: pd.DataFrame | None = None,
        paper: pd.DataFrame | None = None,
        **facts: Any,
    ) -> Saved:
        """Write a figure as PNG and PDF, the rows beneath it and its origin; judge its claims.

        Returns what shows it. ``numbers`` are the rows, a case and condition each, by which its
        claims are judged; ``plotted`` what is drawn of them, where that is something else, such
        as means. ``caption`` replaces the one of the texts, which the facts fill; ``paper`` the
        paper's own numbers (``published``).
        """
        exhibit = self._check(id, "figure")
        rows = self._judge(id, numbers, facts)
        caption = self._caption(exhibit, caption, facts)
        png = self.folder / f"{id}.png"
        write_figure(fig, png)
        _close(fig)
        if plotted is not None:
            write_text(self.folder / f"{id}.csv", to_csv(plotted))
        self._write_rest(id, rows, caption, paper)
        return Saved(id, png)

    def save_table(
        self,
        id: str,
        table: pd.DataFrame,
        caption: str | None = None,
        numbers: pd.DataFrame | None = None,
        paper: pd.DataFrame | None = None,
        **facts: Any,
    ) -> Saved:
        """Write a table as CSV, LaTeX and Markdown, its rows and its origin; judge its claims.

        Returns what shows it. ``numbers`` are the rows by which its claims are judged, by default
        the table itself; ``caption`` and ``paper`` as for figures.
        """
        exhibit = self._check(id, "table")
        rows = self._judge(id, table if numbers is None else numbers, facts)
        caption = self._caption(exhibit, caption, facts)
        markdown = to_markdown(table)
        texts = {".csv": to_csv(table), ".md": markdown, ".tex": to_latex(table, caption, id)}
        for suffix, text in texts.items():
            write_text(self.folder / f"{id}{suffix}", text)
        self._write_rest(id, rows, caption, paper)
        return Saved(id, self.folder / f"{id}.csv", markdown)

    def show(self, fig: Figure) -> Drawn:
        """Return what shows a figure without keeping it."""
        png = to_png(fig)
        _close(fig)
        return Drawn(png)

    def say(self, name: str, **facts: Any) -> Reading:
        """Return what the texts read out of the facts, under an exhibit's id or another name.

        In a text, ``verdict("A-fig-6-top")`` is the claim's direction: yes, no, open or not
        tested; ``says("A-fig-6-top")`` the same as a part of a sentence; ``like("A-fig-6-top")``
        says whether its size is the paper's; ``estimate`` gives the measured number with its
        interval, ``paper`` the paper's side.
        """
        if name in self._left_out:
            raise self._left_out[name]
        text = self._text(name)
        if not text.reading:
            raise ValueError(f"{name} has no reading in the texts of {self.notebook}")
        return Reading(render(text.reading, self._known(name, facts), name, markdown=True))

    def claims(self) -> Saved:
        """Return the ledger's rows of this notebook, as a table to be shown."""
        ids = [exhibit.id for exhibit in exhibits_of(self.notebook, self._list)]
        table = claims(self)
        table = table[table["exhibit"].isin(ids)].drop(columns=["id", "paper"])
        return Saved("claims", self.folder / "claims.csv", to_markdown(table))

    def _text(self, name: str) -> Text:
        if name not in self._texts:
            raise ValueError(
                f"{name!r} is not in the texts of {self.notebook}: {list(self._texts)}"
            )
        return self._texts[name]

    def _known(self, name: str, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Return all that a text under this name may use, and keep the facts for the next one."""
        kept = self._facts.setdefault(name, {})
        kept.update(facts)
        return {
            **self.parameters,
            "system": self.model,
            "data": self.data,
            "without": self.without,
            **getattr(self.data, "words", Words()).facts(),
            "verdict": lambda id: self._judged(id).holds.word,
            "says": lambda id: SAYS[self._judged(id).holds.word],
            "like": lambda id: self._judged(id).like.word,
            "estimate": lambda id: self._judged(id).estimate,
            "paper": lambda id: published_claim(id, self._system),
            **kept,
        }

    def _judged(self, id: str) -> Judged:
        if id not in self._verdicts:
            raise ValueError(f"claim {id!r} has no verdict yet; save its exhibit before")
        return self._verdicts[id]

    @property
    def _system(self) -> str | None:
        """The one of paper B's systems that stands beside, where there is one."""
        return self.parameters.get("paper_model")

    def _judge(self, id: str, numbers: pd.DataFrame, facts: Mapping[str, Any]) -> Judgement:
        """Judge an exhibit's claims by its rows as they will be stored."""
        stored, known = to_csv(numbers), self._known(id, facts)
        asked = self._texts[id].claims if id in self._texts else {}
        read = read_numbers(StringIO(stored))
        found = judge_all(id, asked, read, known, self.seed, self._system, self.without)
        self._verdicts.update({name: entry.judged for name, entry in found.items()})
        used = {name: fact for entry in found.values() for name, fact in entry.facts.items()}
        to_json(used)  # what cannot be stored is an error now
        rows = {name: entry.row for name, entry in found.items()}
        needed = {claim.needs for claim in asked.values()}
        lacking = {what: reason for what, reason in self.without.items() if what in needed}
        return Judgement(stored, used, rows, lacking)

    def _check(self, id: str, kind: str | None = None) -> Exhibit:
        known = load_exhibits(self._list)
        if id not in known:
            raise ValueError(f"exhibit {id!r} is not in exhibits.yaml: {', '.join(known)}")
        exhibit = known[id]
        if exhibit.notebook != self.notebook:
            raise ValueError(f"{id} belongs to {exhibit.notebook}, not to {self.notebook}")
        if kind not in (None, exhibit.kind):
            raise ValueError(f"{id} is a {exhibit.kind}; save it with save_{exhibit.kind}")
        return exhibit

    def _caption(self, exhibit: Exhibit, caption: str | None, facts: Mapping[str, Any]) -> str:
        known = self._known(exhibit.id, facts)
        if caption is None:
            caption = render(self._text(exhibit.id).caption, known, f"caption of {exhibit.id}")
        if not caption.strip():
            raise ValueError(f"{exhibit.id} needs a caption")
        return " ".join([*caption.split(), *self.caveat.split()])

    def _provenance(self) -> dict[str, Any]:
        origin = provenance(
            self.notebook,
            self.parameters,
            model=self.model,
            data=self.data,
            seed=self.seed,
        )
        to_json(origin)
        return origin

    def _write_rest(
        self, id: str, rows: Judgement, caption: str, paper: pd.DataFrame | None
    ) -> None:
        write_text(self.folder / f"{id}.numbers.csv", rows.stored)
        more = {"without": rows.without} if rows.without else {}
        self._write_record(id, caption, paper, rows.facts, **more)
        enter(self.folder, id, rows.claims)
        record_making(self.folder, id, self.notebook, self.model, self._begun)

    def _write_record(
        self,
        id: str,
        caption: str,
        paper: pd.DataFrame | None,
        facts: Mapping[str, Any],
        **more: Any,
    ) -> None:
        paper = published(id) if paper is None else paper
        record = {
            "id": id,
            "run": self.name,
            "caption": caption,
            "paper": None if paper is None else records(paper),
            "facts": facts,
            **more,
            **self._provenance(),
        }
        write_text(self.folder / f"{id}.json", to_json(record))


def _close(fig: Figure) -> None:
    """Forget a figure that is drawn, or the notebook would show it a second time."""
    from matplotlib import pyplot as plt  # here, for the same reason as in ``Run.of``

    plt.close(fig)
