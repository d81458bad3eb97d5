"""Drawn anew, a folder keeps nothing of before, and all that is somebody else's."""

import pytest

from tests.sampling.conftest import contents
from vfn.sampling import variants, write_samples


def test_fresh_removes_nothing_that_no_record_names(trained, tmp_path):
    theirs = tmp_path / "images" / "holiday.png"
    theirs.parent.mkdir()
    theirs.write_bytes(b"theirs")
    for fresh in (False, True):
        with pytest.raises(ValueError, match="is there, and no settings.json of vfn sample"):
            write_samples(trained.draws(2), tmp_path, fresh=fresh)
    (tmp_path / "images" / "holiday.png").unlink()
    write_samples(trained.draws(20), tmp_path)
    theirs.write_bytes(b"theirs")
    write_samples(trained.draws(3, seed=1), tmp_path, "npz", fresh=True)
    assert [path.name for path in (tmp_path / "images").iterdir()] == ["holiday.png"]
    assert (tmp_path / "samples.npz").is_file()


@pytest.mark.parametrize("shown", [{"grid": False}, {"animate": False}, {}])
def test_fresh_leaves_nothing_that_shows_the_pictures_before(trained, tmp_path, shown):
    alone, several = tmp_path / "alone", tmp_path / "several"
    strengths = {"guidance": [0.0, 1.0]}
    for folder in (alone, several, tmp_path / "a", tmp_path / "b"):
        seed, how = (1, shown) if folder in (tmp_path / "a", tmp_path / "b") else (0, {})
        whole = folder in (alone, tmp_path / "a")
        draws = trained.draws(2, seed=seed) if whole else variants(trained, strengths, 2, seed=seed)
        write_samples(draws, folder, **how)
    write_samples(trained.draws(2, seed=1), alone, fresh=True, **shown)
    write_samples(variants(trained, strengths, 2, seed=1), several, fresh=True, **shown)
    assert contents(alone) == contents(tmp_path / "a")
    assert contents(several) == contents(tmp_path / "b")


def test_fresh_leaves_a_comparison_of_other_folders(trained, tmp_path):
    write_samples(variants(trained, {"guidance": [0.0, 1.0]}, 2), tmp_path)
    before = contents(tmp_path)
    write_samples(trained.draws(2), tmp_path)
    write_samples(trained.draws(2, seed=1), tmp_path, fresh=True)
    assert contents(tmp_path).items() >= before.items()
