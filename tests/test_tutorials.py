"""Tutorials: each runs in a short form, in order, and its page is of the script as it is."""

import re

import pytest

from docs.site.tutorials import FOLDER, NAMES, Output, cells, page, run
from vfn.progress import silence

# Fewer steps, pictures and settings, and a network that learns nothing.
TINY = {"hid_channels": 32, "ch_multipliers": (1,), "apply_attn": (False,), "num_res_blocks": 1,
        "batch_size": 16, "sample_timesteps": 2}  # fmt: skip
SHORT = {
    "mixture": {"POINTS": 40, "LINES": 2},
    "digits": {"STEPS": 40, "SETTINGS": TINY},
    "own_pictures": {"PICTURES": 60, "STEPS": 2, "SETTINGS": TINY},
    "guidance": {"PICTURES": 20, "WEIGHTS": [0.0, 1.0], "BUDGETS": [2, 4], "SETTINGS": TINY},
    "judging": {"PICTURES": 30, "BOOTSTRAP": 2, "SIZES": [20, 40], "SETTINGS": TINY},
}


def words(script):
    return (FOLDER / f"{script}.py").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Where all of them run: later ones use the run that an earlier one trained."""
    return tmp_path_factory.mktemp("tutorials")


@pytest.fixture(scope="module")
def outputs(place):
    """What every tutorial gave, in a short form."""
    with pytest.MonkeyPatch.context() as patch, silence():
        patch.setenv("MPLBACKEND", "Agg")
        patch.chdir(place)
        return {name: run(FOLDER / f"{name}.py", SHORT[name]) for name in NAMES}


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_a_tutorial_runs_and_draws(outputs, name):
    pictures = [picture for output in outputs[name] for picture in output.pictures]
    shown = re.findall(r"!\[.*?\]\((.*?)\)", (FOLDER / f"{name}.md").read_text(encoding="utf-8"))
    assert len(pictures) == len(shown) >= 1
    assert all((FOLDER / file).read_bytes()[1:4] == b"PNG" for file in shown)
    assert "".join(output.text for output in outputs[name])


@pytest.mark.slow
def test_what_the_mixture_says_holds(outputs):
    """Also of fewer points: the solver is near the exact flow, and the likelihood is right."""
    text = "".join(output.text for output in outputs["mixture"])
    assert float(re.search(r"is (\S+) away", text)[1]) < 0.1
    assert float(re.search(r"likelihood: (\S+) nats", text)[1]) < 0.05


@pytest.mark.slow
def test_a_copying_machine_is_found_out(outputs):
    text = outputs["judging"][-2].text
    copied, model = (float(share) for share in re.findall(r"'Memorised': '(\S+)'", text))
    assert copied > 0.5
    assert model < 0.5


@pytest.mark.parametrize("name", NAMES)
def test_the_page_is_of_the_script_as_it_is(name):
    written = (FOLDER / f"{name}.md").read_text(encoding="utf-8")
    bare, _ = page(name, words(name), [Output() for _ in cells(words(name))])
    shown = re.sub(r"```text\n.*?```\n\n|!\[.*?\]\(.*?\)\n\n", "", written, flags=re.DOTALL)
    assert shown == bare


def test_a_parameter_that_there_is_not_is_refused(tmp_path):
    script = tmp_path / "odd.py"
    script.write_text('# %% tags=["parameters"]\nSTEPS = 1\n')
    with pytest.raises(ValueError, match=r"expected parameters of odd\.py, got \['STEP'\]"):
        run(script, {"STEP": 2})
