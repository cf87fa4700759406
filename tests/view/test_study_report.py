"""The page of a study: what is in it, what it must not do, and how it works in a browser."""

from __future__ import annotations

import html
import json
import re
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from markupsafe import escape
from reported import NASTY, digest, policy_of
from studied import CONCEPTS, NAME, make_study

from ablate.messages import printable
from ablate.store.files import StoreError
from ablate.store.study import study_pictures
from ablate.view import svg
from ablate.view.report import study as report

NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = next(filter(None, map(shutil.which, NAMES)), None)


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = make_study(tmp_path_factory.mktemp("studies") / "units", units=8, cards=2, atlas=20)
    report.save_study_report(folder)
    return folder


def page(folder: Path) -> str:
    return (folder / "report.html").read_text(encoding="utf-8")


def titles(text: str) -> list[str]:
    return [html.unescape(title) for title in re.findall(r"<h2>(.*?)</h2>", text)]


def change(folder: Path, name: str, told: Mapping[str, Any]) -> None:
    path = folder / name
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | dict(told)), "utf-8")


def test_all_that_the_study_came_to_is_in_the_page(study: Path) -> None:
    text = page(study)
    assert titles(text) == [
        "Selectivity", "Concepts", "Units", "Visualizations", "Atlas", "Atlas of patches",
        "Atlas compared", "Settings",
    ]  # fmt: skip
    cards = json.loads((study / "cards.json").read_text("utf-8"))
    assert text.count("<article id=") == len(cards["cards"]) == 2
    assert html.escape("A note <of> the cards.") in text
    table = re.search(r'<table class="sorted">.*?</table>', text, re.S)
    assert table
    rows = [row for row in cards["search"] if row["units"]]
    assert re.findall(r"<tr><td><b>(.*?)</b>", table[0]) == [row["concept"] for row in rows]
    figures = [float(value) for value in re.findall(r'data-value="(.*?)"', table[0])]
    assert figures == [row["units"][0]["contrast"] for row in rows]
    assert "No unit stands for" in text
    assert "channel(conv_in, 1)" in text
    assert "0.5 → 4" in text
    assert f"<h1>{html.escape(NAME)}</h1>" in text


def test_links_lead_somewhere(study: Path) -> None:
    text = page(study)
    shadows = re.sub(r"<template.*?</template>", "", text, flags=re.S)
    links = re.findall(r'href="#(.*?)"', shadows)
    ids = re.findall(r' id="(.*?)"', shadows)
    assert set(links) <= set(ids)
    assert len(ids) == len(set(ids))
    assert [link for link in links if link.startswith("unit-")]


def test_a_study_that_has_just_begun(tmp_path: Path) -> None:
    folder = make_study(tmp_path, cards=0, layers=1, units=1, name="begun")
    (folder / "units.csv").unlink()
    change(folder, "study.json", {"setup": {"seeds": list(range(1500))}})
    text = report.save_study_report(folder).read_text("utf-8")
    assert titles(text) == ["Settings"]
    assert "<title>begun · ablate</title>" in text
    assert "58, 59, … 1,500 in all</td>" in text
    assert "1,500 seeds" in text


def test_only_what_reads_words_has_a_table_of_them(tmp_path: Path) -> None:
    folder = make_study(tmp_path, layers=1, units=4, cards=1, visualized=False)
    unit = {"module": "a.b", "unit": 7, "by": "letters", "concept": "cat", "picture": 3.25,
            "word": 2.5}  # fmt: skip
    change(folder, "cards.json", {"component": "clip", "multimodal": [unit]})
    text = report.save_study_report(folder).read_text("utf-8")
    assert "Words and pictures" in titles(text)
    assert 'data-value="3.25">3.25<' in text
    assert "in letters" in text


def test_a_folder_that_is_no_study(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a study"):
        report.save_study_report(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_two_modules_of_one_slug_have_a_card_each(tmp_path: Path) -> None:
    folder = make_study(tmp_path, layers=1, units=4, cards=2, visualized=False)
    cards = json.loads((folder / "cards.json").read_text("utf-8"))["cards"]
    cards[0] |= {"module": "a/b", "unit": 1, "concept": "first"}
    cards[1] |= {"module": "a-b", "unit": 1, "concept": "\ud800second"}
    change(folder, "cards.json", {"cards": [*cards, cards[0]], "search": []})
    text = report.save_study_report(folder).read_text("utf-8")
    ids = re.findall(r'<article id="(.*?)"', text)
    assert len(ids) == len(set(ids)) == 2
    assert text.count(">first</text>") == text.count(">?second</text>") == 1


@pytest.mark.parametrize("name", ["cards.json", "atlas.json", "study.json"])
def test_files_that_are_broken_are_named(tmp_path: Path, name: str) -> None:
    folder = make_study(tmp_path, layers=1, units=4, cards=1, visualized=False, atlas=2)
    (folder / name).write_text("[" * 100_000, "utf-8")
    with pytest.raises(StoreError, match=f"{name} cannot be read as JSON"):
        report.save_study_report(folder)
    (folder / name).write_text("[1]", "utf-8")
    with pytest.raises(StoreError, match=f"{name} should contain an object"):
        list(report.present_study(folder))


def test_what_cannot_be_drawn_is_told_and_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_study(tmp_path, layers=1, units=4, cards=1)
    (folder / "cards.json").write_text("[1", "utf-8")
    (folder / "neuron-1.png").write_bytes(b"nothing")
    monkeypatch.setattr(svg, "WIDE", 1)
    told: list[str] = []
    made = {path.name for path in report.present_study(folder, told.append)}
    assert made == {"selectivity.svg", "selectivity.png", "report.html"}
    assert titles(page(folder)) == ["Selectivity", "Settings"]
    assert "cards.json cannot be read as JSON" in told[0]
    assert told[0].endswith("; it is left out, and `ablate units cards` makes it anew")
    assert "neuron-1.png cannot be read as a picture" in told[1]
    assert told[1].endswith("`ablate units visualize` makes it anew")
    assert len(told) == 2


def test_the_same_study_gives_the_same_page(study: Path) -> None:
    before = page(study)
    report.save_study_report(study)
    assert page(study) == before


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    folder = make_study(
        tmp_path, layers=1, units=4, cards=1, name=NASTY, concepts=[NASTY, *CONCEPTS]
    )
    change(folder, "study.json", {"about": NASTY, "device": NASTY})
    change(folder, "cards.json", {"none": [NASTY], "notes": [NASTY]})
    (folder / "neuron-1.png").rename(folder / "n.png")
    (folder / "visualizations.csv").write_text(
        'name,objective,start,end,ratio\nn,"<script>alert(3)</script>",<b>,1,2\n', "utf-8"
    )
    text = report.save_study_report(folder).read_text("utf-8")
    assert text.count("<script") == text.count("</script>") == 1
    assert "<img src=x" not in text
    assert html.escape("<script>alert(3)</script>") in text
    assert str(escape(printable(NASTY))) in text


def test_the_policy_names_what_may_run_and_nothing_else_may(study: Path) -> None:
    text = page(study)
    policy = policy_of(text)
    assert policy["default-src"] == "'none'"
    (script,) = re.findall(r'<script type="module">(.*?)</script>', text, re.S)
    assert policy["script-src"] == digest(script)
    styles = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert set(policy["style-src"].split()) == {digest(style) for style in styles}


def test_nothing_points_outside(study: Path) -> None:
    text = page(study)
    assert re.findall(r"https?://|//\w+\.\w+/|@import|url\((?!data:font)|\.\./", text) == []
    assert str(study) not in text
    links = re.findall(r"\b(?:src|href)=\"([^\"]*)\"", text)
    assert [link for link in links if not link.startswith(("#", "data:"))] == []


def test_all_pictures_are_written_beside_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_study(tmp_path, layers=1, units=4, cards=1, visualized=False)
    monkeypatch.setattr(svg, "WIDE", 1)
    made = [path.relative_to(folder).as_posix() for path in report.present_study(folder)]
    card = next(name for name in made if name.startswith("cards/"))
    names = ["selectivity", "concepts", card.removesuffix(".svg")]
    drawn = [f"{name}.{kind}" for name in names for kind in ("svg", "png")]
    assert made == [*drawn, "cards.png", "report.html"]
    assert all((folder / name).stat().st_size for name in made)
    assert {folder / name.partition("/")[0] for name in made} <= set(study_pictures(folder))


def test_a_comparison_that_is_no_more_goes_and_what_is_others_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = make_study(tmp_path, layers=1, units=4, atlas=2)
    monkeypatch.setattr(svg, "WIDE", 1)
    (folder / "cards.json").unlink()
    mine = folder / "concepts.png"  # of a study without cards
    mine.write_bytes(b"mine")
    list(report.present_study(folder))
    assert (folder / "atlas-compared.png").exists()
    change(folder, "atlas.json", {"variant": None})
    list(report.present_study(folder))
    assert not (folder / "atlas-compared.png").exists()
    assert (folder / "atlas.png").exists()
    assert mine.read_bytes() == b"mine"


# ------------------------------------------------------------ in a browser


def test_letters_that_drawings_lack_are_told() -> None:
    assert report.letters_note(["cat", "猫", "Katze"]).startswith(
        "Letters of 猫 are boxes in pictures"
    )
    assert report.letters_note(["cat", "ein  Kätzchen"]) == ""


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
def test_tables_sort_and_drawings_grow(study: Path) -> None:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    said: list[str] = []
    asked: list[str] = []
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        shown = browser.new_context(
            offline=True, viewport={"width": 1000, "height": 800}
        ).new_page()
        shown.set_default_timeout(5_000)
        shown.on("console", lambda message: said.append(message.text))
        shown.on("pageerror", lambda error: said.append(str(error)))
        shown.on("request", lambda request: asked.append(request.url))
        shown.goto((study / "report.html").resolve().as_uri())

        first = shown.locator("td.number").all_inner_texts()
        shown.click("th button:has-text('contrast')")
        falling = shown.locator("td.number").all_inner_texts()
        assert falling == sorted(first, key=float, reverse=True) != first
        shown.click("th button:has-text('contrast')")
        assert shown.locator("td.number").all_inner_texts() == falling[::-1]
        assert shown.locator("th[aria-sort='ascending']").inner_text() == "contrast"
        shown.click("th button:has-text('concept')")
        names = shown.locator("tbody td:first-child b").all_inner_texts()
        assert names[: len(first)] == sorted(names[: len(first)])

        atlas = shown.locator("#atlas .picture")
        drawing = atlas.locator("svg")
        before = drawing.bounding_box()["width"]
        atlas.click(position={"x": 300, "y": 300})
        assert drawing.bounding_box()["width"] > 1.4 * before
        assert shown.locator("#atlas .toggle").get_attribute("aria-pressed") == "true"
        atlas.click(position={"x": 300, "y": 300})
        assert drawing.bounding_box()["width"] == before

        shown.locator("#settings").scroll_into_view_if_needed()
        shown.keyboard.press("End")
        shown.wait_for_selector(".tabs a[aria-current][href='#settings']")
        # Pictures of bins are found within their own drawing.
        box = shown.locator("#atlas use").first.bounding_box()
        assert box["width"] > 5
        assert shown.evaluate("document.documentElement.scrollWidth") <= 1000
        browser.close()
    assert said == []
    assert [url for url in asked if not url.startswith(("data:", "file:"))] == []
    assert [url for url in asked if url.startswith("file:")] == asked[:1]
