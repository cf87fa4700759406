"""Pictures and pages of runs and studies, drawn from their folders alone.

Needs no torch."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
