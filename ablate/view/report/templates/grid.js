// The sheet: tiles of equal size, moved about by arrow keys.

const GAP = 20; // pixels between tiles
const LINE = 17; // height of a line of a caption
const BARE = 64; // tiles this small have no caption

class Grid {
  cells = [];
  active = 0; // index of the tile with the keyboard's focus
  // Captions have as many lines as this run has something to say in.
  #lines = [
    true,
    sweep.cells.some((cell) => caption(cell).path),
    sweep.cells.some((cell) => caption(cell).rest),
    sweep.classes.length > 0,
    sweep.words.length > 0,
  ];
  #fresh = true;

  constructor(open) {
    this.open = open;
    this.box = make("div", { class: "grid", role: "grid", "aria-label": "Cells of the run" });
    this.empty = make("p", { class: "empty", hidden: true }, "No cell passes these filters.");
    this.rows = new Rows(
      this.box,
      () => this.#blank(),
      (node, row, fresh) => this.#fill(node, row, fresh),
    );
    this.box.addEventListener("keydown", (event) => this.#key(event));
    this.box.addEventListener("click", (event) => this.#click(event));
    this.box.addEventListener("focusin", (event) => this.#focused(event));
    this.box.addEventListener("pointerover", (event) => this.#rest(event));
    this.box.addEventListener("pointerleave", () => card.hide());
    new ResizeObserver(() => this.lay()).observe(this.box);
  }

  /** Show these cells. `still`: the same places, of which each now shows another cell. */
  show(cells, { still = false, side = this.side, figure = this.figure } = {}) {
    const kept = this.cells[this.active];
    Object.assign(this, { cells, side, figure });
    this.active = still
      ? Math.min(this.active, Math.max(0, cells.length - 1))
      : Math.max(0, cells.indexOf(kept));
    this.#fresh = !still;
    this.empty.hidden = cells.length > 0;
    this.lay();
    this.#fresh = true;
  }

  lay() {
    const width = this.box.clientWidth;
    if (!width || !this.side) return;
    const fit = (width + GAP) / (this.side + GAP);
    const narrow = fit < 4; // there tiles give way, so that the width is filled
    const columns = Math.max(1, narrow ? Math.round(fit) : Math.floor(fit));
    const side = narrow ? Math.floor((width + GAP) / columns) - GAP : this.side;
    const shape = `${columns}x${side}`;
    if (shape !== this.shape) this.rows.clear();
    Object.assign(this, { columns, shape });
    // Whole pixels between tiles, so that images stay as sharp as they are.
    const gap = narrow ? GAP : Math.floor((width - columns * side) / (columns - 1));
    this.box.style.setProperty("--gap", `${gap}px`);
    this.box.style.setProperty("--side", `${side}px`);
    this.box.style.setProperty("--columns", columns);
    this.box.classList.toggle("bare", this.side <= BARE);
    const below = this.side <= BARE ? 0 : 8 + LINE * this.#lines.filter(Boolean).length;
    const height = side + below + GAP;
    this.box.setAttribute("aria-colcount", columns);
    this.box.setAttribute("aria-rowcount", Math.ceil(this.cells.length / columns));
    this.rows.lay(Math.ceil(this.cells.length / columns), height);
  }

  /** Put the keyboard on a cell, if it is shown. */
  focus(cell) {
    const index = this.cells.indexOf(cell);
    if (index >= 0) this.#move(index);
  }

  #blank() {
    return make(
      "div",
      { class: "row", role: "row" },
      ...Array.from({ length: this.columns }, () =>
        make(
          "div",
          { class: "tile", role: "gridcell" },
          make(
            "a",
            { class: "frame", tabindex: "-1" },
            make("img", { alt: "", decoding: "async", draggable: "false" }),
            make("span", { class: "absent" }),
          ),
          make(
            "div",
            { class: "caption" },
            make(
              "div",
              { class: "line" },
              make("span", { class: "strong" }),
              make("span", { class: "figure" }),
            ),
            make(
              "div",
              { class: "rest", hidden: !this.#lines[1] },
              make("span", { class: "lead" }),
              make("span", {}),
            ),
            make("div", { class: "rest", hidden: !this.#lines[2] }, make("span", { class: "lead" })),
            make("div", { hidden: !this.#lines[3] }, make("span", { class: "class" })),
            make(
              "div",
              { class: "rest", hidden: !this.#lines[4] },
              make("span", { class: "lead" }),
              make("span", {}),
            ),
          ),
        ),
      ),
    );
  }

  #fill(node, row, fresh) {
    node.setAttribute("aria-rowindex", row + 1);
    [...node.children].forEach((tile, column) => {
      const index = row * this.columns + column;
      const cell = this.cells[index];
      tile.hidden = !cell;
      if (cell) this.#write(tile, cell, index, fresh || this.#fresh);
    });
  }

  #write(tile, cell, index, fresh) {
    const [frame, below] = tile.children;
    const [image, absent] = frame.children;
    const [line, way, rest, become, nearest] = below.children;
    const { strong, rest: others, path } = caption(cell);
    const value = figure(cell, this.figure);
    const shown =
      value == null || (value === 0 && !cell.variant.modules.length)
        ? ""
        : this.figure.endsWith("×")
          ? inFloors(value)
          : written(value);
    tile.dataset.index = index;
    tile.classList.toggle("baseline", cell.isBaseline);
    frame.tabIndex = index === this.active ? 0 : -1;
    frame.setAttribute(
      "aria-label",
      [
        fullName(cell),
        shown && `${metricName(this.figure.replace("×", ""))} ${shown}`,
        sweep.classes[cell.class],
        absence(cell),
      ]
        .filter(Boolean)
        .join(", "),
    );
    if (cell.source) frame.href = cell.source;
    else frame.removeAttribute("href");
    absent.className = `absent ${cell.state}`;
    absent.textContent = absence(cell);
    // A tile that now shows another cell must not show the old image until the new one is in.
    if (cell.state !== "ok" || (fresh && image.getAttribute("src") !== cell.source))
      image.removeAttribute("src");
    if (cell.state === "ok" && image.getAttribute("src") !== cell.source) {
      image.onload = () => sharpen(image, image.clientWidth);
      image.src = cell.source;
    }
    line.children[0].textContent = strong;
    line.children[1].textContent = shown;
    const [end, start] = splitPath(path);
    write(way, start && `${start}.`, end); // both ends of a long path stay
    rest.firstChild.textContent = others;
    below.title = [path && `${path}.${strong}`, others].filter(Boolean).join(" · ");
    become.firstChild.textContent = sweep.classes[cell.class] ?? "";
    become.firstChild.dataset.class = CLASSES.indexOf(sweep.classes[cell.class]);
    const share = cell.concepts.find(([word]) => word === cell.shows)?.[1];
    write(nearest, sweep.words[cell.shows] ?? "", share == null ? "" : ` ${percent(share)}`);
  }

  #key(event) {
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    const { active, columns, rows, cells } = this;
    const page = rows.page * columns;
    const to = {
      ArrowRight: active + 1,
      ArrowLeft: active - 1,
      ArrowDown: active + columns,
      ArrowUp: active - columns,
      Home: 0,
      End: cells.length - 1,
      PageDown: active + page,
      PageUp: active - page,
    }[event.key];
    if (to !== undefined) {
      event.preventDefault();
      const paged = event.key.startsWith("Page");
      if (paged) this.#move(Math.max(0, Math.min(cells.length - 1, to)));
      else if (to >= 0 && to < cells.length) this.#move(to);
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      this.open(cells[active]);
    }
  }

  #move(index) {
    const link = (i) => this.box.querySelector(`[data-index="${i}"]:not([hidden]) .frame`);
    const old = link(this.active);
    if (old) old.tabIndex = -1;
    this.active = index;
    this.rows.reach(Math.floor(index / this.columns));
    const now = link(index);
    now.tabIndex = 0;
    now.focus({ preventScroll: true });
  }

  #focused(event) {
    const tile = event.target.closest(".tile");
    if (!tile) return;
    const index = Number(tile.dataset.index);
    this.rows.pinned = Math.floor(index / this.columns);
    if (index !== this.active) this.#move(index);
  }

  /** A click enlarges; with a modifier key it is the link to the PNG that it is. */
  #click(event) {
    const tile = event.target.closest(".tile");
    if (!tile || event.ctrlKey || event.metaKey || event.shiftKey) return;
    event.preventDefault();
    this.open(this.cells[tile.dataset.index]);
  }

  #rest(event) {
    const frame = event.target.closest(".frame");
    if (!frame || event.pointerType === "touch") return card.hide();
    const cell = this.cells[frame.closest(".tile").dataset.index];
    return card.rest(frame, () => cellContent(cell));
  }
}

/** A line of two parts, of which the first gives way where room is short. */
function write(line, lead, rest) {
  line.firstChild.textContent = lead;
  line.lastChild.textContent = rest;
}
