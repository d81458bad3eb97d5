from .asked import Asked as Asked
from .asked import ask as ask
from .asked import of_each as of_each
from .condition import as_pictures as as_pictures
from .balance import as_data as as_data
from .balance import balance_text as balance_text
from .balance import class_shares as class_shares
from .balance import split_text as split_text
from .balance import usual_labels as usual_labels
from .draws import Drawn as Drawn
from .draws import Draws as Draws
from .draws import Watch as Watch
from .draws import joined as joined
from .job import Written as Written
from .job import variants as variants
from .job import write_samples as write_samples
from .output import Output as Output
from .output_table import OUTPUTS as OUTPUTS
from .trained import Trained as Trained
from .trained import load as load
from .trained import untrained as untrained

__all__ = [
    "OUTPUTS",
    "Asked",
    "Drawn",
    "Draws",
    "Output",
    "Trained",
    "Watch",
    "Written",
    "as_data",
    "as_pictures",
    "ask",
    "balance_text",
    "class_shares",
    "joined",
    "load",
    "of_each",
    "split_text",
    "untrained",
    "usual_labels",
    "variants",
    "write_samples",
]
