"""How good are a network's pictures after so many evaluations, solver by solver?

vfn train --config digits --out runs/demo
python -m benchmarks.quality runs/demo
"""

import sys
from functools import cache
from pathlib import Path
from statistics import mean, stdev

import matplotlib.pyplot as plt

from benchmarks.common import RESULTS, markdown, write_table
from benchmarks.judged import AGREEMENT, DISTANCE, NUM, judge, perfect_distance
from vfn.evaluation import KINDS

SEED, SEEDS = 0, (0, 1, 2)
BUDGETS = (1, 2, 4, 6, 8, 10, 16, 32, 64, 128)
SAMPLERS = ("ddim", "ancestral", "heun", "dpmpp_2m", "dpmpp_2m_sde", "dpmpp_3m", "unipc", "ab2",
            "abm2")  # fmt: skip
LONG, SHORT, SHORT_SAMPLERS = 50, 10, ("dpmpp_2m", "dpmpp_3m", "unipc", "abm2")


def steps_of(sampler: str, budget: int) -> int | None:
    """Steps that take so many evaluations; None if no whole number does."""
    if sampler != "heun" or budget == 1:
        return budget
    return budget // 2 + 1 if budget % 2 == 0 else None


@cache
def judge_after(run: Path, sampler: str, steps: int, seed: int = SEED) -> dict[str, float]:
    """Without guidance."""
    asked = {"sampler": sampler, "sample_timesteps": steps, "guidance": 0.0}
    return judge(run, "fd,agreement", seed, **asked)


def plot(found: dict[tuple[str, int], dict[str, float]]) -> None:
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.2), layout="constrained")
    for name, axis in zip((DISTANCE, AGREEMENT), axes, strict=True):
        for sampler in SAMPLERS:
            budgets = [budget for budget in BUDGETS if (sampler, budget) in found]
            values = [found[sampler, budget][name] for budget in budgets]
            style = "--" if sampler in ("ancestral", "dpmpp_2m_sde") else "-"
            axis.plot(budgets, values, style, marker="o", markersize=3, label=sampler)
        axis.set(xscale="log", xlabel="evaluations of the network", ylabel=KINDS[name].title)
        axis.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
        axis.minorticks_off()
        axis.grid(alpha=0.3)
    axes[0].set_yscale("log")
    axes[0].legend(fontsize=8)
    figure.savefig(RESULTS / "quality.png", dpi=120)
    plt.close(figure)


def short_rows(run: Path) -> list[list[str]]:
    """Few steps beside many, over some seeds."""
    rows = []
    for sampler, steps in (("ddim", LONG), *((name, SHORT) for name in SHORT_SAMPLERS)):
        values = [judge_after(run, sampler, steps, seed)[DISTANCE] for seed in SEEDS]
        rows.append([f"{sampler}, {steps}", f"{mean(values):.4f}", f"{stdev(values):.4f}"])
    return rows


def main() -> None:
    run = Path(sys.argv[1])
    found = {
        (sampler, budget): judge_after(run, sampler, steps)
        for sampler in SAMPLERS
        for budget in BUDGETS
        if (steps := steps_of(sampler, budget)) is not None
    }
    rows = [
        [
            sampler,
            *(
                f"{got[DISTANCE]:.4f}, {100 * got[AGREEMENT]:.1f}"
                if (got := found.get((sampler, budget)))
                else ""
                for budget in BUDGETS
            ),
        ]
        for sampler in SAMPLERS
    ]
    write_table(
        "quality",
        "Digits by number of evaluations: Fréchet distance of pixels, label agreement in %",
        ["sampler", *(f"NFE {budget}" for budget in BUDGETS)],
        rows,
        f"{NUM} pictures, seed {SEED}, guidance 0, cosine schedule, steps uniform in time, against "
        f"the training pictures; a perfect sampler would get {perfect_distance():.4f}, and what is "
        "less is nearer to these pictures than new ones of their law are.\n\n"
        f"## {SHORT} evaluations beside {LONG}, Fréchet distance over {len(SEEDS)} seeds\n\n"
        f"{markdown(['sampler, NFE', 'mean', 'deviation'], short_rows(run))}\n\n"
        "![Quality by evaluations](quality.png)",
    )
    plot(found)


if __name__ == "__main__":
    main()
