// The keys. They are heard only while the focus is in the browser and in no field of text.

export const HELP = [
  ["\u2190 \u2192", "the picture before, the next"],
  ["\u2191 \u2193", "the neuron above in the table, the next"],
  ["/", "search a word"],
  ["z", "undo the last intervention", "live"],
  ["Esc", "leave a field, close this, let go of the patch"],
  ["?", "this help"],
];
const NAMES = {
  ArrowLeft: "before", ArrowRight: "next", ArrowUp: "above", ArrowDown: "below",
  "/": "search", z: "undo", Escape: "escape", "?": "help",
};

function writing(target) {
  if (target.matches("select, textarea, [contenteditable]")) return true;
  return target.matches("input") && !["checkbox", "button", "file"].includes(target.type);
}

// actions: {before, next, above, below, search, undo, escape, help}; one that is absent is no key.
export function keys(root, actions) {
  const heard = (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    // JupyterLab has shortcuts of one letter; none of them may fire from in here.
    event.stopPropagation();
    const name = NAMES[event.key], act = actions[name];
    if (!act || event.defaultPrevented) return;
    if (writing(event.target) && name !== "escape") return;
    event.preventDefault();
    if (name === "escape" && writing(event.target)) root.focus({ preventScroll: true });
    else act();
  };
  root.addEventListener("keydown", heard);
  return () => root.removeEventListener("keydown", heard);
}
