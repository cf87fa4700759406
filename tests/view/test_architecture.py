"""The architecture sheet, read as XML: where modules are, how dark they are, what is written."""

from __future__ import annotations

import functools
import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from xml.etree import ElementTree

import numpy as np
import pytest
from fabricated import SVG, box, inside, make_run, marked, parsed, words
from PIL import Image

from ablate.models.catalogs import load_catalog
from ablate.network.modules import ModuleInfo
from ablate.network.roles import ROLES
from ablate.style import ACCENT, VACANT, ramp, text_width
from ablate.view import svg
from ablate.view.architecture import network as architecture, roles as marks
from ablate.view.chart import Scale
from ablate.view.errors import PictureError

Area = tuple[float, float, float, float]
CONFIGS = Path(__file__).parent.parent / "data" / "configs"


@functools.cache
def catalog(model: str) -> list[ModuleInfo]:
    """Of a model, or of a configuration of the tests."""
    return list(load_catalog(str(CONFIGS / model) if (CONFIGS / model).exists() else model))


def transformer(double: int = 3, single: int = 2) -> list[ModuleInfo]:
    """Modules with the names of a transformer that has two kinds of blocks."""
    paths = ["x_embedder", "time_text_embed.timestep_embedder.linear_1"]
    for i in range(double):
        leaves = ("norm1.linear", "attn.to_q", "attn.to_out.0", "ff.net.0.proj", "ff.net.2")
        paths += [
            f"transformer_blocks.{i}.{leaf}" for leaf in leaves if (i, leaf) != (1, leaves[0])
        ]
    for i in range(single):
        paths += [f"single_transformer_blocks.{i}.{leaf}" for leaf in ("proj_mlp", "attn.to_q")]
    rows = []
    for number, path in enumerate([*paths, "norm_out.linear", "proj_out"]):
        number_of_block = re.match(r"\w+_blocks\.\d+", path)
        stage = "blocks" if number_of_block else "out" if "out" in path.split(".")[0] else "in"
        block = number_of_block[0] if number_of_block else path.split(".")[0]
        role = "self_attention" if "attn" in path else "feed_forward"
        rows.append(ModuleInfo(number, path, "Linear", stage, block, role, 10 * (number + 1)))
    return rows


def tiles(drawing: str) -> dict[str, Area]:
    """Tiles by module path, wherever their groups have been moved to."""
    areas: dict[str, Area] = {}

    def walk(e: ElementTree.Element, dx: float, dy: float) -> None:
        moved = re.match(r"translate\(([\d.]+) ([\d.]+)\)", e.get("transform", ""))
        if moved:
            dx, dy = dx + float(moved[1]), dy + float(moved[2])
        path = e.get("data-module")
        if path is not None:
            assert path not in areas, f"{path} is drawn twice"
            left, top, right, bottom = box(e)
            areas[path] = (left + dx, top + dy, right + dx, bottom + dy)
        for child in e:
            walk(child, dx, dy)

    walk(parsed(drawing), 0, 0)
    return areas


def color(drawing: str, path: str) -> str:
    tile = marked(parsed(drawing), "module")[path].find(f"{SVG}rect")
    assert tile is not None
    return str(tile.get("fill"))


def overlapping(areas: Sequence[Area]) -> list[tuple[Area, Area]]:
    return [
        (a, b) for a, b in itertools.combinations(areas, 2)
        if a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]
    ]  # fmt: skip


def hexadecimal(rgb: tuple[int, int, int]) -> str:
    return "#{:02x}{:02x}{:02x}".format(*rgb)


# ------------------------------------------------------------ where modules are


@pytest.mark.parametrize(("model", "count", "skips"), [("bundled", 183, 6), ("sd21", 391, 12)])
def test_a_u_has_all_modules_in_its_shape(model: str, count: int, skips: int) -> None:
    modules = catalog(model)
    drawing = architecture.draw_layout(modules, model)
    root = parsed(drawing)
    inside(root)
    at = tiles(drawing)
    assert at.keys() == {m.name for m in modules}
    assert len(at) == count
    assert overlapping(list(at.values())) == []

    blocks = {name: box(e) for name, e in marked(root, "block").items()}
    assert overlapping(list(blocks.values())) == []
    down = [b for n, b in sorted(blocks.items()) if n.startswith("down")]
    up = [b for n, b in sorted(blocks.items()) if n.startswith("up")]
    assert all(a[3] < b[1] for a, b in itertools.pairwise(down))  # descends
    assert all(a[1] > b[3] for a, b in itertools.pairwise(up))  # ascends
    assert max(b[2] for b in down) < min(b[0] for b in up)
    assert blocks["mid_block"][1] > max(b[3] for b in down + up)
    assert at["conv_in"][3] < down[0][1]
    assert at["conv_out"][3] < up[-1][1]
    for path, (left, top, right, bottom) in at.items():
        home = next(b for n, b in blocks.items() if path == n or path.startswith(f"{n}."))
        assert home[0] < left < right < home[2]
        assert home[1] < top < bottom < home[3]

    lines = [e for e in marked(root, "part")["skips"] if e.get("d", "").count("C")]
    assert len(lines) == skips
    ends = [tuple(map(float, re.findall(r"[\d.]+", str(e.get("d"))))) for e in lines]
    heights = sorted((e[1], e[-1]) for e in ends)  # where each leaves and arrives
    assert [b for _, b in heights] == sorted(b for _, b in heights)  # they do not cross


def test_modules_of_a_row_follow_one_another_and_equal_ones_share_a_column() -> None:
    at = tiles(architecture.draw_layout(catalog("sd15-random"), "x"))
    row = [
        at[f"up_blocks.1.attentions.0.{leaf}"]
        for leaf in (
            "norm", "proj_in", "transformer_blocks.0.norm1", "transformer_blocks.0.attn1.to_q",
            "transformer_blocks.0.attn2.to_out.0", "transformer_blocks.0.ff.net.2", "proj_out",
        )
    ]  # fmt: skip
    assert len({top for _, top, _, _ in row}) == 1
    assert [left for left, *_ in row] == sorted(left for left, *_ in row)
    below = at["up_blocks.2.attentions.1.transformer_blocks.0.attn1.to_q"]
    assert below[0] == row[3][0]
    # Where the flow rises the first layer is the lowest.
    first, last = at["up_blocks.1.resnets.0.conv1"], at["up_blocks.1.upsamplers.0.conv"]
    assert first[1] > row[0][1] > last[1]
    assert at["down_blocks.1.resnets.0.conv1"][1] < at["down_blocks.1.downsamplers.0.conv"][1]


def test_an_autoencoder_is_a_u_without_skips() -> None:
    rows = []
    for number, path in enumerate(
        ["encoder.conv_in", "encoder.down_blocks.0.resnets.0.conv1",
         "encoder.mid_block.resnets.0.conv1", "encoder.mid_block.attentions.0.to_q",
         "decoder.mid_block.resnets.0.conv1", "decoder.up_blocks.0.resnets.0.conv1",
         "decoder.up_blocks.0.resnets.1.conv1", "decoder.conv_out"]
    ):  # fmt: skip
        stage = next((s for s in ("down", "mid", "up") if f"{s}_block" in path), "in")
        block = ".".join(path.split(".")[:3])
        rows.append(ModuleInfo(number, path, "Conv2d", stage, block, "resnet", 8))
    drawing = architecture.draw_layout(rows, "vae")
    assert tiles(drawing).keys() == {m.path for m in rows}
    assert "encoder.mid_block" in marked(parsed(drawing), "block")
    assert list(marked(parsed(drawing), "part")["skips"]) == []


def test_a_transformer_is_a_column_with_equal_modules_below_one_another() -> None:
    modules = transformer()
    drawing = architecture.draw_layout(modules, "x")
    inside(parsed(drawing))
    at = tiles(drawing)
    assert at.keys() == {m.name for m in modules}
    queries = [at[f"transformer_blocks.{i}.attn.to_q"] for i in range(3)]
    assert len({left for left, *_ in queries}) == 1
    assert all(a[3] < b[1] for a, b in itertools.pairwise(queries))
    line = [
        at[f"transformer_blocks.0.{leaf}"] for leaf in ("norm1.linear", "attn.to_q", "ff.net.2")
    ]
    assert line[0][0] < line[1][0] < line[2][0]
    assert {"norm1", "to_q", "to_out", "ff.0", "ff.2", "proj_mlp"} <= set(words(parsed(drawing)))


def span(at: dict[str, Area], *starts: str) -> Area:
    """The area of all modules whose paths start so."""
    areas = [area for path, area in at.items() if path.startswith(starts)]
    return min(a[0] for a in areas), min(a[1] for a in areas), max(a[2] for a in areas), max(
        a[3] for a in areas
    )  # fmt: skip


@pytest.mark.parametrize(
    ("model", "image", "text", "conditioning"),
    [
        ("flux2-dev", "x_embedder", "context_embedder", "double_stream_modulation"),
        ("sd35-medium", "pos_embed", "context_embedder", "time_text_embed"),
        ("cogview4", "patch_embed.proj", "patch_embed.text_proj", "time_condition_embed"),
        ("z-image", "all_x_embedder", "cap_embedder", "t_embedder"),
        ("lumina2", "x_embedder", "time_caption_embed.caption", "time_caption_embed.timestep"),
        ("pixart-sigma", "pos_embed", "caption_projection", "adaln_single"),
    ],
)
def test_inputs_of_a_transformer_are_on_their_sides_above_all_blocks(
    model: str, image: str, text: str, conditioning: str
) -> None:
    modules = catalog(model)
    drawing = architecture.draw_layout(modules, model)
    inside(parsed(drawing))
    at = tiles(drawing)
    assert at.keys() == {m.name for m in modules}
    assert len(set(at.values())) == len(modules)
    ends = [at[m.name] for m in modules if m.stage in ("in", "out")]
    first = [at[m.name] for m in modules if m.stage not in ("in", "out") and m.block[-2:] == ".0"]
    assert overlapping(ends + first) == []
    blocks = span(at, *{m.block for m in modules if m.stage not in ("in", "out")})
    assert span(at, conditioning)[3] < min(span(at, image)[1], span(at, text)[1])
    assert span(at, image)[2] < span(at, text)[0]
    assert max(span(at, image)[3], span(at, text)[3]) < blocks[1]
    assert min(at[m.name][1] for m in modules if m.stage == "out") > blocks[3]
    written = set(words(parsed(drawing)))
    assert {"noisy latents", "text", "prediction"} <= written
    roles = {m.role for m in modules}
    assert {role.replace("_", " ") for role in roles} <= written
    assert {e.get("data-role") for e in parsed(drawing).iter()} == {*roles, None}


@pytest.mark.parametrize("model", ["flux1-dev", "sd35-medium", "qwen-image"])
def test_two_streams_run_beside_one_another_and_join_in_blocks_of_one(model: str) -> None:
    modules = catalog(model)
    drawing = architecture.draw_layout(modules, model)
    at, streams = tiles(drawing), marked(parsed(drawing), "stream")
    image, text = (
        (float(e.get("x", "")), float(e.get("x", "")) + float(e.get("width", "")))
        for e in (streams["image"], streams["text"])
    )
    assert image[1] < text[0]
    of_text = re.compile(r"_context|\.add_|to_add_out|norm_added|\.txt_")
    # The streams' frames are given from the corner of their stack.
    left = 80.0
    for module in modules:
        if module.stage == "double":
            inner = text if of_text.search(module.path) else image
            assert left + inner[0] < at[module.path][0] < at[module.path][2] < left + inner[1]
    double = [m.path for m in modules if m.stage == "double"]
    single = [m.path for m in modules if m.stage == "single"]
    bottom = max(at[path][3] for path in double)
    assert all(at[path][1] > bottom for path in single)
    written = "".join(words(parsed(drawing)))
    assert "image and text beside one another" in written
    assert ("image and text as one sequence" in written) == bool(single)


def test_refiners_are_beside_one_another_above_the_blocks_that_join_them() -> None:
    at = tiles(architecture.draw_layout(catalog("z-image"), "x"))
    image, text, both = (span(at, n) for n in ("noise_refiner", "context_refiner", "layers."))
    assert image[2] < text[0]
    assert max(image[3], text[3]) < both[1]


def test_a_u_without_a_middle_has_its_skips_from_block_to_block() -> None:
    drawing = architecture.draw_layout(catalog("kandinsky3"), "x")
    at = tiles(drawing)
    assert at.keys() == {m.path for m in catalog("kandinsky3")}
    assert overlapping([a for p, a in at.items() if "_blocks.1." in p or "_blocks" not in p]) == []
    assert sum(e.get("d", "").count("C") for e in marked(parsed(drawing), "part")["skips"]) == 3
    row = "up_blocks.2.resnets_in.0.resnet_blocks"
    assert at[f"{row}.0.projection"][1] == at[f"{row}.3.projection"][1]


def test_half_a_u_is_drawn_whole() -> None:
    modules = [m for m in catalog("bundled") if m.stage != "up"]
    assert tiles(architecture.draw_layout(modules, "x")).keys() == {m.path for m in modules}


def test_a_module_without_a_path_is_drawn_too() -> None:
    rows = [ModuleInfo(0, "", "PixArt", "in", "", "other", 5), *transformer()[2:4]]
    assert "(root)" in tiles(architecture.draw_layout(rows, "x"))


def test_no_modules_are_no_drawing() -> None:
    with pytest.raises(PictureError, match="no modules"):
        architecture.draw_layout([], "x")


# ------------------------------------------------------------ what colors mean


def test_the_ramp_darkens_evenly_and_never_takes_the_baselines_color() -> None:
    colors = np.array([ramp(i / 255) for i in range(256)], float)
    gray = colors @ [0.299, 0.587, 0.114]
    assert (np.diff(gray) <= 0).all()
    assert gray[0] > 230
    assert gray[-1] < 50
    assert np.abs(colors - ACCENT).sum(axis=1).min() > 120
    # A tenth of the ramp is nowhere more than twice as long a step as elsewhere.
    steps = -np.diff(gray[::26])
    assert steps.max() < 2 * steps.min()


def test_roles_have_marks_that_are_distinct_to_any_eye() -> None:
    roles = {role for _, role in ROLES} | {"joint_attention", "other"}
    assert roles <= marks.MARKS.keys()
    assert len(set(marks.MARKS.values())) == len(marks.MARKS)
    colors = np.array(sorted({color for color, _ in marks.MARKS.values()})) / 255
    linear = np.where(colors > 0.04045, ((colors + 0.055) / 1.055) ** 2.4, colors / 12.92)
    # Red-blind and green-blind, after Machado, Oliveira and Fernandes (2009).
    for seen in (
        np.eye(3),
        [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
        [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    ):
        shown = np.clip(linear @ np.transpose(seen), 0, 1) ** (1 / 2.2)
        apart = np.linalg.norm(shown[:, None] - shown[None], axis=-1)
        assert apart[~np.eye(len(colors), dtype=bool)].min() > 0.19
    assert min(math.dist(c, ACCENT) for c, _ in marks.MARKS.values()) > 80


def test_larger_is_darker() -> None:
    drawing = architecture.draw_layout(transformer(), "x")
    assert color(drawing, "x_embedder") == hexadecimal(ramp(0))
    assert color(drawing, "proj_out") == hexadecimal(ramp(1))
    assert "Parameters by role" in words(parsed(drawing))


def test_values_color_modules_and_what_is_not_known_is_vacant() -> None:
    modules = transformer()
    values = {m.number: 0.25 * m.number for m in modules[:-2]} | {modules[-2].number: math.nan}
    drawing = architecture.draw_drift(modules, title="x", unit="drift", values=values)
    top = 0.25 * (len(modules) - 3)
    for module in modules[:-2]:
        expected = ramp(Scale(top).at(values[module.number]))
        assert color(drawing, module.path) == hexadecimal(expected)
    assert color(drawing, "proj_out") == hexadecimal(VACANT)
    written = words(parsed(drawing))
    assert {"not measured: 1 module", "nothing but NaN: 1 module"} <= set(written)
    assert "drift: NaN" in "".join(marked(parsed(drawing), "module")["norm_out.linear"].itertext())


def test_a_block_that_is_not_known_has_no_mean() -> None:
    modules = transformer()
    values = {m.number: 0.5 for m in modules if m.block != "transformer_blocks.1"}
    written = words(parsed(architecture.draw_drift(modules, title="x", unit="u", values=values)))
    after = written[written.index("mean") + 1 :]
    assert after[:3] == ["0.50", "0.50", "single_transformer_blocks"]


def test_a_scale_has_round_ticks_with_room_for_each() -> None:
    for top in (0.003, 0.7, 1.3, 6.2, 40):
        scale = Scale(top)
        ticks = scale.ticks(400)
        assert ticks[0] == 0
        assert 3 <= len(ticks) <= 12
        places = [400 * scale.at(tick) for tick in ticks]
        assert all(b - a >= 36 for a, b in itertools.pairwise(places))
        assert places[-1] <= 400


def test_words_are_escaped() -> None:
    drawing = architecture.draw_drift(transformer(), title="<b>&\x07\"'", about="</svg>", unit="u")
    assert "<b>&\\x07\"'" in words(parsed(drawing))
    assert "</svg>" in words(parsed(drawing))


# ------------------------------------------------------------ runs


ROWS = [[m.path, m.kind, m.stage, m.block, m.role, m.parameters] for m in transformer()]


def test_a_run_over_modules_is_drawn_by_mean_drift_over_seeds(tmp_path: Path) -> None:
    numbers = [0, 3, 5]

    def painted(v: dict[str, int]) -> tuple[int, int, int]:
        return 255 - 20 * v["module"] - 10 * v["seed"], 128, 128

    run = make_run(
        tmp_path, {"module": numbers, "seed": [0, 1]}, painted, catalog=ROWS, read=False,
        touched=lambda v: str(v["module"]),
    )  # fmt: skip
    drawing = architecture.draw_network(run, "rmse")
    assert drawing is not None
    change = [sum(20 * n + 10 * s for s in (0, 1)) / 2 for n in numbers]
    for number, moved in zip(numbers, change, strict=True):
        expected = ramp(Scale(change[-1]).at(moved))
        assert color(drawing, ROWS[number][0]) == hexadecimal(expected)
    assert color(drawing, ROWS[1][0]) == hexadecimal(VACANT)
    written = " ".join(words(parsed(drawing)))
    assert "mean of 2 seeds" in written
    assert "a module is zeroed" in written
    keys = {c.axes["module"]: c.key for c in run.cells() if c.seed == 0 and "module" in c.axes}
    shown = marked(parsed(drawing), "module")
    assert [shown[ROWS[n][0]].get("data-cell") for n in numbers] == [keys[n] for n in numbers]
    pictures = parsed(architecture.draw_network(run, "rmse", thumbnails=True))
    pictured = [e for e in marked(pictures, "module").values() if e.find(f"{SVG}image") is not None]
    assert [e.get("data-cell") for e in pictured] == [keys[n] for n in numbers]
    assert "baseline" in words(pictures)


def test_drift_colors_blocks_of_two_streams_and_of_one(tmp_path: Path) -> None:
    modules = [m for m in catalog("flux1-dev") if re.search(r"blocks\.0\.|^[^.]+$", m.path)]
    rows = [[m.path, m.kind, m.stage, m.block, m.role, m.parameters] for m in modules]
    places = {m.path: i for i, m in enumerate(modules)}
    edited = [
        places[f"{path}.attn.{leaf}"]
        for path, leaf in (("transformer_blocks.0", "to_q"), ("transformer_blocks.0", "add_q_proj"),
                           ("single_transformer_blocks.0", "to_q"))
    ]  # fmt: skip
    run = make_run(
        tmp_path, {"module": edited}, lambda v: (255 - 5 * v["module"], 128, 128), catalog=rows,
        read=False, touched=lambda v: str(v["module"]),
    )  # fmt: skip
    for thumbnails in (False, True):
        drawing = architecture.draw_network(run, "rmse", thumbnails)
        assert drawing is not None
        assert len(tiles(drawing)) == len(rows)
        for n in edited:
            expected = ramp(Scale(5 * max(edited)).at(5 * n))
            assert color(drawing, modules[n].path) == hexadecimal(expected)
        assert color(drawing, "x_embedder") == hexadecimal(VACANT)
        assert "patch embedding" in words(parsed(drawing))  # a role of which nothing is known


def test_a_group_colors_its_modules(tmp_path: Path) -> None:
    groups = {"a": "2-4", "b": "5,7"}
    run = make_run(
        tmp_path, {"part": list(groups)}, lambda v: (250 if v["part"] == "a" else 90, 128, 128),
        touched=lambda v: groups[v["part"]], catalog=ROWS,
    )  # fmt: skip
    drawing = architecture.draw_network(run)
    assert drawing is not None
    assert len({color(drawing, ROWS[n][0]) for n in (2, 3, 4)}) == 1
    assert color(drawing, ROWS[5][0]) == color(drawing, ROWS[7][0]) == hexadecimal(ramp(1))
    assert color(drawing, ROWS[6][0]) == hexadecimal(VACANT)


@pytest.mark.parametrize("spans", [["0", "0-3", "0-8"], [f"0-{len(ROWS) - 1}"] * 3])
def test_edits_of_ever_more_or_of_all_modules_have_no_place(
    tmp_path: Path, spans: list[str]
) -> None:
    run = make_run(
        tmp_path, {"zeroed": [1, 2, 3]}, lambda v: (v["zeroed"], 0, 0), catalog=ROWS,
        touched=lambda v: spans[v["zeroed"] - 1],
    )  # fmt: skip
    assert architecture.draw_network(run) is None


def test_an_unknown_metric_is_an_error_with_the_nearest(tmp_path: Path) -> None:
    run = make_run(
        tmp_path, {"module": [0, 1]}, lambda v: (9, 9, 9), catalog=ROWS, read=False,
        touched=lambda v: str(v["module"]),
    )  # fmt: skip
    with pytest.raises(PictureError, match="`rmes`, did you mean `rmse`"):
        architecture.draw_network(run, "rmes")


# ------------------------------------------------------------ files


def test_a_drawing_is_saved_as_svg_and_png(tmp_path: Path) -> None:
    drawing = architecture.draw_layout(transformer(), "x")
    paths = svg.save_drawing(drawing, tmp_path / "new" / "a.picture")
    assert [p.name for p in paths] == ["a.picture.svg", "a.picture.png"]
    assert paths[0].read_text(encoding="utf-8") == drawing
    root = parsed(drawing)
    with Image.open(paths[1]) as image:
        assert image.width == 2 * float(root.get("width", ""))
        left, _, _, bottom = tiles(drawing)["proj_out"]
        # Clear of the name in the middle of the tile.
        pixel = image.convert("RGB").getpixel((round(2 * left + 4), round(2 * bottom - 4)))
    assert pixel == ramp(1)
    assert sorted(p.name for p in paths[0].parent.iterdir()) == ["a.picture.png", "a.picture.svg"]


def test_what_cannot_be_drawn_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"."):
        svg.save_drawing('<svg viewBox="0 0 9 9" width="9" height="9"><', tmp_path / "x")
    assert list(tmp_path.iterdir()) == []


def test_type_is_inter_and_not_a_box(tmp_path: Path) -> None:
    dark = []
    for bold in (False, True):
        canvas = svg.Canvas()
        canvas.text(10, 60, "Hamburg", 48, bold=bold)
        page = canvas.document(400, 80, label="x")
        with Image.open(svg.save_drawing(page, tmp_path / str(bold))[1]) as image:
            ink = np.asarray(image.convert("L")) < 128
        columns = np.flatnonzero(ink.any(axis=0))
        wide = text_width("Hamburg", 48, bold)
        assert abs((columns[-1] - columns[0]) / 2 - wide) < 0.03 * wide + 6
        dark.append(ink.sum())
    assert dark[1] > 1.2 * dark[0]  # semibold is another face
