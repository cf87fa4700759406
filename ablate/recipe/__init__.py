"""What is asked: the recipe format, read from YAML or built from Python objects.

Reading a recipe needs neither torch nor a network."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
