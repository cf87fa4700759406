from .edits import Edit as Edit, Variant as Variant, applied as applied, op as op
from .lab import Result as Result, run as run
from .recipe import Recipe as Recipe, RecipeError as RecipeError
from .sampling import Pipeline as Pipeline
from .store import Run as Run
from .sweep import plan as plan

__version__: str
__all__: list[str]
