// Effects: the drift of each variant over seeds, in noise floors, with its interval; where there is
// no noise floor, as with one seed, the drift as it was measured.

const EFFECT_HEIGHT = 34; // of a row, pixels
const DECADES = [0.001, 0.01, 0.1, 1, 10, 100, 1000, 10000];

/** A probability as papers print it. */
const chance = (value) => (value < 0.001 ? "< 0.001" : value.toPrecision(2));

class Effects {
  /** `open(cell)` enlarges a cell of an effect. */
  constructor(open) {
    this.open = open;
    this.metrics = [...new Set(sweep.effects.map((effect) => effect.metric))];
    [this.metric] = this.metrics;
    const choice = make(
      "select",
      {
        "aria-label": "Metric",
        onchange: () => {
          this.metric = choice.value;
          this.show();
        },
      },
      ...this.metrics.map((name) => make("option", { value: name }, metricName(name))),
    );
    this.scale = make("div", { class: "scale", "aria-hidden": "true" });
    this.said = make("span", { class: "rest" });
    this.list = make("div", { role: "rowgroup" });
    this.rows = new Rows(
      this.list,
      () => this.#blank(),
      (node, row) => this.#fill(node, this.shown[row]),
    );
    const head = (text, name) => make("span", { role: "columnheader", class: name }, text);
    this.box = make(
      "div",
      { class: "effects" },
      make("div", { class: "intro" }, make("label", {}, "distance ", choice), this.said),
      make(
        "div",
        { role: "table", "aria-label": "Effects" },
        make(
          "div",
          { class: "effect titles", role: "row" },
          head("variant", "variant"),
          make("span", { role: "columnheader", class: "interval" }, this.scale),
          head("drift", "drift"),
          head("95 % interval", "range"),
          head("q", "q"),
          head("seeds", "seeds"),
          head("", "verdict"),
        ),
        this.list,
      ),
    );
  }

  show() {
    const known = sweep.effects.filter((effect) => effect.metric === this.metric);
    this.floored = known.some((effect) => effect.drift != null);
    this.shown = known
      .filter((effect) => filters.passesEffect(effect))
      .sort((a, b) => (this.#value(b) ?? -1) - (this.#value(a) ?? -1));
    const values = known
      .flatMap((effect) => [this.#value(effect), effect.low, effect.high])
      .filter((value) => value > 0);
    const least = Math.max(this.floored ? 0.01 : 0.001, Math.min(0.5, ...values));
    this.low = Math.log10(least) - 0.05;
    this.high = Math.log10(Math.max(this.floored ? 2 : 3 * least, ...values)) + 0.05;
    const marks = DECADES.filter((value) => value >= least && Math.log10(value) <= this.high);
    this.list.style.setProperty("--one", this.floored ? `${100 * this.#across(1)}%` : "-99px");
    this.scale.replaceChildren(
      ...marks.map((value) => {
        const mark = make(
          "span",
          { class: this.floored && value === 1 ? "one" : "" },
          !this.floored ? `${value}` : value === 1 ? "noise floor" : `${value}×`,
        );
        mark.style.left = `${100 * this.#across(value)}%`;
        return mark;
      }),
    );
    const experiment = ({ variant, prompt, floor }) => `${(variant.same ?? variant).index} ${prompt} ${floor}`;
    const distinct = [...new Map(this.shown.map((effect) => [experiment(effect), effect])).values()];
    const verdicts = ["matters", "changes", "nothing"].map((verdict) => [
      distinct.filter((effect) => effect.verdict === verdict).length,
      verdict,
    ]);
    const words = { matters: "matter", changes: "change the image", nothing: "do nothing" };
    this.said.textContent = [
      `${count(this.shown.length)} of ${count(known.length)} effects`,
      ...(distinct.length < this.shown.length ? [`${count(distinct.length)} distinct`] : []),
      ...verdicts
        .filter(([number]) => number)
        .map(([number, verdict]) => `${count(number)} ${words[verdict]}`),
      ...(this.floored ? [] : ["no noise floor: drift as measured"]),
    ].join(" · ");
    this.rows.lay(this.shown.length, EFFECT_HEIGHT);
  }

  /** The drift of an effect, in noise floors or as measured. */
  #value(effect) {
    return this.floored ? effect.drift : effect.mean;
  }

  /** The position of a drift on the logarithmic scale, 0 to 1. */
  #across(value) {
    const at = (Math.log10(Math.max(value, 1e-9)) - this.low) / (this.high - this.low);
    return Math.min(1, Math.max(0, at));
  }

  #blank() {
    const cell = (name, ...parts) => make("span", { role: "cell", class: name }, ...parts);
    const name = make("button", { type: "button" }, make("bdi", {}));
    return make(
      "div",
      { class: "effect", role: "row" },
      cell("variant", name),
      cell("interval", make("i", { class: "span" }), make("i", { class: "dot" })),
      cell("drift"),
      cell("range"),
      cell("q"),
      cell("seeds"),
      cell("verdict"),
    );
  }

  #fill(node, effect) {
    const [variant, interval, drift, range, q, seeds, verdict] = node.children;
    const { low, high } = effect;
    const known = low != null && high != null;
    const name = placeName(effect.variant, effect.at);
    const opener = variant.firstChild;
    opener.firstChild.textContent = name;
    opener.title = name;
    opener.onclick = () => this.#enlarge(effect);
    node.dataset.verdict = effect.verdict;
    const [span, dot] = interval.children;
    span.hidden = !known;
    if (known) {
      span.style.left = `${100 * this.#across(low)}%`;
      span.style.width = `${100 * (this.#across(high) - this.#across(low))}%`;
    }
    const value = this.#value(effect);
    dot.hidden = value == null;
    dot.style.left = `${100 * this.#across(value ?? 0)}%`;
    drift.textContent = value == null ? "" : this.floored ? inFloors(value) : written(value);
    range.textContent = known ? `${floorsText(low)} – ${floorsText(high)}` : "";
    q.textContent = effect.q == null ? "" : chance(effect.q);
    seeds.textContent = effect.seeds;
    verdict.textContent = effect.verdict;
  }

  #enlarge(effect) {
    const cell = sweep.cells.find(
      (cell) => cell.prompt === effect.prompt && isOf(cell, effect.variant.index, effect.at),
    );
    if (cell) this.open(cell);
  }
}
