"""Wrong recipes: each with its full message, and whether the JSON Schema can tell, too."""

from __future__ import annotations

from typing import NamedTuple

HEAD = "version: 1\nname: x\n"
ZERO = 'edits:\n  - zero: {modules: "*"}\n'
SCALED = 'edits:\n  - scale: {modules: "*", factor: $a}\n'
CHOSEN = "edits:\n  - zero: {modules: $a}\n"
FORMS = "values, range, linspace, geomspace, each, group, cumulative, embedding"
POINTS = "version: 1\nname: x\naxes: {p: {embedding: "


class Wrong(NamedTuple):
    what: str
    text: str
    message: str
    static: bool  # wrong by shape alone, which the schema sees


WRONG = [
    Wrong(
        "unknown key, nearly right",
        HEAD + "promts: [a cat]\n" + ZERO,
        "r.yaml:3: promts: unknown key, did you mean `prompts`?",
        True,
    ),
    Wrong(
        "unknown key",
        HEAD + "sampling: {steps: 3}\n" + ZERO,
        "r.yaml:3: sampling.steps: unknown key; known here: num_inference_steps, guidance_scale,"
        " scheduler, negative_prompt, width, height",
        True,
    ),
    Wrong(
        "list expected",
        HEAD + "seeds: 3\n" + ZERO,
        "r.yaml:3: seeds: must be a list of whole numbers, not `3`",
        True,
    ),
    Wrong(
        "text expected",
        HEAD + "prompts:\n  - a cat\n  - 1999\n" + ZERO,
        "r.yaml:5: prompts[1]: must be text, not `1999`; put it in quotes to make it text",
        True,
    ),
    Wrong(
        "number expected",
        HEAD + 'edits:\n  - scale: {modules: "*", factor: 10%}\n',
        "r.yaml:4: edits[0].scale.factor: must be a number, not `10%`",
        True,
    ),
    Wrong(
        "nothing given",
        HEAD + "sheet:\n" + ZERO,
        "r.yaml:3: sheet: must be a mapping with rows, columns, concepts, not nothing",
        True,
    ),
    Wrong(
        "missing axis, nearly right",
        HEAD + "axes: {amount: {values: [1]}}\nedits:\n"
        '  - scale: {modules: "*", factor: $amount}\n  - scale: {modules: "*", factor: $amout}\n',
        "r.yaml:6: edits[1].scale.factor: there is no axis `amout`, did you mean `amount`?",
        False,
    ),
    Wrong(
        "missing axis",
        HEAD + SCALED,
        "r.yaml:4: edits[0].scale.factor: there is no axis `a`; define it under `axes`",
        False,
    ),
    Wrong(
        "axis inside a selector",
        HEAD + "axes: {a: {each: '*'}}\nedits:\n  - zero: {modules: [$a, conv_in]}\n",
        "r.yaml:5: edits[0].zero.modules: `$a`, an axis, stands alone: `modules: $a`",
        False,
    ),
    Wrong(
        "duplicate key",
        HEAD + "name: y\n" + ZERO,
        "r.yaml:3: name: stands twice; it is on line 2 already",
        False,
    ),
    Wrong(
        "wrong version",
        "version: 2\nname: x\n" + ZERO,
        "r.yaml:1: version: must be 1, the version of this recipe format, not `2`",
        True,
    ),
    Wrong("no version", "name: x\n" + ZERO, "r.yaml:1: `version: 1` is missing", True),
    Wrong(
        "no name",
        "version: 1\n" + ZERO,
        "r.yaml:1: `name` is missing; the run's folder is named by it",
        True,
    ),
    Wrong(
        "name that is no folder",
        "version: 1\nname: ../x\n" + ZERO,
        "r.yaml:2: name: `../x` cannot name a folder; use letters, digits, `-`, `_` and `.`,"
        " beginning with a letter or digit",
        True,
    ),
    Wrong(
        "empty sweep",
        HEAD,
        "r.yaml:1: an empty sweep: there are neither `edits` nor `axes`; an edit is, for example,"
        ' `zero: {modules: "*"}`',
        False,
    ),
    Wrong(
        "unknown op",
        HEAD + 'edits:\n  - mixnoise: {modules: "*", amount: 1}\n',
        "r.yaml:4: edits[0].mixnoise: unknown op, did you mean `mix_noise`?",
        True,
    ),
    Wrong(
        "missing strength",
        HEAD + 'edits:\n  - scale: {modules: "*"}\n',
        "r.yaml:4: edits[0].scale: `factor` is missing; `scale` needs it, a number or an axis"
        " (`$name`)",
        True,
    ),
    Wrong(
        "missing modules",
        HEAD + "edits:\n  - shuffle: {params: bias}\n",
        'r.yaml:4: edits[0].shuffle: `modules` is missing; `"*"` selects all',
        True,
    ),
    Wrong(
        "edit without a mapping",
        HEAD + "edits:\n  - scale: 3\n",
        "r.yaml:4: edits[0].scale: must be a mapping with modules, params, when, factor, not `3`",
        True,
    ),
    Wrong(
        "two ops in one edit",
        HEAD + 'edits:\n  - zero: {modules: "*"}\n    shuffle: {modules: "*"}\n',
        "r.yaml:4: edits[0]: an edit is one op with its settings, as in `zero: {modules: \"*\"}`",
        True,
    ),
    Wrong(
        "unused axis",
        HEAD + "axes:\n  amount: {values: [1]}\n" + ZERO,
        "r.yaml:4: axes.amount: no edit uses this axis; write `$amount` where it goes",
        False,
    ),
    Wrong(
        "selector of no number",
        HEAD + 'edits:\n  - zero: {modules: "#a"}\n',
        "r.yaml:4: edits[0].zero.modules: `#a` is no module number; write `#3` or `#0-#40`",
        False,
    ),
    Wrong(
        "selector of no field",
        HEAD + "edits:\n  - zero: {modules: [conv_in, rol=x]}\n",
        "r.yaml:4: edits[0].zero.modules: `rol=x`: modules have no `rol`, did you mean `role`?;"
        " use kind=, role=, stage=, block=",
        False,
    ),
    Wrong(
        "selector of no pattern",
        HEAD + 'edits:\n  - zero: {modules: "re:("}\n',
        "r.yaml:4: edits[0].zero.modules: `re:(` is no regular expression: missing ),"
        " unterminated subpattern at position 0",
        False,
    ),
    Wrong(
        "selector of no known mapping",
        HEAD + 'edits:\n  - zero: {modules: {sample: {of: "*"}}}\n',
        "r.yaml:4: edits[0].zero.modules: a selector that is a mapping is `{not: S}` or"
        " `{sample: {of: S, count: 3, seed: 0}}`, with a selector S",
        True,
    ),
    Wrong(
        "selector of no text",
        HEAD + "edits:\n  - zero: {modules: 3}\n",
        'r.yaml:4: edits[0].zero.modules: must be a selector, such as `"*"` or a list of them,'
        " not `3`",
        True,
    ),
    Wrong(
        "axis as a list",
        HEAD + "axes: {a: [1, 2]}\n" + SCALED,
        "r.yaml:3: axes.a: must be a mapping; write `{values: [...]}`",
        True,
    ),
    Wrong(
        "axis of two forms",
        HEAD + 'axes: {a: {values: [1], each: "*"}}\n' + SCALED,
        f"r.yaml:3: axes.a: an axis has exactly one of {FORMS}; this has values and each",
        True,
    ),
    Wrong(
        "misspelled form",
        HEAD + "axes: {a: {vaules: [1]}}\n" + SCALED,
        "r.yaml:3: axes.a.vaules: unknown key, did you mean `values`?",
        True,
    ),
    Wrong(
        "range without step",
        HEAD + "axes: {a: {range: [0, 1]}}\n" + SCALED,
        "r.yaml:3: axes.a: `range` needs a `step`",
        True,
    ),
    Wrong(
        "step of nothing",
        HEAD + "axes: {a: {range: [0, 1], step: 0}}\n" + SCALED,
        "r.yaml:3: axes.a.step: must not be 0",
        True,
    ),
    Wrong(
        "range of three",
        HEAD + "axes: {a: {range: [0, 1, 0.1], step: 0.1}}\n" + SCALED,
        "r.yaml:3: axes.a.range: must be [first, last], not 3 numbers",
        True,
    ),
    Wrong(
        "endless range",
        HEAD + "axes: {a: {range: [0, 1], step: 0.000000001}}\n" + SCALED,
        "r.yaml:3: axes.a.range: gives 1000000001 values; 100000 is the most",
        False,
    ),
    Wrong(
        "step without range",
        HEAD + "axes: {a: {linspace: [0, 1, 3], step: 1}}\n" + SCALED,
        "r.yaml:3: axes.a.step: `step` goes with `range`, not with `linspace`",
        True,
    ),
    Wrong(
        "geomspace through 0",
        HEAD + "axes: {a: {geomspace: [0, 1, 3]}}\n" + SCALED,
        "r.yaml:3: axes.a.geomspace: must be from and to numbers of one sign, neither of them 0",
        False,
    ),
    Wrong(
        "value twice",
        HEAD + "axes: {a: {values: [1, 2, 1]}}\n" + SCALED,
        "r.yaml:3: axes.a.values[2]: `1` stands twice",
        True,
    ),
    Wrong(
        "modules for a strength",
        HEAD + 'axes: {a: {each: "*"}}\n' + SCALED,
        "r.yaml:5: edits[0].scale.factor: axis `a` holds modules; `factor` needs plain values",
        False,
    ),
    Wrong(
        "modules for seeds",
        HEAD + "axes: {seed: {group: {by: stage}}}\n" + ZERO,
        "r.yaml:3: axes.seed.group: gives modules; the axis `seed` needs `values`",
        False,
    ),
    Wrong(
        "seeds twice over",
        HEAD + "seeds: [1]\naxes: {seed: {values: [2]}}\n" + ZERO,
        "r.yaml:4: axes.seed: stands beside `seeds`; keep one of the two",
        False,
    ),
    Wrong(
        "width of a range",
        HEAD + "axes: {width: {range: [8, 12], step: 4}}\n" + ZERO,
        "r.yaml:3: axes.width.range[1]: must be a multiple of 8, not `12`",
        False,
    ),
    Wrong(
        "negative count",
        HEAD + "axes: {a: {cumulative: {counts: {range: [-2, 2], step: 1}}}}\n" + CHOSEN,
        "r.yaml:3: axes.a.cumulative.counts.range: gives -2; there are no fewer than 0 modules",
        False,
    ),
    Wrong(
        "drift of no run",
        HEAD + "axes: {a: {cumulative: {order: drift}}}\n" + CHOSEN,
        "r.yaml:3: axes.a.cumulative: `order: drift` needs `run:`, the folder of a run in which"
        " each module was edited in turn",
        False,
    ),
    Wrong(
        "seed of no use",
        HEAD + "axes: {a: {cumulative: {order: reverse, seed: 3}}}\n" + CHOSEN,
        "r.yaml:3: axes.a.cumulative.seed: `seed` goes with `order: random`, not `reverse`",
        False,
    ),
    Wrong(
        "unknown order",
        HEAD + "axes: {a: {cumulative: {order: rand}}}\n" + CHOSEN,
        "r.yaml:3: axes.a.cumulative.order: must be one of network, reverse, random, drift, not"
        " `rand`, did you mean `random`?",
        True,
    ),
    Wrong(
        "zip of unlike lengths",
        HEAD + "axes: {a: {values: [1, 2, 3]}}\nseeds: [0, 1]\nzip: [a, seed]\n" + SCALED,
        "r.yaml:5: zip: axes of different length cannot be paired: `seed` has 2, `a` has 3",
        False,
    ),
    Wrong(
        "zip of lists and names",
        HEAD + "axes: {a: {values: [1]}}\nzip: [[a, seed], prompt]\n" + SCALED,
        "r.yaml:4: zip: must be a list of axis names, or a list of such lists",
        True,
    ),
    Wrong(
        "sheet of no axis",
        HEAD + "axes: {a: {values: [1]}}\nsheet: {rows: amount}\n" + SCALED,
        "r.yaml:4: sheet.rows: there is no axis `amount`; there are a, prompt, seed",
        False,
    ),
    Wrong(
        "axis in two places",
        HEAD + "axes: {a: {values: [1]}}\nsheet: {rows: a, columns: [seed, a]}\n" + SCALED,
        "r.yaml:4: sheet.columns: axis `a` is used twice",
        False,
    ),
    Wrong(
        "window of one number",
        HEAD + 'edits:\n  - zero: {modules: "*", when: {steps: 3}}\n',
        "r.yaml:4: edits[0].zero.when.steps: must be the first and the last step, counted from 0,"
        " as in [0, 9]",
        True,
    ),
    Wrong(
        "window that ends before it begins",
        HEAD + 'edits:\n  - zero: {modules: "*", when: {steps: [5, 3]}}\n',
        "r.yaml:4: edits[0].zero.when.steps: ends before it begins: 3 is less than 5",
        False,
    ),
    Wrong(
        "window without steps",
        HEAD + 'edits:\n  - zero: {modules: "*", when: {step: [5, 3]}}\n',
        "r.yaml:4: edits[0].zero.when.step: unknown key, did you mean `steps`?",
        True,
    ),
    Wrong(
        "compile neither true nor false",
        HEAD + "compile: fast\n" + ZERO,
        "r.yaml:3: compile: must be true or false, not `fast`",
        True,
    ),
    Wrong(
        "unknown space",
        POINTS + "{betwen: {from: a, to: b, t: [0]}}}}\n",
        "r.yaml:3: axes.p.embedding.betwen: embedding space has no `betwen`, did you mean"
        " `between`?",
        True,
    ),
    Wrong(
        "no space",
        POINTS + "a cat}}\n",
        "r.yaml:3: axes.p.embedding: must be one of between, plane, random, unconditional, as in"
        " `between: {from: a cat, to: a dog, t: [0, 0.5, 1]}`, not `a cat`",
        True,
    ),
    Wrong(
        "between without t",
        POINTS + "{between: {from: a, to: b}}}}\n",
        "r.yaml:3: axes.p.embedding.between: `t` is missing",
        True,
    ),
    Wrong(
        "unknown path",
        POINTS + "{between: {from: a, to: b, t: [0], path: slrp}}}}\n",
        "r.yaml:3: axes.p.embedding.between.path: must be one of lerp, slerp, not `slrp`, did you"
        " mean `slerp`?",
        True,
    ),
    Wrong(
        "plane without a center in it",
        POINTS + "{plane: {center: a, toward: [b, 1], size: 8}}}}\n",
        "r.yaml:3: axes.p.embedding.plane.size: must be odd, so that the center is in it, not 8",
        False,
    ),
    Wrong(
        "plane of one direction",
        POINTS + "{plane: {center: a, toward: [b], size: 9}}}}\n",
        "r.yaml:3: axes.p.embedding.plane.toward: must be two directions, each a prompt or the seed"
        " of a random one, not a list",
        True,
    ),
    Wrong(
        "plane in a list",
        POINTS + "[unconditional, {plane: {center: a, toward: [b, 1], size: 9}}]}}\n",
        "r.yaml:3: axes.p.embedding[1]: a plane, with its two dimensions, stands alone",
        False,
    ),
    Wrong(
        "spread of one prompt",
        POINTS + "{random: {count: 3, prompts: [a]}}}}\n",
        "r.yaml:3: axes.p.embedding.random.prompts: a single prompt has no spread; name several",
        True,
    ),
    Wrong(
        "two axes of points",
        "version: 1\nname: x\naxes:\n  p: {embedding: unconditional}\n"
        "  q: {embedding: unconditional}\n",
        "r.yaml:5: axes.q: a cell is at one point of embedding space, and `p` gives one already",
        False,
    ),
    Wrong(
        "prompts beside points",
        "version: 1\nname: x\nprompts: [a cat]\naxes: {p: {embedding: unconditional}}\n",
        "r.yaml:3: prompts: `p` gives the points of embedding space; write `$prompt` where a prompt"
        " goes in it, or leave this out",
        False,
    ),
    Wrong(
        "point in an edit",
        HEAD + "axes: {a: {embedding: {random: {count: 2}}}}\n" + SCALED,
        "r.yaml:5: edits[0].scale.factor: axis `a` holds points of embedding space, which are no"
        " part of an edit; every edit is made at each of them",
        False,
    ),
    Wrong(
        "point toward an unknown axis",
        POINTS + "{between: {from: $who, to: b, t: [0]}}}}\n",
        "r.yaml:3: axes.p.embedding: there is no axis `who`; there are p, prompt",
        False,
    ),
    Wrong(
        "noise floor of one seed",
        HEAD + "noise_floor: 1\n" + ZERO,
        "r.yaml:3: noise_floor: must be a whole number of at least 2, not `1`",
        True,
    ),
    Wrong(
        "seed of points",
        "version: 1\nname: x\naxes: {seed: {embedding: unconditional}}\n",
        "r.yaml:3: axes.seed.embedding: gives points of embedding space; the axis `seed` needs"
        " `values`",
        False,
    ),
    Wrong("empty file", "", "r.yaml: a recipe is a mapping that begins `version: 1`, not an empty"
          " file", True),
    Wrong("list", "- a\n", "r.yaml:1: a recipe is a mapping that begins `version: 1`, not a list",
          True),
    Wrong("prose", "a cat\n", "r.yaml:1: a recipe is a mapping that begins `version: 1`, not"
          " `a cat`", True),
]  # fmt: skip
