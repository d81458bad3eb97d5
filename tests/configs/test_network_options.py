"""Networks that are not in the package, and tables of options."""

import pytest

from vfn.configs import Config, dumps, loads, override

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
