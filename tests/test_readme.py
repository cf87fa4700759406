"""The README holds: its examples run, its recipes are right, its files are there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from ablate.cli import main, units
from ablate.edits import METRICS, OPS
from ablate.recipe.recipe import Recipe
from ablate.sweep.binding import plan

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", TEXT, flags=re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("example", blocks("python"), ids=lambda e: e.splitlines()[0][:40])
def test_python_examples_run(example: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "recipes").symlink_to(ROOT / "recipes")
    program = tmp_path / "example.py"
    program.write_text(example)
    monkeypatch.chdir(tmp_path)
    known = set(OPS)
    runpy.run_path(str(program), run_name="__main__")
    for name in OPS.keys() - known:  # an op of the example
        del OPS[name]
    METRICS.clear()


@pytest.mark.parametrize("example", blocks("yaml"), ids=lambda e: e.splitlines()[0][:40])
def test_recipe_examples_are_right(example: str) -> None:
    recipe = Recipe.build(yaml.safe_load(example))
    assert plan(recipe).cells


def test_pictures_and_files_are_there() -> None:
    named = re.findall(r"\]\((?!http|#)([^)]+)\)", TEXT)
    assert any(name.endswith(".png") for name in named)
    for name in named:
        assert (ROOT / name).exists(), name


def test_gallery_is_small() -> None:
    sizes = [p.stat().st_size for p in (ROOT / "outputs" / "gallery").iterdir()]
    assert sum(sizes) <= 3_000_000


def test_what_is_claimed_is_what_is_checked() -> None:
    claims = runpy.run_path(str(ROOT / "outputs" / "gallery" / "claims.py"))["CLAIMS"]
    card = (ROOT / "ablate" / "bundled" / "README.md").read_text(encoding="utf-8")
    text = " ".join(f"{TEXT} {card}".split())
    assert len(claims) > 12
    for statement in claims:
        assert statement.casefold() in text.casefold()


def test_every_recipe_and_command_is_mentioned() -> None:
    for file in (ROOT / "recipes").rglob("*.yaml"):
        assert f"`{file.stem}`" in TEXT
    assert all(f"ablate {command}" in TEXT for command in main.COMMANDS)
    assert all(f"ablate units {command}" in TEXT for command in units.COMMANDS)
