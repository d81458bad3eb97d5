"""Configurations from files and presets, there and back; those of earlier versions."""

import pytest

from vfn.configs import Config, dumps, load, loads, override, presets


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


def test_unset_values_may_be_unset():
    assert loads("[model]\n").model.embedding_dim is None
    assert "embedding_dim" not in dumps(Config())


def test_unknown_preset_is_refused():
    with pytest.raises(ValueError, match=r"unknown config 'digit', expected a preset \(.*digits"):
        load("digit")


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"none.toml does not exist; presets are .*digits"):
        load(str(tmp_path / "none.toml"))


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


def test_wrong_words_of_earlier_versions_are_still_wrong():
    with pytest.raises(ValueError, match="expected guidance_range to be a list of float, got 3"):
        loads("[distill]\nguidance_range = 3\n")
    with pytest.raises(ValueError, match=r"unknown key guidance_span in \[distill\], expected"):
        loads("[distill]\nguidance_span = 3\n")


def test_a_file_may_begin_with_a_byte_order_mark(tmp_path):
    (tmp_path / "mine.toml").write_text("\ufeff[train]\nsteps = 7\n")
    assert load(str(tmp_path / "mine.toml")).train.steps == 7
