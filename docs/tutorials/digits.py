# %% [markdown]
# # Train digits from Python
#
# From a data set to samples, with a look at what happens on the way. The preset trains 1,200 steps;
# 300 are enough to see digits, and take a minute or two on a laptop.

# %% tags=["parameters"]
STEPS = 300
SETTINGS = {}  # more of them, by name

# %%
import matplotlib.pyplot as plt

import vfn
from vfn import configs
from vfn.data import load_dataset
from vfn.train import Observer, train

digits = load_dataset("digits")
print(digits.images.shape, digits.images.dtype, digits.legend.describe())

# %% [markdown]
# A configuration is a value. Settings are replaced by name, and wrong ones are refused, all at
# once.

# %%
config = configs.override(configs.load("digits"), {"steps": STEPS, "log_every": 20, **SETTINGS})
print(config.diffusion.model_out_type, config.diffusion.logsnr_schedule, config.train.lr)
try:
    configs.override(config, {"lr": -1, "hid_channel": 64})
except ValueError as error:
    print(error)


# %% [markdown]
# An observer hears what is logged. Everything else a run tells lies in its directory.


# %%
class Losses(Observer):
    def __init__(self):
        self.training, self.held_out = {}, {}

    def logged(self, step, values):
        if "loss" in values:
            self.training[step] = values["loss"]
        if "held_out_loss" in values:
            self.held_out[step] = values["held_out_loss"]


losses = Losses()
outcome = train(config, "runs/short", callbacks=[losses], fresh=True)
print("trained to step", outcome.step)

# %%
figure, axes = plt.subplots(figsize=(6, 3.5), layout="constrained")
axes.semilogy(losses.training.keys(), losses.training.values(), label="training")
axes.semilogy(losses.held_out.keys(), losses.held_out.values(), "o", label="held out")
axes.set(xlabel="step", ylabel="loss")
axes.legend(frameon=False)

# %% [markdown]
# ## Samples
#
# Labels are asked in turn; `guidance` makes pictures more typical of theirs. A picture belongs to
# its seed and its number, whatever the batch.

# %%
model = vfn.load("runs/short")
drawn = model.sample(40, labels=list("0123456789"), guidance=0.5, sampler="abm2", steps=16, seed=0)
figure, axes = plt.subplots(4, 10, figsize=(8, 3.4), layout="constrained")
for place, picture, label in zip(axes.flat, drawn.images, drawn.labels):
    place.imshow(picture[0].numpy(), cmap="gray", vmin=0, vmax=255)
    place.set_axis_off()
    if place in axes[0]:
        place.set_title(label)
print(f"{drawn.nfe} evaluations for each picture")

# %% [markdown]
# `outcome`, the log and the checkpoints are described in [Run directories](../run-directory.md);
# the same run on the command line is
# `vfn train --config digits --steps 300 --out runs/short`.
