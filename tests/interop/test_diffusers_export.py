"""Runs as folders of diffusers, beside its own samplers and pipelines; the card."""

import pytest
import torch

from tests.helpers.reported import EVALUATION
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from vfn.configs import override
from vfn.data import Labels
from vfn.interop import export_diffusers, import_diffusers
from vfn.interop.diffusers_export import sampled_by_diffusers
from vfn.model import DataShape, schedule_of
from vfn.ops import ddim_step, logsnr_grid, sample
from vfn.runs import RunFiles, find_checkpoint, write_checkpoint
from vfn.sampling import load

diffusers = pytest.importorskip("diffusers")


def test_their_sampler_draws_the_same_pictures(run, exported):
    """50 steps of DDIM, whose grid is a thousandth of the time off."""
    trained = load(run, "cpu")
    z, labels = torch.randn(4, 1, 8, 8), torch.tensor([0, 1, 5, 10])
    grid = logsnr_grid(schedule_of(trained.config.diffusion), 50)
    ours = sample(trained.denoiser(labels), z, grid, ddim_step).x0
    with torch.no_grad():
        theirs = sampled_by_diffusers(exported, z, labels, 50)
    assert ours.std() > 0.1
    assert (ours - theirs).square().mean().sqrt() <= 0.01


def test_their_pipeline_guides_as_we_do(run, exported):
    pipeline = diffusers.DiffusionPipeline.from_pretrained(
        exported, custom_pipeline=str(exported), trust_remote_code=True
    )
    pipeline.set_progress_bar_config(disable=True)
    trained = load(run, "cpu")
    z, grid = torch.randn(2, 1, 8, 8), logsnr_grid(schedule_of(trained.config.diffusion), 50)
    ours = sample(trained.denoiser(["3", "7"], guidance=1.5), z, grid, ddim_step).x0
    plain = sample(trained.denoiser(["3", "7"]), z, grid, ddim_step).x0
    found = pipeline(["3", "7"], guidance=1.5, noise=z, output_type="pt").images
    assert (ours - found).square().mean().sqrt() <= 0.01
    assert (ours - plain).square().mean().sqrt() > 0.02
    pictures = pipeline([3, "7"], steps=2).images
    assert [picture.size for picture in pictures] == [(8, 8), (8, 8)]


def test_stock_pipeline_of_a_network_without_labels(tmp_path):
    checkpoint = small_checkpoint(small_config(), SHAPE._replace(legend=Labels()))
    write_checkpoint(tmp_path / "model.safetensors", checkpoint)
    export_diffusers(tmp_path / "model.safetensors", tmp_path / "out")
    assert not (tmp_path / "out" / "pipeline.py").exists()
    pipeline = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    pipeline.set_progress_bar_config(disable=True)
    made = pipeline(batch_size=2, num_inference_steps=2, output_type="np").images
    assert made.shape == (2, 8, 8, 1)
    import_diffusers(tmp_path / "out", None, tmp_path / "back")
    back = find_checkpoint(tmp_path / "back")
    assert all(torch.equal(back.ema[name], value) for name, value in checkpoint.ema.items())


def test_the_card(exported):
    text = (exported / "README.md").read_text()
    assert text.startswith("---\nlicense: mit\nlibrary_name: diffusers\n")
    for part in (
        "differ by",
        "8 x 8, 10 classes",
        EVALUATION["metrics"][0]["name"],
        '["0", "1"]',
        "guidance=0.5",
    ):
        assert part in text


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_the_card_guides_no_network_that_cannot_be_guided(tmp_path, share):
    """It had never seen a picture without its label, or one with it; `sample` refuses it, too."""
    config = override(small_config(), {"p_uncond": share, "guidance": 0.0})
    write_checkpoint(RunFiles(tmp_path / "run").checkpoint(3), small_checkpoint(config))
    with pytest.raises(ValueError, match="use --guidance 0"):
        load(tmp_path / "run", "cpu").draws(2, guidance=0.5)
    export_diffusers(tmp_path / "run", tmp_path / "made")
    assert '["0", "1"], guidance=0, steps=50' in (tmp_path / "made" / "README.md").read_text()


@pytest.mark.parametrize("legend", [Labels(), Labels(("a", "b"))])
def test_the_card_of_a_student_draws_it_in_its_own_steps(tmp_path, legend):
    """And without guidance, which it has in it."""
    student = {"teacher_steps": 8, "student_steps": 4, "sample_timesteps": 4}
    config = override(small_config(), student | {"guidance": 0.0, "sampler": "ddim"})
    path = RunFiles(tmp_path / "run").checkpoint(3)
    write_checkpoint(path, small_checkpoint(config, DataShape(1, 8, 8, legend)))
    export_diffusers(tmp_path / "run", tmp_path / "made")
    text = (tmp_path / "made" / "README.md").read_text()
    assert "Distilled by progressive, to be drawn by ddim in 4 steps." in text
    assert ("guidance=0, steps=4" if legend.names else "num_inference_steps=4,") in text


@pytest.mark.parametrize(
    ("changes", "shape", "message"),
    [
        ({"sampler": "consistency", "sample_timesteps": 2}, SHAPE,
         "draws by DDIM, and this network was made to be drawn by consistency in 2 steps; export"),
        ({"sampler": "ancestral", "teacher_steps": 2, "student_steps": 1}, SHAPE,
         "made to be drawn by ancestral"),
        ({"ch_multipliers": (2,)}, SHAPE, "a first of ch_multipliers other than 1$"),
        (
            {"ch_multipliers": (1, 2), "apply_attn": (True, True), "num_heads": 2,
             "resample_with_res": False},
            SHAPE,
            r"several heads whose width varies \(give head_dim",
        ),
        (
            {"apply_attn": (True,), "num_heads": 1, "head_dim": 16},
            SHAPE,
            "heads that together are not as wide as their level",
        ),
        ({"guidance_range": (0.0, 4.0), "student_steps": 1, "teacher_steps": 2}, SHAPE,
         "guidance as an input"),
        ({}, DataShape(1, 8, 8, Labels(("a", "b"), tags=True)), "cannot express tags"),
        (
            {"ch_multipliers": (1, 1), "apply_attn": (True, False)},
            SHAPE,
            r"attention after the blocks that change the resolution \(train with attend_after",
        ),
        ({"hid_channels": 36}, SHAPE, "or widths that are no multiples of 32"),
        ({"group_channels": 4}, SHAPE, r"of other than 32 groups \(group_channels"),
        ({"patch_size": 2}, SHAPE, r"patches of several pixels \(patch_size"),
        ({"input_gain": True}, SHAPE, r"a gain of z \(input_gain"),
        ({"time_embedding": "smooth"}, SHAPE, "time_embedding smooth"),
        (
            {"ch_multipliers": (1, 1), "apply_attn": (False, False)},
            DataShape(1, 7, 8, Labels()),
            "pictures of 7 x 8, no multiples of 2",
        ),
        ({"model_out_type": "both"}, SHAPE, "know predictions of v, eps, x0.*gives both"),
        ({"learned_variance": True, "train_timesteps": 10}, SHAPE, "no learned variance"),
        ({"network": "tests.helpers.outside:Small"}, SHAPE, "only the unet can be exported"),
    ],
)  # fmt: skip
def test_what_they_cannot_express_is_refused(tmp_path, changes, shape, message):
    config = small_config()
    if "network" in changes:
        config = override(config, {"network": changes.pop("network")})
    config = override(config, changes)
    write_checkpoint(tmp_path / "model.safetensors", small_checkpoint(config, shape))
    with pytest.raises(ValueError, match=message) as refused:
        export_diffusers(tmp_path / "model.safetensors", tmp_path / "out")
    assert "\n" not in str(refused.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.safetensors"]


def test_a_wrong_translation_is_noticed(run, tmp_path, monkeypatch):
    from vfn.interop import diffusers_network

    monkeypatch.setattr(diffusers_network, "_swapped", lambda value: value)
    with pytest.raises(ValueError, match="more than rounding does; nothing was written"):
        export_diffusers(run, tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


def test_what_is_there_is_not_written_over(run, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="is there already; choose another --out"):
        export_diffusers(run, tmp_path)


def test_a_licence_is_an_identifier(run, tmp_path):
    with pytest.raises(ValueError, match="identifier of a licence, such as mit"):
        export_diffusers(run, tmp_path / "out", licence="mit\nmodel: other")
