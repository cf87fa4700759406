"""Two fabricated runs side by side: which cells belong together, and how far they lie apart."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated import Color, Values, make_run as fabricate
from PIL import Image

from ablate.drift.compare import Comparison, compare_runs
from ablate.store.files import StoreError
from ablate.store.png import read_record
from ablate.store.run import Run
from ablate.style import ACCENT, DARK
from ablate.view import comparison as drawing, page as paper
from ablate.view.comparison import save_comparison
from ablate.view.errors import PictureError

Axes = Mapping[str, Sequence[Any]]
GRAY: Color = (100, 100, 100)


def gray(values: Values) -> Color:
    return GRAY


def make_run(
    folder: Path,
    axes: Axes,
    color: Callable[[Values], Color] = gray,
    *,
    size: tuple[int, int] = (16, 16),
    edits: Sequence[Mapping[str, Any]] = (),
    **more: Any,
) -> Run:
    """A run whose keys are its own and whose variants are named as those of recipes are.

    `edits`: as its images tell them. `more`: of the fabricated run, or of its manifest.
    """
    told = {k: more.pop(k) for k in ("own", "skip", "nan") if k in more}
    run = fabricate(folder, axes, color, size=size, read=False, **told)
    manifest = run.manifest() | more
    swept = [a for a in axes if a not in ("prompt", "seed")]
    keys = {cell["key"]: f"{folder.name}_{cell['key']}" for cell in manifest["cells"]}
    for cell in manifest["cells"]:
        cell |= {"key": keys[cell["key"]], "baseline": keys[cell["baseline"]]}
        if cell["variant"] != "baseline":
            cell["variant"] = ", ".join(f"{a}={cell['axes'][a]}" for a in swept)
    for key, name in keys.items():
        if run.path(key).exists():
            with Image.open(run.path(key)) as image:
                run.write_cells([(name, image, read_record(run.path(key)), None)])
            run.path(key).unlink()
    run.write_manifest(manifest)
    for listed in run.cells() if edits else ():
        record = listed.record() | {"edits": [*edits]}
        run.write_cells([(listed.key, listed.image(), record, None)])
    return run


def brighter(by: int) -> Callable[[Values], Color]:
    return lambda values: (GRAY[0] + by, GRAY[1] + by, GRAY[2] + by)


def matched(comparison: Comparison, a: str, b: str = "") -> list[tuple[Any, Any]]:
    """Of the pairs that are no baselines, their values on an axis of each run."""
    edited = [p for p in comparison.pairs if not p.a.is_baseline]
    return [(p.a.axes[a], p.b.axes[b or a]) for p in edited]


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "compare.csv").open(newline="", encoding="utf-8") as lines:
        return list(csv.DictReader(lines))


# ------------------------------------------------------------ metrics and the table


def test_pairs_are_measured_though_their_keys_differ(tmp_path: Path) -> None:
    axes: Axes = {"stage": ["up", "down"], "seed": [0, 1]}
    a = make_run(tmp_path / "a", axes)
    b = make_run(
        tmp_path / "b", axes, lambda v: (151, 100, 100) if v["stage"] == "up" else GRAY,
        dtype="bfloat16",
    )  # fmt: skip
    found = compare_runs(a, b)
    assert found.alone == ((), ())
    assert found.names == ("a", "b")
    assert found.folder == tmp_path / "a-vs-b"
    assert [pair.a for pair in found.pairs] == list(a.cells())
    rows = {
        (r["stage"], r["seed"]): r
        for r in rows_of(save_comparison(found, tmp_path / "out")[0].parent)
    }
    assert len(rows) == 6
    for (stage, seed), row in rows.items():
        apart = stage == "up"
        assert (row["cell_a"][0], row["cell_b"][0]) == ("a", "b")
        assert row["variant"] == (f"stage={stage}" if stage else "baseline")
        assert (row["prompt"], seed in "01") == ("a cat", True)
        assert (row["identical"], row["largest"]) == (("no", "51") if apart else ("yes", "0"))
        expected = 0.2 / np.sqrt(3) if apart else 0
        assert float(row["rmse"]) == pytest.approx(expected, rel=1e-4)
        assert (float(row["ssim"]) == 1) != apart
        assert (row["latent"], row["state_a"], row["note"]) == ("", "ok", "")
    assert found.sentences() == [
        "a against b: dtype float32 against bfloat16.",
        "6 cells compared: 4 identical bit for bit; rmse 0 in the median, 0.115 at most"
        " (stage up, seed 0).",
    ]


def test_a_run_beside_itself_is_identical(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a", {"amount": [1, 2]})
    assert compare_runs(run, run).sentences() == [
        "a against a.", "3 cells compared: all identical bit for bit.",
    ]  # fmt: skip


def test_latents_are_compared_where_both_have_them(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / name, {"amount": [1]}) for name in "ab")
    for run, value in ((a, 0.0), (b, 0.5)):
        for cell in run.cells():
            latents = np.full((4, 2, 2), value, np.float32)
            run.write_cells([(cell.key, cell.image(), cell.record(), latents)])
    pair = compare_runs(a, b).pairs[0]
    assert (pair.latent, pair.identical) == (0.5, True)


def test_nan_has_no_drift_and_comes_first(tmp_path: Path) -> None:
    axes = {"amount": [1, 2, 3]}
    a = make_run(tmp_path / "a", axes, nan=lambda v: v.get("amount") == 1)
    b = make_run(tmp_path / "b", axes, brighter(9), nan=lambda v: v.get("amount") in (1, 2))
    found = compare_runs(a, b)
    rows = rows_of(save_comparison(found, tmp_path, sort="drift")[0].parent)
    assert [row["amount"] for row in rows] == ["2", "3", "", "1"]
    states = [(row["state_a"], row["state_b"], row["identical"], row["rmse"]) for row in rows]
    assert states[0] == ("ok", "nan", "no", "")
    assert states[3] == ("nan", "nan", "", "")
    assert found.notes == (
        "NaN arose in 1 cell of both; these have no drift.",
        "NaN arose in 1 cell of b alone; these have no drift.",
    )
    with Image.open(tmp_path / "compare.png") as page:
        assert np.all(np.asarray(page) == DARK, axis=-1).sum() > 3 * 1000


def test_images_of_different_size(tmp_path: Path) -> None:
    axes = {"amount": [1]}
    a = make_run(tmp_path / "a", axes)
    larger = compare_runs(a, make_run(tmp_path / "b", axes, brighter(51), size=(32, 32)))
    edited = next(pair for pair in larger.pairs if not pair.a.is_baseline)
    assert edited.rmse == pytest.approx(0.2)
    assert edited.size == (32, 32)
    base = next(pair for pair in larger.pairs if pair.a.is_baseline)
    assert (base.rmse, base.identical) == (0, False)
    assert base.note == "resized: 16 × 16 against 32 × 32"
    assert "2 cells of different size: measured after the smaller image was resized." in (
        larger.notes
    )
    wider = compare_runs(a, make_run(tmp_path / "c", axes, size=(32, 16)))
    assert {(pair.rmse, pair.note) for pair in wider.pairs} == {
        (None, "not measured: 16 × 16 against 32 × 16")
    }
    assert "2 cells of different proportions: not measured." in wider.notes
    assert len(save_comparison(wider, tmp_path / "out")) == 2


def test_what_the_edits_differ_in_is_told(tmp_path: Path) -> None:
    axes = {"stage": ["up"]}
    a = make_run(tmp_path / "a", axes, edits=[{"op": "zero", "modules": ["x"]}])
    b = make_run(tmp_path / "b", axes, edits=[{"op": "zero", "where": "output", "modules": []}])
    assert compare_runs(a, b).changes == ("edits zero against zero (where output)",)


# ------------------------------------------------------------ which cells belong together


def test_values_that_both_have_are_matched_and_the_others_told(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"amount": [0.1, 0.2, 0.3]})
    b = make_run(tmp_path / "b", {"amount": [0.3, 0.2, 0.4]})
    found = compare_runs(a, b)
    assert matched(found, "amount") == [(0.2, 0.2), (0.3, 0.3)]
    assert [[cell.axes["amount"] for cell in alone] for alone in found.alone] == [[0.1], [0.4]]
    assert found.notes == (
        "1 cell of a has no counterpart in b: `amount` 0.1.",
        "1 cell of b has no counterpart in a: `amount` 0.4.",
    )


def test_labels_not_types_are_matched(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / n, {"amount": v}) for n, v in (("a", [1, 2]), ("b", [1.0, 2.0])))
    manifest = b.manifest()
    manifest["axes"][0]["labels"] = ["1", "2"]
    for cell in manifest["cells"]:
        cell["variant"] = cell["variant"].removesuffix(".0")
    b.write_manifest(manifest)
    found = compare_runs(a, b)
    assert (matched(found, "amount"), found.notes) == ([(1, 1), (2, 2)], ())


def test_cells_without_common_labels_are_not_matched(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"block": ["up", "down"], "amount": [1, 2]})
    b = make_run(tmp_path / "b", {"block": ["late", "early"], "amount": [1, 2]})
    comparison = compare_runs(a, b)
    assert [pair.a.variant for pair in comparison.pairs] == ["baseline"]
    assert comparison.notes == (
        "4 cells of a have no counterpart in b: `block` up, down.",
        "4 cells of b have no counterpart in a: `block` late, early.",
    )


def test_an_axis_of_another_name_is_another_axis(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"amount": [1, 2]})
    b = make_run(tmp_path / "b", {"strength": [1, 2]})
    comparison = compare_runs(a, b)
    assert matched(comparison, "amount", "strength") == []
    assert comparison.notes[0] == "2 cells of a have no counterpart in b: `amount` 1, 2."


def test_an_axis_of_one_value_is_no_hindrance(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"block": ["up", "down"], "amount": [0.5]})
    b = make_run(tmp_path / "b", {"block": ["up", "down"]})
    for first, second in ((a, b), (b, a)):
        found = compare_runs(first, second)
        assert matched(found, "block") == [("up", "up"), ("down", "down")]
        assert found.alone == ((), ())
        assert found.notes == ("`amount` is 0.5 throughout a and no axis of b.",)


def test_variants_that_no_axis_tells_are_matched_by_name(tmp_path: Path) -> None:
    runs = []
    for name, variant in (("a", "zero"), ("b", "zero")):
        run = make_run(tmp_path / name, {"seed": [0, 1]})
        manifest = run.manifest()
        bare = {cell["key"]: cell for cell in manifest["cells"]}.values()
        cells = [cell | {"variant": told} for cell in bare for told in ("baseline", variant)]
        run.write_manifest(manifest | {"cells": cells})
        runs.append(run)
    a, b = runs
    assert [p.b.variant for p in compare_runs(a, b).pairs] == ["baseline", "zero"] * 2
    assert compare_runs(a, b).notes == ()


def test_a_baseline_on_an_axis_is_one_beside_the_sweep(tmp_path: Path) -> None:
    axes: Axes = {"amount": [0, 0.5], "seed": [3, 4]}
    a = make_run(tmp_path / "a", axes, own=lambda v: v["amount"] == 0)
    manifest = a.manifest()  # a planned run lists such a baseline where it stands alone
    a.write_manifest(manifest | {"cells": [c for c in manifest["cells"] if "amount" in c["axes"]]})
    b = make_run(tmp_path / "b", {"amount": [0.5], "seed": [3, 4]})
    found = compare_runs(a, b)
    assert [(p.a.seed, p.b.seed) for p in found.pairs if p.a.is_baseline] == [(3, 3), (4, 4)]
    assert (len(found.pairs), found.alone) == (4, ((), ()))


# ------------------------------------------------------------ what cannot be compared


def test_cells_that_are_not_finished_are_left_out(tmp_path: Path) -> None:
    axes = {"amount": [1, 2, 3]}
    a = make_run(tmp_path / "a", axes)
    b = make_run(tmp_path / "b", axes, skip=lambda v: v.get("amount") in (1, 2))
    found = compare_runs(a, b)
    assert matched(found, "amount") == [(3, 3)]
    assert found.notes == (
        "2 cells that both plan are left out: 0 not finished in a, 2 in b.",
    )  # fmt: skip
    none = make_run(tmp_path / "none", axes, skip=lambda v: True)
    with pytest.raises(StoreError, match=r"share 4 cells, none of which is finished in both"):
        compare_runs(a, none)


def test_runs_that_share_nothing_are_an_error_that_says_why(tmp_path: Path) -> None:
    a = make_run(tmp_path / "a", {"amount": [1, 2], "seed": [0, 1]})
    b = make_run(tmp_path / "b", {"block": ["up"], "amount": [1, 2], "seed": [2, 3]})
    with pytest.raises(StoreError) as caught:
        compare_runs(a, b)
    assert str(caught.value) == (
        f"{a.folder} and {b.folder} share no cell: axes amount, seed, prompt against block,"
        " amount, seed, prompt; `seed` 0, 1 against 2, 3"
    )
    c = make_run(tmp_path / "c", {"amount": [1, 2], "prompt": ["a dog"]})
    with pytest.raises(StoreError, match="`prompt` “a cat” against “a dog”"):
        compare_runs(a, c)
    with pytest.raises(StoreError, match="has no run"):
        compare_runs(a, Run(tmp_path / "nowhere"))
    with pytest.raises(PictureError, match="sorted by `size`; choose plan or drift"):
        save_comparison(compare_runs(a, a), tmp_path, sort="size")


# ------------------------------------------------------------ the picture


def spread(amount: int) -> Color:
    return (100 + amount, 100, 90)


def test_the_picture_shows_both_and_the_brightened_difference(tmp_path: Path) -> None:
    axes = {"amount": [1, 2, 3]}
    a = make_run(tmp_path / "a", axes, lambda v: spread(0))
    b = make_run(tmp_path / "b", axes, lambda v: spread(10 * v["amount"]))
    found = compare_runs(a, b)
    paths = save_comparison(found, tmp_path / "out")
    assert [path.name for path in paths] == ["compare.csv", "compare.png"]
    with Image.open(paths[1]) as page:
        pixels = np.asarray(page)
    # The median pair differs by 20 of 255 in one channel of three: rmse 0.045, four times brighter.
    tiles = [places(pixels, spread(0)), places(pixels, spread(20)), places(pixels, (80, 0, 0))]
    assert len(tiles[0]) == 3 * 128 * 128
    assert len(tiles[1]) == len(tiles[2]) == 128 * 128
    assert tiles[0][:, 1].max() < tiles[1][:, 1].min() < tiles[2][:, 1].min()
    assert set(tiles[1][:, 0]) == set(tiles[2][:, 0])
    assert len(places(pixels, ACCENT)) > 2 * 4 * 128


def places(pixels: np.ndarray, color: Color) -> np.ndarray:
    """Row and column of all pixels of a color."""
    return np.argwhere(np.all(pixels == color, axis=-1))


def test_the_largest_drift_first_and_no_more_than_asked(tmp_path: Path) -> None:
    axes = {"amount": [1, 3, 2]}
    a = make_run(tmp_path / "a", axes, lambda v: spread(0))
    b = make_run(tmp_path / "b", axes, lambda v: spread(10 * v["amount"]))
    found = compare_runs(a, b)
    save_comparison(found, tmp_path, top=1, sort="drift")
    assert [row["amount"] for row in rows_of(tmp_path)] == ["3", "2", "1", ""]
    with Image.open(tmp_path / "compare.png") as page:
        pixels = np.asarray(page)
    assert [len(places(pixels, spread(10 * n))) > 0 for n in (1, 2, 3)] == [False, False, True]


def test_long_comparisons_have_pages_and_stale_ones_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = compare_runs(*(make_run(tmp_path / n, {"amount": list(range(1, 13))}) for n in "ab"))
    out = tmp_path / "out"
    with monkeypatch.context() as patch:
        patch.setattr(paper, "MAX_SIDE", 1000)
        paths = save_comparison(found, out)
    assert len(paths) > 2
    assert [p.name for p in paths[2:]] == [f"compare-{i}.png" for i in range(2, len(paths))]
    (out / "compare-mine.png").write_bytes(b"")
    save_comparison(found, out)
    assert sorted(p.name for p in out.iterdir()) == [
        "compare-mine.png", "compare.csv", "compare.png",
    ]  # fmt: skip


def test_long_words_stay_beside_their_tiles(tmp_path: Path) -> None:
    long = {f"axis_{i}": ["down_blocks.0.attentions.1.transformer_blocks.0.to_q"] for i in range(9)}
    prompts = ["a very long prompt " * 30, "unbroken" * 60]
    a, b = (make_run(tmp_path / n, {**long, "prompt": prompts}) for n in "ab")
    found = compare_runs(a, b)
    style = paper.Style.fitting([pair.size for pair in found.pairs], crowded=False)
    most = style.tile[1] // round(1.3 * style.text)
    for pair in found.pairs:
        assert 1 <= len(drawing._side(pair, style)) <= most
    assert len(save_comparison(found, tmp_path / "out")) == 2


def test_names_tell_two_folders_apart(tmp_path: Path) -> None:
    a, b = (make_run(tmp_path / n / "run", {"amount": [1]}) for n in ("old", "new"))
    found = compare_runs(a, b)
    assert found.names == ("old/run", "new/run")
    assert found.folder == tmp_path / "old" / "old-run-vs-new-run"
    assert json.loads((a.folder / "run.json").read_text(encoding="utf-8"))["format"] == 1
