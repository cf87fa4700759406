"""From a plan to PNGs: batches, applying variants, records, several processes, resuming.

Also replays a cell from its PNG and exports a variant as a model."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
