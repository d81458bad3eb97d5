"""Runs from folders of diffusers: ours bit by bit, those of others, and refusals."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.strangers import CODE, left_by_code
from tests.interop.conftest import moved
from vfn.configs import override
from vfn.interop import export_diffusers, import_diffusers
from vfn.interop.diffusers_export import write_side_file
from vfn.interop.diffusers_import import read_diffusers, with_dataset
from vfn.model import schedule_of
from vfn.runs import find_checkpoint
from vfn.sampling import load
from vfn.train import distill, train

diffusers = pytest.importorskip("diffusers")


def test_a_run_comes_back_bit_by_bit(run, exported, tmp_path):
    import_diffusers(exported, None, tmp_path / "back")
    before, after = find_checkpoint(run), find_checkpoint(tmp_path / "back")
    assert (before.config, before.shape, before.step) == (after.config, after.shape, after.step)
    for name, value in before.ema.items():
        assert torch.equal(after.params[name], value), name
        assert torch.equal(after.ema[name], value), name
    assert load(tmp_path / "back", "cpu").sample(2, steps=2).nfe == 2


def test_without_the_side_file_it_is_the_same_function(run, copy, tmp_path):
    (copy / "vfn.safetensors").unlink()
    import_diffusers(copy, with_dataset(None, "digits"), tmp_path / "back")
    ours, back = load(run, "cpu"), load(tmp_path / "back", "cpu")
    assert back.shape == ours.shape
    assert back.config.data.dataset == "digits"
    assert back.config.diffusion.p_uncond > 0  # guidance works
    times = torch.arange(1000, dtype=torch.float64) / 1000
    one, other = (schedule_of(each.config.diffusion).logsnr(times) for each in (ours, back))
    # The betas are one less a ratio of alphas next to each other.
    torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    z, logsnr = torch.randn(3, 1, 8, 8), one[[40, 500, 930]]
    for labels in (["3", "7", "3"], None):
        denoised = [each.denoiser(labels)(z, logsnr) for each in (ours, back)]
        torch.testing.assert_close(*denoised, rtol=0, atol=1e-5)


def test_a_network_of_their_own_defaults(tmp_path):
    """As their examples train one: no labels, blocks that add the time, linear betas."""
    theirs = diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    )  # fmt: skip
    scheduler = diffusers.DDPMScheduler()
    moved(theirs).save_pretrained(tmp_path / "made" / "unet")
    scheduler.save_pretrained(tmp_path / "made" / "scheduler")
    import_diffusers(tmp_path / "made", None, tmp_path / "run")
    trained = load(tmp_path / "run", "cpu")
    z, steps = torch.randn(3, 3, 8, 8), torch.tensor([10, 500, 999])
    logsnr = schedule_of(trained.config.diffusion).logsnr(steps.double() / 1000)
    alpha2 = scheduler.alphas_cumprod[steps].view(-1, 1, 1, 1)
    with torch.no_grad():
        eps = theirs(z, steps).sample
        x0 = ((z - (1 - alpha2).sqrt() * eps) / alpha2.sqrt()).clamp(-1, 1)
        # Theirs is found with products of float32, which at the last step is divided by 0.006.
        torch.testing.assert_close(trained.denoiser()(z, logsnr), x0, rtol=0, atol=2e-3)
    assert trained.sample(2, steps=3).images.shape == (2, 3, 8, 8)
    export_diffusers(tmp_path / "run", tmp_path / "again")
    import_diffusers(tmp_path / "again", None, tmp_path / "third")
    first, third = (find_checkpoint(tmp_path / name) for name in ("run", "third"))
    assert all(torch.equal(third.ema[name], value) for name, value in first.ema.items())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"norm_eps": "small"}, "got norm_eps 'small'$"),
        ({"norm_num_groups": 16, "freq_shift": 2}, "groups 16 in place of 32; freq_shift 2"),
        ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift 'spatial'"),
        ({"attn_norm_num_groups": None}, "attn_norm_num_groups None in place of 32"),
        ({"time_embedding_type": "fourier"}, "time_embedding_type 'fourier' in place of posi"),
        ({"act_fn": "gelu"}, "act_fn 'gelu' in place of silu"),
        ({"resnet_time_scale_shift": {}}, "resnet_time_scale_shift {}"),
        ({"block_out_channels": [32, 48]}, "not multiples of the first; 2 widths for 1 and 1"),
        ({"block_out_channels": [48]}, "not multiples of 32"),
        ({"block_out_channels": [32, "a"]}, "block_out_channels"),
        ({"block_out_channels": []}, "block_out_channels"),
        ({"down_block_types": ["SkipDownBlock2D"]}, "blocks SkipDownBlock2D"),
        ({"up_block_types": ["AttnUpBlock2D"]}, "other levels than on the way up"),
        ({"_class_name": "UNet2DConditionModel"}, "got 'UNet2DConditionModel'; other networks"),
        ({"num_class_embeds": 7}, "class_embedding.weight of 7 rows"),
        ({"layers_per_block": 10**9}, "256 blocks at most"),
        ({"layers_per_block": 3}, "down_blocks.0.resnets.1.norm1.weight is missing"),
        ({"block_out_channels": [1048576]}, "expected a checkpoint of the network"),
        ({"dropout": "a"}, "dropout 'a'"),
        ({"out_channels": 2}, "as many channels out as in, got 2 and 1"),
    ],
)
def test_what_ours_cannot_be_is_refused(copy, tmp_path, changes, message):
    path = copy / "unet" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (copy / "vfn.safetensors").unlink()
    with pytest.raises(ValueError, match=message) as refused:
        import_diffusers(copy, None, tmp_path / "run")
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_train_timesteps": 100}, "expected num_train_timesteps 1000, got 100"),
        ({"prediction_type": "flow"}, "expected prediction_type v_prediction, epsilon, sample"),
        ({"prediction_type": []}, "expected prediction_type v_prediction, .* got \\[\\]"),
        ({"rescale_betas_zero_snr": True}, "got rescale_betas_zero_snr"),
        ({"trained_betas": None, "beta_schedule": "exp"}, "expected beta_schedule linear, sca"),
        ({"trained_betas": [0.1]}, "expected 1000 trained_betas"),
        ({"trained_betas": [0.1] * 999 + ["a"]}, "betas above 0 and below 1"),
        ({"trained_betas": [0.1] * 999 + [1.0]}, "betas above 0 and below 1"),
        ({"trained_betas": None, "beta_start": 2}, "expected 0 < beta_start <= beta_end < 1"),
    ],
)
def test_other_schedulers_are_refused(copy, tmp_path, changes, message):
    path = copy / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    (copy / "vfn.safetensors").unlink()
    with pytest.raises(ValueError, match=message) as refused:
        import_diffusers(copy, None, tmp_path / "run")
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("place", "change"),
    [("unet/config.json", {"norm_eps": 1e-5}), ("scheduler/scheduler_config.json",
     {"prediction_type": "epsilon"})],
)  # fmt: skip
def test_a_side_file_of_something_else_is_refused(copy, place, change):
    path = copy / place
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="of another network or scheduler"):
        read_diffusers(copy)


@pytest.mark.parametrize("setting", CODE)
def test_a_side_file_runs_no_code(run, copy, tmp_path, monkeypatch, setting):
    monkeypatch.chdir(tmp_path)
    left_by_code(tmp_path)
    checkpoint = find_checkpoint(run)
    checkpoint = checkpoint._replace(config=override(checkpoint.config, CODE[setting]))
    write_side_file(copy / "vfn.safetensors", checkpoint)
    with pytest.raises(ValueError, match=f"vfn.safetensors, got {setting} .*; remove it to import"):
        import_diffusers(copy, None, tmp_path / "back")
    assert not (tmp_path / "ran").exists()
    assert not (tmp_path / "back").exists()


@pytest.mark.parametrize("kind", ["safetensors", "bin"])
def test_a_folder_as_those_of_ddpm_were_published(tmp_path, kind):
    """Network and scheduler in one folder, and the names that layers of attention had then."""
    torch.manual_seed(0)
    theirs = moved(diffusers.UNet2DModel(
        sample_size=8, block_out_channels=(32, 64), layers_per_block=1, attention_head_dim=None,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"), downsample_padding=0,
        up_block_types=("AttnUpBlock2D", "UpBlock2D"), flip_sin_to_cos=False, freq_shift=1,
    ))  # fmt: skip
    folder = tmp_path / "ddpm"
    theirs.save_pretrained(folder, safe_serialization=kind == "safetensors")
    diffusers.DDPMScheduler(variance_type="fixed_large").save_pretrained(folder)
    parts = {"unet": ["diffusers", "UNet2DModel"], "scheduler": ["diffusers", "DDPMScheduler"]}
    index = {"_class_name": "DDPMPipeline", **parts}
    (folder / "model_index.json").write_text(json.dumps(index))
    nested = tmp_path / "nested"
    theirs.save_pretrained(nested / "unet")
    diffusers.DDPMScheduler(variance_type="fixed_large").save_pretrained(nested / "scheduler")
    path = folder / f"diffusion_pytorch_model.{kind}"
    state = load_file(path) if kind == "safetensors" else torch.load(path, weights_only=True)
    then = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for now, before in then.items():
        state = {k.replace(f".{now}.", f".{before}."): v for k, v in state.items()}
    assert sum(".proj_attn." in key for key in state) == 8
    if kind == "safetensors":
        save_file(state, path, {"format": "pt"})
    else:
        torch.save(state, path)
    opened = diffusers.DDPMPipeline.from_pretrained(folder, low_cpu_mem_usage=False).unet
    torch.testing.assert_close(dict(opened.state_dict()), dict(theirs.state_dict()))
    found, plain = read_diffusers(folder), read_diffusers(nested)
    assert (found.config, found.shape) == (plain.config, plain.shape)
    assert found.config.sample.var_type == "fixed_large"
    assert found.ema.keys() == plain.ema.keys()
    for name, value in plain.ema.items():
        assert torch.equal(found.ema[name], value), name


@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "FlowMatchEulerDiscreteScheduler"])
def test_a_scheduler_without_betas_is_not_taken_for_one(copy, tmp_path, kind):
    (copy / "vfn.safetensors").unlink()
    getattr(diffusers, kind)().save_pretrained(copy / "scheduler")
    with pytest.raises(ValueError, match=f"expected a scheduler of betas, .*, got '{kind}'"):
        import_diffusers(copy, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_what_draws_latents_is_not_taken_for_a_network_of_pictures(copy, tmp_path):
    (copy / "vfn.safetensors").unlink()
    path = copy / "model_index.json"
    index = json.loads(path.read_text()) | {"safety_checker": [None, None]}
    path.write_text(json.dumps(index))
    read_diffusers(copy)
    path.write_text(json.dumps(index | {"vqvae": ["diffusers", "VQModel"]}))
    for folder in (copy, copy / "unet"):
        with pytest.raises(ValueError, match="unet and scheduler alone, got vqvae beside them"):
            import_diffusers(folder, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_weights_that_were_trained_on_elsewhere_come_as_they_are(run, copy):
    path = copy / "unet" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    state["class_embedding.weight"] = state["class_embedding.weight"] + 0.5
    save_file(state, path)
    found = read_diffusers(copy)
    before = find_checkpoint(run)
    change = found.ema["label_embed.bias"] - before.ema["label_embed.bias"]
    torch.testing.assert_close(change, torch.full_like(change, 0.5))
    assert found.shape == before.shape


def test_classes_of_others_count_from_nothing(copy):
    """Each row of their embedding is a class, and none of them stands for 'none'."""
    (copy / "vfn.safetensors").unlink()
    (copy / "model_index.json").unlink()
    found = read_diffusers(copy)
    assert found.shape.legend.names == tuple(map(str, range(11)))
    assert found.config.diffusion.p_uncond == 0
    rows = load_file(copy / "unet" / "diffusion_pytorch_model.safetensors")
    assert torch.equal(found.ema["label_embed.weight"].T, rows["class_embedding.weight"])
    assert not found.ema["label_embed.bias"].any()


@pytest.mark.slow
def test_a_network_without_labels_is_trained_on_and_distilled(tmp_path):
    """On pictures that have some."""
    theirs = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32,), layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
    )  # fmt: skip
    moved(theirs).save_pretrained(tmp_path / "made" / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "made" / "scheduler")
    import_diffusers(tmp_path / "made", {"dataset": "digits"}, tmp_path / "run")
    config = find_checkpoint(tmp_path / "run").config
    quick = {"steps": 1, "batch_size": 8, "preview_every": 0}
    labelled = override(config, {**quick, "conditional": True})  # as earlier versions imported it
    missing = "before no labels; leave them out with --conditional false"
    with pytest.raises(ValueError, match=missing):
        train(labelled, tmp_path / "run", resume=True, device="cpu")
    with pytest.raises(ValueError, match=missing):
        distill(tmp_path / "run", tmp_path / "fast", teacher_steps=2, conditional=True)
    assert train(override(config, quick), tmp_path / "run", resume=True, device="cpu").step == 1
    fast = distill(
        tmp_path / "run", tmp_path / "fast", teacher_steps=2, student_steps=1, last_steps=1,
        batch_size=8, eval_every=0, device="cpu",
    )  # fmt: skip
    assert fast.student_steps == 1


@pytest.mark.slow
def test_a_network_of_theirs_is_trained_on_and_distilled(tmp_path):
    """One with what ours does otherwise; its labels have no row for none."""
    theirs = diffusers.UNet2DModel(
        sample_size=8, in_channels=1, out_channels=1, block_out_channels=(32,), layers_per_block=1,
        down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",), num_class_embeds=10,
    )  # fmt: skip
    moved(theirs).save_pretrained(tmp_path / "made" / "unet")
    diffusers.DDPMScheduler().save_pretrained(tmp_path / "made" / "scheduler")
    import_diffusers(tmp_path / "made", {"dataset": "digits"}, tmp_path / "run")
    before = find_checkpoint(tmp_path / "run")
    quick = {"steps": 1, "batch_size": 8, "preview_every": 0, "log_every": 1}
    config = override(before.config, quick)
    assert train(config, tmp_path / "run", resume=True, device="cpu").step == 1
    after = find_checkpoint(tmp_path / "run")
    assert after.config.model.network.endswith("VariedUNet")
    assert not torch.equal(after.params["in_conv.weight"], before.params["in_conv.weight"])
    fast = distill(
        tmp_path / "run", tmp_path / "fast", teacher_steps=2, student_steps=1, steps=1,
        last_steps=1, batch_size=8, eval_num=10, device="cpu",
    )  # fmt: skip
    assert fast.student_steps == 1
    assert load(tmp_path / "fast" / "steps-1", "cpu").sample(1).nfe == 1
