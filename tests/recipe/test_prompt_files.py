"""Prompts from files: which are drawn, what the run keeps of them, and what is wrong."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from click.testing import CliRunner

from ablate.cli.main import main
from ablate.recipe.document import RecipeError
from ablate.recipe.recipe import Recipe
from ablate.recipe.schema import recipe_schema
from ablate.store.run import Run

CAPTIONS = [f"a {thing}, {i}" for i, thing in enumerate(["cat", "dog", 'so-called "owl"'] * 20)]


def write(folder: Path, prompts: str, captions: str | bytes, name: str = "prompts.csv") -> Path:
    content = captions if isinstance(captions, bytes) else captions.encode()
    (folder / name).write_bytes(content)
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        f"version: 1\nname: r\n# drawn\nprompts: {prompts}\nedits: [zero: {{modules: conv_in}}]\n",
        encoding="utf-8",
    )
    return recipe


def as_csv(captions: list[str]) -> str:
    quoted = ('"' + caption.replace('"', '""') + '"' for caption in captions)
    return "id,caption\r\n" + "".join(f"{i},{text}\r\n" for i, text in enumerate(quoted))


def load(folder: Path, prompts: str, captions: str | bytes, **more: Any) -> list[str]:
    return list(Recipe.load(write(folder, prompts, captions, **more)).prompts)


def test_a_column_and_the_lines_of_a_text_are_prompts(tmp_path: Path) -> None:
    column = "{file: prompts.csv, column: caption}"
    assert load(tmp_path, column, as_csv(CAPTIONS)) == CAPTIONS
    marked = b"\xef\xbb\xbf" + as_csv([*CAPTIONS, CAPTIONS[0], f" {CAPTIONS[1]} "]).encode()
    assert load(tmp_path, column, marked) == CAPTIONS
    lines = "\n".join([*CAPTIONS, "yes", "12", "$name", "ü 猫"])
    expected = [*CAPTIONS, "yes", "12", "$name", "ü 猫"]
    for text in (lines, lines + "\n", lines.replace("\n", "\r\n")):
        assert load(tmp_path, "{file: lines.txt}", text, name="lines.txt") == expected


def test_a_draw_depends_on_the_seed_alone_and_grows(tmp_path: Path) -> None:
    def drawn(count: int, seed: int = 0) -> list[str]:
        prompts = f"{{file: prompts.csv, column: caption, count: {count}, seed: {seed}}}"
        return load(tmp_path, prompts, as_csv(CAPTIONS))

    assert len(set(drawn(20))) == 20
    assert drawn(20) == drawn(20) == drawn(30)[:20]
    assert drawn(20) != drawn(20, seed=1)
    assert sorted(drawn(60)) == sorted(CAPTIONS)


def test_the_recipe_of_a_run_contains_the_prompts(tmp_path: Path, without_report: None) -> None:
    file = write(tmp_path, "{file: prompts.csv, column: caption, count: 2, seed: 3}",
                 as_csv(CAPTIONS))  # fmt: skip
    asked = ["--set", "sampling.num_inference_steps=1", "--device", "cpu"]

    def run(*words: object) -> str:
        done = CliRunner().invoke(main, ["run", *map(str, words)])
        assert done.exit_code == 0, done.output
        return done.output

    folder = tmp_path / "run"
    run(file, "--out", folder, *asked)
    prompts = list(Recipe.load(file).prompts)
    kept = (folder / "recipe.yaml").read_text(encoding="utf-8")
    first, *_ = kept.splitlines()
    assert first == "# prompts: {column: caption, count: 2, file: prompts.csv, seed: 3}"
    assert "# drawn" in kept
    assert yaml.safe_load(kept)["prompts"] == prompts
    assert {cell.prompt for cell in Run(folder).cells()} == set(prompts)
    (tmp_path / "prompts.csv").unlink()
    assert "0 images computed, 4 reused, of 4" in run(folder, "--device", "cpu")
    assert (folder / "recipe.yaml").read_text(encoding="utf-8") == kept


@pytest.mark.parametrize(
    ("prompts", "captions", "sentence"),
    [
        ("{file: none.csv}", "", "prompts.file: {0}/none.csv cannot be read: No such file"),
        ("{file: prompts.csv, column: captoin}", "id,caption\n1,a cat\n",
         "prompts.column: {0}/prompts.csv has no column `captoin`, did you mean `caption`?"),
        ("{file: prompts.csv, column: x}", "id,caption\n1,a cat\n",
         "has no column `x`; it has id, caption"),
        ("{file: prompts.csv, column: caption, count: 3}", "caption\na cat\na cat\na dog\n",
         "prompts.count: is 3, and {0}/prompts.csv has 2 prompts"),
        ("{file: prompts.csv, column: caption}", "id,caption\n1,a cat\n2,\n",
         "prompts.file: {0}/prompts.csv:3: there is no prompt; it is blank"),
        ("{file: prompts.csv, column: caption}", "id,caption\n1\n",
         "prompts.csv:2: there is no prompt; it is blank"),
        ("{file: prompts.csv}", "a cat\n \na dog\n", "prompts.csv:2: there is no prompt"),
        ("{file: prompts.csv}", "", "prompts.file: {0}/prompts.csv has no prompts"),
        ("{file: prompts.csv, column: caption}", 'caption\n"a cat\n', "is no CSV: unexpected end"),
        ("{file: prompts.csv}", b"\xff", "{0}/prompts.csv is no text in UTF-8"),
        ("{file: prompts.csv}", "a" * 10_001, "a prompt of 10,001 characters; 10,000 is the most"),
        ("{file: prompts.csv}", "".join(f"{i}{'a' * 9000}\n" for i in range(40)),
         "prompts.count: gives prompts of 360,070 characters together; 250,000 are the most"),
        ("{file: prompts.csv, counts: 2}", "a cat\n",
         "prompts.counts: unknown key, did you mean `count`?"),
        ("{column: caption}", "a cat\n", "prompts: `file` is missing: a CSV file, or a text with"),
        ("{file: prompts.csv, count: 0}", "a cat\n", "prompts.count: must be at least 1, not `0`"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_file_is_a_problem_of_the_recipe(
    tmp_path: Path, prompts: str, captions: str | bytes, sentence: str
) -> None:
    file = write(tmp_path, prompts, captions)
    with pytest.raises(RecipeError) as error:
        Recipe.load(file)
    assert f"{file}:4: " in str(error.value)
    assert sentence.format(tmp_path) in str(error.value)
    assert len(error.value.problems) == 1


def test_the_schema_has_both_forms() -> None:
    validator = jsonschema.Draft202012Validator(recipe_schema())
    plain = {"version": 1, "name": "r"}
    drawn = {"file": "prompts.csv", "column": "caption", "count": 200, "seed": 0}
    for prompts in (["a cat"], drawn, {"file": "prompts.txt"}):
        assert validator.is_valid(plain | {"prompts": prompts})
    for prompts in ([], {"column": "caption"}, drawn | {"more": 1}, "prompts.csv"):
        assert not validator.is_valid(plain | {"prompts": prompts})
