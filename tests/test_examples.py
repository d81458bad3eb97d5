"""Scripts under examples/, end to end with a few steps."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.mark.slow
def test_latents_are_learned_trained_on_drawn_and_decoded(tmp_path):
    quick = ["--dataset", "digits", "--autoencoder-steps", "30", "--steps", "2", "--num", "20",
             "--width", "32"]  # fmt: skip
    command = [sys.executable, str(ROOT / "examples" / "latents.py"), "--out", "out", *quick]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    told = done.stderr + done.stdout
    assert "held-out pictures beside themselves" in told
    assert "PSNR" in told
    assert (tmp_path / "out" / "grid.png").is_file()
    assert 'dataset = "' in (tmp_path / "out" / "run" / "config.toml").read_text()
