# %% [markdown]
# # Judging a model honestly
#
# A figure alone says little. What would real pictures get? How sure is it? Would a copying machine
# get a better one? Three checks, each a few lines.

# %% tags=["parameters"]
STEPS = 1200  # of training, if runs/digits is not there yet
PICTURES = 500
BOOTSTRAP = 100  # resampled sets for an interval
SIZES = [100, 200, 400, 700]
SETTINGS = {}

# %%
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import vfn
from vfn import configs
from vfn.data import load_dataset
from vfn.evaluation import judge
from vfn.ops import keyed_normal
from vfn.train import train

if not Path("runs/digits").exists():
    train(configs.override(configs.load("digits"), {"steps": STEPS, **SETTINGS}), "runs/digits")
model = vfn.load("runs/digits")
real, held_out = load_dataset("digits"), load_dataset("digits", "test")
draws = model.draws(PICTURES, guidance=0.0, steps=16)

# %% [markdown]
# ## Beside what real pictures get
#
# Every figure has a reference: what a perfect sampler, or held-out real pictures, would get with
# as many pictures. Of a distance it is not 0, since a finite set is never like another. Intervals
# are of 95 %.

# %%
found = judge(real, draws, metrics="usual", held_out=held_out, bootstrap=BOOTSTRAP)
print(found.table())

# %% [markdown]
# ## How many pictures
#
# The Fréchet distance falls with the number of pictures, for real ones too. So figures of
# different numbers do not compare: a model judged on fewer looks worse.

# %%
shuffled = real.images[torch.randperm(len(real.images), generator=torch.Generator().manual_seed(0))]
distances = {"real, another half": [], "model": []}
for size in SIZES:
    half = len(shuffled) // 2
    other = shuffled[half : half + size]
    distances["real, another half"].append(judge(shuffled[:half], other, "fd").figures[0].value)
    drawn = model.draws(size, guidance=0.0, steps=16)
    distances["model"].append(judge(shuffled[:half], drawn, "fd").figures[0].value)
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
for name, values in distances.items():
    axes.plot(SIZES, values, "o-", label=name)
axes.set(xlabel="pictures judged", ylabel="Fréchet distance", ylim=(0, None))
axes.legend(frameon=False)

# %% [markdown]
# ## A copying machine
#
# Training pictures with a little noise are no model at all, and have the distance and precision of
# real pictures. What finds them out is how near each is to a training picture, beside how near
# held-out pictures are.

# %%
grain = 2 * keyed_normal(0, 0, torch.arange(PICTURES), tuple(real.images.shape[1:]))
copies = (shuffled[:PICTURES] + grain).round().clamp(0, 255).to(torch.uint8)
for name, fake in (("copies", copies), ("model", draws)):
    found = judge(real, fake, metrics=("fd", "pr", "memorisation"), held_out=held_out)
    told = {figure.title: f"{figure.value:.3f}" for figure in found.figures}
    print(name, told)

# %% [markdown]
# Which features are compared matters as well: `features="inception"` gives the FID of papers, and
# pixels, as here, are enough for digits of 8 x 8. [Evaluation](../evaluation.md) has all of them,
# and stored references.
