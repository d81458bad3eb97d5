"""The reference's configurations in our words: every option has its place, or is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfn.configs import dumps, loads
from vfn.data.standard import DATASETS
from vfn.interop import FORMATS, import_config, left_out
from vfn.interop.reference_config import WITHOUT_EFFECT
from vfn.interop.reference_settings import OPTIONS

# A configuration in which every option can be changed by itself.
BASE = {
    "data": {"name": "cifar10"},
    "train": {"epochs": 2},
    "model": {"head_dim": 64},
    "diffusion": {"logsnr_schedule": "cosine", "model_var_type": "fixed_medium"},
    "conditional": {"use_cfg": True},
}
# For every option that matters another value, and what becomes of it here.
MAPPED = {
    "data.name": ("celeba", ("data", "dataset", "celeba")),
    "train.epochs": (4, ("train", "steps", 1560)),
    "train.seed": (7, ("train", "seed", 7)),
    "train.lr": (1e-3, ("train", "lr", 1e-3)),
    "train.beta1": (0.8, ("train", "beta1", 0.8)),
    "train.beta2": (0.99, ("train", "beta2", 0.99)),
    "train.weight_decay": (0.1, ("train", "weight_decay", 0.1)),
    "train.batch_size": (64, ("train", "batch_size", 64)),
    "train.grad_norm": (2.0, ("train", "grad_norm", 2.0)),
    "train.warmup": (9, ("train", "warmup", 9)),
    "train.use_ema": (False, ("train", "ema_decay", 0.0)),
    "train.ema_decay": (0.9, ("train", "ema_decay", 0.9)),
    "train.ckpt_intv": (10, ("train", "checkpoint_every", 3900)),
    "train.max_ckpts_kept": (4, ("train", "max_checkpoints", 4)),
    "train.image_intv": (10, ("train", "preview_every", 3900)),
    "model.hid_channels": (64, ("model", "hid_channels", 64)),
    "model.ch_multipliers": ([1, 2, 3], ("model", "ch_multipliers", (1, 2, 3))),
    "model.num_res_blocks": (2, ("model", "num_res_blocks", 2)),
    "model.apply_attn": (True, ("model", "apply_attn", (True, True, True))),
    "model.embedding_dim": (96, ("model", "embedding_dim", 96)),
    "model.drop_rate": (0.5, ("model", "dropout", 0.5)),
    "model.num_heads": (2, ("model", "num_heads", 2)),
    "model.head_dim": (32, ("model", "head_dim", 32)),
    "model.resample_with_res": (False, ("model", "resample_with_res", False)),
    "diffusion.logsnr_schedule": ("legacy", ("diffusion", "logsnr_schedule", "legacy")),
    "diffusion.logsnr_min": (-15.0, ("diffusion", "logsnr_min", -15.0)),
    "diffusion.logsnr_max": (15.0, ("diffusion", "logsnr_max", 15.0)),
    "diffusion.train_timesteps": (0, ("diffusion", "train_timesteps", 0)),
    "diffusion.sample_timesteps": (8, ("sample", "sample_timesteps", 8)),
    "diffusion.model_out_type": ("both", ("diffusion", "model_out_type", "both")),
    "diffusion.model_var_type": ("fixed_small", ("sample", "var_type", "fixed_small")),
    "diffusion.intp_frac": (0.3, ("sample", "intp_frac", 0.3)),
    "diffusion.reweight_type": ("snr_1plus", ("diffusion", "reweight_type", "alpha2")),
    "conditional.use_cfg": (False, ("data", "conditional", False)),
    "conditional.w_guide": (0.5, ("sample", "guidance", 0.5)),
    "conditional.p_uncond": (0.2, ("diffusion", "p_uncond", 0.2)),
    "args.use_ddim": (True, ("sample", "sampler", "ddim")),
    "args.num_accum": (2, ("train", "accumulate", 2)),
}
REFUSED = {
    "model.in_channels": (1, "expected model.in_channels to be 3, got 1"),
    "model.out_channels": (6, "expected model.out_channels to be 3, got 6"),
    "diffusion.allow_rescale": (True, "expected diffusion.allow_rescale to be false, .* got true"),
}
# Its misspelt name of the epochs, and what only makes sense with other options.
ELSEWHERE = {"train.epoch", "diffusion.loss_type"}


def changed(name, value):
    section, _, key = name.partition(".")
    return {**BASE, section: {**BASE.get(section, {}), key: value}}


@pytest.mark.parametrize("name", MAPPED)
def test_an_option_has_its_place(name):
    value, (section, key, expected) = MAPPED[name]
    assert getattr(getattr(import_config(BASE), section), key) != expected
    assert getattr(getattr(import_config(changed(name, value)), section), key) == expected


@pytest.mark.parametrize("name", REFUSED)
def test_an_option_without_a_place_is_refused_by_name(name):
    value, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        import_config(changed(name, value))


def test_every_option_is_one_of_these():
    known = {f"{section}.{key}" for section, keys in OPTIONS.items() for key in keys}
    silent = {n for n in known if n in WITHOUT_EFFECT or n.split(".")[0] == "speedup"}
    assert known == silent | MAPPED.keys() | REFUSED.keys() | ELSEWHERE


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"data": {"name": "dogs"}}, "unknown data set 'dogs' .* mnist, cifar10, celeba"),
        ({"train": {"max_ckpts_kept": -1}}, "train.max_ckpts_kept to be at least 1, got -1"),
        ({"args": {"num_accum": 3}}, "batch_size to be a multiple of args.num_accum 3, got 128"),
        ({"diffusion": {"loss_type": "l1"}}, "loss_type to be one of mse, kl, got 'l1'"),
        ({"diffusion": {"loss_type": "kl"}}, 'var_type to be fixed_small .*, got "fixed_large"'),
        ({"diffusion": {"model_var_type": "learned"}}, 'loss_type to be kl .*, got "mse"'),
        ({"diffusion": {"model_var_type": "small"}}, "var_type to be one of .*, got 'small'"),
        ({"diffusion": {"reweight_type": "flow"}}, "reweight_type to be one of .*, got 'flow'"),
        ({"diffusion": {"model_out_type": "u"}}, "model_out_type to be one of x0, .*, got 'u'"),
        ({"diffusion": {"logsnr_schedule": "a.b:c"}}, "one of cosine, .*, legacy, got 'a.b:c'"),
        ({"diffusion": {"reweight_type": "snr2"}}, "reweight_type to be one of .*, got 'snr2'"),
        ({"model": {"hid_channels": 50}}, "hid_channels to be a multiple of 4, got 50"),
        (
            {"model": {"apply_attn": [True]}},
            "apply_attn to have one value for each of the 3 levels .*, got 1",
        ),
    ],
)
def test_impossible_settings(content, message):
    with pytest.raises(ValueError, match=message):
        import_config(content)


@pytest.mark.parametrize("variance", ["fixed_small", "learned"])
def test_the_bound_is_that_of_the_steps_of_sampling(variance):
    given = {"loss_type": "kl", "model_var_type": variance, "sample_timesteps": 500}
    config = import_config({"diffusion": given})
    assert config.diffusion.loss_type == "kl"
    assert config.diffusion.train_timesteps == 500
    assert config.diffusion.learned_variance == (variance == "learned")
    assert config.sample.var_type == variance


def test_epochs_by_either_spelling():
    """390 full batches of 128 in 50,000 pictures."""
    assert import_config({"train": {"epochs": 2}}).train.steps == 780
    assert import_config({"train": {"epoch": 2}}).train.steps == 780
    assert import_config({}).train.steps == 2048 * 390


def test_accumulation_drops_no_more_than_a_micro_batch():
    """1,562 micro-batches of 32 an epoch, four a step, across the ends of epochs."""
    settings = {"train": {"epochs": 2}, "args": {"num_accum": 4}}
    assert import_config(settings).train.steps == 2 * 1562 // 4


def test_an_unconditional_run_has_no_guidance():
    config = import_config({"conditional": {"use_cfg": False, "w_guide": 0.3}})
    assert config.sample.guidance == 0


def test_a_legacy_schedule_has_no_limits():
    config = import_config({})
    assert (config.diffusion.logsnr_min, config.diffusion.logsnr_max) == (None, None)


def test_the_result_is_a_configuration_file():
    assert loads(dumps(import_config(BASE))) == import_config(BASE)


def test_what_is_left_out_is_told():
    content = {"source": "x", "data": {"root": "/"}, "speedup": {}, "train": {"lr": 1e-4}}
    names = [line.split(":")[0] for line in left_out(content)]
    assert names == ["source", "data.root", "speedup"]


# Pictures that the reference trains on: of celeba every one, of the others the training split.
PICTURES = {"mnist": 60_000, "cifar10": 50_000, "celeba": 202_599}
SHAPES = {"mnist": (1, (32, 32), 10), "cifar10": (3, (32, 32), 10), "celeba": (3, (64, 64), 40)}


@pytest.mark.parametrize("name", FORMATS["reference"].datasets)
def test_data_sets_are_those_of_the_table(name):
    entry = DATASETS[name]
    assert (entry.channels, entry.size, len(set(entry.legend.names))) == SHAPES[name]
    model = {"in_channels": SHAPES[name][0]}
    config = import_config({"data": {"name": name}, "train": {"epochs": 3}, "model": model})
    assert config.data.dataset == name
    assert config.train.steps == 3 * (PICTURES[name] // 128)


VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(-3, 300), st.floats(), st.text(max_size=3),
    st.lists(st.one_of(st.booleans(), st.integers(-1, 3)), max_size=3), st.just({}),
)  # fmt: skip
SECTIONS = st.one_of(VALUES, st.dictionaries(
    st.sampled_from([key for keys in OPTIONS.values() for key in keys]), VALUES, max_size=4
))  # fmt: skip


@given(st.dictionaries(st.sampled_from([*OPTIONS, "denoise", "use_ema", "x"]), SECTIONS))
def test_any_content_is_read_or_refused(content):
    """With a ValueError and nothing else."""
    try:
        config = import_config(content)
    except ValueError:
        return
    assert loads(dumps(config)) == config
