"""Unit cards, read as XML and as pictures."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from studied import CONCEPTS, NAME, Node, make_study, paint, parsed, words

from ablate.store.files import StoreError
from ablate.style import ACCENT, elide_path
from ablate.view.studies import cards as unitcards

Change = Callable[[dict[str, Any]], None]


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_study(tmp_path_factory.mktemp("study"), units=8)


def changed(study: Path, folder: Path, change: Change) -> Path:
    """The same study with other cards."""
    table = json.loads((study / "cards.json").read_text(encoding="utf-8"))
    change(table)
    folder.mkdir(exist_ok=True)
    (folder / "pictures").symlink_to(study / "pictures")
    (folder / "study.json").write_text((study / "study.json").read_text(encoding="utf-8"))
    (folder / "cards.json").write_text(json.dumps(table), encoding="utf-8")
    return folder


def drawn(folder: Path, number: int = 0) -> Node:
    return parsed(unitcards.svg(unitcards.cards(folder)[number], folder))


def color(of: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*of)


def test_a_card_names_the_unit(study: Path) -> None:
    card, root = unitcards.cards(study)[0], drawn(study)
    assert unitcards.name(card) == f"{card['module']} channel {card['unit']}"
    assert root.attrib["aria-label"] == f"Card of {unitcards.name(card)}"
    written = words(root)
    assert {f"channel {card['unit']}", card["module"], card["concept"]} <= set(written)
    assert f"class selectivity {card['selectivity']:.2f}" in written
    assert [c for c, _ in card["concepts"]] == [w for w in written if w in CONCEPTS][1:9]
    assert {"6.5", "−0.4", "−1.0"} <= set(written)
    # Sentences are written in full, on separate lines.
    whole = " ".join(written)
    assert card["sentence"] in whole
    assert card["together"]["sentences"][1] in whole
    assert card["together"]["sentences"][0] not in whole


def test_pictures_are_those_of_the_card(study: Path) -> None:
    card, root = unitcards.cards(study)[0], drawn(study)
    images = list(root.iter("image"))
    # Those that drive it most; three of each example of it, four of five units; what drives it.
    assert len(images) == 8 + 9 + 12 + 1
    assert {image.attrib["style"] for image in images} == {"image-rendering:pixelated"}
    labels = [w for w in words(root) if w in ("baseline", "ablated", "amplified", "× −4")]
    triple = ["baseline", "ablated", "amplified"]
    assert labels == [*triple * 3, *[*triple, "× −4"] * 3]
    frames = [r for r in root.iter("rect") if r.attrib.get("stroke") == color(ACCENT)]
    assert len(frames) == 6  # baselines, and nothing else
    prompts = [w for w in words(root) if w.startswith(f"“a {card['concept']}”")]
    assert len(prompts) == 2


def test_the_place_is_framed_along_the_pictures_own_pixels(study: Path, tmp_path: Path) -> None:
    def place(table: dict[str, Any]) -> None:
        tops = table["cards"][0]["top"]
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


def marked(root: Node, edit: str) -> list[Node]:
    """What is drawn of an edit's effects, a group a concept."""
    return [g for g in root.iter("g") if f", {edit}: " in (g.findtext("title") or "")]


def middles(group: Node) -> list[float]:
    """Where the marks of a group are, from left to right."""
    dots = [float(dot.attrib["cx"]) for dot in group.iter("circle")]
    sides = [(float(r.attrib["x"]), float(r.attrib["width"])) for r in group.iter("rect")]
    return sorted(dots + [x + wide / 2 for x, wide in sides])


def test_effects_are_dots_within_their_intervals(study: Path) -> None:
    card, root = unitcards.cards(study)[0], drawn(study)
    rows = {(e["units"], e["factor"], e["concept"]): e for e in card["effects"]}
    rows |= {(e["units"], e["factor"], e["concept"]): e for e in card["together"]["reversed"]}
    scale: list[tuple[float, float]] = []
    drifts: list[tuple[float, float]] = []
    for edit, key in (("unit removed", (1, 0)), ("5 units removed", (5, 0)),
                      ("5 units × −4", (5, -4))):  # fmt: skip
        groups = marked(root, edit)
        assert len(groups) == 8
        assert edit in words(root)
        for group in groups:
            row = rows[(*key, (group.findtext("title") or "").split(",")[0])]
            at, drift = middles(group)
            scale.append((row["after"], at))
            drifts.append((row["drift"], drift))
            paths = [p.attrib["d"][1:].split("L") for p in group.iter("path")]
            ends = next(p for p in paths if p[0].split(" ")[1] == p[1].split(" ")[1])
            low, high = (float(end.split(" ")[0]) for end in ends)
            assert low < at < high < drift < float(root.attrib["width"])
    # Both axes keep the order of what they show.
    for axis in (scale, drifts):
        assert [at for _, at in sorted(axis)] == pytest.approx(sorted(at for _, at in axis))
    ticks = [p for p in root.iter("path") if p.attrib["stroke"] == color(ACCENT)]
    assert len(ticks) == 8  # one a concept: before
    assert any("95 % t interval" in line for line in words(root))


def test_figures_compare_the_units_concept_with_others(study: Path, tmp_path: Path) -> None:
    def even(table: dict[str, Any]) -> None:
        for row in table["cards"][0]["together"]["reversed"]:
            own = row["own"]
            row |= {"before": 0.999, "after": 0.427 if own else 0.998,
                    "drift": 0.46 if own else 0.002}  # fmt: skip

    written = words(drawn(changed(study, tmp_path / "study", even)))
    assert {"99.9 → 42.7 %", "0.46 · 230 × others"} <= set(written)


def test_an_amplification_is_drawn_only_where_it_is_notable(study: Path, tmp_path: Path) -> None:
    def raise_one(table: dict[str, Any]) -> None:
        rows = [e for e in table["cards"][0]["effects"] if e["factor"] == 4]
        rows[3]["after"] = rows[3]["before"] - 0.06
        rows[11]["after"] = rows[11]["before"] - 0.08

    assert not marked(drawn(study), "unit × 4") + marked(drawn(study), "5 units × 4")
    root = drawn(changed(study, tmp_path / "study", raise_one))
    assert len(marked(root, "5 units × 4")) == 8
    assert not marked(root, "unit × 4")


def test_drift_that_is_unknown_is_left_out_and_nought_is_at_the_edge(
    study: Path, tmp_path: Path
) -> None:
    def lose(table: dict[str, Any]) -> None:
        for i, row in enumerate(table["cards"][0]["effects"]):
            row["drift"] = None if i % 2 else 0.0

    groups = marked(drawn(changed(study, tmp_path / "study", lose)), "unit removed")
    assert [len(middles(group)) for group in groups] == [2, 1] * 4
    assert len({middles(group)[1] for group in groups[::2]}) == 1


def test_sentences_are_written_where_there_are_no_new_pictures(study: Path, tmp_path: Path) -> None:
    def unmake(table: dict[str, Any]) -> None:
        table["cards"][0]["examples"] = table["cards"][0]["together"]["examples"] = []

    root = drawn(changed(study, tmp_path / "study", unmake))
    whole, card = " ".join(words(root)), unitcards.cards(study)[0]
    assert card["sentence"] in whole
    assert card["together"]["sentences"][1] in whole
    assert "ablated" not in words(root)


def test_a_card_of_which_little_is_known(study: Path, tmp_path: Path) -> None:
    def strip(table: dict[str, Any]) -> None:
        for name in ("effects", "examples", "top", "concepts", "against"):
            table["cards"][0][name] = []
        table["cards"][0] |= {"visualization": None, "together": None, "sentence": None}

    written = words(drawn(changed(study, tmp_path / "study", strip)))
    assert {"not measured", "none recorded"} <= set(written)
    assert "Feature visualization" not in written


def test_missing_pictures_are_marked(study: Path, tmp_path: Path) -> None:
    def lose(table: dict[str, Any]) -> None:
        table["cards"][0]["top"][0]["image"] = "pictures/cells/gone.png"

    assert "not there" in words(drawn(changed(study, tmp_path / "study", lose)))


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "a/../../b.png", "c:\\d.png"])
def test_pictures_outside_of_the_study_are_refused(study: Path, tmp_path: Path, name: str) -> None:
    def point(table: dict[str, Any]) -> None:
        table["cards"][0]["top"][0]["image"] = name

    folder = changed(study, tmp_path / "study", point)
    with pytest.raises(StoreError, match="is outside of its study"):
        drawn(folder)


def test_no_text_becomes_markup(study: Path, tmp_path: Path) -> None:
    nasty = '<script>alert("1")</script>'

    def write(table: dict[str, Any]) -> None:
        table["cards"][0]["concept"] = table["cards"][0]["top"][0]["prompt"] = nasty

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

    monkeypatch.setattr(unitcards, "png", png)
    pages = list(unitcards.sheet(folder))
    assert [(page.mode, page.size) for page in pages] == [("RGB", (7, 5))] * 2
    titles = [[w for w in words(root) if w.startswith("channel ")] for root in seen]
    assert [len(written) for written in titles] == [10, 2]
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
    table = json.loads((study / "cards.json").read_text(encoding="utf-8"))
    drawing = unitcards.search(study)
    assert drawing is not None
    root = parsed(drawing)
    written = words(root)
    rows = [row for row in table["search"] if row["units"]]
    assert [w for w in written if w in CONCEPTS] == [row["concept"] for row in rows]
    tips = [g.findtext("title") for g in root.iter("g") if g.find("title") is not None]
    first = rows[0]["units"][0]
    assert tips[0] == f"{first['module']} {first['unit']}: contrast {first['contrast']:.2f}"
    assert "No unit stands for" in written
    (none,) = [w for w in written if set(table["none"]) <= set(w.split(", "))]
    assert {row["concept"] for row in table["search"] if not row["units"]} <= set(none.split(", "))


def test_paths_in_the_table_are_distinct() -> None:
    paths = [f"1.attentions.{n}.transformer_blocks.0.ff.net.0" for n in range(2)]
    shown = [elide_path(path, 14, 180, paths) for path in paths]
    assert shown == ["1.attentions.0…ff.net.0", "1.attentions.1…ff.net.0"]


def test_contrasts_of_few_samples_are_called_rough(study: Path, tmp_path: Path) -> None:
    folder = changed(study, tmp_path, lambda table: table.update(rough="They are rough."))
    assert "They are rough." in words(parsed(unitcards.search(folder) or ""))


def test_without_cards_there_is_no_table(tmp_path: Path) -> None:
    folder = make_study(tmp_path, cards=0)
    assert unitcards.search(folder) is None
    assert unitcards.cards(folder) == []
    assert list(unitcards.sheet(folder)) == []


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda table: table.update(cards=[1]), r"`cards\[0\]` must be an object, not 1"),
        (lambda table: table["cards"][0].pop("unit"), r"`cards\[0\].unit` is missing"),
        (lambda table: table["cards"][0].update(concepts=[["a", float("nan")]]),
         r"`cards\[0\].concepts\[0\]\[1\]` must be a finite number, not NaN"),
        (lambda table: table["cards"][0]["top"][0].update(place=[0.1]),
         r"`cards\[0\].top\[0\].place` must be a list of 4 values"),
        (lambda table: table["cards"][1]["effects"][0].update(low=None),
         r"`cards\[1\].effects\[0\].low` is missing"),
        (lambda table: table.update(search=[{"concept": "x", "units": [{"module": "<b>"}]}]),
         r"`search\[0\].units\[0\].unit` is missing"),
        (lambda table: table.update(multimodal=[{}]), r"`multimodal\[0\].module` is missing"),
    ],
)  # fmt: skip
def test_cards_that_are_none_say_why(
    study: Path, tmp_path: Path, change: Change, message: str
) -> None:
    folder = changed(study, tmp_path, change)
    for read in (unitcards.cards, unitcards.search):
        with pytest.raises(StoreError, match=f"cards.json: {message}"):
            read(folder)


def test_each_unit_has_another_name() -> None:
    units = [("a/b", 1), ("a-b", 1), ("a b", 1), ("m" * 300, 1), ("m" * 301, 1), ("a.b", 1)]
    slugs = [unitcards.slug({"module": module, "unit": unit}) for module, unit in units]
    assert len(set(slugs)) == len(units)
    assert (slugs[1], slugs[-1]) == ("a-b-1", "a.b-1")
    assert max(map(len, slugs)) < 100


def test_pictures_that_are_broken_are_named(study: Path, tmp_path: Path) -> None:
    (tmp_path / "half.png").write_bytes(next(study.glob("pictures/cells/*.png")).read_bytes()[:60])
    folder = changed(
        study, tmp_path, lambda table: table["cards"][0]["top"][0].update(image="half.png")
    )
    with pytest.raises(StoreError, match=r"half\.png cannot be read as a picture"):
        unitcards.svg(unitcards.cards(folder)[0], folder)
