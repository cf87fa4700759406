from .classes import classify as classify
from .clip import (
    Reader as Reader,
    check_reader as check_reader,
    clip_of as clip_of,
    vocabulary_of as vocabulary_of,
)
from .compare import (
    COMPARED as COMPARED,
    Comparison as Comparison,
    Pair as Pair,
    at_one_size as at_one_size,
    compare_runs as compare_runs,
)
from .effects import (
    ERRORS as ERRORS,
    FEWEST as FEWEST,
    Effect as Effect,
    explained as explained,
    read_effects as read_effects,
)
from .embeddings import read_embeddings as read_embeddings
from .encoders import ImageReader as ImageReader
from .extras import (
    check_extra as check_extra,
    extra_names as extra_names,
    load_extras as load_extras,
)
from .images import DISTANCES as DISTANCES, Extra as Extra, Further as Further
from .intervals import (
    COVERED as COVERED,
    Estimate as Estimate,
    q_values as q_values,
    student_quantile as student_quantile,
    t_interval as t_interval,
)
from .measure import (
    NONE as NONE,
    MeasuredCell as MeasuredCell,
    measured_with as measured_with,
    read_cells as read_cells,
    read_notes as read_notes,
    write_drift as write_drift,
)
from .metrics import softmax as softmax
from .projection import (
    has_umap as has_umap,
    principal_components as principal_components,
    umap_plane as umap_plane,
)
from .readers import (
    check_further as check_further,
    load_readers as load_readers,
    reader_names as reader_names,
)
from .sets import (
    SetDistance as SetDistance,
    SetMetric as SetMetric,
    read_sets as read_sets,
)
