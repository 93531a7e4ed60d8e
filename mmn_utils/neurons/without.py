"""The logits of a prompt without some units, for many sets of units, from where each matters.

Taking unit u of layer l away changes what its MLP writes by exactly -a_u(t) w_u at the positions
t, so the stream behind layer l is known without any product: that of the pass which a set branches
off, less a_u(t) w_u (behind a norm behind the MLP, less what the norm makes of it). Nothing up to
there is computed again. Units of the set in higher layers are set to zero as the pass comes by; but
where sets agree in their lowest layer, as pairs do, the pass without those units runs once, and
the sets branch off it at their next layer.

- ``rows``: sets are rows of a batch in which the layers up to l give what is known. Of the last
  layer only the last position is read, elsewhere keys and values alone.
- ``abreast``: where only the last token differs, sets are tokens side by side behind the prompt's
  keys and values (``models.abreast``).
- ``last``: units of the last layer need the final norm and the unembedding, at the last position.
- ``start``: where nothing of this is known to hold, or somebody's hooks are to see every row, units
  are set to zero in passes from the first layer on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor, nn

from mmn_utils.memory import Fit, is_out_of_memory
from mmn_utils.models.abreast import ROUNDING, Abreast, is_hooked
from mmn_utils.models.branches import begun_above, trunk_of
from mmn_utils.models.capture import after_mlps, output_of
from mmn_utils.models.capture import replace as replaced
from mmn_utils.models.products import is_plain
from mmn_utils.models.prompts import Prompt
from mmn_utils.neurons.targets import final_norm_reads

AT_ONCE = 6e6  # bytes that a CPU's caches hold of the activations of rows that run together
ABREAST = 256  # tokens side by side: more waste attention on each other, fewer waste calls

Part = tuple[int, tuple[int, ...]]  # a layer, and some of its units
Read = Callable[[Tensor], Tensor]  # of logits (N, V) what is asked: (..., N)


class Cut(NamedTuple):
    """One row: the ``units`` of a layer taken out of a state, and those of layers above it."""

    state: int
    units: tuple[int, ...]
    later: tuple[Part, ...] = ()


@dataclass(frozen=True, eq=False)
class States:
    """What N variants of a prompt made of it: the untouched one, or some without units.

    ``streams`` {layer: (N, T, d)} are what layers gave (the last T known; of the last layer what
    the final norm reads at the last position), ``activations`` {layer: (N, P, units)} of the units
    asked for at the positions, ``written`` {layer: (N, P, d)} what MLPs with a norm behind them
    wrote there.
    """

    streams: dict[int, Tensor] = field(default_factory=dict)
    activations: dict[int, Tensor] = field(default_factory=dict)
    written: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Without:
    """A prompt of one row, and the untouched pass over it: ``logits`` (1, V).

    ``places`` (P) are positions at which units are off, ``columns`` {layer: {unit: column}} the
    units that may be. ``kinds`` is what layers gave, a tensor or a tuple; ``abreast`` None where no
    tokens can lie side by side. Without ``whole`` passes start at the first layer.
    """

    model: object
    prompt: Prompt
    places: Tensor
    columns: Mapping[int, Mapping[int, int]]
    fits: Mapping[str, Fit]
    logits: Tensor | None = None
    whole: States | None = None
    kinds: dict[int, Tensor | tuple] = field(default_factory=dict)
    abreast: Abreast | None = None
    ways: dict[int, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        model,
        prompt: Prompt,
        units: Mapping[int, Iterable[int]],
        places: slice | Tensor,
        batch_size: int,
    ) -> Without:
        """Run the untouched model once, and keep what is needed of it.

        ``units`` of each layer that a set may have. At most ``batch_size`` rows run together,
        fewer on a CPU where that is faster.
        """
        tokens, device = prompt.embeds.shape[1], prompt.embeds.device
        spots = torch.arange(tokens, device=device)[places]
        columns = {i: {unit: n for n, unit in enumerate(some)} for i, some in units.items()}
        fits = {way: Fit(n, "sets") for way, n in _sizes(model, tokens, batch_size).items()}
        without = cls(model, prompt, spots, columns, fits)
        if is_hooked(model):  # what the hooks do is asked anew of every row
            return replace(without, logits=model.forward(prompt)[0])
        kinds: dict[int, Tensor | tuple] = {}
        with _kinds(model, kinds), _watch(without, range(model.sizes.layers)) as whole:
            trunk = trunk_of(model, prompt, ())
        only_last = spots.tolist() == [tokens - 1]
        abreast = Abreast.of(model, prompt, trunk.past) if only_last else None
        return replace(without, logits=trunk.logits, whole=whole, kinds=kinds, abreast=abreast)

    @property
    def tokens(self) -> int:
        """Count the prompt's tokens."""
        return self.prompt.embeds.shape[1]

    @property
    def last(self) -> int:
        """The last layer."""
        return self.model.sizes.layers - 1

    def alone(self, layer: int, units: Sequence[int], read: Read) -> Tensor:
        """Read logits without each unit of a layer: (..., units)."""
        return torch.cat(self._lone(self.whole, layer, [Cut(0, (u,)) for u in units], read), -1)

    def together(self, sets: Sequence[Sequence[Part]], read: Read) -> Tensor:
        """Read logits without all units of a set, for each: (..., sets).

        A set has its layers in ascending order, each once.
        """
        whole = read(self.logits)
        found = whole.expand(*whole.shape[:-1], len(sets)).clone()
        rows = [(place, 0, tuple(some)) for place, some in enumerate(sets) if some]
        self._branch(self.whole, rows, read, found)
        return found

    def _branch(
        self,
        states: States | None,
        rows: Sequence[tuple[int, int, tuple[Part, ...]]],
        read: Read,
        found: Tensor,
    ) -> None:
        """Run rows (place in ``found``, state that it branches off, what it lacks)."""
        heads: dict[int, dict[tuple[int, tuple[int, ...]], list]] = {}
        for place, state, ((layer, units), *later) in rows:
            tails = heads.setdefault(layer, {}).setdefault((state, units), [])
            tails.append((place, tuple(later)))
        for layer, tails_of in sorted(heads.items()):
            forks = {head: tails for head, tails in tails_of.items() if self._forks(layer, tails)}
            if forks:
                self._fork(states, layer, forks, read, found)
            cuts = {
                place: Cut(*head, later)
                for head, tails in tails_of.items()
                if head not in forks
                for place, later in tails
            }
            if cuts:  # rows with units in the same layers lie together: fewer hooks
                order = sorted(cuts, key=lambda place: [i for i, _ in cuts[place].later])
                values = self._lone(states, layer, [cuts[place] for place in order], read)
                found[..., order] = torch.cat(values, -1)

    def _lone(self, states, layer: int, cuts: Sequence[Cut], read: Read) -> list[Tensor]:
        """Run rows, in parts as large as go together."""
        way = self.way(layer)
        return self.fits[way].run(
            lambda some: read(self.run(way, states, layer, some)[0]), list(cuts)
        )

    def _forks(self, layer: int, tails: Sequence[tuple[int, tuple[Part, ...]]]) -> bool:
        """Say whether it saves layers to let sets branch off the pass without what they share."""
        nexts = [later[0][0] for _, later in tails if later]
        if self.way(layer) not in ("rows", "abreast") or "start" in map(self.way, nexts):
            return False
        above = self.last - layer
        return above + sum(self.last - i for i in nexts) < above * len(tails)

    def _fork(self, states: States, layer: int, forks: Mapping, read: Read, found: Tensor) -> None:
        """Run passes without what sets share, and let the sets branch off them."""

        def compute(part: Sequence[tuple[tuple[int, tuple[int, ...]], list]]) -> None:
            nexts = {later[0][0] for _, tails in part for _, later in tails if later}
            cuts = [Cut(*head) for head, _ in part]
            logits, upper = self.run(self.way(layer), states, layer, cuts, nexts)
            values, rows = read(logits), []
            for state, (_, tails) in enumerate(part):
                for place, later in tails:
                    if later:
                        rows.append((place, state, later))
                    else:
                        found[..., place] = values[..., state]
            self._branch(upper, rows, read, found)

        self.fits[self.way(layer)].run(compute, list(forks.items()))

    def way(self, layer: int) -> str:
        """Choose how units of a layer are taken away."""
        if layer not in self.ways:
            self.ways[layer] = self._way(layer)
        return self.ways[layer]

    def _way(self, layer: int) -> str:
        if self.whole is None or not _is_rank_one(self, layer):
            return "start"
        if layer == self.last:
            return "last"
        if self.abreast is not None:
            stream = self.whole.streams[layer][0, -1]
            if self.abreast.agrees(self.model, layer + 1, stream, self.logits[0]):
                return "abreast"
        return "rows"

    def run(
        self, way: str, states, layer: int, cuts: Sequence[Cut], nexts: Iterable[int] = ()
    ) -> tuple[Tensor, States]:
        """Run rows one way: logits (N, V), and what they make in the layers ``nexts``."""
        if way == "start":
            return _from_start(self, layer, cuts), States()
        if way == "last":
            return _behind_last(self, states, cuts), States()
        return (_abreast if way == "abreast" else _rows)(self, states, layer, cuts, nexts)

    def shifts(self, states: States, layer: int, cuts: Sequence[Cut]) -> Tensor:
        """Return what the stream behind a layer changes by without units: (N, P, d)."""
        model, rows = self.model, [cut.state for cut in cuts]
        gone = self._gone(states.activations[layer], layer, cuts)
        adds = model.adds(layer)
        if layer in states.written:
            norm = model.layer(layer).get_submodule(model.architecture.mlp_norm)
            before = states.written[layer]
            after = norm((before[rows].float() - gone).to(before)).float()
            return adds.whole * adds.mlp * (after - norm(before).float()[rows])
        return -adds.whole * adds.mlp * gone

    def _gone(self, active: Tensor, layer: int, cuts: Sequence[Cut]) -> Tensor:
        """Return what units wrote, of all that the MLP did: (N, P, d) float32."""
        vectors, place = self.model.write_vectors(layer), self.columns[layer]
        if all(len(cut.units) == 1 for cut in cuts):
            units = [cut.units[0] for cut in cuts]
            mine = active[[cut.state for cut in cuts], :, [place[unit] for unit in units]]
            return mine.float()[:, :, None] * vectors[units][:, None].float()
        each = (
            active[cut.state][:, [place[unit] for unit in cut.units]].float()
            @ vectors[list(cut.units)].float()
            for cut in cuts
        )
        return torch.stack(list(each))


def _sizes(model, tokens: int, batch_size: int) -> dict[str, int]:
    """Return how many sets each way takes at once: rows by what a CPU's caches hold."""
    rows, sizes = batch_size, model.sizes
    if model.device.type == "cpu" and batch_size > 1:
        held = tokens * max(sizes.units, sizes.width) * model.dtype.itemsize
        rows = max(1, min(batch_size, int(AT_ONCE // held)))
    return {"start": rows, "rows": rows, "abreast": ABREAST, "last": ABREAST}


# --- what passes make -----------------------------------------------------------------------


@contextmanager
def _kinds(model, found: dict[int, Tensor | tuple]) -> Iterator[None]:
    """Note what layers give, in the form in which they give it."""

    def note(layer: int, _module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
        found[layer] = output

    with ExitStack() as stack:
        for layer in range(model.sizes.layers):
            hook = model.layer(layer).register_forward_hook(partial(note, layer))
            stack.callback(hook.remove)
        yield


@contextmanager
def _watch(without: Without, layers: Iterable[int], turned: bool = False) -> Iterator[States]:
    """Keep what a pass makes in some layers; ``turned`` where its rows are tokens side by side."""
    model, columns, last, states = without.model, without.columns, without.last, States()

    def cut(layer: int, value: Tensor) -> Tensor:
        value = value.transpose(0, 1) if turned else value
        if layer == last:
            return value[:, -1:]
        return value if value.shape[1] < without.tokens else value[:, without.places]

    def give(layer: int, _module: nn.Module, _inputs: tuple, output: Tensor | tuple) -> None:
        stream = output_of(output)
        states.streams[layer] = stream.transpose(0, 1) if turned else stream

    def read(layer: int, _module: nn.Module, inputs: tuple) -> None:
        states.activations[layer] = cut(layer, inputs[0])[..., list(columns[layer])]

    def write(layer: int, written: Tensor) -> None:
        states.written[layer] = cut(layer, written)

    layers = set(layers)
    asked = layers & set(columns)
    with ExitStack() as stack:
        for layer in layers - {last}:
            hook = model.layer(layer).register_forward_hook(partial(give, layer))
            stack.callback(hook.remove)
        for layer in asked:
            hook = model.act_module(layer).register_forward_pre_hook(partial(read, layer))
            stack.callback(hook.remove)
        late = asked if model.architecture.mlp_norm else ()
        stack.enter_context(after_mlps(model, write, late))
        normed = stack.enter_context(final_norm_reads(model)) if last in layers else []
        yield states
        if normed:
            states.streams[last] = cut(last, normed[-1])


def silenced(without: Without, rows: Iterable[Iterable[Part]], turned: bool = False):
    """Set units of each row to zero at the positions; ``turned`` where rows are tokens."""
    cells: dict[int, tuple[list[int], list[int]]] = {}
    for row, parts in enumerate(rows):
        for layer, units in parts:
            own = cells.setdefault(layer, ([], []))
            own[0].extend([row] * len(units))
            own[1].extend(units)

    def zero(rows: list[int], units: list[int], activation: Tensor) -> Tensor:
        activation = activation.clone()
        value = activation.transpose(0, 1) if turned else activation
        here = without.places - (without.tokens - value.shape[1])  # some passes see the end alone
        here = here[here >= 0]
        at, which = (torch.tensor(some, device=value.device) for some in (rows, units))
        if len(here) == value.shape[1]:
            value[at, :, which] = 0
        else:
            value[at[:, None], here, which[:, None]] = 0
        return activation

    return replaced(without.model, {layer: partial(zero, *own) for layer, own in cells.items()})


# --- the ways -------------------------------------------------------------------------------


def _from_start(without: Without, layer: int, cuts: Sequence[Cut]) -> Tensor:
    """Set units to zero in a row for each cut, from the first layer on."""
    with silenced(without, [((layer, cut.units), *cut.later) for cut in cuts]):
        return without.model.forward(without.prompt.repeat(len(cuts)))[0]


def _rows(
    without: Without, states: States, layer: int, cuts: Sequence[Cut], nexts: Iterable[int] = ()
) -> tuple[Tensor, States]:
    """Take units out of the stream behind a layer, a row for each cut."""
    stream = states.streams[layer][[cut.state for cut in cuts]]
    stream[:, without.places] += without.shifts(states, layer, cuts).to(stream)
    with (
        begun_above(without.model, layer, without.kinds, stream),
        silenced(without, [cut.later for cut in cuts]),
        _watch(without, nexts) as made,
    ):
        return without.model.forward(without.prompt.expand(len(cuts)))[0], made


def _abreast(
    without: Without, states: States, layer: int, cuts: Sequence[Cut], nexts: Iterable[int] = ()
) -> tuple[Tensor, States]:
    """Take units out of the last token, a variant for each cut, all behind the same tokens."""
    stream = states.streams[layer][[cut.state for cut in cuts], -1]
    variants = stream + without.shifts(states, layer, cuts)[:, 0].to(stream)
    with (
        silenced(without, [cut.later for cut in cuts], turned=True),
        _watch(without, nexts, turned=True) as made,
    ):
        return without.abreast.logits(without.model, layer + 1, variants), made


def _behind_last(without: Without, states: States, cuts: Sequence[Cut]) -> Tensor:
    """Take units of the last layer away from what the final norm reads at the last position."""
    stream = states.streams[without.last][[cut.state for cut in cuts], -1]
    if len(without.places) and int(without.places[-1]) == without.tokens - 1:
        stream = stream + without.shifts(states, without.last, cuts)[:, 0].to(stream)
    return without.model.read_out(without.model.final_norm(stream))


def _is_rank_one(without: Without, layer: int) -> bool:
    """Say whether the stream behind a layer, and all above, is known without some of its units.

    Not where the second matrix is no plain one. Where more than the stream may go from layer to
    layer, or a module beside the MLP could read what it wrote, the unit that writes most is tried.
    """
    second, parts = without.model.act_module(layer), without.model.architecture
    if not is_plain(second) or not second.weight.is_floating_point():
        return False
    return (parts.stacked and not parts.also) or _agrees(without, layer)


def _agrees(without: Without, layer: int) -> bool:
    """Say whether the unit that writes most is missed the short way as it is from the start."""
    active = without.whole.activations[layer].float().square().sum((0, 1))
    units = list(without.columns[layer])
    size = without.model.write_vectors(layer)[units].float().square().sum(1)
    cut = [Cut(0, (units[int((active * size).argmax())],))]
    short = "last" if layer == without.last else "rows"
    try:
        found = without.run(short, without.whole, layer, cut)[0]
    except (LookupError, AttributeError, TypeError, ValueError, RuntimeError) as error:
        if is_out_of_memory(error):
            raise
        return False  # a layer above asks for what the layers below have not made
    wanted = without.run("start", None, layer, cut)[0]
    apart = (found.float() - wanted.float()).abs().max()
    return bool(apart <= ROUNDING.get(without.model.dtype, 0) / 10 * wanted.float().abs().max())
