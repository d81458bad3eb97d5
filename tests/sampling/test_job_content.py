"""What a job writes and tells: pictures in any format, labels, evaluations of the network."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.numpy import load_file

import vfn
from tests.helpers.small import SHAPE, small_config
from vfn.configs import override
from vfn.data import Labels
from vfn.sampling import Draws, ask, untrained, write_samples


def test_formats_hold_the_same_pictures(trained, tmp_path):
    draws = trained.draws(12, ["3", "9"])
    for kind in ("png", "npz", "safetensors"):
        write_samples(draws, tmp_path / kind, kind)
    with np.load(tmp_path / "npz" / "samples.npz") as file:
        array, labels = file["arr_0"], file["arr_1"]
        assert file["class_names"].tolist() == list("0123456789")
    assert array.shape == (12, 8, 8, 1)
    assert array.dtype == np.uint8
    assert np.array_equal(array, draws.all().images.movedim(1, -1).numpy())
    assert labels.tolist() == [3, 9] * 6  # from 0, as everybody's files
    for i in range(12):
        with Image.open(tmp_path / "png" / "images" / f"{i:06d}.png") as picture:
            assert np.array_equal(np.asarray(picture), array[i, ..., 0])
    tensors = load_file(tmp_path / "safetensors" / "samples.safetensors")
    assert np.array_equal(tensors["images"], array.transpose(0, 3, 1, 2))
    assert np.array_equal(tensors["labels"], labels + 1)
    grids = {(tmp_path / kind / "grid.png").read_bytes() for kind in ("png", "npz", "safetensors")}
    assert len(grids) == 1


@pytest.mark.parametrize(
    ("opened", "settings"),
    [
        ({"ema": False}, {}),
        ({"precision": "bf16"}, {}),
        ({}, {"guidance": 2.0, "guidance_interval": (-3, 5)}),
        ({}, {"guidance": 2.0, "guidance_rescale": 1.0}),
        ({}, {"guidance": 2.0}),
    ],
)
def test_options_change_the_pictures(run, trained, tmp_path, opened, settings):
    plain = trained.draws(4, steps=8, guidance=0.0)
    other = vfn.load(run, "cpu", **opened).draws(4, steps=8, **{"guidance": 0.0, **settings})
    arrays = []
    for name, draws in (("plain", plain), ("other", other)):
        write_samples(draws, tmp_path / name, "npz", grid=False, animate=False)
        with np.load(tmp_path / name / "samples.npz") as file:
            arrays.append(file["arr_0"])
    assert not np.array_equal(*arrays)
    assert {p.name for p in (tmp_path / "other").iterdir()} == {"samples.npz", "settings.json"}


def test_learned_variance(tmp_path, capsys):
    learned = override(small_config(), {"learned_variance": True, "train_timesteps": 8})
    network = untrained(learned, SHAPE)
    for value in network.params.values():
        value.add_(0.05 * torch.randn_like(value))
    given = {"sampler": "ancestral", "steps": 3}
    for name, more in (
        ("a", {"var_type": "learned"}),
        ("b", {"var_type": "learned", "guidance": 1.0}),
        ("c", {"var_type": "fixed_small"}),
    ):
        write_samples(network.draws(4, **given, **more), tmp_path / name)
    assert "NFE 3" in capsys.readouterr().err
    assert len({(tmp_path / name / "grid.png").read_bytes() for name in "abc"}) == 3


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"sampler": "heun", "steps": 4, "guidance": 0.0}, "with heun, NFE 6\n"),
        ({"guidance": 1.0}, "with abm2, NFE 2 of doubled batches for guidance\n"),
        ({"sampler": "adaptive", "guidance": 0.0}, "with adaptive, NFE up to "),
    ],
)
def test_evaluations_are_told(trained, tmp_path, capsys, settings, told):
    write_samples(trained.draws(4, **settings), tmp_path)
    assert f"4 pictures drawn {told}" in capsys.readouterr().err


def test_a_network_that_takes_guidance_has_no_second_branch(tmp_path, capsys):
    config = override(small_config(), {"guidance_range": [0, 4], "teacher_steps": 4})
    write_samples(untrained(config, SHAPE).draws(4, guidance=2.0), tmp_path)
    assert "4 pictures drawn with abm2, NFE 2\n" in capsys.readouterr().err


def test_tags_and_combinations_of_tags(tmp_path):
    shape = SHAPE._replace(legend=Labels(("Bald", "Male", "Wavy"), tags=True))
    network = untrained(small_config(), shape)
    asked = ask(shape.legend, tags=["Male,Wavy", "Bald"])
    write_samples(network.draws(4, asked), tmp_path / "a", animate=False)
    lines = (tmp_path / "a" / "images" / "labels.csv").read_text().splitlines()
    assert lines == ["file,tags", "000000.png,Bald+Male", "000001.png,Bald+Wavy",
                     "000002.png,Bald+Male", "000003.png,Bald+Wavy"]  # fmt: skip
    write_samples(network.draws(4, asked), tmp_path / "b", "npz", animate=False)
    with np.load(tmp_path / "b" / "samples.npz") as file:
        assert file["arr_1"].tolist() == [[1, 1, 0], [1, 0, 1]] * 2
        assert file["class_names"].tolist() == ["Bald", "Male", "Wavy"]


def test_an_unconditional_network(tmp_path):
    network = untrained(small_config(), SHAPE._replace(legend=Labels()))
    [written] = write_samples(network.draws(12, guidance=0.0), tmp_path / "png")
    assert not (tmp_path / "png" / "images" / "labels.csv").exists()
    assert written.num == 12
    write_samples(network.draws(12, guidance=0.0), tmp_path / "npz", "npz")
    with np.load(tmp_path / "npz" / "samples.npz") as file:
        assert file.files == ["arr_0"]


def test_a_job_tells_of_pictures_that_are_not_finite(trained, tmp_path, capsys):
    params = {name: value * float("nan") for name, value in trained.params.items()}
    write_samples(replace(trained, params=params).draws(6, batch=2), tmp_path)
    assert capsys.readouterr().err.count("6 of 6 pictures are not finite") == 1


def test_a_job_tells_the_most_evaluations_of_its_batches(trained, tmp_path, monkeypatch):
    """As where a solver chooses its steps."""
    whole = Draws.batch

    def uneven(self, indices, watch=None):
        return whole(self, indices, watch)._replace(nfe=9 - int(indices[0]))

    monkeypatch.setattr(Draws, "batch", uneven)
    [written] = write_samples(trained.draws(4, batch=2), tmp_path, animate=False)
    assert written.nfe == 9
