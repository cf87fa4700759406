// The card beside what the pointer rests on: the baseline, the cell, and what was measured of it.

const REST = 140; // milliseconds that the pointer rests before the card comes
const CARD_SIDE = 144; // of its images, pixels

class Card {
  #timer = 0;
  #next = null; // what the pointer rests on, and what is to be said of it

  constructor() {
    this.box = make("aside", { class: "card", role: "tooltip", id: "card", hidden: true });
    document.body.append(this.box);
    addEventListener("scroll", () => this.#wait(), { passive: true });
    addEventListener("keydown", () => this.hide());
  }

  /** Let what `content` returns appear beside `place`, an element, once the pointer has rested. */
  rest(place, content) {
    this.#next = { place, content };
    this.#arm(this.box.hidden ? REST : 30);
  }

  hide() {
    this.#next = null;
    this.#wait();
  }

  /** No card while the page scrolls; afterwards that of what is below the pointer then. */
  #wait() {
    this.box.hidden = true;
    this.#arm(REST);
  }

  #arm(delay) {
    clearTimeout(this.#timer);
    if (this.#next)
      this.#timer = setTimeout(() => this.#show(this.#next.place, this.#next.content()), delay);
  }

  #show(place, parts) {
    if (!place.isConnected || document.querySelector("dialog[open]")) return;
    this.box.replaceChildren(...parts);
    this.box.hidden = false;
    const at = place.getBoundingClientRect();
    const size = this.box.getBoundingClientRect();
    const right = at.right + 12 + size.width < innerWidth - 8;
    const left = right ? at.right + 12 : at.left - 12 - size.width;
    this.box.style.left = `${Math.max(8, Math.min(left, innerWidth - size.width - 8))}px`;
    this.box.style.top = `${Math.max(8, Math.min(at.top, innerHeight - size.height - 8))}px`;
  }
}

/** What the card says of a cell. */
function cellContent(cell) {
  const { strong, rest, path } = caption(cell);
  return [
    pair(cell, CARD_SIDE),
    make(
      "p",
      { class: "name" },
      path ? make("span", { class: "path" }, ...breakable(`${path}.`)) : null,
      make("strong", {}, strong),
    ),
    rest ? make("p", { class: "rest" }, rest) : null,
    sameText(cell),
    classChip(cell),
    conceptBars(cell),
    figuresTable(cell),
  ].filter(Boolean);
}

/** A module: its place in the network, and the effect of an edit of it alone. */
function moduleContent(module) {
  const cell = sweep.alone.get(module.number);
  const editing = sweep.cells.filter((other) =>
    other.variant.modules.includes(module.number),
  ).length;
  const facts = [
    module.kind,
    module.stage,
    module.role,
    module.parameters ? `${count(module.parameters)} parameters` : "",
  ];
  return [
    cell ? pair(cell, CARD_SIDE) : null,
    make("p", { class: "name" }, ...breakable(module.path)),
    make(
      "p",
      { class: "rest" },
      `#${module.number}`,
      ...facts.filter(Boolean).map((fact) => ` · ${fact}`),
    ),
    make(
      "p",
      { class: "rest" },
      editing === 1 ? "edited in 1 cell" : `edited in ${count(editing)} cells`,
    ),
    cell && classChip(cell),
    cell && figuresTable(cell),
  ].filter(Boolean);
}

/** A cell, to the right of its baseline. */
function pair(cell, side) {
  const one = (shown, name) =>
    make(
      "figure",
      { class: shown.isBaseline ? "baseline" : "" },
      shown.state === "ok"
        ? picture(shown, side)
        : make("span", { class: `absent ${shown.state}` }, absence(shown)),
      make("figcaption", {}, name),
    );
  const base = cell.baseline && !cell.isBaseline ? one(cell.baseline, "baseline") : null;
  return make(
    "div",
    { class: "pair" },
    base,
    one(cell, cell.isBaseline ? "baseline" : "this cell"),
  );
}

const card = new Card();
