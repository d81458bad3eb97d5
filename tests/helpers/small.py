"""Options for a network so small that a step takes milliseconds."""

SMALL = [
    "--hid-channels", "32", "--ch-multipliers", "1", "--apply-attn", "false",
    "--num-res-blocks", "1", "--batch-size", "16", "--lr-schedule", "constant",
    "--sample-timesteps", "2", "--log-every", "1",
]  # fmt: skip
