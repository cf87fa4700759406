from .call import inner_pipelines as inner_pipelines
from .embeddings import (
    INTERPOLATIONS as INTERPOLATIONS,
    PROMPTS as PROMPTS,
    Interpolation as Interpolation,
    Point as Point,
    between as between,
    on_plane as on_plane,
    random_point as random_point,
)
from .names import named_in_full as named_in_full, with_options as with_options
from .pipeline import Pipeline as Pipeline
from .request import (
    Callbacks as Callbacks,
    Context as Context,
    Request as Request,
    Samples as Samples,
    Stopped as Stopped,
    UnevenError as UnevenError,
)
from .schedulers import (
    check_steps as check_steps,
    is_usual as is_usual,
    matched_scheduler as matched_scheduler,
    revision_of as revision_of,
)
from .settings import SAMPLING as SAMPLING, Sampling as Sampling, Settings as Settings
