"""What a reader does in the live browser, whatever server shows it; each step waits for its end."""

from __future__ import annotations

import base64
import re

from playwright.sync_api import Locator, Page, expect

PATIENCE = 30_000  # milliseconds; a busy machine is no failure
DROP = """(target, [text, name]) => {
  const bytes = Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
  const data = new DataTransfer();
  data.items.add(new File([bytes], name));
  const options = {dataTransfer: data, bubbles: true, cancelable: true};
  for (const kind of ["dragenter", "dragover", "drop"])
    target.dispatchEvent(new DragEvent(kind, options));
}"""


class Reader:
    """A reader before a page that shows the browser."""

    def __init__(self, page: Page) -> None:
        self.page, self.root = page, page.locator(".mmn").first

    def part(self, name: str) -> Locator:
        return self.root.locator(f"[data-part={name}]").first

    @property
    def address(self) -> str:
        return self.part("address").locator("input").input_value()

    def expect_address(self, pattern: str) -> None:
        box = self.part("address").locator("input")
        expect(box).to_have_value(re.compile(pattern), timeout=PATIENCE)

    @property
    def rows(self) -> Locator:
        return self.part("table").locator("tbody tr[data-address]")

    def arrive(self) -> None:
        """Wait until picture, table and card are there."""
        expect(self.rows.first).to_be_visible(timeout=120_000)
        self.settled()
        self.home = self.address

    def settled(self) -> None:
        """Wait until nothing is asked any more."""
        busy = self.root.locator("[data-state=wait], [data-state=busy], [aria-busy=true]")
        expect(busy).to_have_count(0, timeout=PATIENCE)

    # --- looking ------------------------------------------------------------------------

    def choose_picture(self, place: int) -> str:
        thumb = self.part("grid").locator("[data-image]").nth(place)
        image = thumb.get_attribute("data-image")
        thumb.click()
        self.expect_address(f"@{image}")
        self.settled()
        return image

    def choose_noun(self, place: int) -> str:
        button = self.part("caption").locator("[data-noun]").nth(place)
        noun = button.get_attribute("data-noun")
        button.click()
        expect(button).to_have_attribute("aria-pressed", "true", timeout=PATIENCE)
        self.settled()
        return noun

    def choose_neuron(self, place: int) -> str:
        row = self.rows.nth(place)
        neuron = row.get_attribute("data-address")
        row.click()
        self.expect_address(f"^#{neuron}@")
        expect(self.part("card")).to_contain_text(neuron, timeout=PATIENCE)
        self.settled()
        return neuron

    def click_patch(self, x: float, y: float) -> None:
        canvas = self.part("overlay")
        box = canvas.bounding_box()
        canvas.click(position={"x": x * box["width"], "y": y * box["height"]})
        expect(self.part("patch")).to_be_visible(timeout=PATIENCE)
        self.settled()

    def pixels(self) -> str:
        """The heat map as it is painted."""
        return self.part("overlay").evaluate("canvas => canvas.toDataURL()")

    def repainted(self, before: str) -> str:
        """Wait until the heat map is painted otherwise than before; return how."""
        self.page.wait_for_function(
            "before => document.querySelector('.mmn [data-part=overlay]').toDataURL() !== before",
            arg=before,
            timeout=PATIENCE,
        )
        return self.pixels()

    def move_threshold(self, quantile: float) -> None:
        """Move the slider, and let it go."""
        self.part("threshold").evaluate(
            """(slider, value) => {
              slider.value = value;
              slider.dispatchEvent(new Event("input", {bubbles: true}));
              slider.dispatchEvent(new Event("change", {bubbles: true}));
            }""",
            quantile,
        )
        self.expect_address(f"quantile={quantile}")

    def visit(self, address: str) -> None:
        """Go to an address; what is on its way arrives first, or it would be written over."""
        self.settled()
        box = self.part("address").locator("input")
        box.fill(address)
        box.press("Enter")
        self.settled()

    def search(self, word: str) -> Locator:
        self.root.focus()
        self.page.keyboard.press("/")
        field = self.part("search").locator("input[type=search]")
        expect(field).to_be_focused()
        field.fill(word)
        field.press("Enter")
        found = self.part("search").locator("[data-address]")
        expect(found.first).to_be_visible(timeout=PATIENCE)
        return found

    def drop(self, content: bytes, name: str) -> None:
        text = base64.b64encode(content).decode()
        self.part("drop").evaluate(DROP, [text, name])

    # --- doing --------------------------------------------------------------------------

    def widget(self, kind: str, text: str) -> Locator:
        """A control of the frame: a button by its text, a field by its label."""
        if kind == "button":
            return self.page.locator(".jupyter-button", has_text=re.compile(f"^{text}$"))
        return self.page.locator(f".widget-inline-hbox:has(label:text-is('{text}'))")

    def apply(self, kind: str) -> None:
        self.widget("field", "intervention").locator("select").select_option(label=kind)
        self.widget("button", "apply").click()

    def choose_shown(self) -> None:
        """Choose all neurons that the table shows."""
        self.part("table").locator("thead input[type=checkbox]").check()
        self.expect_address("chosen=")

    def set_factor(self, factor: float) -> None:
        """Say what "scale" multiplies by, in the slider's own field."""
        self.widget("field", "intervention").locator("select").select_option(label="scale")
        field = self.page.locator(".widget-slider:has(label:text-is('factor')) .widget-readout")
        field.fill(str(factor))
        field.press("Enter")

    def undo_by_key(self) -> None:
        self.root.focus()
        self.page.keyboard.press("z")

    def stacked(self, count: int) -> None:
        """Wait until so many interventions are listed and their outcome is there."""
        expect(self.part("outcome").locator(".stack li")).to_have_count(count, timeout=PATIENCE)
        self.settled()

    def captions(self) -> tuple[str, str]:
        """The caption before and after."""
        cells = self.part("outcome").locator(".effect td.says")
        return cells.nth(0).inner_text(), cells.nth(1).inner_text()

    def probabilities(self) -> tuple[float, float]:
        cells = self.part("outcome").locator(".effect td.number")
        expect(cells).to_have_count(2, timeout=PATIENCE)
        return tuple(float(text.replace("−", "-")) for text in cells.all_inner_texts())
