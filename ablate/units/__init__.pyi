from .atlas.atlas import make_atlas as make_atlas
from .atlas.layout import LayoutError as LayoutError, check_method as check_method
from .atlas.vectors import only_layer as only_layer, plan_edits as plan_edits
from .concepts.cards import write_cards as write_cards
from .concepts.search import (
    Contrasts as Contrasts,
    describe_unit as describe_unit,
    few_samples_note as few_samples_note,
    search_units as search_units,
)
from .concepts.selectivity import record_selectivity as record_selectivity
from .record.folder import read_manifest as read_manifest
from .record.recording import check_window as check_window
from .record.setup import (
    Setup as Setup,
    StudyError as StudyError,
    default_concepts as default_concepts,
    parse_window as parse_window,
)
from .record.stimuli import (
    TEMPLATES as TEMPLATES,
    Stimuli as Stimuli,
    parse_concepts as parse_concepts,
    parse_seeds as parse_seeds,
)
from .record.study import Study as Study
from .visualize.denoiser import Latents as Latents, Prompts as Prompts
from .visualize.dreams import Dreams as Dreams, read_picture as read_picture
from .visualize.expressions import parse_objective as parse_objective
from .visualize.images import Images as Images
from .visualize.objectives import ObjectiveError as ObjectiveError
from .visualize.render import render as render
