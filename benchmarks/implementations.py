"""Other implementations: each with its own network, loss and samplers, as its own code has them.

The reference implementation and EDM are checkouts that VFN_REFERENCE and VFN_EDM name, of
https://github.com/tqch/v-diffusion-torch and https://github.com/NVlabs/edm; diffusers and
denoising-diffusion-pytorch are packages.
"""

import importlib.util
import itertools
import math
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.edm import CHECKOUT as EDM_CHECKOUT

REFERENCE_CHECKOUT = os.environ.get("VFN_REFERENCE", "")
CLASSES, TIMES = 10, 1000


class Shape(NamedTuple):
    """Of pictures, one channel, and of a UNet for them: a multiplier and attention by level."""

    size: int
    multipliers: tuple[int, ...]
    attention: tuple[bool, ...]

    @property
    def sides(self) -> list[int]:
        """Of the maps with attention."""
        return [self.size >> level for level, has in enumerate(self.attention) if has]


SHAPES = {
    "digits": Shape(8, (1, 2), (False, True)),
    "mnist5k": Shape(28, (1, 2, 2), (False, False, True)),
}


class Sampler(NamedTuple):
    """A word of the implementation, and its number of steps."""

    word: str
    steps: int

    def __str__(self) -> str:
        return f"{self.word}, {self.steps} steps"


class Peer(Protocol):
    """Pictures are float32 [B, 1, H, W] in [-1, 1], labels int64 [B] in 0..9.

    widths, blocks: to choose from, so that the number of parameters is ours; blocks are residual
    ones a level. few, many: samplers of at most 10 and of at most 64 evaluations. net: what is
    trained and averaged. loss: of each picture [B].
    """

    widths: Sequence[int]
    blocks: Sequence[int]
    few: tuple[Sampler, ...]
    many: tuple[Sampler, ...]
    net: nn.Module

    def __init__(self, shape: Shape, width: int, blocks: int) -> None: ...

    def loss(self, x0: Tensor, y: Tensor) -> Tensor: ...

    def sample(self, sampler: Sampler, y: Tensor) -> Tensor: ...


class Reference:
    """The setting of its class-conditional CIFAR-10: v, cosine, max(1, SNR), continuous time.

    As many channels in a group of a normalisation as there, where the width is 256.
    """

    widths, blocks = range(16, 97, 8), (1, 2)
    few = (Sampler("DDIM", 10), Sampler("ancestral", 10))
    many = (Sampler("DDIM", 64), Sampler("ancestral", 64))

    def __init__(self, shape: Shape, width: int, blocks: int) -> None:
        _importable(REFERENCE_CHECKOUT)
        from v_diffusion.diffusion import GaussianDiffusion, get_logsnr_schedule
        from v_diffusion.models import unet

        for part in (unet.BaseAttentionBlock, unet.ResidualBlock, unet.UNet):
            part.normalize = partial(nn.GroupNorm, width // 8, eps=1e-6)
        self.size = shape.size
        self.net: nn.Module = unet.UNet(
            1, width, 1, list(shape.multipliers), blocks, list(shape.attention), num_heads=1,
            num_classes=CLASSES,
        )  # fmt: skip
        self.diffusion = partial(
            GaussianDiffusion, get_logsnr_schedule("cosine", -20.0, 20.0), model_out_type="v",
            model_var_type="fixed_medium", intp_frac=0.3, reweight_type="snr_trunc",
            loss_type="mse", w_guide=0.0, p_uncond=0.1,
        )  # fmt: skip

    def loss(self, x0: Tensor, y: Tensor) -> Tensor:
        t = torch.rand(len(x0), dtype=torch.float64)
        loss: Tensor = self.diffusion(1).train_loss(self.net, x0, t, y + 1.0)
        return loss

    def sample(self, sampler: Sampler, y: Tensor) -> Tensor:
        shape, ddim = (len(y), 1, self.size, self.size), sampler.word == "DDIM"
        diffusion = self.diffusion(sampler.steps)
        drawn: Tensor = diffusion.p_sample(self.net, shape, label=y + 1.0, use_ddim=ddim)
        return drawn


class ReferenceDropout(Reference):
    """With the dropout of its CIFAR-10, for trainings that are long for so few pictures."""

    def __init__(self, shape: Shape, width: int, blocks: int) -> None:
        super().__init__(shape, width, blocks)
        for part in self.net.modules():
            if isinstance(part, nn.Dropout):
                part.p = 0.2


class Diffusers:
    """Its script for unconditional training, with labels: noise, DDPM's linear betas, 1000 times.

    As many channels in a group of a normalisation as there, where the width is 128.
    50 steps, since its schedulers take 1000 // steps between two of them. They are spaced
    "trailing", so that the first is at the time of pure noise; with its default, "leading", 10
    steps would begin at time 900. DPM-Solver++ is the stochastic one: the other, which does not
    clip, is further from the data.
    """

    widths, blocks = range(16, 97, 8), (1, 2)
    few = (Sampler("DDIM", 10), Sampler("DDPM", 10), Sampler("SDE-DPM-Solver++", 10))
    many = (Sampler("DDIM", 50), Sampler("DDPM", 50), Sampler("SDE-DPM-Solver++", 50))

    def __init__(self, shape: Shape, width: int, blocks: int) -> None:
        from diffusers import DDPMScheduler, UNet2DModel

        self.size = shape.size
        attention = ["Attn" * has for has in shape.attention]
        self.net: nn.Module = UNet2DModel(
            sample_size=shape.size, in_channels=1, out_channels=1, layers_per_block=blocks,
            block_out_channels=[width * times for times in shape.multipliers],
            down_block_types=[f"{has}DownBlock2D" for has in attention],
            up_block_types=[f"{has}UpBlock2D" for has in reversed(attention)],
            norm_num_groups=width // 4, num_class_embeds=CLASSES,
        )  # fmt: skip
        self.scheduler = DDPMScheduler(num_train_timesteps=TIMES, timestep_spacing="trailing")

    def loss(self, x0: Tensor, y: Tensor) -> Tensor:
        t, noise = torch.randint(0, TIMES, (len(x0),)), torch.randn_like(x0)
        found = self.net(self.scheduler.add_noise(x0, noise, t), t, y).sample
        return (found - noise).square().flatten(1).mean(1)

    def sample(self, sampler: Sampler, y: Tensor) -> Tensor:
        import diffusers

        kind = {
            "DDIM": diffusers.DDIMScheduler,
            "DDPM": diffusers.DDPMScheduler,
            "SDE-DPM-Solver++": partial(
                diffusers.DPMSolverMultistepScheduler, algorithm_type="sde-dpmsolver++"
            ),
        }[sampler.word]
        scheduler = kind(num_train_timesteps=TIMES, timestep_spacing="trailing")
        scheduler.set_timesteps(sampler.steps)
        x = torch.randn(len(y), 1, self.size, self.size)
        for t in scheduler.timesteps:
            x = scheduler.step(self.net(x, t, y).sample, t, x).prev_sample
        return x


class Lucidrains:
    """Its classifier-free guidance's network and defaults: noise, cosine betas, 1000 times.

    Labels are dropped as often as ours are; its own default is every second.
    """

    widths, blocks = range(16, 97, 8), (2,)  # which its network has
    few = (Sampler("DDIM", 10), Sampler("DDIM with eta 1", 10))
    many = (Sampler("DDIM", 64), Sampler("DDIM with eta 1", 64))

    def __init__(self, shape: Shape, width: int, blocks: int) -> None:
        del blocks
        from denoising_diffusion_pytorch.classifier_free_guidance import GaussianDiffusion, Unet

        net = Unet(width, CLASSES, cond_drop_prob=0.1, dim_mults=shape.multipliers, channels=1)
        # At scale 1 its method gives one value, where its sampling unpacks two.
        net.forward_with_cond_scale = lambda *inputs, **_: (net(*inputs, cond_drop_prob=0.0), None)
        self.net: nn.Module = net
        self.diffusion = partial(GaussianDiffusion, net, image_size=shape.size, timesteps=TIMES)
        self.training = self.diffusion()

    def loss(self, x0: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.training((x0 + 1) / 2, classes=y, loss_reduction="none")
        return loss

    def sample(self, sampler: Sampler, y: Tensor) -> Tensor:
        eta = float("eta 1" in sampler.word)
        diffusion = self.diffusion(sampling_timesteps=sampler.steps, ddim_sampling_eta=eta)
        drawn: Tensor = diffusion.sample(y, cond_scale=1.0, rescaled_phi=0.0)
        return drawn * 2 - 1


class EDM:
    """Its DDPM++ network, preconditioning, noise levels and weight, without augmentation.

    Its samplers begin at sigma 80; small pictures have nothing to be found beyond 20.
    """

    widths, blocks = range(16, 97, 8), (1, 2)
    few = (Sampler("Euler", 10), Sampler("Euler from sigma 20", 10))
    many = (Sampler("Heun", 18), Sampler("Heun", 32))

    def __init__(self, shape: Shape, width: int, blocks: int) -> None:
        _importable(EDM_CHECKOUT)
        from training.loss import EDMLoss
        from training.networks import EDMPrecond

        self.size = shape.size
        self.net: nn.Module = EDMPrecond(
            shape.size, 1, label_dim=CLASSES, model_type="SongUNet", model_channels=width,
            channel_mult=list(shape.multipliers), num_blocks=blocks,
            attn_resolutions=shape.sides, dropout=0.0,
        )  # fmt: skip
        self.of_noise = EDMLoss()

    def loss(self, x0: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = self.of_noise(self.net, x0, F.one_hot(y, CLASSES).float())
        return loss.flatten(1).mean(1)

    def sample(self, sampler: Sampler, y: Tensor) -> Tensor:
        generate = _module(Path(EDM_CHECKOUT) / "generate.py")
        draw = {
            "Heun": generate.edm_sampler,
            "Euler": partial(generate.ablation_sampler, solver="euler"),
            "Euler from sigma 20": partial(
                generate.ablation_sampler, solver="euler", sigma_max=20.0
            ),
        }[sampler.word]
        noise, labels = torch.randn(len(y), 1, self.size, self.size), F.one_hot(y, CLASSES)
        drawn: Tensor = draw(self.net, noise, labels, num_steps=sampler.steps)
        return drawn.float()


class AugmentedEDM(EDM):
    """With the augmentation and the dropout of its CIFAR-10, but for the mirrored half.

    Digits are mirrored as rarely as they are otherwise changed.
    """

    def __init__(self, shape: Shape, width: int, blocks: int) -> None:
        super().__init__(shape, width, blocks)
        from training.augment import AugmentPipe
        from training.networks import EDMPrecond

        plain: Any = self.net  # remembers how it was made
        more = {"augment_dim": 9, "dropout": 0.13}
        self.net = EDMPrecond(*plain.init_args, **{**plain.init_kwargs, **more})
        kinds = ("xflip", "yflip", "scale", "rotate_frac", "aniso", "translate_frac")
        self.augment = AugmentPipe(p=0.12, **dict.fromkeys(kinds, 1))
        self.of_noise = partial(self.of_noise, augment_pipe=self.augment)


class EDMWithMuon(EDM):
    """As it is, but for the optimizer: what another network has of it."""


PEERS: dict[str, type[Peer]] = {
    "reference": Reference, "diffusers": Diffusers, "lucidrains": Lucidrains, "EDM": EDM,  # type: ignore[dict-item]  # widths are a range, not any sequence
    "reference-dropout": ReferenceDropout, "EDM-augmented": AugmentedEDM,  # type: ignore[dict-item]  # likewise
    "EDM-muon": EDMWithMuon,  # type: ignore[dict-item]  # likewise
}  # fmt: skip
_REFERENCE = "" if REFERENCE_CHECKOUT else "VFN_REFERENCE names no checkout"
_EDM = "" if EDM_CHECKOUT else "VFN_EDM names no checkout"
LACKING = {
    "reference": _REFERENCE, "reference-dropout": _REFERENCE,
    **dict.fromkeys(("EDM", "EDM-augmented", "EDM-muon"), _EDM),
    **{
        name: "" if importlib.util.find_spec(package) else f"pip install {package}"
        for name, package in (
            ("diffusers", "diffusers"), ("lucidrains", "denoising_diffusion_pytorch"),
        )
    },
}  # fmt: skip


def size_of(net: nn.Module) -> int:
    """Its number of parameters."""
    return sum(weight.numel() for weight in net.parameters())


def nearest_in_size(kind: type[Peer], shape: Shape, parameters: int) -> tuple[int, int]:
    """The width and the blocks whose number of parameters is nearest, as a ratio."""
    return min(
        itertools.product(kind.widths, kind.blocks),
        key=lambda sizes: abs(math.log(size_of(kind(shape, *sizes).net) / parameters)),
    )


def _importable(checkout: str) -> None:
    if checkout not in sys.path:
        sys.path.insert(0, checkout)


def _module(path: Path) -> Any:
    """A script of a checkout, whose name others have too."""
    spec = importlib.util.spec_from_file_location(f"{path.stem}_of_{path.parent.name}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
