from .applying import Within as Within, denoised as denoised
from .batches import (
    Batch as Batch,
    Layout as Layout,
    Shot as Shot,
    Size as Size,
    jobs_of as jobs_of,
    part_of as part_of,
)
from .export import ExportError as ExportError, export_variant as export_variant
from .processes import (
    Processes as Processes,
    stoppable as stoppable,
    until_stopped as until_stopped,
)
from .progress import Clock as Clock, Progress as Progress, Watch as Watch, counting as counting
from .records import describe as describe, shots_of as shots_of
from .replay import ALIKE as ALIKE, replay_cell as replay_cell
from .run import (
    Made as Made,
    Summary as Summary,
    compute_batches as compute_batches,
    execute as execute,
    images_of as images_of,
    make_images as make_images,
    write_images as write_images,
)
