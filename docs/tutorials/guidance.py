# %% [markdown]
# # Guidance and few steps
#
# Two questions of everyone who samples: how much guidance, and how few evaluations. Both are
# settings of drawing, so one trained network answers them.

# %% tags=["parameters"]
STEPS = 1200  # of training, if runs/digits is not there yet
PICTURES = 400  # judged for each setting
WEIGHTS = [0.0, 0.25, 0.5, 1.0, 2.0]
BUDGETS = [2, 4, 8, 16]
SETTINGS = {}

# %%
from pathlib import Path

import matplotlib.pyplot as plt

import vfn
from vfn import configs
from vfn.evaluation import judge
from vfn.train import train

if not Path("runs/digits").exists():
    train(configs.override(configs.load("digits"), {"steps": STEPS, **SETTINGS}), "runs/digits")
model = vfn.load("runs/digits")
print("trained", model.step, "steps")

# %% [markdown]
# ## How much guidance
#
# Guidance leads a prediction away from that without a label: `cond + w (cond - uncond)`. The same
# noise under growing w shows variety turn into typical pictures.

# %%
figure, axes = plt.subplots(
    len(WEIGHTS), 10, figsize=(8, 0.85 * len(WEIGHTS)), layout="constrained"
)
for row, weight in zip(axes, WEIGHTS):
    drawn = model.sample(10, labels=["2", "5"], guidance=weight, steps=16, seed=1)
    for place, picture in zip(row, drawn.images):
        place.imshow(picture[0].numpy(), cmap="gray")
        place.set_xticks([])
        place.set_yticks([])
    row[0].set_ylabel(f"w = {weight:g}", rotation=0, ha="right", va="center")

# %% [markdown]
# Precision is the share of drawn pictures among the real ones, recall the share of real pictures
# that are covered. Guidance trades the second for the first, and the Fréchet distance notices
# both.

# %%
figures = {}
for weight in WEIGHTS:
    found = judge("dataset:digits:train", model.draws(PICTURES, guidance=weight, steps=16), "fd,pr")
    figures[weight] = {figure.key: figure.value for figure in found.figures}
    print(weight, {key: round(value, 3) for key, value in figures[weight].items()})

figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for key in ("precision", "recall"):
    axes[0].plot(WEIGHTS, [figures[weight][key] for weight in WEIGHTS], "o-", label=key)
axes[0].set(xlabel="guidance w", ylim=(0, 1))
axes[0].legend(frameon=False)
axes[1].plot(WEIGHTS, [figures[weight]["frechet_distance"] for weight in WEIGHTS], "o-")
axes[1].set(xlabel="guidance w", ylabel="Fréchet distance", ylim=(0, None))

# %% [markdown]
# ## How few evaluations
#
# DDIM is of first order; Adams' methods on the angle (`abm2`) are of second order and native to v.
# The noise is the same, so the pictures are comparable one by one.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
for solver in ("ddim", "abm2"):
    distances = []
    for budget in BUDGETS:
        draws = model.draws(PICTURES, sampler=solver, steps=budget, guidance=0.0)
        distances.append(judge("dataset:digits:train", draws, "fd").figures[0].value)
    axes[0].loglog(BUDGETS, distances, "o-", label=solver)
    print(solver, [round(distance, 3) for distance in distances])
axes[0].set(xlabel="evaluations", ylabel="Fréchet distance")
axes[0].set_xticks(BUDGETS, BUDGETS)
axes[0].minorticks_off()
axes[0].legend(frameon=False)
few = model.sample(10, labels=list("0123456789"), sampler="abm2", steps=BUDGETS[1], seed=1).images
axes[1].imshow(few[:, 0].permute(1, 0, 2).reshape(8, -1).numpy(), cmap="gray")
axes[1].set_axis_off()
axes[1].set_title(f"abm2, {BUDGETS[1]} evaluations")

# %% [markdown]
# Below four evaluations a network has to be taught: [Distillation](../distillation.md). Guidance
# by a weaker network, in an interval, and other rules are in [Guidance](../guidance.md).
