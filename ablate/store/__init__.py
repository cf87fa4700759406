"""Runs, PNGs that describe themselves, studies and activations on disk.

Needs no torch; every file is written atomically."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
