"""Many ablations of one image in one batch, with one mask per row. Paper A, section 3.3 and S.5.

Each row joins where it first differs from the whole model (``models.branches``).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from mmn_utils.interventions.ablation import Ablation
from mmn_utils.interventions.positions import placed
from mmn_utils.interventions.rounding import margin, rounding_noise
from mmn_utils.interventions.row_masks import RowMasks, lowest_layer
from mmn_utils.memory import in_batches
from mmn_utils.models import branches
from mmn_utils.models.capture import replace, spare_last
from mmn_utils.models.finite import refuse, require_finite
from mmn_utils.neurons.captions import Caption, as_caption, leave_behind
from mmn_utils.neurons.table import Neuron, check_neurons
from mmn_utils.neurons.targets import Target, objective


@dataclass(frozen=True)
class SweepResult:
    """Every row of a sweep over one image, in the order of the rows given.

    ``probability``, ``logit`` (rows,) float32 of the target's token, or (rows, targets) if
    several were given. ``captions`` with what the image says ``unablated``; ``changed``
    (rows,) where they differ. ``margin`` (rows,) is NaN where they do not, else by how much
    each caption preferred its own token to the other's where they first part: the smaller
    of the two gaps between logits. ``within_rounding`` (rows,) marks changes whose margin
    is below the measured ``noise``: rounding alone could have made or unmade them.
    ``touched`` (rows,) counts activations written over, those too that nobody reads: of the last
    layer at the image, they need not be computed.
    """

    probability: np.ndarray
    logit: np.ndarray
    captions: tuple[Caption, ...]
    unablated: Caption
    changed: np.ndarray
    margin: np.ndarray
    within_rounding: np.ndarray
    noise: float
    touched: np.ndarray


@torch.no_grad()
def sweep(
    model,
    prompt,
    targets: Target | Sequence[Target],
    rows: Sequence[Sequence[Neuron]],
    max_new_tokens: int = 20,
    *,
    positions: str = "all",
    value: float | str = 0.0,
    means: Mapping[int, torch.Tensor] | None = None,
    batch_rows: int | None = None,
) -> SweepResult:
    """Run all conditions of one image as rows of one batch: row i without the neurons ``rows[i]``.

    ``prompt`` of one image, embedded once. Each row has a mask of its own per layer. The
    probability of a target is read at the step that predicts it, with its caption prefix
    teacher-forced on the cached prompt; captions are greedy on the same cache. Rows of the
    same neurons run once, and a row without any runs always: it is what changes are told
    from. ``batch_rows`` bounds the rows at a time where memory is short. ``ValueError`` naming
    the targets' image where logits are not finite.
    """
    single = isinstance(targets, Target)
    goals = [targets] if single else list(targets)
    if len(prompt) != 1:
        raise ValueError(f"a sweep runs on one image, not {len(prompt)}; call it for each")
    for row in rows:
        check_neurons(row, model.sizes.layers, model.sizes.units)
    sets = sorted(dict.fromkeys([frozenset(), *map(frozenset, rows)]), key=lowest_layer)
    trunk = _trunk(model, prompt, sets, positions)
    runs: list[_Rows] = []

    def compute(part: Sequence[frozenset[Neuron]]) -> None:
        masks = RowMasks(model, list(map(sorted, part)), Ablation((), positions, value, means))
        whole = runs[0].ids[0] if runs else None
        runs.append(_run_rows(model, prompt, trunk, goals, masks, max_new_tokens, whole))

    in_batches(compute, sets, batch_rows or len(sets), "conditions of a picture")
    places = {row: place for place, row in enumerate(sets)}
    order = [places[frozenset(row)] for row in rows]
    noise = rounding_noise(model, prompt, runs[0].ids[0], runs[0].first_logits, trunk)
    return _gather(model, runs, order, noise, single)


def _trunk(model, prompt, sets: Sequence[frozenset[Neuron]], positions: str):
    """Run the whole model, for rows to branch off; None where they have to begin at its start."""
    if not branches.can_branch(model, prompt):
        return None
    layers = {lowest_layer(row) for row in sets if row} if positions != "generated" else ()
    trunk = branches.trunk_of(model, prompt, layers)
    return trunk if trunk.plain else None


@dataclass
class _Rows:
    """Raw results of the rows of one batch."""

    logit: torch.Tensor  # (rows, targets)
    probability: torch.Tensor  # (rows, targets)
    ids: list[list[int]]  # per row, with the end token where it came
    gaps: list[torch.Tensor]  # per row and step: its token's logit less that of the whole row's
    first_logits: torch.Tensor  # (steps, V) of row 0
    touched: torch.Tensor  # (rows,)


def _run_rows(
    model,
    prompt,
    trunk: branches.Trunk | None,
    goals: Sequence[Target],
    masks: RowMasks,
    steps: int,
    whole: list[int] | None,
) -> _Rows:
    """Run one batch of rows: the prompt, each target's step, then the captions.

    ``whole`` are the ids of the unablated caption, None while row 0 is about to make them.
    """
    length, rows = prompt.embeds.shape[1], masks.count
    scored = []
    positions, kinds = masks.ablation.positions, ("logit", "probability")
    begun = None if trunk is None else _branched(model, trunk, masks)
    with placed(model, positions, length) as place, replace(model, masks.functions(place)):
        logits, past = begun or _prefill(model, prompt, rows, positions == "generated")
        repeated = prompt.expand(rows)
        for goal in goals:
            at_goal = _after(model, repeated, past, goal.prefix, logits)
            scored.append([objective(at_goal, [goal] * rows, kind) for kind in kinds])
            require_finite(model, scored[-1][1], [goal.image] * rows)
        images = [goals[0].image] * rows if goals else None
        ids, gaps, first = _greedy(model, repeated, past, logits, steps, whole, masks, images)
    masks.check()
    logit, probability = (torch.stack(values, dim=1).cpu() for values in zip(*scored, strict=True))
    return _Rows(logit, probability, ids, gaps, first, masks.touched)


def _branched(model, trunk: branches.Trunk, masks: RowMasks):
    """Run the prompt for all rows from where they part: logits (rows, V) and the cache."""
    tokens, positions = trunk.prompt.embeds.shape[1], masks.ablation.positions
    if not trunk.streams:  # all rows are the whole one as far as the prompt goes
        past = branches.past_of_all(trunk, [], masks.count)
        return trunk.logits.expand(masks.count, -1), past
    found = []
    for layer, some in masks.parts(branches.rows_at_once(model, tokens)):
        masks.rows = torch.tensor(some)
        with (
            spare_last(model, tokens - 1),  # first, while no hook of ours is there to be seen
            placed(model, positions, tokens) as place,
            branches.parting(model, layer, len(some)),
            replace(model, masks.functions(place)),
        ):
            found.append(branches.run_branch(model, trunk, layer))
    masks.rows = torch.arange(masks.count)
    past = branches.past_of_all(trunk, found, 0)
    return torch.cat([branch.logits for branch in found]), past


def _prefill(model, prompt, rows: int, alike: bool):
    """Run the prompt for all rows: logits (rows, V) and the cache; once for rows still alike."""
    if not alike:
        return model.forward(prompt.repeat(rows), use_cache=True)
    logits, past = model.forward(prompt, use_cache=True)
    past.batch_repeat_interleave(rows)
    return logits.expand(rows, -1), past


def _after(model, prompt, past, ids: Sequence[int], logits: torch.Tensor) -> torch.Tensor:
    """Return the logits (rows, V) after the same ``ids`` in every row; the cache stays as it is."""
    if len(ids) == 0:
        return logits
    tokens = torch.tensor([list(ids)], device=prompt.embeds.device).expand(len(prompt), -1)
    logits, _ = _step(model, prompt, past, tokens)
    past.crop(-len(ids))
    return logits


def _step(model, prompt, past, tokens: torch.Tensor):
    """Feed tokens (rows, n) behind a cached prompt; logits (rows, V), and the prompt's tail."""
    tail = prompt.next(model.embed(tokens))
    return model.forward(tail, past=past, use_cache=True)[0], tail


def _greedy(
    model,
    prompt,
    past,
    logits: torch.Tensor,
    steps: int,
    whole: list[int] | None,
    masks: RowMasks,
    images: Sequence[str] | None,
):
    """Caption every row greedily on its cache: ids and gaps per row, row 0's logits (steps, V).

    Ids end with the end token where it came; gaps and ``whole`` as in ``_Rows``. When some rows
    have ended, the others go on without them.
    """
    ends, rows = model.end_tokens, list(range(len(logits)))
    ids: list[list[int]] = [[] for _ in rows]
    gaps: list[list[float]] = [[] for _ in rows]
    first = []
    for step in range(steps):
        best = logits.float().max(dim=-1)
        tokens, finite = best.indices.tolist(), best.values.isfinite().tolist()
        leads = whole is None and ends.isdisjoint(ids[0])  # row 0 is the whole one, and speaks
        if leads:
            first.append(logits[0].float())
        said = whole if whole is not None else ids[0] + tokens[:leads]
        gap = (best.values - logits[:, said[min(step, len(said) - 1)]].float()).tolist()
        for place, row in enumerate(rows):
            if ends.isdisjoint(ids[row]):
                if not finite[place]:
                    refuse(model, row, images)
                ids[row].append(tokens[place])
                gaps[row].append(gap[place])
        going = [place for place, row in enumerate(rows) if ends.isdisjoint(ids[row])]
        if not going or step == steps - 1:
            break
        if leave_behind(going, rows):
            past.batch_select_indices(torch.tensor(going, device=logits.device))
            prompt, rows = prompt.select(going), [rows[place] for place in going]
            tokens, masks.rows = [tokens[place] for place in going], torch.tensor(rows)
        following = torch.tensor(tokens, device=logits.device)[:, None]
        logits, prompt = _step(model, prompt, past, following)
    return ids, [torch.tensor(some) for some in gaps], torch.stack(first) if first else logits[:0]


def _gather(model, runs: Sequence[_Rows], order: list[int], noise: float, single: bool):
    """Put the rows of all runs into the order asked for; row 0 of the first run is whole."""
    ids = [row for run in runs for row in run.ids]
    gaps = [gaps for run in runs for gaps in run.gaps]
    captions = [as_caption(model, row) for row in ids]
    changed = np.array([captions[i].ids != captions[0].ids for i in order], dtype=bool)
    clear = [  # which of several end tokens ended a caption changes none
        margin(ids[0], runs[0].first_logits, ids[i], gaps[i]) if differs else np.nan
        for i, differs in zip(order, changed, strict=True)
    ]
    margins = np.array(clear, dtype=np.float32).reshape(len(order))

    def rows(values: Iterable[torch.Tensor]) -> np.ndarray:
        joined = torch.cat(list(values))[torch.tensor(order, dtype=torch.long)]
        return (joined[:, 0] if single and joined.ndim == 2 else joined).numpy()

    return SweepResult(
        probability=rows(run.probability for run in runs),
        logit=rows(run.logit for run in runs),
        captions=tuple(captions[i] for i in order),
        unablated=captions[0],
        changed=changed,
        margin=margins,
        within_rounding=margins < noise,
        noise=noise,
        touched=rows(run.touched for run in runs),
    )
