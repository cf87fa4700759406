from .edits import Edit as Edit, Variant as Variant, applied as applied, metric as metric, op as op
from .finders import Finding as Finding, find as find
from .lab import Result as Result, edit as edit, open as open, run as run
from .recipe import Recipe as Recipe, RecipeError as RecipeError
from .recipe.axis_functions import (
    between as between,
    cumulative as cumulative,
    each as each,
    each_channel as each_channel,
    each_head as each_head,
    geomspace as geomspace,
    group as group,
    linspace as linspace,
    plane as plane,
    random_points as random_points,
    span as span,
    window as window,
    windows as windows,
)
from .recipe.op_functions import (
    add_noise as add_noise,
    blend as blend,
    flip_sign as flip_sign,
    identity as identity,
    input_mean as input_mean,
    low_rank as low_rank,
    mean as mean,
    mix_noise as mix_noise,
    mix_noise_vp as mix_noise_vp,
    prune as prune,
    quantize as quantize,
    randomize as randomize,
    reinitialize as reinitialize,
    resample as resample,
    scale as scale,
    shuffle as shuffle,
    swap as swap,
    write as write,
    zero as zero,
)
from .sampling import Pipeline as Pipeline
from .store import Run as Run
from .sweep import plan as plan

__version__: str
__all__: list[str]
