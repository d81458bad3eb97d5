"""Sampling: trained networks from files, pictures from them, and jobs that write pictures."""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
