// How cells and figures are written: labels, numbers, and small tables of them.

const METRICS = {
  rmse: ["RMSE", "root mean square difference of the pixels"],
  ssim: ["SSIM", "structural similarity; 1 is equal"],
  latent: ["latents", "root mean square difference of the final latents"],
  embedding: ["embedding", "1 − cosine of the embeddings of the images"],
  score: ["score", "cosine of the image with its prompt"],
  lpips: ["LPIPS", "distance of the activations of a network that sees as people do"],
  fid: ["FID", "Fréchet distance of two sets of vectors"],
  kid: ["KID", "kernel distance of two sets of vectors"],
};
const CLASSES = ["intact", "altered", "other concept", "structure without concept", "noise"];


/** The words on a metric: of `fid_dinov2_base` those of `fid`, by `dinov2_base`. */
function metricWords(name, which) {
  const [, plain, by] = /^(embedding|lpips|fid|kid)_(.*)/.exec(name) ?? [];
  return METRICS[name]?.[which] ?? (plain && `${METRICS[plain][which]} by ${by}`);
}

const metricName = (name) => metricWords(name, 0) ?? name;
const metricHint = (name) => metricWords(name, 1) ?? "";
const percent = (share) =>
  `${share >= 0.995 || share < 0.005 ? Math.round(100 * share) : (100 * share).toPrecision(2)} %`;
const count = (number) => number.toLocaleString("en-US");

/** How many different cells there are: one may be in several places. */
const different = (cells) => new Set(cells.map((cell) => cell.key)).size;

/** A figure to three digits or so, whatever its size. */
function written(value) {
  if (value === 0) return "0";
  const size = Math.abs(value);
  if (size >= 100) return count(Math.round(value));
  return size >= 10
    ? value.toFixed(1)
    : size >= 0.001
      ? value.toFixed(size >= 1 ? 2 : 3)
      : value.toExponential(1);
}

/** So many noise floors, `2.40`: differences below a hundredth of one mean nothing. */
const floorsText = (value) =>
  value < 10 ? value.toFixed(2) : value < 100 ? value.toFixed(1) : count(Math.round(value));
const inFloors = (value) => `${floorsText(value)}×`;

/** A path that may break after its dots. */
const breakable = (path) =>
  path.split(/(?<=\.)/).flatMap((part, i) => (i ? [make("wbr"), part] : [part]));

/** A module path as its most specific part, and the rest that leads there. */
function splitPath(path) {
  const at = path.search(/[^.]*[^.\d][^.]*(\.\d+)*$/); // `to_out.0` stays together
  return [path.slice(Math.max(at, 0)), at > 0 ? path.slice(0, at - 1) : ""];
}

/** What varies in a cell: strong, the most important; rest, the others. */
function caption(cell) {
  const varying = sweep.axes.filter((axis) => axis.varies && cell.at[axis.index] != null);
  const label = (axis) => axis.labels[cell.at[axis.index]];
  const phrase = (axis) =>
    axis.name === "prompt" && !cell.point ? `“${label(axis)}”` : `${axis.name} ${label(axis)}`;
  const edited = varying.filter((axis) => axis.name !== "prompt" && axis.name !== "seed");
  const main = edited.find((axis) => axis.paths) ?? edited.at(-1);
  const named = (name) => varying.filter((axis) => axis.name === name);
  const others = [
    ...edited.filter((axis) => axis !== main),
    ...named("seed"),
    ...named("prompt"),
  ].map(phrase); // the longest last
  if (cell.isBaseline)
    return {
      strong: "baseline",
      rest: [...(main ? [phrase(main)] : []), ...others].join(" · "),
      path: "",
    };
  if (cell.spare) return { strong: "baseline", rest: `seed ${cell.seed}`, path: "" };
  if (!main)
    return { strong: others[0] ?? cell.variant.name, rest: others.slice(1).join(" · "), path: "" };
  if (!main.paths) return { strong: phrase(main), rest: others.join(" · "), path: "" };
  const [strong, path] = splitPath(label(main));
  return { strong, rest: others.join(" · "), path };
}

/** A variant by its name; one of a single module path by that path alone. */
function variantName({ name }) {
  const [axis, ...label] = name.split("=");
  const path = label.join("=");
  return sweep.axes.some(
    (other) => other.paths && other.name === axis && other.labels.includes(path),
  )
    ? path
    : name;
}

/** A variant with the values of axes that its name does not say, on one line. */
function placeName(variant, at) {
  const others = [...at]
    .map((value, i) => [sweep.axes[i], value])
    .filter(
      ([axis, value]) =>
        value != null &&
        axis.varies &&
        (axis.name === "prompt" || !variant.name.includes(`${axis.name}=`)),
    )
    .map(([axis, value]) =>
      axis.name === "prompt" ? `“${axis.labels[value]}”` : `${axis.name} ${axis.labels[value]}`,
    );
  const same = variant.same ? ` = ${sameName(variant)}` : "";
  return [variantName(variant) + same, ...others].join(" · ");
}

/** Whether a cell is of a variant, and at the places of axes that are given. */
const isOf = (cell, variant, at) =>
  cell.variant === sweep.variants[variant] &&
  at.every((value, i) => value == null || cell.at[i] == null || cell.at[i] === value);

/** A cell by its full name, on one line. */
function fullName(cell) {
  const name = cell.isBaseline ? "baseline" : variantName(cell.variant);
  const seeds = sweep.axes.find((axis) => axis.name === "seed")?.varies || cell.spare;
  return seeds && !/\bseed=/.test(name) ? `${name}, seed ${cell.seed}` : name;
}

/** What a variant is the same as, without the module path that both begin with. */
function sameName(variant) {
  const [own, name] = [variant, variant.same].map((one) => variantName(one).split(/(?<=\.)/));
  const shared = own.findIndex((part, i) => part !== name[i]);
  return name.slice(Math.max(shared, 0)).join("");
}

/** What a cell is the same as, where zeroing other modules has the same effect; or null. */
function sameText({ variant }) {
  return variant.same
    ? make("p", { class: "rest" }, "same as ", ...breakable(sameName(variant)))
    : null;
}

/** A table of all that was measured of a cell, or null. */
function figuresTable(cell) {
  const rows = sweep.metrics.map((name, i) => [name, cell.drift[i], cell.floors[i]]);
  const known = rows.filter(([, plain, floors]) => plain != null || floors != null);
  if (
    !known.length ||
    (cell.isBaseline && known.every(([, , floors]) => floors == null) && !cell.drift.length)
  )
    return null;
  const floored = known.some(([, , floors]) => floors != null);
  const head = make(
    "tr",
    {},
    make("th", { scope: "col" }, "distance"),
    make("th", { scope: "col" }, "value"),
    floored
      ? make(
          "th",
          { scope: "col", title: "in distances between baselines of different seeds" },
          "in floors",
        )
      : null,
  );
  return make(
    "table",
    { class: "figures" },
    make("thead", {}, head),
    make(
      "tbody",
      {},
      ...known.map(([name, plain, floors]) =>
        make(
          "tr",
          {},
          make("th", { scope: "row", title: metricHint(name) }, metricName(name)),
          make("td", {}, plain == null ? "" : written(plain)),
          floored ? make("td", {}, floors == null ? "" : inFloors(floors)) : null,
        ),
      ),
    ),
  );
}

/** The class of a cell as a dot and a word. */
function classChip(cell) {
  const name = sweep.classes[cell.class];
  return name === undefined
    ? null
    : make("span", { class: "class", "data-class": CLASSES.indexOf(name) }, name);
}

/** The nearest concepts with a bar each, or null. */
function conceptBars(cell) {
  if (!cell.concepts.length) return null;
  return make(
    "ol",
    { class: "concepts" },
    ...cell.concepts.map(([word, share]) => {
      const bar = make("span", { class: "bar" });
      bar.style.width = `${100 * Math.min(1, Math.max(0, share))}%`;
      return make(
        "li",
        {},
        make("span", { class: "word" }, sweep.words[word]),
        make("span", { class: "track" }, bar),
        make("span", { class: "share" }, percent(share)),
      );
    }),
  );
}
