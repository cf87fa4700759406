// What was fixed for the whole run, and the recipe that asked for it.

function settingsSection() {
  const rows = sweep.settings.map(([name, value]) =>
    make("tr", {}, make("th", { scope: "row" }, name), make("td", {}, value)),
  );
  const axes = sweep.axes.map((axis) =>
    make("tr", {}, make("th", { scope: "row" }, axis.name), make("td", {}, axisText(axis))),
  );
  return make(
    "div",
    { class: "settings" },
    make(
      "section",
      {},
      make("h2", {}, "Settings"),
      make("table", {}, make("tbody", {}, ...rows)),
      make("h2", {}, "Axes"),
      make("table", {}, make("tbody", {}, ...axes)),
      sweep.notes.length ? make("h2", {}, "Notes") : null,
      ...sweep.notes.map((note) => make("p", {}, note)),
    ),
    sweep.recipe
      ? make("section", {}, make("h2", {}, "Recipe"), make("pre", { tabindex: "0" }, sweep.recipe))
      : null,
  );
}

/** The values of an axis, of many the first and the last, and what they mean. */
function axisText({ labels, note }) {
  const text =
    labels.length <= 12
      ? labels.join(", ")
      : `${count(labels.length)} values: ${labels.slice(0, 3).join(", ")} … ${labels.at(-1)}`;
  return note ? `${text}; ${note}` : text;
}
