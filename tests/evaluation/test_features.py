"""Statistics of a side: shared among processes, stored, read."""

import numpy as np
import pytest
import torch

from vfn.data import load_dataset
from vfn.distributed import ALONE
from vfn.evaluation.extractors import PIXELS, Extractor, Outputs, extractor_of
from vfn.evaluation.features import (
    Kept,
    check_identity,
    compute_statistics,
    read_statistics,
    save_statistics,
)


def images():
    return load_dataset("digits", "train").images[:150]


TWO = """
import sys
from pathlib import Path
from tests.evaluation.test_features import images
from vfn.distributed import processes
from vfn.evaluation.extractors import PIXELS
from vfn.evaluation.features import compute_statistics, save_statistics
with processes("cpu") as world:
    found = compute_statistics(images(), PIXELS, world)
    save_statistics(Path(sys.argv[1]) / f"{world.rank}.npz", found)
"""


class Elsewhere(torch.Tensor):
    """As on a GPU: numpy and other processes get it from the CPU alone."""

    def cpu(self):
        return super().cpu().as_subclass(torch.Tensor)


def test_a_function_may_compute_elsewhere(each_device, tmp_path):
    def elsewhere(given):
        return given.to(each_device).float().mean((2, 3)).as_subclass(Elsewhere)

    own = extractor_of("elsewhere", elsewhere)
    both = Extractor("both", lambda given: Outputs(elsewhere(given), elsewhere(given)), {})
    for extractor in (own, both):
        found = compute_statistics(images(), extractor)
        parts = [found.features, *found.gaussian, *([] if extractor is own else [found.logits])]
        assert {(type(part), part.device.type) for part in parts} == {(torch.Tensor, "cpu")}
        save_statistics(tmp_path / "saved.npz", found)


@pytest.mark.slow
def test_two_processes_give_the_same_as_one(forks, tmp_path):
    """150 pictures are three batches, the last not full; the second process repeats one."""
    script = tmp_path / "script.py"
    script.write_text(TWO)
    forks.run(tmp_path, script=script, processes=2)
    one = compute_statistics(images(), PIXELS)
    np.testing.assert_allclose(one.gaussian.cov, np.cov(one.features.T.double()), atol=1e-12)
    for rank in (0, 1):
        two = read_statistics(tmp_path / f"{rank}.npz", PIXELS)
        assert torch.equal(two.features, one.features)
        torch.testing.assert_close(two.gaussian, one.gaussian, rtol=1e-9, atol=1e-14)
        assert two.num == 150


def test_what_is_kept_of_a_side_is_of_its_pictures_as_it_was_asked_for():
    kept, fresh, other = Kept(), images(), images().flip(0)
    first = kept.statistics("real", fresh, PIXELS, ALONE, covariance=True)
    assert kept.statistics("real", fresh.clone(), PIXELS, ALONE, covariance=True) is first
    assert torch.equal(first.features, compute_statistics(fresh, PIXELS).features)
    flipped = kept.statistics("real", other, PIXELS, ALONE, covariance=True)
    assert torch.equal(flipped.features, first.features.flip(0))
    assert kept.statistics("real", other[:3], PIXELS, ALONE, covariance=True).num == 3
    alone = kept.statistics("real", other, PIXELS, ALONE, covariance=False)
    assert alone.gaussian is None
    assert kept.statistics("real", other, PIXELS, ALONE, covariance=True).gaussian is not None
    assert kept.statistics("held-out", fresh, PIXELS, ALONE, covariance=True) is not first


def test_files_of_pytorch_fid_are_read(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(3), sigma=np.eye(3))
    found = read_statistics(tmp_path / "a.npz", PIXELS)
    assert torch.equal(found.gaussian.cov, torch.eye(3, dtype=torch.float64))
    assert found.features is None
    assert found.num is None


def test_other_features_are_refused(tmp_path):
    save_statistics(tmp_path / "a.npz", compute_statistics(images(), PIXELS))
    other = extractor_of("mean", lambda images: images.float().mean((2, 3)))
    with pytest.raises(ValueError, match="extractor pixels, and this evaluation mean"):
        read_statistics(tmp_path / "a.npz", other)
    np.savez(tmp_path / "c.npz", mu=np.array([0, np.nan]), sigma=np.eye(2))
    with pytest.raises(ValueError, match="mu in .*c.npz is not finite"):
        read_statistics(tmp_path / "c.npz", PIXELS)
    (tmp_path / "b.npz").write_text("x")
    with pytest.raises(ValueError, match="is no file of statistics"):
        read_statistics(tmp_path / "b.npz", PIXELS)


def test_features_that_are_not_finite_are_refused():
    broken = extractor_of("broken", lambda images: images.flatten(1) / 0.0)
    with pytest.raises(ValueError, match="broken gives features that are not finite"):
        compute_statistics(images(), broken)


@pytest.mark.parametrize(
    "arrays",
    [
        {"provenance": "[]"}, {"provenance": "5"}, {"provenance": "null"}, {"provenance": "NaN"},
        {"provenance": '{"values": {"dtype": "float64"}}'}, {"provenance": '{"values": []}'},
        {"provenance": "[" * 10**5}, {"provenance": '{"a": "\\ud800"}'}, {"count": "x"},
        {"count": 1.5}, {"count": 0}, {"count": -3}, {"count": [1, 2]}, {"mu": ["a"]},
        {"mu": 5.0}, {"sigma": [1.0]}, {"sigma": np.eye(3)}, {"mu": [np.inf, 0]}, {"mu": []},
        {"features": [[1j, 0]]}, {"features": [1.0]}, {"features": np.zeros((0, 2))},
        {"features": np.array([["a", "b"]])}, {"features": np.array(["2020"], "datetime64")},
        {"features": np.zeros((2, 2)), "logits": np.zeros((3, 2))}, {"logits": [True]},
    ],
)  # fmt: skip
def test_damaged_statistics_are_named_in_one_line(tmp_path, arrays):
    path = tmp_path / "a.npz"
    np.savez(path, **{"mu": np.zeros(2), "sigma": np.eye(2), **arrays})
    with pytest.raises(ValueError, match="a.npz") as refused:
        read_statistics(path, PIXELS)
    assert len(str(refused.value).splitlines()) == 1
    assert len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["extractor", "weights_sha256", "layers", "resize"])
def test_features_of_another_kind_are_refused(name):
    ours = {"extractor": "a", "weights_sha256": "b", "layers": "c", "resize": "d"}
    check_identity({name: ours[name], "num": 3}, ours, "s.npz")
    with pytest.raises(ValueError, match=f"s.npz has features with {name} other, and this eval"):
        check_identity({name: "other"}, ours, "s.npz")
