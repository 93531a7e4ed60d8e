"""One worker thread: order, progress, cancelling in the midst of a pass, closing."""

from __future__ import annotations

import threading
import time

import pytest
import torch

from mmn_utils.browser.live.work import Cancelled, Job, Worker, watched
from mmn_utils.neurons.captions import generate
from tests.browser.live.hooks import hooks
from tests.tiny import tiny_images, tiny_limber


@pytest.fixture(scope="module")
def model():
    return tiny_limber()


@pytest.fixture
def worker():
    worker = Worker()
    yield worker
    worker.close()


class Answers:
    """Collects what jobs ended with, and waits for it."""

    def __init__(self):
        self.all, self._more = [], threading.Semaphore(0)

    def __call__(self, result, error):
        self.all.append((result, error))
        self._more.release()

    def wait(self, count=1):
        for _ in range(count):
            assert self._more.acquire(timeout=20)
        return self.all


def test_jobs_run_one_after_the_other_on_one_other_thread(worker):
    answers, threads = Answers(), []

    def work(job):
        threads.append(threading.current_thread())
        return job.what

    for name in "abc":
        worker.submit(Job(name), work, answers)
    assert answers.wait(3) == [("a", None), ("b", None), ("c", None)]
    assert len(set(threads)) == 1
    assert threads[0] is not threading.current_thread()


def test_a_job_without_a_thread_has_run_when_submit_returns():
    answers, here = Answers(), threading.current_thread()
    alone = Worker(threaded=False)
    alone.submit(Job("a"), lambda job: threading.current_thread() is here, answers)
    assert answers.all == [(True, None)]


def test_gradients_are_off_unless_somebody_turns_them_on(worker):
    answers = Answers()
    worker.submit(Job("a"), lambda job: torch.is_grad_enabled(), answers)
    assert answers.wait() == [(False, None)]


def test_an_error_is_an_answer_and_the_next_job_runs(worker):
    answers = Answers()
    worker.submit(Job("a"), lambda job: 1 / 0, answers)
    worker.submit(Job("b"), lambda job: "fine", answers)
    (nothing, error), after = answers.wait(2)
    assert nothing is None
    assert isinstance(error, ZeroDivisionError)
    assert after == ("fine", None)


def test_results_are_handed_over_where_the_owner_wants_them():
    calls = []
    worker = Worker(calls.append)
    answers = Answers()
    worker.submit(Job("a"), lambda job: 3, answers)
    while worker.running or not calls:
        time.sleep(0.005)
    assert answers.all == []
    for call in list(calls):
        call()
    assert answers.all == [(3, None)]
    worker.close()


def test_nothing_is_handed_over_after_closing():
    calls, answers, go = [], Answers(), threading.Event()
    worker = Worker(calls.append)
    worker.submit(Job("a"), lambda job: go.wait(20), answers)
    worker.submit(Job("b"), lambda job: None, answers)
    threading.Timer(0.05, go.set).start()
    worker.close()
    for call in list(calls):
        call()
    assert answers.all == []
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(Job("c"), lambda job: None, answers)


def test_passes_are_counted(model):
    job = Job("caption", 4)
    with watched(model, job):
        generate(model, model.prompt(tiny_images(1)), 4)
    assert 1 <= job.done <= 4
    assert hooks(model) == 0


def test_a_pass_is_stopped_between_two_layers(model):
    job, reached = Job("caption"), []
    handles = [
        model.layer(layer).register_forward_hook(lambda *_, layer=layer: reached.append(layer))
        for layer in range(model.sizes.layers)
    ]
    stop = model.layer(0).register_forward_hook(lambda *_: job.cancel())
    prompt = model.prompt(tiny_images(1))
    try:
        with pytest.raises(Cancelled, match="caption: cancelled"), watched(model, job):
            model.forward(prompt)
    finally:
        for handle in (*handles, stop):
            handle.remove()
    assert reached == [0]
    assert hooks(model) == 0


def test_cancelling_stops_the_running_job_and_all_that_wait(model, worker):
    answers, started = Answers(), threading.Event()

    def endless(job):
        prompt = model.prompt(tiny_images(1))
        with watched(model, job):
            while True:
                model.forward(prompt)
                started.set()

    worker.submit(Job("long"), endless, answers)
    worker.submit(Job("behind"), lambda job: "ran", answers)
    assert started.wait(20)
    worker.cancel()
    errors = [error for _, error in answers.wait(2)]
    assert [str(error) for error in errors] == ["long: cancelled", "behind: cancelled"]
    assert hooks(model) == 0
    worker.submit(Job("after"), lambda job: "ran", answers)
    assert answers.wait()[-1] == ("ran", None)


def test_progress_is_told_and_ends_with_none(worker):
    told, answers = [], Answers()
    worker.progress = lambda job: told.append(job and (job.what, job.done, job.total))

    def work(job):
        job.expect(2)
        time.sleep(0.15)
        job.step()
        time.sleep(0.15)
        job.expect(1)
        job.step()

    worker.submit(Job("count"), work, answers)
    answers.wait()
    while told[-1] is not None:
        time.sleep(0.005)
    assert told == [("count", 0, None), ("count", 1, 2), ("count", 2, 2), None]
