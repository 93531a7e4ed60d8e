"""The front end as a widget, answered by a stand-in for the kernel: what only a kernel gives."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from mmn_utils.browser.front import FOLDER, bundle, join, style
from tests.browser.front import access
from tests.browser.front.pages import Shown, invented

KERNEL = Path(__file__).parent / "kernel.js"
READY = '.mmn [data-part="card"][data-state="ready"] .ends'
START = """async ([text, kernel, packed, widget, view]) => {
  const load = (text) => import(URL.createObjectURL(new Blob([text], { type: "text/javascript" })));
  const { live } = await load(kernel), { Packed } = await load(packed);
  const { default: { render } } = await load(widget);
  Object.assign(globalThis, { model: live(JSON.parse(text), Packed), render });
  model.traits.view = view;
  globalThis.leave = render({ model, el: document.getElementById("cell") });
}"""
# Style as JupyterLab's, which meets every element in a notebook.
LEAK = """.jp-OutputArea table { font-size: 30px; margin: 2em; border: 3px solid red }
.jp-OutputArea button { padding: 20px; background: lime; text-transform: uppercase }
.jp-OutputArea input { width: 900px; margin: 30px } .jp-OutputArea h2 { font-size: 50px }
.jp-OutputArea td { text-align: right; max-width: 10px; white-space: pre; overflow: hidden }"""


@pytest.fixture(scope="module")
def data():
    return invented()


@pytest.fixture
def opened(windows, data):
    """Open a widget in a page like JupyterLab's: opened(view=..., theme=..., width=...)."""

    def opened(view=None, theme="true", **options) -> Shown:
        page = windows(**options)
        page.set_content(
            f"<!doctype html><html lang='en'><head><style>{LEAK}{style()}</style></head><body "
            f"data-jp-theme-light='{theme}'><div class='jp-OutputArea' id='cell'></div></body>"
        )
        texts = [KERNEL.read_text(), join(FOLDER, "packed") + "\nexport { Packed };"]
        # as one text, or each of its values would be handed over by itself
        page.evaluate(START, [json.dumps(data), *texts, bundle("widget"), view or {}])
        page.wait_for_selector(READY)
        return Shown(page)

    return opened


def asked(shown: Shown, name: str) -> list:
    return [one for one in shown.page.evaluate("model.asked") if one["ask"] == name]


def view_of(shown: Shown) -> dict:
    return shown.page.evaluate("model.traits.view")


def test_the_view_goes_to_python_and_comes_from_it(opened):
    shown = opened()
    assert view_of(shown)["image"] == "p0"
    shown.part("grid").locator('[data-image="p4"]').click()
    shown.titled("picture", "Scene p4")
    assert view_of(shown)["image"] == "p4"
    saved = shown.page.evaluate("model.saved")
    shown.page.evaluate("model.push('view', {...model.traits.view, image: 'p1', neuron: 'L2.u5'})")
    shown.titled("picture", "Scene p1")
    shown.titled("card", "Neuron L2.u5")
    shown.page.wait_for_timeout(200)
    assert shown.page.evaluate("model.saved") == saved  # nothing is said back to Python
    assert "L2.u5@p1" in shown.part("address").locator("input").input_value()


def test_it_opens_where_python_is(opened):
    shown = opened(view={"image": "p2", "noun": "dog", "neuron": "L1.u7", "chosen": ["L0.u1"]})
    shown.titled("card", "Neuron L1.u7")
    shown.titled("table", "Top neurons for “dog”")
    assert view_of(shown)["chosen"] == ["L0.u1"]


def test_pictures_that_python_adds_are_there_before_it_goes_to_one(opened):
    shown = opened()
    shown.page.evaluate("""() => {
      globalThis.answer = model.answer;
      model.answer = async (name, args) => {
        if (args.image === "own:new.png" || args.images?.includes("own:new.png")) {
          return answer(name, { ...args, image: "p1", images: ["p1"] });
        }
        const found = await answer(name, args);
        const others = [{ id: "own:new.png", caption: "new" }, ...(found.pictures ?? [])];
        return name === "facts" ? { ...found, pictures: others } : found;
      };
      model.push("pictures", 1);
      model.push("view", { ...model.traits.view, image: "own:new.png", noun: null, patch: null });
    }""")
    first = shown.part("grid").locator("[data-image]").first
    first.and_(shown.page.locator('[data-image="own:new.png"][aria-current]')).wait_for()
    assert view_of(shown)["image"] == "own:new.png"
    assert view_of(shown)["noun"] == "horse"


def test_the_threshold_does_not_ask_and_tells_once_it_is_let_go(opened):
    shown = opened()
    before = shown.page.evaluate("[model.asked.length, model.saved]")
    box = shown.part("threshold").bounding_box()
    y = box["y"] + box["height"] / 2
    shown.page.mouse.move(box["x"] + box["width"] * 0.9, y)
    shown.page.mouse.down()
    for step in range(20):
        shown.page.mouse.move(box["x"] + box["width"] * (0.9 - step / 40), y)
    assert shown.page.evaluate("[model.asked.length, model.saved]") == before
    threshold = shown.heat().threshold
    shown.page.mouse.up()
    assert shown.page.evaluate("[model.asked.length, model.saved]") == [before[0], before[1] + 1]
    assert view_of(shown)["quantile"] < 0.6
    assert shown.heat().threshold == threshold


def test_a_picture_of_ones_own_is_chosen_or_dropped(opened):
    shown = opened()
    file = {"name": "my <b>dog</b>.png", "mimeType": "image/png", "buffer": b"0123456789"}
    shown.part("file").set_input_files(file)
    name = "own:my <b>dog</b>.png"
    shown.page.wait_for_function("model.traits.view.image?.startsWith('own:')")
    shown.titled("picture", f"Picture {name}")
    assert asked(shown, "own")[0]["args"] == {"name": "my <b>dog</b>.png"}
    assert asked(shown, "own")[0]["bytes"] == [10]
    first = shown.part("grid").locator("[data-image]").first
    assert first.get_attribute("data-image") == name
    shown.page.evaluate("""() => {
      const data = new DataTransfer();
      data.items.add(new File(["0123456789ab"], "two.png", { type: "image/png" }));
      const options = { dataTransfer: data, bubbles: true, cancelable: true };
      document.querySelector("[data-part=drop]").dispatchEvent(new DragEvent("drop", options));
    }""")
    shown.page.wait_for_function("model.traits.view.image === 'own:two.png'")
    assert asked(shown, "own")[1]["bytes"] == [12]


def test_a_file_that_is_no_picture_is_told_and_nothing_changes(opened):
    shown = opened()
    shown.part("file").set_input_files({"name": "x.txt", "mimeType": "text/plain", "buffer": b"x"})
    note = shown.part("grid").get_by_role("alert")
    assert note.inner_text() == "x.txt is no picture: it cannot be read"
    shown.titled("picture", "Scene p0")
    shown.part("file").set_input_files({"name": "y", "mimeType": "", "buffer": b"0123456789"})
    shown.page.wait_for_function("model.traits.view.image === 'own:y'")
    assert not note.is_visible()


def test_another_noun_is_typed(opened):
    shown = opened()
    shown.part("word").fill("cat")
    shown.part("word").press("Enter")
    shown.page.wait_for_function("model.traits.view.noun === 'cat'")
    shown.titled("table", "Top neurons for “cat”")
    assert "another noun: cat" in shown.part("caption").inner_text()
    shown.part("word").fill("xyzzy")
    shown.part("word").press("Enter")
    assert "reads 'xyzzy'" in shown.part("caption").get_by_role("alert").inner_text()
    assert view_of(shown)["noun"] == "cat"


def test_the_shown_neurons_are_ablated_on_request(opened):
    shown = opened()
    rows = shown.rows("table")
    shown.part("table").locator('[data-tool="exact"]').click()
    cell = shown.part("table").locator("tbody tr").nth(2).get_by_title("logit")
    assert cell.inner_text() == "−0.0200"
    assert asked(shown, "exact")[0]["args"] == {"image": "p0", "noun": "horse", "neurons": rows}
    shown.part("table").locator('[data-sort="exact"]').click()
    assert shown.rows("table") == rows[::-1]
    with shown.page.expect_download() as download:
        shown.part("table").locator('[data-tool="csv"]').click()
    text = Path(download.value.path()).read_bytes().decode()
    first = next(csv.DictReader(io.StringIO(text, newline="")))
    assert first["neuron"] == rows[-1]
    assert (first["exact_probability"], first["exact_logit"]) == ("-0.19", "-19")


STATE = {
    "busy": {"what": "captions", "done": 3, "total": 10},
    "stack": [{"id": 1, "text": "ablate <b>L0.u1</b>"}, {"id": 2, "text": "scale L0.u2 by 2"}],
    "outcome": {
        "image": "p0", "noun": "horse", "changed": True,
        "before": {"caption": "a horse", "probability": 0.75},
        "after": {"caption": "a <i>dog</i>", "probability": 0.25},
        "receipt": [["weights", "unchanged &amp; checked"]],
    },
    "error": None,
}  # fmt: skip


def push(shown: Shown, **change) -> None:
    shown.page.evaluate("state => model.push('state', state)", {**STATE, **change})


def test_interventions_are_listed_with_what_they_did(opened):
    shown = opened()
    part = shown.part("outcome")
    assert not part.is_visible()
    push(shown)
    assert "captions 3 of 10" in part.inner_text()
    part.get_by_role("button", name="Cancel").click()
    push(shown, busy=None)
    assert part.locator("progress").count() == 0
    assert "a <i>dog</i>" in part.inner_text()
    assert "The caption changed." in part.inner_text()
    assert "unchanged &amp; checked" in part.inner_text()
    assert [c.inner_text() for c in part.locator(".effect td.number").all()] == ["0.750", "0.250"]
    part.get_by_role("button", name="remove ablate <b>L0.u1</b>").click()
    shown.page.keyboard.press("z")
    assert [one["args"] for one in asked(shown, "remove")] == [{"id": 1}]
    assert len(asked(shown, "undo")) == len(asked(shown, "cancel")) == 1
    push(shown, busy=None, stack=[], outcome=None, error="the noun 'horse' has no token")
    assert part.get_by_role("alert").inner_text() == "the noun 'horse' has no token"
    push(shown, busy=None, stack=[], outcome=None)
    assert not part.is_visible()


def test_z_is_not_heard_without_anything_to_undo(opened):
    shown = opened()
    shown.part("overlay").focus()
    shown.page.keyboard.press("z")
    assert asked(shown, "undo") == []


def test_answers_to_superseded_questions_are_dropped(opened):
    shown = opened()
    shown.page.evaluate("model.slow = new Set(['picture', 'card'])")
    shown.part("grid").locator('[data-image="p4"]').click()
    shown.part("grid").locator('[data-image="p5"]').click()
    assert shown.part("picture").get_attribute("aria-busy") == "true"
    shown.page.evaluate("model.held.reverse().forEach((reply) => reply())")  # the last one first
    shown.page.wait_for_function(
        "document.querySelector('[data-part=picture] h2').textContent === 'Scene p5'"
    )
    shown.page.wait_for_timeout(100)
    shown.titled("picture", "Scene p5")
    assert view_of(shown)["image"] == "p5"


def test_a_failed_question_is_told_where_it_was_asked_and_can_be_asked_again(opened):
    shown = opened()
    shown.page.evaluate("""() => {
      globalThis.answer = model.answer;
      model.answer = () => { throw new Error("gone <b>"); };
    }""")
    shown.part("grid").locator('[data-image="p4"]').click()
    assert shown.part("picture").get_by_role("alert").inner_text() == "gone <b>"
    assert shown.part("caption").get_by_role("alert").inner_text() == "gone <b>"
    assert shown.rows("table") == []
    shown.page.evaluate("() => void (model.answer = answer)")
    shown.part("grid").locator('[data-image="p5"]').click()
    shown.titled("table", "Top neurons for “horse”")
    assert shown.page.get_by_role("alert").filter(visible=True).count() == 0


def test_shortcuts_of_the_notebook_do_not_fire_in_it(opened):
    shown = opened()
    shown.page.evaluate("""() => {
      globalThis.heard = [];
      document.addEventListener("keydown", (event) => heard.push(event.key));
    }""")
    root = shown.page.locator(".mmn")
    assert root.get_attribute("data-lm-suppress-shortcuts") == "true"
    root.focus()
    for key in ("a", "b", "d", "z", "ArrowDown", "/", "x"):
        shown.page.keyboard.press(key)
    shown.page.keyboard.press("Control+k")
    assert shown.page.evaluate("globalThis.heard") == ["Control", "k"]


def test_light_and_dark_follow_the_notebook(opened):
    shown = opened(theme="false")
    ground = "getComputedStyle(document.querySelector('.mmn')).backgroundColor"
    assert shown.page.evaluate(ground) == "rgb(21, 23, 26)"
    assert access.faint(shown.page) == []
    shown.page.evaluate("document.body.dataset.jpThemeLight = 'true'")
    shown.page.wait_for_function(f"{ground} === 'rgb(255, 255, 255)'")
    assert access.faint(shown.page) == []


@pytest.mark.parametrize("width", [800, 1400])
def test_the_notebooks_style_does_not_reach_it(opened, width):
    shown = opened(width=width)
    push(shown)
    style_of = """(name) => {
      const { fontSize, textTransform } = getComputedStyle(document.querySelector(`.mmn ${name}`));
      return { fontSize, textTransform };
    }"""
    assert shown.page.evaluate(style_of, "table")["fontSize"] == "12px"
    assert shown.page.evaluate(style_of, ".noun")["textTransform"] == "none"
    assert shown.page.evaluate(style_of, "h2")["fontSize"] == "13.5px"
    assert shown.page.evaluate("document.documentElement.scrollWidth <= innerWidth")
    assert access.overlapping(shown.page) == []
    assert access.nameless(shown.page) == []


def test_two_drawings_of_one_model_hear_their_own_answers(opened):
    shown = opened()
    shown.page.evaluate("""() => {
      const other = document.createElement("div");
      other.id = "other";
      document.body.append(other);
      globalThis.leaveOther = render({ model, el: other });
    }""")
    shown.page.wait_for_selector('#other [data-part="card"][data-state="ready"] .ends')
    shown.page.locator('#other [data-part="grid"] [data-image="p6"]').click()
    both = shown.page.locator('[data-part="picture"] h2', has_text="Scene p6")
    both.nth(1).wait_for()
    ids = shown.page.evaluate("[...document.querySelectorAll('.mmn [id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))
    shown.page.evaluate("(leave(), leaveOther())")
    listeners = shown.page.evaluate("Object.values(model.listeners).map((some) => some.size)")
    assert set(listeners) == {0}


def test_without_a_kernel_it_says_so(windows):
    page = windows()
    page.clock.install()
    page.set_content("<!doctype html><html lang='en'><body><div id='cell'></div></body></html>")
    page.evaluate(
        """async (text) => {
          const url = URL.createObjectURL(new Blob([text], { type: "text/javascript" }));
          const nothing = () => ({}), model = { get: nothing, set: nothing };
          for (const name of ["on", "off", "send", "save_changes"]) model[name] = nothing;
          (await import(url)).default.render({ model, el: document.getElementById("cell") });
        }""",
        bundle("widget"),
    )
    assert "Opening the atlas" in page.inner_text(".mmn")
    page.clock.fast_forward(21_000)
    assert "needs a running kernel" in page.get_by_role("alert").inner_text()


def test_the_python_of_what_only_the_system_knows_asks_a_session(opened):
    shown = opened()
    shown.part("word").fill("cat")
    shown.part("word").press("Enter")
    shown.page.wait_for_function("model.traits.view.noun === 'cat'")
    shown.part("table").locator('[data-tool="python"]').click()
    code = shown.part("table").locator("pre").inner_text()
    compile(code, "table", "exec")
    asked_for = re.search(r'session\.ask\("top", (.*)\)', code)
    assert json.loads(asked_for[1]) == {"image": "p0", "noun": "cat", "k": 100}


def test_what_an_address_has_that_there_is_not_is_told(opened):
    shown = opened()
    box = shown.part("address").locator("input")
    told = shown.page.locator(".mmn .top [role=alert]")
    for address, words in (
        ("#L99.u1@p0", "there is no neuron L99.u1"),
        ("#L1.u7@nowhere", 'there is no picture "nowhere"'),
        ("#L1.u7@p0&method=none", 'the method "none"'),
        ("#L1.u7@p0&chosen=L1.u1,L99.u2", "there is no neuron L99.u2"),
    ):
        box.fill(address)
        box.press("Enter")
        told.get_by_text(words).wait_for()
        shown.page.wait_for_timeout(100)  # a first noun and a first neuron follow
        assert words in told.inner_text()
    box.fill("#L01.u007@p0")
    box.press("Enter")
    shown.titled("card", "Neuron L1.u7")
    assert not told.is_visible()


def test_results_of_another_word_do_not_stay(opened):
    shown = opened()
    shown.page.evaluate("""() => {
      const answer = model.answer;
      model.answer = async (name, args) => {
        if (name === "search" && args.word === "xyzzy") throw new Error("no token reads 'xyzzy'");
        if (name === "top" && args.noun === "cat") throw new Error("no token reads 'cat'");
        return answer(name, args);
      };
    }""")
    part = shown.part("search")
    shown.part("query").fill("horse")
    shown.part("query").press("Enter")
    part.get_by_role("status").get_by_text("neuron").wait_for()
    shown.part("query").fill("xyzzy")
    shown.part("query").press("Enter")
    assert "no token reads 'xyzzy'" in part.get_by_role("alert").inner_text()
    assert part.locator("table, .body [role=status]").count() == 0
    shown.part("address").locator("input").fill("#L1.u7@p0&noun=cat")
    shown.part("address").locator("input").press("Enter")
    shown.part("table").get_by_role("alert").get_by_text("no token reads 'cat'").wait_for()
    assert shown.part("table").locator("tbody tr").count() == 0


def test_it_says_which_token_of_a_typed_word_was_scored(opened):
    shown = opened()
    shown.page.evaluate("""() => {
      const answer = model.answer;
      model.answer = async (name, args) => {
        const found = await answer(name, args);
        const scored = { cat: [" cat", true, ""], catkin: ["<b>", false, "a <i>"] }[args.noun];
        if (name !== "top" || !scored) return found;
        return { ...found, token: scored[0], whole: scored[1], behind: scored[2] };
      };
    }""")
    for word, said in (
        ("cat", "Shown for another noun: cat, asked for at the caption’s first step."),
        ("catkin", "catkin, which is no token; its first one, “<b>”, is asked for behind “a <i>”."),
    ):
        shown.part("word").fill(word)
        shown.part("word").press("Enter")
        shown.part("caption").get_by_text("asked for").wait_for()
        shown.page.wait_for_function("word => model.traits.view.noun === word", arg=word)
        shown.page.wait_for_timeout(100)
        assert said in " ".join(shown.part("caption").inner_text().split())


def test_a_kernel_that_has_gone_is_told_of_and_one_that_works_is_waited_for(opened):
    shown = opened()
    shown.page.clock.install()
    shown.page.evaluate("model.slow = new Set(['picture'])")
    shown.part("grid").locator('[data-image="p4"]').click()
    for _ in range(3):
        shown.page.clock.run_for(16_000)
    assert shown.part("picture").get_attribute("aria-busy") == "true"  # facts are answered
    shown.page.evaluate("model.held.forEach((reply) => reply())")
    shown.titled("picture", "Scene p4")
    shown.page.evaluate("model.slow = new Set(['picture', 'facts'])")
    shown.part("grid").locator('[data-image="p5"]').click()
    shown.page.clock.run_for(16_000)
    shown.page.clock.run_for(16_000)
    assert "needs a running kernel" in shown.part("picture").get_by_role("alert").inner_text()
    shown.page.evaluate("""() => {
      model.send = model.save_changes = () => { throw new Error("Cannot send"); };
    }""")
    shown.part("grid").locator('[data-image="p2"]').click()
    assert "needs a running kernel" in shown.part("picture").get_by_role("alert").inner_text()


def test_a_picture_of_the_shape_of_a_ribbon_stays_in_the_window(opened):
    shown = opened()
    shown.page.evaluate("""() => {
      const answer = model.answer;
      model.answer = async (name, args) => {
        const found = await answer(name, args);
        return name === "picture" ? { ...found, width: 100, height: 5000 } : found;
      };
    }""")
    shown.part("grid").locator('[data-image="p4"]').click()
    shown.titled("picture", "Scene p4")
    box = shown.part("overlay").bounding_box()
    assert 20 < box["width"] < box["height"] < 1300


def test_letters_in_the_frame_around_are_no_shortcuts_of_the_notebook(opened):
    shown = opened()
    shown.page.evaluate("""() => {
      const frame = document.createElement("div"), el = document.createElement("div");
      frame.className = "widget-vbox";
      render({ model, el });
      frame.append(el);
      document.body.append(frame); // later than it is drawn, as notebooks do
    }""")
    shown.page.locator(".widget-vbox[data-lm-suppress-shortcuts=true]").wait_for()


def test_the_python_of_a_picture_of_ones_own_takes_a_file(opened):
    shown = opened()
    file = {"name": "my.png", "mimeType": "image/png", "buffer": b"0123456789"}
    shown.part("file").set_input_files(file)
    shown.titled("picture", "Picture own:my.png")
    shown.part("picture").locator('[data-tool="python"]').click()
    code = shown.part("picture").locator("pre").inner_text()
    assert 'file = Path("my.png")' in code
    assert "from pathlib import Path" in code
