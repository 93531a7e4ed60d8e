"""Pages for tests of the front end: a small invented run, packed as the static page packs one."""

from __future__ import annotations

import base64
import gzip
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
from pycocotools import mask as coco_mask

from mmn_utils.browser.front import bundle, style

# Texts as vocabularies and people have them; the picture's handler would leave a mark.
MARKUP = ("<b>bold</b>", "&amp;", "<img src=x onerror='window.touched = 1'>", "</script>", "\n", "")
LAYERS, UNITS, GRID, PIXELS, PICTURES = 3, 40, (4, 5), 40, 30
METHODS = ("attribution", "contribution", "activation")
WORDS = {"picture": "scene", "pictures": "scenes", "reference": "reference caption",
         "references": "reference captions"}  # fmt: skip
CAPTION = [["a ", None], ["horse", "horse"], [" and a <b>boat</b> &amp; a ", None], ["dog", "dog"]]


def invented(seed: int = 0) -> dict:
    """Invent a run: 30 pictures with two nouns each, 3 x 40 neurons, all of them held."""
    rng = np.random.default_rng(seed)
    neurons = [f"L{layer}.u{unit}" for layer in range(LAYERS) for unit in range(UNITS)]
    pictures = {f"p{i}": picture(rng, i) for i in range(PICTURES)}
    tops = {i: {noun: top(rng, len(neurons)) for noun in ("horse", "dog")} for i in pictures}
    pictures["p3"] |= {"pieces": [["nothing.", None]], "nouns": [], "caption": "nothing."}
    edges = [-1.0, -0.5, 0.0, 0.5, 1.0]
    return {
        "facts": {
            "run": "invented", "system": "invented/system", "revision": "0", "layers": LAYERS,
            "units": UNITS, "vocabulary": 60, "grid": list(GRID), "pixels": PIXELS, "k": 20,
            "methods": list(METHODS), "edges": edges, "categories": ["cat"], "generic": 0.2,
            "live": False, "seed": 0, "words": WORDS,
            "pictures": [{"id": i, "caption": p["caption"]} for i, p in pictures.items()],
        },
        "pictures": pictures,
        "neurons": neurons,
        "about": [about(rng) for _ in neurons],  # their words are their cards'
        "tops": tops,
        "maps": {image: [field(rng, i) for i in range(len(neurons))] for image in ("p0", "p1")},
        "cards": [card(rng, i, edges) for i in range(len(neurons))],
        "controls": [i + 1 if (i + 1) % UNITS else i - 1 for i in range(len(neurons))],
        "similar": [[[[(i + 7) % 120, 0.5]], [[(i + 9) % 120, 3]]] for i in range(len(neurons))],
        "exact": True,
    }  # fmt: skip


def picture(rng, i: int) -> dict:
    pixels = np.zeros((30, 36), np.uint8, order="F")
    pixels[5:20, 8 : 12 + i % 10] = 1
    runs = coco_mask.encode(pixels)["counts"].decode()
    colour = f"rgb({','.join(map(str, rng.integers(60, 250, 3)))})"
    size = "width='60' height='48'"
    svg = f"<svg xmlns='http://www.w3.org/2000/svg' {size}><rect {size} fill='{colour}'/></svg>"
    masks = [{"category": "cat", "crowd": bool(i % 2), "size": [30, 36], "runs": runs}]
    return {
        "src": "data:image/svg+xml;base64," + base64.b64encode(svg.encode()).decode(),
        "width": 60, "height": 48, "caption": "".join(text for text, _ in CAPTION),
        "pieces": CAPTION, "nouns": ["horse", "dog"], "human": ["a <i>horse</i>"], "masks": masks,
    }  # fmt: skip


def tokens(rng) -> list[str]:
    return [MARKUP[i] if i < len(MARKUP) else f" word{i}" for i in rng.permutation(30)[:10]]


def about(rng) -> list:
    return [*(int(rng.random() < share) for share in (0.5, 0.4, 0.3)), int(rng.integers(5))]


def top(rng, count: int) -> dict:
    return {
        method: [
            [int(i), float(score), int(rng.integers(-1, 20)), int(rng.choice([-1, 1]))]
            for i, score in zip(
                rng.permutation(count)[:30], -np.sort(-rng.normal(size=30)), strict=True
            )
        ]
        for method in METHODS
    }


def field(rng, i: int) -> list:
    low, high = sorted(rng.normal(size=2))
    return [i, low, high, base64.b64encode(rng.integers(0, 256, 20, dtype=np.uint8)).decode()]


def card(rng, i: int, edges) -> dict:
    ends = ("writes", "suppresses", "writes_final", "suppresses_final")
    logits = -np.sort(-rng.random(10))
    return {
        "tokens": {
            end: [[t, float(v)] for t, v in zip(tokens(rng), logits, strict=True)] for end in ends
        },
        "histogram": rng.integers(0, 1000, len(edges) + 1).tolist(),
        "negative": 0.25, "overlaps": [["cat", 0.5], ["<u>dog</u>", 0.1]],
        "sights": {kind: [[f"p{j}", float(rng.normal()), j % 20] for j in range(6)]
                   for kind in ("strongest", "middle", "random")},
        "places": [["attribution", f"p{i % PICTURES}", "horse", 3, 0.1, 3, -1],
                   ["contribution", f"p{(i + 1) % PICTURES}", "dog", 1, float(i), -1, 1]],
    }  # fmt: skip


def without_grid(data: dict) -> dict:
    """Make it a run of a system whose image tokens have no place in the picture."""
    return data | {"facts": data["facts"] | {"grid": None}, "maps": {}}


def write_page(path: Path, data: dict) -> str:
    """Write a page as the static page is written; return its file's address."""
    packed = base64.b64encode(gzip.compress(json.dumps(data).encode(), mtime=0)).decode()
    path.write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>browser</title>'
        f'<style>{style()}</style></head><body class="mmn-page"><div id="browser"></div>'
        f'<script type="application/json" id="data">"{packed}"</script>'
        f'<script type="module">{bundle("static")}</script></body></html>',
        encoding="utf-8",
    )
    return path.as_uri()


class Shown:
    """What the tests ask a page that shows a browser."""

    def __init__(self, page) -> None:
        self.page = page

    def part(self, name: str):
        return self.page.locator(f'.mmn [data-part="{name}"]')

    def titled(self, name: str, text: str) -> None:
        """Wait until a part's heading is a text."""
        from playwright.sync_api import expect  # only where there is a browser

        expect(self.part(name).locator("h2")).to_have_text(text)

    def settled(self, hash_: str) -> None:
        """Wait until the address is one."""
        self.page.wait_for_function("hash => location.hash === hash", arg=hash_)

    def rows(self, name: str) -> list[str]:
        rows = self.part(name).locator("tbody tr[data-address]")
        return rows.evaluate_all("rows => rows.map((row) => row.dataset.address)")

    def heat(self, name: str = "overlay") -> SimpleNamespace:
        """Read what a heat map says of itself: threshold and pixels above."""
        found = self.part(name).evaluate("canvas => ({...canvas.dataset})")
        return SimpleNamespace(threshold=float(found["threshold"]), above=int(found["above"]))


def map_of(data: dict, image: str, address: str) -> np.ndarray:
    """Decode a kept map as the contract has it: (rows, columns) float64."""
    place = data["neurons"].index(address)
    low, high, text = next(row[1:] for row in data["maps"][image] if row[0] == place)
    values = np.frombuffer(base64.b64decode(text), np.uint8).reshape(data["facts"]["grid"])
    return low + values / 255 * (high - low)
