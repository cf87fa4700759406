// Distances between sets: a row a variant, its images over prompts and seeds against their
// baselines; a click on the name of a metric sorts by it.

function setsSection(open) {
  const { metrics, rows } = sweep.sets;
  const body = make("tbody", {});
  const heads = metrics.map((name, i) =>
    make(
      "th",
      { scope: "col" },
      make(
        "button",
        { type: "button", title: metricHint(name), onclick: () => sort(i) },
        metricName(name),
      ),
    ),
  );

  function sort(by) {
    const value = (row) => row.values[by] ?? -Infinity;
    heads.forEach((head, i) => head.setAttribute("aria-sort", i === by ? "descending" : "none"));
    body.replaceChildren(...[...rows].sort((a, b) => value(b) - value(a)).map(line));
  }

  function line(row) {
    const name = placeName(sweep.variants[row.variant], row.at);
    const cell = sweep.cells.find((cell) => isOf(cell, row.variant, row.at));
    return make(
      "tr",
      {},
      make(
        "th",
        { scope: "row" },
        make("button", { type: "button", title: name, onclick: () => cell && open(cell) }, name),
      ),
      ...row.values.map((value) => make("td", {}, value == null ? "" : written(value))),
      make("td", {}, count(row.images)),
      make("td", {}, count(row.baselines)),
    );
  }

  sort(0);
  return make(
    "div",
    { class: "sets" },
    make(
      "p",
      {},
      "All images of a variant, over prompts and seeds, against all of their baselines.",
    ),
    make(
      "table",
      {},
      make(
        "thead",
        {},
        make(
          "tr",
          {},
          make("th", { scope: "col" }, "variant"),
          ...heads,
          make("th", { scope: "col" }, "images"),
          make("th", { scope: "col" }, "baselines"),
        ),
      ),
      body,
    ),
  );
}
