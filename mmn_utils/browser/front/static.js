// The page without a kernel: its answers lie in it, its address is the page's own.
import { readAddress, writeAddress } from "./address.js";
import { mount } from "./app.js";
import { Packed, unpack } from "./packed.js";

function sourceOf(packed) {
  return {
    ask: async (name, args) => packed().then((one) => one.ask(name, args)),
    // Each step is one of the window's history, so its buttons lead back and forth.
    tell(view, { replace }) {
      const address = writeAddress(view);
      if (address === location.hash) return;
      history[replace ? "replaceState" : "pushState"](null, "", address);
    },
    view(callback) {
      const arrive = () => callback(...readAddress(location.hash));
      addEventListener("hashchange", arrive);
      if (location.hash.length > 1) arrive();
    },
  };
}

function begin() {
  const root = document.getElementById("browser"), text = document.getElementById("data").textContent;
  const unpacked = unpack(text).then((data) => new Packed(data));
  mount(root, sourceOf(() => unpacked));
  root.focus({ preventScroll: true });
}

begin();
