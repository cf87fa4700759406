"""ablate: a lab for taking a text-to-image diffusion network apart.

Names load when they are first used: `import ablate` does not wait for torch.
"""

import os

import lazy_loader

__version__ = "0.1.0"

# Before transformers is imported: its advice on missing optional packages is for its own users.
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
__all__ += ["__version__"]
