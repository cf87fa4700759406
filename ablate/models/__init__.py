"""Where a network comes from: sources, files, configurations, loading, devices.

The boundary to diffusers and transformers."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
