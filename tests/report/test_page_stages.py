"""The stages of a distillation, begun or finished."""

import json
import re

from tests.helpers.pages import embedded, page_of


def test_stages_are_a_table_beside_the_teacher_s_picture(distilled):
    page = page_of(distilled)
    cells = [
        re.findall(r"<t[hd][^>]*>(?:<button[^>]*>)?([^<]*)<", row)
        for row in re.findall(r"<tr>.*?</tr>", page, flags=re.DOTALL)
    ]
    assert cells == [
        ["Steps", "Updates", "Loss", "Recall ↑", "Time"],
        ["32", "100", "0.5", "0.25", "1.5 min"],
        ["16", "10", "0.125", "–", "9 s"],
    ]
    shown = [distilled / "teacher.png", distilled / "steps-32/samples/step-00000100.png"]
    assert embedded(page) == [("png", path.read_bytes()) for path in shown]
    assert "A teacher of 64 steps of DDIM" in page
    assert "in 32, 16, 8, 4, 2, 1 steps: 2 of 6 stages are begun" in page
    assert "trained for" not in page


def test_stages_with_all_their_updates_are_finished(distilled):
    assert "2 of 6 stages are begun." in page_of(distilled)
    steps = (32, 16, 8, 4, 2, 1)
    rows = [{"student_steps": n, "updates": 10**6, "loss": 0.5} for n in steps]
    (distilled / "stages.json").write_text(json.dumps(rows))
    assert "6 of 6 stages are finished." in page_of(distilled)


def test_a_distillation_before_its_first_stage(distilled):
    (distilled / "stages.json").write_text("[]")
    assert "0 of 6 stages are begun" in page_of(distilled)
