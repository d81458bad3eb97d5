"""Evaluations are printed, written and read, those of earlier versions too, and compared."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from vfn.evaluation.record import Evaluation, compare, is_number, not_finite, read_evaluation
from vfn.evaluation.sides import HALVES, Figure
from vfn.ops import Interval

FIGURES = [
    Figure("frechet_distance", "Fréchet distance (pixels)", 0.5, 0.25, "lower", "of means", HALVES,
           Interval(0.375, 0.625), None, "too few", Interval(0.2, 0.3)),
    Figure("kernel_distance", "Kernel distance (pixels)", 0.125, None, "lower", "over all", HALVES,
           error=0.0625),
    Figure("Brightness", "Brightness", 2.0),
]  # fmt: skip
EVALUATION = Evaluation(
    FIGURES,
    {"guidance": 0.5, "extractor": "pixels"},
    [{"low": -20.0, "high": 0.0, "loss": 0.25, "count": 3}],
    [Figure("bits_flow", "probability flow", 5.0, better="lower", note="128 steps", error=0.5)],
    command="vfn eval",
)
TABLE = """\
                           pictures  reference
Fréchet distance (pixels)    0.5000     0.2500  lower is better, 95 % 0.3750 .. 0.6250, \
reference 95 % 0.2000 .. 0.3000
Kernel distance (pixels)     0.1250             lower is better, ± 0.0625
Brightness                   2.0000
reference: two halves of the real pictures against each other (Fréchet distance (pixels))
Fréchet distance (pixels): too few

           logsnr  held-out loss
 -20.00 ..   0.00  0.2500

bits per dimension of held-out pictures
probability flow  5.0000 ± 0.5000  (128 steps)"""
# As an earlier version wrote it, without keys.
OLD = {
    "title": "Evaluation at guidance 0.5",
    "settings": {"guidance": 0.5, "extractor": "inception"},
    "metrics": [
        {"name": "FID", "value": 4.0, "reference": 2.0, "better": "lower",
         "note": f"of means; reference: {HALVES}", "baseline": HALVES,
         "interval": [3.0, 5.0], "error": None},
        {"name": "FID, infinite", "value": 3.0, "reference": None, "better": "lower",
         "note": "extrapolated", "baseline": HALVES, "interval": None, "error": 0.5},
        {"name": "Label agreement", "value": 0.5},
        {"name": "Something else", "value": 1},
    ],
    "loss_by_logsnr": [],
    "bits_per_dim": [{"name": "bound, discrete", "value": 5.0, "error": 0.5, "note": "256 steps"}],
    "command": "vfn eval",
}  # fmt: skip


def test_the_table():
    assert EVALUATION.table() == TABLE
    assert EVALUATION.title == "Evaluation at guidance 0.5"
    assert Evaluation().table() == ""
    assert Evaluation().title == "Evaluation"
    assert EVALUATION.figure("bits_flow").value == 5


def test_what_is_written_is_read_back(tmp_path):
    path = tmp_path / "new" / "m.json"
    EVALUATION.write(path)
    found = read_evaluation(path)
    bits = [EVALUATION.bits_per_dim[0]._replace(better="lower")]  # which files do not tell
    assert found == Evaluation(
        EVALUATION.figures, EVALUATION.settings, EVALUATION.loss_by_logsnr, bits, command="vfn eval"
    )
    record = json.loads(path.read_text())
    assert [*record] == [*OLD]
    assert record["metrics"][0]["name"] == "Fréchet distance (pixels)"
    assert record["metrics"][0]["note"] == f"of means; reference: {HALVES}"


def test_files_of_earlier_versions_get_todays_keys(tmp_path):
    path = tmp_path / "old.json"
    path.write_text(json.dumps(OLD))
    found = read_evaluation(path)
    keys = ["frechet_distance", "frechet_distance_infinite", "label_agreement", "Something else"]
    assert [figure.key for figure in found.figures] == keys
    assert found.figures[0] == Figure(
        "frechet_distance", "FID", 4.0, 2.0, "lower", "of means", HALVES, Interval(3.0, 5.0)
    )
    assert found.bits_per_dim[0].key == "bits_bound_discrete"
    assert found.command == "vfn eval"
    path.write_text(json.dumps({"metrics": [{"name": "Fréchet distance (pixels)", "value": 1}]}))
    assert read_evaluation(path).figures[0].key == "frechet_distance"
    assert read_evaluation(path).title == "old"


@pytest.mark.parametrize(
    "text",
    [
        "", "[]", "5", '{"settings": 1}', '{"metrics": 1}', '{"metrics": [{"name": "FID"}]}',
        '{"metrics": [{"name": 1, "value": 1}]}', '{"metrics": [{"name": "a", "value": true}]}',
        '{"metrics": [{"name": "a", "value": 1, "interval": [1]}]}',
        '{"metrics": [{"name": "a", "value": 1, "error": "x"}]}',
        '{"metrics": [{"name": "a", "value": NaN}]}', '{"settings": {"a": 1e999}}',
        '{"metrics": [{"name": "a", "value": 1' + 400 * "0" + "}]}", '{"title": "\\ud800"}',
        '{"metrics": [{"name": "a", "value": 1, "reference_interval": 5}]}', '"' + 9999 * "a" + '"',
        '{"loss_by_logsnr": [{"low": 1}]}', '{"bits_per_dim": [5]}', "[" * 100_000,
    ],
)  # fmt: skip
def test_a_malformed_file_is_named_in_one_line(tmp_path, text):
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(
        ValueError, match="x.json (holds no evaluation: exp|is not JSON)"
    ) as refusal:
        read_evaluation(path)
    assert len(str(refusal.value).splitlines()) == 1
    assert len(str(refusal.value)) < 600


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ValueError, match="no.json cannot be read: No such file"):
        read_evaluation(tmp_path / "no.json")


def test_a_comparison_is_in_the_order_of_a_setting():
    some = {
        f"{w}.json": Evaluation([Figure("frechet_distance", "FID", v)], {"guidance": w})
        for w, v in ((1.5, 3.0), (0.0, 2.0))
    }
    some["9.json"] = Evaluation([Figure("recall", "Recall", 0.5)], {"guidance": 9})
    lines = [line.split() for line in compare(some).splitlines()]
    assert lines == [
        ["guidance", "FID", "Recall", "file"], ["0", "2.0000", "0.0.json"],
        ["1.5", "3.0000", "1.5.json"], ["9", "0.5000", "9.json"],
    ]  # fmt: skip
    assert compare([*some.values()]).splitlines()[0].split() == ["guidance", "FID", "Recall"]
    with pytest.raises(ValueError, match="1.5.json has no number 'step' among its settings"):
        compare(some, "step")


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**20), 10**20) | st.floats() | st.text()
    | st.just(10**400) | st.characters(categories=["Cs"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)  # fmt: skip
ROWS = st.lists(
    st.dictionaries(
        st.sampled_from([
            "key", "name", "value", "reference", "better", "note", "baseline", "interval", "error",
            "warning", "reference_interval", "low", "high", "loss", "count",
        ]),
        st.sampled_from(["a", 0.5, [0, 1]]) | VALUES,
    ) | VALUES,
    max_size=3,
)  # fmt: skip


@pytest.mark.slow
@settings(max_examples=500, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.fixed_dictionaries({}, optional={
    "title": VALUES, "settings": st.dictionaries(st.sampled_from(["guidance", "step"]), VALUES) |
    VALUES, "metrics": ROWS | VALUES, "loss_by_logsnr": ROWS | VALUES, "bits_per_dim": ROWS,
    "command": VALUES,
}) | VALUES)  # fmt: skip
def test_any_file_is_read_and_shown_or_refused(tmp_path, value):
    path = tmp_path / "x.json"
    path.write_text(json.dumps(value))
    message, found = "", None
    try:
        found = read_evaluation(path)
    except ValueError as error:
        message = str(error)
    if found is None:
        assert str(path) in message
        assert len(message.splitlines()) == 1
        return
    found.table().encode()
    if is_number(found.settings.get("guidance")):
        compare([found])
    found.write(path)
    assert read_evaluation(path).figures == found.figures


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"figures": [Figure("a", "A", float("nan"))]}, "got value nan of A$"),
        ({"figures": [Figure("a", "A", 1.0, float("inf"))]}, "got reference inf of A$"),
        (
            {"figures": [Figure("a", "A", 1.0, interval=Interval(0.0, float("nan")))]},
            "got high end of interval nan of A$",
        ),
        ({"bits_per_dim": [Figure("b", "B", -float("inf"))]}, "got value -inf of B$"),
        (
            {"loss_by_logsnr": [{"low": -20.0, "high": 0.5, "loss": float("nan"), "count": 3}]},
            r"got value nan of held-out loss at logsnr -20 \.\. 0.5$",
        ),
    ],
)
def test_figures_that_are_not_finite_are_not_written(tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        Evaluation(**change).write(tmp_path / "m.json")
    assert list(tmp_path.iterdir()) == []


def test_an_unknown_error_is_written_as_none(tmp_path):
    Evaluation([Figure("a", "A", 1.0, error=float("nan"))]).write(tmp_path / "m.json")
    assert read_evaluation(tmp_path / "m.json").figures[0].error is None


@pytest.mark.parametrize("name", ["interval", "reference_interval"])
@pytest.mark.parametrize("end", ["low", "high"])
def test_ends_of_both_intervals_have_to_be_finite(name, end):
    """JSON has no number for others, and no file would be read with them."""
    interval = Interval(0.0, 1.0)._replace(**{end: float("nan")})
    figure = Figure("recall", "Recall", 0.5, 0.5, **{name: interval})
    assert not_finite([FIGURES[0]]) == ""
    assert not_finite([figure]) == f"{end} end of {name} nan of Recall"
