from .atlas.atlas import make as make
from .atlas.layout import LayoutError as LayoutError, check as check
from .atlas.vectors import module_of as module_of, planned as planned
from .concepts.selectivity import record_by_concept as record_by_concept
from .record.recording import opens as opens
from .record.stimuli import (
    TEMPLATES as TEMPLATES,
    Stimuli as Stimuli,
    numbers_of as numbers_of,
    words_of as words_of,
)
from .record.study import (
    Setup as Setup,
    Study as Study,
    StudyError as StudyError,
    default_concepts as default_concepts,
    read as read,
    window_of as window_of,
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
