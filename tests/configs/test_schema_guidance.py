"""Guidance away from other networks, averages of several lengths."""

import pytest

from vfn.configs import Config, dumps, loads, override


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
