from .axes import PlanAxis as PlanAxis, condition_axis as condition_axis
from .check import read_checked as read_checked, resolve as resolve
from .plan import (
    BASELINE as BASELINE,
    Cell as Cell,
    Condition as Condition,
    Plan as Plan,
    plan_recipe as plan_recipe,
)
