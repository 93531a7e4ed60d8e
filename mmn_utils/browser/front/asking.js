// What each part of a view is asked for; an answer is drawn only while its question still counts.

export const ROWS = 100; // of each method in the table: all that an atlas keeps
const WROTE = 30; // neurons of a patch

export class Asking {
  constructor(app) {
    this.app = app;
  }

  picture() {
    const { app } = this, { image } = app.view;
    app.grid.reach(image);
    if (image === null) {
      app.picture.part.settle("empty", "There is no picture yet.");
      return app.caption.part.empty("There is no picture yet.");
    }
    app.caption.part.wait();
    app.questions.into(app.picture.part, async (current) => {
      const picture = await app.questions.ask("picture", { image }).catch((error) => {
        if (!current()) throw error;
        app.caption.part.fail(error.message);
        app.questions.turn("table");
        app.table.clear("There is no caption to ask about.");
        throw error;
      });
      if (!current()) return;
      app.shownPicture = picture;
      app.picture.show(picture);
      app.caption.show(picture);
      this.maps();
      const { noun } = app.view, typed = noun !== null && !picture.nouns.includes(noun);
      if (typed && !app.facts.live) app.header.complain([`the caption has no noun ${JSON.stringify(noun)}`]);
      const asked = noun === null || (typed && !app.facts.live) ? picture.nouns[0] ?? null : noun;
      if (asked !== noun) app.settle({ noun: asked });
      else this.table();
    });
  }

  table() {
    const { app } = this, { image, noun } = app.view;
    app.caption.mark(app.view);
    if (app.table.scope === "all") return this.all();
    app.table.exact = {};
    // an address that names only the picture that is shown
    const first = noun === null && app.shownPicture?.id === image ? app.shownPicture.nouns[0] : null;
    if (first) return app.settle({ noun: first });
    if (noun === null) {
      app.questions.turn("table");
      return app.table.clear("There is no noun to ask about in this caption.");
    }
    app.questions.into(app.table.part, async (current) => {
      const found = await app.questions.ask("top", { image, noun, k: ROWS }).catch((error) => {
        if (current()) app.table.clear(""); // another noun's neurons are no answer to this one
        throw error;
      });
      if (!current()) return;
      app.table.show(found);
      app.caption.scored({ image, noun }, found);
      if (app.view.neuron === null) this.first();
    });
  }

  // The filter of all neurons; the noun does not matter to it.
  all() {
    const { app } = this, { layer, interpretable, generic, by, least, order, n } = app.table.asked;
    app.questions.into(app.table.part, async (current) => {
      const layers = layer === null ? null : [layer];
      const args = { layers, method: by, least, interpretable, generic, order, n };
      const { rows } = await app.questions.ask("filter", args);
      if (!current()) return;
      const about = await app.questions.ask("about", { neurons: rows.map((one) => one.address) });
      if (current()) app.table.showAll(rows, about);
    });
  }

  first() {
    const { app } = this;
    const address = app.table.beside(null, 0);
    if (address) app.settle({ neuron: address });
  }

  card() {
    const { app } = this, { neuron } = app.view;
    if (neuron === null) return;
    app.questions.into(app.card.part, async (current) => {
      const card = await app.questions.ask("card", { neuron }).catch((error) => {
        if (current()) this.without(neuron);
        throw error;
      });
      if (!current()) return;
      app.card.show(card);
      app.elsewhere.show(card);
    });
    app.questions.into(app.control.part, async (current) => {
      const { address } = await app.questions.ask("control", { neuron });
      const card = current() && (await app.questions.ask("card", { neuron: address }).catch((error) => {
        if (current()) app.control.clear(address);
        throw error;
      }));
      if (current()) app.control.show(card);
    });
    app.questions.into(app.similar.part, async (current) => {
      const found = await app.questions.ask("similar", { neuron });
      if (current()) app.similar.show(found);
    });
  }

  // What is shown of another neuron must not stand below this one's name.
  without(neuron) {
    const { app } = this, why = `There is no card of ${neuron}.`;
    for (const name of ["control", "similar"]) app.questions.turn(name);
    app.card.clear(neuron);
    app.control.clear(null, why);
    app.similar.part.empty(why);
    app.elsewhere.clear(why);
  }

  maps() {
    const { app } = this, { view } = app, { image, neuron, map } = view;
    if (!app.facts.grid || app.shownPicture?.id !== image) return;
    if (map === "one" && !neuron) return void app.questions.turn("maps");
    const some = map === "one" ? [neuron] : view.chosen;
    app.questions.into(app.picture.part, async (current) => {
      // A page without a kernel has no control of a neuron that it only names.
      const asked = map === "one" ? await app.questions.ask("control", { neuron }).catch(() => null) : null;
      const control = asked?.address ?? null;
      const neurons = [...some, control].filter(Boolean);
      const maps = current() && neurons.length ? await app.questions.ask("maps", { image, neurons }) : {};
      if (current()) app.picture.maps(maps, view, control);
    }, "maps");
  }

  patch() {
    const { app } = this, { image, noun, patch } = app.view;
    if (patch === null || image === null) {
      app.questions.turn("patch");
      return app.patch.hide();
    }
    app.patch.name(patch, noun);
    if (noun === null && app.shownPicture?.id !== image) return; // its first noun is on the way
    app.questions.into(app.patch.part, async (current) => {
      const found = await app.questions.ask("patch", { image, noun, patch, k: WROTE });
      if (current()) app.patch.show(found);
    });
  }

  search() {
    const { app } = this, { search } = app.view;
    if (!search) {
      app.questions.turn("search");
      return app.search.clear();
    }
    app.questions.into(app.search.part, async (current) => {
      const asked = app.questions.ask("search", { ...search, norm: app.search.norm });
      const found = await asked.catch((error) => {
        if (current()) app.search.clear(); // what another word gave is no answer to this one
        throw error;
      });
      if (current()) app.search.show(found);
    });
  }
}
