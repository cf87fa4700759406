"""What lies on disk: runs, self-describing PNGs, studies, activations.

Needs no torch; every file is written whole or not at all."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
