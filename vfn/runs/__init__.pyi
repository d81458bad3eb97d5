from .checkpoint import Checkpoint as Checkpoint
from .checkpoint import check_fits as check_fits
from .checkpoint import check_usable as check_usable
from .checkpoint import digest as digest
from .checkpoint import export_model as export_model
from .checkpoint import find_checkpoint as find_checkpoint
from .checkpoint import load_checkpoint as load_checkpoint
from .checkpoint import newest_checkpoint as newest_checkpoint
from .checkpoint import read_pictured as read_pictured
from .checkpoint import save_checkpoint as save_checkpoint
from .checkpoint import write_checkpoint as write_checkpoint
from .directory import RunFiles as RunFiles
from .directory import run_path as run_path
from .lock import locked as locked
from .log import log_lines as log_lines
from .log import loss_curve as loss_curve
from .log import overfits_since as overfits_since
from .log import read_log as read_log
from .log import read_stages as read_stages
from .log import seconds_until as seconds_until
from .mark import DataMark as DataMark
from .mark import mark_of as mark_of
from .mark import other_pictures as other_pictures
from .snapshots import Snapshot as Snapshot
from .snapshots import StoredAverages as StoredAverages
from .snapshots import load_snapshot as load_snapshot
from .snapshots import reconstruct as reconstruct
from .snapshots import save_snapshot as save_snapshot
from .snapshots import stored_averages as stored_averages

__all__ = [
    "Checkpoint",
    "DataMark",
    "RunFiles",
    "Snapshot",
    "StoredAverages",
    "check_fits",
    "check_usable",
    "digest",
    "export_model",
    "find_checkpoint",
    "load_checkpoint",
    "load_snapshot",
    "locked",
    "log_lines",
    "loss_curve",
    "mark_of",
    "newest_checkpoint",
    "other_pictures",
    "overfits_since",
    "read_log",
    "read_pictured",
    "read_stages",
    "reconstruct",
    "run_path",
    "save_checkpoint",
    "save_snapshot",
    "seconds_until",
    "stored_averages",
    "write_checkpoint",
]
