from .catalog import build_catalog as build_catalog, heads_of as heads_of
from .components import (
    AUTOENCODERS as AUTOENCODERS,
    DENOISERS as DENOISERS,
    Networks as Networks,
    Phase as Phase,
    phase_of as phase_of,
)
from .dataflow import Effect as Effect, Flow as Flow, FlowRecorder as FlowRecorder
from .hooks import (
    rebuilt as rebuilt,
    replaced as replaced,
    tensors as tensors,
    watched as watched,
)
from .modules import ROOT as ROOT, Catalog as Catalog, ModuleInfo as ModuleInfo
from .selectors import (
    FIELDS as FIELDS,
    Selector as Selector,
    SelectorError as SelectorError,
    groups as groups,
    matcher as matcher,
    select as select,
)
from .slices import (
    UNITS as UNITS,
    ScopeError as ScopeError,
    Unit as Unit,
    channel_dim as channel_dim,
    drawn_order as drawn_order,
    is_out_projection as is_out_projection,
    layer_of as layer_of,
    weight_entries as weight_entries,
)
