"""The metrics by their words: what each needs, and what its figures are called.

Nothing here loads torch: help texts are made of this table.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

from vfn.tables import Entry, Table

NEIGHBOURS = 3  # of precision and recall
DENSITY_NEIGHBOURS = 5  # of density and coverage
USUAL = "usual"  # in place of a word: the usual metrics that lack nothing

Better = Literal["lower", "higher", ""]
# gaussian: mean and covariance of both sides. features, logits: of every picture. labels: one
# class for every picture of all sides. model: the network that drew the fakes. pairs: a fake for
# each real picture. grey levels: pictures of 8 bits. range: numbers that lie within a known one.
Need = Literal[
    "gaussian",
    "real features",
    "fake features",
    "logits",
    "held-out pictures",
    "held-out features",
    "labels",
    "model",
    "pairs",
    "grey levels",
    "range",
]
Part = Literal["figures", "loss_by_logsnr", "bits_per_dim"]


class FigureKind(NamedTuple):
    """What a figure is called, and which direction is better.

    key: in logs and files. title: for people, where the features need not be named. of: the title
    with the features' name in the place of ``{}``, if they matter. inception: the title where they
    are Inception's, if it has one of its own. unit: % for a share of pictures, which files have as
    a number in [0, 1].

    >>> KINDS["frechet_distance"].title_of("vgg16"), KINDS["precision"].title_of("vgg16")
    ('Fréchet distance (vgg16)', 'Precision')
    """

    key: str
    title: str
    better: Better
    of: str = ""
    inception: str = ""
    unit: str = ""

    def title_of(self, features: str) -> str:
        """The title where the figure is one of these features."""
        if features == "inception" and self.inception:
            return self.inception
        return self.of.format(features) if self.of else self.title

    def text(self, value: float) -> str:
        """A value as people read it.

        Args:
            value: as files have it.

        Returns:
            text.

        >>> KINDS["label_agreement"].text(0.995), KINDS["recall"].text(0.5)
        ('99.5 %', '0.5000')
        """
        return f"{100 * value:.4g} %" if self.unit == "%" else f"{value:.4f}"


@dataclass(frozen=True, kw_only=True)
class Metric(Entry):
    """A metric: a function of `vfn.evaluation.Judged`.

    needs: what it cannot do without; nothing else is computed for it. figures: what it gives.
    fewest: pictures of each side whose features it needs. per_feature: more fakes than so many
    times D + 1, for D features. part: of the `Evaluation`, that its results go to. usual: whether
    the command line computes it unasked.
    """

    needs: frozenset[Need]
    figures: tuple[FigureKind, ...] = ()
    fewest: int = 1
    per_feature: int = 0
    part: Part = "figures"
    usual: bool = False


def _outside(name: str) -> Metric:
    """A function of the user's: it gets the features of both sides."""
    return Metric(text=f"the function {name}", target=name, needs=frozenset(_FEATURES))


_FEATURES: tuple[Need, Need] = ("real features", "fake features")
_FRECHET = FigureKind(
    "frechet_distance", "Fréchet distance", "lower", "Fréchet distance ({})", "FID"
)
METRICS: Table[Metric] = Table(
    "metric",
    {
        "fid": Metric(
            text="Fréchet distance; of inception's features it is the FID",
            target="vfn.evaluation.distance_figures:frechet_figures",
            needs=frozenset(["gaussian"]),
            figures=(_FRECHET,),
            fewest=2,
        ),
        "fid_infinity": Metric(
            text="Fréchet distance without the bias of a finite sample",
            target="vfn.evaluation.distance_figures:frechet_infinity_figures",
            needs=frozenset(["gaussian", "fake features"]),
            figures=(
                FigureKind(
                    "frechet_distance_infinite",
                    "Fréchet distance, infinite",
                    "lower",
                    "Fréchet distance ({}), infinite",
                    "FID, infinite",
                ),
            ),
            fewest=2,
            per_feature=2,
        ),
        "kid": Metric(
            text="kernel distance; of inception's features it is the KID",
            target="vfn.evaluation.distance_figures:kernel_figures",
            needs=frozenset(_FEATURES),
            figures=(
                FigureKind(
                    "kernel_distance", "Kernel distance", "lower", "Kernel distance ({})", "KID"
                ),
            ),
            fewest=2,
        ),
        "is": Metric(
            text="Inception Score",
            target="vfn.evaluation.score_figures:inception_figures",
            needs=frozenset(["logits"]),
            figures=(FigureKind("inception_score", "Inception Score", "higher"),),
        ),
        "pr": Metric(
            text=f"precision and recall (k = {NEIGHBOURS})",
            target="vfn.evaluation.neighbour_figures:precision_recall_figures",
            needs=frozenset(_FEATURES),
            figures=(
                FigureKind("precision", "Precision", "higher"),
                FigureKind("recall", "Recall", "higher"),
            ),
            fewest=NEIGHBOURS + 1,
            usual=True,
        ),
        "dc": Metric(
            text=f"density and coverage (k = {DENSITY_NEIGHBOURS})",
            target="vfn.evaluation.neighbour_figures:density_coverage_figures",
            needs=frozenset(_FEATURES),
            figures=(
                FigureKind("density", "Density", "higher"),
                FigureKind("coverage", "Coverage", "higher"),
            ),
            fewest=DENSITY_NEIGHBOURS + 1,
        ),
        "fd": Metric(
            text="another word for fid",
            target="vfn.evaluation.distance_figures:frechet_figures",
            needs=frozenset(["gaussian"]),
            figures=(_FRECHET,),
            fewest=2,
            usual=True,
        ),
        "agreement": Metric(
            text="a classifier trained on the real pictures finds the asked label",
            target="vfn.evaluation.label_figures:agreement_figures",
            needs=frozenset(["labels", "held-out pictures"]),
            figures=(FigureKind("label_agreement", "Label agreement", "higher", unit="%"),),
            usual=True,
        ),
        "memorisation": Metric(
            text="pictures nearer to a training picture than held-out ones are",
            target="vfn.evaluation.copy_figures:memorisation_figures",
            needs=frozenset([*_FEATURES, "held-out features"]),
            figures=(
                FigureKind("memorised", "Memorised", "lower", unit="%"),
                FigureKind("near_copies", "Near-copies", "lower", unit="%"),
            ),
            usual=True,
        ),
        "psnr": Metric(
            text="peak signal-to-noise ratio of each fake beside its real picture",
            target="vfn.evaluation.pair_figures:psnr_figures",
            needs=frozenset(["pairs", "range"]),
            figures=(FigureKind("psnr", "PSNR", "higher", unit="dB"),),
        ),
        "ssim": Metric(
            text="structural similarity of each fake and its real picture",
            target="vfn.evaluation.pair_figures:ssim_figures",
            needs=frozenset(["pairs", "range"]),
            figures=(FigureKind("ssim", "SSIM", "higher"),),
        ),
        "loss": Metric(
            text="held-out loss by log-SNR bin, of a network",
            target="vfn.evaluation.held_out:loss_bins",
            needs=frozenset(["model"]),
            figures=(FigureKind("held_out_loss", "Held-out loss", "lower"),),
            part="loss_by_logsnr",
            usual=True,
        ),
        "bpd": Metric(
            text="bits per dimension of held-out pictures, of a network: the variational bound, "
            "and the likelihood under the probability flow",
            target="vfn.evaluation.bits:bits_figures",
            needs=frozenset(["model", "grey levels"]),
            figures=(
                FigureKind("bits_bound_discrete", "bound, discrete", "lower", unit="bits/dim"),
                FigureKind("bits_bound_continuous", "bound, continuous", "lower", unit="bits/dim"),
                FigureKind("bits_flow", "probability flow", "lower", unit="bits/dim"),
            ),
            part="bits_per_dim",
        ),
    },
    _outside,
)
# All kinds of figures by their keys.
KINDS = {kind.key: kind for metric in METRICS.values() for kind in metric.figures}


def usual_metrics(model: bool) -> list[str]:
    """What the command line computes where nobody says what.

    Args:
        model: whether the fakes are those of a network.

    Returns:
        words of `METRICS`.

    >>> usual_metrics(True)
    ['fd', 'pr', 'agreement', 'memorisation', 'loss']
    """
    order = sorted(METRICS, key=lambda word: (word != "fd", list(METRICS).index(word)))
    return [w for w in order if METRICS[w].usual and (model or "model" not in METRICS[w].needs)]
