"""A classifier finds the asked labels, and misses wrong ones."""

import numpy as np
import torch
from sklearn.svm import SVC

from vfn.evaluation import label_figures
from vfn.evaluation.evaluating import evaluate
from vfn.evaluation.sides import Sides


def test_wrong_labels_lower_the_agreement(real, held_out):
    wrong = held_out._replace(labels=held_out.labels % 10 + 1)
    (figure,) = evaluate(Sides(real, wrong, held_out), ["agreement"])
    assert figure.value < 0.02
    assert figure.reference > 0.98


def fitted_on(side, rows, others):
    """The share that scikit-learn's classifier, trained on some rows, finds."""
    levels = [each.images.numpy().reshape(len(each.images), -1) / 255 * 16
              for each in (side, others)]  # fmt: skip
    classifier = SVC(kernel="rbf", gamma=0.001, C=10).fit(levels[0][rows], side.labels[rows])
    return (classifier.predict(levels[1]) == others.labels.numpy()).mean()


def test_as_many_pictures_as_the_digits_are_all_trained_on(real, held_out):
    (figure,) = evaluate(Sides(real, held_out, held_out), ["agreement"])
    assert figure.value == fitted_on(real, np.arange(1437), held_out)
    assert figure.note == "a support vector classifier trained on the real pictures finds the label"
    assert label_figures.MOST_TRAINED >= 4000  # of mnist5k


def test_of_more_pictures_each_class_has_its_share(real, held_out, monkeypatch):
    """By hand: every 14th of the pictures in the order of their classes, and the first of each."""
    monkeypatch.setattr(label_figures, "MOST_TRAINED", 100)
    labels = real.labels.numpy()
    by_class = sorted(range(len(labels)), key=lambda i: (labels[i], i))
    rows = {by_class[i * 1437 // 100] for i in range(100)}
    rows |= {list(labels).index(label) for label in range(1, 11)}
    assert 8 <= min(np.bincount(labels[sorted(rows)])[1:]) <= 12
    (figure,) = evaluate(Sides(real, held_out, held_out), ["agreement"])
    assert figure.value == figure.reference == fitted_on(real, sorted(rows), held_out)
    assert f"trained on {len(rows)} of the 1,437 real pictures finds the label" in figure.note


def test_classes_of_few_pictures_are_kept(real, held_out, monkeypatch):
    """Of one class three pictures among a thousand others, of which a tenth is taken."""
    monkeypatch.setattr(label_figures, "MOST_TRAINED", 100)
    rare = (real.labels == 4).nonzero()[:3, 0]
    others = (real.labels != 4).nonzero()[:1000, 0]
    some = real.rows(torch.cat([others[:500], rare, others[500:]]))
    asked = some.rows((some.labels == 4).nonzero()[:1, 0])
    (figure,) = evaluate(Sides(some, asked, held_out), ["agreement"])
    assert figure.value == 1.0
