from .axes import UNIT_FORMS as UNIT_FORMS, AxisSpec as AxisSpec
from .conditions import CONDITION_AXES as CONDITION_AXES, asked as asked
from .document import (
    MAX_CELLS as MAX_CELLS,
    Document as Document,
    KeyPath as KeyPath,
    Problem as Problem,
    RecipeError as RecipeError,
    parse_value as parse_value,
)
from .edits import (
    DrawnUnits as DrawnUnits,
    EditSpec as EditSpec,
    UnitSpec as UnitSpec,
    UnitsSpec as UnitsSpec,
)
from .recipe import (
    BASE as BASE,
    Recipe as Recipe,
    parse_recipe as parse_recipe,
    read_recipe as read_recipe,
)
from .references import references_in as references_in, unequal as unequal
from .schema import recipe_docs as recipe_docs, recipe_schema as recipe_schema
from .spaces import Plane as Plane, Points as Points
from .strict import INVALID as INVALID
from .types import Ref as Ref
