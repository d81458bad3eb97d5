"""Runs to diffusers and back, beside its own network, scheduler and pipelines."""

import json
import math
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.reported import EVALUATION
from tests.helpers.small import SHAPE, small_checkpoint, small_config
from tests.helpers.strangers import CODE, left_by_code
from vfn.configs import override
from vfn.data import Labels
from vfn.interop import betas, export_diffusers, import_diffusers
from vfn.interop.diffusers_export import sampled_by_diffusers, write_side_file
from vfn.interop.diffusers_import import (
    diffusion_from_scheduler,
    read_diffusers,
    with_dataset,
)
from vfn.interop.diffusers_network import (
    config_for_diffusers,
    options_from_diffusers,
    params_from_diffusers,
    params_to_diffusers,
)
from vfn.interop.varied_unet import VariedUNet
from vfn.model import DataShape, schedule_of
from vfn.ops import ddim_step, logsnr_grid, posterior_logvar, sample
from vfn.runs import RunFiles, find_checkpoint, write_checkpoint
from vfn.sampling import load
from vfn.train import distill, train

diffusers = pytest.importorskip("diffusers")

NETWORKS = {
    "plain convolutions, heads of one width": {
        "ch_multipliers": (1, 2), "apply_attn": (False, True), "resample_with_res": False,
        "head_dim": 32, "num_classes": 3,
    },
    "three levels, own embedding": {
        "ch_multipliers": (1, 2, 2), "apply_attn": False, "embedding_dim": 48,
        "num_res_blocks": 2,
    },
    "one head of each level's width": {
        "ch_multipliers": (1, 2), "apply_attn": True, "resample_with_res": False,
    },
    "attention at levels that resample in residual blocks": {
        "ch_multipliers": (1, 2), "apply_attn": (True, True), "head_dim": 16, "num_classes": 2,
        "attend_after_resampling": False,
    },
    "as DDPM has it": {
        "ch_multipliers": (1, 2), "apply_attn": (False, True), "resample_with_res": False,
        "scales": False, "attend_after_resampling": False,
    },
    "as UNet2DModel has it by default": {
        "ch_multipliers": (1, 2), "apply_attn": (False, True), "resample_with_res": False,
        "head_dim": 8, "scales": False, "cos_first": True, "freq_shift": 0.0, "norm_eps": 1e-5,
        "padding": 1, "num_classes": 2,
    },
    "two heads": {"ch_multipliers": (1,), "apply_attn": True, "num_heads": 2, "num_classes": 2},
}  # fmt: skip


def moved(net):
    """Random parameters everywhere: zeros would hide what is out of place."""
    for param in net.parameters():
        torch.nn.init.normal_(param, std=0.1)
    return net.eval()


def named(net):
    return {name: param.detach() for name, param in net.named_parameters()}


class ExactTimes(torch.nn.Module):
    """diffusers' embedding of times, with frequencies and products in float64."""

    def __init__(self, like):
        super().__init__()
        self.like = like

    def forward(self, steps):
        half = self.like.num_channels // 2
        rates = [10 ** (-4 * i / (half - self.like.downscale_freq_shift)) for i in range(half)]
        turns = steps.double()[:, None] * torch.tensor(rates, dtype=torch.float64)
        parts = [turns.sin(), turns.cos()]
        return torch.cat(parts[::-1] if self.like.flip_sin_to_cos else parts, 1)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_is_the_same_function(name):
    net = moved(VariedUNet(3, 3, hid_channels=32, **{"num_res_blocks": 1, **NETWORKS[name]}))
    theirs = diffusers.UNet2DModel(**config_for_diffusers(net, (8, 8))).eval()
    theirs.load_state_dict(params_to_diffusers(named(net), net))
    z, t = torch.randn(2, 3, 8, 8), torch.tensor([0.125, 0.7], dtype=torch.float64)
    y = torch.tensor([0, 2]) if net.num_classes else None
    with torch.no_grad():
        ours = net(z, t, y)
        assert ours.std() > 0.01
        # Their embedding computes angles up to 1000 in float32.
        assert (ours - theirs(z, 1000 * t, y).sample).abs().max() <= 1e-5
        net.double()
        theirs.double().load_state_dict(params_to_diffusers(named(net), net))
        theirs.time_proj = ExactTimes(theirs.time_proj)
        exact = theirs(z.double(), 1000 * t, y).sample
        assert (net(z.double(), t, y) - exact).abs().max() <= 1e-12


@pytest.mark.parametrize("name", NETWORKS)
def test_their_configuration_gives_ours_back(name):
    given = {"num_res_blocks": 1, **NETWORKS[name]}
    net = VariedUNet(3, 3, hid_channels=32, **given)
    config = dict(diffusers.UNet2DModel(**config_for_diffusers(net, (8, 8))).config)
    options = options_from_diffusers(config)
    again = VariedUNet(3, 3, **options, num_classes=net.num_classes)
    assert config_for_diffusers(again, (8, 8)) == config_for_diffusers(net, (8, 8))
    params = named(moved(net))
    back = params_from_diffusers(params_to_diffusers(params, net), again)
    labels = "label_embed.weight"  # weights less their bias, which was added to them
    for key, value in params.items():
        torch.testing.assert_close(back[key], value, rtol=0, atol=1e-6 * (key == labels))


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A run of digits with an evaluation."""
    files = RunFiles(tmp_path_factory.mktemp("runs") / "digits")
    write_checkpoint(files.checkpoint(3), small_checkpoint())
    files.metrics.write_text(json.dumps(EVALUATION))
    return files.path


@pytest.fixture(scope="module")
def exported(run, tmp_path_factory):
    """The same for diffusers."""
    folder = tmp_path_factory.mktemp("exported") / "digits"
    assert "outputs differ by" in export_diffusers(run, folder, licence="mit")
    return folder


@pytest.fixture
def copy(exported, tmp_path):
    """A copy to be changed."""
    return shutil.copytree(exported, tmp_path / "copy")


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


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"second_time": True}, "a second time as an input"),
        ({"vector_dim": 3}, "numbers of each picture as an input"),
        ({"image_channels": 1}, "a picture beside z as an input"),
        ({"augment_dim": 9}, "augmentation as an input"),
    ],
)
def test_inputs_that_theirs_has_not(option, message):
    net = VariedUNet(1, 1, hid_channels=32, ch_multipliers=(1,), num_res_blocks=1, **option)
    with pytest.raises(ValueError, match=message):
        config_for_diffusers(net, (8, 8))


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


@pytest.mark.parametrize("kind", ["fixed_small", "fixed_large"])
def test_variances_of_ancestral_steps_are_theirs(kind):
    scheduler = diffusers.DDPMScheduler(variance_type=kind)
    settings = diffusion_from_scheduler(scheduler.config)
    config = override(small_config(), settings)
    schedule, i = schedule_of(config.diffusion), 30  # where both are a twentieth apart
    here, there = schedule.logsnr(torch.tensor([i, i - 1], dtype=torch.float64) / 1000)
    ours = posterior_logvar(here, there, config.sample.var_type).exp()
    # Theirs is a difference in float32 of numbers near 1: 6e-8 of 7e-4.
    assert ours.item() == pytest.approx(scheduler._get_variance(i).item(), rel=1e-3)


@pytest.mark.parametrize("kind", ["linear", "scaled_linear", "squaredcos_cap_v2"])
def test_noise_levels_of_betas_are_theirs(kind):
    scheduler = diffusers.DDIMScheduler(beta_schedule=kind, beta_start=2e-4, beta_end=0.015)
    config = override(
        small_config(),
        {
            "logsnr_schedule": "vfn.interop.betas:betas_schedule",
            "schedule_options": {"kind": kind, "beta_start": 2e-4, "beta_end": 0.015},
        },
    )
    schedule = schedule_of(config.diffusion)
    times = torch.arange(1000, dtype=torch.float64) / 1000
    alpha2 = torch.sigmoid(schedule.logsnr(times))
    # Theirs is a product of a thousand float32.
    torch.testing.assert_close(alpha2, scheduler.alphas_cumprod.double(), rtol=3e-4, atol=1e-6)
    torch.testing.assert_close(schedule.time(schedule.logsnr(times)), times, rtol=0, atol=1e-12)
    levels = schedule.logsnr(torch.linspace(0, 1, 5001, dtype=torch.float64))
    assert (levels.diff() < 0).all()
    assert schedule.time(schedule.logsnr(1.0)).item() == 0.999


def test_noise_levels_of_betas_are_exact():
    from vfn.interop.betas import betas_schedule

    schedule = betas_schedule(betas=[0.1, 0.2, 0.5])
    for i, alpha2 in enumerate((0.9, 0.72, 0.36)):
        expected = math.log(alpha2 / (1 - alpha2))
        assert schedule.logsnr(torch.tensor(i / 3, dtype=torch.float64)).item() == pytest.approx(
            expected, rel=1e-13
        )


def test_a_licence_is_an_identifier(run, tmp_path):
    with pytest.raises(ValueError, match="identifier of a licence, such as mit"):
        export_diffusers(run, tmp_path / "out", licence="mit\nmodel: other")


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


def test_levels_of_other_betas_are_not_those_on_a_device(monkeypatch):
    """Which are kept there, schedule by schedule."""
    monkeypatch.setattr(betas, "_COPIES", {})
    meta = torch.device("meta")
    for count in (10, 20):
        levels = torch.zeros(count)
        assert len(betas._on(("linear", count), levels, meta)) == count
    assert len(betas._on(("linear", 10), torch.zeros(3), meta)) == 10  # that of before
