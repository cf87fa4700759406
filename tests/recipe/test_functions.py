"""Edits and axes written in Python are what a recipe file would contain."""

from __future__ import annotations

import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import ablate
from ablate.edits.ops import OPS
from ablate.recipe import op_functions
from ablate.recipe.edits import keys_of
from ablate.recipe.recipe import Recipe

STUB = Path(op_functions.__file__).with_suffix(".pyi")


def test_an_edit_is_what_a_file_contains() -> None:
    edit = ablate.mix_noise(modules="$stage", amount="$amount")
    assert edit == {"mix_noise": {"modules": "$stage", "amount": "$amount"}}
    swap = ablate.swap(modules="#1", with_="#2")
    assert swap == {"swap": {"modules": "#1", "with": "#2"}}
    built = Recipe.build(
        {
            "version": 1,
            "name": "x",
            "axes": {"stage": ablate.group(by="stage"), "amount": ablate.span(0, 0.2, 0.1)},
            "edits": [edit],
        }
    )
    assert [axis.form for axis in built.axes.values()] == ["group", "range"]


@pytest.mark.parametrize("name", OPS)
def test_every_op_has_a_typed_function(name: str) -> None:
    function = getattr(ablate, name)
    names = {n.rstrip("_") for n in inspect.signature(function).parameters}
    assert names == set(keys_of(OPS[name]))
    documentation = " ".join((inspect.getdoc(function) or "").split())
    assert OPS[name].about in documentation


def test_unknown_settings_are_refused_at_once() -> None:
    with pytest.raises(TypeError, match="modls"):
        ablate.zero(modls="*")


AXES = {
    "each": ablate.each("stage=mid"),
    "each_head": ablate.each_head("*attn2"),
    "each_channel": ablate.each_channel("conv_in"),
    "group": ablate.group(by="role"),
    "cumulative": ablate.cumulative(order="random", seed=1, counts=[1, 2]),
    "window": ablate.window("*attn2*", width=2, by="block"),
    "windows": ablate.windows(4),
    "linspace": ablate.linspace(0, 1, 3),
    "geomspace": ablate.geomspace(0.01, 1, 3),
    "range": ablate.span(0, 1, 0.5),
    "between": ablate.between("a cat", "a dog", ablate.linspace(0, 1, 3)),
    "plane": ablate.plane("a cat", ["a dog", 7], size=3),
    "random": ablate.random_points(3, seed=1),
}


@pytest.mark.parametrize("name", AXES)
def test_axes_are_what_the_format_has(name: str) -> None:
    axis = AXES[name]
    assert next(iter(axis)) in (name, "embedding")
    key = "when" if name == "windows" else "modules"
    of_modules = ("each", "each_head", "each_channel", "group", "cumulative", "window")
    value = "$a" if name in of_modules else "*"
    settings = {"modules": value} | ({key: "$a"} if key == "when" else {})
    numeric = name in ("linspace", "geomspace", "range")
    edit = {"mix_noise": {"modules": "*", "amount": "$a"}} if numeric else {"zero": settings}
    edits = [] if "embedding" in axis else [edit]
    built = Recipe.build({"version": 1, "name": "x", "axes": {"a": axis}, "edits": edits})
    assert built.axes["a"].is_whole


def test_the_stub_is_what_the_registry_says() -> None:
    program = [sys.executable, "-m", "ablate.recipe.op_functions"]
    text = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    formatted = subprocess.run(
        [sys.executable, "-m", "ruff", "format", "-", "--stdin-filename", str(STUB)],
        input=text, capture_output=True, text=True, check=True,
    ).stdout  # fmt: skip
    assert STUB.read_text(encoding="utf-8") == formatted
