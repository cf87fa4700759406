"""Unit cards, read as XML and as pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from studied import CONCEPTS, NAME, make_study, paint
from test_distributions import Node, parsed, words

from ablate.page import ACCENT
from ablate.pictures import svg, unitcards

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"), units=8)


def changed(study: Path, folder: Path, change: Change) -> Path:
    """The same study with other cards."""
    told = json.loads((study / "cards.json").read_text(encoding="utf-8"))
    change(told)
    folder.mkdir(exist_ok=True)
    (folder / "pictures").symlink_to(study / "pictures")
    (folder / "study.json").write_text((study / "study.json").read_text(encoding="utf-8"))
    (folder / "cards.json").write_text(json.dumps(told), encoding="utf-8")
    return folder


def drawn(folder: Path, number: int = 0) -> Node:
    return parsed(unitcards.svg(unitcards.cards(folder)[number], folder))


def color(of: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*of)


def test_a_card_tells_what_the_unit_is(study: Path) -> None:
    card, root = unitcards.cards(study)[0], drawn(study)
    assert unitcards.name(card) == f"{card['module']} channel {card['unit']}"
    assert root.attrib["aria-label"] == f"Card of {unitcards.name(card)}"
    found = words(root)
    assert {f"channel {card['unit']}", card["module"], card["concept"]} <= set(found)
    assert f"class selectivity {card['selectivity']:.2f}" in found
    assert [c for c, _ in card["concepts"]] == [w for w in found if w in CONCEPTS][1:9]
    assert {"6.5", "−0.4", "−1.0"} <= set(found)
    assert card["sentence"] in found


def test_pictures_are_those_of_the_card(study: Path) -> None:
    card, root = unitcards.cards(study)[0], drawn(study)
    images = list(root.iter("image"))
    # Those that drive it most; triples of it, and of five units; the visualization.
    assert len(images) == 8 + 9 + 9 + 1
    assert {image.attrib["style"] for image in images} == {"image-rendering:pixelated"}
    labels = [w for w in words(root) if w in ("baseline", "ablated", "amplified")]
    assert labels == ["baseline", "ablated", "amplified"] * 6
    frames = [r for r in root.iter("rect") if r.attrib.get("stroke") == color(ACCENT)]
    assert len(frames) == 6  # baselines, and nothing else
    own = [w for w in words(root) if w.startswith(f"“a {card['concept']}”")]
    assert len(own) == 2


def test_the_place_is_framed_along_the_pictures_own_pixels(study: Path, tmp_path: Path) -> None:
    def place(told: dict[str, Any]) -> None:
        tops = told["cards"][0]["top"]
        for i, top in enumerate(tops):
            top["place"] = [0.24, 0.51, 0.49, 0.74] if i == 0 else None

    root = drawn(changed(study, tmp_path / "study", place))
    image = next(root.iter("image"))
    x, y, side = (float(image.attrib[name]) for name in ("x", "y", "width"))
    frames = [r for r in root.iter("rect") if r.attrib.get("stroke-width") == "2"]
    (frame,) = frames
    box = [float(frame.attrib[name]) for name in ("x", "y", "width", "height")]
    pixel = side / 16
    expected = [x + 8 * pixel, y + 4 * pixel, 4 * pixel, 4 * pixel]
    assert box == pytest.approx(expected, abs=0.02)


def test_changes_are_dots_within_their_intervals(study: Path) -> None:
    card, root = unitcards.cards(study)[0], drawn(study)
    found = [g for g in root.iter("g") if ", × " in (g.findtext("title") or "")]
    assert len(found) == len(card["effects"]) == 32
    for group in found:
        line, dot = group.find("path"), group.find("circle")
        assert line is not None
        assert dot is not None
        ends = [float(part.split(" ")[0]) for part in line.attrib["d"][1:].split("L")]
        assert ends[0] < float(dot.attrib["cx"]) < ends[1]
        assert 0 < ends[0] < ends[1] < float(root.attrib["width"])
    told = [group.findtext("title") or "" for group in found]
    assert told[0].startswith(f"{card['concept']}, × 0: -31.0 points (")
    assert {"this unit", "5 units together", "removed", "amplified × 4"} <= set(words(root))
    assert any("95 % bootstrap interval" in line for line in words(root))


def test_a_card_of_which_little_is_known(study: Path, tmp_path: Path) -> None:
    def strip(told: dict[str, Any]) -> None:
        for name in ("effects", "examples", "top", "concepts", "against"):
            told["cards"][0][name] = []
        told["cards"][0] |= {"visualization": None, "together": None, "sentence": None}

    found = words(drawn(changed(study, tmp_path / "study", strip)))
    assert {"not measured", "none recorded"} <= set(found)
    assert "Feature visualization" not in found


def test_pictures_that_are_gone_are_told(study: Path, tmp_path: Path) -> None:
    def lose(told: dict[str, Any]) -> None:
        told["cards"][0]["top"][0]["image"] = "pictures/cells/gone.png"

    assert "not there" in words(drawn(changed(study, tmp_path / "study", lose)))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../b.png", "c:\\d.png"])
def test_pictures_outside_of_the_study_are_refused(study: Path, tmp_path: Path, name: str) -> None:
    def point(told: dict[str, Any]) -> None:
        told["cards"][0]["top"][0]["image"] = name

    folder = changed(study, tmp_path / "study", point)
    with pytest.raises(svg.PictureError, match="lies outside of its study"):
        drawn(folder)


def test_no_text_becomes_markup(study: Path, tmp_path: Path) -> None:
    nasty = '<script>alert("1")</script>'

    def write(told: dict[str, Any]) -> None:
        told["cards"][0]["concept"] = told["cards"][0]["top"][0]["prompt"] = nasty

    root = drawn(changed(study, tmp_path / "study", write))
    assert nasty in words(root)
    assert list(root.iter("script")) == []


def test_nothing_leaves_the_card(study: Path) -> None:
    root = drawn(study)
    width, height = float(root.attrib["width"]), float(root.attrib["height"])
    for part in (*root.iter("image"), *root.iter("rect"), *root.iter("text")):
        assert 0 <= float(part.attrib["x"]) + float(part.attrib.get("width", 0)) <= width
        assert 0 <= float(part.attrib["y"]) + float(part.attrib.get("height", 0)) <= height


def test_ten_cards_are_on_a_sheet(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_study(tmp_path, layers=2, units=8, cards=12, visualized=False)
    seen: list[Node] = []

    def png(drawing: str) -> bytes:  # in no time
        seen.append(parsed(drawing))
        data = io.BytesIO()
        Image.new("RGBA", (7, 5)).save(data, "PNG")
        return data.getvalue()

    monkeypatch.setattr(svg, "png", png)
    pages = list(unitcards.sheet(folder))
    assert [(page.mode, page.size) for page in pages] == [("RGB", (7, 5))] * 2
    titles = [[w for w in words(root) if w.startswith("channel ")] for root in seen]
    assert [len(found) for found in titles] == [10, 2]
    assert all(NAME in words(root) for root in seen)
    assert {root.attrib["width"] for root in seen} == {str(2 * unitcards.WIDE + 56 + 88)}
    assert any(w.endswith("page 2 of 2") for w in words(seen[1]))


def test_pictures_of_any_shape_keep_theirs(study: Path, tmp_path: Path) -> None:
    wide = make_study(tmp_path, cards=1, units=4, painter=lambda n: paint(n).resize((32, 16)))
    root = drawn(wide)
    image = next(root.iter("image"))
    assert image.attrib["width"] == image.attrib["height"]  # letterboxed, never stretched
    assert "preserveAspectRatio" not in image.attrib
    with Image.open(next((tmp_path / "pictures" / "cells").iterdir())) as opened:
        assert opened.size == (32, 16)
    y, side = float(image.attrib["y"]), float(image.attrib["height"])
    frames = [r for r in root.iter("rect") if r.attrib.get("stroke-width") == "2"]
    for frame in frames[:3]:
        assert (float(frame.attrib["y"]) - y) % (side + 44) >= side / 4 - 0.1


# ------------------------------------------------------------ from concepts to units


def test_the_table_lists_units_by_concept_and_what_has_none(study: Path) -> None:
    told = json.loads((study / "cards.json").read_text(encoding="utf-8"))
    drawing = unitcards.search(study)
    assert drawing is not None
    root = parsed(drawing)
    found = words(root)
    rows = [row for row in told["search"] if row["units"]]
    assert [w for w in found if w in CONCEPTS] == [row["concept"] for row in rows]
    tips = [g.findtext("title") for g in root.iter("g") if g.find("title") is not None]
    first = rows[0]["units"][0]
    assert tips[0] == f"{first['module']} {first['unit']}: contrast {first['contrast']:.2f}"
    assert "No unit stands for" in found
    (none,) = [w for w in found if set(told["none"]) <= set(w.split(", "))]
    assert {row["concept"] for row in told["search"] if not row["units"]} <= set(none.split(", "))


def test_without_cards_there_is_no_table(tmp_path: Path) -> None:
    folder = make_study(tmp_path, cards=0)
    assert unitcards.search(folder) is None
    assert unitcards.cards(folder) == []
    assert list(unitcards.sheet(folder)) == []
