"""v-objective diffusion models: train, sample, evaluate."""

from typing import TYPE_CHECKING, Any

__version__ = "0.3.0.dev0"
__all__ = ["__version__", "load"]

if TYPE_CHECKING:
    from vfn.sampling.trained import load as load


def __getattr__(name: str) -> Any:
    """`load` is imported when it is first used, so that ``import vfn.ops`` stays light."""
    if name == "load":
        from vfn.sampling.trained import load

        return load
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
