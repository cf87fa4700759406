"""Axes written in Python: each function returns what a recipe file would contain.

>>> ablate.group(by="stage")
{'group': {'by': 'stage'}}
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Axis = dict[str, Any]


def _axis(form: str, **settings: Any) -> Axis:
    return {form: {key: value for key, value in settings.items() if value is not None}}


def span(first: float, last: float, step: float) -> Axis:
    """An axis of numbers from first to last, both included, by a step."""
    return {"range": [first, last], "step": step}


def linspace(first: float, last: float, count: int) -> Axis:
    """An axis of so many numbers from first to last, evenly spaced."""
    return {"linspace": [first, last, count]}


def geomspace(first: float, last: float, count: int) -> Axis:
    """An axis of so many numbers from first to last, by equal ratios."""
    return {"geomspace": [first, last, count]}


def each(modules: Any = "*", *, component: str | None = None) -> Axis:
    """An axis of modules, one at a time."""
    return _axis("each", modules=modules, component=component)


def each_head(modules: Any = "*", *, component: str | None = None) -> Axis:
    """An axis of attention heads, one at a time."""
    return _axis("each_head", modules=modules, component=component)


def each_channel(modules: Any = "*", *, component: str | None = None) -> Axis:
    """An axis of output channels, one at a time."""
    return _axis("each_channel", modules=modules, component=component)


def group(
    modules: Any = None,
    *,
    by: str | None = None,
    within: Any = None,
    component: str | None = None,
) -> Axis:
    """An axis of groups of modules.

    Args:
        modules: Which modules, a selector. Default: all.
        by: `stage`, the default, `block`, `role` or `kind`.
        within: In place of `by`, a selector of blocks: a group is the modules inside one of them.
        component: Which network. Default: the one that is edited.
    """
    return _axis("group", modules=modules, component=component, by=by, within=within)


def window(
    modules: Any = None,
    *,
    width: int,
    stride: int | None = None,
    by: str | None = None,
    within: Any = None,
    component: str | None = None,
) -> Axis:
    """An axis of windows of neighboring modules, or groups of modules, in forward order.

    Args:
        modules: Which modules, a selector. Default: all.
        width: How many modules or groups a window has.
        stride: How many further on the next window begins. Default: 1.
        by: Groups by `stage`, `block`, `role` or `kind`. Default: each module is one.
        within: In place of `by`, a selector of blocks: a group is the modules inside one of them.
        component: Which network. Default: the one that is edited.
    """
    return _axis(
        "window",
        modules=modules,
        component=component,
        by=by,
        within=within,
        width=width,
        stride=stride,
    )


def cumulative(
    modules: Any = None,
    *,
    order: str | None = None,
    seed: int | str | None = None,
    counts: Iterable[int] | Axis | None = None,
    run: str | None = None,
    component: str | None = None,
) -> Axis:
    """An axis of the first so many modules of an order.

    Args:
        modules: Which modules, a selector. Default: all.
        order: `network`, `reverse`, `random`, or `drift`, the least first.
        seed: Of `order="random"`; a number or an axis (`$name`).
        counts: How many modules at each value. Default: 1, 2, ... all.
        run: Of `order="drift"`: the folder of a run in which each module was edited in turn.
        component: Which network. Default: the one that is edited.
    """
    numbers = counts if isinstance(counts, dict) or counts is None else list(counts)
    return _axis(
        "cumulative",
        modules=modules,
        component=component,
        order=order,
        seed=seed,
        counts=numbers,
        run=run,
    )


def windows(parts: int | Sequence[dict[str, Any]]) -> Axis:
    """An axis of windows of the sampling: so many equal parts, or a list of windows."""
    return {"windows": parts}


def between(start: str, end: str, t: Iterable[float] | Axis, *, path: str | None = None) -> Axis:
    """An axis of points from one prompt (t = 0) to another (1), and beyond both.

    `path="slerp"` follows the arc between the embeddings.
    """
    numbers = t if isinstance(t, dict) else list(t)
    return {"embedding": _axis("between", **{"from": start, "to": end}, t=numbers, path=path)}


def plane(
    center: str,
    toward: Sequence[str | int],
    *,
    size: int,
    extent: float | None = None,
    zoom: Iterable[float] | None = None,
) -> Axis:
    """An axis of the points of a square of size × size around a prompt.

    Args:
        center: The prompt in the middle.
        toward: Two directions, each a prompt, reached at 1, or the seed of a random one.
        size: Points along a side, an odd number.
        extent: How far the square reaches from its center. Default: 1.
        zoom: Factors by which the middle is enlarged.
    """
    factors = None if zoom is None else list(zoom)
    points = _axis(
        "plane", center=center, toward=list(toward), extent=extent, size=size, zoom=factors
    )
    return {"embedding": points}


def random_points(
    count: int, *, seed: int | None = None, prompts: Iterable[str] | None = None
) -> Axis:
    """An axis of random points with the mean and covariance of the embeddings of prompts."""
    given = None if prompts is None else list(prompts)
    return {"embedding": _axis("random", count=count, seed=seed, prompts=given)}
