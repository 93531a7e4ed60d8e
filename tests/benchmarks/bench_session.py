"""How long the live browser's kernel takes, from a message that comes in to its answer.

``python -m tests.benchmarks.bench_session``: the miniature and its atlas, one thread, the
widget without a page; the median of twenty, on different pictures and neurons. A new picture
is captioned and its first noun scored by three methods; an ablation makes a new caption.
"""

from __future__ import annotations

import argparse
import io
import time
from collections.abc import Callable, Iterator

import pandas as pd
import torch

from mmn_utils.browser.live.session import Session, of_preset
from mmn_utils.browser.live.widget import Browser

LOOK_UP, COMPUTED = 0.05, 1.0  # seconds
BOUNDS = {"own": COMPUTED, "word": COMPUTED, "exact": 2.0, "ablate": COMPUTED}
BOUNDS |= {"maps": 0.15, "patch": COMPUTED}  # any other is a look-up
BESIDE = 20  # neurons that are ablated one by one for the table


class Messages:
    """A browser whose front is this object: it sends questions and takes the answers."""

    def __init__(self, session: Session) -> None:
        self.browser, self.answer = Browser(session), None
        self.browser.front.send = self._take

    def _take(self, content: dict, buffers=None) -> None:
        self.answer = content

    def ask(self, question: str, buffer: bytes | None = None, /, **args) -> float:
        """Return the seconds that an answer takes; RuntimeError where it is none."""
        self.answer, content = None, {"id": "1", "ask": question, "args": args}
        start = time.perf_counter()
        self.browser.front._handle_custom_msg(content, [] if buffer is None else [buffer])
        while self.answer is None:
            time.sleep(0.0005)
        seconds = time.perf_counter() - start
        if "error" in self.answer:
            raise RuntimeError(f"{question}: {self.answer['error']}")
        return seconds

    def ablate(self, image: str, noun: str, neuron: str) -> float:
        """Return the seconds from the button to the outcome; the stack is empty afterwards."""
        self.browser.go(image=image, noun=noun, neuron=neuron, chosen=[])
        start = time.perf_counter()
        self.browser.panel.apply.click()
        while not self.browser.front.state["stack"]:
            time.sleep(0.0005)
        seconds = time.perf_counter() - start
        self.ask("undo")
        return seconds


def rounds(messages: Messages, count: int) -> Iterator[dict[str, Callable[[], float]]]:
    """Give each round's questions, on a picture and a neuron of its own."""
    session = messages.browser.session
    found = [one["id"] for one in session.facts()["pictures"]]
    for place, image in enumerate(i for i in found if session.picture(i)["nouns"]):
        if place == count:
            return
        noun = session.picture(image)["nouns"][0]
        rows = session.top(image, noun, BESIDE)["rows"]["attribution"]
        neurons, stream = [row[0] for row in rows], io.BytesIO()
        session.open(image).save(stream, "PNG")
        session.views._read.clear()  # or the pictures would be known already
        yield asked(messages, image, noun, neurons, stream.getvalue())


def asked(messages: Messages, image, noun, neurons, content) -> dict[str, Callable[[], float]]:
    """Name the questions of one round."""
    ask, one = messages.ask, neurons[0]
    some = {"image": image, "noun": noun}
    return {
        "facts": lambda: ask("facts"),
        "picture": lambda: ask("picture", image=image),
        "top": lambda: ask("top", **some, k=100),
        "card": lambda: ask("card", neuron=one),
        "control": lambda: ask("control", neuron=one),
        "similar": lambda: ask("similar", neuron=one),
        "search": lambda: ask("search", word=noun, end="writes"),
        "filter": lambda: ask("filter", interpretable=True),
        "thumbs": lambda: ask("thumbs", images=[image]),
        "maps": lambda: ask("maps", image=image, neurons=[one]),
        "patch": lambda: ask("patch", **some, patch=0),
        "word": lambda: ask("word", image=image, noun="river"),
        "exact": lambda: ask("exact", **some, neurons=neurons),
        "ablate": lambda: messages.ablate(image, noun, one),
        "own": lambda: ask("own", content, name=f"{image}.png"),
    }


def measure(session: Session, count: int = 20, skip: tuple[str, ...] = ()) -> pd.DataFrame:
    """Time every question in turns: median and longest seconds, beside the bound."""
    messages, times = Messages(session), {}
    for questions in rounds(messages, count):
        for name, question in questions.items():
            if name not in skip:
                times.setdefault(name, []).append(question())
    messages.browser.close()
    seconds = pd.DataFrame(times)
    table = pd.DataFrame({"median": seconds.median(), "longest": seconds.max()})
    table["bound"] = [BOUNDS.get(name, LOOK_UP) for name in table.index]
    return table.rename_axis("question")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="miniature")
    parser.add_argument("--count", type=int, default=20)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    table = measure(of_preset(chosen.preset), chosen.count)
    print((table * 1e3).round(1).to_string())
    print("milliseconds")


if __name__ == "__main__":
    main()
