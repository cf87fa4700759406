"""Contact sheets of fake runs whose cells are flat colors, so that each is found by its pixels."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from reported import data_of

from ablate.store.png import key_of
from ablate.store.run import Run
from ablate.style import ACCENT, DARK, HATCH, PAGE, VACANT
from ablate.view import page as paper, sheets
from ablate.view.errors import PictureError
from ablate.view.report.run import save_report

Color = tuple[int, int, int]
SAMPLING = {
    "num_inference_steps": 20,
    "guidance_scale": 5.0,
    "scheduler": "ddim",
    "negative_prompt": "",
}
CONDITIONS = {"prompt", "seed", "width", "height", *SAMPLING}


def color_of(key: str) -> Color:
    """A color that stands for a cell; no ink of the sheet has such a blue."""
    return int(key[0:2], 16), int(key[2:4], 16), 128 + int(key[4:6], 16) // 4


def nothing(values: Mapping[str, Any]) -> bool:
    return False


def make_run(
    folder: Path,
    axes: Mapping[str, Sequence[Any]],
    *,
    own: Callable[[Mapping[str, Any]], bool] = nothing,  # the sweep's cells that are baselines
    nan: Callable[[Mapping[str, Any]], bool] = nothing,
    skip: Callable[[Mapping[str, Any]], bool] = nothing,
    size: tuple[int, int] = (8, 8),
    added: bool = True,
    **manifest: Any,
) -> Run:
    """A run with a cell for each combination of the axes; `prompt` and `seed` are completed."""
    run = Run(folder)
    axes = dict(axes)
    axes.setdefault("prompt", ["a cat"])
    axes.setdefault("seed", [0])
    cells: dict[tuple[str, str], dict[str, Any]] = {}

    def add(key: str, values: Mapping[str, Any], base: str) -> None:
        cells[key, repr(values)] = {
            "key": key,
            "variant": "baseline" if key == base else "edited",
            "prompt": values["prompt"],
            "seed": values["seed"],
            "axes": dict(values),
            "baseline": base,
        }
        if not skip(values):
            record = {
                "condition": {"prompt": "", "seed": 0, "sampling": SAMPLING},
                "size": list(size),
                "model": {"id": "bundled"},
                "variant": "",
                "state": "nan" if nan(values) else "ok",
            }
            run.write_cells([(key, Image.new("RGB", size, color_of(key)), record, None)])

    for combination in itertools.product(*axes.values()):
        values = dict(zip(axes, combination, strict=True))
        condition = {k: v for k, v in values.items() if k in CONDITIONS}
        base = key_of(condition)
        if added:
            add(base, condition, base)
        add(base if own(values) else key_of(values), values, base)
    described = [
        {"name": name, "values": values, "labels": [str(v) for v in values]}
        for name, values in axes.items()
    ]
    run.write_manifest(
        {
            "name": "a-run",
            "about": "What it shows.",
            "model": {"id": "bundled", "fingerprint": "0123456789abcdef"},
            "device": "cpu",
            "dtype": "float32",
            "sampling": SAMPLING,
            "axes": described,
            "sheet": None,
            "cells": list(cells.values()),
            **manifest,
        }
    )
    return run


def spots(page: Image.Image, color: Color) -> list[tuple[int, int, int, int]]:
    """Boxes (left, top, right, bottom) of the solid rectangles of a color."""
    red, green, blue = np.moveaxis(np.asarray(page), -1, 0)
    mask = (red == color[0]) & (green == color[1]) & (blue == color[2])
    if not mask.any():
        return []
    corner = mask.copy()
    corner[1:] &= ~mask[:-1]
    corner[:, 1:] &= ~mask[:, :-1]
    boxes = []
    for top, left in np.argwhere(corner).tolist():
        width = int(np.argmin(np.append(mask[top, left:], False)))
        height = int(np.argmin(np.append(mask[top:, left], False)))
        if mask[top : top + height, left : left + width].all() and min(width, height) > 7:
            boxes.append((left, top, left + width, top + height))
    return boxes


def find(page: Image.Image, run: Run, **axes: Any) -> tuple[int, int, int, int]:
    """Where the one cell of the sweep with these values stands."""
    (cell,) = {
        c.key: c
        for c in run.cells()
        if len(c.axes) == len(run.axes()) and axes.items() <= c.axes.items()
    }.values()
    (box,) = spots(page, color_of(cell.key))
    return box


def framed(page: Image.Image, box: tuple[int, int, int, int]) -> bool:
    left, top, right, bottom = box
    corners = [(left - 3, top - 3), (right + 2, top - 3), (left - 3, bottom + 2)]
    return all(page.getpixel(corner) == ACCENT for corner in corners)


def baseline_of(run: Run, seed: int = 0) -> Color:
    return color_of(next(c.baseline for c in run.cells() if c.seed == seed))


# ------------------------------------------------------------ layouts nobody asked for


def test_one_axis_flows_in_reading_order_with_the_baseline_first(tmp_path: Path) -> None:
    modules = [f"down_blocks.{i}.attentions.0.transformer_blocks.0.to_q" for i in range(60)]
    run = make_run(tmp_path, {"module": modules})
    (page,) = sheets.contact_sheet(run)
    boxes = [find(page, run, module=m) for m in modules]
    order = [(top, left) for left, top, _, _ in boxes]
    assert order == sorted(order)
    assert len({top for top, _ in order}) > 3
    (base,) = spots(page, baseline_of(run))
    assert (base[1], base[0]) < order[0]
    assert framed(page, base)
    assert not framed(page, boxes[0])
    assert 1 < page.width / page.height < 2


def test_small_pictures_grow_by_a_whole_factor_and_large_ones_shrink(tmp_path: Path) -> None:
    for side, shown in ((64, 128), (48, 96), (128, 128), (512, 256)):
        run = make_run(tmp_path / str(side), {"amount": [1, 2]}, size=(side, side))
        (page,) = sheets.contact_sheet(run)
        left, top, right, bottom = find(page, run, amount=1)
        assert (right - left, bottom - top) == (shown, shown)
    (page,) = sheets.contact_sheet(run, thumbnail=100)
    left, top, right, bottom = find(page, run, amount=1)
    assert (right - left, bottom - top) == (100, 100)


def test_pixels_stay_crisp(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"amount": [1]}, added=False)
    (cell,) = run.cells()
    image = Image.new("RGB", (64, 64), (255, 0, 200))
    image.putpixel((5, 7), (0, 255, 200))
    record = cell.record()
    run.write_cells([(cell.key, image, {**record, "size": [64, 64]}, None)])
    (page,) = sheets.contact_sheet(run)
    assert len(np.argwhere(np.all(np.asarray(page) == (0, 255, 200), axis=-1))) == 4


def test_two_axes_make_a_table_with_the_scale_along_the_columns(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"stage": list("abcdef"), "amount": [0.1, 0.2, 0.3]}, size=(64, 32))
    (page,) = sheets.contact_sheet(run)
    at = {(s, a): find(page, run, stage=s, amount=a) for s in "abcdef" for a in (0.1, 0.2, 0.3)}
    for (stage, amount), box in at.items():
        assert box[0] == at["a", amount][0]
        assert box[1] == at[stage, 0.1][1]
        assert (box[2] - box[0], box[3] - box[1]) == (128, 64)
    assert at["a", 0.1][0] < at["a", 0.2][0] < at["a", 0.3][0]
    assert at["a", 0.1][1] < at["b", 0.1][1] < at["f", 0.1][1]
    bases = spots(page, baseline_of(run))
    assert [b[1] for b in bases] == [at[s, 0.1][1] for s in "abcdef"]
    assert all(framed(page, b) and b[2] < at["a", 0.1][0] for b in bases)


def test_a_third_axis_makes_blocks(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"stage": ["a", "b"], "amount": [0.1, 0.2, 0.3], "seed": [0, 1]})
    (page,) = sheets.contact_sheet(run)
    for seed in (0, 1):
        rows = [find(page, run, stage=s, amount=0.1, seed=seed)[1] for s in "ab"]
        assert [b[1] for b in spots(page, baseline_of(run, seed))] == rows
    last, first = (find(page, run, stage=s, amount=0.1, seed=i) for s, i in (("b", 0), ("a", 1)))
    assert last[1] < first[1] or last[0] < first[0]


def test_hundreds_of_modules_and_some_seeds_are_a_grid_for_each_seed(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": [f"m{i}" for i in range(50)], "seed": [0, 1]})
    (page,) = sheets.contact_sheet(run)
    lowest = max(find(page, run, module=f"m{i}", seed=0)[3] for i in range(50))
    (base,) = spots(page, baseline_of(run, 1))
    assert lowest < base[1] < base[3] <= find(page, run, module="m49", seed=1)[3]


def test_prompts_are_rows(tmp_path: Path) -> None:
    long = "a very long prompt " * 40 + "東京 \U0001f3a9 \ud800 \n\x07 " + "unbroken" * 60
    run = make_run(tmp_path, {"prompt": ["a cat", long], "seed": [0, 1, 2]}, added=False)
    (page,) = sheets.contact_sheet(run)
    row = [find(page, run, prompt="a cat", seed=s) for s in (0, 1, 2)]
    assert len({box[1] for box in row}) == 1
    assert find(page, run, prompt=long, seed=0)[1] > row[0][3]


def test_edited_beside_unedited_for_each_seed(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"seed": [0, 1, 2]})
    manifest = run.manifest()  # an axis with one value, which only the edited cells have
    manifest["axes"].append({"name": "amount", "values": [0.5], "labels": ["0.5"]})
    edited = [
        {**c, "key": c["key"][::-1], "axes": {**c["axes"], "amount": 0.5}}
        for c in manifest["cells"]
    ]
    for cell in edited:
        base = next(c for c in run.cells() if c.key == cell["baseline"])
        image = Image.new("RGB", (8, 8), color_of(cell["key"]))
        run.write_cells([(cell["key"], image, base.record(), None)])
    run.write_manifest({**manifest, "cells": manifest["cells"] + edited})
    (page,) = sheets.contact_sheet(run)
    for seed in (0, 1, 2):
        (base_box,) = spots(page, baseline_of(run, seed))
        box = find(page, run, seed=seed)
        assert base_box[0] == box[0]
        assert base_box[3] < box[1]
        assert framed(page, base_box)


# ------------------------------------------------------------ layouts asked for


def test_arguments_win_over_the_recipe(tmp_path: Path) -> None:
    axes: dict[str, list[Any]] = {"stage": ["a", "b"], "amount": [0.1, 0.2, 0.3]}
    run = make_run(tmp_path, axes, sheet={"rows": ["amount"], "columns": ["stage"]})
    (page,) = sheets.contact_sheet(run)
    assert find(page, run, stage="a", amount=0.1)[0] == find(page, run, stage="a", amount=0.3)[0]
    (page,) = sheets.contact_sheet(run, columns="amount")
    assert find(page, run, stage="a", amount=0.1)[1] == find(page, run, stage="a", amount=0.3)[1]
    (page,) = sheets.contact_sheet(run, columns=["stage", "amount"])
    boxes = [find(page, run, stage=s, amount=a) for s in "ab" for a in (0.1, 0.2, 0.3)]
    assert len({box[1] for box in boxes}) == 1
    steps = np.diff([box[0] for box in boxes])
    assert steps[2] > steps[0] == steps[1] == steps[3] > 0  # the outer axis parts the groups


def test_zipped_axes_share_a_place(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"a": [1, 2, 3], "b": [4, 5, 6], "stage": ["x", "y"]})
    manifest = run.manifest()
    kept = [c for c in manifest["cells"] if c["axes"].get("b", 5) - c["axes"].get("a", 2) == 3]
    run.write_manifest({**manifest, "cells": kept})
    (page,) = sheets.contact_sheet(run, columns="a")
    for stage in "xy":
        row = [find(page, run, a=i, b=i + 3, stage=stage) for i in (1, 2, 3)]
        assert len({box[1] for box in row}) == 1


def test_conditions_both_ways_have_a_table_of_baselines(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        {"amount": [0.1, 0.2], "prompt": ["a cat", "a dog"], "seed": [0, 1, 2]},
        sheet={"rows": ["prompt"], "columns": ["seed"]},
    )
    (page,) = sheets.contact_sheet(run)
    for cell in run.cells():
        (box,) = spots(page, color_of(cell.key))
        assert framed(page, box) == cell.is_baseline


# ------------------------------------------------------------ baselines, NaN, unfinished


def test_a_baseline_of_the_sweep_is_marked_where_it_stands(tmp_path: Path) -> None:
    def zero(values: Mapping[str, Any]) -> bool:
        return values.get("amount") == 0

    axes: dict[str, list[Any]] = {"amount": [-0.1, 0, 0.1], "seed": [0, 1]}
    run = make_run(tmp_path, axes, own=zero)
    (page,) = sheets.contact_sheet(run)
    for seed in (0, 1):
        (box,) = spots(page, baseline_of(run, seed))
        assert framed(page, box)
        before, after = (find(page, run, amount=a, seed=seed) for a in (-0.1, 0.1))
        assert before[0] < box[0] < after[0]


def test_where_all_are_baselines_none_is_marked(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"seed": [0, 1, 2]}, own=lambda values: True)
    (page,) = sheets.contact_sheet(run)
    assert not np.all(np.asarray(page) == ACCENT, axis=-1).any()
    assert all(len(spots(page, baseline_of(run, s))) == 1 for s in (0, 1, 2))


def test_nan_and_unfinished_cells_have_their_own_look(tmp_path: Path) -> None:
    run = make_run(
        tmp_path,
        {"amount": [1, 2, 3]},
        nan=lambda values: values.get("amount") == 2,
        skip=lambda values: values.get("amount") == 3,
    )
    (page,) = sheets.contact_sheet(run)
    left, top, right, bottom = find(page, run, amount=1)
    keys = {c.axes.get("amount"): c.key for c in run.cells()}
    assert not spots(page, color_of(keys[2]))
    pixels = np.asarray(page)
    for color in (DARK, HATCH):
        assert np.all(pixels == color, axis=-1).sum() > 1000
    ((left_3, top_3, right_3, bottom_3),) = spots(page, VACANT)
    assert (right_3 - left_3, bottom_3 - top_3) == (right - left, bottom - top)


def test_a_sheet_costs_what_there_is_and_counts_what_was_planned(tmp_path: Path) -> None:
    axes: dict[str, list[Any]] = {"a": list(range(60)), "b": list(range(60))}
    run = make_run(tmp_path, axes, skip=lambda v: "a" in v and (v["a"] > 1 or v["b"] > 2))
    (page,) = sheets.contact_sheet(run)
    assert max(page.size) < 2000
    assert not spots(page, VACANT)
    assert len([c for c in run.cells() if c.done and spots(page, color_of(c.key))]) == 7
    data = data_of(save_report(run))
    assert (len(data["cells"]), data["planned"]) == (7, 3601)


# ------------------------------------------------------------ pages and files


@pytest.mark.parametrize(("limit", "value"), [("MAX_SIDE", 1000), ("MAX_PIXELS", 1_000_000)])
def test_pages_keep_the_limit_and_whole_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, limit: str, value: int
) -> None:
    monkeypatch.setattr(paper, limit, value)
    run = make_run(tmp_path, {"stage": [f"s{i}" for i in range(12)], "amount": [0.1, 0.2]})
    pages = sheets.contact_sheet(run)
    assert len(pages) > 1
    shown = []
    for page in pages:
        assert max(page.size) <= paper.MAX_SIDE
        assert page.width * page.height <= paper.MAX_PIXELS
        on_page = [c for c in run.cells() if "stage" in c.axes and spots(page, color_of(c.key))]
        shown += [c.key for c in on_page]
        assert len(on_page) == 2 * len({c.axes["stage"] for c in on_page})
        assert len(spots(page, baseline_of(run))) == len(on_page) // 2
    assert shown == [c.key for c in run.cells() if "stage" in c.axes]


def test_heads_repeat_on_every_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(paper, "MAX_SIDE", 1000)
    run = make_run(tmp_path, {"stage": [f"s{i}" for i in range(8)], "amount": [0.1, 0.2]})
    first, second = sheets.contact_sheet(run)
    left, top, right, _ = find(first, run, stage="s0", amount=0.1)
    shifted = min(spots(second, baseline_of(run)), key=lambda box: box[1])[1]
    heads = first.crop((left, top - 40, right, top - 5))
    again = second.crop((left, shifted - 40, right, shifted - 5))
    assert heads.getcolors() != [(heads.width * heads.height, PAGE)]
    assert heads.tobytes() == again.tobytes()


def test_a_table_wider_than_a_page_goes_on_below(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paper, "MAX_SIDE", 1500)
    run = make_run(tmp_path, {"amount": list(range(1, 31))})
    pages = sheets.contact_sheet(run, columns="amount")
    assert all(max(page.size) <= 1500 for page in pages)
    boxes = [(n, spots(page, color_of(c.key))) for c in run.cells() for n, page in enumerate(pages)]
    edited = [c for c in run.cells() if "amount" in c.axes]
    assert sum(len(found) for _, found in boxes) >= len(edited)
    for cell in edited:
        assert sum(len(spots(page, color_of(cell.key))) for page in pages) == 1
    assert sum(len(spots(page, baseline_of(run))) for page in pages) > 1


def test_a_very_long_table_stands_in_pieces_side_by_side(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"module": [f"m{i}" for i in range(90)], "amount": [1, 2, 3, 4, 5]})
    (page,) = sheets.contact_sheet(run)
    assert 0.5 < page.width / page.height < 2
    boxes = [find(page, run, module=f"m{i}", amount=1) for i in (0, 29, 30, 89)]
    assert boxes[0][0] == boxes[1][0] < boxes[2][0] < boxes[3][0]
    assert boxes[0][1] == boxes[2][1] < boxes[1][1] == boxes[3][1]


def test_save_writes_whole_files_and_removes_stale_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path, {"stage": [f"s{i}" for i in range(12)], "amount": [0.1, 0.2]})
    for mine in ("sheet-mine.png", "sheet-99.png"):
        (tmp_path / mine).write_bytes(b"")
    with monkeypatch.context() as patch:
        patch.setattr(paper, "MAX_SIDE", 1000)
        paths = sheets.save_sheet(run)
    assert [p.name for p in paths] == [
        "sheet.png",
        *(f"sheet-{i + 2}.png" for i in range(len(paths) - 1)),
    ]
    assert len(paths) > 1
    assert sheets.save_sheet(run, rows="amount", columns="stage") == [tmp_path / "sheet.png"]
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == [
        "files.json",
        "run.json",
        "sheet-99.png",
        "sheet-mine.png",
        "sheet.png",
    ]
    with Image.open(tmp_path / "sheet.png") as saved:
        (page,) = sheets.contact_sheet(run, rows="amount", columns="stage")
        assert saved.convert("RGB").tobytes() == page.tobytes()


# ------------------------------------------------------------ errors


def test_errors_are_sentences(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", {"stage": ["a", "b"], "amount": [0.1, 0.2]})
    with pytest.raises(PictureError, match="no axis `amout`, did you mean `amount`"):
        sheets.contact_sheet(run, rows="amout")
    with pytest.raises(PictureError, match="it has stage, amount, prompt, seed"):
        sheets.contact_sheet(run, columns=["zzz"])
    with pytest.raises(PictureError, match="`stage` is used twice"):
        sheets.contact_sheet(run, rows="stage", columns="stage")
    with pytest.raises(PictureError, match="choose between"):
        sheets.contact_sheet(run, thumbnail=3)
    empty = make_run(tmp_path / "empty", {"amount": [1]}, skip=lambda values: True)
    with pytest.raises(PictureError, match="no finished cells"):
        sheets.contact_sheet(empty)


def test_a_cell_off_its_axis_is_an_error(tmp_path: Path) -> None:
    run = make_run(tmp_path, {"amount": [0.1, 0.2]})
    manifest = run.manifest()
    manifest["axes"][0]["values"] = [0.1, 0.3]
    run.write_manifest(manifest)
    with pytest.raises(PictureError, match=r"a cell has 0\.2 on axis `amount`, which has no"):
        sheets.contact_sheet(run)


def test_a_path_that_all_labels_share_is_told_once(tmp_path: Path) -> None:
    assert sheets._shared_path(["mid.attn.to_q", "mid.attn.to_k"]) == "mid.attn."
    assert sheets._shared_path(["mid.attn", "mid.attn.to_k"]) == "mid."
    assert sheets._shared_path(["0.1", "0.2"]) == ""
    assert sheets._shared_path(["mid.attn"]) == ""
