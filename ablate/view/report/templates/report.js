// The page: its head, its sections as tabs, keys, and light or dark.

const KEYS = [
  ["arrow keys", "move among the cells"],
  ["Home, End", "first, last cell"],
  ["Page Up, Page Down", "a window up, down"],
  ["Enter, Space", "enlarge; then ← → go on, d shows the difference, Escape closes"],
  ["Ctrl + click", "open the PNG itself"],
  ["← → on a slider", "animate the sweep"],
  ["/", "search"],
  ["?", "these keys"],
];

function head() {
  const prompts = sweep.prompts.slice(0, 3).map((prompt) => make("q", {}, prompt));
  const more = sweep.prompts.length - prompts.length;
  const number = (fits) => different(sweep.cells.filter(fits));
  const nan = number((cell) => cell.state === "nan");
  const finished = number((cell) => cell.state !== "vacant");
  const cells =
    finished < sweep.planned
      ? `${count(finished)} of ${count(sweep.planned)} cells finished`
      : `${count(finished)} cells`;
  const facts = [...sweep.facts, cells, ...(nan ? [`${count(nan)} with NaN`] : [])];
  return make(
    "header",
    { class: "head" },
    make("div", { class: "line" }, make("h1", {}, sweep.name), themes()),
    sweep.about ? make("p", { class: "about" }, sweep.about) : null,
    make(
      "p",
      { class: "prompts" },
      ...prompts.flatMap((prompt) => [prompt, " "]),
      more > 0 ? `and ${count(more)} more` : null,
    ),
    make("p", { class: "facts" }, facts.join("  ·  ")),
  );
}

/** Light, dark, or as the system has it; remembered where the browser allows it. */
function themes() {
  const kept = "ablate-theme";
  const choose = (theme) => {
    document.documentElement.dataset.theme = theme;
    for (const option of box.children)
      option.setAttribute("aria-pressed", String(option.dataset.theme === theme));
  };
  const pick = (theme) => {
    choose(theme);
    try {
      localStorage.setItem(kept, theme);
    } catch {
      /* a page from disk may have no storage */
    }
  };
  const names = { auto: "As the system", light: "Light", dark: "Dark" };
  const box = make(
    "div",
    { class: "themes", role: "group", "aria-label": "Colors" },
    ...Object.entries(names).map(([theme, name]) =>
      button(theme, name, () => pick(theme), { "data-theme": theme }),
    ),
  );
  let theme = null;
  try {
    theme = localStorage.getItem(kept);
  } catch {
    /* as above */
  }
  choose(theme in names ? theme : "auto");
  return box;
}

function keysDialog() {
  const box = make(
    "dialog",
    { class: "keys", "aria-label": "Keys" },
    make("h2", {}, "Keys"),
    make("dl", {}, ...KEYS.flatMap(([keys, what]) => [make("dt", {}, keys), make("dd", {}, what)])),
    button("Close", "Close (Escape)", () => box.close()),
  );
  box.addEventListener("click", (event) => event.target === box && box.close());
  document.body.append(box);
  return box;
}

/** Tabs for sections, each [title, content, shown]; `shown` is called when it comes into view. */
class Tabs {
  constructor(sections) {
    this.panels = sections.map(([title, content, shown]) => {
      const name = title.toLowerCase().replace(/\W+/g, "-");
      const panel = make(
        "section",
        {
          class: "panel",
          id: `panel-${name}`,
          role: "tabpanel",
          "aria-labelledby": `tab-${name}`,
          hidden: true,
        },
        ...content,
      );
      const tab = make(
        "button",
        {
          type: "button",
          role: "tab",
          id: `tab-${name}`,
          "aria-controls": panel.id,
          onclick: () => this.show(name),
        },
        title,
      );
      return { name, tab, panel, shown };
    });
    this.box = make(
      "div",
      { class: "tabs", role: "tablist", "aria-label": "Sections" },
      ...this.panels.map(({ tab }) => tab),
    );
    this.box.addEventListener("keydown", (event) => this.#key(event));
  }

  show(name) {
    const chosen = this.panels.find((panel) => panel.name === name) ?? this.panels[0];
    if (chosen === this.current) return;
    card.hide();
    this.current = chosen;
    document.body.dataset.section = chosen.name;
    for (const { tab, panel } of this.panels) {
      const on = panel === chosen.panel;
      tab.setAttribute("aria-selected", String(on));
      tab.tabIndex = on ? 0 : -1;
      panel.hidden = !on;
    }
    chosen.shown?.();
    toTop();
  }

  #key(event) {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next =
      this.panels[
        (this.panels.indexOf(this.current) + by + this.panels.length) % this.panels.length
      ];
    this.show(next.name);
    next.tab.focus();
  }
}

/** Back to where a section begins, if it was scrolled away. */
function toTop() {
  const top =
    document.querySelector("main").offsetTop - document.querySelector(".bar").offsetHeight;
  if (scrollY > top) scrollTo({ top, behavior: "instant" });
}

function build() {
  let shown = { cells: [] };
  const enlargement = new Enlargement(
    () => shown.cells,
    (cell) => tabs.current.name === "cells" && grid.focus(cell),
  );
  const open = (cell) => enlargement.open(cell);
  const grid = new Grid(open);
  const effects = sweep.effects.length ? new Effects(open) : null;
  const drawings = [...document.querySelectorAll("#pictures .picture")];
  const pictures = drawings.map((drawing) => [
    drawing.dataset.title,
    [sizeToggle(drawing), drawing],
  ]);
  const first = pictures.filter(([title]) => title === "Finding");
  const tabs = new Tabs([
    ...first,
    ["Cells", [grid.box, grid.empty], () => draw(false)],
    ...pictures.filter((picture) => !first.includes(picture)),
    ...(effects ? [["Effects", [effects.box], () => effects.show()]] : []),
    ...(sweep.sets.rows.length ? [["Sets", [setsSection(open)]]] : []),
    ["Settings & recipe", [settingsSection()]],
  ]);
  const toolbar = new Toolbar(() => draw(false));
  for (const drawing of drawings) {
    enliven(drawing, open, (module) => {
      filters.set({ module: module.number });
      tabs.show("cells");
    });
  }

  function draw(still) {
    shown = filters.result(still);
    toolbar.update(shown.counts, shown.cells);
    if (tabs.current.name === "effects") effects.show();
    const sorted = filters.sort !== "plan" && filters.sort !== "network";
    grid.show(shown.cells, {
      still,
      side: toolbar.side,
      figure: sorted
        ? filters.sort
        : sweep.metrics.includes("rmse")
          ? "rmse"
          : (sweep.metrics[0] ?? ""),
    });
  }

  filters.addEventListener("change", ({ detail }) => {
    draw(detail.still);
    if (!detail.still) toTop();
  });
  const keys = keysDialog();
  const help = button("?", "Keys", () => keys.showModal(), { class: "plain" });
  addEventListener("keydown", (event) => {
    if (event.target.matches("input[type=search]") && event.key === "Escape") event.target.blur();
    if (
      event.target.matches("input[type=search], select, textarea") ||
      document.querySelector("dialog[open]")
    )
      return;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === "/") {
      event.preventDefault();
      if (tabs.current.name !== "effects") tabs.show("cells");
      toolbar.search.focus();
      toolbar.search.select();
    } else if (event.key === "?") keys.showModal();
  });
  const bar = make(
    "nav",
    { class: "bar" },
    make("div", { class: "line top" }, tabs.box, make("span", { class: "space" }), help),
    toolbar.box,
  );
  document.getElementById("pictures").remove();
  document.body.prepend(head(), bar, make("main", {}, ...tabs.panels.map(({ panel }) => panel)));
  tabs.show(tabs.panels[0].name);
  if (first.length) draw(false);
}

build();
