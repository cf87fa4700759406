"""Text from outside, wherever it is shown: nothing controls a terminal, hides or becomes markup."""

from __future__ import annotations

import html
import json
import re
import shutil
import unicodedata
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from PIL import ImageDraw

from ablate.cli.main import main
from ablate.store.run import Run

STRANGE = "\x1b[31mred\x07 \u202ecod\u2066.exe \x9b2J"
MARKUP = "</text></script><script>alert(1)</script><img src=x onerror=alert(2)>"
SHOWN = r"\x1b[31mred\x07 \u202ecod\u2066.exe \x9b2J"


def ablate(*arguments: object) -> str:
    done = CliRunner().invoke(main, [str(a) for a in arguments])
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    assert done.exit_code == 0, done.output
    return done.output


def hidden(text: str) -> set[str]:
    """The characters of a text that control or hide."""
    return {c for c in text if unicodedata.category(c) in ("Cc", "Cf", "Cs") and c not in "\n\t"}


def strings(value: Any) -> list[str]:
    if isinstance(value, str):
        return [value]
    parts = [*value, *value.values()] if isinstance(value, dict) else value
    return [text for part in parts for text in strings(part)] if isinstance(parts, list) else []


def test_no_text_of_a_recipe_controls_hides_or_becomes_markup(
    tiny_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[str] = []
    draw = ImageDraw.ImageDraw.text

    def recorded(self: Any, xy: Any, text: str, *rest: Any, **more: Any) -> None:
        drawn.append(text)
        draw(self, xy, text, *rest, **more)

    monkeypatch.setattr(ImageDraw.ImageDraw, "text", recorded)
    model = shutil.copytree(tiny_folder, tmp_path / f"{STRANGE}<script>alert(3)<")
    recipe = tmp_path / f"{STRANGE}.yaml"
    recipe.write_text(json.dumps({
        "version": 1, "name": "strange", "about": f"{STRANGE} {MARKUP}", "model": str(model),
        "dtype": "float32", "clip": "bundled", "vocabulary": [STRANGE, MARKUP, "a cat"],
        "prompts": [f"{STRANGE} a cat", f"{MARKUP} a cat"], "seeds": [0],
        "sampling": {"num_inference_steps": 1, "negative_prompt": STRANGE},
        "axes": {"amount": [0.1, 0.2, 0.3]}, "sheet": {"concepts": True},
        "edits": [{"mix_noise": {"modules": "conv_in", "amount": "$amount"}}],
    }))  # fmt: skip
    out = tmp_path / "out" / STRANGE
    printed = [ablate(command, recipe) for command in ("check", "plan")]
    printed.append(ablate("run", recipe, "--out", out))
    printed += [
        ablate(command, out) for command in ("drift", "sheet", "report", "map", "curves", "verify")
    ]
    printed.append(ablate("animate", out, "--over", "amount", "--out", tmp_path / "moving.webp"))
    for cell in Run(out).cells():
        printed += [ablate("show", cell.path), ablate("show", "--json", cell.path)]
    assert {c for text in printed for c in hidden(text)} == set()
    assert any(SHOWN in text for text in printed)
    assert [text for text in drawn if hidden(text)] == []
    assert any(SHOWN.split()[0] in text for text in drawn)

    for table in ("drift.csv", "effects.csv"):
        text = (out / table).read_text(encoding="utf-8")
        assert hidden(text) == set()
        assert SHOWN in text
    for drawing in out.glob("*.svg"):
        text = drawing.read_text(encoding="utf-8")
        assert hidden(text) == set()
        assert {
            element.tag.rpartition("}")[2] for element in ElementTree.fromstring(text).iter()
        } <= {"svg", "g", "title", "text", "rect", "circle", "path", "line", "image", "a"}
    notebook = Run(out)._repr_html_()
    assert hidden(notebook) == set()
    assert re.findall(r"<(\w+)", re.sub(r'src="data:[^"]*"', "", notebook)) == ["div", "div", "img"]
    page = (out / "report.html").read_text(encoding="utf-8")
    assert hidden(page) == set()
    assert len(re.findall(r"<script\b", page)) == 2  # the data and the program
    assert "<img src=x" not in page
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', page, re.DOTALL)
    assert data is not None
    content = json.loads(html.unescape(data[1]))
    assert len({effect["prompt"] for effect in content["effects"]}) == 2
    shown = strings(content)
    assert {c for text in shown for c in hidden(text)} == set()
    assert f"{SHOWN} a cat" in shown
    assert f"{MARKUP} a cat" in shown
