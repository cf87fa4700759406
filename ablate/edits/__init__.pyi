from .batch import EditReport as EditReport, NoRowsError as NoRowsError
from .code import CodeError as CodeError, load_code as load_code, load_metrics as load_metrics
from .first_order import Derivatives as Derivatives
from .in_place import (
    applied as applied,
    edited_parameters as edited_parameters,
    is_edited as is_edited,
)
from .letters import (
    label as label,
    word as word,
    wrong_length as wrong_length,
    wrong_letters as wrong_letters,
)
from .metrics import METRICS as METRICS, Metric as Metric, metric as metric
from .noise import NoiseCache as NoiseCache, draw as draw
from .ops import OPS as OPS, apply as apply, wrong_strength as wrong_strength
from .registry import OF_INPUT as OF_INPUT, Op as Op, op as op
from .rows import by_rows as by_rows
from .variants import (
    BY as BY,
    By as By,
    Edit as Edit,
    Reference as Reference,
    UnknownOpError as UnknownOpError,
    Variant as Variant,
    When as When,
)
