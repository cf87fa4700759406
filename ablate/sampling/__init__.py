"""How a pipeline samples: settings, schedulers, embeddings of prompts, one call for many cells.

The code of diffusers samples; five of its methods are replaced for the duration of a call."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
