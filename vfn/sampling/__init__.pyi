from .asked import Asked as Asked
from .asked import ask as ask
from .asked import of_each as of_each
from .draws import Drawn as Drawn
from .draws import Draws as Draws
from .draws import Watch as Watch
from .draws import joined as joined
from .trained import Trained as Trained
from .trained import load as load

__all__ = ["Asked", "Drawn", "Draws", "Trained", "Watch", "ask", "joined", "load", "of_each"]
