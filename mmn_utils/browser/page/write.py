"""The browser as one file, without a server and without a kernel: figures/RUN/browser.html.

    from mmn_utils.browser.page.write import write_page

    print(write_page("miniature", model))

The page holds the answers for the run's pictures and its top neurons, as many as fit. It refers
to the pictures where they lie; ``standalone`` has them inside, and more of everything.
"""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from mmn_utils.browser import front
from mmn_utils.browser.atlas.build import SETTINGS
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.page.maps import heat_maps
from mmn_utils.browser.page.pack import Maps, Packer, Plan, from_text, mapped, to_text
from mmn_utils.browser.pictures import data_uri, relative_url
from mmn_utils.browser.views import Views
from mmn_utils.datasets import Photograph
from mmn_utils.exhibits.entries import SHIPPED, figures_root
from mmn_utils.exhibits.formats import write_text
from mmn_utils.exhibits.pages import BROWSER, STANDALONE
from mmn_utils.models import load_model
from mmn_utils.presets import Preset, load_preset, resolve

LIMIT, STANDALONE_LIMIT = 2_000_000, 12_000_000  # bytes of a page
TOPS = (100, 70, 50, 40, 30, 20, 15, 12, 10, 8, 7, 6, 5, 4, 3, 2, 1)
DEEPEST = 10  # neurons of each noun by each method in a page that refers to its pictures
FEWEST = 3  # of them with a heat map, before rows are given up
ENOUGH = 20  # of them, before the cards of all other neurons are given up
BESIDE = 10  # of those in a page of its own, whose control has a map too
EVERY = 20_000  # neurons of a system that may all have their card in a page
SIDE = 448  # pixels of a picture's longer side inside a page
DATA = re.compile(r'<script type="application/json" id="data">"([^"]*)"</script>')

TEMPLATE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<link rel="icon" href="data:,">
<title>{title}</title>
<style>
{style}
.mmn-links, .mmn-opening {{ font: 12px/1.45 system-ui, sans-serif; padding: .6rem 1rem 0; }}
.mmn-opening h1 {{ font-size: 17px; font-weight: 650; margin: 0; }}
.mmn-opening p {{ font-size: 13px; margin: .15rem 0 0; max-width: 60rem; }}
.mmn-links a {{ color: light-dark(#0b5c97, #7cbcf0); margin-right: .9rem; }}
</style>
</head>
<body class="mmn-page">
{links}<header class="mmn-opening">
<h1>Neuron browser</h1>
<p>{opening}</p>
</header>
<div id="browser" class="mmn"><p class="note opening">Opening the atlas …</p></div>
<noscript><p>The page's own script draws it and needs no network: allow it to run.</p></noscript>
<script type="application/json" id="data">"{data}"</script>
<script type="module">
{script}
</script>
</body>
</html>
"""
OPENING = (
    "Choose a {picture}, click a noun of its caption, and look at the neurons behind it: what each "
    "wrote there, by the sign of its activation, what it writes and suppresses, where it looks, "
    "what else it fires for, always beside a random neuron of the same layer, its control."
)
# Nothing is fetched but pictures, and those by their addresses in the page.
POLICY = (
    "default-src 'none'; img-src * data: blob:; style-src 'unsafe-inline'; "
    "script-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
)


@dataclass(frozen=True)
class Page:
    """A page that was written: where, its bytes, and how many of what it holds.

    ``top`` neurons of each noun by each method, the first ``mapped`` of them with heat maps where
    there are any, ``neurons`` with a card.
    """

    path: Path
    size: int
    pictures: int
    top: int
    mapped: int
    neurons: int
    maps: int

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.size / 1e6:.2f} MB, {self.pictures:,} pictures, the top "
            f"{self.top} neurons of each noun by each method, {self.neurons:,} cards, "
            f"{self.maps:,} heat maps"
            + (f", of the first {self.mapped}" if 0 < self.mapped < self.top and self.maps else "")
        )


def write_page(
    run: str,
    model=None,
    atlas: Atlas | None = None,
    folder: str | Path | None = None,
    *,
    standalone: bool = False,
    limit: int | None = None,
    progress: bool = True,
) -> Page:
    """Write a run's page into its folder in ``figures``, or into ``folder``.

    As much goes in as ``limit`` bytes hold, and at least a neuron of each noun by each method.
    Without a ``model`` the page has no heat maps. FileNotFoundError without an atlas, or where a
    picture is gone; ValueError for a model that the atlas is not of.
    """
    if atlas is None:
        with Atlas.open(run) as opened:
            return write_page(
                run, model, opened, folder, standalone=standalone, limit=limit, progress=progress
            )
    folder = Path(folder or figures_root() / run)
    url = partial(data_uri, side=SIDE) if standalone else partial(relative_url, folder)
    views = Views(atlas, url) if model is None else Views(atlas, url, seen=model.seen)
    plans = plans_of(atlas, standalone)
    packer = Packer(views, maps_of(views, model, plans[0], progress))
    most = limit or (STANDALONE_LIMIT if standalone else LIMIT)
    text, plan, packed = _largest(
        plans, lambda plan: _with_text(run, packer.pack(plan), not standalone), most
    )
    path = folder / (Path(BROWSER).stem + STANDALONE + ".html" if standalone else BROWSER)
    write_text(path, text)
    return Page(
        path=path,
        size=path.stat().st_size,
        pictures=len(packed["pictures"]),
        top=plan.top,
        mapped=plan.mapped,
        neurons=sum(card is not None for card in packed["cards"]),
        maps=sum(map(len, packed["maps"].values())),
    )


def of_preset(
    preset: str | Path | Preset, folder: str | Path | None = None, *, standalone: bool = False
) -> Page:
    """Write the page of a preset's atlas; its system is loaded where it has heat maps."""
    asked = resolve(SETTINGS, preset)
    with Atlas.open(asked["run"]) as atlas:
        model = None
        if atlas.facts.grid is not None:
            model = load_model(asked["model"], device=asked["device"], dtype=asked["dtype"])
        return write_page(asked["run"], model, atlas, folder, standalone=standalone)


def plans_of(atlas: Atlas, standalone: bool) -> list[Plan]:
    """List how much a page may hold, the most first."""
    facts = atlas.facts
    tops = [top for top in TOPS if top <= facts.k]
    if not standalone:
        rows = [top for top in tops if top <= DEEPEST]
        maps = [Plan(rows[0], top) for top in rows if top >= FEWEST]
        return [*maps, *(Plan(top, min(top, FEWEST)) for top in rows[bool(maps) :])]
    large = {"sights": 10, "places": 10, "similar": 10}
    few = [Plan(top, top, min(top, BESIDE), **large) for top in tops]
    every = [Plan(top, top, min(top, BESIDE), every=True, **large) for top in tops if top >= ENOUGH]
    return [*(every if facts.layers * facts.units <= EVERY else []), *few]


def maps_of(views: Views, model, plan: Plan, progress: bool = True) -> Maps:
    """Compute or load the maps that a plan asks for; none without a grid."""
    atlas = views.atlas
    if model is None or atlas.facts.grid is None:
        return {}
    atlas.check_model(model)
    chosen = mapped(views, atlas.tops(plan.top), plan)
    photographs = [
        Photograph(image, path, size=size)
        for image, (path, size) in ((image, views.file(image)) for image in chosen)
    ]
    return heat_maps(model, photographs, chosen, progress=progress)


def _largest(
    plans: Sequence[Plan], make: Callable[[Plan], tuple[str, dict]], limit: int
) -> tuple[str, Plan, dict[str, Any]]:
    """Find the first plan whose page fits, by halving; the last where none does."""
    low, high, made = 0, len(plans) - 1, {}
    while low < high:
        middle = (low + high) // 2
        made[middle] = make(plans[middle])
        low, high = (low, middle) if len(made[middle][0].encode()) <= limit else (middle + 1, high)
    text, packed = made.get(low) or make(plans[low])
    return text, plans[low], packed


def _with_text(run: str, packed: dict[str, Any], linked: bool) -> tuple[str, dict[str, Any]]:
    return render(run, packed, linked), packed


def render(run: str, packed: dict[str, Any], linked: bool = True) -> str:
    """Return a page of packed answers; ``linked`` to the run's report."""
    links = ""
    if linked:
        others = [other for other in browsed() if other != run] if run in SHIPPED else []
        addresses = {"report": "report.html", **{o: f"../{o}/{BROWSER}" for o in others}}
        items = "".join(
            f'<a href="{html.escape(address)}">{html.escape(name)}</a> '
            for name, address in addresses.items()
        )
        links = f'<nav class="mmn-links" aria-label="other pages">{items}</nav>\n'
    return TEMPLATE.format(
        policy=POLICY,
        title=html.escape(f"Multimodal neurons: the browser of the run “{run}”"),
        style=front.style(),
        links=links,
        opening=html.escape(OPENING.format(**packed["facts"]["words"])),
        data=to_text(packed),
        script=front.bundle("static"),
    )


def browsed() -> list[str]:
    """List the runs that ship with such a page: those whose preset runs its notebook."""
    return [run for run in SHIPPED if load_preset(run).runs(SETTINGS)]


def unpack(page: str) -> dict[str, Any]:
    """Return the answers that a page holds; ValueError where it is no page of the browser."""
    found = DATA.search(page)
    if found is None:
        raise ValueError("not a page of the browser: it holds no data")
    return from_text(found[1])


def pictures_beside(path: Path) -> list[str]:
    """List the pictures that a page refers to, by their addresses from its folder."""
    pictures = unpack(path.read_text(encoding="utf-8"))["pictures"].values()
    return [one["src"] for one in pictures if not one["src"].startswith("data:")]
