"""A hundred digits, and options for a network so small that a step takes milliseconds."""

from pathlib import Path

# Held-out pictures of a larger data set would take most of a test's time.
DIGITS = str(Path(__file__).parents[1] / "golden" / "digits.npz")
TRAINED_ON = 90  # of them

SMALL = [
    "--hid-channels", "32", "--ch-multipliers", "1", "--apply-attn", "false",
    "--num-res-blocks", "1", "--batch-size", "16", "--lr-schedule", "constant",
    "--sample-timesteps", "2", "--log-every", "1",
]  # fmt: skip
