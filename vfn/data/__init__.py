"""Data sets: every one is a uint8 array [N, C, H, W] with labels, memory-mapped where it is large.

Known names, folders and array files become a `Source` of pictures (standard, folder, arrays), which
is read once into rows of one array (source) that is kept on the disk (cache).
"""

from vfn.data.cache import Prepared
from vfn.data.dataset import HELD_OUT, Dataset, as_dataset, hold_out, to_uint8, to_unit
from vfn.data.labels import Labels, in_turn
from vfn.data.load import (
    data_home,
    datasets,
    find_prepared,
    load_dataset,
    load_held_out,
    prepare,
    read_pictures,
    spec_settings,
)

__all__ = [
    "HELD_OUT",
    "Dataset",
    "Labels",
    "Prepared",
    "as_dataset",
    "data_home",
    "datasets",
    "find_prepared",
    "hold_out",
    "in_turn",
    "load_dataset",
    "load_held_out",
    "prepare",
    "read_pictures",
    "spec_settings",
    "to_uint8",
    "to_unit",
]
