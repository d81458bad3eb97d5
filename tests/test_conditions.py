"""A network from outside with conditions: what exports it, and how it is distilled."""

import math

import numpy as np
import pytest
import torch

from tests.helpers.conditioned import told_config
from tests.helpers.distilling import MINI
from vfn.cli import main
from vfn.data import load_dataset
from vfn.evaluation import judge
from vfn.interop.exports import exporter
from vfn.sampling import load as load_run
from vfn.sampling import write_samples
from vfn.train import train
from vfn.train.distillation import distill


@pytest.mark.parametrize("word", ["pt2", "diffusers"])
def test_formats_without_a_place_for_conditions_say_so(word, told_run, tmp_path):
    with pytest.raises(
        ValueError, match="has no place for what this model takes beside labels: the"
    ):
        exporter(word)(told_run, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize("span", [{"teacher_guidance": 0.5}, {"guidance_range": (0.0, 1.0)}])
def test_an_outside_network_with_conditions_is_distilled_and_exported(
    span, shapes, tmp_path, monkeypatch
):
    """From files, since a distillation opens the data set anew."""
    np.savez(
        tmp_path / "shapes.npz", arr_0=shapes.images.movedim(1, -1).numpy(),
        vectors=shapes.vectors.numpy(), arr_1=shapes.labels.numpy(),
    )  # fmt: skip
    config = told_config(dataset=str(tmp_path / "shapes.npz"), condition="downscale:4",
                         data_dir=str(tmp_path), guidance=0.0)  # fmt: skip
    train(config, tmp_path / "teacher", device="cpu")
    settings = {**MINI, "student_steps": 4, "last_steps": 2, "preview_every": 2, **span}
    done = distill(tmp_path / "teacher", tmp_path / "fast", device="cpu", **settings)
    assert done.student_steps == 4
    monkeypatch.setattr("sys.argv", ["vfn", "export", str(tmp_path / "fast/steps-4"), "--out",
                                     str(tmp_path / "fast.safetensors")])  # fmt: skip
    with pytest.raises(SystemExit) as stopped:
        main()
    assert stopped.value.code == 0
    own, exported = (
        load_run(tmp_path / name, "cpu") for name in ("fast/steps-4", "fast.safetensors")
    )
    draws = [each.draws(3, condition=own.own_pictures()) for each in (own, exported)]
    assert torch.equal(draws[0].all().images, draws[1].all().images)
    (written,) = write_samples(draws[0], tmp_path / "out", animate=False)
    assert written.num == 3
    assert "condition_sha256" in draws[0].record()
    real = load_dataset(own.config.data, "test")
    found = judge(real, own, ["psnr", "loss", "bpd"], num=2, device="cpu")
    assert math.isfinite(found.figures[0].value)
    assert all(math.isfinite(row["loss"]) for row in found.loss_by_logsnr)
    assert all(math.isfinite(figure.value) for figure in found.bits_per_dim)
