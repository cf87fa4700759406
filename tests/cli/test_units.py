"""The commands of `ablate units`, on the small pipeline."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from ablate.cli.main import main
from ablate.cli.progress import ProgressPrinter
from ablate.engine.progress import Progress
from ablate.store.png import read_record
from ablate.units.record.study import Study
from ablate.view import svg

Units = Callable[..., Result]
NORM = "down_blocks.0.resnets.0.norm2"
SHORT = ("--set", "sampling.num_inference_steps=2", "--dtype", "float32", "--device", "cpu")


def units(*arguments: object) -> Result:
    return CliRunner().invoke(main, ["units", *map(str, arguments)])


@pytest.fixture(scope="module", autouse=True)
def quickly_drawn() -> Iterator[None]:
    """Drawings as small as their own size."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(svg, "WIDE", 1)
        yield


@pytest.fixture(scope="module")
def recorded(tiny_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A study of four concepts, as `ablate units selectivity` leaves it."""
    folder = tmp_path_factory.mktemp("studies") / "study"
    done = units(
        "selectivity", "--model", tiny_folder, "--concepts", "cat,dog,owl,car", "--template",
        "a {}", "--template", "a {} at night", "--seeds", "0-1", "--select", NORM, "--clip",
        "bundled", "--out", folder, *SHORT,
    )  # fmt: skip
    assert done.exit_code == 0, done.output
    assert f"{NORM}" in done.output
    assert "16 units of 1 layer, 16 samples of 4 concepts" in done.output
    assert str(folder / "report.html") in done.output
    return folder


@pytest.fixture
def study(recorded: Path, tmp_path: Path) -> Path:
    return shutil.copytree(recorded, tmp_path / "study")


def test_selectivity_leaves_a_table_pictures_and_a_page(recorded: Path) -> None:
    there = {path.name for path in recorded.iterdir()}
    assert there >= {"study.json", "activations.npz", "units.csv", "pictures", "selectivity.svg",
                     "selectivity.png", "report.html"}  # fmt: skip
    told = json.loads((recorded / "study.json").read_text(encoding="utf-8"))
    assert told["setup"]["concepts"] == ["cat", "dog", "owl", "car"]
    assert told["setup"]["seeds"] == [0, 1]
    prompts = {
        read_record(path)["condition"]["prompt"]
        for path in (recorded / "pictures" / "cells").iterdir()
    }
    assert prompts >= {"a cat", "an owl", "an owl at night"}
    text = (recorded / "units.csv").read_text(encoding="utf-8")
    assert len(list(csv.DictReader(text.splitlines()))) == 16


def test_the_pictures_are_a_run(recorded: Path) -> None:
    done = CliRunner().invoke(main, ["sheet", str(recorded / "pictures"), "--columns", "seed"])
    assert done.exit_code == 0, done.output


def test_search_goes_both_ways(recorded: Path) -> None:
    found = units("search", recorded, "cat")
    assert found.exit_code == 0
    assert f"{NORM}#" in found.output or "cat: no unit is selective for it" in found.output
    everything = units("search", recorded)
    assert all(word in everything.output for word in ("cat", "dog", "owl", "car"))
    one = units("search", recorded, f"{NORM}#3")
    assert one.output.startswith(f"{NORM}#3: selectivity 0.")
    assert {line.split()[-1] for line in one.output.splitlines()[2:]} == {
        "cat", "dog", "owl", "car",
    }  # fmt: skip


def test_cards_of_units_that_are_named(study: Path) -> None:
    done = units("cards", study, f"{NORM}#3", "--seeds", "0-1", "--device", "cpu")
    assert done.exit_code == 0, done.output
    (card,) = json.loads((study / "cards.json").read_text(encoding="utf-8"))["cards"]
    assert (card["module"], card["unit"]) == (NORM, 3)
    assert card["sentence"] in done.output
    assert (study / card["visualization"]).exists()
    assert {path.name for path in (study / "cards").iterdir()} == {
        f"{NORM}-3.svg", f"{NORM}-3.png",
    }  # fmt: skip
    assert f"#unit-{NORM}-3" in (study / "report.html").read_text(encoding="utf-8")
    assert units("cards", study, f"{NORM}#5", "--seeds", "0-1", "--device", "cpu").exit_code == 0
    both = json.loads((study / "cards.json").read_text(encoding="utf-8"))["cards"]
    assert [card["unit"] for card in both] == [5, 3]
    assert {path.stem for path in (study / "cards").iterdir()} == {f"{NORM}-3", f"{NORM}-5"}
    (study / "cards-of-mine.txt").touch()
    Study.open(study, device="cpu").begin("selectivity", fresh=True)
    assert {path.name for path in study.iterdir()} == {"study.json", "cards-of-mine.txt"}


def test_visualizations_are_made_once(tmp_path: Path, tiny_folder: Path) -> None:
    image = ("visualize", "visual_projection#7", "visual_projection#3 - visual_projection#4",
             "--model", "bundled", "--steps", "8", "--device", "cpu",
             "--out", tmp_path)  # fmt: skip
    done = units(*image)
    assert done.exit_code == 0, done.output
    assert "typically" in done.output
    rows = list(csv.DictReader((tmp_path / "visualizations.csv").read_text().splitlines()))
    assert [row["objective"] for row in rows] == [image[2], image[1]]
    assert all(float(row["end"]) > float(row["start"]) for row in rows)
    files = [tmp_path / row["file"] for row in rows]
    times = [path.stat().st_mtime_ns for path in files]
    assert units(*image).exit_code == 0
    assert [path.stat().st_mtime_ns for path in files] == times
    latent = units("visualize", f"{NORM}#2", "--input", "latent", "--model", tiny_folder,
                   "--dtype", "float32", "--device", "cpu", "--steps", "4",
                   "--out", tmp_path)  # fmt: skip
    assert latent.exit_code == 0, latent.output
    assert f"{NORM}#2 latent" in latent.output
    assert all(path.exists() for path in files)


def test_a_picture_is_dreamed_on(tmp_path: Path) -> None:
    Image.new("RGB", (96, 80), (90, 120, 200)).save(tmp_path / "sky.png")
    done = units("visualize", "deepdream('vision_model.encoder.layers.1.mlp.fc1')", "--start",
                 tmp_path / "sky.png", "--steps", "2", "--device", "cpu",
                 "--out", tmp_path / "dreams")  # fmt: skip
    assert done.exit_code == 0, done.output
    (row,) = csv.DictReader((tmp_path / "dreams/visualizations.csv").read_text().splitlines())
    with Image.open(tmp_path / "dreams" / row["file"]) as dreamed:
        assert dreamed.size == (96, 80)
        assert len(dreamed.getcolors(10_000) or []) > 100


def test_an_atlas_and_what_went_dark(tmp_path: Path, tiny_folder: Path) -> None:
    given = ("atlas", "mid_block.resnets.0", "--model", tiny_folder, "--concepts", "cat,dog",
             "--seeds", "0-1", "--rows", "4", "--columns", "5", "--no-visualization",
             "--clip", "bundled", *SHORT, "--out", tmp_path / "atlas")  # fmt: skip
    done = units(*given)
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "atlas/atlas.json").read_text(encoding="utf-8"))
    assert (found["rows"], found["columns"], found["variant"]) == (4, 5, None)
    assert f"{found['vectors']:,} vectors in {len(found['bins'])} of 20 bins" in done.output
    assert all((tmp_path / "atlas" / one["patch"]).exists() for one in found["bins"])
    assert (tmp_path / "atlas/atlas-patches.png").exists()
    done = units(*given, "--edit", "{zero: {modules: conv_in}}")
    assert done.exit_code == 0, done.output
    found = json.loads((tmp_path / "atlas/atlas.json").read_text(encoding="utf-8"))
    assert found["variant"] == "zero conv_in"
    assert sum(one["variant"] for one in found["bins"]) <= found["variant_vectors"]
    assert (tmp_path / "atlas/atlas-compared.png").exists()


def test_parts_of_a_command_have_lines_of_their_own(capsys: pytest.CaptureFixture[str]) -> None:
    printer = ProgressPrinter()
    progress = Progress(printer)
    for printer.terminal in (True, False):
        for noun, total, updates in (("images", 4, (1, 4)), ("samples", 3, (0,))):
            progress.start(noun, total)
            for done in updates:
                progress.update(done)
        printer.close()
        lines = capsys.readouterr().err.rstrip("\n").split("\n")
        assert "4/4 images" in lines[-2]
        assert lines[-1].endswith("0/3 samples, 0:00 min" if printer.terminal else
                                  "0/3 samples (0 computed), 0:00 min")  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("selectivity", "--concepts", "cat"), "one concept has nothing to be compared with"),
        (("selectivity", "--concepts", ""), "--concepts: there is nothing in it; leave it out"),
        (("selectivity", "--component", " "), "--component: there is nothing in it"),
        (("selectivity", "--select", ""), "--select: there is nothing in it"),
        (("selectivity", "--concepts", "cat,cat"), "`cat` is twice among the concepts"),
        (("selectivity", "--seeds", "3-x"), "--seeds: `3-x` is no number nor a range"),
        (("selectivity", "--when", "later"), "--when: `later` is no window"),
        (
            ("selectivity", "--concepts", "a,b", "--when", "{steps: [9, 12]}", *SHORT),
            "when steps 9–12: it never opens; this sampling has 2 steps",
        ),
        (("selectivity", "--template", "a cat"), "the template `a cat` has no `{}`"),
        (("selectivity", "--component", "unot"), "no component `unot`, did you mean `unet`"),
        (("selectivity", "--select", "mid_blok.*"), "--select: `mid_blok.*` matches no module"),
        (("selectivity", "--model", "nowhere"), "there is no model `nowhere`"),
        (("selectivity", "--set", "sampling.stepps=3"), "unknown key"),
        (("search", "STUDY", "cta"), "no concept `cta`, did you mean `cat`"),
        (("search", "STUDY", f"{NORM}#99"), "none of number 99"),
        (("search", "STUDY", f"{NORM}#x"), "is no unit; write a module's path and a number"),
        (("search", "nowhere"), "there is no nowhere/activations.npz"),
        (("cards", "nowhere"), "nowhere is no study of units"),
        (("cards", "STUDY", "conv_on#3"), "no units of `conv_on`"),
        (("atlas", "mid_blok"), "`mid_blok` matches no module"),
        (("atlas", "conv_in", "--edit", "zero"), "--edit: `zero` is no edit; write it as in a"),
        (("atlas", "conv_in", "--edit", "{zro: {modules: conv_in}}"), "unknown op, did you mean"),
        (("visualize", "conv_in#3 +"), "is no objective"),
        (("visualize", "visual_projektion#3"), "did you mean `visual_projection`"),
        (("visualize", "conv_in#3", "--input", "latent", "--start", "FILE"), "only images"),
    ],
)
def test_wrong_requests_end_in_a_sentence(
    arguments: tuple[str, ...], message: str, recorded: Path, tmp_path: Path
) -> None:
    (tmp_path / "file.png").write_bytes(b"")
    places = {"STUDY": recorded, "FILE": tmp_path / "file.png"}
    given = [places.get(argument, argument) for argument in arguments]
    out = (
        ["--out", tmp_path / "out"] if arguments[0] in ("selectivity", "visualize", "atlas") else []
    )
    done = units(*given, *out)
    assert done.exit_code == 2, done.output
    assert message in done.output
    assert "Traceback" not in done.output
    assert not (tmp_path / "out").exists()
