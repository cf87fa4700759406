from .axes import (
    CONDITION_AXES as CONDITION_AXES,
    UNIT_FORMS as UNIT_FORMS,
    Axis as Axis,
    WhenSpec as WhenSpec,
)
from .document import Problem as Problem, in_order as in_order
from .edits import OF_AXES as OF_AXES, EditSpec as EditSpec, UnitsSpec as UnitsSpec, keyed as keyed
from .recipe import (
    Draft as Draft,
    Recipe as Recipe,
    RecipeError as RecipeError,
    parse_recipe as parse_recipe,
    read_recipe as read_recipe,
)
from .schema import recipe_schema as recipe_schema
from .spaces import Ref as Ref, Space as Space
