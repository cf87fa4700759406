// Which cells are shown, and in which order.

const FEW = 40; // values of an axis that a menu lists

/** A facet: labels to choose among, and which of them a cell has. null: it has no say in this. */
function moduleFacet(name) {
  const labels = [
    ...new Set(sweep.variants.flatMap((v) => v.modules.map((m) => sweep.modules[m][name]))),
  ].filter(Boolean);
  const listed = sweep.variants.map((v) => [
    ...new Set(v.modules.map((m) => labels.indexOf(sweep.modules[m][name]))),
  ]);
  return {
    name,
    labels,
    of: (cell) => (cell.variant.modules.length ? listed[cell.variant.index] : null),
  };
}

function facetsOfSweep() {
  const facets = ["stage", "role", "kind"].map(moduleFacet);
  const nearest = [
    ...new Set(sweep.cells.flatMap((cell) => (cell.shows == null ? [] : [cell.shows]))),
  ].sort((a, b) => a - b);
  const classes = sweep.classes
    .map((_, i) => i)
    .sort((a, b) => CLASSES.indexOf(sweep.classes[a]) - CLASSES.indexOf(sweep.classes[b]));
  facets.push(
    {
      name: "class",
      labels: classes.map((i) => sweep.classes[i]),
      ofCells: true,
      of: (cell) => (cell.class == null ? [] : [classes.indexOf(cell.class)]),
    },
    {
      name: "concept",
      labels: nearest.map((word) => sweep.words[word]),
      ofCells: true,
      of: (cell) => (cell.shows == null ? [] : [nearest.indexOf(cell.shows)]),
    },
  );
  for (const axis of sweep.axes) {
    if (!axis.varies || axis.slides || axis.labels.length > FEW) continue;
    // A sweep over stages or roles already has a menu of them.
    if (
      facets.some(
        ({ name, labels }) =>
          name === axis.name && axis.labels.every((label) => labels.includes(label)),
      )
    )
      continue;
    facets.push({
      name: axis.name,
      labels: axis.labels,
      ofCells: axis.name === "seed",
      of: (cell) => (cell.at[axis.index] == null ? null : [cell.at[axis.index]]),
    });
  }
  return facets
    .filter((facet) => facet.labels.length > 1)
    .map((facet, number) => ({ ...facet, number }));
}

/** The state of all filters; emits "change" when other cells are to be shown. */
class Filters extends EventTarget {
  facets = facetsOfSweep();
  sliders = sweep.axes.filter((axis) => axis.slides);

  constructor() {
    super();
    this.#clear();
  }

  #clear() {
    this.chosen = this.facets.map(() => new Set());
    this.slid = new Map(); // by index of an axis: the index of its value; without an entry, all
    this.module = null;
    this.text = "";
    this.sort = "plan";
    this.descending = false;
    this.#search();
  }

  get active() {
    return (
      this.text ||
      this.module != null ||
      this.slid.size ||
      this.sort !== "plan" ||
      this.descending ||
      this.chosen.some((set) => set.size)
    );
  }

  reset() {
    this.#clear();
    this.#notify(false);
  }

  /** Change the state and notify listeners. */
  set(state) {
    Object.assign(this, state);
    if ("text" in state) this.#search();
    this.#notify(false);
  }

  choose(facet, value, on) {
    this.chosen[facet.number][on ? "add" : "delete"](value);
    this.#notify(false);
  }

  /** Show one value of an axis, or all (null). From value to value the cells keep their places. */
  slide(axis, value) {
    const still = this.slid.has(axis.index) && value != null;
    if (value == null) this.slid.delete(axis.index);
    else this.slid.set(axis.index, value);
    this.#notify(still);
  }

  #notify(still) {
    this.dispatchEvent(new CustomEvent("change", { detail: { still } }));
  }

  /** Cells match when each word is in their variant, prompt or a module that they edit. */
  #search() {
    const words = this.text.toLowerCase().split(/\s+/).filter(Boolean);
    this.searches = words.map((word) => {
      const hit = sweep.modules.map((module) => module.path.toLowerCase().includes(word));
      const variants = sweep.variants.map(
        (v) => v.name.toLowerCase().includes(word) || v.modules.some((m) => hit[m]),
      );
      const prompts = new Map(
        sweep.prompts.map((prompt) => [prompt, prompt.toLowerCase().includes(word)]),
      );
      return (cell) => variants[cell.variant.index] || prompts.get(cell.prompt);
    });
  }

  /** Whether a cell (or an effect) passes all but the menus. */
  #passes(cell) {
    for (const [axis, value] of this.slid)
      if (cell.at[axis] != null && cell.at[axis] !== value) return false;
    if (
      this.module != null &&
      cell.variant.modules.length &&
      !cell.variant.modules.includes(this.module)
    )
      return false;
    return this.searches.every((matches) => matches(cell));
  }

  #misses(cell, facet) {
    const chosen = this.chosen[facet.number];
    if (!chosen.size) return false;
    const values = facet.of(cell);
    return values !== null && !values.some((value) => chosen.has(value));
  }

  /** Effects have neither class nor concept nor seed, so that these menus leave them alone. */
  passesEffect(effect) {
    return (
      this.#passes(effect) &&
      !this.facets.some((facet) => !facet.ofCells && this.#misses(effect, facet))
    );
  }

  /** The cells to be shown, in order, and how many each value of each facet would leave. */
  result(still) {
    const counts = this.facets.map((facet) => facet.labels.map(() => 0));
    const tally = (facet, cell) =>
      facet.of(cell)?.forEach((value) => {
        counts[facet.number][value] += 1;
      });
    const shown = [];
    for (const cell of sweep.cells) {
      if (!this.#passes(cell)) continue;
      const missed = this.facets.filter((facet) => this.#misses(cell, facet));
      if (!missed.length) {
        shown.push(cell);
        for (const facet of this.facets) tally(facet, cell);
      } else if (missed.length === 1) tally(missed[0], cell);
    }
    return { cells: this.#ordered(shown, still), counts };
  }

  #ordered(cells, still) {
    const place = (cell) =>
      [cell.isBaseline && cell.at.includes(null), ...cell.at]
        .filter((_, i) => !sweep.axes[i - 1]?.slides)
        .join();
    if (still && this.ranks) {
      const rank = (cell) => this.ranks.get(place(cell)) ?? Infinity;
      return cells
        .map((cell) => [rank(cell), cell])
        .sort((a, b) => a[0] - b[0] || a[1].index - b[1].index)
        .map(([, cell]) => cell);
    }
    const sorted = this.#sorted(cells);
    this.ranks = new Map(sorted.map((cell, i) => [place(cell), i]));
    return sorted;
  }

  #sorted(cells) {
    const sign = this.descending ? -1 : 1;
    if (this.sort === "plan") return this.descending ? [...cells].reverse() : cells;
    const value =
      this.sort === "network"
        ? (cell) => cell.variant.modules[0]
        : (cell) => figure(cell, this.sort);
    // Baselines first, the unknown last.
    const rank = (cell) => (cell.isBaseline ? 0 : value(cell) == null ? 2 : 1);
    return cells
      .map((cell) => ({ cell, rank: rank(cell), value: value(cell) }))
      .sort(
        (a, b) =>
          a.rank - b.rank ||
          (a.rank === 1 && sign * (a.value - b.value)) ||
          a.cell.index - b.cell.index,
      )
      .map(({ cell }) => cell);
  }
}

/** A figure of a cell by the name of its metric; `rmse×` counts noise floors. */
function figure(cell, name) {
  const floors = name.endsWith("×");
  const index = sweep.metrics.indexOf(floors ? name.slice(0, -1) : name);
  return (floors ? cell.floors : cell.drift)[index];
}

const filters = new Filters();
