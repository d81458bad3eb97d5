"""Stored statistics stand for their pictures."""

from inspect import Parameter, signature

import numpy as np
import pytest

from tests.helpers.processes import killed_while_writing
from vfn.evaluation.judging import judge
from vfn.evaluation.stored import store_reference


def test_stored_statistics_give_the_figures_of_the_pictures(tmp_path):
    out = tmp_path / "r.npz"
    stored = store_reference("dataset:digits", out, device="cpu")
    assert stored == (out, 1437, True)
    assert stored.line == f"{out}: mean, covariance and features of 1437 pictures"
    one, other = (
        judge(side, "dataset:digits:test", "fid,kid,pr,dc", bootstrap=3, device="cpu")
        for side in ("dataset:digits", out)
    )
    assert one.figures == other.figures
    low, high = one.figure("precision").interval
    assert low < one.figure("precision").value < high
    assert one.figure("kernel_distance").error > 0


def test_mean_and_covariance_alone_serve_the_distance(held_out, tmp_path):
    stored = store_reference(held_out, tmp_path / "a.npz", keep=False, device="cpu")
    assert not stored.kept
    found = judge(tmp_path / "a.npz", "dataset:digits:test", "fid", device="cpu")
    assert found.figures[0].value == pytest.approx(0, abs=1e-7)
    with pytest.raises(ValueError, match="these statistics hold only mean and covariance"):
        judge(tmp_path / "a.npz", "dataset:digits:test", "pr", device="cpu")


def test_files_of_pytorch_fid_serve_the_distance(tmp_path):
    np.savez(tmp_path / "a.npz", mu=np.zeros(64), sigma=np.eye(64))
    found = judge(tmp_path / "a.npz", "dataset:digits:test", "fid", device="cpu")
    assert found.figures[0].title == "Fréchet distance (pixels)"


@pytest.mark.parametrize(
    ("out", "options", "message"),
    [
        ("new/r.txt", {}, "expected --out to end in .npz"),
        ("new/r.npz", {"features": "x"}, "unknown features 'x'"),
    ],
)
def test_mistakes_leave_nothing_behind(held_out, tmp_path, out, options, message):
    with pytest.raises(ValueError, match=message):
        store_reference(held_out, tmp_path / out, device="cpu", **options)
    assert [*tmp_path.iterdir()] == []


def test_the_next_one_clears_what_a_killed_one_left(held_out, tmp_path):
    out = tmp_path / "r.npz"
    killed_while_writing(out)
    store_reference(held_out, out, device="cpu")
    assert [*tmp_path.iterdir()] == [out]
    assert judge(out, held_out, "fid", device="cpu").figures[0].value == pytest.approx(0, abs=1e-7)


def test_one_picture_has_no_covariance(held_out, tmp_path):
    with pytest.raises(ValueError, match="a covariance needs at least 2 pictures, got 1"):
        store_reference(held_out.images[:1], tmp_path / "r.npz", device="cpu")


def test_statistics_of_another_shape_are_refused(held_out, tmp_path):
    """Even where they have as many values."""
    flat = held_out._replace(images=held_out.images.reshape(-1, 1, 4, 16))
    store_reference(flat, tmp_path / "r.npz", device="cpu")
    with pytest.raises(ValueError, match=r"of one shape, got \[\(1, 4, 16\), \(1, 8, 8\)\]"):
        judge(tmp_path / "r.npz", "dataset:digits:test", "fid", device="cpu")


def test_a_data_set_is_known_however_its_path_is_written(tmp_path, monkeypatch):
    from vfn.configs import DataConfig
    from vfn.data import spec_settings

    (tmp_path / "d").mkdir()
    monkeypatch.chdir(tmp_path)
    like = DataConfig(dataset="d", image_size=(16,), test_share=0.5)
    for name in ("d", "d/", "./d", str(tmp_path / "d"), "../" + tmp_path.name + "/d"):
        assert spec_settings(f"dataset:{name}", like).image_size == (16,)
    assert spec_settings("dataset:other", like).image_size is None


def test_what_all_evaluations_take_goes_by_name():
    kinds = {name: each.kind for name, each in signature(store_reference).parameters.items()}
    by_name = ["keep", "weights", "image_size", "device", "data_dir"]
    assert [name for name, kind in kinds.items() if kind is Parameter.KEYWORD_ONLY] == by_name
