"""The schema: each setting has its help and its range, and every fault is named."""

import dataclasses
import math
import tomllib
from typing import get_args, get_origin

import pytest

from vfn.configs import Config, flat_fields, loads, override
from vfn.configs.fields import plain_hint
from vfn.configs.schema import SECTIONS


def test_names_of_settings_are_unique():
    """They are options without their section."""
    count = sum(len(dataclasses.fields(section)) for section in SECTIONS.values())
    assert len(flat_fields(*SECTIONS)) == count


def test_every_setting_has_a_help_text():
    assert all(field.metadata["help"] for field, _ in flat_fields(*SECTIONS).values())


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


def test_trackers_are_a_list_of_words():
    assert loads("[train]\ntrackers = ['a', 'mine.logs:B']").train.trackers == ("a", "mine.logs:B")
    with pytest.raises(ValueError, match="expected trackers to be a list of str, got 'a'"):
        loads("[train]\ntrackers = 'a'")


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
