// Drawings of the whole run. A click on a cell enlarges it; one on a module filters.

/** Make the drawings answer: `open(cell)` and `choose(module)` do what a click asks for. */
function enliven(drawing, open, choose) {
  for (const title of drawing.shadowRoot.querySelectorAll(
    ":is([data-cell], [data-module]) > title",
  )) {
    title.parentElement.setAttribute("aria-label", title.textContent);
    title.remove(); // the card says more than the tooltip that would cover it
  }
  const meant = (event) => {
    const part = event
      .composedPath()
      .find((node) => node.dataset?.cell !== undefined || node.dataset?.module !== undefined);
    const cell = sweep.byKey.get(part?.dataset.cell);
    const module = sweep.modules[part?.dataset.module] ?? sweep.byPath.get(part?.dataset.module);
    return { part, cell, module };
  };
  drawing.addEventListener("pointerover", (event) => {
    const { part, cell, module } = meant(event);
    if (event.pointerType === "touch" || !(cell || module)) return card.hide();
    return card.rest(part, () => (cell ? cellContent(cell) : moduleContent(module)));
  });
  drawing.addEventListener("pointerleave", () => card.hide());
  drawing.addEventListener("click", (event) => {
    const { cell, module } = meant(event);
    if (cell) open(cell);
    else if (module) choose(module);
    if (cell || module) event.preventDefault();
  });
}

/** A switch between the drawing as wide as the page and at full size. */
function sizeToggle(drawing) {
  const toggle = button(
    "Full size",
    "Show the drawing at full size",
    () => {
      const full = drawing.toggleAttribute("data-full");
      toggle.setAttribute("aria-pressed", String(full));
    },
    { class: "toggle", "aria-pressed": "false" },
  );
  const above = make("div", { class: "above" }, toggle);
  const width = drawing.shadowRoot.querySelector("svg").width.baseVal.value;
  new ResizeObserver(() => {
    above.hidden = width <= drawing.clientWidth;
  }).observe(drawing);
  return above;
}
