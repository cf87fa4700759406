// What sticks to the top: tabs, search, menus, order, size, and the count of what is shown.

const SIDES = [64, 96, 128, 192, 256]; // of tiles, pixels
const RISING = ["plan", "network", "ssim", "score"]; // what drifts most comes last, or has least

/** The names by which cells can be ordered, in groups. */
function orders() {
  const some = (pick) =>
    sweep.metrics.filter((_, i) => sweep.cells.some((cell) => pick(cell)[i] != null));
  const groups = [
    [
      "",
      [
        ["plan", "plan order"],
        ...(sweep.modules.some(({ stage }) => stage) ? [["network", "network order"]] : []),
      ],
    ],
  ];
  const plain = some((cell) => cell.drift);
  const floors = some((cell) => cell.floors);
  if (plain.length) groups.push(["by value", plain.map((name) => [name, metricName(name)])]);
  if (floors.length)
    groups.push([
      "in noise floors",
      floors.map((name) => [`${name}×`, `${metricName(name)} in floors`]),
    ]);
  return groups;
}

class Toolbar {
  side = SIDES[2];

  /** `sized()` is called when another size of tiles is chosen. */
  constructor(sized) {
    this.search = make("input", {
      type: "search",
      class: "search",
      placeholder: "Search modules, variants, prompts",
      "aria-label": "Search modules, variants and prompts (/)",
      spellcheck: "false",
      oninput: () => filters.set({ text: this.search.value }),
    });
    this.menus = filters.facets.map((facet) => [facet, menu(facet)]);
    this.sliders = filters.sliders.map(slider);
    this.order = make(
      "select",
      {
        "aria-label": "Order",
        onchange: () => {
          const sort = this.order.value;
          filters.set({ sort, descending: !RISING.includes(sort) });
        },
      },
      ...orders().flatMap(([group, options]) => {
        const items = options.map(([value, text]) => make("option", { value }, text));
        return group ? [make("optgroup", { label: group }, ...items)] : items;
      }),
    );
    this.direction = button("", "", () => filters.set({ descending: !filters.descending }), {
      class: "plain direction",
    });
    this.size = make("input", {
      type: "range",
      min: 0,
      max: SIDES.length - 1,
      step: 1,
      value: 2,
      "aria-label": "Size of the tiles",
      class: "size",
      oninput: () => {
        this.side = SIDES[this.size.value];
        this.#sizeText();
        sized();
      },
    });
    this.module = button("", "", () => filters.set({ module: null }), { class: "chip" });
    this.total = make("output", { class: "total", "aria-live": "polite" });
    this.reset = button("Reset", "Show all cells in plan order", () => filters.reset(), {
      class: "reset",
    });
    this.#sizeText();
    const cellsOnly = { class: "cells-only" };
    this.box = make(
      "div",
      { class: "toolbar" },
      make(
        "div",
        { class: "line" },
        this.search,
        ...this.menus.map(([, { opener }]) => opener),
        make(
          "span",
          cellsOnly,
          make("span", { class: "label" }, "sort"),
          this.order,
          this.direction,
        ),
        make("span", cellsOnly, make("span", { class: "label" }, "size"), this.size),
        this.module,
        make("span", { class: "end" }, this.total, this.reset),
      ),
      this.sliders.length
        ? make("div", { class: "line sliders" }, ...this.sliders.map(({ box }) => box))
        : null,
    );
  }

  #sizeText() {
    this.size.setAttribute("aria-valuetext", `${this.side} pixels`);
  }

  /** Write the state of the filters, and what they leave. */
  update(counts, shown) {
    if (this.search.value !== filters.text) this.search.value = filters.text;
    for (const [facet, { update }] of this.menus) update(counts[facet.number]);
    for (const { update } of this.sliders) update();
    this.order.value = filters.sort;
    this.direction.textContent = filters.descending ? "↓" : "↑";
    const way = filters.descending ? "descending" : "ascending";
    this.direction.setAttribute("aria-label", `Order: ${way}`);
    this.direction.title = `${way}; press to turn it round`;
    const module = sweep.modules[filters.module];
    this.module.hidden = !module;
    if (module) {
      this.module.replaceChildren(make("span", {}, module.path), " ×");
      this.module.setAttribute("aria-label", `Show cells of all modules, not only ${module.path}`);
      this.module.title = module.path;
    }
    this.total.textContent = `${count(different(shown))} of ${count(sweep.planned)} cells shown`;
    this.reset.disabled = !filters.active;
  }
}
