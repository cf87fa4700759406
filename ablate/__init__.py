"""ablate: a lab for taking a text-to-image diffusion network apart."""

from __future__ import annotations

import os
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ablate.edits import Edit as Edit
    from ablate.edits import Variant as Variant
    from ablate.edits import applied as applied
    from ablate.lab import Result as Result
    from ablate.lab import load as load
    from ablate.lab import resolve as resolve
    from ablate.lab import run as run
    from ablate.ops import op as op
    from ablate.pipeline import Pipeline as Pipeline
    from ablate.recipe import Recipe as Recipe
    from ablate.recipe import RecipeError as RecipeError
    from ablate.store import Run as Run

__version__ = "0.1.0"

# Before transformers is imported: its advice on missing optional packages is for its own users.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

# Loaded when first asked for: `import ablate` must not wait for torch.
_HOMES = {
    "Edit": "edits",
    "Variant": "edits",
    "applied": "edits",
    "Result": "lab",
    "load": "lab",
    "resolve": "lab",
    "run": "lab",
    "op": "ops",
    "Pipeline": "pipeline",
    "Recipe": "recipe",
    "RecipeError": "recipe",
    "Run": "store",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module `ablate` has no attribute `{name}`")
    return getattr(import_module(f"ablate.{_HOMES[name]}"), name)
