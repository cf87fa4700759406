"""How far each cell is from its baseline, and what it shows.

Metrics, concepts, classes, effects over seeds, comparisons of two runs."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
