"""A classifier finds the asked labels, and misses wrong ones."""

from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.sides import Sides


def test_wrong_labels_lower_the_agreement(real, held_out):
    wrong = held_out._replace(labels=held_out.labels % 10 + 1)
    (figure,) = evaluate(Sides(real, wrong, held_out), ["agreement"])
    assert figure.value < 0.02
    assert figure.reference > 0.98
