"""Charts in words and tables, for those who cannot see them."""

from tests.helpers.pages import page_of, values_of
from tests.helpers.reported import write_log


def test_a_chart_of_losses_can_be_heard(run):
    """Alt text, and a table of some steps with the ends."""
    page = page_of(run)
    alt = (
        "Curves of training loss and held-out loss over steps: training loss from 0.05 at step 20 "
        "to 0.00125 at step 800, least 0.00125 at step 800; held-out loss from 0.25 at step 400 "
        "to 0.125 at step 800, least 0.125 at step 800"
    )
    assert f'alt="{alt}"' in page
    heads, first, *_, last = values_of(page, "Losses by step")
    assert [heads[1:], first, last] == [
        [["training", "loss"], ["held-out", "loss"]],
        [["20"], ["0.05"], ["–"]],
        [["800"], ["0.00125"], ["0.125"]],
    ]
    levels = values_of(page, "Held-out loss by log-SNR")
    assert levels[1] == [["-20", "..", "0"], ["1"]]


def test_a_long_curve_has_a_short_table(bare):
    write_log(bare, [{"step": step, "loss": 1.0} for step in range(1, 2001)])
    rows = values_of(page_of(bare), "Losses by step")
    assert (rows[1][0], rows[-1][0]) == (["1"], ["2,000"])
    assert len(rows) < 40
