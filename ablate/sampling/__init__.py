"""How a pipeline draws: settings, schedulers, embeddings of prompts, one call for many cells.

The pipeline's own code samples; five of its methods are replaced for the time of a call."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
