from .few_steps import path_objective as path_objective
from .methods import METHODS as METHODS
from .methods import Limits as Limits
from .methods import Method as Method
from .methods import Weak as Weak
from .moments import moment_objective as moment_objective
from .plan import halvings as halvings
from .plan import plan_of as plan_of
from .plan import stage_config as stage_config
from .plan import stages_of as stages_of
from .progressive import distill_objective as distill_objective
from .stages import Distilled as Distilled
from .stages import distill as distill
from .stages import plan_distillation as plan_distillation
from .stages import stage_figures as stage_figures
from .stages import stage_table as stage_table
from .teachers import find_teacher as find_teacher

__all__ = [
    "METHODS",
    "Distilled",
    "Limits",
    "Method",
    "Weak",
    "distill",
    "distill_objective",
    "find_teacher",
    "halvings",
    "moment_objective",
    "path_objective",
    "plan_distillation",
    "plan_of",
    "stage_config",
    "stage_figures",
    "stage_table",
    "stages_of",
]
