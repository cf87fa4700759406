"""Animations of a run over any axis: WebP, GIF, or MP4.

    >>> animations.save(Run("outputs/mix-noise-everywhere"), over="amount")
    PosixPath('outputs/mix-noise-everywhere/amount.webp')

Each value of the axis is a frame; the other axes with several values are a grid within it.
"""

from __future__ import annotations

import difflib
import itertools
import math
import os
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from ablate.store import Axis, Run, StoredCell
from ablate.style import ACCENT, DARK, HAIRLINE, INK, MUTED, PAGE, VACANT, clean, typeface, wrap
from ablate.view.errors import PictureError
from ablate.view.measures import caption

FORMATS = (".webp", ".gif", ".mp4")
MOST = 64  # pictures in a frame
WIDEST = 1600  # pixels of a frame; larger pictures shrink
GOAL = 512  # pixels that the pictures of a frame are wide at least
GAP = 10
MARGIN = 28
HELD = 6  # frames that the first and the last stand for


def save_animation(
    run: Run,
    over: str,
    path: Path | None = None,
    *,
    where: Mapping[str, Any] | None = None,
    fps: float = 8,
) -> Path:
    """Write an animation over the values of an axis; its suffix says the format.

    `path`: `<over>.webp` in the run's folder unless given. `where`: values, or how they are
    written, that other axes are held at. `fps`: frames a second. Raises `PictureError` for an
    axis, value or format that there is not, for more pictures in a frame than one can see, for a
    run without finished cells, and for MP4 without imageio-ffmpeg.
    """
    axes = {axis.name: axis for axis in run.axes()}
    _known(over, axes, f"the run has no axis `{over}`")
    held = {name: _held(axes, name, value) for name, value in (where or {}).items()}
    name = re.sub(r"[^\w.-]", "_", over)
    path = run.folder / f"{name}.webp" if path is None else Path(path)
    if path.suffix.lower() not in FORMATS:
        raise PictureError(f"{path.name}: an animation ends in {', '.join(FORMATS)}")
    if over in held:
        raise PictureError(f"the animation runs over `{over}`, which cannot be held at one value")
    if not fps > 0:
        raise PictureError(f"an animation has more than {fps} frames a second")
    scene = _scene(run, axes, over, held)
    frames = [scene.frame(i) for i in range(len(scene.values))]
    _write(frames, path, fps)
    return path


def _known(name: str, known: Collection[str], problem: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, 1)
        hint = f", did you mean `{near[0]}`?" if near else f"; it has {', '.join(known)}"
        raise PictureError(f"{problem}{hint}")


def _held(axes: Mapping[str, Axis], name: str, value: Any) -> Any:
    """The value of an axis that is meant, given as such or as it is written."""
    _known(name, axes, f"the run has no axis `{name}`")
    axis = axes[name]
    if value in axis.values:
        return value
    _known(str(value), axis.labels, f"axis `{name}` has no value `{value}`")
    return axis.values[axis.labels.index(str(value))]


@dataclass(frozen=True)
class _Scene:
    """What all frames have in common. `grid`: by frame, rows of cells; None where none is.
    `plain`: all are baselines, so that none is shown as one."""

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
            draw.rectangle((x, y, x + wide - 1, y + high - 1), DARK)
            middle = (x + wide // 2, y + high // 2)
            draw.text(middle, "NaN", PAGE, typeface(max(14, wide // 7), True), anchor="mm")
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
        """The value that this frame shows, and how far along the axis it lies."""
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


def _scene(run: Run, axes: Mapping[str, Axis], over: str, held: Mapping[str, Any]) -> _Scene:
    places: dict[tuple[Any, ...], StoredCell] = {}
    seen: dict[str, set[int]] = {name: set() for name in axes}
    for cell in run.cells():
        values = {"prompt": cell.prompt, "seed": cell.seed, **cell.axes}
        if axes.keys() <= values.keys() and all(values[n] == v for n, v in held.items()):
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
            f"a frame would hold {count} pictures, and {MOST} can be seen; hold some of these"
            f" axes at one value by `where`: {listed}"
        )
    rows, columns = _sides(several, {name: len(seen[name]) for name in several})

    def combinations(names: Sequence[str]) -> list[dict[str, int]]:
        product = itertools.product(*(sorted(seen[name]) for name in names))
        return [dict(zip(names, indices, strict=True)) for indices in product]

    def label(one: Mapping[str, int]) -> str:
        return " · ".join(caption(axes[n], axes[n].values[i]) for n, i in one.items())

    fixed = {name: min(seen[name]) for name in axes if seen[name]}
    frames = sorted(seen[over])
    grid = []
    for index in frames:
        lines = [
            [{**fixed, **row, **column, over: index} for column in combinations(columns)]
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
        sides=[_cut(label(one)) for one in combinations(rows)] if rows else [],
        tile=tile,
        resample=resample,
        plain=all(cell.is_baseline for cell in places.values()),
    )


def _cut(text: str) -> str:
    (line,) = wrap(text, typeface(18), 260, 1) or [""]
    return line


def _sides(several: Sequence[str], counts: Mapping[str, int]) -> tuple[list[str], list[str]]:
    """Axes of the rows and of the columns, so that a frame is rather wide than tall."""
    rows: list[str] = []
    columns: list[str] = []
    for name in sorted(several, key=lambda n: -counts[n]):
        across = math.prod(counts[n] for n in columns)
        (rows if name == "prompt" or (across >= 5 and len(several) > 1) else columns).append(name)
    return rows, columns


def _tile(sizes: Sequence[tuple[int, int]], across: int) -> tuple[tuple[int, int], Any]:
    """The size that pictures are shown at, and how they are brought to it."""
    wide, high = max(w for w, _ in sizes), max(h for _, h in sizes)
    if across * wide > WIDEST:
        scale = WIDEST / (across * wide)
        return (round(wide * scale), round(high * scale)), Image.Resampling.LANCZOS
    factor = max(1, min(math.ceil(GOAL / (across * wide)), WIDEST // (across * wide), 8))
    return (wide * factor, high * factor), Image.Resampling.NEAREST


def _write(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    last = len(frames) - 1
    times = [round(1000 / fps * (HELD if i in (0, last) else 1)) for i in range(len(frames))]
    try:
        match path.suffix.lower():
            case ".webp":
                frames[0].save(
                    temporary, "WEBP", save_all=True, append_images=frames[1:], duration=times,
                    loop=0, quality=90, method=4, minimize_size=False,
                )  # fmt: skip
            case ".gif":
                flat = _flattened(frames)
                flat[0].save(
                    temporary, "GIF", save_all=True, append_images=flat[1:], duration=times,
                    loop=0, optimize=False, disposal=1,
                )  # fmt: skip
            case _:
                _write_video(frames, temporary, fps)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


EXACT = (PAGE, INK, MUTED, HAIRLINE, ACCENT, VACANT)  # colors that a palette keeps as they are


def _flattened(frames: Sequence[Image.Image]) -> list[Image.Image]:
    """Frames with one palette for all of them, so that colors that stay do not flicker."""
    some = frames[:: max(1, len(frames) // 24)]
    size = (some[0].width // 2, some[0].height // 2)
    board = Image.new("RGB", (size[0], len(some) * size[1]))
    for i, frame in enumerate(some):
        board.paste(frame.resize(size), (0, i * size[1]))
    free = 256 - len(EXACT)
    found = (board.quantize(free, Image.Quantize.MEDIANCUT).getpalette() or [])[: 3 * free]
    found += [0] * (3 * free - len(found))  # of frames with few colors
    palette = Image.new("P", (1, 1))
    palette.putpalette([*found, *(part for color in EXACT for part in color)])
    return [_flat(frame, palette, free) for frame in frames]


def _flat(frame: Image.Image, palette: Image.Image, free: int) -> Image.Image:
    flat = frame.quantize(palette=palette, dither=Image.Dither.NONE)
    pixels, indices = np.asarray(frame), np.array(flat)
    for i, color in enumerate(EXACT):  # Pillow's nearest is only about the nearest
        indices[(pixels == color).all(axis=-1)] = free + i
    exact = Image.fromarray(indices, "P")
    exact.putpalette(palette.getpalette() or [])
    return exact


def _write_video(frames: Sequence[Image.Image], path: Path, fps: float) -> None:
    """H.264 that every browser plays."""
    try:
        import imageio_ffmpeg
    except ModuleNotFoundError:
        raise PictureError(
            "an MP4 needs the package imageio-ffmpeg; `pip install ablate[video]` brings it,"
            " and WebP and GIF need nothing"
        ) from None
    writer = imageio_ffmpeg.write_frames(
        str(path), frames[0].size, fps=fps, codec="libx264", quality=8, macro_block_size=2
    )
    writer.send(None)
    last = len(frames) - 1
    for i, frame in enumerate(frames):
        for _ in range(HELD if i in (0, last) else 1):
            writer.send(frame.tobytes())
    writer.close()
