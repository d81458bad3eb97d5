"""What a network is given beside noisy pictures, as one vector [B, E].

Shapes: t [B], labels y [B] (class 1..K, 0 = unconditional) or [B, K] (0/1 tags, all zero =
unconditional), guidance w [B] where it is an input.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vfn.nn.layers import linear, sinusoidal_embedding


class Conditioned(nn.Module):
    """A network whose layers are steered by time, labels and guidance.

    Args:
        features: width of the sinusoids of time and guidance, even and at least 4.
        embedding_dim: width E of the conditioning.
        num_classes: K labels; 0 for an unconditional network.
        multitags: labels are 0/1 vectors of K tags instead of one class.
        guidance_range: lowest and highest guidance weight, for a network that takes it as an input;
            None for one that does not. Its layer starts at zero: w changes nothing then.
    """

    def __init__(
        self,
        features: int,
        embedding_dim: int,
        num_classes: int = 0,
        multitags: bool = False,
        guidance_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.features = features
        self.num_classes, self.multitags = num_classes, multitags
        self.guidance_range = guidance_range
        self.time_embed = nn.Sequential(
            linear(features, embedding_dim), nn.SiLU(), linear(embedding_dim, embedding_dim)
        )
        self.label_embed = linear(num_classes, embedding_dim) if num_classes else None
        self.guidance_embed = linear(features, embedding_dim, zero=True) if guidance_range else None

    def embed(self, t: Tensor, y: Tensor | None, w: Tensor | None = None) -> Tensor:
        """Conditioning of times, labels and guidance.

        Args:
            t: time [B] in [0, 1].
            y: labels [B] or [B, K]; None leaves out their bias as well.
            w: guidance weights [B] in ``guidance_range``, or None where the network takes none.

        Returns:
            [B, E].

        Raises:
            ValueError: for labels of an unconditional network.
        """
        layer = self.time_embed[0]
        assert isinstance(layer, nn.Linear)
        dtype = layer.weight.dtype
        embedding = self.time_embed(sinusoidal_embedding(t, self.features).to(dtype))
        if self.guidance_embed is not None and self.guidance_range is not None and w is not None:
            low, high = self.guidance_range
            # At most ten radians over the range: what guidance does is smooth in w.
            angles = sinusoidal_embedding((w - low) / (high - low) / 100, self.features)
            embedding = embedding + self.guidance_embed(angles.to(dtype))
        if y is None:
            return embedding
        if self.label_embed is None:
            raise ValueError("expected no labels for an unconditional network, got some; pass None")
        if self.multitags:
            shares = y / y.sum(-1, keepdim=True).clamp(min=1).sqrt()
        else:
            classes = torch.arange(1, self.num_classes + 1, device=y.device)
            shares = y.unsqueeze(-1) == classes
        return embedding + self.label_embed(shares.to(dtype))

    def check_conditions(self, y: Tensor | None, w: Tensor | None, count: int) -> None:
        """Refuse labels and guidance of another shape; to look at values would wait for the device.

        Args:
            y: labels, or None.
            w: guidance weights, or None.
            count: samples of the batch.

        Raises:
            ValueError: if they are not one for each sample, or guidance is missing or not wanted.
        """
        if y is not None:
            expected = (count, self.num_classes) if self.multitags else (count,)
            if tuple(y.shape) != expected:
                raise ValueError(
                    f"expected labels of shape {expected}, one for each sample of z, got "
                    f"{tuple(y.shape)}"
                )
        if self.guidance_range is None:
            if w is not None:
                raise ValueError(
                    "expected no guidance for a network that does not take it, got some"
                )
        elif w is None or tuple(w.shape) != (count,):
            raise ValueError(
                f"expected guidance of shape ({count},) for a network that takes it as an input, "
                f"got {None if w is None else tuple(w.shape)}"
            )
