from .distillation.methods import METHODS as METHODS
from .distillation.stages import Distilled as Distilled
from .distillation.stages import distill as distill
from .distillation.stages import plan_distillation as plan_distillation
from .loop import train as train
from .observers import Observer as Observer
from .observers import Outcome as Outcome
from .observers import RunInfo as RunInfo
from .posthoc import PosthocEma as PosthocEma
from .posthoc import posthoc_ema as posthoc_ema
from .session import TrainingData as TrainingData
from .trackers import TRACKERS as TRACKERS
from .tracking import Record as Record
from .tracking import Tracking as Tracking

__all__ = [
    "METHODS",
    "TRACKERS",
    "Distilled",
    "Observer",
    "Outcome",
    "PosthocEma",
    "Record",
    "RunInfo",
    "Tracking",
    "TrainingData",
    "distill",
    "plan_distillation",
    "posthoc_ema",
    "train",
]
