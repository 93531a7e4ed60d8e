"""The neuron browser in a notebook: the front's views in a frame of ipywidgets.

Look-ups are answered as they come in. What runs the system goes to one worker thread, so that
the kernel can take the next message, a cancel among them; results come back on the kernel's
own loop, which alone touches widgets. Under ``MMN_HEADLESS``, as notebooks run without a
reader, there is no thread, and what is displayed is a still.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import os
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import anywidget
import ipywidgets
import traitlets

from mmn_utils.browser.address import EMPTY, View, read, write
from mmn_utils.browser.front import bundle, style
from mmn_utils.browser.live import still
from mmn_utils.browser.live.panel import Panel
from mmn_utils.browser.live.session import Session, of_preset
from mmn_utils.browser.live.stack import Intervention
from mmn_utils.browser.live.work import Cancelled, Done, Job, Worker
from mmn_utils.neurons.table import Neuron, check_neurons, neuron_at
from mmn_utils.presets import Preset

UNSEEN = 0.3  # seconds that a computation runs before it is shown
HEADLESS = "MMN_HEADLESS"  # environment variable, set where no reader can answer
_open: weakref.WeakSet[Browser] = weakref.WeakSet()


class Front(anywidget.AnyWidget):
    """The views; ``view`` goes both ways, ``state`` and ``pictures`` come from Python."""

    _esm = bundle("widget")
    _css = style()
    view = traitlets.Dict().tag(sync=True)
    state = traitlets.Dict().tag(sync=True)
    pictures = traitlets.Int(0).tag(sync=True)  # grows whenever there are others


class Browser(ipywidgets.VBox):
    """The neuron browser of a preset's run, or of an open session.

    ``address`` says where it opens, such as ``#L7.u15772@image``; by default at the first
    picture, its first noun and that one's best neuron. ValueError for an address that is not
    understood; other errors as ``session.of_preset``. ``close`` ends what is running.
    """

    def __init__(
        self, session: Session | str | Path | Preset = "miniature", address: str = ""
    ) -> None:
        self.session = session if isinstance(session, Session) else of_preset(session)
        self.headless = bool(os.environ.get(HEADLESS))
        self.front = Front(view=first_view(self.session, address), state=_state(self.session))
        self.panel = Panel(self, live=self.session.model is not None)
        self._loop = None if self.headless else _running_loop()
        self.worker = Worker(self._deliver, threaded=not self.headless)
        self.worker.progress = self._progress
        self._looking: Job | None = None
        self.front.on_msg(self._asked)
        self.front.observe(self._moved, "view")
        super().__init__([self.panel, self.front])
        self.panel.show_neurons(self.neurons)
        if self.session.model is None:
            self.panel.say(self.session.missing)
        _open.add(self)

    @property
    def view(self) -> View:
        """What is shown: image, noun, method, neuron, chosen, patch, quantile, search, map."""
        return {**EMPTY, **self.front.view}

    @property
    def address(self) -> str:
        """The view's address, to be cited and opened again."""
        return write(self.view)

    @property
    def neurons(self) -> tuple[Neuron, ...]:
        """The neurons that an intervention is applied to: the chosen ones, or the one shown."""
        some = self.view["chosen"] or [self.view["neuron"] or ""]
        found = []
        for address in some:
            with contextlib.suppress(ValueError):
                found.append(neuron_at(self.session.atlas.facts, str(address)))
        return tuple(found)

    def go(self, address: str = "", **view) -> None:
        """Go to an address, or change parts of the view; ValueError for a bad address."""
        to = _understood(address) if address else self.view
        self.front.view = {**to, **view}

    def python(self) -> str:
        """Write the Python that gives the present view, and the outcome of the stack."""
        stack = self.session.stack.entries if self.session.model is not None else ()
        return still.code(self.session, self.view, stack)

    # --- what the panel and the front start ---------------------------------------------

    def apply(self, asked: Mapping[str, Any]) -> None:
        """Put an intervention on the stack, applied to ``neurons`` for the view's picture."""
        view = self.view

        def work(job: Job):
            if view["image"] is None:
                raise ValueError("no picture is chosen; choose one in the grid")
            intervention = Intervention(neurons=neurons, **asked)
            return self.session.stack.apply(intervention, view["image"], view["noun"], job)

        neurons = self.neurons
        self._start(f"{asked.get('kind')}", work, self._stacked)

    def undo(self) -> None:
        """Make the stack what it was before its last change."""
        self._start("undo", lambda job: self.session.stack.undo(job), self._stacked)

    def remove(self, number: int) -> None:
        """Take one intervention off the stack, by its id."""
        self._start("remove", lambda job: self.session.stack.remove(number, job), self._stacked)

    def folder(self, path: str) -> None:
        """Show the pictures of a folder beside the run's."""

        def done(found, error: Exception | None) -> None:
            if error is not None:
                self.panel.tell(sentence(error))
                return
            self.front.pictures += 1
            count = len(found.pictures)
            shown = f"{count} {'picture' if count == 1 else 'pictures'} of {path}"
            self.panel.tell("; ".join([shown, *found.unreadable.values()]))
            self.go(image=found.pictures[0], noun=None, patch=None)

        self.panel.tell("")
        self._start(f"reading {path}", lambda job: self.session.folder(path, job), done)

    def cancel(self) -> None:
        """Stop what is running, and what waits behind it."""
        self.worker.cancel()

    def close(self) -> None:
        """Stop everything; no hook is left on the system, whose weights are as they were."""
        if not hasattr(self, "worker"):
            return  # it never opened
        self.worker.close()
        self.front.on_msg(self._asked, remove=True)
        self.front.close()
        self.panel.close()
        super().close()
        _open.discard(self)

    # --- messages -----------------------------------------------------------------------

    def _asked(self, _, content: Any, buffers: list) -> None:
        """Answer a message of the front, at once or when it has been computed."""
        if not isinstance(content, dict) or "ask" not in content:
            return
        number, name = content.get("id"), str(content["ask"])
        args = dict(content.get("args") or {})

        def done(answer, error: Exception | None) -> None:
            said = {"answer": answer} if error is None else {"error": sentence(error)}
            self.front.send({"id": number, **said})
            if name in ("undo", "remove"):
                self._stacked(None, error)

        try:
            if name == "cancel":
                self.cancel()
                done({}, None)
                return
            if name == "own":
                args["buffer"] = bytes(buffers[0]) if buffers else b""
            if self.session.quick(name, args):
                done(self.session.ask(name, args), None)
                return
        except Exception as error:  # whatever it was, the front is told and goes on
            done(None, error)
            return
        self._start(name, lambda job: self.session.ask(name, args, job), done)

    def _start(self, what: str, work: Callable[[Job], Any], done: Done) -> Job:
        self.panel.say("")
        return self.worker.submit(Job(what), work, done)

    def _stacked(self, _result, error: Exception | None) -> None:
        """Show the stack as it has become, and its outcome for what is now in view."""
        self._push(error)
        outcome = self.session.state["outcome"]
        view = self.view
        if outcome and (outcome["image"], outcome["noun"]) != (view["image"], view["noun"]):
            self._look()

    def _moved(self, change) -> None:
        """Follow the view: the neurons it chooses, and the stack's outcome for its picture."""
        self.panel.show_neurons(self.neurons)
        parts = [(side.get("image"), side.get("noun")) for side in (change.old, change.new)]
        if parts[0] != parts[1] and self.session.state["stack"]:
            self._look()

    def _look(self) -> None:
        image, noun = self.view["image"], self.view["noun"]
        if self._looking is not None:
            self._looking.cancel()
        if image is None:
            return

        def done(_outcome, error: Exception | None) -> None:
            if job is self._looking:  # otherwise a later one is on its way
                self._push(error)

        job = Job("the outcome")
        self._looking = job
        self.worker.submit(job, lambda job: self.session.stack.look(image, noun, job), done)

    def _deliver(self, call: Callable[[], None]) -> None:
        """Hand a result over on the kernel's loop; in a plain script, at once."""
        if self._loop is None:
            call()
            return
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is there any more
            self._loop.call_soon_threadsafe(call)

    def _progress(self, job: Job | None) -> None:
        """Show a job that has been running for a while; a short one would only flicker."""
        if job is None or self._loop is None:
            self._show_busy(job)
        else:
            self._loop.call_later(UNSEEN, self._show_busy, job)

    def _show_busy(self, job: Job | None) -> None:
        if job is not self.worker.running:
            return  # it has ended since
        busy = job and {"what": job.what, "done": job.done, "total": job.total}
        self.front.state = {**self.front.state, "busy": busy}
        self.panel.show_busy(busy)

    def _push(self, error: Exception | None = None) -> None:
        text = None if error is None else sentence(error)
        state = self.session.state
        if state["outcome"] is not None:
            state["outcome"]["code"] = self.python()
        self.front.state = {**self.front.state, **state, "error": text}
        self.panel.show_stack(state["stack"])
        self.panel.say(text or in_short(state["outcome"]))

    # --- display ------------------------------------------------------------------------

    def _repr_mimebundle_(self, **options):
        """Give the widget, and a still of the view for where no kernel runs."""
        bundle = {} if self.headless else dict(super()._repr_mimebundle_(**options) or {})
        html = still.html(self.session, self.view, heat=self.headless)
        run = self.session.atlas.facts.run
        return {**bundle, "text/plain": f"Browser({run!r}, {self.address!r})", "text/html": html}


def first_view(session: Session, address: str = "") -> View:
    """Return the view of an address, what it leaves open filled in.

    A neuron without a picture gets its strongest, a picture without a noun its caption's
    first, if it has one, and a noun without a neuron the best by the method. ValueError for
    an address that is not understood.
    """
    view, facts = _understood(address), session.atlas.facts
    some = (neuron_at(facts, one) for one in filter(None, [view["neuron"], *view["chosen"]]))
    check_neurons(some, facts.layers, facts.units)
    if view["image"] is None and view["neuron"] is not None:
        view["image"] = session.atlas.neuron(view["neuron"]).sights["strongest"][0].image
    elif view["image"] is None:
        view["image"] = session.facts()["pictures"][0]["id"]
    if view["noun"] is None:
        view["noun"] = next(iter(session.picture(view["image"])["nouns"]), None)
    if view["neuron"] is None and view["noun"] is not None:
        rows = session.top(view["image"], view["noun"], 1)["rows"]
        view["neuron"] = rows.get(view["method"], rows["attribution"])[0][0]
    return view


def in_short(outcome: Mapping[str, Any] | None) -> str:
    """Put an outcome into one line: what is said now, and how probable the noun is."""
    if outcome is None:
        return ""
    before, after = outcome["before"], outcome["after"]
    said = f"says “{after['caption']}”"
    said += f" instead of “{before['caption']}”" if outcome["changed"] else ", as before"
    if outcome["noun"] is not None:
        change = f"{before['probability']:.3f} to {after['probability']:.3f}"
        said += f"; probability of “{outcome['noun']}” from {change}"
    return said


def sentence(error: Exception) -> str:
    """Put an error into words for a reader: its own, or its kind where it has none."""
    text = str(error).strip()
    if text and isinstance(error, ValueError | OSError | RuntimeError | Cancelled):
        return text
    return f"{type(error).__name__}: {text or 'no more is known'}"


def _understood(address: str) -> View:
    view, trouble = read(address)
    if trouble:
        raise ValueError(f"the address {address!r}: {'; '.join(trouble)}")
    return view


def _state(session: Session) -> dict[str, Any]:
    return {"busy": None, **session.state, "error": None}


def _running_loop() -> asyncio.AbstractEventLoop | None:
    """Return the loop that runs now, a kernel's, if there is one."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


@atexit.register
def _stop_all() -> None:
    for browser in list(_open):
        browser.worker.close()
