"""Every cell of a recipe, before any is computed.

Binds a recipe to the catalogs of its networks and returns the plan, or all problems."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
