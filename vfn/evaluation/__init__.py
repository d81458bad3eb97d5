"""How good are the pictures? Each figure stands beside the same figure for real pictures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
