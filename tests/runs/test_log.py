"""The log: whole lines count, a line that was cut off does not."""

import pytest

from vfn.runs import read_log, seconds_until


def test_entries_in_order(tmp_path):
    path = tmp_path / "log.jsonl"
    assert read_log(path) == []
    path.write_text('{"step": 1, "loss": 0.5}\n{"step": 2}\n')
    assert read_log(path) == [{"step": 1, "loss": 0.5}, {"step": 2}]


@pytest.mark.parametrize("cut", ['{"step": 3, "lo', '{"step": 3}'])
def test_a_last_line_that_was_cut_off_is_left_out(tmp_path, cut):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2}\n' + cut)
    assert read_log(path) == [{"step": 2}]


def test_a_line_that_was_written_whole_has_to_be_right(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2}\n{"step":\n{"step": 3}\n')
    with pytest.raises(ValueError, match="log.jsonl line 2 is not JSON: Expecting value"):
        read_log(path)


def test_how_long_a_training_took(tmp_path):
    path = tmp_path / "log.jsonl"
    assert seconds_until(path, 5) is None
    path.write_text('{"step": 1}\n{"step": 2, "seconds": 3.5}\n{"step": 4, "seconds": 6.0}\n')
    assert seconds_until(path, 1) is None
    assert seconds_until(path, 3) == 3.5
    assert seconds_until(path, 9) == 6.0
