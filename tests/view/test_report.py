"""The HTML report as a file; what it does in a browser stands in test_browser.py."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest
from markupsafe import escape
from reported import (
    DRAWING,
    MODULES,
    NASTY,
    PATHS,
    data_of,
    digest,
    drift_of,
    make_run,
    policy_of,
)

from ablate.messages import printable
from ablate.store.files import StoreError
from ablate.store.run import Run
from ablate.view.report import run as report

# ------------------------------------------------------------ what it holds


def test_all_that_was_measured_is_in_the_page(tmp_path: Path) -> None:
    axes = {"module": PATHS, "amount": [0.0, 0.5, 1.0], "seed": [3, 4]}
    run = make_run(tmp_path / "run", axes)
    path = report.save_report(run)
    assert path == tmp_path / "run" / "report.html"
    data = data_of(path)
    cells = list(run.cells())
    assert [cell["key"] for cell in data["cells"]] == [cell.key for cell in cells]
    for shown, cell in zip(data["cells"], cells, strict=True):
        assert data["variants"][shown["variant"]]["name"] == cell.variant
        assert data["prompts"][shown["prompt"]] == cell.prompt
        assert data["cells"][shown["baseline"]]["key"] == cell.baseline
        at = dict(zip((a["name"] for a in data["axes"]), shown["at"], strict=True))
        values = {a["name"]: a["values"][at[a["name"]]] for a in data["axes"]
                  if at[a["name"]] is not None}  # fmt: skip
        assert values == dict(cell.axes)
        drift = 0 if cell.is_baseline else drift_of(cell.axes)
        figures = dict(zip(data["metrics"], shown["drift"], strict=True))
        assert figures["rmse"] == pytest.approx(drift)
        assert figures["score"] == pytest.approx(0.3 - drift)
        floors = dict(zip(data["metrics"], shown["floors"], strict=True))
        assert floors["embedding"] == pytest.approx(drift / 0.2)
        assert floors["score"] is None  # it is no distance
        assert [data["words"][word] for word, _ in shown["concepts"]][1:] == ["hat", "fur"]
        assert shown["concepts"][0][1] == 0.8
    assert data["modules"] == MODULES
    edited = next(v for v in data["variants"] if v["name"] == f"module={PATHS[2]}, amount=0.5")
    edit = {"op": "zero", "modules": "2", "with": {"amount": "0.5"}}
    assert (edited["touched"], edited["edits"]) == ("2", [edit])
    assert data["recipe"] == "version: 1\n"
    assert ["model.fingerprint", "sha256:0123456789abcdef"] in data["settings"]
    assert data["notes"] == ["Four seeds give narrow intervals."]
    assert len(data["effects"]) == 2 * 15
    first = data["effects"][0]
    assert (first["metric"], first["seeds"], first["verdict"]) == ("rmse", 2, "changes")
    assert first["low"] == pytest.approx(0.8 * first["drift"], rel=1e-4)


def test_variants_of_one_effect_name_each_other(tmp_path: Path) -> None:
    variants = [f"module={path}" for path in PATHS]
    run = make_run(tmp_path / "run", {"module": PATHS}, same={variants[2]: variants[1]})
    same = {v["name"]: v["same"] for v in data_of(report.save_report(run))["variants"]}
    assert same == dict.fromkeys(["baseline", *variants]) | {variants[2]: 2}


def test_the_same_run_gives_the_same_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": PATHS})
    before = report.save_report(run).read_bytes()
    assert report.save_report(run).read_bytes() == before


def test_a_page_of_two_thousand_cells_is_small(tmp_path: Path) -> None:
    paths = [f"up_blocks.{i % 4}.attentions.{i}.attn1.to_q" for i in range(400)]
    modules = [[path, "Linear", "up", "up_blocks", "self_attention", 9] for path in paths]
    axes = {"module": paths, "amount": [1, 2, 3, 4, 5]}
    run = make_run(tmp_path, axes, skip=lambda values: True, catalog=modules)
    assert len(data_of(report.save_report(run))["cells"]) == 2001
    assert (tmp_path / "report.html").stat().st_size < 1_000_000


# ------------------------------------------------------------ runs of all kinds


def test_runs_of_older_versions(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": PATHS[1:3]}, new=False)
    data = data_of(report.save_report(run))
    assert [cell["state"] for cell in data["cells"] if "state" in cell] == []
    assert "class" not in data["cells"][1]
    assert "concepts" not in data["cells"][1]
    assert data["metrics"][:1] == ["rmse"]
    assert data["cells"][1]["drift"][0] > 0  # measured from the images
    assert [module[0] for module in data["modules"]] == PATHS[1:3]
    assert [variant["touched"] for variant in data["variants"]] == ["", "0", "1"]
    assert (data["effects"], data["notes"], data["floor"]) == ([], [], [])


def test_unfinished_cells_are_vacant_and_nan_is_told(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        {"module": PATHS},
        skip=lambda values: values.get("module") == PATHS[1],
        nan=lambda values: values.get("module") == PATHS[3],
    )
    cells = data_of(report.save_report(run))["cells"]
    assert [cell.get("state", "ok") for cell in cells] == ["ok", "ok", "vacant", "ok", "nan", "ok"]
    assert "drift" not in cells[2]
    assert "drift" not in cells[4]


def test_a_run_without_any_finished_cell(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": PATHS}, skip=lambda values: True)
    data = data_of(report.save_report(run))
    assert {cell["state"] for cell in data["cells"]} == {"vacant"}
    assert data["variants"][2]["touched"] == "1"  # known before anything is made


def test_a_folder_that_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="is not a run"):
        report.save_report(Run(tmp_path))
    assert list(tmp_path.iterdir()) == []


def test_images_for_the_noise_floor_are_no_cells(tmp_path: Path) -> None:
    key = "f" * 32
    spare = {"key": key, "variant": "baseline", "seed": 99, "prompt": "a cat", "axes": {},
             "baseline": key, "group": 0}  # fmt: skip
    run = make_run(tmp_path, {"module": PATHS}, floor=[spare])
    data = data_of(report.save_report(run))
    assert data["floor"] == [{"key": "f" * 32, "prompt": 0, "seed": 99}]
    assert "f" * 32 not in [cell["key"] for cell in data["cells"]]


# ------------------------------------------------------------ what it must not do


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    recipe = f"about: {NASTY}\n"
    axes = {"prompt": [NASTY], "module": PATHS, NASTY: [NASTY, "b"]}
    run = make_run(tmp_path, axes, name=NASTY, about=NASTY, recipe=recipe, device=NASTY)
    path = report.save_report(run)
    text = path.read_text(encoding="utf-8")
    assert "onerror=alert" not in re.sub(r"<title>.*?</title>|<script type.*?</script>", "", text)
    (title,) = re.findall("<title>(.*?)</title>", text, re.S)
    assert str(escape(printable(NASTY))) in title
    (data,) = re.findall(r'id="data">(.*?)</script>', text, re.S)
    assert not set("<>&\u2028\u2029\n") & set(data)
    assert text.count("<script") == text.count("</script>") == 2
    known = data_of(path)
    shown = printable(NASTY)
    assert known["prompts"] == [shown]
    assert (known["name"], known["about"], known["recipe"]) == (shown, shown, f"about: {shown}\n")
    assert known["axes"][-1]["labels"][0] == shown


def test_the_policy_names_what_may_run_and_nothing_else_may(tmp_path: Path) -> None:
    styled = DRAWING.format("<style>.a{fill:red}</style><rect class='a' width='9' height='9'/>")
    text = report.save_report(make_run(tmp_path, {"module": PATHS}), {"A": styled}).read_text(
        "utf-8"
    )
    policy = policy_of(text)
    assert policy["default-src"] == "'none'"
    assert policy["img-src"] == "'self' data: file:"
    (script,) = re.findall(r'<script type="module">(.*?)</script>', text, re.S)
    assert policy["script-src"] == digest(script)
    styles = re.findall(r"<style>(.*?)</style>", text, re.S)
    assert set(policy["style-src"].split()) == {digest(style) for style in styles}
    assert ".a{fill:red}" in styles
    assert "style-src-attr" not in policy
    assert text.index("Content-Security-Policy") < text.index("<style>")


def test_attributes_of_style_are_allowed_only_where_a_picture_has_them(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": PATHS})
    drawing = DRAWING.format('<rect style="fill:red" width="9" height="9"/>')
    text = report.save_report(run, {"A": drawing}).read_text("utf-8")
    assert policy_of(text)["style-src-attr"] == "'unsafe-inline'"


def test_nothing_points_outside(tmp_path: Path) -> None:
    drawing = DRAWING.format('<g data-module="1"><rect width="9" height="9"/></g>')
    run = make_run(tmp_path, {"module": PATHS})
    text = report.save_report(run, {"Architecture": drawing}).read_text("utf-8")
    assert re.findall(r"https?://|//\w+\.\w+/|@import|url\((?!data:font)|\.\./", text) == []
    assert str(tmp_path) not in text
    assert re.findall(r"\b(?:src|href)=\"([^\"]*)\"", text) == ["data:,"]


# ------------------------------------------------------------ pictures


def test_pictures_are_drawn_into_the_page(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": PATHS})
    pixel = "data:image/png;base64,iVBORw0KGgo="
    drawing = '<?xml version="1.0"?>' + DRAWING.format(
        '<defs><clipPath id="c"><rect width="9" height="9"/></clipPath></defs>'
        f'<g data-module="1" data-cell="ab" clip-path="url(#c)"><text>1 &lt; 2</text></g>'
        f'<image href="{pixel}" width="9" height="9"/><use xlink:href="#c"/>'
    )
    pictures = {"Architecture": drawing, "Map <of> space": DRAWING.format("")}
    text = report.save_report(run, pictures).read_text("utf-8")
    found = re.findall(r'<div class="picture" data-title="(.*?)">(.*?)</template></div>', text)
    assert [html.unescape(title) for title, _ in found] == list(pictures)
    assert '<g data-module="1" data-cell="ab" clip-path="url(#c)"><text>1 &lt; 2</text>' in text
    assert f'href="{pixel}"' in text
    assert '<use href="#c">' in text
    assert "ns0:" not in text


@pytest.mark.parametrize(
    ("inside", "told"),
    [
        ("<g>", "not well-formed XML"),
        ("<script>alert(1)</script>", "contains `script`"),
        ("<foreignObject/>", "contains `foreignObject`"),
        ('<h:img xmlns:h="http://www.w3.org/1999/xhtml"/>', "contains `img`"),
        ('<set attributeName="href" to="x"/>', "contains `set`"),
        ('<rect onclick="alert(1)"/>', "has `onclick`"),
        ('<rect OnLoad="alert(1)"/>', "has `OnLoad`"),
        ('<image href="https://example.org/a.png"/>', "links to `https://example.org/a.png`"),
        ('<a xlink:href="javascript:alert(1)"/>', "links to `javascript:alert"),
        ('<a href="data:text/html,x"/>', "links to `data:text/html"),
        ('<a href="../../secret"/>', "links to `../../secret`"),
        ('<rect fill="url(https://example.org/#a)"/>', "loads a file in `fill`"),
        ("<style>@import 'https://example.org/a.css';</style>", "loads a file"),
        ("<style>g{background:url(x.png)}</style>", "loads a file"),
    ],
)
def test_what_is_more_than_a_drawing_is_refused(tmp_path: Path, inside: str, told: str) -> None:
    run = make_run(tmp_path, {"module": PATHS})
    with pytest.raises(ValueError, match="the picture `Map`") as refused:
        report.save_report(run, {"Map": DRAWING.format(inside)})
    assert told in str(refused.value)
    assert not (tmp_path / "report.html").exists()


def test_a_document_that_is_no_svg_is_refused(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": PATHS})
    with pytest.raises(ValueError, match="is no SVG document: its root is `html`"):
        report.save_report(run, {"Map": "<html/>"})
