"""Channels, neurons and attention heads: what drives them, and what they are selective for.

Recording, concepts, feature visualization, activation atlases."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
