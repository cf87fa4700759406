"""Animations of a run over any axis: WebP, GIF, or MP4.

    >>> save_animation(Run("outputs/mix-noise-everywhere"), over="amount")
    PosixPath('outputs/mix-noise-everywhere/amount.webp')

Each value of the axis is a frame; the other axes with several values form a grid within it.
"""

from __future__ import annotations

import itertools
import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ablate.messages import did_you_mean
from ablate.store import Axis, Run, StoredCell, atomic_write
from ablate.style import ACCENT, HAIRLINE, INK, MUTED, PAGE, VACANT, clean, typeface, wrap
from ablate.view.errors import PictureError
from ablate.view.measures import caption
from ablate.view.page import nan_tile

FORMATS = (".webp", ".gif", ".mp4")
MOST = 64  # pictures in a frame
WIDEST = 1600  # pixels that the pictures of a frame are wide together at most
NARROWEST = 512  # and at least
GAP = 10
MARGIN = 28
PAUSE = 6  # the first and the last value are shown as long as this many others


def save_animation(
    run: Run,
    over: str,
    path: Path | None = None,
    *,
    where: Mapping[str, Any] | None = None,
    fps: float = 8,
) -> Path:
    """Write an animation over the values of an axis and return its path.

    Args:
        run: A run with at least one finished cell.
        over: The axis; each of its values is a frame.
        path: The file, whose suffix is the format; `<over>.webp` in the run's folder by default.
        where: Other axes that are fixed at one value, given as such or as its label.
        fps: Frames a second.

    Raises:
        PictureError: There is no such axis, value or format, a frame would have too many pictures,
            no cell is finished, or imageio-ffmpeg, which MP4 needs, is not installed.
    """
    axes = {axis.name: axis for axis in run.axes()}
    _check_name(over, axes, f"the run has no axis `{over}`")
    fixed = {name: _value(axes, name, value) for name, value in (where or {}).items()}
    path = path or run.folder / (re.sub(r"[^\w.-]", "_", over) + ".webp")
    if path.suffix.lower() not in FORMATS:
        raise PictureError(f"{path.name}: an animation ends in {', '.join(FORMATS)}")
    if over in fixed:
        raise PictureError(f"the animation runs over `{over}`, which cannot be fixed at one value")
    if not fps > 0:
        raise PictureError(f"an animation has more than {fps} frames a second")
    scene = _scene(run, axes, over, fixed)
    frames = [scene.frame(i) for i in range(len(scene.values))]
    _write(frames, path, fps)
    return path


def _check_name(name: str, known: Collection[str], problem: str) -> None:
    if name not in known:
        hint = did_you_mean(name, known) or f"; it has {', '.join(known)}"
        raise PictureError(f"{problem}{hint}")


def _value(axes: Mapping[str, Axis], name: str, value: Any) -> Any:
    """The value of an axis, given as such or as its label."""
    _check_name(name, axes, f"the run has no axis `{name}`")
    axis = axes[name]
    if value in axis.values:
        return value
    _check_name(str(value), axis.labels, f"axis `{name}` has no value `{value}`")
    return axis.values[axis.labels.index(str(value))]


@dataclass(frozen=True)
class _Scene:
    """All that frames are drawn from.

    Attributes:
        axis: The axis that the animation runs over.
        values: Its values, a frame each.
        grid: The cells by frame, row and column; None where there is none.
        heads: A label for each column.
        sides: A label for each row.
        tile: Width and height of a picture.
        resample: How images are brought to that size.
        plain: Whether all cells are baselines, so that none is marked as one.
    """

    axis: Axis
    values: Sequence[Any]
    grid: Sequence[Sequence[Sequence[StoredCell | None]]]
    heads: Sequence[str]
    sides: Sequence[str]
    tile: tuple[int, int]
    resample: Image.Resampling
    plain: bool

    def frame(self, index: int) -> Image.Image:
        """A frame, RGB."""
        (wide, high), rows = self.tile, self.grid[index]
        type_ = typeface(18)
        side = max((round(type_.getlength(s)) for s in self.sides), default=0)
        side += 16 if side else 0
        top = 30 if any(self.heads) else 0
        left = MARGIN + side
        across = len(rows[0]) * (wide + GAP) - GAP
        down = len(rows) * (high + GAP) - GAP
        width = left + across + MARGIN
        height = MARGIN + top + down + 92 + MARGIN // 2
        # Encoders of video want even sides.
        page = Image.new("RGB", (width + width % 2, height + height % 2), PAGE)
        draw = ImageDraw.Draw(page)
        for j, head in enumerate(self.heads):
            fitting = wrap(head, type_, wide, 1) or [""]
            at = (left + j * (wide + GAP), MARGIN + 12)
            draw.text(at, fitting[0], MUTED, type_, anchor="ls")
        for i, row in enumerate(rows):
            y = MARGIN + top + i * (high + GAP)
            if self.sides:
                draw.text((MARGIN, y + high // 2), self.sides[i], MUTED, type_, anchor="lm")
            for j, cell in enumerate(row):
                self._paste(page, cell, left + j * (wide + GAP), y)
        self._progress(draw, index, left, left + across, MARGIN + top + down)
        return page

    def _paste(self, page: Image.Image, cell: StoredCell | None, x: int, y: int) -> None:
        draw, (wide, high) = ImageDraw.Draw(page), self.tile
        if cell is None or not cell.done:
            draw.rectangle((x, y, x + wide - 1, y + high - 1), VACANT, HAIRLINE)
            return
        if cell.record().get("state", "ok") != "ok":
            page.paste(nan_tile(wide, high), (x, y))
            return
        image = cell.image()
        scale = min(wide / image.width, high / image.height)
        size = (round(image.width * scale), round(image.height * scale))
        page.paste(image.resize(size, self.resample), (x + (wide - size[0]) // 2, y))
        if cell.is_baseline and not self.plain:
            draw.rectangle((x - 4, y - 4, x + wide + 3, y + high + 3), outline=ACCENT, width=3)

    def _progress(
        self, draw: ImageDraw.ImageDraw, index: int, left: int, right: int, y: int
    ) -> None:
        """Draw the value of this frame and its position on the axis."""
        name, value = f"{clean(self.axis.name)} ", clean(self.axis.label(self.values[index]))
        plain, strong = typeface(26), typeface(26, True)
        draw.text((left, y + 46), name, MUTED, plain, anchor="ls")
        x = left + plain.getlength(name)
        (shown,) = wrap(value, strong, right - x, 1) or [""]
        draw.text((x, y + 46), shown, INK, strong, anchor="ls")
        draw.line((left, y + 72, right - 1, y + 72), HAIRLINE, 3)
        at = left + (right - 1 - left) * index / max(1, len(self.values) - 1)
        draw.line((left, y + 72, at, y + 72), INK, 3)
        draw.ellipse((at - 7, y + 65, at + 7, y + 79), INK)


def _scene(run: Run, axes: Mapping[str, Axis], over: str, fixed: Mapping[str, Any]) -> _Scene:
    places: dict[tuple[Any, ...], StoredCell] = {}
    seen: dict[str, set[int]] = {name: set() for name in axes}
    for cell in run.cells():
        values = cell.values
        if axes.keys() <= values.keys() and all(values[n] == v for n, v in fixed.items()):
            at = {name: axis.values.index(values[name]) for name, axis in axes.items()}
            places[tuple(at.values())] = cell
            for name, index in at.items():
                seen[name].add(index)
    if not any(cell.done for cell in places.values()):
        raise PictureError(f"{run.folder} has no finished cells to show yet")
    several = [name for name in axes if name != over and len(seen[name]) > 1]
    count = math.prod(len(seen[name]) for name in several)
    if count > MOST:
        listed = ", ".join(f"`{name}` ({len(seen[name])} values)" for name in several)
        raise PictureError(
            f"a frame would have {count} pictures, and {MOST} can be seen; fix some of these"
            f" axes at one value by `where`: {listed}"
        )
    rows, columns = _sides(several, {name: len(seen[name]) for name in several})

    def combinations(names: Sequence[str]) -> list[dict[str, int]]:
        product = itertools.product(*(sorted(seen[name]) for name in names))
        return [dict(zip(names, indices, strict=True)) for indices in product]

    def label(one: Mapping[str, int]) -> str:
        return " · ".join(caption(axes[n], axes[n].values[i]) for n, i in one.items())

    first = {name: min(seen[name]) for name in axes if seen[name]}
    frames = sorted(seen[over])
    grid = []
    for index in frames:
        lines = [
            [{**first, **row, **column, over: index} for column in combinations(columns)]
            for row in combinations(rows)
        ]
        grid.append([[places.get(tuple(at[n] for n in axes)) for at in line] for line in lines])
    sizes = [cell.image().size for cell in places.values() if cell.done]
    tile, resample = _tile(sizes, len(grid[0][0]))
    return _Scene(
        axis=axes[over],
        values=[axes[over].values[i] for i in frames],
        grid=grid,
        heads=[label(one) for one in combinations(columns)] if columns else [],
        sides=[_shorten(label(one)) for one in combinations(rows)] if rows else [],
        tile=tile,
        resample=resample,
        plain=all(cell.is_baseline for cell in places.values()),
    )


def _shorten(text: str) -> str:
    (line,) = wrap(text, typeface(18), 260, 1) or [""]
    return line


def _sides(several: Sequence[str], counts: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Distribute axes over rows and columns, such that a frame is wide rather than tall."""
    rows: list[str] = []
    columns: list[str] = []
    for name in sorted(several, key=lambda n: -counts[n]):
        across = math.prod(counts[n] for n in columns)
        (rows if name == "prompt" or (across >= 5 and len(several) > 1) else columns).append(name)
    return rows, columns


def _tile(sizes: Sequence[tuple[int, int]], across: int) -> tuple[tuple[int, int], Any]:
    """The size of all pictures, and how images are brought to it."""
    wide, high = max(w for w, _ in sizes), max(h for _, h in sizes)
    if across * wide > WIDEST:
        scale = WIDEST / (across * wide)
        return (round(wide * scale), round(high * scale)), Image.Resampling.LANCZOS
    factor = max(1, min(math.ceil(NARROWEST / (across * wide)), WIDEST // (across * wide), 8))
    return (wide * factor, high * factor), Image.Resampling.NEAREST


def _write(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    last = len(frames) - 1
    times = [round(1000 / fps * (PAUSE if i in (0, last) else 1)) for i in range(len(frames))]
    with atomic_write(path) as temporary:
        match path.suffix.lower():
            case ".webp":
                frames[0].save(
                    temporary, "WEBP", save_all=True, append_images=frames[1:], duration=times,
                    loop=0, quality=90, method=4, minimize_size=False,
                )  # fmt: skip
            case ".gif":
                flat = _with_one_palette(frames)
                flat[0].save(
                    temporary, "GIF", save_all=True, append_images=flat[1:], duration=times,
                    loop=0, optimize=False, disposal=1,
                )  # fmt: skip
            case _:
                _write_video(frames, temporary, fps)


EXACT = (PAGE, INK, MUTED, HAIRLINE, ACCENT, VACANT)  # colors that a palette keeps as they are


def _with_one_palette(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Reduce frames to one palette for all of them, so that constant colors do not flicker."""
    some = frames[:: max(1, len(frames) // 24)]
    size = (some[0].width // 2, some[0].height // 2)
    board = Image.new("RGB", (size[0], len(some) * size[1]))
    for i, frame in enumerate(some):
        board.paste(frame.resize(size), (0, i * size[1]))
    free = 256 - len(EXACT)
    colors = (board.quantize(free, Image.Quantize.MEDIANCUT).getpalette() or [])[: 3 * free]
    colors += [0] * (3 * free - len(colors))  # of frames with few colors
    palette = Image.new("P", (1, 1))
    palette.putpalette([*colors, *(part for color in EXACT for part in color)])
    return [_reduce(frame, palette, free) for frame in frames]


def _reduce(frame: Image.Image, palette: Image.Image, free: int) -> Image.Image:
    flat = frame.quantize(palette=palette, dither=Image.Dither.NONE)
    pixels, indices = np.asarray(frame), np.array(flat)
    for i, color in enumerate(EXACT):  # Pillow's nearest color is approximate
        indices[(pixels == color).all(axis=-1)] = free + i
    exact = Image.fromarray(indices, "P")
    exact.putpalette(palette.getpalette() or [])
    return exact


def _write_video(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    """H.264 that every browser plays."""
    try:
        import imageio_ffmpeg  # optional
    except ModuleNotFoundError:
        raise PictureError(
            "an MP4 needs the package imageio-ffmpeg; `pip install ablate[video]` brings it,"
            " and WebP and GIF need nothing"
        ) from None
    writer = imageio_ffmpeg.write_frames(
        str(path), frames[0].size, fps=fps, codec="libx264", quality=8, macro_block_size=2,
        output_params=["-f", "mp4"],  # the temporary's name does not end in it
    )  # fmt: skip
    writer.send(None)
    for i, frame in enumerate(frames):
        for _ in range(PAUSE if i in (0, len(frames) - 1) else 1):
            writer.send(frame.tobytes())
    writer.close()
