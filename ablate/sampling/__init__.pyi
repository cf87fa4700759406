from .call import (
    Context as Context,
    Moments as Moments,
    Request as Request,
    Samples as Samples,
    Stopped as Stopped,
    UnevenError as UnevenError,
    parts_of as parts_of,
)
from .embeddings import (
    PATHS as PATHS,
    PROMPTS as PROMPTS,
    Path as Path,
    Point as Point,
    between as between,
    drawn as drawn,
    on_plane as on_plane,
)
from .pipeline import Pipeline as Pipeline
from .schedulers import scheduler_class as scheduler_class
from .settings import SAMPLING as SAMPLING, Sampling as Sampling, Settings as Settings
