# %% [markdown]
# # Your own pictures
#
# A folder of pictures is a data set. Here the folder is drawn first, so that the page needs no
# download: 800 pictures of discs and frames in colours, 16 pixels wide, a sub-folder for each
# class.

# %% tags=["parameters"]
PICTURES = 400  # of each class
STEPS = 800
# A small network, for small pictures and little time.
SETTINGS = {"hid_channels": 32, "ch_multipliers": (1, 2), "apply_attn": (False, True)}
SETTINGS |= {"num_res_blocks": 1, "resample_with_res": False, "group_channels": 4}
SETTINGS |= {"batch_size": 64, "lr": 2e-3, "lr_schedule": "cosine", "ema_decay": 0.99}

# %%
import random
from pathlib import Path

import matplotlib.pyplot as plt
from PIL import Image, ImageDraw

import vfn
from vfn import configs
from vfn.data import load_dataset
from vfn.evaluation import judge
from vfn.train import train

random.seed(0)
folder = Path("shapes")
for name in ("disc", "frame"):
    (folder / name).mkdir(parents=True, exist_ok=True)
    for number in range(PICTURES):
        picture = Image.new("RGB", (16, 16), "black")
        left, top, width, height = (random.randint(*ends) for ends in [(1, 5)] * 2 + [(6, 9)] * 2)
        box = (left, top, left + width, top + height)
        colour = f"hsl({random.randrange(360)}, 80%, 60%)"
        draw = ImageDraw.Draw(picture)
        draw.ellipse(box, fill=colour) if name == "disc" else draw.rectangle(box, None, colour, 2)
        picture.save(folder / name / f"{number:04d}.png")

# %% [markdown]
# The first use prepares the folder; after that it is memory-mapped. A tenth is held out. Damaged
# pictures would be named here, and refused or, with `on_bad="skip"`, left out.

# %%
settings = configs.override(
    configs.load("small"),
    {"dataset": str(folder), "steps": STEPS, "warmup": min(50, STEPS), **SETTINGS},
)
shapes = load_dataset(settings.data)
held_out = load_dataset(settings.data, "test")
print(shapes.images.shape, shapes.legend.names, "held out:", len(held_out.images))

# %% [markdown]
# ## Train, draw, judge
#
# The presets `small`, `64` and `128` are for pictures of about so many pixels. Their networks are
# wider and deeper than the one here, whose shape is set by `hid_channels`, `ch_multipliers` and
# `apply_attn`, and whose steps are larger and fewer: some minutes on two cores.

# %%
outcome = train(settings, "runs/shapes", fresh=True)
model = vfn.load("runs/shapes")
drawn = model.sample(24, labels=["disc", "frame"], steps=16, seed=0)
figure, axes = plt.subplots(3, 8, figsize=(8, 3.4), layout="constrained")
for place, picture, label in zip(axes.flat, drawn.images, drawn.labels):
    place.imshow(picture.permute(1, 2, 0).numpy())
    place.set_title(label, fontsize=9)
    place.set_axis_off()

# %%
metrics = ("fd", "pr", "memorisation")
found = judge(shapes, model.draws(100, steps=16), metrics, held_out=held_out)
print(found.table())

# %% [markdown]
# The column beside the figures is what a perfect sampler would get. "Memorised 0 %" says that none
# of these pictures is nearer to a training picture than any held-out one is. A large share means
# that the network copies: train for fewer steps, or with `augment` or `dropout`.
#
# [Data](../data.md) has labels in a CSV file, tags, array files, cropping, and what is done about
# pictures that cannot be read. [Judging a model honestly](judging.md) says what such figures are
# worth.
