// The run as the page knows it: cells, variants, modules and axes, each pointing at the others.

/** Numbers written as `0-3,7`. */
function numbersOf(spans) {
  const numbers = [];
  for (const span of spans ? spans.split(",") : []) {
    const [first, last = first] = span.split("-").map(Number);
    for (let number = first; number <= last; number += 1) numbers.push(number);
  }
  return numbers;
}

function readAxis(axis, index, cells) {
  const used = new Set(cells.map((cell) => cell.at[index]).filter((value) => value != null));
  const varies = used.size > 1;
  const seed = axis.name === "prompt" || axis.name.endsWith("seed");
  const numeric = axis.values.every((value) => typeof value === "number");
  const paths =
    axis.labels.length > 1 &&
    axis.labels.every((label) => /^[A-Za-z_][\w.]*( (head|channel) \d+)?$/.test(label)) &&
    axis.labels.some((label) => label.includes("."));
  return {
    ...axis,
    index,
    varies,
    paths,
    slides: varies && !seed && numeric && axis.values.length >= 3,
  };
}

function readSweep(data) {
  const modules = data.modules.map(([path, kind, stage, block, role, parameters], number) => ({
    number,
    path,
    kind,
    stage,
    block,
    role,
    parameters,
  }));
  const variants = data.variants.map(({ name, same, touched, edits }, index) => ({
    index,
    name,
    same,
    modules: numbersOf(touched),
    edits: edits.map((edit) => ({ ...edit, modules: numbersOf(edit.modules) })),
  }));
  for (const variant of variants) variant.same = variants[variant.same] ?? null;
  const isBaseline = (cell) => data.cells[cell.baseline]?.key === cell.key;
  // Where nothing is edited no cell is marked as the baseline.
  const plain = data.cells.every(isBaseline);
  const cells = data.cells.map((cell, index) => ({
    state: "ok",
    drift: [],
    floors: [],
    concepts: [],
    ...cell,
    index,
    variant: variants[cell.variant],
    prompt: data.prompts[cell.prompt],
    isBaseline: !plain && isBaseline(cell),
    source: cell.state === "vacant" ? null : `cells/${cell.key}.png`,
  }));
  for (const cell of cells) cell.baseline = plain ? null : (cells[cell.baseline] ?? null);
  const byKey = new Map([...cells].reverse().map((cell) => [cell.key, cell]));
  for (const { key, prompt, seed } of data.floor) {
    if (byKey.has(key)) continue; // only for the noise floor: no cell of the sweep
    byKey.set(key, {
      key,
      seed,
      prompt: data.prompts[prompt],
      variant: { name: "baseline", same: null, modules: [], edits: [] },
      at: [],
      state: "ok",
      drift: [],
      floors: [],
      concepts: [],
      isBaseline: true,
      spare: true,
      source: `cells/${key}.png`,
    });
  }
  const axes = data.axes.map((axis, index) => readAxis(axis, index, cells));
  const effects = data.effects.map((effect) => ({
    ...effect,
    variant: variants[effect.variant],
    prompt: data.prompts[effect.prompt],
  }));
  const alone = new Map(); // by module: the first cell that edits it and nothing else
  for (const cell of cells) {
    const [only, more] = cell.variant.modules;
    if (only !== undefined && more === undefined && !alone.has(only)) alone.set(only, cell);
  }
  const byPath = new Map(modules.map((module) => [module.path, module]));
  return { ...data, modules, variants, cells, byKey, byPath, axes, effects, alone };
}

const sweep = readSweep(JSON.parse(document.getElementById("data").textContent));
