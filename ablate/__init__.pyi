from .edits import Edit as Edit, Variant as Variant, applied as applied, op as op
from .lab import Result as Result, edit as edit, open as open, run as run
from .recipe import Recipe as Recipe, RecipeError as RecipeError
from .recipe.functions import (
    add_noise as add_noise,
    between as between,
    blend as blend,
    cumulative as cumulative,
    each as each,
    each_channel as each_channel,
    each_head as each_head,
    flip_sign as flip_sign,
    geomspace as geomspace,
    group as group,
    identity as identity,
    linspace as linspace,
    low_rank as low_rank,
    mean as mean,
    mix_noise as mix_noise,
    plane as plane,
    prune as prune,
    quantize as quantize,
    random_points as random_points,
    randomize as randomize,
    reinitialize as reinitialize,
    resample as resample,
    scale as scale,
    shuffle as shuffle,
    span as span,
    swap as swap,
    windows as windows,
    write as write,
    zero as zero,
)
from .sampling import Pipeline as Pipeline
from .store import Run as Run
from .sweep import plan as plan

__version__: str
__all__: list[str]
