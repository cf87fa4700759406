"""Components of a pipeline, and when each is at work."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ablate.network.modules import Catalog

Phase = Literal["encoding", "denoising", "decoding"]
DENOISERS = ("unet", "transformer")
AUTOENCODERS = ("vae", "movq", "vqgan")


def phase_of(component: str) -> Phase:
    """When a component of a pipeline is at work: what is neither denoiser nor autoencoder reads the
    prompt, before the first step."""
    if component in DENOISERS:
        return "denoising"
    return "decoding" if component in AUTOENCODERS else "encoding"


@dataclass(frozen=True)
class Networks:
    """The catalogs that a recipe chooses from. `others`: of further components, by name. `name`: of
    the component that `catalog` is of. `guided`: denoiser rows of a guided cell."""

    catalog: Catalog
    name: str
    others: Mapping[str, Catalog] = field(default_factory=dict)
    guided: int = 2

    def of(self, component: str | None) -> Catalog:
        """The catalog of a component; None is the one that is edited."""
        return self.others.get(component or "", self.catalog)

    def other(self, component: str | None) -> str | None:
        """The component where it is another than the one that is edited."""
        return component if component in self.others else None

    def phase(self, component: str | None) -> Phase:
        return phase_of(component or self.name)
