// Sliders over the numeric axes: one value at a time, or all.

/** A slider. `update()` writes the state of the filters back to it. */
function slider(axis) {
  const id = `slider-${axis.index}`;
  const input = make("input", {
    type: "range",
    id,
    min: 0,
    max: axis.values.length - 1,
    step: 1,
    value: 0,
    oninput: () => filters.slide(axis, Number(input.value)),
  });
  const value = make("output", { for: id });
  const all = button("all", `Show all values of ${axis.name}`, () => filters.slide(axis, null), {
    class: "all",
  });
  // The first press of a key at an end of the track moves nothing, yet is meant.
  input.addEventListener("keydown", (event) => {
    if (/^(Arrow|Home|End|Page)/.test(event.key) && !filters.slid.has(axis.index)) {
      event.preventDefault();
      filters.slide(axis, event.key === "End" ? axis.values.length - 1 : Number(input.value));
    }
  });
  const box = make(
    "div",
    { class: "slider" },
    make("label", { for: id }, axis.name),
    input,
    value,
    all,
  );
  const update = () => {
    const at = filters.slid.get(axis.index);
    const text = at === undefined ? "all" : axis.labels[at];
    if (at !== undefined) input.value = at;
    input.setAttribute("aria-valuetext", text);
    value.textContent = at === undefined ? "" : text;
    box.classList.toggle("off", at === undefined);
    all.setAttribute("aria-pressed", String(at === undefined));
  };
  return { box, update };
}
