"""Layers: the modules and blocks whose units are recorded, and the hooks that capture them."""

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

Grid = tuple[int, int, int]  # positions to skip, rows, columns
# Inputs or outputs of the nonlinearities inside of ResNets and of the MLPs of transformers, by the
# names that diffusers and transformers give them: the hidden units of a network. Their outputs can
# be zeroed without a trace, unlike what is added to the residual stream between blocks. Of a gated
# MLP it is the input of the gate's nonlinearity; some compute gate and value, some also queries,
# keys and values, by one projection, which is recorded whole.
HIDDEN = re.compile(
    r"resnets\.\d+\.norm2$|resnet_blocks\.[1-3]\.group_norm$"
    r"|(^|\.)(ff|ffn|ff_context|feed_forward|mlp|img_mlp|txt_mlp|DenseReluDense)\."
    r"(net\.0|fc1|linear_1|linear_in|in_layer|w1|wi|wi_0|conv_inverted|gate_proj|gate_up_proj"
    r"|dense_h_to_4h)$"
    r"|(^|\.)feed_forward\.0$|\.intermediate\.dense$|(^|\.)(proj_mlp|to_qkv_mlp_proj)$"
)


def hidden_layers(catalog: Catalog) -> tuple[ModuleInfo, ...]:
    """Return the modules and blocks whose names are those of `HIDDEN` units."""
    return tuple(m for m in (*catalog.modules, *catalog.blocks) if HIDDEN.search(m.path))


def choose_layers(catalog: Catalog, selector: Selector | None, kind: str) -> tuple[ModuleInfo, ...]:
    """Return the layers that a selector names, in forward order.

    Args:
        selector: None for the hidden units (`HIDDEN`), or for all modules where a network has none
            of these names.
        kind: `channels`, or `heads`, for the output projections of attention layers, whose input is
            the output of the heads.

    Raises:
        SelectorError: The selector matches nothing.
        ScopeError: Nothing that it matches has heads.
    """
    if kind == "heads":
        selector = "*" if selector is None else selector
        selected = select(selector, catalog)
        layers = tuple(m for m in selected if m.heads and is_out_projection(m.path))
        if not layers:
            raise ScopeError(
                f"`{selector}` names no projection that an attention layer with heads ends with,"
                " such as `*.to_out.0` or `*.out_proj`"
            )
        return layers
    if selector is None:
        layers = hidden_layers(catalog) or tuple(m for m in catalog.modules if m.channels)
    else:
        layers = select(selector, catalog, blocks=True)
    numbers = {m.path: m.number for m in catalog.modules}

    def position(module: ModuleInfo) -> tuple[int, int]:
        inside = [n for path, n in numbers.items() if f"{path}.".startswith(f"{module.path}.")]
        return min(inside, default=len(numbers)), -len(inside)

    return tuple(sorted(layers, key=position))


@contextmanager
def capturing(
    network: nn.Module, paths: Sequence[str], kind: str, record: Callable[[str, Tensor], None]
) -> Iterator[None]:
    """Call `record` with the path and the activations of each call of the layers while inside.

    Activations have shape (rows, units, positions), float32. That of a head is the root mean square
    of its output at a position. Hooks are removed at the end, also after an error.

    Raises:
        ScopeError: The network has no module of one of the paths, or it has no channels.
    """
    modules = dict(network.named_modules())
    with ExitStack() as stack:
        for path in paths:
            module = modules.get(path)
            if module is None:
                raise ScopeError(f"the network has no module `{path}`")
            if kind == "heads":
                heads = heads_of(modules, path)
                hook = module.register_forward_pre_hook(partial(_heads, path, heads, record))
            else:
                hook = module.register_forward_hook(partial(_channels, path, record))
            stack.callback(hook.remove)
        yield


def _channels(
    path: str, record: Callable[[str, Tensor], None], module: nn.Module, _args: Any, output: Any
) -> None:
    values = next(tensors(output), None)
    if values is None or values.dim() < 2 or not values.is_floating_point():
        raise ScopeError(f"the output of `{path}` has no channels")
    values = values.detach().movedim(channel_dim(module, values), 1).float()
    record(path, values.flatten(2) if values.dim() > 2 else values[..., None])


def _heads(
    path: str, heads: int, record: Callable[[str, Tensor], None], _module: nn.Module, args: Any
) -> None:
    values = next(tensors(args)).detach().float()
    rows = values.shape[0]
    by_head = values.reshape(rows, -1, heads, values.shape[-1] // heads)
    record(path, by_head.square().mean(-1).sqrt().transpose(1, 2))


def maps_of(network: nn.Module, inputs: Any, height: int, width: int) -> frozenset[tuple[int, int]]:
    """Return rows and columns of the feature maps that the layers of a denoiser can have.

    A transformer keeps the map of its patches, a U-Net halves that of the latents level by level;
    latents that are tokens (rows, tokens, channels) are patches already.

    Args:
        inputs: Of a call of the network, latents first.
        height, width: Of the image, in pixels.
    """
    config: Any = getattr(network, "config", {})
    latents = next(iter(inputs))
    shape = next(tensors(latents)).shape
    if isinstance(latents, Tensor) and latents.dim() == 3:
        return frozenset({_sides_of(shape[1], height, width)})
    if "block_out_channels" in config:
        parts = [2**level for level in range(len(config["block_out_channels"]))]
        return frozenset((math.ceil(shape[-2] / n), math.ceil(shape[-1] / n)) for n in parts)
    size = config.get("patch_size") or config.get("all_patch_size") or 1
    side = size if isinstance(size, int) else size[-1]
    return frozenset({(shape[-2] // side, shape[-1] // side)})


def _sides_of(count: int, height: int, width: int) -> tuple[int, int]:
    """Return the rows and columns of so many positions that are nearest to these proportions."""
    sides = [n for n in range(1, count + 1) if count % n == 0]
    rows = min(sides, key=lambda n: abs(math.log(n * n / count * width / height)))
    return rows, count // rows


def grid_of(
    positions: int, height: int, width: int, maps: Collection[tuple[int, int]] | None = None
) -> Grid | None:
    """Return the grid of a layer's positions on an image of these proportions.

    Args:
        maps: Rows and columns of the possible feature maps, where they are known (`maps_of`):
            positions whose number fits the proportions may be the words of a text.

    Returns:
        How many positions to skip (class tokens in front), rows, columns; None where the positions
        are no map of the image.
    """
    if maps is not None:
        grids = ((0, *sides) for sides in sorted(maps) if math.prod(sides) == positions > 1)
        return next(grids, None)
    for skipped in (0, 1):
        count = positions - skipped
        rows = math.isqrt(max(count, 0) * height // width)
        columns = rows * width // height
        if rows > 1 and rows * columns == count and rows * width == columns * height:
            return skipped, rows, columns
    return None


def middle_of(position: Tensor, grid: Grid | None) -> Tensor:
    """Return the middles of positions on the image.

    Args:
        position: Indices along a layer's positions, any shape.
        grid: Of the layer (`grid_of`).

    Returns:
        y and x in 0 to 1, in a last dimension of 2; NaN where a position is no place of the image.
    """
    if grid is None:
        return torch.full((*position.shape, 2), torch.nan, device=position.device)
    skipped, rows, columns = grid
    index = (position - skipped).clamp(min=0)
    y, x = index // columns, index % columns
    middles = torch.stack([(y + 0.5) / rows, (x + 0.5) / columns], -1)
    return torch.where((position >= skipped)[..., None], middles, torch.nan)
