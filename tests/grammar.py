"""Hostile recipes: valid pieces, those of the bundled recipes, with wrong and extreme values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from ablate.edits import OPS
from ablate.recipe import recipe_schema
from ablate.recipe.edits import keys_of

FOLDER = Path(__file__).parent.parent / "recipes"
BUNDLED = [file.read_text(encoding="utf-8") for file in sorted(FOLDER.glob("*.yaml"))]
KEYS = [*recipe_schema()["properties"], "promts", "", "<<", "$a", "a\u202eb", "k" * 300]

# Values as they are written in YAML.
SCALARS = [
    "!!int abc", '!!bool ""', "!!timestamp 2001-99-99", "!!timestamp x", "!!binary x", "!!float x",
    "!!set {a}", "!!omap [a: 1]", "!!python/name:os.system", "!x 1", "9" * 5000, "1:30:00", ".inf",
    ".nan", "1e400", "-1", "0", "1000000000", "18446744073709551616", "~", "''", "[]", "{}",
    '"\\ud800"', '"\\x1b[31m"', '"\\u202e\\u0000"', '"a\\nb\\tc"', "2001-01-01", "*a", "&a [*a]",
    "{<<: {a: 1}}", "x" * 20_000, "[" * 60 + "]" * 60, "$a", "$", "true", "[[1, 2], {a: b}]",
    "'re:(a+)+$'", "'re:(((('", "'re:a{99999999999}'", f"'{'*a' * 400}'", "'#9999999999'",
    "'kind='", "{not: {not: '*'}}", "{sample: {of: '*', count: 1000000000}}",
    "{range: [0, 1], step: 0.3}", "{range: [0, 1000000000], step: 1}", "{linspace: [0, 1, 100000]}",
    "{linspace: [-1.0e+308, 1.0e+308, 5]}", "{geomspace: [1.0e-300, 1.0e+300, 9]}",
    "{embedding: {plane: {center: a, toward: [b, 1], size: 999}}}", "{windows: 100}",
    "{embedding: {random: {count: 1000000000}}}", "{each: '*'}", "{each_channel: '*'}",
    "{steps: [5, 90]}", "{fraction: [0.9, 0.1]}", "/dev/zero", ".", "../../etc",
]  # fmt: skip
VALUES = st.sampled_from(SCALARS) | st.text(max_size=40).map(lambda t: yaml.safe_dump(t).strip())


@st.composite
def flat(draw: st.DrawFn) -> str:
    """A recipe of a few keys, any of which may be hostile."""
    lines = ["version: 1", "name: x"]
    for key in draw(st.lists(st.sampled_from(KEYS), max_size=3, unique=True)):
        lines.append(f"{yaml.safe_dump(key).splitlines()[0]}: {draw(VALUES)}")
    return "\n".join(lines) + "\n"


@st.composite
def edited(draw: st.DrawFn) -> str:
    """A recipe of axes and one edit, with hostile settings."""
    op = OPS[draw(st.sampled_from(sorted(OPS)))]
    settings = [op.strength, "modules", "when", "unit", "where", "params", "with", "over", "dose"]
    keys = draw(st.lists(st.sampled_from([k for k in settings if k]), max_size=4, unique=True))
    body = ", ".join(f'"{key}": {draw(VALUES)}' for key in keys)
    axes = ", ".join(
        f"{name}: {draw(VALUES)}" for name in draw(st.sampled_from([(), ("a",), ("a", "seed")]))
    )
    return f"version: 1\nname: x\naxes: {{{axes}}}\nedits:\n  - {op.name}: {{{body}}}\n"


@st.composite
def replaced(draw: st.DrawFn) -> str:
    """A bundled recipe in which a value is another one."""
    lines = draw(st.sampled_from(BUNDLED)).splitlines()
    number = draw(st.integers(0, len(lines) - 1))
    key, colon, _ = lines[number].partition(": ")
    lines[number] = f"{key}{colon or ': '}{draw(VALUES)}"
    return "\n".join(lines) + "\n"


@st.composite
def broken(draw: st.DrawFn) -> bytes:
    """A bundled recipe with other bytes somewhere in it."""
    data = draw(st.sampled_from(BUNDLED)).encode()
    at = draw(st.integers(0, len(data)))
    size = draw(st.integers(0, 20))
    return data[:at] + draw(st.binary(max_size=8)) + data[at + size :]


# ---------------------------------------------------------------- nearly valid recipes

_number = st.sampled_from(["0", "0.5", "1", "2", "-1", "3", "150", "1.0e-3", "7"])
_selector = st.sampled_from([
    '"*"', "attention", '"mid_block.*"', '"re:attn"', "['*attn*', '!mid_block*']", '"kind=Linear"',
    '"#3"', "{sample: {of: '*', count: 3, seed: 1}}", "{not: '*attn*'}", "$m", "{all: ['*', '#0']}",
    "conv_in", "role=attention", "[]", "['*', '*']",
])  # fmt: skip
_window = st.sampled_from([
    "{steps: [0, 3]}", "{steps: [5, 90]}", "{fraction: [0.1, 0.5]}", "{t: [1, 0.5]}", "$w",
    "{steps: [3, 1]}", "{steps: [$a, 9]}", "{t: [0.2, 0.9]}",
])  # fmt: skip
_unit = st.sampled_from(['{channels: [0, "2-7"]}', "{heads: [0]}", "{channels: $a}", "{heads: 99}"])
_axis = st.sampled_from([
    "{range: [0, 1], step: 0.3}", "[0, 1, 2]", "{linspace: [0, 1, 3]}", "{each: '*attn*'}",
    "{each_head: '*attn*'}", "{each_channel: conv_in}", "{group: {by: role}}", "{windows: 4}",
    "{windows: [{steps: [0, 4]}, {t: [1, 0.5]}]}", "{cumulative: {order: random, seed: 3}}",
    "{window: {width: 2, by: block}}", "{window: {within: '*', width: 99}}",
    "{cumulative: {counts: [1, 2, 99999]}}", "{cumulative: {order: drift, run: .}}",
    "{embedding: {between: {from: a, to: $prompt, t: [0, 1]}}}", "{embedding: unconditional}",
    "{embedding: {plane: {center: a, toward: [b, 1], size: 3, zoom: [1, 2]}}}", "['', a]",
    "{embedding: [unconditional, {random: {count: 2}}]}", "{values: ['*', conv_in]}",
    "[a, 1]", "{geomspace: [1, 10, 3]}", "[1, 1.0]", "{each: {modules: '*', component: vae}}",
])  # fmt: skip
_sampling = st.sampled_from([
    "{num_inference_steps: 3}", "{scheduler: ddim}", "{scheduler: Euler a}", "{width: 72}",
    "{scheduler: {name: dpm_solver_multistep, use_karras_sigmas: true}}", "{guidance_scale: -3}",
    "{height: 65536}", "{negative_prompt: a}", "{scheduler: lms, num_inference_steps: 10000}",
])  # fmt: skip
_file = st.sampled_from([
    "/dev/zero", "/dev/null", ".", "..", "missing", "'~'", "file:///etc/passwd", "'a\0b'",
    "http://x", "a/b/c/d", "x.safetensors", "x.py", f"'{'f' * 5000}'", "bundled", "''",
])  # fmt: skip
_top = st.sampled_from([
    "zip: [a, m]", "zip: [[a, w], [m, prompt]]", "zip: [a, seed]", "sheet: {rows: a, columns: m}",
    "sheet: {rows: [seed, a]}", "prompts: [a, b]", "seeds: [0, 1, 2]", "noise_floor: 3",
    "vocabulary: [cat]", "vocabulary: ['']", "perturbation_seed: 7", "component: vae",
    "component: text_encoder", "dtype: float16", "compile: true", "offload: model", "seeds: [1, 1]",
])  # fmt: skip


@st.composite
def near(draw: st.DrawFn) -> str:
    """A recipe of which nearly all is valid, so that it reaches planning."""
    lines = ["version: 1", "name: x"]
    names = draw(st.lists(st.sampled_from(["a", "m", "w", "seed", "steps", "guidance_scale"]),
                          max_size=3, unique=True))  # fmt: skip
    axes = ", ".join(f"{name}: {draw(_axis)}" for name in names)
    edits = []
    for _ in range(draw(st.integers(0, 2))):
        op = OPS[draw(st.sampled_from(sorted(OPS)))]
        takes = keys_of(op)
        body = {}
        for key in takes:
            values = {
                "modules": _selector,
                "when": _window,
                "unit": _unit,
                "with": _selector | _file,
            }
            values |= {"text": VALUES, "where": st.sampled_from(["weights", "output", "input"])}
            values |= {"units": _file.map(lambda f: f"{{run: {f}, count: 3}}")}
            values |= {"component": st.sampled_from(["vae", "text_encoder", "x"])}
            wanted = key in ("modules", "text", op.strength) or draw(st.integers(0, 4)) == 0
            if wanted:
                body[key] = draw(values.get(key, _number | st.just("$a")))
        settings = ", ".join(f"{key}: {value}" for key, value in body.items())
        edits.append(f"  - {op.name}: {{{settings}}}")
    lines += [f"axes: {{{axes}}}"] if names else []
    lines += ["edits:", *edits] if edits else []
    lines += draw(st.lists(_top, max_size=2, unique_by=lambda line: line.split(":")[0]))
    if draw(st.booleans()):
        lines.append(f"sampling: {draw(_sampling)}")
    return "\n".join(lines) + "\n"


@st.composite
def files(draw: st.DrawFn) -> str:
    """A recipe that names files that are none, or not of the kind that it needs."""
    lines = ["version: 1", "name: x", "edits: [{zero: {modules: '*'}}]"]
    keys = [
        "model",
        "config",
        "clip",
        "ops",
        "lora",
        "variant",
        "revision",
        "vocabulary",
        "prompts",
    ]
    for key in draw(st.lists(st.sampled_from(keys), min_size=1, max_size=2, unique=True)):
        value = draw(_file)
        lines.append(f"{key}: {f'[{value}]' if key == 'lora' else value}")
    return "\n".join(lines) + "\n"


@st.composite
def yaml_extras(draw: st.DrawFn) -> bytes:
    """A bundled recipe in another coding, or with more of YAML than recipes need."""
    text = draw(st.sampled_from(BUNDLED))
    bomb = "".join(
        f"k{i}: &k{i} [{', '.join([f'*k{i - 1}' if i else 'a'] * 9)}]\n" for i in range(9)
    )
    extra = draw(st.sampled_from([
        "\ufeff" + text, text + "---\n" + text, text + "...\n%YAML 9.9\n---\na: 1\n", bomb + text,
        "%TAG ! tag:x,2000:\n---\n" + text, "x: &x {version: 1}\n<<: *x\n" + text, text + "\t\n",
        "? {a: b}\n: c\n" + text, "? [a]\n: b\n" + text, text.replace("\n", "\r"),
        text.replace("\n", "\u2028"), text + "\0", "!!map\n" + text, "--- |\n" + text, "- " * 100,
        text.replace(": ", ": !!str "), text.replace(": ", ":\t"), "<<: [*a, *b]\n" + text,
        "&a a: *a\n" + text, "{" * 9999, "a: &a\n  b: *a\n", "# " + "c" * 600_000, '"\\U00110000"',
    ]))  # fmt: skip
    coding = draw(st.sampled_from(["utf-8", "utf-8", "utf-8", "utf-16", "utf-32", "utf-8-sig"]))
    return extra.encode(coding)


# ---------------------------------------------------------------- all kinds


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


KINDS: dict[str, Any] = {
    "keys": flat().map(_encoded),
    "edits": edited().map(_encoded),
    "values": replaced().map(_encoded),
    "bytes": broken(),
    "near": near().map(_encoded),
    "files": files().map(_encoded),
    "yaml": yaml_extras(),
}
