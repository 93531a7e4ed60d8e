// A model as anywidget hands it to a widget, answered by a page's data instead of Python.
// `slow` holds back answers by name until they are let go; `asked` keeps what was asked.

class Model {
  constructor(traits, answer) {
    Object.assign(this, { traits, answer, listeners: {}, asked: [], slow: new Set(), held: [], saved: 0 });
  }

  get(name) {
    return this.traits[name];
  }

  set(name, value) {
    this.traits[name] = value;
  }

  save_changes() {
    this.saved += 1;
    this.emit("change:view"); // as the kernel's echo does
  }

  on(name, callback) {
    (this.listeners[name] ??= new Set()).add(callback);
  }

  off(name, callback) {
    this.listeners[name]?.delete(callback);
  }

  emit(name, ...args) {
    for (const callback of [...(this.listeners[name] ?? [])]) callback(...args);
  }

  // What Python does: it changes a trait.
  push(name, value) {
    this.traits[name] = value;
    this.emit(`change:${name}`);
  }

  async send({ id, ask, args }, _callbacks, buffers) {
    this.asked.push({ ask, args, bytes: buffers?.map((one) => one.byteLength) });
    let message;
    try {
      message = { id, answer: await this.answer(ask, args, buffers) };
    } catch (error) {
      message = { id, error: error.message };
    }
    const reply = () => this.emit("msg:custom", message, []);
    if (this.slow.has(ask)) this.held.push(reply);
    else setTimeout(reply);
  }
}

export function live(data, Packed) {
  const packed = new Packed(data), own = {};
  const answers = {
    facts: () => ({ ...packed.ask("facts"), live: true, held: undefined }),
    picture: ({ image }) => own[image] ?? packed.ask("picture", { image }),
    own({ name }, [bytes]) {
      if (bytes.byteLength < 8) throw new Error(`${name} is no picture: it cannot be read`);
      const some = packed.ask("picture", { image: "p1" });
      return (own[`own:${name}`] = { ...some, id: `own:${name}`, own: true, masks: [] });
    },
    thumbs: ({ images }) => packed.ask("thumbs", { images: images.map((id) => (own[id] ? "p1" : id)) }),
    top: ({ image, noun, k }) => packed.ask("top", { image: own[image] ? "p1" : image, noun: known(noun), k }),
    word({ image, noun }) {
      if (noun === "xyzzy") throw new Error("no token of the vocabulary reads 'xyzzy'");
      return answers.top({ image, noun, k: 20 });
    },
    maps: ({ image, neurons }) => packed.ask("maps", { image: own[image] ? "p1" : image, neurons }),
    exact: ({ neurons }) => Object.fromEntries(neurons.map((n, i) => [n, { probability: -i / 100, logit: -i }])),
    undo: () => ({}), remove: () => ({}), cancel: () => ({}),
  };
  const known = (noun) => (["horse", "dog"].includes(noun) ? noun : "dog");
  return new Model({ view: {}, state: {} }, (name, args, buffers) =>
    answers[name] ? answers[name](args, buffers) : packed.ask(name, args));
}
