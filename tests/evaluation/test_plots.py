"""Which evaluations make a line, and that every figure has its panel."""

import matplotlib.figure
import pytest

from vfn.evaluation.plots import draw_figures, lines_against, write_plot
from vfn.evaluation.record import Evaluation
from vfn.evaluation.sides import Figure


def point(settings, **figures):
    return Evaluation([Figure(name, name, value) for name, value in figures.items()], settings)


SWEEP = [
    point(
        {"guidance": w, "sample_timesteps": steps, "step": 9, "train_seconds": 5.0 + w}, FID=w
    )
    for w in (2, 0, 1)
    for steps in (8, 4)
]  # fmt: skip


def test_a_line_differs_in_one_setting_and_is_in_its_order():
    lines = lines_against(SWEEP, "guidance")
    assert list(lines) == [f"sampling steps {k}, training step 9" for k in (8, 4)]
    for line in lines.values():
        assert [each.settings["guidance"] for each in line] == [0, 1, 2]
    assert len(lines_against(SWEEP, "sample_timesteps")) == 3


def test_time_goes_with_the_step():
    points = [point({"step": k, "train_seconds": 2.0 * k, "guidance": 0}) for k in (3, 1)]
    for against in ("step", "train_seconds"):
        assert lines_against(points, against) == {"guidance 0": points[::-1]}


def test_evaluations_without_the_setting_are_left_out():
    points = [point({"guidance": v}, FID=1.0) for v in (None, True, "x", 2.0)]
    assert lines_against(points, "guidance") == {"": points[3:]}


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_every_figure_has_a_panel_with_its_points(kind, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        matplotlib.figure.Figure, "savefig", lambda page, *_, **__: drawn.append(page)
    )
    names = ["FID", "KID", "Precision", "Recall", "Density"]
    points = [point({"guidance": w}, **{n: w + i for i, n in enumerate(names)}) for w in (1, 0)]
    points.append(point({"guidance": 2}, FID=5.0))
    draw_figures(points, "guidance", kind)
    panels = {axes.get_title(): axes.lines[0] for axes in drawn[0].axes}
    assert list(panels) == names
    assert panels["FID"].get_xydata().tolist() == [[0, 0], [1, 1], [2, 5]]
    assert panels["Recall"].get_xydata().tolist() == [[0, 3], [1, 4]]


@pytest.mark.parametrize(
    ("kind", "start"), [("png", b"\x89PNG"), ("svg", b"<?xml"), ("pdf", b"%PDF")]
)
def test_the_file_is_of_its_kind_and_the_same_again(kind, start):
    one, two = (draw_figures(SWEEP, "guidance", kind) for _ in range(2))
    assert one.startswith(start)
    assert kind == "svg" or one == two


def test_a_plot_is_written(tmp_path):
    write_plot(tmp_path / "p.png", SWEEP)
    assert (tmp_path / "p.png").stat().st_size > 1000
    with pytest.raises(ValueError, match="expected --plot to end in .png, .svg or .pdf, got"):
        write_plot(tmp_path / "p.gif", SWEEP)
    with pytest.raises(ValueError, match="evaluations with figures and a number 'x', got none"):
        write_plot(tmp_path / "q.png", SWEEP, "x")
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


def test_titles_are_no_formulas_and_endless_numbers_are_left_out():
    def evaluation(guidance, value):
        return Evaluation([Figure("a", "$\\frac{ costs", value)], {"guidance": guidance})

    some = [evaluation(0.0, 1.0), evaluation(1.0, 1e305), evaluation(2.0, 3.0)]
    assert draw_figures(some, "guidance", "png").startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("key", "values", "least", "most"),
    [
        ("precision", (0.0, 0.0, 0.0), 0, None),
        ("label_agreement", (0.075, 0.075, 0.075), 0, 100),
        ("label_agreement", (0.9, 1.0, 1.0), None, 100),
        ("recall", (0.0, 0.1, 1.0), 0, None),
        ("kernel_distance", (-0.01, 0.01, 0.3), None, None),
    ],
)
def test_axes_show_no_values_that_a_figure_cannot_have(key, values, least, most, monkeypatch):
    drawn = []
    monkeypatch.setattr(
        "matplotlib.figure.Figure.savefig", lambda self, *_, **__: drawn.append(self)
    )
    line = [Evaluation([Figure(key, key, v)], {"guidance": w}) for w, v in enumerate(values)]
    draw_figures(line, "guidance", "png")
    bottom, top = drawn[0].axes[0].get_ylim()
    scale = 100 if key == "label_agreement" else 1
    assert bottom <= min(values) * scale < top
    assert max(values) * scale <= top
    assert bottom >= (0 if min(values) >= 0 else -1)
    assert least is None or bottom == least
    assert most is None or top <= most
