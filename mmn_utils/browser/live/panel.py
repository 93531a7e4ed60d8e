"""The frame round the views: what to do to which neurons, a folder of pictures, a line of news.

What is stacked and what came of it in full are shown among the views.
Labels of ipywidgets set mathematics and markup; whatever may hold a token, a caption or a
file's name is shown by ``Plain`` instead.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import anywidget
import ipywidgets
import traitlets

from mmn_utils.browser import front
from mmn_utils.browser.live.stack import FIELDS, KINDS, Intervention, named
from mmn_utils.interventions.editing import METHODS
from mmn_utils.interventions.scaling import LEAST, MOST
from mmn_utils.neurons.table import Neuron

_PLAIN = front.FOLDER / "plain.js"
_NOTE = "Heat maps and scores are those of the untouched system; the stack changes the outcome."


class Plain(anywidget.AnyWidget):
    """A line of text that is shown as it is, and read out by screen readers when it changes."""

    _esm = _PLAIN.read_text(encoding="utf-8")
    value = traitlets.Unicode().tag(sync=True)


class Actions(Protocol):
    """What a panel asks for; each is started and comes back at once."""

    def apply(self, asked: Mapping[str, Any]) -> None:
        """Put an intervention on the stack: ``kind`` and the fields of ``Intervention``."""

    def undo(self) -> None:
        """Make the stack what it was before its last change."""

    def folder(self, path: str) -> None:
        """Show the pictures of a folder."""

    def cancel(self) -> None:
        """Stop what is running."""


class Panel(ipywidgets.VBox):
    """The frame's controls; ``live`` False leaves out what needs the system."""

    def __init__(self, actions: Actions, live: bool) -> None:
        self.actions = actions
        self.kind = ipywidgets.Dropdown(
            options=KINDS, description="intervention", tooltip="What to do to the neurons"
        )
        self.fields = _fields()
        self.apply = _button("apply", "Put this intervention on the stack", "check")
        self.undo = _button("undo", "Make the stack what it was before its last change", "undo")
        self.bar = ipywidgets.IntProgress(description="computing", tooltip="Passes of the system")
        self.cancel = _button("cancel", "Stop what is being computed", "times")
        self.busy = ipywidgets.HBox([self.bar, self.cancel])
        self.neurons, self.said, self.note, self.found = (Plain() for _ in range(4))
        self.path = ipywidgets.Text(
            description="folder", placeholder="path of a folder of pictures",
            continuous_update=False, tooltip="A folder whose pictures are shown beside the run's",
        )  # fmt: skip
        self.show = _button("open folder", "Show the pictures of this folder", "folder-open")
        row = [self.kind, *self.fields.values(), self.apply, self.undo, self.busy]
        wrapped = ipywidgets.Layout(flex_flow="row wrap")
        rows = [
            ipywidgets.HBox(row, layout=wrapped),
            self.neurons,
            self.said,
            self.note,
            ipywidgets.HBox([self.path, self.show], layout=wrapped),
            self.found,
        ]
        for control in (self.kind, *self.fields.values(), self.path, self.bar):
            control.style.description_width = "initial"
        super().__init__(rows if live else [self.said])
        self._listen()
        self._choose()
        self.show_busy(None)

    def asked(self) -> dict[str, Any]:
        """Return what the controls say: ``kind`` and its fields."""
        kind = self.kind.value
        return {"kind": kind, **{name: self.fields[name].value for name in FIELDS[kind]}}

    # --- what it shows ------------------------------------------------------------------

    def show_neurons(self, neurons: Sequence[Neuron]) -> None:
        """Say which neurons an intervention would be applied to."""
        what = f"applies to {named(neurons)}" if neurons else "choose a neuron in the table"
        self.neurons.value = what
        self.apply.disabled = not neurons

    def show_stack(self, stack: Sequence[Mapping[str, Any]]) -> None:
        """Say what is untouched as long as something is stacked."""
        self.note.value = _NOTE if stack else ""

    def show_busy(self, busy: Mapping[str, Any] | None) -> None:
        """Show how far a computation has come, None for none."""
        self.busy.layout.display = "none" if busy is None else ""
        if busy is not None:
            self.bar.max = busy["total"] or max(busy["done"], 1)
            self.bar.value = min(busy["done"], self.bar.max)

    def say(self, text: str) -> None:
        """Say what went wrong with an intervention, or what came of it."""
        self.said.value = text

    def tell(self, text: str) -> None:
        """Say what a folder held, or what was wrong with it."""
        self.found.value = text

    # --- inside -------------------------------------------------------------------------

    def _listen(self) -> None:
        self.kind.observe(lambda _: self._choose(), "value")
        self.apply.on_click(lambda _: self.actions.apply(self.asked()))
        self.undo.on_click(lambda _: self.actions.undo())
        self.cancel.on_click(lambda _: self.actions.cancel())
        self.show.on_click(lambda _: self.actions.folder(self.path.value))

    def _choose(self) -> None:
        """Show the fields of the chosen kind."""
        for name, field in self.fields.items():
            field.layout.display = "" if name in FIELDS[self.kind.value] else "none"


def _fields() -> dict[str, ipywidgets.Widget]:
    """Make the controls of ``Intervention``'s fields."""
    usual = Intervention("ablate", (Neuron(0, 0),))
    return {
        "factor": ipywidgets.FloatSlider(
            2.0, min=LEAST, max=MOST, step=0.1, description="factor", continuous_update=False,
            tooltip="What activations are multiplied by: 0 ablates, 1 changes nothing",
        ),
        "sigma": ipywidgets.BoundedFloatText(
            usual.sigma, min=0.0, max=100.0, step=0.1, description="sigma",
            tooltip="Noise on write vectors, relative to their entries",
        ),
        "seed": ipywidgets.BoundedIntText(
            usual.seed, min=0, max=2**31 - 1, description="seed", tooltip="Draws the noise"
        ),
        "word": ipywidgets.Text(
            description="becomes", placeholder="a word", continuous_update=False,
            tooltip="What the noun is to become",
        ),
        "method": ipywidgets.Dropdown(
            options=METHODS, value=usual.method, description="method",
            tooltip="How the edit is found; squared has no threshold",
        ),
        "beta": ipywidgets.BoundedFloatText(
            usual.beta, min=0.0, max=1e6, step=0.5, description="beta",
            tooltip="Weight of the penalty on an edit's size",
        ),
    }  # fmt: skip


def _button(text: str, tooltip: str, icon: str) -> ipywidgets.Button:
    return ipywidgets.Button(description=text, tooltip=tooltip, icon=icon)
