from .applying import PhaseEdits as PhaseEdits, check_opens as check_opens
from .batches import (
    Batch as Batch,
    Batcher as Batcher,
    BatchSize as BatchSize,
    edits_in_phase as edits_in_phase,
    jobs_of as jobs_of,
)
from .export import ExportError as ExportError, export_variant as export_variant
from .linear import first_order as first_order
from .processes import (
    Processes as Processes,
    stoppable as stoppable,
    until_stopped as until_stopped,
)
from .progress import OnProgress as OnProgress, Progress as Progress
from .records import describe_run as describe_run, with_keys as with_keys
from .replay import ALIKE as ALIKE, Recorded as Recorded, replay_cell as replay_cell
from .run import (
    Summary as Summary,
    compute_batches as compute_batches,
    compute_cell as compute_cell,
    execute as execute,
    finished_cells as finished_cells,
    write_cells as write_cells,
)
