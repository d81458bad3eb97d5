"""Whether the fakes are copies of pictures that the network was trained on."""

from vfn.evaluation.sides import HELD_OUT, Figure, Judged, features_of, share_of
from vfn.ops import nearest_distances


def memorisation_figures(judged: Judged) -> list[Figure]:
    """Share of fakes that are nearer to a training picture than held-out pictures are."""
    assert judged.held_out is not None  # refused otherwise
    real = features_of(judged.real)
    unseen = nearest_distances(features_of(judged.held_out), real)
    made = nearest_distances(features_of(judged.fake), real)
    near = unseen.double().quantile(0.05)
    return [
        judged.figure(
            "memorised",
            share_of(made < unseen.min()),
            0.0,
            "nearest training picture closer than any held-out picture's",
            baseline=HELD_OUT,
        ),
        judged.figure(
            "near_copies",
            share_of(made < near),
            share_of(unseen < near),
            "nearest training picture closer than 95 % of the held-out ones'",
            baseline=HELD_OUT,
        ),
    ]
