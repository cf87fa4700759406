// A cell enlarged beside its baseline, with all that is known of it.

const MODULES_SHOWN = 8;

class Enlargement {
  #difference = false;

  /** `listed()`: the cells among which arrow keys move; `closed(cell)`: where focus goes then. */
  constructor(listed, closed) {
    this.listed = listed;
    this.body = make("div", { class: "body" });
    this.place = make("span", { class: "place" });
    this.heading = make("h2", { id: "enlarged", tabindex: "-1", autofocus: true });
    this.box = make(
      "dialog",
      { class: "enlargement", "aria-labelledby": "enlarged" },
      make(
        "header",
        {},
        this.heading,
        this.place,
        button("‹", "Previous cell (←)", () => this.#step(-1), { class: "plain" }),
        button("›", "Next cell (→)", () => this.#step(1), { class: "plain" }),
        button("×", "Close (Escape)", () => this.box.close(), { class: "plain" }),
      ),
      this.body,
    );
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.box.addEventListener("click", (event) => event.target === this.box && this.box.close());
    this.box.addEventListener("close", () => closed(this.cell));
    document.body.append(this.box);
  }

  open(cell) {
    card.hide();
    this.#write(cell);
    if (!this.box.open) this.box.showModal();
  }

  /** The cells to move among: those listed, or all where this one is not listed. */
  get #row() {
    const listed = this.listed();
    return listed.includes(this.cell) ? listed : sweep.cells;
  }

  #step(by) {
    const row = this.#row;
    const next = row[row.indexOf(this.cell) + by];
    if (next) this.#write(next);
  }

  #key(event) {
    const steps = {
      ArrowLeft: -1,
      ArrowRight: 1,
      ArrowUp: -1,
      ArrowDown: 1,
      PageUp: -1,
      PageDown: 1,
    };
    if (event.key in steps) {
      event.preventDefault();
      this.#step(steps[event.key]);
    } else if (event.key === "d") this.#compare();
  }

  #compare() {
    this.#difference = !this.#difference;
    this.#write(this.cell);
  }

  #write(cell) {
    this.cell = cell;
    const row = this.#row;
    const at = row.indexOf(cell);
    this.heading.replaceChildren(...headingOf(cell));
    this.place.textContent = at < 0 ? "" : `${count(at + 1)} of ${count(row.length)}`;
    const [before, after] = this.box.querySelectorAll("header .plain");
    before.disabled = at <= 0;
    after.disabled = at < 0 || at === row.length - 1;
    this.body.replaceChildren(
      this.#pictures(cell),
      make("div", { class: "details" }, ...detailsOf(cell)),
    );
    for (const near of [row[at - 1], row[at + 1]]) if (near?.source) new Image().src = near.source;
  }

  #pictures(cell) {
    const side = 360;
    const shown = make(
      "figure",
      { class: cell.isBaseline ? "baseline" : "" },
      large(cell, side),
      make("figcaption", {}, cell.isBaseline ? "baseline" : "this cell", pngLink(cell)),
    );
    const base = cell.baseline;
    if (!base || cell.isBaseline) return make("div", { class: "pictures single" }, shown);
    const both = cell.state === "ok" && base.state === "ok";
    const differs = both && this.#difference;
    const beside = make(
      "figure",
      { class: differs ? "" : "baseline" },
      differs
        ? make("span", { class: "difference" }, picture(base, side), picture(cell, side))
        : large(base, side),
      make(
        "figcaption",
        {},
        differs ? "difference, doubled" : "baseline",
        differs ? null : pngLink(base),
      ),
    );
    const toggle = both
      ? button(
          "Difference",
          "Show the difference from the baseline (d)",
          () => {
            this.#compare();
            this.body.querySelector(".toggle").focus();
          },
          { class: "toggle", "aria-pressed": String(differs) },
        )
      : null;
    return make("div", { class: "pictures" }, beside, shown, toggle);
  }
}

function headingOf(cell) {
  const { strong, path } = caption(cell);
  if (cell.isBaseline) return [make("span", { class: "accent" }, fullName(cell))];
  return path
    ? [make("span", { class: "path" }, ...breakable(`${path}.`)), make("wbr"), strong]
    : [fullName(cell)];
}

function large(cell, side) {
  return cell.state === "ok"
    ? picture(cell, side)
    : make("span", { class: `absent ${cell.state}` }, absence(cell));
}

function pngLink(cell) {
  return (
    cell.source && make("a", { href: cell.source, target: "_blank", rel: "noopener" }, "PNG ↗")
  );
}

/** Everything in words and figures, as sections of a column. */
function detailsOf(cell) {
  const section = (title, ...content) =>
    content.some(Boolean) ? make("section", {}, make("h3", {}, title), ...content) : null;
  const settings = (pairs) =>
    make(
      "dl",
      {},
      ...pairs.flatMap(([name, value]) => [make("dt", {}, name), make("dd", {}, ...value)]),
    );
  const axes = sweep.axes.filter(
    (axis) => cell.at[axis.index] != null && axis.name !== "prompt" && axis.name !== "seed",
  );
  return [
    section("Drift", classChip(cell), figuresTable(cell)),
    section("Nearest concepts", conceptBars(cell)),
    section("Edits", ...cell.variant.edits.map(editText), sameText(cell)),
    section(
      "Axes",
      axes.length
        ? settings(axes.map((axis) => [axis.name, breakable(axis.labels[cell.at[axis.index]])]))
        : null,
    ),
    section(
      "Condition",
      settings([
        [cell.point ? "point" : "prompt", [cell.point ? cell.prompt : `“${cell.prompt}”`]],
        ["seed", [String(cell.seed)]],
      ]),
    ),
  ].filter(Boolean);
}

/** One edit: its op, strength, and the modules it edits. */
function editText(edit) {
  const strength = Object.entries(edit.with)
    .map(([name, value]) => `${name} ${value}`)
    .join(", ");
  const item = (number) => make("li", {}, ...breakable(sweep.modules[number].path));
  const some = edit.modules.slice(0, MODULES_SHOWN).map(item);
  const rest = edit.modules.slice(MODULES_SHOWN);
  const total = edit.modules.length === sweep.modules.length && rest.length ? "all " : "";
  return make(
    "div",
    { class: "edit" },
    make(
      "p",
      {},
      make("strong", {}, edit.op),
      strength ? ` ${strength}` : "",
      make(
        "span",
        { class: "rest" },
        edit.modules.length === 1
          ? " of 1 module"
          : ` of ${total}${count(edit.modules.length)} modules`,
      ),
    ),
    make("ul", {}, ...some),
    rest.length
      ? make(
          "details",
          {},
          make("summary", {}, `${count(rest.length)} more`),
          make("ul", {}, ...rest.map(item)),
        )
      : null,
  );
}
