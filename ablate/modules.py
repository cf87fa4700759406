"""What is known of a module from its network's configuration: a row of the catalog."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModuleInfo:
    """A row of the catalog.

    `kind`: its class (`Conv2d`). `stage`: where in the network (`in`, `down`, `mid`, `up`, `out`;
    `blocks` in networks that are no U). `block`: the block that it stands in
    (`down_blocks.0`). `role`: what it does (`cross_attention`). `parameters`: how many numbers.
    """

    number: int
    path: str
    kind: str
    stage: str
    block: str
    role: str
    parameters: int
