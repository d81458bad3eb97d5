"""Diffusion over the latents of a small autoencoder, from pictures to pictures on a CPU.

An autoencoder of this file's own learns the pictures of a data set; its latents, floats of several
channels, are written to an .npz file with their labels; a run is trained on that file, standardised
by channel; what it draws is decoded and judged beside held-out pictures. Any other autoencoder
takes the first one's place: what a run needs is the file.

    python examples/latents.py --out runs/latents
"""

from pathlib import Path

import click
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import vfn
from vfn.configs import load, override
from vfn.data import as_dataset, load_dataset, to_uint8, to_unit
from vfn.evaluation import judge
from vfn.pictures import grid, save_png
from vfn.progress import say
from vfn.train import train

BATCH, KL_WEIGHT = 128, 1e-3


class Autoencoder(nn.Module):
    """A variational autoencoder whose latents are a quarter as high and wide as the pictures.

    [B, C, H, W] <-> [B, D, H/4, W/4].
    """

    def __init__(self, channels: int, latents: int = 4, width: int = 32) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(channels, width, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(width, 2 * width, 3, 2, 1),
            nn.SiLU(),
            nn.Conv2d(2 * width, 2 * latents, 3, 1, 1),
        )
        self.decoder = nn.Sequential(
            nn.Conv2d(latents, 2 * width, 3, 1, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(2 * width, width, 4, 2, 1),
            nn.SiLU(),
            nn.ConvTranspose2d(width, channels, 4, 2, 1),
        )

    def encode(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance of the latents of pictures in [-1, 1]."""
        mean, log_variance = self.encoder(x).chunk(2, dim=1)
        return mean, log_variance.clamp(-10, 10)

    def loss(self, x: Tensor) -> Tensor:
        """Square error of a picture from noisy latents, and their distance from a normal."""
        mean, log_variance = self.encode(x)
        latents = mean + (0.5 * log_variance).exp() * torch.randn_like(mean)
        apart = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
        return F.mse_loss(self.decoder(latents), x) + KL_WEIGHT * apart.mean()


def fit(model: Autoencoder, images: Tensor, steps: int, seed: int = 0) -> None:
    """Train an autoencoder on uint8 pictures [N, C, H, W]."""
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    draw = torch.Generator().manual_seed(seed)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    for step in range(1, steps + 1):
        rows = torch.randint(len(images), (BATCH,), generator=draw)
        loss = model.loss(to_unit(images[rows]))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
        if step % 200 == 0 or step == steps:
            say(f"autoencoder, step {step}: loss {loss.item():.4f}")


@torch.no_grad()
def encoded(model: Autoencoder, images: Tensor) -> Tensor:
    """Means of the latents of uint8 pictures."""
    return torch.cat([model.encode(to_unit(part))[0] for part in images[:].split(500)])


@torch.no_grad()
def decoded(model: Autoencoder, latents: Tensor) -> Tensor:
    """uint8 pictures of latents."""
    return torch.cat([to_uint8(model.decoder(part)) for part in latents.split(500)])


@click.command()
@click.option("--out", type=click.Path(path_type=Path), default=Path("runs/latents"))
@click.option("--dataset", default="mnist5k", help="pictures whose sides 4 divides")
@click.option("--autoencoder-steps", default=1500)
@click.option("--steps", default=1000, help="of the diffusion")
@click.option("--num", default=500, help="pictures that are drawn and judged")
@click.option("--width", default=64, help="of the UNet")
def main(out: Path, dataset: str, autoencoder_steps: int, steps: int, num: int, width: int) -> None:
    """Train, draw, decode and judge."""
    pictures, unseen = load_dataset(dataset), load_dataset(dataset, "test")
    torch.manual_seed(0)
    autoencoder = Autoencoder(pictures.images.shape[1])
    fit(autoencoder, pictures.images, autoencoder_steps)

    out.mkdir(parents=True, exist_ok=True)
    file = out / "latents.npz"
    latents = encoded(autoencoder, pictures.images)
    # Classes count from 0 in files that name them.
    np.savez(
        file,
        arr_0=latents.movedim(1, -1).numpy(),
        arr_1=pictures.labels.numpy() - 1,
        class_names=np.array(pictures.legend.names),
    )
    more = {"dataset": str(file), "standardise": True, "data_dir": str(out / "prepared")}
    settings = {"steps": steps, "hid_channels": width, "eval_every": 0, "guidance": 0.5}
    train(override(load("digits"), {**more, **settings}), out / "run")

    model = vfn.load(out / "run")
    drawn = model.sample(num)
    images = decoded(autoencoder, drawn.images)
    save_png(out / "grid.png", grid(images[:100], 10))
    again = decoded(autoencoder, encoded(autoencoder, unseen.images))
    for name, fake in (("held-out pictures, encoded and decoded", again), ("drawn", images)):
        found = judge(pictures, as_dataset(fake), ["fd", "pr"])
        say(f"{name}\n{found.table()}")
    paired = judge(unseen, as_dataset(again), ["psnr", "ssim"])
    say(f"held-out pictures beside themselves\n{paired.table()}")
    say(f"pictures: {out / 'grid.png'}")


if __name__ == "__main__":
    main()
