"""One thread for what takes long, so that whoever asked stays free to cancel it.

Jobs run one after the other. Their results are handed over where the owner wants them, a
kernel's own loop, and none after the worker has been closed.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

Deliver = Callable[[Callable[[], None]], Any]
Done = Callable[[Any, Exception | None], None]
SECONDS_BETWEEN = 0.1  # two reports of progress
PATIENCE = 10.0  # seconds that closing waits for the running job to notice


class Cancelled(Exception):
    """A job was stopped on request."""


class Job:
    """Work that is counted and can be stopped: ``done`` of ``total`` steps, None if unknown."""

    def __init__(self, what: str, total: int | None = None) -> None:
        self.what, self.total, self.done = what, total, 0
        self.report: Callable[[], None] = lambda: None
        self._stop = threading.Event()

    def cancel(self) -> None:
        """Ask the job to stop at its next step."""
        self._stop.set()

    def check(self) -> None:
        """Raise ``Cancelled`` where that was asked for."""
        if self._stop.is_set():
            raise Cancelled(f"{self.what}: cancelled")

    def step(self, count: int = 1) -> None:
        """Count steps that are about to be made, and stop instead where that was asked for."""
        self.check()
        self.done += count
        self.report()

    def expect(self, more: int) -> None:
        """Say how many steps are to come, at most."""
        self.total = self.done + more


@contextmanager
def watched(model, job: Job | None) -> Iterator[None]:
    """Count a model's passes as a job's steps, and stop them between two layers.

    The hooks come off whatever happens. The last layer has none: those that spare a part of
    it (``capture.spare_last``) do so only where nobody looks.
    """
    if job is None or model is None:
        yield
        return
    with ExitStack() as hooks:
        handle = model.language_model.register_forward_pre_hook(lambda *_: job.step())
        hooks.callback(handle.remove)
        for layer in range(model.sizes.layers - 1):
            handle = model.layer(layer).register_forward_pre_hook(lambda *_: job.check())
            hooks.callback(handle.remove)
        job.check()
        yield


class Worker:
    """Runs jobs on a thread of its own, or at once where it has none (``threaded`` False).

    ``deliver`` takes a function and calls it where results are wanted, at once by default.
    """

    def __init__(self, deliver: Deliver | None = None, threaded: bool = True) -> None:
        self._deliver = deliver or (lambda call: call())
        self._threaded = threaded
        self._queue: deque[tuple[Job, Callable[[Job], Any], Done]] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.running: Job | None = None
        self.progress: Callable[[Job | None], None] = lambda job: None

    def submit(self, job: Job, work: Callable[[Job], Any], done: Done) -> Job:
        """Queue ``work``; ``done`` gets its result, or the exception that ended it.

        RuntimeError once the worker is closed.
        """
        if self._closed:
            raise RuntimeError("the browser is closed; open it again")
        if not self._threaded:
            self._run(job, work, done)
            return job
        with self._changed:
            self._queue.append((job, work, done))
            if self._thread is None:
                self._thread = threading.Thread(target=self._loop, name="browser", daemon=True)
                self._thread.start()
            self._changed.notify()
        return job

    def cancel(self) -> None:
        """Stop the running job at its next layer, and all that wait behind it."""
        with self._changed:
            for job, *_ in self._queue:
                job.cancel()
            if self.running is not None:
                self.running.cancel()

    def close(self) -> None:
        """Stop everything and wait for it; no result is handed over any more."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            if self.running is not None:
                self.running.cancel()
            self._changed.notify()
        if self._thread is not None and self._thread is not threading.current_thread():
            self._thread.join(PATIENCE)

    # --- inside -------------------------------------------------------------------------

    def _loop(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or self._queue)
                if self._closed:
                    return
                job, work, done = self._queue.popleft()
                self.running = job
            self._run(job, work, done)

    def _run(self, job: Job, work: Callable[[Job], Any], done: Done) -> None:
        self.running, said = job, 0.0

        def report() -> None:
            nonlocal said
            now = time.monotonic()
            if now - said >= SECONDS_BETWEEN:
                said = now
                self._hand_over(lambda: self.progress(job if self.running is job else None))

        job.report = report
        result, error = None, None
        try:
            # Grad mode belongs to a thread; what needs gradients turns them on itself.
            with torch.no_grad():
                job.check()
                report()
                result = work(job)
        except Exception as problem:  # every job answers, whatever ended it
            error = problem
        self.running = None
        self._hand_over(lambda: done(result, error))
        self._hand_over(lambda: self.progress(self.running))

    def _hand_over(self, call: Callable[[], None]) -> None:
        def unless_closed() -> None:
            if not self._closed:
                call()

        if not self._closed:
            self._deliver(unless_closed)
