from .beside import compare as compare
from .page import report as report
from .read import RunContents as RunContents
from .read import Stage as Stage
from .read import read_run as read_run
from .search import Samples as Samples
from .search import Sweep as Sweep

__all__ = ["RunContents", "Samples", "Stage", "Sweep", "compare", "read_run", "report"]
