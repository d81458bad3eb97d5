"""Pictures beside the real ones that are nearest to them: what a copy is seen by."""

from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from vfn.data import Dataset, to_uint8
from vfn.distributed import check_alike, from_first, processes, together
from vfn.evaluation.extractors import Extractor
from vfn.evaluation.features import Statistics
from vfn.evaluation.judging import seen_by
from vfn.evaluation.opening import Given
from vfn.evaluation.planning import plan_evaluation
from vfn.evaluation.sides import Judged, features_of
from vfn.files import given_path
from vfn.memory import in_memory
from vfn.numbers import whole
from vfn.ops import nearest_distances
from vfn.pictures import grid

_NEEDING_THE_SAME = "kid"  # a metric: features of both sides, of pictures of one size


class NearestPictures(NamedTuple):
    """Pictures in order of their distance to the nearest real one, each with its neighbours.

    images: uint8 [N, 1 + K, C, H, W], a picture and the real ones nearest to it. rows: numbers of
    the pictures [N]. neighbours: of the real ones [N, K]. distances: of their features [N, K].
    """

    images: Tensor
    rows: Tensor
    neighbours: Tensor
    distances: Tensor

    def sheet(self) -> Image.Image:
        """A row for each picture: itself, then its neighbours; beside it the least distance."""
        each = self.images.shape[1]
        return grid(
            self.images.flatten(0, 1),
            each,
            row_labels=[f"{number:.3g}" for number in self.distances[:, 0].tolist()],
            column_labels=["made", *(f"{k}." for k in range(1, each))],
        )


@in_memory("judging", "look at fewer pictures (--num)")
def nearest_pictures(
    real: Given,
    fake: Given,
    count: int = 10,
    neighbours: int = 5,
    *,
    features: str | Extractor = "pixels",
    weights: str | Path | None = None,
    num: int = 1000,
    seed: int = 0,
    image_size: int | tuple[int, ...] | None = None,
    device: str = "auto",
    data_dir: str | None = None,
) -> NearestPictures:
    """The pictures that are nearest to real ones, and these.

    Args:
        real: as `vfn.evaluation.judge` has it, pictures that were trained on; no statistics.
        fake: the pictures to look at, likewise.
        count: N, how many of them; fewer if there are not as many. Each side has at least two.
        neighbours: K, real ones beside each, likewise.
        features: what is compared.
        weights: file of the features' network.
        num: pictures that are asked of a network, where it is given without.
        seed: of the noise.
        image_size: height and width, or one number, that all pictures are brought to.
        device: auto, cpu or cuda.
        data_dir: where the data are.

    Returns:
        NearestPictures, on all processes.

    Raises:
        ValueError: for other than whole numbers from 1 on, statistics in place of pictures, or what
            does not fit.

    >>> found = nearest_pictures("dataset:digits", "dataset:digits:test", 2, 3, device="cpu")
    >>> found.images.shape, bool((found.distances.diff() >= 0).all())
    (torch.Size([2, 4, 1, 8, 8]), True)
    """
    weights = None if weights is None else given_path(weights)
    count, neighbours = whole(count, "count", 1), whole(neighbours, "neighbours", 1)
    options: dict[str, Any] = {"features": features, "weights": weights, "num": num, "seed": seed,
                               "image_size": image_size, "device": device,
                               "data_dir": data_dir}  # fmt: skip
    with processes(device) as world:
        with together(world):
            plan = plan_evaluation(real, fake, _NEEDING_THE_SAME, world, **options)
            for role, side in (("real", plan.real), ("fake", plan.fake)):
                if isinstance(side.content, Statistics):
                    raise ValueError(f"expected {role} pictures, got statistics: {side.text}")
        check_alike({"count": count, "neighbours": neighbours, **plan.settings}, world)
        judged = seen_by(plan, world)
        return from_first(lambda: _nearest(judged, count, neighbours), world)


def _nearest(judged: Judged | None, count: int, neighbours: int) -> NearestPictures:
    """Of what was seen, on the first process."""
    assert judged is not None
    made, known = judged.sides.fake, judged.sides.real
    assert isinstance(made, Dataset)
    assert isinstance(known, Dataset)
    of_real, of_fake = features_of(judged.real), features_of(judged.fake)
    least = nearest_distances(of_fake, of_real)
    rows = least.argsort(stable=True)[:count]
    exact = torch.cdist(
        of_fake[rows].double(), of_real.double(), compute_mode="donot_use_mm_for_euclid_dist"
    )
    distances, near = exact.sort(dim=1, stable=True)
    distances, near = distances[:, :neighbours], near[:, :neighbours]
    beside = known.images[near.flatten()].unflatten(0, near.shape)
    images = torch.cat([made.images[rows, None], beside], dim=1)
    return NearestPictures(_visible(images), rows, near, distances)


def _visible(images: Tensor) -> Tensor:
    """Pictures of 8 bits; of others the first three channels or the first alone."""
    if images.dtype == torch.uint8:
        return images
    # Numbers of a range are compared in 0..1, standardised ones around 0.5 in half deviations.
    x0 = 2 * images[:, :, : 3 if images.shape[2] >= 3 else 1] - 1
    return to_uint8(x0 if x0.abs().max() <= 1.001 else x0 / 3)
