"""Settings of table entries: defaults, refusals, and what functions from outside take."""

import pytest
import torch

from vfn.parametric import Parametric, check_options, keywords


def positional(a, b, *, scale, shift=0.0):
    return a, b, scale, shift


def defaulted(a, gamma=1.0):
    return a, gamma


def anything(a, **parameters):
    return a, parameters


ENTRY = Parametric(parameters={"gamma": 5.0, "weights": (1.0,)}, positive=("gamma", "weights"))


def test_settings_that_are_not_taken_are_named():
    check_options("solver heun", {"churn": 0.1}, ("churn",))
    check_options("solver heun", {}, ())
    with pytest.raises(ValueError, match=r"expected no settings for solver ab2, got eta, churn$"):
        check_options("solver ab2", ("eta", "churn"), ())
    with pytest.raises(ValueError, match="expected only churn, eta for it, got chrun$"):
        check_options("it", {"chrun": 0.1, "eta": 1}, ("churn", "eta"))


def test_defaults_fill_what_is_not_given():
    assert ENTRY.filled("it", defaulted, {}) == {"gamma": 5.0, "weights": (1.0,)}
    assert ENTRY.filled("it", defaulted, {"gamma": 2}) == {"gamma": 2, "weights": (1.0,)}
    assert ENTRY.parameters == {"gamma": 5.0, "weights": (1.0,)}


@pytest.mark.parametrize(
    "given", [{"gamma": 0}, {"gamma": -1.0}, {"gamma": float("nan")}, {"weights": [1.0, 0.0]}]
)
def test_what_must_be_positive(given):
    with pytest.raises(ValueError, match=f"expected {next(iter(given))} > 0, got "):
        ENTRY.filled("it", defaulted, given)


def test_tensors_are_not_waited_for():
    weights = torch.tensor([1.0, -1.0])
    assert ENTRY.filled("it", defaulted, {"weights": weights})["weights"] is weights


def test_keywords_of_a_function():
    assert keywords(positional) == ("scale", "shift")
    assert keywords(defaulted) == ("gamma",)
    assert keywords(anything) is None


def test_a_function_from_outside_takes_its_own():
    outside = Parametric(parameters=None)
    assert outside.filled("it", defaulted, {"gamma": 2}) == {"gamma": 2}
    assert outside.filled("it", anything, {"x": 2}) == {"x": 2}
    with pytest.raises(ValueError, match="expected only gamma for weighting a:b, got gama"):
        outside.filled("weighting a:b", defaulted, {"gama": 2})


def test_counts_are_whole_numbers():
    """Written as floats, too; tensors are left alone."""
    entry = Parametric(parameters={"updates": 3, "own": 0}, whole=("updates", "own"),
                       within={"updates": (1, 9), "own": (0, 1)})  # fmt: skip
    assert entry.faults({"updates": 4, "own": 1.0}) == []
    assert entry.faults({"updates": torch.tensor(2.5)}) == []
    assert entry.faults({"updates": 2.5}) == ["expected updates to be a whole number, got 2.5"]
    assert entry.faults({"own": 0.5}) == ["expected own to be a whole number, got 0.5"]
    assert entry.faults({"updates": 12}) == ["expected updates in 1..9, got 12"]
    assert entry.faults({"updates": float("inf")}) == ["expected updates in 1..9, got inf"]
    assert len(entry.faults({"updates": float("nan")})) == 1
