"""The map of concept space: all cells of a run as thumbnails on a plane, by image embedding.

Cells that show similar images are near to one another. Distances from the baseline are drawn by
their square root, direction kept, so that the many cells that hardly moved and the few that moved
far have room on one page; rings show the true distance. Thumbnails that would hide one another are
nudged apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.drift import (
    MeasuredCell,
    has_umap,
    principal_components,
    read_cells,
    read_embeddings,
    umap_plane,
)
from ablate.store import Run
from ablate.style import DARK, HAIRLINE, INK, MUTED, PAGE, Color, text_width
from ablate.view.chart import Area, Labels, figure
from ablate.view.errors import PictureError
from ablate.view.measures import caption, strengths
from ablate.view.svg import MARGIN, Canvas, Point

HEAD = 150  # title and what is below it
FOOT = 90
FILLED = 0.34  # share of the plane that thumbnails may cover
SMALLEST, LARGEST = 30, 112  # sides of thumbnails
MOST_STRETCHED = 1.8  # width of the plane against its height, beyond what is true
ROUNDS = 240  # of nudging
SWEEPS = 24  # at most whose ends are labeled
WORDS = 14  # concepts written on the map at most
METHODS = ("pca", "umap")


def draw_map(run: Run, method: str = "pca") -> str | None:
    """Draw the map of a run, by `pca` or `umap`.

    Returns:
        The drawing; None where embeddings of fewer than three cells are stored.

    Raises:
        PictureError: The method is another one, or `umap`, which is not installed.
    """
    if method not in METHODS:
        raise PictureError(f"there is no map by `{method}`; choose one of {' and '.join(METHODS)}")
    embeddings = read_embeddings(run)
    if embeddings is None:
        return None
    at = {key: i for i, key in enumerate(embeddings.keys)}
    cells = {cell.key: cell for cell in read_cells(run) if cell.key in at}  # each image once
    if len(cells) < 3:
        return None
    images = embeddings.images[[at[key] for key in cells]].astype(np.float64)
    shown = list(cells.values())
    plane = _pca(images, shown) if method == "pca" else _umap(images)
    eye = "CLIP" if embeddings.words else "the first of `readers`"
    return _draw(run, shown, plane, eye)


@dataclass(frozen=True)
class _Plane:
    """Cells on a plane."""

    places: np.ndarray  # across and up, shape (cells, 2)
    note: str  # how the plane came about
    hub: np.ndarray | None = None  # the place of the baseline; None where there is none, or several
    rings: Sequence[tuple[float, str]] = ()  # drawn radii around the hub, and their true distances

    @property
    def middle(self) -> np.ndarray:
        """What the crowd is piled around."""
        return self.places.mean(axis=0) if self.hub is None else self.hub


def _pca(images: np.ndarray, cells: Sequence[MeasuredCell]) -> _Plane:
    """The first two principal components, stretched near the baseline if there is one."""
    mean = images.mean(axis=0)
    basis, variance, total = principal_components(lambda: [images], mean, len(images))
    flat = (images - mean) @ basis[:2].T
    flat *= np.where(flat[np.argmax(np.abs(flat), axis=0), range(2)] < 0, -1, 1)  # one sign for all
    shares = " and ".join(f"{100 * share:.0f} %" for share in variance[:2] / max(total, 1e-12))
    note = f"Principal components: across and up, {shares} of the variance."
    bases = [i for i, cell in enumerate(cells) if cell.is_baseline]
    if len(bases) != 1:
        return _Plane(flat, note)
    hub = flat[bases[0]]
    radius = np.linalg.norm(flat - hub, axis=1, keepdims=True)
    places = (flat - hub) / np.sqrt(np.maximum(radius, 1e-9))
    steps = [step for step in (0.05, 0.2, 0.5, 1.0, 1.5) if step < 0.97 * float(radius.max())]
    return _Plane(places, note, np.zeros(2), [(math.sqrt(s), figure(s)) for s in steps])


def _umap(images: np.ndarray) -> _Plane:
    if not has_umap():
        raise PictureError(
            "a map by `umap` needs the package umap-learn; `pip install ablate[umap]` brings it,"
            " and a map by `pca` needs nothing"
        )
    places = umap_plane(images, neighbors=15, min_dist=0.3)
    return _Plane(places, "UMAP: near is alike, far is not to scale.")


def _nudged(places: np.ndarray, side: float, stray: float) -> np.ndarray:
    """The places, shape (cells, 2), of pictures of that side, moved where they hide one another.

    In a crowd pictures overlap, which are alike there, rather than move further than `stray`, in
    sides, in the mean.
    """
    for apart in (1.1, 0.9, 0.75, 0.6, 0.45):
        moved = _pushed(places, apart * side)
        if np.mean(np.linalg.norm(moved - places, axis=1)) < stray * side:
            break
    return moved


def _pushed(places: np.ndarray, distance: float) -> np.ndarray:
    """The places moved until none are nearer to one another than the distance, or nearly so."""
    golden = np.arange(len(places)) * math.pi * (3 - math.sqrt(5))
    moved = places + 0.01 * np.stack([np.cos(golden), np.sin(golden)], axis=1)  # none coincide
    pairs = np.zeros((0, 2), int)
    for turn in range(ROUNDS):
        if turn % 6 == 0:
            pairs = _close(moved, 1.6 * distance)
        apart = moved[pairs[:, 1]] - moved[pairs[:, 0]]
        length = np.linalg.norm(apart, axis=1)
        hit = length < distance
        if not hit.any():
            break
        first, second = pairs[hit].T
        share = ((distance - length[hit]) / np.maximum(length[hit], 1e-6) / 2)[:, None]
        step, count = np.zeros_like(moved), np.zeros((len(moved), 1))
        for ends, sign in ((first, -1), (second, 1)):
            np.add.at(step, ends, sign * share * apart[hit])
            np.add.at(count, ends, 1)
        home = 0.03 * (1 - turn / ROUNDS)
        moved = moved + step / np.maximum(count**0.7, 1) + home * (places - moved)
    return moved


def _close(points: np.ndarray, reach: float) -> np.ndarray:
    """Pairs of points, shape (pairs, 2), that may be within reach of one another."""
    near = np.abs(points[:, None, 0] - points[None, :, 0]) < reach
    near &= np.abs(points[:, None, 1] - points[None, :, 1]) < reach
    pairs: np.ndarray = np.argwhere(np.triu(near, 1))
    return pairs


def _draw(run: Run, cells: Sequence[MeasuredCell], plane: _Plane, eye: str) -> str:
    count = len(cells)
    wide = min(1560 + 0.5 * count, 2600)
    tall = 0.6 * wide
    side = float(np.clip(math.sqrt(FILLED * wide * tall / count), SMALLEST, LARGEST))
    low, high = plane.places.min(axis=0), plane.places.max(axis=0)
    scale = (np.array([wide, tall]) - side) / np.maximum(high - low, 1e-9)
    scale = np.minimum(scale, MOST_STRETCHED * scale.min())

    def page(points: np.ndarray) -> np.ndarray:
        flipped: np.ndarray = (points - (low + high) / 2) * scale * [1, -1]
        return flipped

    true = page(plane.places)
    paths = list(_trajectories(run, cells))
    moved = _nudged(true, side, 0.6 if paths else 1.8)
    ends = moved.min(axis=0) - side / 2, moved.max(axis=0) + side / 2
    shift = np.array([MARGIN, MARGIN + HEAD]) - ends[0]
    true, moved = true + shift, moved + shift
    width, height = (float(v) for v in ends[1] - ends[0] + 2 * MARGIN + [0, HEAD + FOOT])
    width = max(width, 1100)
    labels = Labels(
        (x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y in moved.tolist()
    )
    places = {cell.key: (x, y) for cell, (x, y) in zip(cells, moved.tolist(), strict=True)}
    canvas = Canvas()
    if plane.hub is not None:
        x, y = (page(plane.hub) + shift).tolist()
        box = (0.0, MARGIN + HEAD - 50, width, height - FOOT - 40)
        rings = [(*(radius * scale), words) for radius, words in plane.rings]
        _rings(canvas, x, y, rings, box, labels)
    strayed = np.linalg.norm(moved - true, axis=1) > 0.75 * side
    for start, end in zip(true[strayed].tolist(), moved[strayed].tolist(), strict=True):
        canvas.line([start, end], HAIRLINE)
        canvas.circle(start[0], start[1], 2.5, MUTED)
    for path in paths:
        canvas.line([places[cell.key] for cell, _ in path], MUTED, 2)
    # What moved least on top, the baseline uppermost.
    order = sorted(range(count), key=lambda i: -np.linalg.norm(plane.places[i] - plane.middle))
    order.sort(key=lambda i: cells[i].is_baseline)
    plain = all(cell.is_baseline for cell in cells)  # then none is marked as one
    for i in order:
        _thumbnail(canvas, cells[i], moved[i], side, cells[i].is_baseline and not plain)
    _label_ends(canvas, paths, places, side, labels)
    _label_concepts(canvas, cells, places, side, labels)
    notes = [f"{count} images by what they show to {eye}. {plane.note}", ""]
    if plane.rings:
        notes[1] = "Rings: distance from the baseline within this plane, drawn by its square root. "
    if strayed.any():
        notes[1] += "Pictures in crowds are moved apart."
    canvas.lines(MARGIN, height - MARGIN + 8, notes, 17, 26)
    manifest = run.manifest()
    name, about = str(manifest["name"]), str(manifest.get("about") or "")
    label = f"Map of concept space of {name}"
    return canvas.document(width, height, label=label, name=name, about=about)


def _rings(
    canvas: Canvas,
    x: float,
    y: float,
    rings: Sequence[tuple[float, float, str]],
    box: Area,
    labels: Labels,
) -> None:
    """Draw ellipses, cut off at the box, each with its distance where there is room for it.

    Args:
        rings: Radii across and down, and the label.
    """
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    view = f"{left:.0f} {top:.0f} {width:.0f} {height:.0f}"
    # An inner drawing cuts off what reaches beyond it.
    with canvas.group(tag="svg", x=left, y=top, width=width, height=height, viewBox=view):
        for rx, ry, _ in rings:
            canvas.element("ellipse", cx=x, cy=y, rx=rx, ry=ry, fill="none", stroke=HAIRLINE)
    for rx, ry, words in rings:
        angles = (0, 20, -20, 40, -40, 90, -90, 60, -60, 120, -120, 150, -150, 180)
        turns = (math.radians(angle) for angle in angles)
        spots = ((x + rx * math.cos(turn), y - ry * math.sin(turn)) for turn in turns)
        spot = labels.place(spots, (24, 12), box)
        if spot:
            _pill(canvas, spot, words, 14, MUTED)


def _thumbnail(
    canvas: Canvas, cell: MeasuredCell, at: np.ndarray, side: float, marked: bool
) -> None:
    facts = [cell.variant, f"“{cell.prompt}”, seed {cell.seed}"]
    facts += [f"{name}: {figure(value)}" for name, value in cell.drift.items()]
    if cell.concepts and cell.named:
        facts.append(f"looks like: {cell.shows} ({cell.concepts[0][1]:.0%})")
    with canvas.group("\n".join(facts), data_cell=cell.key):
        x, y = at - side / 2
        canvas.cell(cell.path, x, y, side, baseline=max(3.0, side / 22) if marked else 0)


Path = list[tuple[MeasuredCell, str]]  # cells from the baseline outward, and their labels


def _trajectories(run: Run, cells: Sequence[MeasuredCell]) -> Iterator[Path]:
    """Sweeps over a strength with all else equal."""
    known = {cell.key: cell for cell in cells}
    name = next(iter(strengths(run)), None)
    if name is None:
        return
    axes = {axis.name: axis for axis in run.axes()}
    varying = {n: len({repr(c.axes.get(n)) for c in cells if not c.is_baseline}) > 1 for n in axes}
    sweeps: dict[tuple[Any, ...], dict[float, tuple[MeasuredCell, str]]] = {}
    for cell in run.cells():
        if name in cell.axes and cell.key in known:
            rest = {n: value for n, value in cell.axes.items() if n != name}
            captions = [
                caption(axes[n], value)
                for n, value in (*rest.items(), (name, cell.axes[name]))
                if varying[n] and n != "prompt"
            ]
            sweep = sweeps.setdefault((cell.prompt, cell.seed, *map(repr, rest.items())), {})
            sweep[float(cell.axes[name])] = known[cell.key], " · ".join(captions)
    for sweep in sweeps.values():
        path = [sweep[value] for value in sorted(sweep)]
        if path[-1][0].is_baseline:  # as where weights are scaled from 0 to 1
            path.reverse()
        base = known.get(path[0][0].baseline)
        if base is not None and not path[0][0].is_baseline:
            path.insert(0, (base, ""))
        if len(path) > 2:
            yield path


def _label_ends(
    canvas: Canvas, paths: Sequence[Path], places: Mapping[str, Point], side: float, labels: Labels
) -> None:
    """Write where each sweep ends what it is a sweep of, unless there are many."""
    for path in paths if len(paths) <= SWEEPS else ():
        cell, words = path[-1]
        x, y = places[cell.key]
        half = text_width(words, 14, True) / 2 + 7, 11
        spots = [(x, y + sign * (side / 2 + 13)) for sign in (1, -1)]
        spots += [(x + sign * (side / 2 + half[0] + 2), y) for sign in (1, -1)]
        spot = labels.place(spots, half)
        if spot is None:
            spot = labels.take(spots[0], half)
        _pill(canvas, spot, words, 14, INK)


def _pill(canvas: Canvas, at: Point, words: str, size: float, color: Color) -> None:
    """Words on a little paper, centered at a place."""
    (x, y), wide = at, text_width(words, size, True) + size
    box = x - wide / 2, y - 0.8 * size, wide, 1.6 * size
    canvas.rect(*box, PAGE, rx=0.8 * size, opacity=0.9)
    canvas.text(x, y + 0.36 * size, words, size, color, bold=True, anchor="middle")


def _label_concepts(
    canvas: Canvas,
    cells: Sequence[MeasuredCell],
    places: Mapping[str, Point],
    side: float,
    labels: Labels,
) -> None:
    """Write concepts, each near the middle of the cells that show it, the most common first."""
    named: dict[str, list[Point]] = {}
    for cell in cells:
        if cell.concepts and cell.named:
            named.setdefault(cell.shows, []).append(places[cell.key])
    for word, shown in sorted(named.items(), key=lambda item: (-len(item[1]), item[0]))[:WORDS]:
        size = 18.0 + 4 * math.log10(len(shown))
        half, tall = text_width(word, size, True) / 2 + size / 2, 0.8 * size
        middle = np.median(shown, axis=0)
        # Beside one of its pictures, where nothing is hidden, as near to the middle as can be.
        spots = [
            (x + dx * (side / 2 + half + 6), y + dy * (side / 2 + tall + 6))
            for x, y in shown
            for dx, dy in ((0, -1), (0, 1), (1, 0), (-1, 0), (0.6, -1), (-0.6, -1), (1, -1))
        ]
        spots.sort(key=lambda spot: math.dist(spot, middle))
        spot = labels.place(spots, (half, tall))
        if spot:
            _pill(canvas, spot, word, size, DARK)
