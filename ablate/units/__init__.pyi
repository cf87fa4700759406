from .atlas.atlas import make as make
from .atlas.layout import LayoutError as LayoutError, check as check
from .atlas.vectors import module_of as module_of, planned as planned
from .concepts.selectivity import record_selectivity as record_selectivity
from .record.recording import check_window as check_window
from .record.stimuli import (
    TEMPLATES as TEMPLATES,
    Stimuli as Stimuli,
    parse_concepts as parse_concepts,
    parse_seeds as parse_seeds,
)
from .record.study import (
    Setup as Setup,
    Study as Study,
    StudyError as StudyError,
    default_concepts as default_concepts,
    parse_window as parse_window,
    read_manifest as read_manifest,
)
from .visualize.expressions import parse as parse
from .visualize.files import (
    outcome as outcome,
    picture_in as picture_in,
    present as present,
    short as short,
    written as written,
)
from .visualize.objectives import ObjectiveError as ObjectiveError
