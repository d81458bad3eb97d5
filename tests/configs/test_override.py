"""Settings over a configuration replace what they name, and what belonged to it."""

import pytest

from vfn.configs import Config, SampleConfig, dumps, load, loads, override


def test_override_replaces_only_what_is_named():
    base = load("digits")
    changed = override(base, {"lr": 0.5, "guidance": 2.0})
    assert (changed.train.lr, changed.sample.guidance) == (0.5, 2.0)
    assert override(changed, {"lr": base.train.lr, "guidance": base.sample.guidance}) == base
    assert base == load("digits")


def test_override_checks():
    with pytest.raises(ValueError, match="expected batch_size at least 1, got 0"):
        override(Config(), {"batch_size": 0})


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


def test_another_rule_leaves_the_options_of_the_one_before_behind():
    base = loads("[sample]\nguidance_rule = 'apg'\nguidance_options = {norm = 2}\n")
    assert override(base, {"guidance_rule": "zero_star"}).sample.guidance_options == {}
    more = override(base, {"guidance_options": {"momentum": -0.5}}).sample.guidance_options
    assert more == {"norm": 2, "momentum": -0.5}
    own = override(base, {"guidance_rule": "mine.rules:Own", "guidance_options": {"x": 1}})
    assert own.sample.guidance_options == {"x": 1}


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
