"""Layers: the modules and blocks of a network whose units are recorded, and how they are heard."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ablate.network import (
    Catalog,
    ModuleInfo,
    ScopeError,
    Selector,
    channel_dim,
    heads_of,
    is_out_projection,
    select,
    tensors,
)

# What a nonlinearity reads or gives inside of ResNets and of the MLPs of transformers, by the names
# that diffusers and transformers give them: the hidden units of a network. Their outputs can be
# zeroed without a trace, which is not so of what is added to the stream between blocks. Of an MLP
# with a gate it is what the nonlinearity of the gate reads; some get gate and value, and some
# queries, keys and values too, from one projection, which is taken whole.
HIDDEN = re.compile(
    r"resnets\.\d+\.norm2$|resnet_blocks\.[1-3]\.group_norm$"
    r"|(^|\.)(ff|ffn|ff_context|feed_forward|mlp|img_mlp|txt_mlp|DenseReluDense)\."
    r"(net\.0|fc1|linear_1|linear_in|in_layer|w1|wi|wi_0|conv_inverted|gate_proj|gate_up_proj"
    r"|dense_h_to_4h)$"
    r"|(^|\.)feed_forward\.0$|\.intermediate\.dense$|(^|\.)(proj_mlp|to_qkv_mlp_proj)$"
)


def hidden_layers(catalog: Catalog) -> tuple[ModuleInfo, ...]:
    """The modules and blocks that are `HIDDEN` units by their names."""
    return tuple(m for m in (*catalog.modules, *catalog.blocks) if HIDDEN.search(m.path))


def choose_layers(catalog: Catalog, selector: Selector | None, kind: str) -> tuple[ModuleInfo, ...]:
    """The layers that a selector names, in forward order; without one the hidden units (`HIDDEN`),
    or all modules where a network has none that go by these names.

    Of heads: the projections that attention layers end with, which read what their heads give.
    Raises `SelectorError` where nothing is named, `ScopeError` where nothing that is has units.
    """
    if kind == "heads":
        asked = "*" if selector is None else selector
        named = select(asked, catalog)
        found = tuple(m for m in named if m.heads and is_out_projection(m.path))
        if not found:
            raise ScopeError(
                f"`{asked}` names no projection that an attention layer with heads ends with,"
                " such as `*.to_out.0` or `*.out_proj`"
            )
        return found
    if selector is None:
        found = hidden_layers(catalog) or tuple(m for m in catalog.modules if m.channels)
    else:
        found = select(selector, catalog, blocks=True)
    first = {m.path: m.number for m in catalog.modules}

    def place(module: ModuleInfo) -> tuple[int, int]:
        inside = [n for path, n in first.items() if f"{path}.".startswith(f"{module.path}.")]
        return min(inside, default=len(first)), -len(inside)

    return tuple(sorted(found, key=place))


@contextmanager
def capturing(
    network: nn.Module, paths: Sequence[str], kind: str, hear: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """While inside, `hear` is told what every call of the layers gives: the path, and activations
    of shape (rows, units, positions), float32.

    Of heads an activation is the root mean square of what the head gives at a position. Hooks are
    gone afterwards, whatever happened. Raises `ScopeError` for a path that the network lacks.
    """
    modules = dict(network.named_modules())
    with ExitStack() as stack:
        for path in paths:
            module = modules.get(path)
            if module is None:
                raise ScopeError(f"the network has no module `{path}`")
            if kind == "heads":
                heads = heads_of(modules, path)
                hook = module.register_forward_pre_hook(partial(_heads, path, heads, hear))
            else:
                hook = module.register_forward_hook(partial(_channels, path, hear))
            stack.callback(hook.remove)
        yield


def _channels(
    path: str, hear: Callable[[str, Tensor], None], module: nn.Module, _given: Any, output: Any
) -> None:
    found = next(tensors(output), None)
    if found is None or found.dim() < 2 or not found.is_floating_point():
        raise ScopeError(f"`{path}` gives nothing that has channels")
    moved = found.detach().movedim(channel_dim(module, found), 1).float()
    hear(path, moved.flatten(2) if moved.dim() > 2 else moved[..., None])


def _heads(
    path: str, heads: int, hear: Callable[[str, Tensor], None], _module: nn.Module, given: Any
) -> None:
    found = next(tensors(given)).detach().float()
    rows = found.shape[0]
    parts = found.reshape(rows, -1, heads, found.shape[-1] // heads)
    hear(path, parts.square().mean(-1).sqrt().transpose(1, 2))


def strength(values: Tensor, kind: str) -> Tensor:
    """How active units are at their positions: of channels what lies above 0, as after a ReLU."""
    return values.clamp(min=0) if kind == "channels" else values


def maps_of(network: nn.Module, given: Any, height: int, width: int) -> frozenset[tuple[int, int]]:
    """Rows and columns of the maps that the layers of a denoiser can give.

    `given`: what it was called with, latents first, for an image of this height and width. A
    transformer keeps the map of its patches, a U-Net halves that of the latents level by level;
    latents that come as tokens (rows, tokens, channels) are patches already.
    """
    config: Any = getattr(network, "config", {})
    latents = next(iter(given))
    shape = next(tensors(latents)).shape
    if isinstance(latents, Tensor) and latents.dim() == 3:
        return frozenset({_laid_out(shape[1], height, width)})
    if "block_out_channels" in config:
        parts = [2**level for level in range(len(config["block_out_channels"]))]
        return frozenset((math.ceil(shape[-2] / n), math.ceil(shape[-1] / n)) for n in parts)
    size = config.get("patch_size") or config.get("all_patch_size") or 1
    side = size if isinstance(size, int) else size[-1]
    return frozenset({(shape[-2] // side, shape[-1] // side)})


def _laid_out(count: int, height: int, width: int) -> tuple[int, int]:
    """So many positions as rows and columns, in proportions as near to these as can be."""
    sides = [n for n in range(1, count + 1) if count % n == 0]
    rows = min(sides, key=lambda n: abs(math.log(n * n / count * width / height)))
    return rows, count // rows


def grid_of(
    positions: int, height: int, width: int, maps: Collection[tuple[int, int]] | None = None
) -> tuple[int, int, int] | None:
    """How a layer's positions lie on an image of these proportions: how many to skip (class tokens
    in front), then rows and columns. None where they are no map of it.

    `maps`: rows and columns of those that there can be, where they are known (`maps_of`): as many
    positions as the proportions allow may be the words of a text.
    """
    if maps is not None:
        found = [(0, *sides) for sides in sorted(maps) if math.prod(sides) == positions > 1]
        return found[0] if found else None
    for skipped in (0, 1):
        count = positions - skipped
        rows = math.isqrt(max(count, 0) * height // width)
        columns = rows * width // height
        if rows > 1 and rows * columns == count and rows * width == columns * height:
            return skipped, rows, columns
    return None


def middle_of(place: Tensor, grid: tuple[int, int, int] | None) -> Tensor:
    """Where positions, counted along a layer, lie on the image: y and x of their middles in 0 to 1,
    a dimension more, the last; NaN where they are no place of it."""
    if grid is None:
        return torch.full((*place.shape, 2), torch.nan, device=place.device)
    skipped, rows, columns = grid
    own = (place - skipped).clamp(min=0)
    y, x = own // columns, own % columns
    found = torch.stack([(y + 0.5) / rows, (x + 0.5) / columns], -1)
    return torch.where((place >= skipped)[..., None], found, torch.nan)
