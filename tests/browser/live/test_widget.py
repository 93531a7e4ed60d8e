"""The widget without a browser: the front's messages are simulated, its traits are read."""

from __future__ import annotations

import asyncio
import base64
import io
import re
import threading
import time
from html.parser import HTMLParser

import ipywidgets
import nbformat
import pytest
from nbclient import NotebookClient
from PIL import Image

from mmn_utils.browser.live.panel import Plain
from mmn_utils.browser.live.session import Session
from mmn_utils.browser.live.widget import HEADLESS, Browser, sentence
from mmn_utils.presets import ROOT
from tests.browser.conftest import SEED
from tests.browser.live.hooks import hooks
from tests.tiny import tiny_images

pytestmark = pytest.mark.usefixtures("untouched")

HOSTILE = "<img src=x onerror=alert(1)> $x$ &amp; `y`.png"
CONTROLS = (ipywidgets.Button, ipywidgets.widgets.widget_description.DescriptionWidget)


@pytest.fixture
def session(made):
    return Session(made.model, made.atlas, made.photographs)


@pytest.fixture
def browser(session):
    browser = Browser(session)
    browser.sent = []
    browser.front.send = lambda content, buffers=None: browser.sent.append(content)
    yield browser
    browser.close()


def wait(true, seconds=20):
    until = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < until, "nothing came of it"
        time.sleep(0.002)


def idle(browser):
    wait(lambda: browser.worker.running is None and not browser.worker._queue)


def ask(browser, question, buffers=(), /, **args):
    """Send a question as the front does, and wait for its answer."""
    number = f"q{len(browser.sent)}"
    content = {"id": number, "ask": question, "args": args}
    browser.front._handle_custom_msg(content, [memoryview(b) for b in buffers])
    wait(lambda: any(one["id"] == number for one in browser.sent))
    return next(one for one in browser.sent if one["id"] == number)


def png(image) -> bytes:
    stream = io.BytesIO()
    image.save(stream, "PNG")
    return stream.getvalue()


# --- questions and answers ---------------------------------------------------------------


def test_it_opens_at_the_first_picture_its_noun_and_best_neuron(browser, session):
    picture = session.picture("0")
    best = session.top("0", picture["nouns"][0], 1)["rows"]["attribution"][0][0]
    view = browser.view
    assert (view["image"], view["noun"], view["neuron"]) == ("0", picture["nouns"][0], best)
    assert browser.address.startswith(f"#{best}@0&noun=")
    assert browser.front.state == {"busy": None, "stack": [], "outcome": None, "error": None}
    assert browser.children == (browser.panel, browser.front)


def test_it_opens_at_an_address(session):
    for address, image, neuron in (("#L1.u7@2", "2", "L1.u7"), ("L1.u7", None, "L1.u7")):
        browser = Browser(session, address=address)
        strongest = session.atlas.neuron("L1.u7").sights["strongest"][0].image
        assert browser.view["image"] == (image or strongest)
        assert browser.view["neuron"] == neuron
        browser.close()
    for bad in ("#L1.u7@nowhere", "#horse@0", "#@0&colour=red", "#L9.u1@0"):
        with pytest.raises(ValueError, match=r"nowhere|horse|colour|L9\.u1"):
            Browser(session, address=bad).close()


def test_a_look_up_is_answered_before_the_message_has_been_handled(browser, session):
    browser.front._handle_custom_msg({"id": "a", "ask": "card", "args": {"neuron": "L1.u7"}}, [])
    assert browser.sent == [{"id": "a", "answer": session.views.card("L1.u7")}]


def test_what_runs_the_system_is_answered_from_the_worker(browser, session):
    threads = []
    maps = session.maps
    session.maps = lambda **args: threads.append(threading.current_thread()) or maps(**args)
    found = ask(browser, "maps", image="0", neurons=["L1.u7"])
    assert found["answer"] == maps("0", ["L1.u7"])
    assert threads[0] is not threading.main_thread()


def test_a_dropped_picture_comes_as_a_buffer(browser):
    content = png(tiny_images(1, seed=8)[0])
    found = ask(browser, "own", [content], name=HOSTILE)["answer"]
    assert found["id"] == f"own:{HOSTILE}"
    assert ask(browser, "facts")["answer"]["pictures"][0]["id"] == found["id"]
    uri = ask(browser, "thumbs", images=[found["id"]])["answer"][found["id"]]
    assert Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))).size[0] <= 128


@pytest.mark.parametrize(
    ("name", "args", "said"),
    [
        ("own", {"name": HOSTILE}, "cannot be read as an image"),
        ("nonsense", {}, "no question 'nonsense'"),
        ("card", {"neuron": "<b>"}, "'<b>' is no neuron"),
        ("card", {}, "missing a required argument"),
        ("thumbs", {"images": 3}, "TypeError"),
        ("maps", {"image": "nowhere", "neurons": ["L1.u1"]}, "no picture 'nowhere'"),
        ("undo", {}, "nothing to undo"),
    ],
)
def test_what_goes_wrong_is_a_sentence(browser, name, args, said):
    found = ask(browser, name, **args)
    assert said in found["error"]
    assert "Traceback" not in found["error"]
    assert ask(browser, "control", neuron="L1.u7")["answer"]


def test_messages_that_ask_nothing_are_passed_over(browser):
    for content in (None, [], {}, {"id": 3}, "text"):
        browser.front._handle_custom_msg(content, [])
    assert browser.sent == []


def test_an_error_without_a_text_has_its_kind():
    assert sentence(ValueError("a <b> is none")) == "a <b> is none"
    assert sentence(KeyError("x")) == "KeyError: 'x'"
    assert sentence(RuntimeError()) == "RuntimeError: no more is known"


# --- interventions -----------------------------------------------------------------------


def test_the_panel_applies_to_what_is_chosen_or_else_shown(browser):
    shown = browser.view["neuron"]
    assert [str(neuron) for neuron in browser.neurons] == [shown]
    assert browser.panel.neurons.value == f"applies to {shown}"
    browser.front.view = {**browser.front.view, "chosen": ["L1.u7", "L2.u3", "<b>"]}
    assert [str(neuron) for neuron in browser.neurons] == ["L1.u7", "L2.u3"]
    assert browser.panel.neurons.value == "applies to L1.u7, L2.u3"
    browser.front.view = {**browser.front.view, "chosen": [], "neuron": None}
    assert browser.panel.apply.disabled


def test_apply_undo_and_remove_by_button_and_by_key(browser, session):
    panel = browser.panel
    panel.apply.click()
    idle(browser)
    panel.kind.value, panel.fields["factor"].value = "scale", 3
    panel.apply.click()
    idle(browser)
    panel.kind.value, panel.fields["sigma"].value = "perturb", 2
    panel.apply.click()
    idle(browser)
    neuron = browser.view["neuron"]
    texts = [one["text"] for one in browser.front.state["stack"]]
    assert texts == [
        f"ablate {neuron}", f"scale {neuron} by 3", f"perturb {neuron}, sigma 2, seed 0"
    ]  # fmt: skip
    outcome = browser.front.state["outcome"]
    assert outcome["before"]["probability"] != outcome["after"]["probability"]
    assert ask(browser, "remove", id=2)["answer"] == {}
    assert [one["id"] for one in browser.front.state["stack"]] == [1, 3]
    assert ask(browser, "undo")["answer"] == {}
    assert [one["id"] for one in browser.front.state["stack"]] == [1, 2, 3]
    panel.undo.click()
    idle(browser)
    assert [one["id"] for one in browser.front.state["stack"]] == [1, 2]
    assert browser.front.state["outcome"]["receipt"][-1][0] == "weights after"


def test_an_outcome_is_told_beside_the_button_too(browser):
    browser.panel.apply.click()
    idle(browser)
    outcome, said = browser.front.state["outcome"], browser.panel.said.value
    assert said.startswith(f"says “{outcome['after']['caption']}”")
    assert f"to {outcome['after']['probability']:.3f}" in said
    assert "untouched system" in browser.panel.note.value
    browser.panel.undo.click()
    idle(browser)
    assert (browser.panel.said.value, browser.panel.note.value) == ("", "")


def test_what_cannot_be_applied_is_told_and_gone_with_the_next(browser):
    panel = browser.panel
    panel.kind.value, panel.fields["factor"].value = "scale", 1
    panel.apply.click()
    idle(browser)
    assert "factor=1.0 changes nothing" in browser.front.state["error"]
    assert browser.front.state["stack"] == []
    panel.kind.value = "edit"
    panel.apply.click()
    idle(browser)
    assert "type a word" in browser.front.state["error"]
    panel.kind.value = "ablate"
    panel.apply.click()
    idle(browser)
    assert browser.front.state["error"] is None
    assert len(browser.front.state["stack"]) == 1


def test_the_outcome_follows_the_view(browser, session):
    browser.panel.apply.click()
    idle(browser)
    noun = session.picture("1")["nouns"][0]
    browser.front.view = {**browser.front.view, "image": "1", "noun": noun}
    wait(lambda: (browser.front.state["outcome"] or {}).get("image") == "1")
    idle(browser)
    assert browser.front.state["outcome"]["noun"] == noun
    state = browser.front.state
    browser.front.view = {**browser.front.view, "quantile": 0.9}
    idle(browser)
    assert browser.front.state == state


def test_the_fields_are_those_of_the_kind(browser):
    panel = browser.panel
    fields = {"ablate": [], "scale": ["factor"], "edit": ["word", "method", "beta"]}
    for kind, names in fields.items():
        panel.kind.value = kind
        shown = [name for name, field in panel.fields.items() if field.layout.display != "none"]
        assert shown == names
        assert list(panel.asked()) == ["kind", *names]
    slider = panel.fields["factor"]
    assert (slider.min, slider.max) == (-2, 3)


# --- long operations ---------------------------------------------------------------------


@pytest.fixture
def slow(made):
    """Let every pass through the first layer take a while, and say when one is there."""
    inside = threading.Event()

    def linger(*_):
        inside.set()
        time.sleep(0.02)

    handle = made.model.layer(0).register_forward_pre_hook(linger)
    yield inside
    handle.remove()


@pytest.mark.parametrize("by_button", [True, False])
def test_the_kernel_takes_a_cancel_while_the_system_runs(browser, slow, by_button):
    browser.panel.apply.click()
    assert slow.wait(20)
    assert browser.front.state["busy"]["what"] == "ablate"
    assert browser.panel.busy.layout.display != "none"
    browser.front._handle_custom_msg({"id": "maps", "ask": "maps", "args": {
        "image": "0", "neurons": ["L1.u7"]}}, [])  # fmt: skip
    assert ask(browser, "card", neuron="L1.u7")["answer"]  # at once, meanwhile
    browser.panel.cancel.click() if by_button else ask(browser, "cancel")
    idle(browser)
    wait(lambda: any(one["id"] == "maps" for one in browser.sent))
    assert next(one for one in browser.sent if one["id"] == "maps")["error"] == "maps: cancelled"
    assert browser.front.state["error"] == browser.panel.said.value == "ablate: cancelled"
    assert browser.panel.busy.layout.display == "none"
    assert browser.front.state["stack"] == []
    assert browser.front.state["busy"] is None


def test_progress_is_counted_in_passes(browser, slow):
    seen = []
    browser.front.observe(lambda change: seen.append(change.new["busy"]), "state")
    browser.panel.apply.click()
    idle(browser)
    counted = [(one["done"], one["total"]) for one in seen if one and one["total"]]
    assert counted
    assert all(0 < done <= total == 43 for done, total in counted)
    assert seen[-1] is None


def test_closing_stops_what_runs_and_answers_nothing_more(session, made, slow):
    browser = Browser(session)
    sent = []
    browser.front.send = lambda content, buffers=None: sent.append(content)
    browser.front._handle_custom_msg({"id": 1, "ask": "word", "args": {
        "image": "0", "noun": "barn"}}, [])  # fmt: skip
    assert slow.wait(20)
    start = time.monotonic()
    browser.close()
    assert time.monotonic() - start < 5
    browser.front._handle_custom_msg({"id": 2, "ask": "facts", "args": {}}, [])
    time.sleep(0.1)
    assert sent == []
    assert hooks(made.model) == 1  # the test's own
    browser.close()


def test_on_a_loop_results_come_back_on_it(session):
    async def run():
        browser, threads = Browser(session), []
        browser.front.send = lambda content, buffers=None: threads.append(
            (threading.current_thread(), content)
        )
        browser.front._handle_custom_msg({"id": 1, "ask": "maps", "args": {
            "image": "0", "neurons": ["L1.u7"]}}, [])  # fmt: skip
        assert threads == []
        while not threads:
            await asyncio.sleep(0.005)
        browser.close()
        return threads[0]

    thread, content = asyncio.run(run())
    assert thread is threading.main_thread()
    assert len(content["answer"]["L1.u7"]) == 16


# --- folders -----------------------------------------------------------------------------


def test_a_folder_is_shown_and_what_is_unreadable_named(browser, tmp_path):
    tiny_images(1, seed=8)[0].save(tmp_path / "a.png")
    (tmp_path / "no <b>$x$.txt").write_text("no picture")
    browser.panel.path.value = str(tmp_path)
    browser.panel.show.click()
    idle(browser)
    assert browser.front.pictures == 1
    assert browser.view["image"] == "own:a.png"
    told = f"1 picture of {tmp_path}; no <b>$x$.txt cannot be read as an image"
    assert browser.panel.found.value.startswith(told)
    assert ask(browser, "picture", image="own:a.png")["answer"]["own"]
    browser.panel.path.value = "nowhere"
    browser.panel.show.click()
    idle(browser)
    assert "no folder at 'nowhere'" in browser.panel.found.value
    assert browser.view["image"] == "own:a.png"


# --- texts, labels, stills ---------------------------------------------------------------


def widgets(widget):
    yield widget
    for child in getattr(widget, "children", ()):
        yield from widgets(child)


def test_every_control_has_a_name_and_a_word_of_help(browser):
    found = [one for one in widgets(browser) if isinstance(one, CONTROLS)]
    assert len(found) >= 10
    for control in found:
        assert control.description, control
        assert control.tooltip, control


def test_texts_of_others_go_through_no_widget_that_reads_markup(browser, tmp_path):
    """Labels set mathematics and HTML is markup; Plain alone shows what somebody typed."""
    tiny_images(1, seed=8)[0].save(tmp_path / "a.png")
    (tmp_path / HOSTILE).write_text("no picture")
    browser.panel.path.value = str(tmp_path)
    browser.panel.show.click()
    idle(browser)
    kinds = (ipywidgets.Label, ipywidgets.HTML, ipywidgets.HTMLMath, ipywidgets.Output)
    for one in widgets(browser):
        assert not isinstance(one, kinds)
        if getattr(one, "description_allow_html", False):
            raise AssertionError(one)
    assert HOSTILE in browser.panel.found.value
    assert isinstance(browser.panel.found, Plain)
    script = Plain._esm if isinstance(Plain._esm, str) else str(Plain._esm)
    assert "textContent" in script
    assert not re.search(r"innerHTML|insertAdjacentHTML|document\.write", script)


def test_without_a_system_the_panel_has_nothing_to_press(made):
    session = Session(None, made.atlas, missing="no weights; run: make weights")
    browser = Browser(session)
    assert browser.panel.said.value == "no weights; run: make weights"
    assert not [one for one in widgets(browser.panel) if isinstance(one, ipywidgets.Button)]
    browser.sent = []
    browser.front.send = lambda content, buffers=None: browser.sent.append(content)
    assert "run: make weights" in ask(browser, "maps", image="0", neurons=["L1.u7"])["error"]
    assert ask(browser, "undo")["error"] == "no weights; run: make weights"
    assert ask(browser, "card", neuron="L1.u7")["answer"]
    assert "<img" in browser._repr_mimebundle_()["text/html"]
    browser.close()


class Tags(HTMLParser):
    """Collects the tags and the texts of a piece of HTML."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.texts = [], []
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.texts.append(data)


def test_the_still_shows_the_view_and_escapes_its_texts(browser, session):
    ask(browser, "own", [png(tiny_images(1, seed=8)[0])], name=HOSTILE)
    browser.go(image=f"own:{HOSTILE}", noun="<b>barn</b> &amp;", neuron="L1.u7")
    assert "barn" not in browser._repr_mimebundle_()["text/html"]  # the system does not run for it
    ask(browser, "word", image=f"own:{HOSTILE}", noun="<b>barn</b> &amp;")
    bundle = browser._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html", "application/vnd.jupyter.widget-view+json"}
    found = Tags(bundle["text/html"])
    assert {tag for tag, _ in found.tags} <= {
        "div", "p", "em", "img", "b", "table", "tr", "td", "th"
    }  # fmt: skip
    images = [attributes for tag, attributes in found.tags if tag == "img"]
    assert [set(attributes) for attributes in images] == [{"src", "alt"}]
    assert images[0]["alt"] == f"picture own:{HOSTILE}"
    assert "attribution: <b>barn</b> &amp;" in found.texts
    assert "L1.u7" in found.texts


def test_without_a_reader_there_is_no_thread_and_a_still_with_its_heat_map(session, monkeypatch):
    monkeypatch.setenv(HEADLESS, "1")
    browser = Browser(session)
    before = threading.active_count()
    bundle = browser._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    assert "tinted where" in bundle["text/html"]
    assert bundle == browser._repr_mimebundle_()
    browser.apply({"kind": "ablate"})
    assert len(browser.front.state["stack"]) == 1
    assert threading.active_count() == before
    browser.close()


def test_the_code_of_a_view_gives_what_it_shows(browser, session, made, monkeypatch):
    image = ask(browser, "own", [png(tiny_images(1, seed=8)[0])], name="a 'b'.png")["answer"]["id"]
    browser.panel.kind.value, browser.panel.fields["word"].value = "edit", "barn"
    browser.panel.fields["method"].value = "squared"
    browser.apply(browser.panel.asked())
    idle(browser)
    browser.go(image=image, noun="barn", patch=3, search={"word": "horse", "end": "writes"})
    wait(lambda: (browser.front.state["outcome"] or {}).get("image") == image)
    idle(browser)
    code = browser.python()
    monkeypatch.setattr("mmn_utils.face.load", lambda name: made.model)
    monkeypatch.setattr("mmn_utils.browser.atlas.query.Atlas.open", lambda run: made.atlas)
    content = png(tiny_images(1, seed=8)[0])
    names = {"open": lambda path, mode: io.BytesIO(content)}
    exec(code, names)
    assert names["top"] == session.top(image, "barn")["rows"]["attribution"]
    assert names["maps"] == session.maps(image, [browser.view["neuron"]])
    assert names["patch"] == session.patch(image, "barn", 3)["rows"]
    assert names["session"].stack.outcome == session.stack.outcome
    assert browser.front.state["outcome"]["code"].startswith("import mmn_utils")


# --- a kernel ----------------------------------------------------------------------------

SOURCE = """
from pathlib import Path
from mmn_utils.browser.atlas.query import Atlas
from mmn_utils.browser.live.session import Session
from mmn_utils.browser.live.widget import Browser
from mmn_utils.datasets import Photograph
from tests.tiny import tiny_limber

pictures = [Photograph(str(i), Path({folder!r}) / f"{{i}}.png") for i in range(5)]
browser = Browser(Session(tiny_limber({seed}), Atlas.open({atlas!r}), pictures))
browser
"""
CHECK = """
import asyncio
browser.apply({"kind": "ablate"})
for _ in range(2000):
    await asyncio.sleep(0.01)
    if browser.front.state["stack"]:
        break
print(browser.front.state["stack"][0]["text"], browser._loop is not None)
"""


def test_in_a_kernel_it_displays_and_answers_on_its_loop(made, monkeypatch):
    monkeypatch.setenv(HEADLESS, "")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    names = {"folder": str(made.photographs[0].path.parent), "atlas": str(made.folder)}
    cells = [SOURCE.format(seed=SEED, **names), CHECK]
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in cells])
    NotebookClient(notebook, kernel_name="python3", timeout=120).execute(cwd=str(ROOT))
    shown, printed = (cell.outputs for cell in notebook.cells)
    data = next(one.data for one in shown if "data" in one)
    assert "<img" in data["text/html"]
    assert "application/vnd.jupyter.widget-view+json" in data
    assert printed[0].text.startswith("ablate L")
    assert printed[0].text.split()[-1] == "True"
