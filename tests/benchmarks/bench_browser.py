"""How long a reader of the live browser waits: in a real browser, from the click to the paint.

``python -m tests.benchmarks.bench_browser``: the miniature, its atlas, Voila and Chromium on one
machine. A time ends two frames after everything that was waited for is in the document; medians
of twenty, on different pictures and neurons. Frames are counted while the threshold moves.
"""

from __future__ import annotations

import argparse
import base64
import tempfile
from collections.abc import Sequence
from pathlib import Path

import pandas as pd
from playwright.sync_api import Page

from mmn_utils.datasets import Photograph, load_dataset
from mmn_utils.presets import resolve
from mmn_utils.running.serve import NOTEBOOK, browser_copy
from tests.browser.chromium import Windows, started
from tests.browser.live.servers import voila
from tests.browser.live.steps import Reader

LOOK_UP, COMPUTED = 0.15, 1.0  # seconds
BOUNDS = {"own picture": COMPUTED, "ablation": COMPUTED}  # any other is a look-up
FRAME = 1 / 60  # seconds
FRAMES = 120

# Act, wait for the document to say so, and for two frames; then the same for all other parts.
# Milliseconds of both.
TIMED = """async ([act, done, all, value]) => {
  const root = document.querySelector(".mmn");
  const part = (name) => root.querySelector(`[data-part=${name}]`);
  const rest = (...names) => names.every((name) => part(name).dataset.state === "ready");
  const named = (name, text) => part(name).querySelector("h2").textContent.includes(text);
  const tools = { root, part, rest, named, value };
  const acting = new Function("tools", `with (tools) { ${act} }`);
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  const painted = async (what) => {
    const looking = new Function("tools", `with (tools) { return ${what}; }`);
    await new Promise((resolve) => {
      const look = () => looking(tools) && (watcher.disconnect(), resolve());
      const watcher = new MutationObserver(look);
      const kinds = { subtree: true, childList: true, attributes: true, characterData: true };
      watcher.observe(root, kinds);
      look();
    });
    await frame();
    await frame();
    return performance.now() - start;
  };
  const start = performance.now();
  acting(tools);
  return [await painted(done), await painted(`(${done}) && (${all})`)];
}"""
# Move the slider once a frame; return the times between frames, and those of each move.
MOVED = """async ([count]) => {
  const slider = document.querySelector(".mmn [data-part=threshold]");
  const frame = () => new Promise((resolve) => requestAnimationFrame(resolve));
  const between = [], moves = [];
  let last = await frame();
  for (let i = 0; i < count; i += 1) {
    const start = performance.now();
    slider.value = 0.3 + 0.65 * Math.abs(Math.sin(i / 15));
    slider.dispatchEvent(new Event("input", { bubbles: true }));
    moves.push(performance.now() - start);
    const now = await frame();
    between.push(now - last);
    last = now;
  }
  return [between, moves];
}"""
# All that follows from a choice: among it the heat maps of a neuron and of its control.
ALL = "rest('picture', 'caption', 'table', 'card', 'control', 'similar')"
# What is done, and what has to be there, of which the reader has asked for just that.
PICTURE = (
    "root.querySelector(`[data-part=grid] [data-image='${value}']`).click()",
    "named('picture', value) && rest('caption')",
)
NOUN = (
    "root.querySelector(`[data-part=caption] [data-noun='${value}']`).click()",
    "named('table', value) && rest('table')",
)
NEURON = (
    "root.querySelector(`[data-part=table] tr[data-address='${value}']`).click()",
    "named('card', value) && rest('card')",
)
SEARCH = (
    "const field = part('search').querySelector('input[type=search]'); field.value = value;"
    "field.form.requestSubmit()",
    "rest('search') && part('search').textContent.includes(`\u201c${value}\u201d`)",
)
DROP = (
    "const bytes = Uint8Array.from(atob(value[1]), (letter) => letter.charCodeAt(0));"
    "const dataTransfer = new DataTransfer();"
    "dataTransfer.items.add(new File([bytes], value[0]));"
    "part('drop').dispatchEvent(new DragEvent('drop', { dataTransfer, bubbles: true }))",
    "named('picture', value[0]) && rest('caption', 'table')",  # captioned, and scored
)
ABLATE = (
    "[...document.querySelectorAll('.jupyter-button')]"
    ".find((one) => one.textContent.trim() === 'apply').click()",
    "rest('outcome') && part('outcome').querySelectorAll('.stack li').length === 1"
    " && part('outcome').querySelector('.effect') !== null",
)


class Stopwatch:
    """Times what a reader does."""

    def __init__(self, page: Page) -> None:
        self.page, self.reader, self.times = page, Reader(page), {}

    def time(self, name: str, step: tuple[str, str], value=None) -> None:
        found = self.page.evaluate(TIMED, [*step, ALL, value])
        self.times.setdefault(name, []).append([milliseconds / 1e3 for milliseconds in found])

    def look_around(self, image: str) -> None:
        """Time the look-ups on a picture, and an ablation that is undone."""
        self.time("picture", PICTURE, image)
        nouns = self.reader.part("caption").locator("[data-noun]")
        names = list(dict.fromkeys(one.get_attribute("data-noun") for one in nouns.all()))
        if len(names) > 1:
            self.time("noun", NOUN, names[1])
        if names:
            self.time("search", SEARCH, names[0])
            row = self.reader.rows.nth(3)
            self.time("neuron", NEURON, row.get_attribute("data-address"))
            self.time("ablation", ABLATE)
            self.reader.widget("button", "undo").click()
            self.reader.part("outcome").wait_for(state="hidden")

    def frames(self) -> pd.DataFrame:
        between, moves = self.page.evaluate(MOVED, [FRAMES])
        return pd.DataFrame({"frame": between, "move": moves}) / 1e3


def measure(
    page: Page, images: Sequence[str], own: Sequence[Photograph]
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Time what a reader does on a page that shows the browser: (steps, frames), in seconds.

    ``images`` of the run that are opened, ``own`` photographs that are dropped. ``all`` is the
    median until every part has followed, heat maps and neighbours among them.
    """
    watch = Stopwatch(page)
    for image in images:
        watch.look_around(image)
    for one in own:
        text = base64.b64encode(one.path.read_bytes()).decode()
        watch.time("own picture", DROP, [f"own-{one.id}.jpg", text])
    frames = watch.frames()
    rows = {}
    for name, values in watch.times.items():
        found, settled = (pd.Series(some) for some in zip(*values, strict=True))
        rows[name] = [found.median(), found.max(), settled.median(), len(found)]
    table = pd.DataFrame(rows, index=["median", "longest", "all", "n"]).T
    table["bound"] = [BOUNDS.get(name, LOOK_UP) for name in table.index]
    return table.rename_axis("step"), frames


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--preset", default="miniature")
    parser.add_argument("--count", type=int, default=20)
    chosen = parser.parse_args()
    asked = resolve(NOTEBOOK, chosen.preset)
    count, known = chosen.count, asked["n_images"]
    data = load_dataset(asked["dataset"], asked["data_root"] or None)
    every = data.sample(known + count, asked["seed"])
    with tempfile.TemporaryDirectory() as name, started() as chromium:
        folder = Path(name)
        notebook = browser_copy(chosen.preset, folder=folder / "notebook")
        with voila(notebook, folder, own_results=False) as server:
            page = Windows(chromium)(1400, 1000, offline=False)
            page.goto(server.url, wait_until="commit", timeout=120_000)
            Reader(page).arrive()
            images = [one.id for one in every[1 : count + 1]]
            table, frames = measure(page, images, every[known:])
    report(table, frames)


def report(table: pd.DataFrame, frames: pd.DataFrame) -> None:
    """Print both, in milliseconds."""
    shown = table * {"median": 1e3, "longest": 1e3, "all": 1e3, "n": 1, "bound": 1e3}
    print(shown.round(0).astype(int).to_string())
    late = (frames["frame"] > 1.5 * FRAME).mean()
    print(
        f"milliseconds; the threshold moves at {1 / frames['frame'].median():.0f} frames a second, "
        f"{late:.0%} of {len(frames)} late; a move takes {frames['move'].median() * 1e3:.1f} ms, "
        f"at most {frames['move'].max() * 1e3:.1f}"
    )


if __name__ == "__main__":
    main()
