from .cache import Prepared as Prepared
from .dataset import HELD_OUT as HELD_OUT
from .dataset import Dataset as Dataset
from .dataset import as_dataset as as_dataset
from .dataset import hold_out as hold_out
from .digest import data_digest as data_digest
from .items import from_items as from_items
from .labels import Labels as Labels
from .labels import in_turn as in_turn
from .load import data_home as data_home
from .load import data_name as data_name
from .load import datasets as datasets
from .load import find_prepared as find_prepared
from .load import load_dataset as load_dataset
from .load import load_held_out as load_held_out
from .load import pictures_of as pictures_of
from .load import prepare as prepare
from .load import read_pictures as read_pictures
from .load import same_data as same_data
from .load import settled as settled
from .load import spec_settings as spec_settings
from .source import Source as Source
from .standard import DATASETS as DATASETS
from .values import Values as Values
from .values import to_uint8 as to_uint8
from .values import to_unit as to_unit

__all__ = [
    "DATASETS",
    "HELD_OUT",
    "Dataset",
    "Labels",
    "Prepared",
    "Source",
    "Values",
    "as_dataset",
    "data_digest",
    "data_home",
    "data_name",
    "datasets",
    "find_prepared",
    "from_items",
    "hold_out",
    "in_turn",
    "load_dataset",
    "load_held_out",
    "pictures_of",
    "prepare",
    "read_pictures",
    "same_data",
    "settled",
    "spec_settings",
    "to_uint8",
    "to_unit",
]
