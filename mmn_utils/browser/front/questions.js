// Questions to a source. An answer whose question was superseded meanwhile is dropped.

const KEPT = ["card", "control", "similar"]; // what never changes while a browser is open
const MOST = 400;

export class Questions {
  constructor(source) {
    this.source = source;
    this.turns = new Map();
    this.kept = new Map();
  }

  // Ask; the same neuron's card is asked for once.
  ask(name, args = {}) {
    if (!KEPT.includes(name)) return this.source.ask(name, args);
    const key = JSON.stringify([name, args]);
    if (!this.kept.has(key)) {
      if (this.kept.size >= MOST) this.kept.delete(this.kept.keys().next().value);
      const answer = this.source.ask(name, args);
      this.kept.set(key, answer);
      answer.catch(() => this.kept.delete(key)); // a failure may be asked again
    }
    return this.kept.get(key);
  }

  // Make the earlier turns of a place stale; the function says whether this one still counts.
  turn(place) {
    const mine = (this.turns.get(place) ?? 0) + 1;
    this.turns.set(place, mine);
    return () => this.turns.get(place) === mine;
  }

  // Fill a part from questions: `work` asks and draws, and looks at `current()` in between.
  async into(part, work, place = part.name) {
    const current = this.turn(place);
    part.wait();
    try {
      await work(current);
      if (current()) part.rest();
    } catch (error) {
      if (current()) error.lacking ? part.empty(error.message) : part.fail(error.message);
    }
  }
}

// Small pictures, asked for together: one question for all that a drawing needs.
export class Thumbs {
  constructor(questions) {
    this.questions = questions;
    this.urls = new Map();
    this.waiting = new Map();
  }

  // Give an <img> its source, now or when it has come.
  show(img, image) {
    if (this.urls.has(image)) return void (img.src = this.urls.get(image));
    if (!this.waiting.size) queueMicrotask(() => this.fetch());
    this.waiting.set(image, [...(this.waiting.get(image) ?? []), img]);
  }

  // A picture of the same name may have come in another one's place.
  forget(image) {
    this.urls.delete(image);
  }

  async fetch() {
    const waiting = this.waiting;
    this.waiting = new Map();
    let urls = {};
    try {
      urls = await this.questions.ask("thumbs", { images: [...waiting.keys()] });
    } catch {
      // Those that are missing are marked as such below.
    }
    for (const [image, some] of waiting) {
      const url = urls[image];
      if (url) this.urls.set(image, url);
      for (const img of some) url ? (img.src = url) : img.classList.add("missing");
    }
  }
}
