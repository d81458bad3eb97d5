"""The table of solvers, without torch: words, what each is, and the settings that it takes."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from vfn.tables import Entry, Table


@dataclass(frozen=True, kw_only=True)
class SolverEntry(Entry):
    """A solver behind a word.

    target: a factory, which takes its options as keywords and returns a `Solver`, or an
    `Integrator` that goes over the grid by itself. options: the settings that it takes, among
    eta, churn, tolerance, var_type and intp_frac. bound: keyword arguments that belong to the word.
    own_steps: whether the solver may choose the number of its evaluations itself, for each batch.
    forgetful: whether it takes steps back, so that a denoiser with a memory cannot go along.
    spanning: whether it asks for the mean velocity of a whole step.

    >>> SOLVERS["heun"].options, SOLVERS["abm2"].bound
    (('churn',), {'correct': True})
    >>> SOLVERS["adaptive"].own_steps
    True
    """

    options: tuple[str, ...] = ()
    bound: Mapping[str, Any] = field(default_factory=dict)
    own_steps: bool = False
    forgetful: bool = False
    spanning: bool = False


def _outside(name: str) -> SolverEntry:
    return SolverEntry(text=f"the solver that {name}() makes", target=name, own_steps=True)


SOLVERS: Table[SolverEntry] = Table(
    "solver",
    {
        "ddim": SolverEntry(
            text="DDIM, of first order; eta brings in new noise",
            target="vfn.ops.solvers:ddim_solver",
            options=("eta",),
        ),
        "ancestral": SolverEntry(
            text="draws of the posterior, as DDPM samples",
            target="vfn.ops.solvers:ancestral_solver",
            options=("var_type", "intp_frac"),
        ),
        "heun": SolverEntry(
            text="EDM's method of Heun, of second order, two evaluations a step; churn adds noise",
            target="vfn.ops.solvers:heun_solver",
            options=("churn",),
        ),
        "dpmpp_2m": SolverEntry(
            text="DPM-Solver++(2M), of second order",
            target="vfn.ops.solvers:dpmpp_2m_solver",
        ),
        "dpmpp_2m_sde": SolverEntry(
            text="SDE-DPM-Solver++(2M), of second order with the noise of ancestral sampling",
            target="vfn.ops.solvers:dpmpp_2m_solver",
            bound={"eta": 1.0},
        ),
        "dpmpp_3m": SolverEntry(
            text="DPM-Solver++(3M), from the last three predictions",
            target="vfn.ops.solvers:dpmpp_3m_solver",
        ),
        "unipc": SolverEntry(
            text="UniPC-2, which corrects each state of DPM-Solver++(2M)",
            target="vfn.ops.solvers:unipc_solver",
        ),
        "ab2": SolverEntry(
            text="Adams-Bashforth of second order on the angle, native to v",
            target="vfn.ops.solvers:adams_solver",
        ),
        "abm2": SolverEntry(
            text="Adams-Bashforth-Moulton: ab2 with each state corrected",
            target="vfn.ops.solvers:adams_solver",
            bound={"correct": True},
        ),
        "consistency": SolverEntry(
            text="to the data and back with new noise in each step, for consistency models",
            target="vfn.ops.solvers:consistency_solver",
        ),
        "mean_flow": SolverEntry(
            text="one step by the mean velocity between its ends; ddim for networks without one",
            target="vfn.ops.solvers:mean_flow_solver",
            spanning=True,
        ),
        "adaptive": SolverEntry(
            text="Bogacki and Shampine's pair, with steps as long as a tolerance allows",
            target="vfn.ops.solvers:adaptive_solver",
            options=("tolerance",),
            own_steps=True,
            forgetful=True,
        ),
    },
    _outside,
)
