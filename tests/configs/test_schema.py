"""Configurations: presets, round trips, and every fault named."""

import dataclasses

import pytest

from vfn.configs import Config, dumps, flat_fields, load, loads, override, presets
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
        ("[diffusion]\nlogsnr_schedule = 'cosin'", "cosine, linear, sigmoid, legacy, got 'cosin'"),
        ("[sample]\nsampler = 1", "expected sampler to be one of ddim, ancestral, heun, "),
        # ranges
        ("[train]\nsteps = 0", "expected steps at least 1, got 0"),
        ("[train]\nlr = -1e-3", "expected lr at least 0, got -0.001"),
        ("[train]\nlr = nan", "expected lr at least 0, got nan"),
        ("[train]\nbeta1 = 1.5", r"expected beta1 in 0..1, got 1.5"),
        ("[model]\ndropout = 1.0", r"expected dropout in 0..0.99, got 1.0"),
        ("[model]\nch_multipliers = [1, 0, 2]", "expected ch_multipliers at least 1, got 0"),
        ("[sample]\nguidance = -1", "expected guidance at least 0, got -1"),
        ("[diffusion]\nlogsnr_min = nan", "expected logsnr_min to be a number, got nan"),
        ("[data]\nimage_size = 32", "expected image_size to be a list of int, got 32"),
        ("[data]\nimage_size = [0]", "expected image_size at least 1, got 0"),
        ("[data]\ntest_share = 1.0", "expected test_share in 0..0.9, got 1.0"),
        ("[data]\non_bad = 'drop'", "expected on_bad to be one of refuse, skip, got 'drop'"),
        # combinations
        ("[data]\nimage_size = [1, 2, 3]", r"image_size to be height, width, got \[1, 2, 3\]"),
        ("[data]\ncrop = [1, 2, 3]", r"crop to be top, left, height, width, got \[1, 2, 3\]"),
        ("[data]\ncrop = [0, 0, 0, 9]", r"crop to be top, left, height, width, got \[0, 0, 0, 9\]"),
        ("[data]\nchannels = 2", "expected channels to be 1 or 3, got 2"),
        ("[model]\nhid_channels = 33", "hid_channels to be a multiple of 32, got 33"),
        (
            "[model]\napply_attn = [true]",
            "one value for each of the 3 levels of ch_multipliers, got 1",
        ),
        ("[diffusion]\nlogsnr_min = 20.0", "expected logsnr_min < logsnr_max, got 20.0 and 20.0"),
        (
            "[diffusion]\nlogsnr_schedule = 'legacy'\nlogsnr_max = 9.0",
            "expected no logsnr_min or logsnr_max with the legacy schedule",
        ),
        ("[sample]\nvar_type = 'fixed_medium'", "expected intp_frac with var_type fixed_medium"),
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
    with pytest.raises(ValueError, match="expected lr at least 0, got inf"):
        override(load("digits"), {"lr": float("inf")})
