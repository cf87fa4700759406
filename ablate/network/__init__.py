"""The modules and blocks of a network, their roles, and how to select them.

Reads names, classes and shapes; changes nothing."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
