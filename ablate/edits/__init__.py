"""What is done to a network: ops, noise, edits and variants, applied in place or row by row.

Every change is a context manager that restores each tensor bit for bit."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
