"""Interventions one upon the other, put on for a computation and taken off again.

Each is made ready on the untouched system, so that it does not depend on those below it and
any can be taken out of the middle. They are entered in their order: a scaling multiplies what
an earlier one left of an activation, and what is added to write vectors adds up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial

from mmn_utils.browser.live.system import System
from mmn_utils.interventions.ablation import Ablation, ablate
from mmn_utils.interventions.edit import apply
from mmn_utils.interventions.editing import Settings, make_edit
from mmn_utils.interventions.perturbation import noise
from mmn_utils.interventions.receipts import Comparison
from mmn_utils.interventions.scaling import Scaling, scale
from mmn_utils.interventions.weights import WeightReceipt, adding, fingerprint
from mmn_utils.neurons.table import Neuron, check_neurons
from mmn_utils.neurons.targets import Target

FIELDS = {
    "ablate": (), "scale": ("factor",), "perturb": ("sigma", "seed"),
    "edit": ("word", "method", "beta"),
}  # fmt: skip
KINDS = tuple(FIELDS)
_NAMED = 4  # neurons that a text lists


@dataclass(frozen=True)
class Intervention:
    """What to do to which neurons.

    ``kind`` is one of ``KINDS``. ``factor`` belongs to scale; ``sigma``, times the root mean
    square of each write vector's entries, and ``seed`` to perturb; ``word``, what the noun is
    to become, with ``method`` and ``beta`` of ``editing.Settings``, to edit.
    """

    kind: str
    neurons: tuple[Neuron, ...]
    factor: float = 0.0
    sigma: float = 0.5
    seed: int = 0
    word: str = ""
    method: str = "closed"
    beta: float = 4.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "neurons", tuple(dict.fromkeys(self.neurons)))
        if self.kind not in KINDS:
            raise ValueError(f"kind={self.kind!r}: give one of {', '.join(KINDS)}")
        if not self.neurons:
            raise ValueError(f"no neuron is chosen to {self.kind}; choose one in the table")


@dataclass(frozen=True)
class Ready:
    """An intervention made ready for a system: ``on(model)`` is its context.

    ``image`` and ``noun`` are those on which it was made, which an edit depends on;
    ``weights`` says whether write vectors change.
    """

    id: int
    image: str
    noun: str | None
    text: str
    intervention: Intervention
    weights: bool
    on: Callable[..., AbstractContextManager[Comparison]] = field(repr=False)


def make_ready(
    system: System, number: int, asked: Intervention, image: str, target: Target | None
) -> Ready:
    """Make an intervention ready on an untouched system; an edit from a picture and its noun.

    ValueError for neurons that the system does not have, a factor, sigma or word that is
    none, and an edit without a noun; ``EmptyEdit`` where nothing would change.
    """
    neurons, model = asked.neurons, system.model
    check_neurons(neurons, model.sizes.layers, model.sizes.units)
    noun = None if target is None else target.noun
    whole = partial(Ready, number, image, noun, intervention=asked)
    if asked.kind == "ablate":
        on = partial(ablate, ablation=Ablation(neurons), hash_weights=False)
        return whole(f"ablate {named(neurons)}", weights=False, on=on)
    if asked.kind == "scale":
        on = partial(scale, scaling=Scaling(neurons, asked.factor), hash_weights=False)
        return whole(f"scale {named(neurons)} by {asked.factor:g}", weights=False, on=on)
    if asked.kind == "perturb":
        deltas = noise(model, neurons, asked.sigma, asked.seed, relative=True)
        label = f"noise-{fingerprint(neurons, deltas)}"
        places = {"neurons": neurons, "deltas": deltas, "label": label}
        on = partial(adding, **places, hash_weights=False)
        text = f"perturb {named(neurons)}, sigma {asked.sigma:g}, seed {asked.seed}"
        return whole(text, weights=True, on=on)
    if target is None:
        raise ValueError("an edit turns a noun into a word; choose the noun first")
    if not asked.word.strip():
        raise ValueError(f"what is {target.noun!r} to become? type a word")
    how = Settings(method=asked.method, beta=asked.beta)
    edit = make_edit(model, [system.opened(image)], [target], asked.word, neurons, how)
    text = f"edit {named(neurons)}: {target.noun} becomes {asked.word.strip()}"
    return whole(text, weights=True, on=partial(apply, edit=edit, hash_weights=False))


@contextmanager
def applied(model, stack: Sequence[Ready]) -> Iterator[list[Comparison]]:
    """Let all interventions hold while the context lasts; hands their receipts out.

    The first is entered first and left last. Errors as of each; the system is what it was
    either way.
    """
    with ExitStack() as contexts:
        yield [contexts.enter_context(one.on(model)) for one in stack]


def named(neurons: Sequence[Neuron]) -> str:
    """List neurons, of many the first and how many more."""
    text = ", ".join(map(str, neurons[:_NAMED]))
    more = len(neurons) - _NAMED
    return f"{text} and {more} more" if more > 0 else text


def receipt_rows(stack: Sequence[Ready], receipts: Sequence[Comparison]) -> list[list[str]]:
    """Put receipts into words: [name, text], for each what it was and what it touched."""
    rows = []
    for place, (one, receipt) in enumerate(zip(stack, receipts, strict=True), start=1):
        rows.append([f"{place}.", one.text])
        rows.append(["neurons", " ".join(map(str, receipt.neurons))])
        if isinstance(receipt, WeightReceipt):
            rows.append(["touched", f"{receipt.touched} weights"])
            rows.append(["moved by", _numbers(receipt.norms)])
            rows.append(["over its norm", _numbers(receipt.relative)])
        else:
            rows.append(["touched", f"{receipt.touched} activations"])
            rows.append(["mean change", f"{receipt.activation_change:.3g}"])
    return rows


def _numbers(values: Sequence[float]) -> str:
    return " ".join(f"{value:.3g}" for value in values)
