"""What a network is given beside noisy pictures: one vector [B, E], and more channels of z.

Shapes: t [B], labels y [B] (class 1..K, 0 = unconditional) or [B, K] (0/1 tags, all zero =
unconditional), guidance w [B] where it is an input, vector [B, D], image [B, C', H, W], augment
[B, A]; a condition that is all zero stands for none.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from vfn.nn.layers import linear, sinusoidal_embedding, unbiased
from vfn.nn.network import TimeEmbedding
from vfn.ops.words import check_choice

SMOOTH = 100  # of what is divided by it, sinusoids turn by at most ten radians


class Conditioned(nn.Module):
    """A network whose layers are steered by times, labels, guidance and numbers of a picture.

    Args:
        features: width of the sinusoids of time and guidance, even and at least 4.
        embedding_dim: width E of the conditioning.
        num_classes: K labels; 0 for an unconditional network.
        multitags: labels are 0/1 vectors of K tags instead of one class.
        guidance_range: lowest and highest guidance weight, for a network that takes it as an input;
            None for one that does not. Its layer starts at zero: w changes nothing then.
        time_embedding: ``sinusoidal``, of 1000 t; or ``smooth``, of 10 t, at most ten radians over
            all times, for networks that are differentiated in time.
        second_time: whether it takes a time r <= t as well, where a step from t ends, and predicts
            the mean velocity between them (mean flows). Its last layer starts at zero.
        vector_dim: D numbers of each picture; 0 for none.
        image_channels: C' channels that stand beside those of z; 0 for none.
        augment_dim: A parameters of augmentation; 0 for none.
    """

    def __init__(
        self,
        features: int,
        embedding_dim: int,
        num_classes: int = 0,
        multitags: bool = False,
        guidance_range: Sequence[float] | None = None,
        time_embedding: TimeEmbedding = "sinusoidal",
        second_time: bool = False,
        vector_dim: int = 0,
        image_channels: int = 0,
        augment_dim: int = 0,
    ) -> None:
        super().__init__()
        check_choice(time_embedding, TimeEmbedding, "time_embedding")
        self.features, self.time_embedding = features, time_embedding
        self.num_classes, self.multitags = num_classes, multitags
        self.guidance_range = guidance_range
        self.vector_dim, self.image_channels = vector_dim, image_channels
        self.augment_dim, self.second_time = augment_dim, second_time

        def two_layers(width: int, zero: bool = False) -> nn.Sequential:
            return nn.Sequential(
                linear(width, embedding_dim),
                nn.SiLU(),
                linear(embedding_dim, embedding_dim, zero=zero),
            )

        self.time_embed = two_layers(features)
        # Of K inputs one is not zero: spread as if all were at work, labels would begin faint and
        # be learned late, the more of them the later.
        self.label_embed = linear(num_classes, embedding_dim, fan_in=1) if num_classes else None
        self.guidance_embed = linear(features, embedding_dim, zero=True) if guidance_range else None
        self.second_embed = two_layers(features, zero=True) if second_time else None
        self.vector_embed = two_layers(vector_dim) if vector_dim else None
        self.augment_embed = unbiased(augment_dim, embedding_dim) if augment_dim else None

    def time_features(self, t: Tensor) -> Tensor:
        """Times [B] as the network sees them: sinusoids [B, F], float64."""
        slower = SMOOTH if self.time_embedding == "smooth" else 1
        return sinusoidal_embedding(t / slower, self.features)

    def embed(
        self,
        t: Tensor,
        y: Tensor | None,
        w: Tensor | None = None,
        r: Tensor | None = None,
        vector: Tensor | None = None,
        augment: Tensor | None = None,
    ) -> Tensor:
        """Conditioning of times, labels, guidance and numbers.

        Args:
            t: time [B] in [0, 1].
            y: labels [B] or [B, K]; None leaves out their bias as well.
            w: guidance weights [B] in ``guidance_range``, or None where the network takes none.
            r: second time [B] in [0, t], where the network takes one; None is t.
            vector: [B, D], or None where the network takes none.
            augment: [B, A]; None is none.

        Returns:
            [B, E].

        Raises:
            ValueError: for labels of an unconditional network.
        """
        layer = self.time_embed[0]
        assert isinstance(layer, nn.Linear)
        dtype = layer.weight.dtype
        embedding = self.time_embed(self.time_features(t).to(dtype))
        if self.guidance_embed is not None and self.guidance_range is not None and w is not None:
            low, high = self.guidance_range
            relative = (w - low) / (high - low)  # what guidance does is smooth in w
            angles = sinusoidal_embedding(relative / SMOOTH, self.features)
            embedding = embedding + self.guidance_embed(angles.to(dtype))
        if self.second_embed is not None:
            ahead = torch.zeros_like(t) if r is None else t - r
            angles = sinusoidal_embedding(ahead / SMOOTH, self.features)
            embedding = embedding + self.second_embed(angles.to(dtype))
        if self.vector_embed is not None and vector is not None:
            embedding = embedding + self.vector_embed(vector.to(dtype))
        if self.augment_embed is not None and augment is not None:
            embedding = embedding + self.augment_embed(augment.to(dtype))
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

    def check_conditions(
        self,
        z: Tensor,
        y: Tensor | None,
        w: Tensor | None,
        r: Tensor | None,
        vector: Tensor | None,
        image: Tensor | None,
        augment: Tensor | None,
    ) -> None:
        """Refuse conditions of another shape; to look at values would wait for the device.

        Args:
            z: noisy data [B, C, H, W].
            y: labels, or None.
            w: guidance weights, or None.
            r: second times, or None.
            vector: numbers of each picture, or None.
            image: pictures beside z, or None.
            augment: parameters of augmentation, or None.

        Raises:
            ValueError: if they are not one for each sample, or one is missing or not wanted; only
                labels, a second time and augmentation may be left out.
        """
        count = z.shape[0]  # len() would fix the number for torch.export
        if y is not None:
            expected = (count, self.num_classes) if self.multitags else (count,)
            if tuple(y.shape) != expected:
                raise ValueError(
                    f"expected labels of shape {expected}, one for each sample of z, got "
                    f"{tuple(y.shape)}"
                )
        if r is not None and self.second_time and tuple(r.shape) != (count,):
            raise ValueError(
                f"expected a second time of shape ({count},), one for each sample of z, got "
                f"{tuple(r.shape)}"
            )
        if not self.second_time:
            _check("second time", r, (), taken=False)
        if augment is not None or not self.augment_dim:
            _check("augment", augment, (count, self.augment_dim), self.augment_dim > 0)
        _check("guidance", w, (count,), self.guidance_range is not None)
        _check("vector", vector, (count, self.vector_dim), self.vector_dim > 0)
        beside = (count, self.image_channels, *z.shape[2:])
        _check("image", image, beside, self.image_channels > 0)


def _check(name: str, given: Tensor | None, expected: tuple[int, ...], taken: bool) -> None:
    if not taken:
        if given is not None:
            raise ValueError(f"expected no {name} for a network that does not take it, got some")
    elif given is None or tuple(given.shape) != expected:
        raise ValueError(
            f"expected {name} of shape {expected} for a network that takes it as an input, "
            f"got {None if given is None else tuple(given.shape)}"
        )
