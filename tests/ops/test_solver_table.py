"""The table of solvers: what an entry says is what its factory does."""

import inspect

import pytest
import torch

from vfn import ops

GRID = ops.logsnr_grid(ops.logsnr_schedule("cosine"), 4)
SETTINGS = {"eta": 0.5, "churn": 0.1, "tolerance": 0.1, "var_type": "fixed_large", "intp_frac": 0.3}
OUTSIDE = "tests.helpers.outside_math"


def denoise(z, logsnr):
    return torch.tanh(z + 0.1 * logsnr[:, None])


def draw(name, **options):
    z = torch.ones(2, 3, dtype=torch.float64)
    made = ops.sampler(name, **options)
    return made(denoise, z, GRID, noise=lambda i: torch.full_like(z, 0.1 * i + 0.1)).x0


def test_words_and_their_order():
    words = (
        "ddim, ancestral, heun, dpmpp_2m, dpmpp_2m_sde, dpmpp_3m, unipc, ab2, abm2, consistency, "
        "mean_flow, adaptive"
    )
    assert ops.SOLVERS.words() == words
    assert ops.SOLVERS.is_open


@pytest.mark.parametrize("name", ops.SOLVERS)
def test_factory_takes_what_the_entry_says(name):
    """Its options and what is bound, each by keyword with a default."""
    entry = ops.SOLVERS[name]
    factory = entry.load()
    parameters = inspect.signature(factory).parameters
    assert set(entry.options) | set(entry.bound) <= set(parameters)
    assert not set(entry.options) & set(entry.bound)
    assert all(p.default is not p.empty for p in parameters.values())
    assert factory.__name__ in ops.__all__
    assert len(entry.text) < 90
    assert "\n" not in entry.text


@pytest.mark.parametrize("name", ops.SOLVERS)
def test_every_option_counts_and_no_other_is_taken(name):
    plain = draw(name)
    for option, value in SETTINGS.items():
        if option not in ops.SOLVERS[name].options:
            with pytest.raises(ValueError, match=f"for solver {name}, got {option}$"):
                ops.sampler(name, **{option: value})
        elif option != "intp_frac":
            assert not torch.equal(draw(name, **{option: value}), plain)


def test_fraction_of_the_medium_variance_counts():
    low, high = (
        draw("ancestral", var_type="fixed_medium", intp_frac=fraction) for fraction in (0.1, 0.9)
    )
    assert not torch.equal(low, high)


def test_misspelt_settings_are_refused():
    with pytest.raises(ValueError, match="expected only churn for solver heun, got chrun"):
        ops.sampler("heun", chrun=0.1)
    with pytest.raises(ValueError, match="expected no settings for solver unipc, got eta"):
        ops.sampler("unipc", eta=0.1)


def test_a_solver_from_outside():
    assert torch.equal(draw(f"{OUTSIDE}:euler"), draw("ddim"))
    once = ops.sampler(f"{OUTSIDE}:straight_to_the_end")(denoise, torch.ones(2, 3), GRID)
    assert once.nfe == 1
    with pytest.raises(ValueError, match=r"no settings for solver tests\..*:euler, got eta"):
        ops.sampler(f"{OUTSIDE}:euler", eta=0.1)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("euler", r"unknown solver 'euler', expected one of ddim, .*, or package.module:Name"),
        (f"{OUTSIDE}:nothing", "there is no nothing in tests.helpers.outside_math"),
        (f"{OUTSIDE}:no_solver", "a function that returns a Solver or an Integrator, got None"),
        ("math:tau", "a function that returns a Solver or an Integrator, got 6.28"),
    ],
)
def test_what_is_no_solver_is_refused(name, message):
    with pytest.raises(ValueError, match=message):
        ops.sampler(name)


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("ddim", {"eta": 1.5}, r"expected eta in \[0, 1\], got 1.5"),
        ("heun", {"churn": 0.5}, r"expected churn in \[0, 0.4142\], got 0.5"),
        ("adaptive", {"tolerance": 0.0}, "expected tolerance > 0, got 0.0"),
        ("ancestral", {"var_type": "medium"}, "var_type to be one of fixed_small"),
        ("ddim", {"final": "end"}, "final to be one of x0, step"),
    ],
)
def test_settings_out_of_range_are_refused_before_a_step(name, options, message):
    with pytest.raises(ValueError, match=message):
        ops.sampler(name, **options)
