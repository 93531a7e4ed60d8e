// Elements from names, attributes and text. Text goes in as text nodes alone, never as markup.

// h("button", { class: "quiet", onclick: f }, "text", element): null and false are left out.
export function h(name, attributes = {}, ...children) {
  const element = document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "style") for (const [k, v] of Object.entries(value)) element.style.setProperty(k, v);
    else element.setAttribute(key, value === true ? "" : String(value));
  }
  element.append(...nodes(children));
  return element;
}

function nodes(children) {
  return children
    .flat(Infinity)
    .filter((child) => child !== null && child !== undefined && child !== false)
    .map((child) => (child instanceof Node ? child : document.createTextNode(String(child))));
}

// Replace what is inside. Focus stays on the element of the same data-key, or else in the
// browser, as keys are heard only while it has the focus.
export function fill(element, ...children) {
  const held = element.getRootNode().activeElement;
  const inside = held && held !== element && element.contains(held);
  const key = inside ? held.dataset.key : undefined;
  element.replaceChildren(...nodes(children));
  if (!inside) return;
  const again = key && [...element.querySelectorAll("[data-key]")].find((e) => e.dataset.key === key);
  (again || element.closest(".mmn"))?.focus({ preventScroll: true });
}

let count = 0;

// A number for ids, as a page may hold several browsers.
export function fresh(name) {
  count += 1;
  return `mmn-${name}-${count}`;
}

// A control with its label before it.
export function labelled(text, control) {
  control.id ||= fresh("control");
  return h("span", { class: "labelled" }, h("label", { for: control.id }, text), control);
}

// options: [[value, text] ..]
export function select(options, chosen, onchange, attributes = {}) {
  const list = options.map(([value, text]) => h("option", { value, selected: value === chosen }, text));
  return h("select", { ...attributes, onchange: (event) => onchange(event.target.value) }, list);
}

export function download(name, text) {
  const url = URL.createObjectURL(new Blob([text], { type: "text/csv;charset=utf-8" }));
  h("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 1000);
}
