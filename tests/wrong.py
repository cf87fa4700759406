"""Wrong recipes: each with its full message, and whether the JSON Schema can tell, too."""

from __future__ import annotations

from typing import NamedTuple

HEAD = "version: 1\nname: x\n"
ZERO = 'edits:\n  - zero: {modules: "*"}\n'
SCALED = 'edits:\n  - scale: {modules: "*", factor: $a}\n'
CHOSEN = "edits:\n  - zero: {modules: $a}\n"
FORMS = (
    "values, range, linspace, geomspace, each, each_channel, each_head, group, cumulative, window,"
    " windows, embedding"
)
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
        "blank word",
        HEAD + 'vocabulary: [cat, " "]\n' + ZERO,
        "r.yaml:3: vocabulary[1]: must not be blank",
        True,
    ),
    Wrong(
        "text expected",
        HEAD + "prompts:\n  - a cat\n  - 1999\n" + ZERO,
        "r.yaml:5: prompts[1]: must be text, not `1999`; put it in quotes to make it text",
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
        "duplicate key",
        HEAD + "name: y\n" + ZERO,
        "r.yaml:3: name: is given twice; it is on line 2 already",
        False,
    ),
    Wrong(
        "wrong version",
        "version: 2\nname: x\n" + ZERO,
        "r.yaml:1: version: must be `1`, not `2`",
        True,
    ),
    Wrong("no version", "name: x\n" + ZERO, "r.yaml:1: `version` is missing: always `1`, the"
                                            " version of this format", True),
    Wrong(
        "no name",
        "version: 1\n" + ZERO,
        "r.yaml:1: `name` is missing: the name of the run, and of its folder",
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
        "edit without a mapping",
        HEAD + "edits:\n  - scale: 3\n",
        "r.yaml:4: edits[0].scale: must be a mapping with modules, component, where, argument,"
        " params, when, unit, units, factor, not `3`",
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
        "axis of two forms",
        HEAD + 'axes: {a: {values: [1], each: "*"}}\n' + SCALED,
        "r.yaml:3: axes.a: must have exactly one of values, range, linspace, geomspace, each,"
        " each_channel, each_head, group, cumulative, window, windows, embedding; this has values"
        " and each",
        True,
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
        "r.yaml:4: axes.seed: is given beside `seeds`; keep one of the two",
        False,
    ),
    Wrong(
        "width of a range",
        HEAD + "axes: {width: {range: [8, 12], step: 4}}\n" + ZERO,
        "r.yaml:3: axes.width.range[1]: must be a multiple of 8, not `12`",
        False,
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
        "compile neither true nor false",
        HEAD + "compile: fast\n" + ZERO,
        "r.yaml:3: compile: must be true or false, not `fast`",
        True,
    ),
    Wrong(
        "unknown space",
        POINTS + "{betwen: {from: a, to: b, t: [0]}}}}\n",
        "r.yaml:3: axes.p.embedding.betwen: unknown key, did you mean `between`?",
        True,
    ),
    Wrong(
        "no space",
        POINTS + "a cat}}\n",
        "r.yaml:3: axes.p.embedding: must be a mapping with between, plane, random,"
        " unconditional, not `a cat`",
        True,
    ),
    Wrong(
        "between without t",
        POINTS + "{between: {from: a, to: b}}}}\n",
        "r.yaml:3: axes.p.embedding.between: `t` is missing: how far from the first to the"
        " second the points are",
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
        "r.yaml:3: axes.p.embedding.plane.toward: must be two directions, each a prompt or the"
        " seed of a random one, not a list of 1",
        True,
    ),
    Wrong(
        "plane in a list",
        POINTS + "[unconditional, {plane: {center: a, toward: [b, 1], size: 9}}]}}\n",
        "r.yaml:3: axes.p.embedding[1]: a plane, with its two dimensions, cannot be one of"
        " several",
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
        "point toward an unknown axis",
        POINTS + "{between: {from: $who, to: b, t: [0]}}}}\n",
        "r.yaml:3: axes.p.embedding.between.from: there is no axis `who`; there are p, prompt",
        False,
    ),
    Wrong(
        "noise floor of one seed",
        HEAD + "noise_floor: 1\n" + ZERO,
        "r.yaml:3: noise_floor: must be at least 2, not `1`",
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

# One edit each; the message stands behind `r.yaml:4: edits[0].` and the name of the op.
EDITS = [
    ("number expected", "scale", 'modules: "*", factor: 10%',
     ".factor: must be a number, not `10%`", True),
    ("missing axis", "scale", 'modules: "*", factor: $a',
     ".factor: there is no axis `a`; define it under `axes`", False),
    ("unknown op", "mixnoise", 'modules: "*", amount: 1',
     ": unknown op, did you mean `mix_noise`?", True),
    ("missing strength", "scale", 'modules: "*"',
     ": `factor` is missing; `scale` needs it, a number or an axis (`$name`)", True),
    ("missing modules", "shuffle", "params: bias",
     ': `modules` is missing; `"*"` selects all', True),
    ("selector of no number", "zero", 'modules: "#a"',
     ".modules: `#a` is no module number; write `#3` or `#0-#40`", False),
    ("selector of no field", "zero", "modules: [conv_in, rol=x]",
     ".modules: `rol=x`: modules have no `rol`, did you mean `role`?; use kind=, role=, stage=,"
     " block=", False),
    ("selector of no pattern", "zero", 'modules: "re:("',
     ".modules: `re:(` is no regular expression: missing ), unterminated subpattern at position"
     " 0", False),
    ("selector of no known mapping", "zero", 'modules: {sample: {of: "*"}}',
     ".modules: a selector that is a mapping is `{not: S}` or `{sample: {of: S, count: 3, seed:"
     " 0}}`, with a selector S", True),
    ("selector of no text", "zero", "modules: 3",
     '.modules: must be a selector, such as `"*"` or a list of them, not `3`', True),
    ("window of one number", "zero", 'modules: "*", when: {steps: 3}',
     ".when.steps: must be the first and the last step, counted from 0, as in [0, 9], not `3`",
     True),
    ("window that ends before it begins", "zero", 'modules: "*", when: {steps: [5, 3]}',
     ".when.steps: ends before it begins: 3 is less than 5", False),
    ("window without steps", "zero", 'modules: "*", when: {step: [5, 3]}',
     ".when.step: unknown key, did you mean `steps`?", True),
    ("unknown place", "zero", 'modules: "*", where: outputs',
     ".where: must be one of weights, output, input, not `outputs`, did you mean `output`?", True),
    ("weights of an op of outputs", "mean", 'modules: "*", where: weights',
     ".where: must be `output`, not `weights`", True),
    ("no place of an op of outputs", "mean", 'modules: "*"',
     ": `where` is missing: always `output`: `mean` edits what modules return", True),
    ("place of an op of weights", "prune", 'modules: "*", amount: 0.5, where: output',
     ".where: must be `weights`, not `output`: `prune` edits weights alone", True),
    ("parameters of outputs", "zero", 'modules: "*", where: output, params: bias',
     ".params: outputs have no parameters; leave `params` out", True),
    ("argument of outputs", "zero", 'modules: "*", where: output, argument: x',
     ".argument: `argument` goes with `where: input`", False),
    ("argument of weights", "zero", 'modules: "*", argument: x',
     ".argument: `argument` goes with `where: input`", False),
    ("dose of inputs", "mix_noise", 'modules: "*", where: input, amount: 1, dose: 1',
     ".dose: is for weights; inputs have none", True),
    ("heads of inputs", "zero", 'modules: "*", where: input, unit: {heads: 0}',
     ".unit: names heads or channels of weights and outputs; inputs have none", False),
    ("input of an op of outputs", "identity", 'modules: "*", where: input',
     ".where: must be `output`, not `input`", True),
    ("component that is no text", "zero", 'modules: "*", component: 3',
     ".component: must be text, not `3`; put it in quotes to make it text", True),
    ("unknown unit", "zero", 'modules: "*", unit: {head: [0]}',
     ".unit.head: unknown key, did you mean `heads`?", True),
    ("no unit", "zero", 'modules: "*", unit: {}',
     ".unit: must have exactly one of channels, heads, as in `{heads: [0, 3]}`; this has none",
     True),
    ("two units", "zero", 'modules: "*", unit: {channels: [0], heads: [0]}',
     ".unit: must have exactly one of channels, heads, as in `{heads: [0, 3]}`; this has"
     " channels and heads", True),
    ("heads as text", "zero", 'modules: "*", unit: {heads: [0, two]}',
     ".unit.heads[1]: must be a number from 0 or a range such as `0-7`, not `two`", True),
    ("range of channels from high to low", "zero", 'modules: "*", unit: {channels: [7-0]}',
     ".unit.channels[0]: must be a number from 0 or a range such as `0-7`, not `7-0`", False),
    ("two windows in one", "zero", 'modules: "*", when: {steps: [0, 1], t: [1, 0.5]}',
     ".when: must have exactly one of steps, fraction, t, as in `{steps: [0, 9]}`; this has"
     " steps and t", True),
    ("fraction above 1", "zero", 'modules: "*", when: {fraction: [0.5, 2]}',
     ".when.fraction[1]: must be at most 1, not `2`", True),
    ("fraction of one number", "zero", 'modules: "*", when: {fraction: 0.5}',
     ".when.fraction: must be from where to where, as parts of the sampling, as in [0, 0.5],"
     " not `0.5`", True),
    ("noise levels of three numbers", "zero", 'modules: "*", when: {t: [1, 0.5, 0]}',
     ".when.t: must be from which noise level, 1 for noise alone, to which, as in [1, 0.5], not"
     " a list of 3", True),
    ("noise by the hundred", "mix_noise", 'modules: "*", amount: 150',
     ".amount: must be at most 1, not `150`", True),
    ("negative noise", "mix_noise", 'modules: "*", amount: -0.1',
     ".amount: must be at least 0, not `-0.1`", True),
    ("empty window", "zero", 'modules: "*", when: {t: [0.5, 0.5]}',
     ".when.t: is empty: it begins and ends at 0.5", False),
    ("fraction that ends before it begins", "zero", 'modules: "*", when: {fraction: [0.5, 0.25]}',
     ".when.fraction: ends before it begins: 0.25 is less than 0.5", False),
    ("dose beside amount", "mix_noise", 'modules: "*", amount: 0.1, dose: 0.1',
     ".dose: is given beside `amount`; keep one of the two", True),
    ("neither dose nor amount", "add_noise", 'modules: "*"',
     ": `amount` is missing; `add_noise` needs it, a number or an axis (`$name`)", True),
    ("dose of an op without one", "zero", 'modules: "*", dose: 0.1',
     ".dose: `zero` takes no `dose`; known here: modules, component, where, argument, params,"
     " when, unit, units", True),
    ("dose below 0", "mix_noise", 'modules: "*", dose: -0.1', ".dose: must be at least 0, not"
                                                              " `-0.1`", True),
    ("dose of outputs", "mix_noise", 'modules: "*", dose: 0.1, where: output',
     ".dose: is for weights; outputs have none", True),
    ("amount above 1", "prune", 'modules: "*", amount: 1.5',
     ".amount: must be at most 1, not `1.5`", True),
    ("half a bit", "quantize", 'modules: "*", bits: 2.5',
     ".bits: must be a whole number, not `2.5`", True),
    ("rank of nothing", "low_rank", 'modules: "*", rank: 0',
     ".rank: must be above 0, not `0`", True),
    ("rank and a half", "low_rank", 'modules: "*", rank: 1.5',
     ".rank: must be a whole number, not `1.5`", True),
    ("pruned by no known score", "prune", 'modules: "*", amount: 0.5, by: magnitud',
     ".by: must be one of magnitude, random, not `magnitud`, did you mean `magnitude`?", True),
    ("swap with nothing", "swap", "modules: conv_in",
     ": `with` is missing: the modules that take the others' places, as a selector", True),
    ("blend with nothing", "blend", 'modules: "*", amount: 0.5',
     ": `with` is missing: a model, whose weights are blended in", True),
    ("blend with modules", "blend", "modules: conv_in, amount: 0.5, with: [conv_out]",
     ".with: must be text, not a list", True),
    ("unknown key of references", "mean", 'modules: "*", where: output, over: {seed: [0]}',
     ".over.seed: unknown key, did you mean `seeds`?", True),
    ("references of one prompt as text", "mean", 'modules: "*", where: output, over: {prompts: a}',
     ".over.prompts: must be a list of prompts, not `a`", True),
]  # fmt: skip

# One axis `a` each, the settings of an edit with it; the message stands behind `r.yaml:`.
AXES = [
    ("axis inside a selector", "{each: '*'}", "zero: {modules: [$a, conv_in]}",
     "5: edits[0].zero.modules: `$a`, an axis, cannot be part of a selector: `modules: $a`", False),
    ("axis as a list with a value twice", "[1, 2, 1]", 'scale: {modules: "*", factor: $a}',
     "3: axes.a[2]: `1` is given twice", True),
    ("axis as a list of other than numbers", "[1, x]", 'scale: {modules: "*", factor: $a}',
     "3: axes.a[1]: must be a number, not `x`; it goes to edits[0].scale.factor", False),
    ("misspelled form", "{vaules: [1]}", 'scale: {modules: "*", factor: $a}',
     "3: axes.a.vaules: unknown key, did you mean `values`?", True),
    ("range without step", "{range: [0, 1]}", 'scale: {modules: "*", factor: $a}',
     "3: axes.a: `range` needs a `step`", True),
    ("step of nothing", "{range: [0, 1], step: 0}", 'scale: {modules: "*", factor: $a}',
     "3: axes.a.step: must not be 0", True),
    ("range of three", "{range: [0, 1, 0.1], step: 0.1}", 'scale: {modules: "*", factor: $a}',
     "3: axes.a.range: must be [first, last], not a list of 3", True),
    ("endless range", "{range: [0, 1], step: 0.000000001}", 'scale: {modules: "*", factor: $a}',
     "3: axes.a.range: gives 1,000,000,001 values; 100,000 is the most", False),
    ("step without range", "{linspace: [0, 1, 3], step: 1}", 'scale: {modules: "*", factor: $a}',
     "3: axes.a.step: `step` goes with `range`, not with `linspace`", True),
    ("geomspace through 0", "{geomspace: [0, 1, 3]}", 'scale: {modules: "*", factor: $a}',
     "3: axes.a.geomspace: must be from and to numbers of one sign, neither of them 0", False),
    ("value twice", "{values: [1, 2, 1]}", 'scale: {modules: "*", factor: $a}',
     "3: axes.a.values[2]: `1` is given twice", True),
    ("modules for a strength", '{each: "*"}', 'scale: {modules: "*", factor: $a}',
     "5: edits[0].scale.factor: axis `a` has modules; `factor` needs plain values", False),
    ("negative count", "{cumulative: {counts: {range: [-2, 2], step: 1}}}", "zero: {modules: $a}",
     "3: axes.a.cumulative.counts.range: gives -2; there are no fewer than 0 modules", False),
    ("drift of no run", "{cumulative: {order: drift}}", "zero: {modules: $a}",
     "3: axes.a.cumulative: `order: drift` needs `run:`, the folder of a run in which each module"
     " was edited in turn", False),
    ("seed of no use", "{cumulative: {order: reverse, seed: 3}}", "zero: {modules: $a}",
     "3: axes.a.cumulative.seed: `seed` goes with `order: random`, not `reverse`", False),
    ("unknown order", "{cumulative: {order: rand}}", "zero: {modules: $a}",
     "3: axes.a.cumulative.order: must be one of network, reverse, random, drift, not `rand`, did"
     " you mean `random`?", True),
    ("point in an edit", "{embedding: {random: {count: 2}}}", 'scale: {modules: "*", factor: $a}',
     "5: edits[0].scale.factor: axis `a` has points of embedding space, which are not part of"
     " an edit; every edit is applied at each of them", False),
    ("windows for a strength", "{windows: 4}", 'scale: {modules: "*", factor: $a}',
     "5: edits[0].scale.factor: axis `a` has windows; `factor` needs plain values", False),
    ("numbers for a window", "{values: [1]}", 'zero: {modules: "*", when: $a}',
     "5: edits[0].zero.when: axis `a` has values; `when` needs windows", False),
    ("windows for the end of one", "{windows: 4}", 'zero: {modules: "*", when: {steps: [0, $a]}}',
     "5: edits[0].zero.when.steps[1]: axis `a` has windows; `when` needs plain values", False),
    ("windows for modules", "{windows: 4}", "zero: {modules: $a}",
     "5: edits[0].zero.modules: axis `a` has windows; `modules` needs modules", False),
    ("half a head", "{values: [0.5]}", 'zero: {modules: "*", unit: {heads: $a}}',
     "3: axes.a.values[0]: must be a number from 0 or a range such as `0-7`, not `0.5`; it goes"
     " to edits[0].zero.unit.heads", False),
    ("half a step", "{values: [2, 2.5]}", 'zero: {modules: "*", when: {steps: [0, $a]}}',
     "3: axes.a.values[1]: must be a whole number, not `2.5`; it goes to"
     " edits[0].zero.when.steps[1]", False),
    ("axis to an amount above 1", "{values: [1, 2]}", 'prune: {modules: "*", amount: $a}',
     "3: axes.a.values[1]: must be at most 1, not `2`; it goes to edits[0].prune.amount", False),
    ("axis to a dose below 0", "{range: [0, -1], step: 1}", 'mix_noise: {modules: "*", dose: $a}',
     "3: axes.a.range[1]: must be at least 0, not `-1`; it goes to edits[0].mix_noise.dose", False),
    ("one window", "{windows: 1}", 'zero: {modules: "*", when: $a}',
     "3: axes.a.windows: must be a list of windows, as in [{steps: [0, 4]}], or a number of equal"
     " parts from 2 to 100, not `1`", True),
    ("window twice", "{windows: [{t: [1, 0]}, {t: [1, 0]}]}", 'zero: {modules: "*", when: $a}',
     "3: axes.a.windows[1]: `{t: [1, 0]}` is given twice", True),
    ("axis in axis of windows", "{windows: [{steps: [0, $b]}]}", 'zero: {modules: "*", when: $a}',
     "3: axes.a.windows[0].steps[1]: must be a whole number, not `$b`", True),
    ("unknown key beside modules", '{each: {modules: "*", compnent: vae}}', "zero: {modules: $a}",
     "3: axes.a.each.compnent: unknown key, did you mean `component`?", True),
    ("heads of no selector", "{each_head: 3}", "zero: {modules: $a}",
     '3: axes.a.each_head: must be a selector, such as `"*"` or a list of them, not `3`', True),
    ("group of a component that is no text", "{group: {component: [vae]}}", "zero: {modules: $a}",
     "3: axes.a.group.component: must be text, not a list", True),
]  # fmt: skip

EDITS += [
    ("a setting of other ops", "scale", 'modules: "*", factor: 1, dose: 0.1',
     ".dose: `scale` takes no `dose`; known here: modules, component, where, argument, params,"
     " when, unit, units, factor", True),
    ("references of an op without any", "zero", 'modules: "*", over: {seed: [1]}',
     ".over: `zero` takes no `over`; known here: modules, component, where, argument, params,"
     " when, unit, units", True),
    ("bits as text", "quantize", 'modules: "*", bits: x', ".bits: must be a number, not `x`", True),
    ("fraction to text", "zero", 'modules: "*", when: {fraction: [0, x]}',
     ".when.fraction[1]: must be a number, not `x`", True),
    ("fraction from above 1", "zero", 'modules: "*", when: {fraction: [1.5, 0.5]}',
     ".when.fraction[0]: must be at most 1, not `1.5`", True),
    ("steps to text", "zero", 'modules: "*", when: {steps: [5, x]}',
     ".when.steps[1]: must be a whole number, not `x`", True),
    ("channel within a range and alone", "zero", 'modules: "*", unit: {channels: ["0-3", 2]}',
     ".unit.channels: `2` is given twice", False),
    ("range in digits that are no numbers", "zero", 'modules: "*", unit: {heads: ["²-3"]}',
     ".unit.heads[0]: must be a number from 0 or a range such as `0-7`, not `²-3`", True),
    ("endless range of channels", "zero", 'modules: "*", unit: {channels: [0-99999999999]}',
     ".unit.channels[0]: must be a number from 0 or a range such as `0-7`, not `0-99999999999`",
     False),
]  # fmt: skip
AXES += [
    ("window of no width", '{window: {modules: "*"}}', "zero: {modules: $a}",
     "3: axes.a.window: `width` is missing: how many neighbors there are at each value", True),
    ("window without steps on", "{window: {width: 2, stride: 0}}", "zero: {modules: $a}",
     "3: axes.a.window.stride: must be at least 1, not `0`", True),
    ("groups of two kinds", '{group: {by: role, within: "*"}}', "zero: {modules: $a}",
     "3: axes.a.group.within: is given beside `by`; keep one of the two", False),
    ("axis in no known window", "{values: [0, 1]}", 'zero: {modules: "*", when: {step: [$a, 3]}}',
     "5: edits[0].zero.when.step: unknown key, did you mean `steps`?", True),
    ("axis of heads in place of a unit", '{each_head: "*"}', 'zero: {modules: "*", unit: $a}',
     "5: edits[0].zero.unit: must be a mapping with channels, heads, not `$a`", True),
    ("no windows", "{windows: []}", 'zero: {modules: "*", when: $a}',
     "3: axes.a.windows: must be a list of windows, not an empty list", True),
    ("axis of components", "{values: [vae]}", 'zero: {modules: "*", component: $a}',
     "5: edits[0].zero.component: an axis cannot be given here, as `$a` is", False),
    ("axis of models", "{values: [x, y]}", 'blend: {modules: "*", amount: 1, with: $a}',
     "5: edits[0].blend.with: an axis cannot be given here, as `$a` is", False),
    ("axis of references", "{values: [x, y]}",
     'mean: {modules: "*", where: output, over: {prompts: [$a]}}',
     "5: edits[0].mean.over.prompts[0]: an axis cannot be given here, as `$a` is", False),
]  # fmt: skip

EDITS += [
    ("strength of another op", "scale", 'modules: "*", amount: 1',
     ".amount: `scale` takes `factor`", True),
    ("misspelled key that is needed", "swap", "modules: conv_in, wiht: conv_out",
     ".wiht: unknown key, did you mean `with`?", True),
    ("nothing for a key", "zero", 'modules: "*", component:',
     ".component: must be text, not nothing", True),
    ("truth for a number", "scale", 'modules: "*", factor: true',
     ".factor: must be a number, not `true`", True),
    ("infinite strength", "scale", 'modules: "*", factor: .inf',
     ".factor: must be a finite number, not `inf`", False),
]  # fmt: skip

WRONG += [
    Wrong(what, f"{HEAD}edits:\n  - {op}: {{{body}}}\n", f"r.yaml:4: edits[0].{op}{told}", static)
    for what, op, body, told, static in EDITS
]
WRONG += [
    Wrong(what, f"{HEAD}axes: {{a: {axis}}}\nedits:\n  - {edit}\n", f"r.yaml:{told}", static)
    for what, axis, edit, told, static in AXES
]
WRONG += [
    Wrong(
        "compiled, and edited on the way",
        HEAD + 'compile: true\nedits:\n  - zero: {modules: "*", where: output}\n',
        "r.yaml:3: compile: does not go with `where: output`: a compiled network returns"
        " nothing on the way",
        False,
    ),
    Wrong(
        "seeds of windows",
        HEAD + "axes: {windows: {windows: 2}, seed: {windows: 2}}\nedits:\n"
        '  - zero: {modules: "*", when: $windows}\n',
        "r.yaml:3: axes.seed.windows: gives windows; the axis `seed` needs `values`",
        False,
    ),
    Wrong(
        "seed from windows",
        HEAD + "axes: {w: {windows: 2}, a: {cumulative: {order: random, seed: $w}}}\nedits:\n"
        "  - zero: {modules: $a, when: $w}\n",
        "r.yaml:3: axes.a.cumulative.seed: axis `w` has windows; a seed is a whole number",
        False,
    ),
]
