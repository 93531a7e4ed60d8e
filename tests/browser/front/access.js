// What hinders people in a page: controls without a name, faint, cut or covered text.

// As browsers name things for screen readers, as far as the front end uses it.
function nameless() {
  return [...document.querySelectorAll(
    ".mmn :is(button, input, select, textarea, summary, canvas[tabindex], [role=img], pre[tabindex], [role=group])")]
    .filter((e) => e.checkVisibility())
    .filter((e) => !(e.getAttribute("aria-label") || (e.labels?.length && e.labels[0].textContent.trim())
      || (["BUTTON", "SUMMARY"].includes(e.tagName) && e.innerText.trim())))
    .map((e) => e.outerHTML.slice(0, 120));
}

// Every text against the first ground behind it that is not transparent: its contrast if too low.
function faint() {
  const canvas = new OffscreenCanvas(1, 1).getContext("2d", { willReadFrequently: true });
  const numbers = (colour) => {
    canvas.clearRect(0, 0, 1, 1);
    canvas.fillStyle = colour;
    canvas.fillRect(0, 0, 1, 1);
    return canvas.getImageData(0, 0, 1, 1).data;
  };
  const light = (colour) => {
    const [r, g, b] = [...numbers(colour)].slice(0, 3).map((v) => v / 255)
      .map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  // A bar behind a text is a gradient of one colour.
  const grounds = (e) => {
    const found = [];
    for (; e; e = e.parentElement) {
      const style = getComputedStyle(e), bar = /gradient\(.*?(rgba?\([^)]*\))/.exec(style.backgroundImage);
      if (bar) found.push(bar[1]);
      if (numbers(style.backgroundColor)[3] === 255) return [...found, style.backgroundColor];
    }
    return [...found, "rgb(255, 255, 255)"];
  };
  const faint = [], walker = document.createTreeWalker(document.querySelector(".mmn"), NodeFilter.SHOW_TEXT);
  while (walker.nextNode()) {
    const e = walker.currentNode.parentElement, text = walker.currentNode.data.trim();
    if (!text || !e.checkVisibility() || e.closest("option, :disabled, .unseen")) continue;
    for (const ground of grounds(e)) {
      const [a, b] = [light(getComputedStyle(e).color), light(ground)].sort((x, y) => y - x);
      const ratio = (a + 0.05) / (b + 0.05);
      if (ratio < 4.5) faint.push([text.slice(0, 40), ratio, getComputedStyle(e).color, ground]);
    }
  }
  return faint;
}

// Parts, and controls, that lie over one another.
function overlapping() {
  const boxes = (selector) => [...document.querySelectorAll(selector)].filter((e) => e.checkVisibility())
    .map((e) => [e, e.getBoundingClientRect()]).filter(([, b]) => b.width && b.height);
  const over = (a, b) => Math.min(a.right, b.right) - Math.max(a.left, b.left) > 1
    && Math.min(a.bottom, b.bottom) - Math.max(a.top, b.top) > 1;
  const found = [];
  for (const selector of [".mmn section[data-part]", ".mmn :is(button, input, select, summary)"]) {
    const some = boxes(selector);
    some.forEach(([e, a], i) => some.slice(i + 1).forEach(([f, b]) => {
      if (over(a, b) && !e.contains(f) && !e.closest(".scroll") && !f.closest(".scroll"))
        found.push([e.outerHTML.slice(0, 80), f.outerHTML.slice(0, 80)]);
    }));
  }
  return found;
}

// Boxes that hide a part of what is in them; but tokens end in dots, and fields scroll.
function clipped() {
  return [...document.querySelectorAll(".mmn *")].filter((e) => e.checkVisibility())
    .filter((e) => ["hidden", "clip"].includes(getComputedStyle(e).overflowX) && e.scrollWidth > e.clientWidth + 1)
    .filter((e) => getComputedStyle(e).textOverflow !== "ellipsis" && !e.matches(".unseen, input"))
    .map((e) => e.outerHTML.slice(0, 120));
}
