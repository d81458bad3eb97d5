"""DDIM by diffusers for class labels with guidance; this file stands alone beside the weights.

```python
from diffusers import DiffusionPipeline

pipeline = DiffusionPipeline.from_pretrained(FOLDER, custom_pipeline=FOLDER, trust_remote_code=True)
pipeline(["3", "7"], guidance=0.5, steps=50).images
```
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers import DDIMScheduler, DiffusionPipeline, ImagePipelineOutput


class ClassPipeline(DiffusionPipeline):
    """Pictures of classes: ``guided = cond + guidance (cond - none)``, each clipped before.

    Args:
        unet: UNet2DModel with an embedding of classes, 0 for none.
        scheduler: DDIMScheduler.
        id2label: names of the classes by their numbers, which count from 1.
    """

    def __init__(
        self, unet: Any, scheduler: Any, id2label: Mapping[str, str] | None = None
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.numbers = {name: int(number) for number, name in (id2label or {}).items()}

    @torch.no_grad()
    def __call__(
        self,
        labels: Sequence[str | int],
        guidance: float = 0.0,
        steps: int = 50,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
        noise: torch.Tensor | None = None,
        output_type: str = "pil",
    ) -> ImagePipelineOutput:
        """Draw a picture for each label.

        Args:
            labels: names, or numbers that count from 1; 0 is no class.
            guidance: w >= 0; 0 is one evaluation a step.
            steps: of DDIM.
            eta: share of new noise in a step.
            generator: of the noise.
            noise: to start from [B, C, H, W], in place of the generator's.
            output_type: ``pil``, ``np`` (in 0..1) or ``pt`` (as the network gives them).

        Returns:
            ImagePipelineOutput.
        """
        device = self._execution_device
        given = [self.numbers[each] if isinstance(each, str) else each for each in labels]
        classes = torch.tensor(given, device=device)
        config, kind = self.unet.config, self.scheduler.config.prediction_type
        size = config.sample_size
        sides = (size, size) if isinstance(size, int) else tuple(size)
        shape = (len(classes), config.in_channels, *sides)
        if noise is None:
            noise = torch.randn(shape, generator=generator, device=device, dtype=self.unet.dtype)
        # Both branches are clipped here, and their combination is not.
        scheduler = DDIMScheduler.from_config(
            self.scheduler.config, prediction_type="sample", clip_sample=False
        )
        scheduler.set_timesteps(steps, device=device)
        z = noise
        for t in self.progress_bar(scheduler.timesteps):
            alpha2 = scheduler.alphas_cumprod[t].to(z)
            x0 = self._x0(z, t, classes, alpha2, kind)
            if guidance:
                none = self._x0(z, t, torch.zeros_like(classes), alpha2, kind)
                x0 = x0 + guidance * (x0 - none)
            z = scheduler.step(x0, t, z, eta=eta, generator=generator).prev_sample
        if output_type == "pt":
            return ImagePipelineOutput(images=z)
        images = (z / 2 + 0.5).clamp(0, 1).permute(0, 2, 3, 1).float().cpu().numpy()
        return ImagePipelineOutput(
            images=self.numpy_to_pil(images) if output_type == "pil" else images
        )

    def _x0(
        self, z: torch.Tensor, t: torch.Tensor, classes: torch.Tensor, alpha2: torch.Tensor,
        kind: str,
    ) -> torch.Tensor:  # fmt: skip
        """The network's picture without noise, clipped."""
        out = self.unet(z, t, classes).sample
        alpha, sigma = alpha2.sqrt(), (1 - alpha2).sqrt()
        if kind == "v_prediction":
            out = alpha * z - sigma * out
        elif kind == "epsilon":
            out = (z - sigma * out) / alpha
        return out.clamp(-1, 1)
