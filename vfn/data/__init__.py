"""Data sets: each is one array [N, C, H, W], of uint8 as a rule, memory-mapped where it is large.

Known names, folders, array and tar files become a `Source` of pictures (standard, folder, arrays),
which is read once into rows of one array (source) that is kept on the disk (cache).
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
