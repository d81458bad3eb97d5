from .bits import bits_per_dim as bits_per_dim
from .evaluating import evaluate as evaluate
from .extractors import EXTRACTORS as EXTRACTORS
from .extractors import PIXELS as PIXELS
from .extractors import Extractor as Extractor
from .extractors import Features as Features
from .extractors import Outputs as Outputs
from .extractors import extractor_of as extractor_of
from .extractors import open_extractor as open_extractor
from .extractors import pixels as pixels
from .features import Statistics as Statistics
from .features import compute_statistics as compute_statistics
from .features import read_statistics as read_statistics
from .features import save_statistics as save_statistics
from .held_out import loss_by_logsnr as loss_by_logsnr
from .held_out import mean_held_out_loss as mean_held_out_loss
from .held_out import preview_figures as preview_figures
from .judging import judge as judge
from .metrics import KINDS as KINDS
from .metrics import METRICS as METRICS
from .metrics import FigureKind as FigureKind
from .metrics import Metric as Metric
from .metrics import usual_metrics as usual_metrics
from .nearest import NearestPictures as NearestPictures
from .nearest import nearest_pictures as nearest_pictures
from .planning import own_data as own_data
from .planning import own_draws as own_draws
from .planning import own_split as own_split
from .planning import paired_draws as paired_draws
from .planning import usual_labels as usual_labels
from .plots import AXES as AXES
from .plots import draw_figures as draw_figures
from .plots import lines_against as lines_against
from .plots import write_plot as write_plot
from .record import Evaluation as Evaluation
from .record import compare as compare
from .record import is_number as is_number
from .record import read_evaluation as read_evaluation
from .sides import Figure as Figure
from .sides import Judged as Judged
from .sides import Sides as Sides
from .sides import Subject as Subject
from .stored import StoredReference as StoredReference
from .stored import store_reference as store_reference
from .step_times import BestTimes as BestTimes
from .step_times import best_times as best_times
from .step_times import search_times as search_times

__all__ = [
    "AXES",
    "EXTRACTORS",
    "KINDS",
    "METRICS",
    "PIXELS",
    "BestTimes",
    "Evaluation",
    "Extractor",
    "Features",
    "Figure",
    "FigureKind",
    "Judged",
    "Metric",
    "NearestPictures",
    "Outputs",
    "Sides",
    "Statistics",
    "StoredReference",
    "Subject",
    "best_times",
    "bits_per_dim",
    "compare",
    "compute_statistics",
    "draw_figures",
    "evaluate",
    "extractor_of",
    "is_number",
    "judge",
    "lines_against",
    "loss_by_logsnr",
    "mean_held_out_loss",
    "nearest_pictures",
    "open_extractor",
    "own_data",
    "own_draws",
    "own_split",
    "paired_draws",
    "pixels",
    "preview_figures",
    "read_evaluation",
    "read_statistics",
    "save_statistics",
    "search_times",
    "store_reference",
    "usual_labels",
    "usual_metrics",
    "write_plot",
]
