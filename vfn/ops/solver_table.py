from dataclasses import dataclass, field
from typing import Any
from vfn.tables import Entry, Table


@dataclass(frozen=True, kw_only=True)
class SolverEntry(Entry):
    options: tuple[str, ...] = ()
    bound: Any = field(default_factory=dict)


SOLVERS = Table(
    "solver",
    {
        n: SolverEntry(text=n, target="x:y", options=o)
        for n, o in {
            "ddim": ("eta",),
            "ancestral": ("var_type", "intp_frac"),
            "heun": ("churn",),
            "dpmpp_2m": (),
            "dpmpp_2m_sde": (),
            "dpmpp_3m": (),
            "unipc": (),
            "ab2": (),
            "abm2": (),
            "adaptive": ("tolerance",),
        }.items()
    },
    lambda n: SolverEntry(text=n, target=n),
)
