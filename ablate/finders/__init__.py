"""Finders: experiments that choose their next cells by what the last ones showed.

Each computes a part of a recipe's cells, in rounds, and returns one finding.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
