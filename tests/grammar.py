"""Hostile recipes: valid pieces, those of the bundled recipes, with wrong and extreme values."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml
from hypothesis import strategies as st

from ablate.edits import OPS
from ablate.recipe import recipe_schema

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


def _encoded(text: str) -> bytes:
    return text.encode("utf-8", "surrogatepass")


KINDS: dict[str, Any] = {
    "keys": flat().map(_encoded),
    "edits": edited().map(_encoded),
    "values": replaced().map(_encoded),
    "bytes": broken(),
}
