// The same browser in JupyterLab, Notebook and Voila: Python answers, and its traits are followed.
import { mount } from "./app.js";

const PATIENCE = 15_000; // milliseconds before somebody is told that nobody answers
const GONE = "No answer: the browser needs a running kernel, and one that no other cell keeps busy. " +
  "Run the notebook again, or open the run's browser.html.";
let drawn = 0;

// Questions by number; a model may be drawn several times, and each drawing hears its own answers.
class Kernel {
  constructor(model) {
    this.model = model;
    this.name = `${Date.now().toString(36)}-${Math.random().toString(36).slice(2)}-${(drawn += 1)}`;
    this.asked = 0;
    this.open = new Map();
    this.heard = (message) => this.hear(message);
    model.on("msg:custom", this.heard);
  }

  ask(name, args) {
    const id = `${this.name}-${(this.asked += 1)}`, { buffer, ...rest } = args;
    return new Promise((resolve, reject) => {
      this.open.set(id, { name, resolve, reject });
      this.wait(id);
      this.send({ id, ask: name, args: rest }, buffer).catch(() => this.lose(id));
    });
  }

  async send(message, buffer) {
    await this.model.send(message, undefined, buffer ? [buffer] : undefined);
  }

  // Without a kernel messages go nowhere, and nothing else would say so. What takes long is no
  // sign of that: then a question that is answered at once is asked, and if it is, all may wait.
  wait(id) {
    const one = this.open.get(id);
    if (!one) return;
    one.late = setTimeout(() => {
      if (one.name === "facts") return this.lose(id);
      this.asking ??= this.ask("facts", {}).finally(() => (this.asking = null));
      this.asking.then(() => this.wait(id), () => this.lose(id));
    }, PATIENCE);
  }

  lose(id) {
    this.take(id)?.reject(new Error(GONE));
  }

  take(id) {
    const one = this.open.get(id);
    this.open.delete(id);
    clearTimeout(one?.late);
    return one;
  }

  hear({ id, answer, error }) {
    const one = this.take(id);
    if (!one) return;
    if (error === undefined || error === null) one.resolve(answer);
    else one.reject(new Error(error));
  }

  close() {
    this.model.off("msg:custom", this.heard);
    for (const { late } of this.open.values()) clearTimeout(late);
  }
}

function sourceOfModel(model, kernel, closing) {
  const follow = (name, callback) => {
    const changed = () => callback(model.get(name));
    model.on(`change:${name}`, changed);
    closing.push(() => model.off(`change:${name}`, changed));
    return changed;
  };
  let told = null; // so that our own word is not taken for Python's
  const same = (view) => JSON.stringify(view) === told;
  return {
    ask: (name, args) => kernel.ask(name, args),
    tell(view) {
      told = JSON.stringify(view);
      model.set("view", { ...view });
      try {
        model.save_changes();
      } catch {
        // Without a kernel; the questions of this view say so.
      }
    },
    view(callback) {
      follow("view", (view) => view && !same(view) && callback(view));
      const view = model.get("view");
      if (view?.image) callback(view);
    },
    state(callback) {
      follow("state", callback)();
    },
    pictures(callback) {
      follow("pictures", callback);
    },
  };
}

// JupyterLab says in its body whether it is light or dark; elsewhere the system's choice counts.
function followTheme(root) {
  const theme = () => {
    const light = document.body.dataset.jpThemeLight;
    if (light === undefined) delete root.dataset.scheme;
    else root.dataset.scheme = light === "true" ? "light" : "dark";
  };
  const watcher = new MutationObserver(theme);
  watcher.observe(document.body, { attributes: true, attributeFilter: ["data-jp-theme-light"] });
  theme();
  return () => watcher.disconnect();
}

// JupyterLab's letters must not fire from the controls around the views either: with the focus in
// a list, one that chooses an entry would add or cut a cell. They are there once we are drawn.
function quieten(el) {
  let frame = 0, around = null;
  const stop = (event) => {
    if (!event.ctrlKey && !event.metaKey && !event.altKey) event.stopPropagation();
  };
  const mark = () => {
    around = el.isConnected ? el.parentElement?.closest(".widget-vbox") : null;
    if (!around) return void (frame = requestAnimationFrame(mark));
    around.setAttribute("data-lm-suppress-shortcuts", "true");
    around.addEventListener("keydown", stop);
  };
  mark();
  return () => (cancelAnimationFrame(frame), around?.removeEventListener("keydown", stop));
}

function render({ model, el }) {
  const root = document.createElement("div"), kernel = new Kernel(model), closing = [];
  el.append(root);
  const browser = mount(root, sourceOfModel(model, kernel, closing));
  closing.push(followTheme(root), quieten(el), () => kernel.close(), browser.unmount);
  return () => closing.forEach((act) => act());
}

export default { render };
