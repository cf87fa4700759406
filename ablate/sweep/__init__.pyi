from .axes import (
    CumulativeAxis as CumulativeAxis,
    ModuleAxis as ModuleAxis,
    PlanAxis as PlanAxis,
    condition_axis as condition_axis,
)
from .binding import plan as plan
from .cells import (
    BASELINE as BASELINE,
    Cell as Cell,
    Condition as Condition,
    Plan as Plan,
)
from .distinct import as_loaded as as_loaded
from .recorded import Base as Base, cell_of as cell_of
