"""The components of a pipeline, and the phase of the sampling in which each is used."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from ablate.network.modules import Catalog

Phase = Literal["encoding", "denoising", "decoding"]
DENOISERS = ("unet", "transformer")
AUTOENCODERS = ("vae", "movq", "vqgan")


def phase_of(component: str) -> Phase:
    """The phase in which a component is used.

    Whatever is neither denoiser nor autoencoder reads the prompt, before the first step.
    """
    if component in DENOISERS:
        return "denoising"
    return "decoding" if component in AUTOENCODERS else "encoding"


@dataclass(frozen=True)
class Networks:
    """The catalogs that a recipe selects modules from.

    Attributes:
        catalog: Of the edited component.
        name: The name of that component.
        others: Catalogs of further components, by name.
        guided: Rows of the denoiser's batch for each cell with guidance.
    """

    catalog: Catalog
    name: str
    others: Mapping[str, Catalog] = field(default_factory=dict)
    guided: int = 2

    def of(self, component: str | None) -> Catalog:
        """The catalog of a component; None is the edited one."""
        return self.others.get(component or "", self.catalog)

    def has(self, component: str | None) -> bool:
        """Whether the catalog of a component is known; None is the one that is edited."""
        return component in (None, self.name) or component in self.others

    def other(self, component: str | None) -> str | None:
        """The component if it is not the edited one, else None."""
        return component if component in self.others else None

    def phase(self, component: str | None) -> Phase:
        return phase_of(component or self.name)
