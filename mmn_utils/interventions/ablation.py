"""What happens without a neuron: ablation with receipts, and sweeps with one mask per row.

Interventions replace the activation, the input of the MLP's second matrix, through hooks
that always come off; weights are never written. Paper A, section 3.3 and S.5.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pandas as pd
import torch

from mmn_utils.models.base import state_hash
from mmn_utils.models.capture import replace
from mmn_utils.neurons.captions import Caption, generate
from mmn_utils.neurons.table import Neuron, by_layer, check_neurons, random_like
from mmn_utils.neurons.targets import Target, objective

POSITIONS = ("all", "image", "generated")
CONDITIONS = ("top", "interpretable", "random")


class NothingTouched(RuntimeError):
    """An intervention ended without having written a single activation."""


@dataclass(frozen=True)
class Ablation:
    """Neurons to switch off, where, and what stands in for their activation.

    ``positions``: ``all``; ``image``, the image tokens; ``generated``, the tokens after the
    prompt. ``value``: a number, 0 as in the papers, or ``mean`` with the ``means`` of
    ``unit_means``.
    """

    neurons: tuple[Neuron, ...]
    positions: str = "all"
    value: float | str = 0.0
    means: Mapping[int, torch.Tensor] | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", tuple(dict.fromkeys(self.neurons)))
        if self.positions not in POSITIONS:
            raise ValueError(f"positions={self.positions!r}: give one of {', '.join(POSITIONS)}")
        if isinstance(self.value, str) and self.value != "mean":
            raise ValueError(f"value={self.value!r}: give a number or 'mean'")
        if self.value == "mean" and self.means is None:
            raise ValueError("value='mean' needs means; compute them with unit_means")

    def fill(self, layer: int, like: torch.Tensor) -> torch.Tensor:
        """Return what is written in a layer, to broadcast over units, as ``like`` is held."""
        if self.value == "mean":
            return self.means[layer].to(like)
        return torch.as_tensor(self.value).to(like)


@dataclass
class Receipt:
    """What an intervention did, complete once it has ended without an error.

    ``touched`` counts activations written over (neurons x positions x rows), whether or not
    they changed; ``activation_change`` is the mean absolute difference that it made.
    ``logit_change``, the largest absolute change of the next token's logits, and the captions
    are there if a prompt was given to measure them on. Hashes are of the MLPs of the layers.
    """

    neurons: tuple[Neuron, ...]
    positions: str
    value: float | str
    touched: int = 0
    activation_change: float = 0.0
    logit_change: float | None = None
    caption_before: tuple[str, ...] | None = None
    caption_after: tuple[str, ...] | None = None
    weights_before: str | None = None
    weights_after: str | None = None

    @property
    def caption_changed(self) -> bool | None:
        """Say whether any caption changed; None if none was made."""
        return None if self.caption_before is None else self.caption_before != self.caption_after


class _Place:
    """Where in the sequence the running pass stands, read off the language model's calls."""

    def __init__(self, model, positions: str, prompt_length: int | None):
        self.image, self.positions = model.image_tokens, positions
        self.prompt_length, self.offset = prompt_length, 0

    def read(self, module, args, kwargs) -> None:
        """Take the number of tokens already cached, as a forward pre-hook with keywords."""
        past = kwargs.get("past_key_values")
        self.offset = 0 if past is None else past.get_seq_length()

    def where(self, length: int) -> slice:
        """Return the positions of a pass of ``length`` tokens that are touched, maybe none."""
        if self.positions == "all":
            return slice(0, length)
        if self.positions == "image":
            first, last = self.image.start, self.image.start + self.image.count
        else:
            if self.prompt_length is None:
                raise ValueError("positions='generated' began within a caption; give prompt_length")
            first, last = self.prompt_length, self.offset + length
        return slice(*(min(max(edge - self.offset, 0), length) for edge in (first, last)))


@contextmanager
def _placed(model, positions: str, prompt_length: int | None = None) -> Iterator[_Place]:
    """Follow the language model's passes while the context lasts.

    Without ``prompt_length`` the prompt is what the last pass without a cache held.
    """
    place, given = _Place(model, positions, prompt_length), prompt_length is not None

    def read(module, args, kwargs) -> None:
        place.read(module, args, kwargs)
        if not given and place.offset == 0:
            place.prompt_length = kwargs["inputs_embeds"].shape[1]

    handle = model.language_model.register_forward_pre_hook(read, with_kwargs=True)
    try:
        yield place
    finally:
        handle.remove()


@contextmanager
def ablate(
    model,
    ablation: Ablation,
    *,
    prompt=None,
    prompt_length: int | None = None,
    max_new_tokens: int = 20,
    hash_weights: bool = True,
) -> Iterator[Receipt]:
    """Switch neurons off while the context lasts; hands a ``Receipt`` out.

    With a ``prompt`` its logits and captions are measured without and with the ablation on
    the way in. ``prompt_length`` tells ``generated`` where the caption begins when the first
    pass already holds some of it. ``ValueError`` for no neurons or ones the model does not
    have; ``NothingTouched`` at the end if no pass reached the positions. An error inside
    passes through, and the hooks are off either way.
    """
    if not ablation.neurons:
        raise ValueError("an ablation of no neurons does nothing; give at least one")
    check_neurons(ablation.neurons, model.sizes.layers, model.sizes.units)
    groups = by_layer(ablation.neurons)
    receipt = Receipt(ablation.neurons, ablation.positions, ablation.value)
    if hash_weights:
        receipt.weights_before = weights_hash(model, groups)
    before = probe(model, prompt, max_new_tokens)
    with (
        _placed(model, ablation.positions, prompt_length) as place,
        replace(model, _switch_off(ablation, groups, place, receipt)),
    ):
        if before is not None:
            compare(receipt, before, probe(model, prompt, max_new_tokens))
        yield receipt
    receipt.activation_change /= max(receipt.touched, 1)
    _settle(model, receipt, groups)


def _switch_off(ablation: Ablation, groups: dict, place: _Place, receipt: Receipt) -> dict:
    """Make the replacement of each layer, which also fills the receipt."""
    functions = {}
    for layer, units in groups.items():

        def function(activation, layer=layer, units=units):
            where = place.where(activation.shape[1])
            units = units.to(activation.device)
            old = activation[:, where][..., units]
            if old.numel() == 0:
                return activation
            new = ablation.fill(layer, activation)
            new = (new[units] if new.ndim else new).expand_as(old)
            activation = activation.clone()
            activation[:, where, units] = new
            receipt.touched += old.numel()
            receipt.activation_change += float((new.detach() - old.detach()).float().abs().sum())
            return activation

        functions[layer] = function
    return functions


@torch.no_grad()
def probe(model, prompt, max_new_tokens: int):
    """Measure logits (B, V) and captions of a prompt, if there is one."""
    if prompt is None:
        return None
    logits, _ = model.forward(prompt)
    return logits.float(), tuple(c.text for c in generate(model, prompt, max_new_tokens))


def compare(receipt, before, after) -> None:
    """Write into a receipt what ``probe`` found before and after."""
    receipt.logit_change = float((after[0] - before[0]).abs().max())
    receipt.caption_before, receipt.caption_after = before[1], after[1]


def _settle(model, receipt: Receipt, layers: Iterable[int]) -> None:
    """Close a receipt: something was touched, and the weights are what they were."""
    if receipt.touched == 0:
        raise NothingTouched(
            f"no activation of {len(receipt.neurons)} neurons was written at positions "
            f"{receipt.positions!r}; run the model inside the context, or give other positions"
        )
    if receipt.weights_before is not None:
        receipt.weights_after = weights_hash(model, layers)
        if receipt.weights_after != receipt.weights_before:
            raise RuntimeError("the weights changed while neurons were ablated; load them again")


def weights_hash(model, layers: Iterable[int] | None = None) -> str:
    """Hash the MLPs of some layers, all by default, to 16 hexadecimal digits."""
    layers = range(model.sizes.layers) if layers is None else layers
    pairs = [(model.pre_module(layer), model.act_module(layer)) for layer in layers]
    return state_hash(*(module for pair in pairs for module in pair))


@torch.no_grad()
def unit_means(
    model, images: Sequence, positions: str = "image", batch_size: int = 16
) -> dict[int, torch.Tensor]:
    """Average every neuron's activation over images and positions: {layer: (units,) float32}.

    ``positions`` ``image`` or ``all``, of the prompt.
    """
    if len(images) == 0 or positions not in ("image", "all"):
        raise ValueError(
            f"{len(images)} images, positions={positions!r}: give images, and 'image' or 'all'"
        )
    sums = dict.fromkeys(range(model.sizes.layers), 0.0)
    counts = dict.fromkeys(sums, 0)
    with _placed(model, positions) as place:

        def watcher(layer: int):
            def function(activation: torch.Tensor) -> torch.Tensor:
                seen = activation[:, place.where(activation.shape[1])].float()
                sums[layer] = sums[layer] + seen.sum((0, 1))
                counts[layer] += seen.shape[0] * seen.shape[1]
                return activation

            return function

        with replace(model, {layer: watcher(layer) for layer in sums}):
            for start in range(0, len(images), batch_size):
                model.forward(model.prompt(images[start : start + batch_size]))
    return {layer: sums[layer] / counts[layer] for layer in sums}


@dataclass(frozen=True)
class SweepResult:
    """Every row of a sweep over one image, in the order of the rows given.

    ``probability``, ``logit`` (rows,) float32 of the target's token, or (rows, targets) if
    several were given. ``captions`` with what the image says ``unablated``; ``changed``
    (rows,) where they differ. ``margin`` (rows,) is NaN where they do not, else by how much
    each caption preferred its own token to the other's where they first part: the smaller
    of the two gaps between logits. ``within_rounding`` (rows,) marks changes whose margin
    is below the measured ``noise``: rounding alone could have made or unmade them.
    ``touched`` (rows,) counts activations written over.
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
    from. ``batch_rows`` bounds the rows at a time where memory is short.
    """
    single = isinstance(targets, Target)
    goals = [targets] if single else list(targets)
    if len(prompt) != 1:
        raise ValueError(f"a sweep runs on one image, not {len(prompt)}; call it for each")
    for row in rows:
        check_neurons(row, model.sizes.layers, model.sizes.units)
    sets = list(dict.fromkeys([frozenset(), *map(frozenset, rows)]))
    batch_rows, runs = batch_rows or len(sets), []
    for start in range(0, len(sets), batch_rows):
        part = [sorted(neurons) for neurons in sets[start : start + batch_rows]]
        masks = _RowMasks(model, part, Ablation((), positions, value, means))
        whole = runs[0].ids[0] if runs else None
        runs.append(_run_rows(model, prompt, goals, masks, max_new_tokens, whole))
    order = [sets.index(frozenset(row)) for row in rows]
    noise = _rounding_noise(model, prompt, runs[0])
    return _gather(model, runs, order, noise, single)


class _RowMasks:
    """The activations that each row of a batch has written over, per layer.

    ``rows`` are those that the batch still holds.
    """

    def __init__(self, model, rows: Sequence[Sequence[Neuron]], ablation: Ablation):
        self.model, self.ablation, self.count = model, ablation, len(rows)
        self.wanted = torch.tensor([len(row) > 0 for row in rows])
        self.touched = torch.zeros(len(rows), dtype=torch.long)
        self.rows = torch.arange(len(rows))
        self.masks = {}
        for index, row in enumerate(rows):
            for layer, units in by_layer(row).items():
                empty = torch.zeros(len(rows), 1, model.sizes.units, dtype=torch.bool)
                self.masks.setdefault(layer, empty)[index, 0, units] = True

    def functions(self, place: _Place) -> dict:
        """Make the replacement of each layer."""
        return {layer: self._function(layer, mask, place) for layer, mask in self.masks.items()}

    def _function(self, layer: int, mask: torch.Tensor, place: _Place):
        mask, per_position = mask.to(self.model.device), mask[:, 0].sum(1)

        def function(activation: torch.Tensor) -> torch.Tensor:
            where = place.where(activation.shape[1])
            part = activation[:, where]
            if part.shape[1] == 0:
                return activation
            self.touched[self.rows] += per_position[self.rows] * part.shape[1]
            mine = mask[self.rows.to(mask.device)]
            part = torch.where(mine, self.ablation.fill(layer, activation), part)
            if part.shape[1] == activation.shape[1]:
                return part
            activation = activation.clone()
            activation[:, where] = part
            return activation

        return function

    def check(self) -> None:
        """Raise ``NothingTouched`` for a row of neurons of which none was written."""
        missed = (self.wanted & (self.touched == 0)).nonzero().flatten().tolist()
        if missed:
            raise NothingTouched(
                f"rows {missed} of the sweep wrote no activation at positions "
                f"{self.ablation.positions!r}; generate a token, or give other positions"
            )


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
    model, prompt, goals: Sequence[Target], masks: _RowMasks, steps: int, whole: list[int] | None
) -> _Rows:
    """Run one batch of rows: the prompt, each target's step, then the captions.

    ``whole`` are the ids of the unablated caption, None while row 0 is about to make them.
    """
    length, rows = prompt.embeds.shape[1], masks.count
    scored = []
    positions, kinds = masks.ablation.positions, ("logit", "probability")
    with _placed(model, positions, length) as place, replace(model, masks.functions(place)):
        logits, past = _prefill(model, prompt, rows, positions == "generated")
        repeated = prompt.repeat(rows)
        for goal in goals:
            at_goal = _after(model, repeated, past, goal.prefix, logits)
            scored.append([objective(at_goal, [goal] * rows, kind) for kind in kinds])
        ids, gaps, first = _greedy(model, repeated, past, logits, steps, whole, masks)
    masks.check()
    logit, probability = (torch.stack(values, dim=1).cpu() for values in zip(*scored, strict=True))
    return _Rows(logit, probability, ids, gaps, first, masks.touched)


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
    """Feed tokens (rows, n) behind a cached prompt; logits (rows, V), and the whole prompt."""
    longer = prompt.extend(model.embed(tokens))
    return model.forward(longer.tail(tokens.shape[1]), past=past, use_cache=True)[0], longer


def _greedy(
    model, prompt, past, logits: torch.Tensor, steps: int, whole: list[int] | None, masks: _RowMasks
):
    """Caption every row greedily on its cache: ids and gaps per row, row 0's logits (steps, V).

    Ids end with the end token where it came; gaps and ``whole`` as in ``_Rows``. When half
    of the rows have ended, the others go on without them.
    """
    end, rows = model.tokenizer.eos_token_id, list(range(len(logits)))
    ids: list[list[int]] = [[] for _ in rows]
    gaps: list[list[float]] = [[] for _ in rows]
    first = []
    for step in range(steps):
        best = logits.float().max(dim=-1)
        tokens = best.indices.tolist()
        leads = whole is None and end not in ids[0]  # row 0 is the whole one, and speaks
        if leads:
            first.append(logits[0].float())
        said = whole if whole is not None else ids[0] + tokens[:leads]
        gap = (best.values - logits[:, said[min(step, len(said) - 1)]].float()).tolist()
        for place, row in enumerate(rows):
            if end not in ids[row]:
                ids[row].append(tokens[place])
                gaps[row].append(gap[place])
        going = [place for place, row in enumerate(rows) if end not in ids[row]]
        if not going or step == steps - 1:
            break
        if len(going) <= len(rows) / 2:
            past.batch_select_indices(torch.tensor(going, device=logits.device))
            prompt, rows = prompt.select(going), [rows[place] for place in going]
            tokens, masks.rows = [tokens[place] for place in going], torch.tensor(rows)
        following = torch.tensor(tokens, device=logits.device)[:, None]
        logits, prompt = _step(model, prompt, past, following)
    return ids, [torch.tensor(some) for some in gaps], torch.stack(first) if first else logits[:0]


def _caption(model, ids: list[int]) -> Caption:
    """Decode ids, whose end token if any is the last, to a caption."""
    if ids and ids[-1] == model.tokenizer.eos_token_id:
        ids = ids[:-1]
    text = model.tokenizer.decode(ids, clean_up_tokenization_spaces=False)
    return Caption(text.strip(), tuple(ids))


def _rounding_noise(model, prompt, run: _Rows) -> float:
    """Measure how far a difference of two logits is off by rounding alone.

    The whole row's logits, made in the batch and on its cache, against those of the same
    caption in one pass by itself. Four times the largest difference, twice for two logits
    and twice since one comparison does not meet the worst case; at the least, what the
    dtype cannot tell apart.
    """
    if not len(run.first_logits):
        return 0.0
    ids = run.ids[0][:-1]
    alone = prompt
    if ids:
        alone = prompt.extend(model.embed(torch.tensor([ids], device=prompt.embeds.device)))
    last = alone.embeds.shape[1] - prompt.embeds.shape[1] + 1
    logits = model.forward(alone, last_only=False, last=last)[0][0].float()
    together = run.first_logits[: len(logits)]
    finest = 2 * torch.finfo(model.dtype).eps * float(together.abs().max())
    return max(4 * float((logits - together).abs().max()), finest)


def _gather(model, runs: Sequence[_Rows], order: list[int], noise: float, single: bool):
    """Put the rows of all runs into the order asked for; row 0 of the first run is whole."""
    ids = [row for run in runs for row in run.ids]
    gaps = [gaps for run in runs for gaps in run.gaps]
    margins = [_margin(ids[0], runs[0].first_logits, ids[i], gaps[i]) for i in order]
    margin = np.array(margins, dtype=np.float32).reshape(len(order))

    def rows(values: Iterable[torch.Tensor]) -> np.ndarray:
        joined = torch.cat(list(values))[torch.tensor(order, dtype=torch.long)]
        return (joined[:, 0] if single and joined.ndim == 2 else joined).numpy()

    return SweepResult(
        probability=rows(run.probability for run in runs),
        logit=rows(run.logit for run in runs),
        captions=tuple(_caption(model, ids[i]) for i in order),
        unablated=_caption(model, ids[0]),
        changed=np.array([ids[i] != ids[0] for i in order], dtype=bool),
        margin=margin,
        within_rounding=margin < noise,
        noise=noise,
        touched=rows(run.touched for run in runs),
    )


def _margin(whole: list[int], logits: torch.Tensor, row: list[int], gaps: torch.Tensor) -> float:
    """Return how clearly two captions part where they first do, NaN if they do not.

    ``logits`` (steps, V) of the whole caption's run, ``gaps`` (steps) of the row's. A gap
    within rounding in either run could have made the difference, or hidden it.
    """
    for step, (mine, other) in enumerate(zip(whole, row, strict=False)):
        if mine != other:
            gap = logits[step, mine] - logits[step, other]
            return float(min(gap.cpu(), gaps[step].cpu()))
    return float("nan")


def ablation_rows(
    ranked: Sequence[Neuron],
    interpretable: Mapping[Neuron, bool],
    ks: Sequence[int],
    units: int,
    rng: np.random.Generator,
) -> tuple[list[list[Neuron]], pd.DataFrame]:
    """Make a sweep's rows for the conditions of paper A's Fig. 6: top, interpretable, random.

    ``top`` takes the first k of ``ranked``, ``interpretable`` the first k that are, ``random``
    k units of the same layers as the top k, none of them ranked that high; larger k contain
    smaller ones. Returns rows, and labels with the columns condition, k, row; the row of
    k = 0 is shared by the three. ``ValueError`` where ``ranked`` is too short.
    """
    ranked, largest = list(dict.fromkeys(ranked)), max(ks, default=0)
    readable = [neuron for neuron in ranked if interpretable.get(neuron, False)]
    for name, found in (("ranked", ranked), ("interpretable", readable)):
        if len(found) < largest:
            raise ValueError(f"{len(found)} {name} neurons for k={largest}; rank more or lower k")
    drawn = random_like(ranked[:largest], units, rng)
    rows, labels, shared = [], [], None
    for condition, ordered in zip(CONDITIONS, (ranked, readable, drawn), strict=True):
        for k in ks:
            if k == 0 and shared is not None:
                labels.append((condition, 0, shared))
                continue
            shared = len(rows) if k == 0 else shared
            labels.append((condition, k, len(rows)))
            rows.append(list(ordered[:k]))
    return rows, pd.DataFrame(labels, columns=["condition", "k", "row"])
