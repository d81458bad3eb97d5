"""Whether the fakes are copies of pictures that the network was trained on."""

from vfn.evaluation.sides import HELD_OUT, Figure, Judged, features_of, share_of
from vfn.ops import nearest_distances


def memorisation_figures(judged: Judged) -> list[Figure]:
    """Share of fakes that are nearer to a training picture than held-out pictures are.

    Held-out pictures that are exact copies of training pictures, as duplicates in a data set are,
    set no threshold: beside one of them no copy would be too near.

    Args:
        judged: with features of all three sides.

    Returns:
        the figures.
    """
    assert judged.held_out is not None  # refused otherwise
    real = features_of(judged.real)
    unseen = nearest_distances(features_of(judged.held_out), real)
    made = nearest_distances(features_of(judged.fake), real)
    copies = int((unseen == 0).sum())
    unseen = unseen[unseen > 0]
    # Of nothing but copies nothing is learned: then a fake has to be a copy as well.
    least, near = unseen.new_tensor(1e-30), unseen.new_tensor(1e-30).double()
    if len(unseen):
        least, near = unseen.min(), unseen.double().quantile(0.05)
    warning = (
        f"{copies} of {copies + len(unseen)} held-out pictures are copies of training pictures, "
        "and left out"
        if copies
        else ""
    )
    return [
        judged.figure(
            "memorised",
            share_of(made < least),
            0.0,
            "nearest training picture closer than any held-out picture's",
            baseline=HELD_OUT,
            warning=warning,
        ),
        judged.figure(
            "near_copies",
            share_of(made < near),
            share_of(unseen < near) if len(unseen) else None,
            "nearest training picture closer than 95 % of the held-out ones'",
            baseline=HELD_OUT,
            warning=warning,
        ),
    ]
