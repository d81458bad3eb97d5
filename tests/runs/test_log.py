"""The log: whole lines count, a line that was cut off does not."""

import random

import numpy as np
import pytest

from vfn.runs import read_log, read_stages, seconds_until
from vfn.runs.log import overfits_since


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


def test_values_that_are_not_finite_are_left_out(tmp_path):
    """Logs of earlier versions have NaN and Infinity, which JSON has not."""
    path = tmp_path / "log.jsonl"
    lines = '{"step": 1, "loss": NaN, "seconds": -Infinity, "grad_norm": 1e999}\n{"step": 2, '
    path.write_text(lines + '"loss": null, "loss_by_logsnr": [1, null, NaN]}\n')
    assert read_log(path) == [{"step": 1}, {"step": 2, "loss_by_logsnr": [1, None, None]}]


BAD = ["{}", "[]", "3", "null", "NaN", '"text"', "[" * 100_000, "", "\ufeff{}", '{"step": null}',
       '{"step": 1.5}', '{"step": true}', '{"step": -1}', f'{{"step": {10**400}}}',
       f'{{"step": {"9" * 5000}}}', '{"step": "1"}', '{"step": 1, "loss": "0.5"}',
       '{"step": 1, "seconds": {}}', '{"step": 1, "loss": true}',
       '{"step": 1, "loss_by_logsnr": ["a"]}', '{"step": 1, "loss": [[1]]}',
       '{"step": 1, "\\u0007": "x"}']  # fmt: skip


def test_a_step_of_a_log_is_a_whole_number(tmp_path):
    (tmp_path / "log.jsonl").write_text('{"step": 20, "seconds": 1.5}\n')
    assert seconds_until(tmp_path / "log.jsonl", np.int64(20)) == 1.5
    for step in ("20", 20.5, None):
        with pytest.raises(ValueError, match="expected step to be a whole number"):
            seconds_until(tmp_path / "log.jsonl", step)


@pytest.mark.parametrize("line", BAD, ids=range(len(BAD)))
def test_anything_else_is_refused_in_one_line(tmp_path, line):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n' + line + "\n")
    with pytest.raises(ValueError, match="log.jsonl line 2") as caught:
        read_log(path)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 300 + len(str(path))
    rows = tmp_path / "stages.json"
    for text in (line.replace('"step"', '"student_steps"'), f"[{line}]"):
        if text == "[]":
            continue
        rows.write_text(text)
        with pytest.raises(ValueError, match="stages.json") as caught:
            read_stages(rows)
        assert str(caught.value).isprintable()


@pytest.mark.slow
def test_ten_thousand_damaged_logs_end_in_a_line_or_are_read(tmp_path):
    """Bytes changed, cut, doubled and replaced by words of JSON."""
    rng = random.Random(0)
    good = b'{"step": 1, "loss": 0.5, "bins": [1, null]}\n{"step": 2, "seconds": 3.5}\n'
    words = [b"NaN", b"null", b"{}", b"[]", b'"x"', b"1e999", b"9" * 400, b"\xff", b"\n", b"[[["]
    log, stages = tmp_path / "log.jsonl", tmp_path / "stages.json"
    for _ in range(10_000):
        text = bytearray(good)
        for _ in range(rng.randint(1, 4)):
            at = rng.randrange(len(text) + 1)
            text[at : at + rng.choice((0, 1, 8))] = rng.choice([rng.randbytes(1), *words])
        for path, read in ((log, read_log), (stages, read_stages)):
            path.write_bytes(bytes(text))
            try:
                read(path)
            except ValueError as error:
                assert str(error).isprintable()  # noqa: PT017


def test_a_line_of_the_step_itself_counts(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 2, "seconds": 3.5}\n{"step": 4, "seconds": 6.0}\n')
    assert [seconds_until(path, step) for step in (1, 2, 4)] == [None, 3.5, 6.0]


def test_a_run_that_diverges_late_does_not_overfit():
    """Its loss is still below that of the first steps, and above that of as many steps before."""
    held_out = {500: 0.5, 1000: 0.4, 1500: 0.6}
    training = {100: 9.0, 200: 5.0, 300: 1.0, 900: 0.4, 1200: 0.7}
    assert overfits_since(training, held_out) is None
    assert overfits_since({**training, 1200: 0.3}, held_out) == 1000
