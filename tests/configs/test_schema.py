"""Configurations: presets, round trips, and every fault named."""

import dataclasses
import math
import tomllib
from typing import get_args, get_origin

import pytest

from vfn.configs import Config, SampleConfig, dumps, flat_fields, load, loads, override, presets
from vfn.configs.fields import plain_hint
from vfn.configs.schema import SECTIONS


def test_there_are_presets():
    assert "digits" in presets()


@pytest.mark.parametrize("name", presets())
def test_preset_loads_and_round_trips(name):
    config = load(name)
    assert isinstance(config, Config)
    assert loads(dumps(config)) == config


def test_defaults_round_trip():
    assert loads("") == Config()
    assert loads(dumps(Config())) == Config()


def test_file_is_read_by_path(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text("[train]\nsteps = 7\n")
    config = load(str(path))
    assert config.train.steps == 7
    assert config.model == Config().model


def test_all_fields_differ_from_defaults_after_a_round_trip():
    """No field is lost or renamed on the way through TOML."""
    config = override(
        Config(),
        {
            "ch_multipliers": [1, 3],
            "apply_attn": [True, False],
            "head_dim": 16,
            "logsnr_min": -9,
            "logsnr_schedule": "linear",
            "lr": 1,
            "warmup": 0,
            "p_uncond": 0,
            "sampler": "ancestral",
            "var_type": "fixed_medium",
            "intp_frac": 0.25,
        },
    )
    again = loads(dumps(config))
    assert again == config
    assert again.model.ch_multipliers == (1, 3)
    assert again.diffusion.logsnr_min == -9.0
    assert isinstance(again.train.lr, float)
    assert again.sample.intp_frac == 0.25


def test_names_of_settings_are_unique():
    """They are options without their section."""
    count = sum(len(dataclasses.fields(section)) for section in SECTIONS.values())
    assert len(flat_fields(*SECTIONS)) == count


def test_every_setting_has_a_help_text():
    assert all(field.metadata["help"] for field, _ in flat_fields(*SECTIONS).values())


def test_override_replaces_only_what_is_named():
    base = load("digits")
    changed = override(base, {"lr": 0.5, "guidance": 2.0})
    assert (changed.train.lr, changed.sample.guidance) == (0.5, 2.0)
    assert override(changed, {"lr": base.train.lr, "guidance": base.sample.guidance}) == base
    assert base == load("digits")


def test_override_checks():
    with pytest.raises(ValueError, match="expected batch_size at least 1, got 0"):
        override(Config(), {"batch_size": 0})


def test_configuration_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().train.lr = 1.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train]\nstepz = 1", r"unknown key stepz in \[train\], expected steps"),
        ("[model]\nhid_chanels = 32", r"unknown key hid_chanels in \[model\], expected hid_ch"),
        ("[data]\nqqq = 1", r"unknown key qqq in \[data\], expected one of dataset"),
        (
            "[trian]\nsteps = 1",
            r"unknown section \[trian\], expected data, model, diffusion, train",
        ),
        ("train = 1", r"expected \[train\] to be a table, got 1"),
        ("[train]\nsteps =", "config is not valid TOML"),
        # wrong types
        ("[train]\nsteps = 1.5", "expected steps to be int, got 1.5"),
        ("[train]\nsteps = '9'", "expected steps to be int, got '9'"),
        ("[train]\nsteps = true", "expected steps to be int, got True"),
        ("[train]\nlr = true", "expected lr to be float, got True"),
        ("[data]\ndataset = 3", "expected dataset to be str, got 3"),
        ("[model]\nch_multipliers = 2", "expected ch_multipliers to be a list of int, got 2"),
        ("[model]\nch_multipliers = []", r"ch_multipliers to be a list of int, got \(\)"),
        ("[model]\nch_multipliers = [1, 2.5]", "ch_multipliers to be a list of int"),
        ("[model]\napply_attn = [1, 0, 1]", "apply_attn to be a list of bool"),
        (
            "[diffusion]\nlogsnr_schedule = 'cosin'",
            "one of cosine, linear, sigmoid, flow, legacy, or package.module:Name, got 'cosin'",
        ),
        ("[sample]\nsampler = 1", "expected sampler to be one of ddim, ancestral, heun, "),
        # ranges
        ("[train]\nsteps = 0", "expected steps at least 1, got 0"),
        ("[train]\nlr = -1e-3", "expected lr at least 0, got -0.001"),
        ("[train]\nlr = nan", "expected lr in 0..1000.0, got nan"),
        ("[train]\nbeta1 = 1.5", r"expected beta1 in 0..0.99999, got 1.5"),
        ("[train]\nbeta2 = 1", r"expected beta2 in 0..0.99999, got 1"),
        ("[data]\ndataset = ''", "expected dataset to be a text, got an empty one"),
        ("[model]\ndropout = 1.0", r"expected dropout in 0..0.99, got 1.0"),
        ("[model]\nch_multipliers = [1, 0, 2]", "expected ch_multipliers at least 1, got 0"),
        ("[sample]\nguidance = -1", "expected guidance at least 0, got -1"),
        ("[diffusion]\nlogsnr_min = nan", "expected logsnr_min in -700.0..700.0, got nan"),
        ("[data]\nimage_size = 32", "expected image_size to be a list of int, got 32"),
        ("[data]\nimage_size = [0]", "expected image_size at least 1, got 0"),
        ("[data]\ntest_share = 1.0", "expected test_share in 0..0.9, got 1.0"),
        ("[data]\non_bad = 'drop'", "expected on_bad to be one of refuse, skip, got 'drop'"),
        # combinations
        ("[data]\nimage_size = [1, 2, 3]", r"image_size to be height, width, got \[1, 2, 3\]"),
        ("[data]\ncrop = [1, 2, 3]", r"crop to be top, left, height, width, got \[1, 2, 3\]"),
        ("[data]\ncrop = [0, 0, 0, 9]", r"crop to be top, left, height, width, got \[0, 0, 0, 9\]"),
        ("[data]\nchannels = 2", "expected channels to be 1 or 3, got 2"),
        ("[model]\nhid_channels = 33", "hid_channels to be a multiple of 4, got 33"),
        (
            "[model]\napply_attn = [true]",
            "one value for each of the 3 levels of ch_multipliers, got 1",
        ),
        ("[diffusion]\nshift = 0", "expected shift at least 0.001, got 0.0"),
        ("[diffusion]\ninterpolation = [0, 1, 2]", "expected interpolation at least 1, got 0"),
        ("[diffusion]\ninterpolation = [64, 32, 512]", "to be LOW,HIGH,SIDE, .*, got 64,32,512"),
        ("[diffusion]\ninterpolation = [32, 64]", "to be LOW,HIGH,SIDE, .*, got 32,64"),
        ("[diffusion]\nlogsnr_max = 1e6", "expected logsnr_max in -700.0..700.0, got 1000000.0"),
        # parameters of what a word stands for
        ("[diffusion]\nschedule_options = {s = 1}", "schedule cosine takes no options, got s"),
        (
            "[diffusion]\nlogsnr_schedule = 'legacy'\nschedule_options = {beta_start = 0.05}",
            "schedule legacy: expected beta_start <= beta_end, got 0.05 and 0.02",
        ),
        (
            "[diffusion]\nlogsnr_schedule = 'legacy'\n"
            "schedule_options = {beta_end = 1, beta_start = 0}",
            "legacy: expected beta_end in 0..0.1, got 1; schedule legacy: expected beta_start > 0,",
        ),
        (
            "[diffusion]\nreweight_type = 'min_snr'\nreweight_options = {gamma = -1}",
            "weighting min_snr: expected gamma > 0, got -1",
        ),
        (
            "[diffusion]\nreweight_type = 'p2'\nreweight_options = {gamma = 'x'}",
            "weighting p2: expected gamma to be a number, got 'x'",
        ),
        (
            "[diffusion]\nreweight_type = 'sigmoid'\nreweight_options = {bias = nan}",
            "weighting sigmoid: expected bias finite, got nan",
        ),
        (
            "[diffusion]\nreweight_type = 'edm'\nreweight_options = {sigma_data = [1, 2]}",
            r"weighting edm: expected sigma_data to be a number, got \(1, 2\)",
        ),
        (
            "[diffusion]\ntime_density = 'lognormal'\ntime_options = {std = -1.0}",
            "time density lognormal: expected std > 0, got -1.0",
        ),
        (
            "[diffusion]\ntime_density = 'importance'\ntime_options = {weights = [1, -1]}",
            r"time density importance: expected weights > 0, got \(1, -1\)",
        ),
        ("[diffusion]\nlogsnr_min = 20.0", "expected logsnr_min < logsnr_max, got 20.0 and 20.0"),
        (
            "[diffusion]\nlogsnr_schedule = 'legacy'\nlogsnr_max = 9.0",
            "expected no logsnr_min or logsnr_max with the legacy schedule",
        ),
        ("[sample]\nvar_type = 'fixed_medium'", "expected intp_frac with var_type fixed_medium"),
        (
            "[sample]\nsampler = 'adaptive'\nsample_timesteps = 2\ntimes = [1, 0.5]",
            "expected a sampler that takes times, got adaptive, which chooses its steps itself",
        ),
    ],
)
def test_fault_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        loads(text)


def test_all_faults_are_named_at_once():
    text = "[train]\nsteps = 0\nlr = 'x'\nwarmpu = 1\n[model]\nhid_channels = 31\n[nope]\n"
    with pytest.raises(ValueError, match=r"^mine\.toml: ") as error:
        loads(text, "mine.toml")
    for name in ("steps", "lr", "warmpu", "hid_channels", "nope"):
        assert name in str(error.value)


def test_unset_values_may_be_unset():
    assert loads("[model]\n").model.embedding_dim is None
    assert "embedding_dim" not in dumps(Config())


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"unknown config 'digit', expected a preset \(.*digits"):
        load("digit")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none.toml does not exist; presets are .*digits"):
        load(str(tmp_path / "none.toml"))


def test_override_names_every_fault_at_once():
    with pytest.raises(
        ValueError, match="unknown setting stepps, expected steps.*; .*lr at least 0"
    ):
        override(load("digits"), {"stepps": 3, "lr": -1.0, "hid_channels": 64})
    with pytest.raises(ValueError, match="expected lr in 0..1000.0, got inf"):
        override(load("digits"), {"lr": float("inf")})
    # A norm of 0 would be that of every step.
    with pytest.raises(ValueError, match="expected grad_norm at least 1e-06, got 0.0"):
        override(load("digits"), {"grad_norm": 0})


# Networks that are not in the package, and tables of options.

OUTSIDE = "[model]\nnetwork = 'mine.nets:Small'\n"


def test_options_of_a_network_of_somebody_else_round_trip():
    given = "width = 16\nrate = 0.5\nname = 'x'\nbig = true\nsizes = [1, 2]\n"
    config = loads(f"{OUTSIDE}[model.options]\n{given}")
    options = {"width": 16, "rate": 0.5, "name": "x", "big": True, "sizes": (1, 2)}
    assert config.model.options == options
    assert config.model.network_options() == options
    assert loads(dumps(config)) == config
    assert "options" not in dumps(Config())


def test_the_network_is_named_by_a_word_or_from_outside():
    assert Config().model.network == "unet"
    assert loads(OUTSIDE).model.network_options() == {}
    unet = Config().model.network_options()
    assert unet["hid_channels"] == 128
    assert not {"network", "options", "guidance_range"} & unet.keys()


def test_the_range_of_guidance_is_given_to_any_network():
    text = "guidance_range = [0, 4]\n[distill]\nteacher_steps = 4"
    assert loads(OUTSIDE + text).model.network_options() == {"guidance_range": (0.0, 4.0)}
    assert loads("[model]\n" + text).model.network_options()["guidance_range"] == (0.0, 4.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[model]\nnetwork = 'unnet'",
            "expected network to be one of unet, transformer, or package.module:Name",
        ),
        ("[model]\nnetwork = 'a b:C'", "or package.module:Name, got 'a b:C'"),
        ("[model]\nnetwork = 3", "expected network to be one of unet, .*, got 3"),
        (
            "[model.options]\nwidth = 3\ndepth = 2",
            r"expected no \[model.options\] for network unet, whose options are the fields of "
            r"\[model\], got width, depth",
        ),
        (
            f"{OUTSIDE}hid_channels = 64",
            r"hid_channels belongs to the unet; options of network mine.nets:Small stand in "
            r"\[model.options\]",
        ),
        ("[model]\noptions = 3", "expected options to be a table of names and values, got 3"),
        (f"{OUTSIDE}options = {{a = {{b = 1}}}}", "expected options.a to be numbers, texts, true"),
        (f"{OUTSIDE}options = {{a = [[1]]}}", "expected options.a to be numbers, texts, true or"),
        (f"{OUTSIDE}options = {{a = {2**70}}}", "expected options.a to be numbers, texts, true or"),
        ("[sample]\nsampler = 'hoin'", "expected sampler to be one of ddim, .*, or package.module"),
        ("[diffusion]\nreweight_type = 'x'", "expected reweight_type to be one of constant, snr, "),
        (
            "[sample]\neta = 0.5\nsampler = 'ab2'",
            "expected eta 0 with sampler ab2, got 0.5; it bel",
        ),
        (
            "[sample]\nchurn = 0.1",
            "expected churn 0 with sampler abm2, got 0.1; it belongs to heun",
        ),
        ("[model]\nguidance_range = [4, 0]", "expected guidance_range to be the lowest and the hi"),
        ("[model]\nguidance_range = [0, 4]", "expected guidance_range with teacher_steps: only a "),
        (
            "[model]\nguidance_range = [0, 4]\n[distill]\nteacher_guidance = 1\nteacher_steps = 4",
            "expected teacher_guidance, one w, or guidance_range, many, got 1 and 0,4",
        ),
    ],
)
def test_fault_of_a_table_is_named(text, message):
    with pytest.raises(ValueError, match=message):
        loads(text)


def test_a_table_of_options_is_merged_key_by_key():
    base = loads(f"{OUTSIDE}[model.options]\nwidth = 16\nrate = 0.5\n")
    changed = override(base, {"options": {"rate": 1.0, "name": "x"}})
    assert changed.model.options == {"width": 16, "rate": 1.0, "name": "x"}
    assert base.model.options == {"width": 16, "rate": 0.5}
    timed = override(Config(), {"sample_timesteps": 2, "times": [1, 0.5]})
    assert override(timed, {"grid": "time"}).sample.times is None
    weighted = override(Config(), {"reweight_type": "p2", "reweight_options": {"gamma": 5.0}})
    assert weighted.diffusion.reweight_options == {"gamma": 5.0}
    assert override(weighted, {"lr": 1.0}).diffusion.reweight_options == {"gamma": 5.0}
    assert override(weighted, {"reweight_type": "snr"}).diffusion.reweight_options == {}
    legacy = override(Config(), {"logsnr_schedule": "legacy", "schedule_options": {"timesteps": 9}})
    assert override(legacy, {"lr": 1.0}).diffusion.schedule_options == {"timesteps": 9}
    assert override(legacy, {"logsnr_schedule": "flow"}).diffusion.schedule_options == {}
    with pytest.raises(ValueError, match="weighting p2 takes gamma, k, got gama"):
        override(Config(), {"reweight_type": "p2", "reweight_options": {"gama": 5.0}})


def test_another_network_leaves_the_options_of_the_one_before_behind():
    base = loads(f"{OUTSIDE}[model.options]\nwidth = 16\n")
    back = override(base, {"network": "unet", "hid_channels": 64})
    assert (back.model.options, back.model.hid_channels) == ({}, 64)
    away = override(back, {"network": base.model.network, "options": {"rate": 1.0}})
    assert away.model.options == {"rate": 1.0}
    with pytest.raises(ValueError, match="dropout belongs to the unet"):
        override(back, {"network": base.model.network, "dropout": 0.5})


def test_a_file_over_a_base_replaces_what_it_names():
    base = loads(f"{OUTSIDE}[model.options]\nwidth = 16\n[train]\nsteps = 3\n")
    merged = loads("[train]\nlr = 1.0\n", base=base)
    assert (merged.train.steps, merged.train.lr) == (3, 1.0)
    assert merged.model == base.model


# Configurations of earlier versions.


def test_the_range_of_guidance_stood_with_the_distillation():
    text = "[distill]\nteacher_steps = 4\nguidance_range = [0.0, 4.0]\n"
    config = loads(text)
    assert config.model.guidance_range == (0.0, 4.0)
    assert loads(dumps(config)) == config
    assert "guidance_range" not in dumps(config).partition("[distill]")[2]
    base = loads("[distill]\nteacher_steps = 4\n")
    assert loads("[distill]\nguidance_range = [0.0, 4.0]\n", base=base) == config


@pytest.mark.parametrize(("given", "trackers"), [("true", ("tensorboard",)), ("false", None)])
def test_tensorboard_was_a_switch(given, trackers):
    config = loads(f"[train]\ntensorboard = {given}\n")
    assert config.train.trackers == trackers
    assert "tensorboard =" not in dumps(config)
    assert loads(f"[train]\ntensorboard = {given}\n", base=loads("")) == config


def test_what_is_said_today_counts_more_than_what_was_said_then():
    text = "[model]\nguidance_range = [0, 2]\n[distill]\nteacher_steps = 4\nguidance_range = [0, 4]"
    assert loads(text).model.guidance_range == (0.0, 2.0)


def test_an_earlier_file_over_a_base_replaces_what_the_base_says():
    base = loads("[model]\nguidance_range = [0, 2]\n[distill]\nteacher_steps = 4\n")
    merged = loads("[distill]\nguidance_range = [0.0, 4.0]\n", base=base)
    assert merged.model.guidance_range == (0.0, 4.0)


@pytest.mark.parametrize("text", ["train = 3", "[nope]\na = 1", "[train]\nstepz = 1"])
def test_faults_of_a_file_over_a_base_are_named(text):
    with pytest.raises(ValueError, match=r"^mine.toml: (expected \[train\]|unknown)"):
        loads(text, "mine.toml", base=Config())


def test_trackers_are_a_list_of_words():
    assert loads("[train]\ntrackers = ['a', 'mine.logs:B']").train.trackers == ("a", "mine.logs:B")
    with pytest.raises(ValueError, match="expected trackers to be a list of str, got 'a'"):
        loads("[train]\ntrackers = 'a'")


def test_wrong_words_of_earlier_versions_are_still_wrong():
    with pytest.raises(ValueError, match="expected guidance_range to be a list of float, got 3"):
        loads("[distill]\nguidance_range = 3\n")
    with pytest.raises(ValueError, match=r"unknown key guidance_span in \[distill\], expected"):
        loads("[distill]\nguidance_span = 3\n")


def numbers():
    """Section, name, type and range of every numeric field, also in lists."""
    for section in SECTIONS:
        for name, (field, hint) in flat_fields(section).items():
            hint, _ = plain_hint(hint)
            item = get_args(hint)[0] if get_origin(hint) is tuple else hint
            if item in (int, float):
                yield section, name, hint, field.metadata["low"], field.metadata["high"]


def test_every_number_has_a_range():
    found = list(numbers())
    assert len(found) >= 50
    for _, name, hint, low, high in found:
        assert low is not None, name
        assert high is not None, name
        assert low < high, name
        assert isinstance(low, int | float), name
        assert math.isfinite(high), name
        if hint is int:
            assert isinstance(high, int), name


EXTREMES = ("1000000000", "1000000000000000000", "-1", "0", "nan", "inf", "1e308", "'text'", "true")


@pytest.mark.parametrize("text", EXTREMES)
def test_extreme_numbers_are_in_range_or_refused_in_one_line(text):
    """Of every section and every field, through the loader; in range means in the declared one."""
    value = tomllib.loads(f"x = {text}")["x"]
    number = isinstance(value, int | float) and not isinstance(value, bool)
    taken = 0
    for section, name, hint, low, high in numbers():
        listed = get_origin(hint) is tuple
        item = get_args(hint)[0] if listed else hint
        whole = isinstance(value, int)
        fits = number and (whole or item is float) and low <= value <= high
        given = f"[{text}]" if listed else text
        try:
            config = loads(f"[{section}]\n{name} = {given}\n", "mine.toml")
        except ValueError as error:
            message = str(error)
            assert message.startswith("mine.toml: ")
            assert name in message, message
            assert "\n" not in message, message
            assert len(message) < 250, message
        else:
            assert fits, (section, name, given)
            found = getattr(getattr(config, section), name)
            assert found == ((value,) if listed else value)
            taken += 1
    assert taken == 0 or number


def test_levels_of_the_unet_have_an_end():
    many = {"ch_multipliers": (1,) * 100, "apply_attn": (False,) * 100}
    with pytest.raises(ValueError, match="at most 12 levels in ch_multipliers, got 100"):
        override(Config(), many)


# Guidance away from other networks, averages of several lengths.


def test_settings_of_guidance_and_averages_round_trip():
    text = """
[train]
keep_at = [3, 800]
ema_profiles = [0.05, 0.1]
ema_snapshot_every = 7
[sample]
guidance_rule = "apg"
guidance_options = {momentum = -0.5, norm = 2}
guide_with = "800"
guide_weight = 0.5
zero_init = 1
[distill]
teacher_guide_with = "runs/weak"
teacher_guide_weight = 0
"""
    config = loads(text)
    assert loads(dumps(config)) == config
    assert config.train.keep_at == (3, 800)
    assert (config.sample.guide_step, config.train.snapshot_every) == (800, 7)
    usual = dumps(Config())
    new = ("keep_at", "ema_profiles", "guide_with", "guidance_options", "teacher_guide", "snapshot")
    assert not [name for name in new if name in usual]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[sample]\nguide_with = '800'",
            "expected step 800 of guide_with among those of keep_at, go",
        ),
        (
            "[train]\nkeep_at = [3]\n[sample]\nguide_with = '800'",
            "expected step 800 of guide_with among those of keep_at, got 3",
        ),
        (
            "[sample]\nguide_with = ''",
            "expected guide_with to be a text, got an empty one",
        ),
        ("[sample]\nguide_with = 800", "expected guide_with to be str, got 800"),
        ("[sample]\nguide_weight = 2", "expected guide_with beside guide_weight 2"),
        (
            "[sample]\nguide_with = 'a'\nguide_weight = -1",
            "expected guide_weight at least 0, got -1",
        ),
        (
            "[sample]\nguidance_rule = 'apgg'",
            "expected guidance_rule to be one of plain, zero_star, ",
        ),
        (
            "[sample]\nguidance_rule = 'apg'\nguidance_options = {eta = 1}",
            "guidance rule apg takes parallel, norm, momentum, got eta",
        ),
        (
            "[sample]\nguidance_options = {norm = 1}",
            "guidance rule plain takes no options, got norm",
        ),
        (
            "[sample]\nsample_timesteps = 3\ntimes = [1.0, 0.5, 0.5]",
            "expected times that fall, above 0, such as 1,0.7, got 1,0.5,0.5",
        ),
        ("[sample]\nzero_init = 16", "expected zero_init below the 16 steps of sampling, got 16"),
        (
            "[train]\nema_profiles = [0.05, 0.05]",
            "expected ema_profiles that differ, got 0.05, 0.05",
        ),
        ("[train]\nema_profiles = [0.5]", "expected ema_profiles in 0.005..0.28, got 0.5"),
        (
            "[train]\nema_profiles = []",
            r"expected ema_profiles to be a list of float, got \(\); for none leave it out",
        ),
        ("[train]\nema_snapshot_every = 3", "expected ema_profiles beside ema_snapshot_every 3"),
        ("[train]\nkeep_at = [0]", "expected keep_at at least 1, got 0"),
    ],
)
def test_faults_of_guidance_and_averages_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        loads(text)


def test_a_weight_of_nothing_asks_for_no_step():
    config = loads("[sample]\nguide_with = '800'\nguide_weight = 0")
    assert config.sample.guide_step is None
    for text in ("runs/800", "800a", "9" * 30, "²"):
        assert override(Config(), {"guide_with": text}).sample.guide_step is None


def test_another_rule_leaves_the_options_of_the_one_before_behind():
    base = loads("[sample]\nguidance_rule = 'apg'\nguidance_options = {norm = 2}\n")
    assert override(base, {"guidance_rule": "zero_star"}).sample.guidance_options == {}
    more = override(base, {"guidance_options": {"momentum": -0.5}}).sample.guidance_options
    assert more == {"norm": 2, "momentum": -0.5}
    own = override(base, {"guidance_rule": "mine.rules:Own", "guidance_options": {"x": 1}})
    assert own.sample.guidance_options == {"x": 1}


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "mine.toml").write_text("\ufeff[train]\nsteps = 7\n")
    assert load(str(tmp_path / "mine.toml")).train.steps == 7


@pytest.mark.parametrize(
    ("named", "message"),
    [
        (
            {"sample_timesteps": 2, "times": [1, 0.5], "grid": "logsnr"},
            "^expected grid or times, one in place of the other; leave out one$",
        ),
        ({"intp_frac": 0.3}, "^expected var_type fixed_medium with intp_frac, got fixed_small; "),
    ],
)
def test_what_is_named_and_not_used_is_refused(named, message):
    """In a file it may wait, as a share beside another variance does in imported runs."""
    with pytest.raises(ValueError, match=message):
        override(Config(), named)
    waiting = Config(sample=SampleConfig(**named))
    assert loads(dumps(waiting)) == waiting
    assert override(waiting, {"lr": 1.0}).sample == waiting.sample
    assert (
        override(Config(), {"intp_frac": 0.3, "var_type": "fixed_medium"}).sample.intp_frac == 0.3
    )
