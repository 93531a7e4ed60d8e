"""Many edits, tried on the photographs that they were found on and on others.

For the edits of a few concepts every photograph is dealt one of them: that of the source word
in its caption, or, where there is none, one by turns. So a thousand photographs serve ten
concepts at the cost of one. Whether an edit works where it was found takes an edit for each
photograph (``findings.find_on_each``). No photograph counts twice in an interval.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd

from mmn_utils.cache import bar
from mmn_utils.datasets import Photograph
from mmn_utils.datasets.base import TooFew
from mmn_utils.interventions.concept import Concept, word_tokens
from mmn_utils.interventions.drafts import Drafts, captions_now, drafts_of
from mmn_utils.interventions.edit import Edit
from mmn_utils.interventions.editing import Settings
from mmn_utils.interventions.joint import JointSettings
from mmn_utils.measures.estimates import Estimate, share_of
from mmn_utils.neurons.captions import Caption
from mmn_utils.studies.edits.findings import Finding
from mmn_utils.studies.edits.making import by_concept, edits_of
from mmn_utils.studies.edits.outcomes import (
    EDITED,
    MEASURES,
    OTHER,
    SAME,
    Before,
    before_edit,
    judged,
    per_photograph,
)


def deal(before: Before) -> pd.DataFrame:
    """Give each photograph the one concept that it is judged for: some rows of ``before``.

    That of its caption's source word, of several the first; without one, concepts by turns.
    Photographs with a source word in another number only are left out.
    """
    order = {(c.source, c.target): place for place, c in enumerate(before.concepts)}
    kept, turn = [], 0
    for _, rows in before.rows.groupby("image", sort=False):
        rows = rows.sort_values(
            "source", key=lambda s: s.map({a: i for (a, _), i in order.items()})
        )
        spoken = rows[rows["role"].isin([EDITED, SAME])]
        if (spoken["role"] == EDITED).any():
            spoken = spoken[spoken["role"] == EDITED]
        if len(spoken):
            kept.append(spoken.index[0])
        elif (rows["role"] == OTHER).all():
            kept.append(rows.index[turn % len(rows)])
            turn += 1
    return before.rows.loc[kept]


def thinned(rows: pd.DataFrame, n: int) -> pd.DataFrame:
    """Keep up to ``n`` dealt rows: half with a source word, half without; concepts by turns.

    Photographs that a concept's edit was found on are left out.
    """
    halves = []
    for role, count in ((SAME, n - n // 2), (OTHER, n // 2)):
        some = rows[rows["role"] == role]
        turn = some.groupby("source", sort=False).cumcount()
        halves.append(some.loc[turn.sort_values(kind="stable").index].head(count))
    return pd.concat(halves)


@dataclass(frozen=True, eq=False)
class Ground:
    """Where edits are tried: captions before, their drafts, and what each photograph is dealt.

    ``rows`` are those of ``deal``. Captions after start from ``drafts``, which are those before.
    """

    before: Before
    drafts: Drafts
    rows: pd.DataFrame
    batch_size: int

    @classmethod
    def of(
        cls,
        model,
        photographs: Sequence[Photograph],
        findings: Sequence[Finding],
        *,
        max_new_tokens: int = 20,
        batch_size: int = 32,
    ) -> Ground:
        """Caption photographs, and deal each a concept of the findings, which have one each."""
        concepts = [_concept(model, finding) for finding in findings]
        sizes = {"max_new_tokens": max_new_tokens, "batch_size": batch_size}
        before = before_edit(model, photographs, concepts, **sizes, progress=False)
        drafts = drafts_of(model, photographs, before.captions, **sizes)
        return cls(before, drafts, deal(before), batch_size)

    def captions(self, model, edits: Sequence[Edit], images: Sequence[str]) -> list[Caption]:
        """Caption images again, each with the edit that belongs to it put in for it alone."""
        return captions_now(model, self.drafts, images, None, self.batch_size, list(edits))[0]

    def trials(self, model, edits: Sequence[Edit], rows: pd.DataFrame) -> pd.DataFrame:
        """Try an edit on the photograph of each of ``rows``: rows as ``outcomes.evaluate``.

        ``edits[i]`` is put in for row i alone; ``norm`` is the length of its dw in the mean of
        the neurons. ``ValueError`` where the model bears another edit.
        """
        if model.revision != self.drafts.revision:
            raise ValueError(
                f"the drafts are those of revision {self.drafts.revision}, the model is now "
                f"{model.revision}; undo its edits"
            )
        captions, margins = captions_now(
            model, self.drafts, list(rows["image"]), self._asked(rows), self.batch_size, list(edits)
        )
        drafts = zip(self.drafts.images, self.drafts.captions, strict=True)
        said = {image: caption.text for image, caption in drafts}
        texts = (rows["image"].map(said), [caption.text for caption in captions])
        lengths = [float(edit.norms.mean()) for edit in edits]
        return judged(rows, *texts, margins).assign(norm=lengths)

    def _elsewhere(self, n_images: int) -> pd.DataFrame:
        """Return ``thinned`` rows; TooFew where there are none."""
        rows = thinned(self.rows, n_images)
        if rows.empty:
            raise TooFew(
                f"edits were found on each of the {len(self.rows)} photographs, which leaves none "
                "to try them on; take more photographs, or fewer concepts"
            )
        return rows

    def _asked(self, rows: pd.DataFrame) -> list[tuple[int, int, int] | None]:
        """Ask for the logits of target and source at each row's step, where it has one."""
        tokens = {(c.source, c.target): c.tokens[0] for c in self.before.concepts}
        columns = (rows[name] for name in ("source", "target", "step", "token"))
        return [
            (step, tokens[source, target], token) if step >= 0 else None
            for source, target, step, token in zip(*columns, strict=True)
        ]

    def dealt(self, model, edits: Sequence[Edit], rows: pd.DataFrame) -> pd.DataFrame:
        """Try, on each of ``rows``, the edit of its concept: ``trials``."""
        return self.trials(model, _for_rows(edits, rows), rows)

    def compared(
        self,
        model,
        ways: Mapping[str, Settings | JointSettings],
        findings: Sequence[Finding],
        places: Sequence[Finding],
        n_images: int,
        *,
        progress: bool = True,
    ) -> pd.DataFrame:
        """Try several ways of editing on the same photographs: ``trials`` with ``method``.

        On up to ``n_images`` of them (``thinned``): each way's edits of ``findings``, one for
        each concept; and where one of ``places`` lies on a photograph with a source word, also
        an edit found there, as a trial of efficacy. ``TooFew`` where every photograph is one that
        an edit was found on.
        """
        rows, at = self._elsewhere(n_images), {one.photograph.id: one for one in places}
        there = rows[(rows["role"] == SAME) & rows["image"].isin(at)].assign(role=EDITED)
        own, both, parts = [at[image] for image in there["image"]], pd.concat([rows, there]), []
        with bar("ways of editing", len(ways), progress, unit="tried") as shown:
            for name, settings in ways.items():
                made = _for_rows(edits_of(model, findings, settings), rows)
                made += edits_of(model, own, settings, batch_size=self.batch_size)
                parts.append(self.trials(model, made, both).assign(method=name))
                shown.update()
        return pd.concat(parts, ignore_index=True)

    def sweep(
        self,
        model,
        edits: Sequence[Edit],
        *,
        counts: Sequence[int],
        strengths: Sequence[float],
        n_images: int,
    ) -> pd.DataFrame:
        """Try edits of the first so many neurons, times so much: ``trials`` with both.

        On up to ``n_images`` photographs; the columns are ``neurons`` and ``strength``. Errors
        as ``compared``.
        """
        rows, sizes = self._elsewhere(n_images), list(product(counts, strengths))
        cut = [
            edit
            for count, strength in sizes
            for edit in _for_rows([one.first(count).scaled(strength) for one in edits], rows)
        ]
        tried = pd.concat([rows] * len(sizes), ignore_index=True)  # all at once: fuller batches
        columns = {name: np.repeat([size[i] for size in sizes], len(rows))
                   for i, name in enumerate(("neurons", "strength"))}  # fmt: skip
        return self.trials(model, cut, tried).assign(**columns)


def _concept(model, finding: Finding) -> Concept:
    return Concept(*finding.concept, word_tokens(model, finding.word), (finding.photograph.id,))


def _for_rows(edits: Sequence[Edit], rows: pd.DataFrame) -> list[Edit]:
    """Take the edit of each row's concept."""
    known = by_concept(edits)
    return [known[concept] for concept in zip(rows["source"], rows["target"], strict=True)]


# --- measures ---------------------------------------------------------------------------


def measured(table: pd.DataFrame, measure: str, seed: int = 0) -> Estimate | None:
    """Average one of ``outcomes.MEASURES`` over the images it applies to; None without any."""
    column, roles = MEASURES[measure]
    values = per_photograph(table[table["role"].isin(roles)], column)
    return share_of(values, seed) if len(values) else None


def measures(table: pd.DataFrame, seed: int = 0) -> dict[str, Estimate | None]:
    """Average each of ``outcomes.MEASURES``, by its name; see ``measured``."""
    return {measure: measured(table, measure, seed) for measure in MEASURES}


def means(results: pd.DataFrame, summary: pd.DataFrame) -> dict[str, dict[str, float]]:
    """Return the mean of each measure for each way, NaN where it has no images.

    ``results`` as ``Ground.compared``, ``summary`` what ``outcomes.summarise`` makes of them by
    ``method``. ``norm`` is the mean length of dw.
    """
    table = summary.pivot(index="measure", columns="method", values="mean")
    table = table.reindex(index=list(MEASURES), columns=results["method"].unique())
    table.loc["norm"] = results.groupby("method")["norm"].mean()
    return table.to_dict()


def best_way(means: Mapping[str, Mapping[str, float]]) -> tuple[str, float]:
    """Name the way whose generality and locality add up to most, and their sum.

    A way that lacks one of them comes last; the sum is NaN where all do.
    """
    sums = {way: mean["generality"] + mean["locality"] for way, mean in means.items()}
    best = max(sums, key=lambda way: -1.0 if np.isnan(sums[way]) else sums[way])
    return best, sums[best]


@dataclass(frozen=True)
class TradeOff:
    """What a sweep shows of generality against locality.

    ``ends`` are neurons and strength of the smallest and of the largest edit, and
    ``generality`` and ``locality`` their means, NaN without images. ``correlation`` is over
    all settings, NaN for fewer than three. ``best`` is the most generality that comes with
    the locality ``least``, at the setting ``at``; NaN and None where none has it.
    """

    ends: tuple[tuple[int, float], tuple[int, float]]
    generality: tuple[float, float]
    locality: tuple[float, float]
    correlation: float
    least: float
    best: float
    at: tuple[int, float] | None


def trade_off(summary: pd.DataFrame, least: float = 0.95) -> TradeOff:
    """Read a sweep, as ``outcomes.summarise`` averages it by ``neurons`` and ``strength``."""
    points = summary.pivot(index=["neurons", "strength"], columns="measure", values="mean")
    points = points.reindex(columns=["generality", "locality"]).sort_index()
    generality, locality = points["generality"], points["locality"]
    enough = len(points.dropna()) > 2
    good = generality[locality >= least].dropna()
    return TradeOff(
        ends=(points.index[0], points.index[-1]),
        generality=(generality.iloc[0], generality.iloc[-1]),
        locality=(locality.iloc[0], locality.iloc[-1]),
        correlation=generality.corr(locality) if enough else np.nan,
        least=least,
        best=good.max(),
        at=good.idxmax() if len(good) else None,
    )
