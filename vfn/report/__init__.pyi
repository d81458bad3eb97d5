from .page import report as report
from .read import RunContents as RunContents
from .read import Stage as Stage
from .read import read_run as read_run

__all__ = ["RunContents", "Stage", "read_run", "report"]
