from .loop import train as train
from .observers import Observer as Observer
from .observers import Outcome as Outcome
from .observers import RunInfo as RunInfo
from .session import TrainingData as TrainingData
from .trackers import TRACKERS as TRACKERS

__all__ = [
    "TRACKERS",
    "Observer",
    "Outcome",
    "RunInfo",
    "TrainingData",
    "train",
]
