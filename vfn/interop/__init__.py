"""Foreign formats: configurations, checkpoints and parameters of other implementations.

Of the package the command line alone loads it, and runs that were imported their network. A format
is one file here and one entry in `FORMATS`.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
