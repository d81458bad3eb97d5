"""A run as a folder of diffusers: network, scheduler, pipeline and card, checked by reloading."""

import json
import shutil
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from vfn.configs import DiffusionConfig, SampleConfig
from vfn.files import given_path, make_directory, printable, write_atomic
from vfn.interop.card import card, check_licence
from vfn.interop.diffusers_network import config_for_diffusers, params_to_diffusers
from vfn.model import schedule_of
from vfn.nn import with_params
from vfn.nn.unet import UNet
from vfn.ops import logsnr_grid, sample
from vfn.runs import Checkpoint, find_checkpoint
from vfn.runs.checkpoint import write_packed
from vfn.sampling import Trained, load
from vfn.tables import how_to_install

TIMES = 1000  # a network of theirs is asked at integers below
TYPES = {"v": "v_prediction", "eps": "epsilon", "x0": "sample"}
SIDE_FILE, SIDE_FORMAT = "vfn.safetensors", "vfn-diffusers-1"
LEVELS, STEPS, TOLERANCE = (50, 500, 950), 10, 1e-3
LEAST = 1e-12  # a beta of a schedule that begins without noise
LABEL_LAYER = ("label_embed.weight", "label_embed.bias")


class Gap(NamedTuple):
    """What the reloaded folder differs by: greatest of outputs, and root mean square of pictures.

    spread: standard deviation of the outputs.
    """

    outputs: float
    pictures: float
    spread: float


def export_diffusers(run: str | Path, out: str | Path, licence: str | None = None) -> str:
    """Write the averaged network of a run as a folder that diffusers opens.

    What is written is opened by diffusers and compared with the run: three noise levels for two
    labels, and a short sampling; the differences stand in the card.

    Args:
        run: run directory, checkpoint or exported file.
        out: folder, new or empty.
        licence: of the weights, for the card.

    Returns:
        a line about what was written.

    Raises:
        ValueError: if diffusers is missing, cannot express the network (with the reasons), or does
            not give what the run gives; nothing is written then.
        OSError: if it cannot be written.

    >>> export_diffusers(Path("no/run"), Path("out"))
    Traceback (most recent call last):
    ValueError: checkpoint no/run does not exist; expected a run directory or a file
    """
    out = given_path(out)
    if find_spec("diffusers") is None:
        raise ValueError(
            "format diffusers needs diffusers, which is not installed; install it with: "
            f"{how_to_install('diffusers')}"
        )
    check_empty(out)
    check_licence(licence)
    trained, checkpoint = load(run, "cpu"), find_checkpoint(run)
    trained.check_labels_alone("format diffusers")
    net = _expressible(trained)
    _check_sampler(trained.config.sample, trained.config.distill.asked)
    make_directory(out.parent)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp") as temporary:
        folder = Path(temporary) / "made"
        _write(folder, trained, net)
        write_side_file(folder / SIDE_FILE, checkpoint)
        gap = compare(folder, trained, net)
        write_atomic(folder / "README.md", _card(trained, Path(run), gap, licence))
        if out.is_dir():
            out.rmdir()
        folder.rename(out)
    return (
        f"{out}: for diffusers; reloaded, outputs differ by {gap.outputs:.1e} at most and pictures "
        f"of {STEPS} steps by {gap.pictures:.1e} (rms)"
    )


def _check_sampler(own: SampleConfig, student: bool) -> None:
    """Refuse networks that DDIM, which is what the pipelines of diffusers know, cannot draw from.

    Raises:
        ValueError: for those that say where paths end, and students of steps of another kind.
    """
    if own.sampler == "consistency" or (student and own.sampler != "ddim"):
        raise ValueError(
            "format diffusers draws by DDIM, and this network was made to be drawn by "
            f"{own.sampler} in {own.sample_timesteps} steps; export it with --format hub or "
            "safetensors"
        )


def check_empty(out: Path) -> None:
    """Refuse a place that holds something.

    Args:
        out: folder to be.

    Raises:
        ValueError: it says what is there.

    >>> check_empty(Path("new"))
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{printable(str(out))} is there already; choose another --out")


def _expressible(trained: Trained) -> UNet:
    """The network, if diffusers has a place for it and for what it predicts."""
    diffusion, net = trained.config.diffusion, trained.model
    if not isinstance(net, UNet):
        raise ValueError(
            f"UNet2DModel of diffusers cannot express network {trained.config.model.network}; "
            "only the unet can be exported to it"
        )
    if diffusion.model_out_type not in TYPES:
        raise ValueError(
            f"schedulers of diffusers know predictions of {', '.join(TYPES)}, and this network "
            f"gives {diffusion.model_out_type}"
        )
    if diffusion.learned_variance:
        raise ValueError(
            "DDIM of diffusers takes no learned variance, and this network gives one beside its "
            "prediction"
        )
    config_for_diffusers(net, trained.shape.size[1:])
    return net


def _write(folder: Path, trained: Trained, net: UNet) -> None:
    from diffusers import DDIMScheduler, UNet2DModel
    from diffusers import __version__ as version

    params = {name: value.detach().cpu() for name, value in trained.params.items()}
    unet = UNet2DModel(**config_for_diffusers(net, trained.shape.size[1:]))
    unet.load_state_dict(params_to_diffusers(params, net))
    unet.save_pretrained(folder / "unet")
    scheduler = DDIMScheduler(**scheduler_settings(trained.config.diffusion))
    scheduler.save_pretrained(folder / "scheduler")
    index: dict[str, Any] = {
        "_class_name": "DDIMPipeline",
        "_diffusers_version": version,
        "scheduler": ["diffusers", "DDIMScheduler"],
        "unet": ["diffusers", "UNet2DModel"],
    }
    names = trained.shape.legend.names
    if names:
        index["_class_name"] = ["pipeline", "ClassPipeline"]
        index["id2label"] = {str(i): name for i, name in enumerate(names, 1)}
        shutil.copyfile(Path(__file__).with_name("class_pipeline.py"), folder / "pipeline.py")
    write_atomic(folder / "model_index.json", json.dumps(index, indent=2) + "\n")


def write_side_file(path: Path, checkpoint: Checkpoint) -> None:
    """Write what diffusers has no place for: configuration, data, and the layer of labels.

    In its embedding weights and bias of that layer are added, which loses some last digits.

    Args:
        path: a safetensors file.
        checkpoint: whose average was exported.
    """
    layer = {name: checkpoint.ema[name] for name in LABEL_LAYER if name in checkpoint.ema}
    write_packed(path, SIDE_FORMAT, layer, checkpoint._replace(profiles={}))


def scheduler_settings(diffusion: DiffusionConfig) -> dict[str, Any]:
    """Arguments of DDIMScheduler for the noise levels of a configuration.

    Args:
        diffusion: with a prediction that it knows.

    Returns:
        arguments by name; ``trained_betas`` are those of the schedule at i/1000.

    >>> settings = scheduler_settings(DiffusionConfig())
    >>> settings["prediction_type"], len(settings["trained_betas"])
    ('v_prediction', 1000)
    """
    t = torch.arange(TIMES, dtype=torch.float64) / TIMES
    log_alpha2 = F.logsigmoid(schedule_of(diffusion).logsnr(t))
    before = torch.cat([log_alpha2.new_zeros(1), log_alpha2[:-1]])
    betas = -torch.expm1(log_alpha2 - before)
    return {
        "num_train_timesteps": TIMES,
        "trained_betas": betas.clamp(min=LEAST).tolist(),
        "prediction_type": TYPES[diffusion.model_out_type],
        "timestep_spacing": "trailing",
        "clip_sample": True,
        "clip_sample_range": 1.0,
        "set_alpha_to_one": True,
    }


def _card(trained: Trained, run: Path, gap: Gap, licence: str | None) -> str:
    """What it is, how to draw with it, and how far it is from the run."""
    names, own = trained.shape.legend.names, trained.config.sample
    student = trained.config.distill.asked
    guided = 0 < trained.config.diffusion.p_uncond < 1  # of others one branch is not trained
    usual = (50, 0.5 if guided else 0.0)
    steps, guidance = (own.sample_timesteps, own.guidance) if student else usual
    if names:
        use = (
            "from diffusers import DiffusionPipeline\n\n"
            "pipeline = DiffusionPipeline.from_pretrained(\n"
            "    FOLDER, custom_pipeline=FOLDER, trust_remote_code=True\n"
            ")  # reads pipeline.py\n"
            f"pipeline({json.dumps(list(names[:2]))}, guidance={guidance:g}, steps={steps})"
            ".images\n"
        )
    else:
        use = (
            "from diffusers import DiffusionPipeline\n\n"
            "pipeline = DiffusionPipeline.from_pretrained(FOLDER)\n"
            f"pipeline(batch_size=4, num_inference_steps={steps}, use_clipped_model_output=True)"
            ".images\n"
        )
    checked = (
        f"Reloaded by diffusers {_version()} and compared with the run it is of: outputs at noise "
        f"levels {', '.join(map(str, LEVELS))} of {TIMES} differ by {gap.outputs:.1e} at most "
        f"(their standard deviation is {gap.spread:.2g}), and pictures of {STEPS} steps of DDIM "
        f"from the same noise by {gap.pictures:.1e} (root mean square, in -1..1): its steps "
        f"begin at {TIMES - 1}/{TIMES} of the time, not at 1."
    )
    back = "`vfn import checkpoint FOLDER --format diffusers --out runs/back` makes a run of it."
    sections = [("Use", f"```python\n{use}```\n\n{back}"), ("Check", checked)]
    return card(trained, run, "diffusers", sections, licence)


@torch.no_grad()
def compare(folder: Path, trained: Trained, net: UNet) -> Gap:
    """Open what was written, and compare it with the network.

    Args:
        folder: of diffusers.
        trained: what it was made of.
        net: its network.

    Returns:
        Gap.

    Raises:
        ValueError: if they differ by more than the rounding of float32.
    """
    from diffusers import UNet2DModel

    unet = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval()
    draw = torch.Generator().manual_seed(0)
    z = torch.randn(2, *trained.shape.size, generator=draw)
    labels = torch.tensor([0, 1]) if net.num_classes else None
    network, worst, spread = with_params(trained.model, trained.params), 0.0, 0.0
    for level in LEVELS:
        t = torch.full((2,), level / TIMES, dtype=torch.float64)
        ours = network(z, t, labels)
        theirs = unet(z, torch.full((2,), float(level)), labels).sample
        worst = max(worst, (ours - theirs).abs().max().item())
        spread = max(spread, ours.std().item())
    gap = Gap(worst, _sampled_apart(folder, trained, z, labels), spread)
    if not gap.outputs <= TOLERANCE * max(1.0, spread):
        raise ValueError(
            f"what diffusers {_version()} makes of the exported network differs from the run by "
            f"{gap.outputs:.1e}, more than rounding does; nothing was written"
        )
    return gap


def _version() -> str:
    from diffusers import __version__ as version

    return str(version)


def _sampled_apart(folder: Path, trained: Trained, z: Tensor, labels: Tensor | None) -> float:
    """Root mean square difference of pictures of both, from the same noise."""
    theirs = sampled_by_diffusers(folder, z, labels, STEPS)
    schedule = schedule_of(trained.config.diffusion)
    ours = sample(trained.denoiser(labels), z, logsnr_grid(schedule, STEPS)).x0
    return (ours - theirs).square().mean().sqrt().item()


def sampled_by_diffusers(folder: Path, z: Tensor, labels: Tensor | None, steps: int) -> Tensor:
    """Pictures by diffusers' own scheduler and network, DDIM without guidance.

    Args:
        folder: of `export_diffusers`.
        z: noise [B, C, H, W].
        labels: [B], or None.
        steps: of DDIM.

    Returns:
        x0 [B, C, H, W].
    """
    from diffusers import DDIMScheduler, UNet2DModel

    unet = UNet2DModel.from_pretrained(folder / "unet", low_cpu_mem_usage=False).eval()
    scheduler = DDIMScheduler.from_pretrained(folder / "scheduler")
    scheduler.set_timesteps(steps)
    for t in scheduler.timesteps:
        out = unet(z, t, labels).sample
        z = scheduler.step(out, t, z, use_clipped_model_output=True).prev_sample
    return z
