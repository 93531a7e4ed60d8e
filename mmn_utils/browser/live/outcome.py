"""What a picture says without the interventions stacked on a system, and with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from mmn_utils.browser.live.stack import Intervention, Ready, applied, make_ready, receipt_rows
from mmn_utils.browser.live.system import System
from mmn_utils.browser.live.work import Job, watched
from mmn_utils.interventions.receipts import weights_hash
from mmn_utils.neurons.targets import Target


@dataclass(frozen=True)
class Said:
    """A picture's caption, and the probability of a noun at its step, if one was asked for."""

    caption: str
    probability: float | None


@dataclass(frozen=True)
class Outcome:
    """What a picture says before and after; ``changed`` is of the captions.

    ``receipt`` has a name and a text for each thing that was touched, and hashes of weights.
    """

    image: str
    noun: str | None
    before: Said
    after: Said
    changed: bool
    receipt: list[list[str]]


class Stack:
    """Interventions on a system, which are on it only while an outcome is computed.

    ``target`` makes a target of an image's id and a noun. For one thread at a time; while it
    computes no other has the system. What cannot be applied, or is cancelled meanwhile, is
    not kept; ``undo`` and ``remove`` hold even where the outcome of what is left cannot be
    computed, and then there is none.
    """

    def __init__(self, system: System, target: Callable[[str, str], Target]) -> None:
        self.system, self._target = system, target
        self.entries: tuple[Ready, ...] = ()
        self.outcome: Outcome | None = None
        self._history: list[tuple[Ready, ...]] = []
        self._number = 0
        self._seen: tuple[str, str | None] | None = None
        self._hashes: dict[tuple[int, ...], str] = {}
        self._probabilities: dict[Target, float] = {}

    def apply(
        self, asked: Intervention, image: str, noun: str | None = None, job: Job | None = None
    ) -> Outcome:
        """Put an intervention on top, an edit found on this picture; errors as ``make_ready``."""
        system = self.system
        with system.lock, torch.no_grad(), watched(system.model, job):
            self._expect(job, image)
            target = self._target(image, noun) if noun else None
            ready = make_ready(system, self._number + 1, asked, image, target)
            outcome = self._compute((*self.entries, ready), image, noun)
        self._number += 1
        self._become((*self.entries, ready), outcome)
        return outcome

    def undo(self, job: Job | None = None) -> Outcome | None:
        """Make the stack what it was before its last change; ValueError for none."""
        if not self._history:
            raise ValueError("there is nothing to undo")
        self.entries, self.outcome = self._history.pop(), None
        self.outcome = self._now(job)
        return self.outcome

    def remove(self, number: int, job: Job | None = None) -> Outcome | None:
        """Take one intervention out, whatever lies on it; ValueError where it is not there."""
        left = tuple(one for one in self.entries if one.id != number)
        if len(left) == len(self.entries):
            raise ValueError(f"no intervention {number} is on the stack")
        self._become(left, None)
        self.outcome = self._now(job)
        return self.outcome

    def look(self, image: str, noun: str | None, job: Job | None = None) -> Outcome | None:
        """Tell what the stack does to this picture and noun; None for an empty stack."""
        self._seen, self.outcome = (image, noun), None
        self.outcome = self._now(job)
        return self.outcome

    @property
    def state(self) -> dict[str, Any]:
        """The stack and the outcome as the front takes them."""
        outcome = None
        if self.outcome is not None:
            sides = {name: vars(getattr(self.outcome, name)) for name in ("before", "after")}
            outcome = {**vars(self.outcome), **sides}
        return {"stack": [{"id": e.id, "text": e.text} for e in self.entries], "outcome": outcome}

    # --- inside -------------------------------------------------------------------------

    def _become(self, entries: tuple[Ready, ...], outcome: Outcome | None) -> None:
        self._history.append(self.entries)
        self.entries, self.outcome = entries, outcome

    def _now(self, job: Job | None) -> Outcome | None:
        """Tell what the stack does to what was looked at last."""
        if not self.entries or self._seen is None:
            return None
        with self.system.lock, torch.no_grad(), watched(self.system.model, job):
            self._expect(job, self._seen[0])
            return self._compute(self.entries, *self._seen)

    def _expect(self, job: Job | None, image: str) -> None:
        """Tell a job its passes, at most: captions, the noun in either, an edit's own."""
        if job is not None:
            captions = 1 if self.system.captioned(image) else 2
            job.expect(captions * self.system.max_new_tokens + 3)

    def _compute(self, entries: Sequence[Ready], image: str, noun: str | None) -> Outcome:
        system, target = self.system, self._target(image, noun) if noun else None
        before = Said(system.caption(image).text, self._untouched(target))
        layers = sorted({n.layer for one in entries for n in one.intervention.neurons})
        hashes = [["weights before", self._hash(layers)]]
        with applied(system.model, entries) as receipts:
            if any(one.weights for one in entries):
                hashes.append(["weights within", weights_hash(system.model, layers)])
            now = system.say(image)
            after = Said(now.text, None if target is None else system.probability(target))
        hashes.append(["weights after", weights_hash(system.model, layers)])
        if hashes[-1][1] != hashes[0][1]:
            raise RuntimeError(f"weights of layers {layers} have changed; load the system again")
        self._seen = (image, noun)
        changed = now.ids != system.caption(image).ids
        rows = [*receipt_rows(entries, receipts), *hashes]
        return Outcome(image, noun, before, after, changed, rows)

    def _untouched(self, target: Target | None) -> float | None:
        """Return a target's probability on the untouched system, computed once."""
        if target is not None and target not in self._probabilities:
            self._probabilities[target] = self.system.probability(target)
        return None if target is None else self._probabilities[target]

    def _hash(self, layers: Sequence[int]) -> str:
        """Hash some layers of the untouched system, once."""
        key = tuple(layers)
        if key not in self._hashes:
            self._hashes[key] = weights_hash(self.system.model, layers)
        return self._hashes[key]
