"""The map of concept space: all cells of a run as thumbnails on a plane, by image embedding.

Cells that show alike lie close together. Distances from the baseline are drawn by their square
root, direction kept, so that the many cells that hardly moved and the few that moved far have room
on one page; rings tell the true distance. Thumbnails that would hide one another are nudged apart.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ablate.drift import MeasuredCell, read_cells, read_embeddings
from ablate.store import Run
from ablate.style import ACCENT, DARK, HAIRLINE, INK, MUTED, PAGE
from ablate.view import svg as drawing
from ablate.view.errors import PictureError
from ablate.view.scales import caption, figure, strengths

MARGIN = 80
HEAD = 150  # title and what is below it
FOOT = 90
FILLED = 0.34  # share of the plane that thumbnails may cover
SMALLEST, LARGEST = 30, 112  # sides of thumbnails
MOST_STRETCHED = 1.8  # width of the plane against its height, beyond what is true
ROUNDS = 240  # of nudging
SEED = 0  # of UMAP
TOLD = 24  # sweeps at most whose ends are written
WORDS = 14  # concepts written on the map at most
METHODS = ("pca", "umap")


def draw_map(run: Run, method: str = "pca") -> str | None:
    """The map of a run, by `pca` or `umap`; None where no embeddings are stored.

    Raises `PictureError` for another method, or when `umap` is asked for and not installed.
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
    return _draw(run, shown, plane)


@dataclass(frozen=True)
class _Plane:
    """`places`: (cells, 2), up is positive. `rings`: drawn radii and true distances about `hub`."""

    places: np.ndarray
    note: str
    hub: np.ndarray | None
    rings: Sequence[tuple[float, str]]

    @property
    def middle(self) -> np.ndarray:
        """What the crowd is piled around."""
        return self.places.mean(axis=0) if self.hub is None else self.hub


def _pca(images: np.ndarray, cells: Sequence[MeasuredCell]) -> _Plane:
    """The first two principal components, stretched near the baselines."""
    centered = images - images.mean(axis=0)
    left, singular, _ = np.linalg.svd(centered, full_matrices=False)
    variance = singular**2 / max(float((singular**2).sum()), 1e-12)
    flat = left[:, :2] * singular[:2]
    flat *= np.where(flat[np.argmax(np.abs(flat), axis=0), range(2)] < 0, -1, 1)  # one sign for all
    shares = " and ".join(f"{100 * share:.0f} %" for share in variance[:2])
    note = f"Principal components: across and up, {shares} of the variance."
    bases = [i for i, cell in enumerate(cells) if cell.is_baseline]
    if len(bases) != 1:
        return _Plane(flat, note, None, ())
    hub = flat[bases[0]]
    radius = np.linalg.norm(flat - hub, axis=1, keepdims=True)
    places = (flat - hub) / np.sqrt(np.maximum(radius, 1e-9))
    steps = [step for step in (0.05, 0.2, 0.5, 1.0, 1.5) if step < 0.97 * float(radius.max())]
    return _Plane(places, note, np.zeros(2), [(math.sqrt(s), figure(s)) for s in steps])


def _umap(images: np.ndarray) -> _Plane:
    """UMAP (McInnes et al. 2018) by cosine distance, the same every time."""
    try:
        from umap import UMAP
    except ModuleNotFoundError:
        raise PictureError(
            "a map by `umap` needs the package umap-learn; `pip install ablate[umap]` brings it,"
            " and a map by `pca` needs nothing"
        ) from None
    near = min(15, len(images) - 1)
    made = UMAP(n_neighbors=near, min_dist=0.3, metric="cosine", random_state=SEED, n_jobs=1)
    places = np.asarray(made.fit_transform(images.astype(np.float32)), dtype=np.float64)
    return _Plane(places, "UMAP: near is alike, far is not to scale.", None, ())


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
    """Pairs of points, shape (pairs, 2), that may lie within reach of one another."""
    near = np.abs(points[:, None, 0] - points[None, :, 0]) < reach
    near &= np.abs(points[:, None, 1] - points[None, :, 1]) < reach
    pairs: np.ndarray = np.argwhere(np.triu(near, 1))
    return pairs


def _draw(run: Run, cells: Sequence[MeasuredCell], plane: _Plane) -> str:
    count = len(cells)
    wide = min(1560 + 0.5 * count, 2600)
    tall = 0.6 * wide
    side = float(np.clip(math.sqrt(FILLED * wide * tall / count), SMALLEST, LARGEST))
    low, high = plane.places.min(axis=0), plane.places.max(axis=0)
    room = np.array([wide, tall]) - side
    scale = room / np.maximum(high - low, 1e-9)
    scale = np.minimum(scale, MOST_STRETCHED * scale.min())

    def page(points: np.ndarray) -> np.ndarray:
        moved: np.ndarray = (points - (low + high) / 2) * scale * [1, -1]
        return moved

    true = page(plane.places)
    paths = list(_trajectories(run, cells))
    moved = _nudged(true, side, 0.6 if paths else 1.8)
    ends = moved.min(axis=0) - side / 2, moved.max(axis=0) + side / 2
    shift = np.array([MARGIN, MARGIN + HEAD]) - ends[0]
    true, moved = true + shift, moved + shift
    width, height = (float(v) for v in ends[1] - ends[0] + 2 * MARGIN + [0, HEAD + FOOT])
    width = max(width, 1100)
    taken = [(x - side / 2, y - side / 2, x + side / 2, y + side / 2) for x, y in moved.tolist()]
    places = {cell.key: (x, y) for cell, (x, y) in zip(cells, moved.tolist(), strict=True)}
    drawn = []
    if plane.hub is not None:
        hub = page(plane.hub) + shift
        box = (0.0, MARGIN + HEAD - 50, width, height - FOOT - 40)
        rings = [(*(radius * scale), words) for radius, words in plane.rings]
        drawn.append(_rings(float(hub[0]), float(hub[1]), rings, box, taken))
    strayed = np.linalg.norm(moved - true, axis=1)
    for at, now, far in zip(true.tolist(), moved.tolist(), strayed, strict=True):
        if far > 0.75 * side:
            drawn.append(drawing.line([at, now], HAIRLINE))
            drawn.append(drawing.element("circle", cx=at[0], cy=at[1], r=2.5, fill=MUTED))
    drawn += [drawing.line([places[c.key] for c, _ in path], MUTED, 2) for path in paths]
    # What moved least on top, the baseline uppermost.
    order = sorted(range(count), key=lambda i: -np.linalg.norm(plane.places[i] - plane.middle))
    order.sort(key=lambda i: cells[i].is_baseline)
    plain = all(cell.is_baseline for cell in cells)  # then none stands out as one
    drawn += [
        _thumbnail(cells[i], moved[i], side, cells[i].is_baseline and not plain) for i in order
    ]
    drawn += _ends(paths, places, side, taken)
    drawn += _words(cells, places, side, taken)
    manifest = run.manifest()
    name, about = str(manifest["name"]), str(manifest.get("about") or "")
    return drawing.document(
        width, height, drawing.header(name, about, MARGIN, width - 2 * MARGIN), *drawn,
        _footer(plane, count, bool(np.any(strayed > 0.75 * side)), height),
        label=f"Map of concept space of {name}",
    )  # fmt: skip


def _footer(plane: _Plane, count: int, crowded: bool, height: float) -> str:
    lines = [f"{count} images by what they show to CLIP. {plane.note}", ""]
    if plane.rings:
        lines[1] = "Rings: distance from the baseline within this plane, drawn by its square root. "
    if crowded:
        lines[1] += "Pictures in crowds are moved apart."
    return "".join(
        drawing.text(MARGIN, height - MARGIN + 8 + 26 * i, line, 17, MUTED)
        for i, line in enumerate(lines)
    )


Area = tuple[float, float, float, float]  # left, top, right, bottom


def _rings(
    x: float,
    y: float,
    rings: Sequence[tuple[float, float, str]],
    box: Area,
    taken: list[Area],
) -> str:
    """Ellipses, cut off at the box, each with its distance where there is room for it."""
    left, top, right, bottom = box
    ellipses, words = [], []
    for rx, ry, told in rings:
        ellipses.append(
            drawing.element("ellipse", cx=x, cy=y, rx=rx, ry=ry, fill="none", stroke=HAIRLINE)
        )
        for degrees in (0, 20, -20, 40, -40, 90, -90, 60, -60, 120, -120, 150, -150, 180):
            at = x + rx * math.cos(math.radians(degrees))
            up = y - ry * math.sin(math.radians(degrees))
            area = (at - 24, up - 12, at + 24, up + 12)
            inside = left < area[0] and area[2] < right and top < area[1] and area[3] < bottom
            if inside and not _covered(area, taken):
                words.append(_pill(at, up, told, 14, MUTED))
                taken.append(area)
                break
    # An inner drawing cuts off what reaches beyond it.
    inner = drawing.element(
        "svg", *ellipses, x=left, y=top, width=right - left, height=bottom - top,
        viewBox=f"{left:.0f} {top:.0f} {right - left:.0f} {bottom - top:.0f}",
    )  # fmt: skip
    return inner + "".join(words)


def _covered(area: Area, taken: Sequence[Area]) -> bool:
    left, top, right, bottom = area
    return any(left < c and a < right and top < d and b < bottom for a, b, c, d in taken)


def _thumbnail(cell: MeasuredCell, at: np.ndarray, side: float, marked: bool) -> str:
    x, y = at[0] - side / 2, at[1] - side / 2
    told = [cell.variant, f"“{cell.prompt}”, seed {cell.seed}"]
    told += [f"{name}: {figure(value)}" for name, value in cell.drift.items()]
    if cell.concepts:
        told.append(f"looks like: {cell.concepts[0][0]} ({cell.concepts[0][1]:.0%})")
    drawn = drawing.picture(cell.path, x, y, side, side)
    if marked:
        thick = max(3.0, side / 22)
        drawn += drawing.frame(x - 1, y - 1, side + 2, side + 2, ACCENT, thick)
    else:
        drawn += drawing.frame(x, y, side, side, HAIRLINE, 1)
    return drawing.element("g", drawing.tooltip("\n".join(told)), drawn, data_cell=cell.key)


Path = list[tuple[MeasuredCell, str]]  # cells from the baseline outward, and their strength


def _trajectories(run: Run, cells: Sequence[MeasuredCell]) -> Iterator[Path]:
    """Sweeps over a strength with all else equal."""
    known = {cell.key: cell for cell in cells}
    name = next(iter(strengths(run)), None)
    if name is None:
        return
    axes = {axis.name: axis for axis in run.axes()}
    varying = {n: len({repr(c.axes.get(n)) for c in cells if not c.is_baseline}) > 1 for n in axes}
    sweeps: dict[tuple[Any, ...], dict[float, Path]] = {}
    for cell in run.cells():
        if name in cell.axes and cell.key in known:
            rest = {n: value for n, value in cell.axes.items() if n != name}
            told = [
                caption(axes[n], value)
                for n, value in (*rest.items(), (name, cell.axes[name]))
                if varying[n] and n != "prompt"
            ]
            sweep = sweeps.setdefault((cell.prompt, cell.seed, *map(repr, rest.items())), {})
            sweep[float(cell.axes[name])] = [(known[cell.key], " · ".join(told))]
    for sweep in sweeps.values():
        path = [sweep[value][0] for value in sorted(sweep)]
        if path[-1][0].is_baseline:  # as where weights are scaled from 0 to 1
            path.reverse()
        base = known.get(path[0][0].baseline)
        if base is not None and not path[0][0].is_baseline:
            path.insert(0, (base, ""))
        if len(path) > 2:
            yield path


def _ends(
    paths: Sequence[Path],
    places: Mapping[str, tuple[float, float]],
    side: float,
    taken: list[Area],
) -> list[str]:
    """What each sweep comes to, written where it ends."""
    drawn: list[str] = []
    if len(paths) > TOLD:
        return drawn
    for path in paths:
        cell, words = path[-1]
        x, y = places[cell.key]
        half = drawing.length(words, 14, True) / 2 + 7
        spots = [(x, y + sign * (side / 2 + 13)) for sign in (1, -1)]
        spots += [(x + sign * (side / 2 + half + 2), y) for sign in (1, -1)]
        areas = [(a - half, b - 11, a + half, b + 11) for a, b in spots]
        free = [i for i, area in enumerate(areas) if not _covered(area, taken)]
        at = free[0] if free else 0
        taken.append(areas[at])
        drawn.append(_pill(*spots[at], words, 14, INK))
    return drawn


def _pill(x: float, y: float, words: str, size: float, color: tuple[int, int, int]) -> str:
    """Words on a little paper, centered at a place."""
    wide = drawing.length(words, size, True) + size
    return drawing.rect(
        x - wide / 2, y - 0.8 * size, wide, 1.6 * size, PAGE, rx=0.8 * size, opacity=0.9
    ) + drawing.text(x, y + 0.36 * size, words, size, color, bold=True, anchor="middle")


def _words(
    cells: Sequence[MeasuredCell],
    places: Mapping[str, tuple[float, float]],
    side: float,
    taken: list[Area],
) -> list[str]:
    """Concepts, each near the middle of the cells that are named by it, the commonest first."""
    named: dict[str, list[tuple[float, float]]] = {}
    for cell in cells:
        if cell.concepts:
            named.setdefault(cell.concepts[0][0], []).append(places[cell.key])
    drawn = []
    for word, found in sorted(named.items(), key=lambda item: (-len(item[1]), item[0]))[:WORDS]:
        size = 18.0 + 4 * math.log10(len(found))
        half, tall = drawing.length(word, size, True) / 2 + size / 2, 0.8 * size
        middle = np.median(found, axis=0)
        # Beside one of its pictures, where nothing is hidden, as near to the middle as can be.
        spots = [
            (x + dx * (side / 2 + half + 6), y + dy * (side / 2 + tall + 6))
            for x, y in found
            for dx, dy in ((0, -1), (0, 1), (1, 0), (-1, 0), (0.6, -1), (-0.6, -1), (1, -1))
        ]
        areas = [(x - half, y - tall, x + half, y + tall) for x, y in spots]
        free = [i for i, area in enumerate(areas) if not _covered(area, taken)]
        if free:
            at = min(free, key=lambda i: math.dist(spots[i], middle))
            taken.append(areas[at])
            drawn.append(_pill(*spots[at], word, size, DARK))
    return drawn
