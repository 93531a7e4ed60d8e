// The pictures as a grid of small ones, with pages; live also a place to drop one's own.
import { fill, h, labelled } from "./dom.js";
import { pager, Part } from "./part.js";
import { capital } from "./words.js";

const PICTURES = 24;

export class GridPart {
  constructor(app) {
    this.app = app;
    this.page = 0;
    this.part = new Part("grid", capital(app.facts.words.pictures));
    this.grid = h("div", { class: "thumbs" });
    this.pages = h("div", {});
    this.part.body.append(this.grid, this.pages, app.facts.live ? this.drop() : "");
  }

  get pictures() {
    return this.app.facts.pictures;
  }

  place(image) {
    return this.pictures.findIndex((one) => one.id === image);
  }

  // The picture that is `by` places from one, or none at the ends.
  beside(image, by) {
    return this.pictures[this.place(image) + by]?.id ?? null;
  }

  // Turn to the page of a picture.
  reach(image) {
    const page = Math.floor(Math.max(0, this.place(image)) / PICTURES);
    if (page !== this.page || !this.grid.childElementCount) this.turn(page);
    for (const one of this.grid.children) {
      if (one.dataset.image === image) one.setAttribute("aria-current", "true");
      else one.removeAttribute("aria-current");
    }
  }

  turn(page) {
    this.page = page;
    const some = this.pictures.slice(page * PICTURES, (page + 1) * PICTURES);
    if (!this.pictures.length) this.part.settle("empty", "There is no picture yet.");
    fill(this.grid, some.map(({ id, caption }) => this.thumb(id, caption)));
    fill(this.pages, pager("pictures", this.pictures.length, PICTURES, page, (to) => this.turn(to)));
  }

  thumb(id, caption) {
    const img = h("img", { alt: "" });
    this.app.thumbs.show(img, id);
    return h("button", {
      type: "button", class: "thumb", "data-image": id, "data-key": `picture ${id}`,
      title: caption, "aria-label": `picture ${id}: ${caption}`,
      "aria-current": id === this.app.view.image ? "true" : null,
      onclick: () => this.app.open(id),
    }, img);
  }

  drop() {
    const field = h("input", { type: "file", accept: "image/*", "data-part": "file", onchange: () => this.take(field.files) });
    const zone = h("div", { class: "drop", "data-part": "drop" },
      labelled("A picture of your own: drop it here, or choose", field));
    const over = (on) => (event) => (event.preventDefault(), zone.classList.toggle("over", on));
    zone.addEventListener("dragenter", over(true));
    zone.addEventListener("dragover", over(true));
    zone.addEventListener("dragleave", over(false));
    zone.addEventListener("drop", (event) => {
      over(false)(event);
      event.stopPropagation();
      this.take(event.dataTransfer.files);
    });
    return zone;
  }

  async take(files) {
    if (!files.length) return;
    await this.app.questions.into(this.part, async (current) => {
      const buffer = await files[0].arrayBuffer();
      const picture = await this.app.questions.ask("own", { name: files[0].name, buffer });
      const others = this.pictures.filter((one) => one.id !== picture.id);
      this.app.facts.pictures = [{ id: picture.id, caption: picture.caption }, ...others];
      this.app.thumbs.forget(picture.id);
      this.turn(0);
      if (current()) this.app.open(picture.id);
    });
    const field = this.part.element.querySelector("[type=file]");
    field.value = ""; // so that the same file can be taken again
  }
}
