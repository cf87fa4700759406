from .activations import (
    Layer as Layer,
    Statistics as Statistics,
    StatisticsError as StatisticsError,
    read_statistics as read_statistics,
)
from .arrays import read_arrays as read_arrays, write_arrays as write_arrays
from .asked import check_asked as check_asked
from .cells import listed as listed, problem_of as problem_of
from .files import (
    StoreError as StoreError,
    atomic_write as atomic_write,
    in_table as in_table,
    read_bytes as read_bytes,
    read_table as read_table,
    read_words as read_words,
    regular as regular,
    remove as remove,
    sweep_temporaries as sweep_temporaries,
    write_table as write_table,
)
from .images import MAX_PIXELS as MAX_PIXELS, MAX_SIDE as MAX_SIDE, open_image as open_image
from .png import (
    key_of as key_of,
    parameters_text as parameters_text,
    read_latents as read_latents,
    read_record as read_record,
    spans as spans,
)
from .run import Axis as Axis, Run as Run, StoredCell as StoredCell
from .study import (
    ATLASES as ATLASES,
    CARDS as CARDS,
    DRAWINGS as DRAWINGS,
    REPORT as REPORT,
    Study as Study,
    batched as batched,
    drawing_files as drawing_files,
    footer as footer,
    model_name as model_name,
    read_atlas as read_atlas,
    read_cards as read_cards,
    read_image as read_image,
    read_study as read_study,
    shortened as shortened,
    slug_of as slug_of,
    study_pictures as study_pictures,
)
from .verify import FINDINGS as FINDINGS, Verification as Verification, verify_run as verify_run
from .visualizations import (
    Visualization as Visualization,
    as_image as as_image,
    finished_file as finished_file,
    has_visualization as has_visualization,
    read_visualizations as read_visualizations,
    visualization_paths as visualization_paths,
    write_visualization as write_visualization,
    write_visualization_table as write_visualization_table,
)
from .work import check_folder as check_folder
