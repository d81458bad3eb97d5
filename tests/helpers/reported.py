"""An evaluation, and the pictures of a run, as the report finds them."""

import json

from vfn.runs import RunFiles

EVALUATION = {
    "title": "guidance 0",
    "settings": {"guidance": 0.0, "sampler": "ddim", "steps": 64, "eta": None},
    "metrics": [
        {
            "name": "Fréchet distance",
            "value": 0.0391834,
            "reference": 0.084,
            "better": "lower",
            "note": "reference: two halves of the real pictures",
        },
        {"name": "accuracy", "value": 1, "better": "higher"},
    ],
    "loss_by_logsnr": [
        {"low": -20.0, "high": 0.0, "loss": 1.0, "count": 3},
        {"low": 0.0, "high": 10.0, "loss": 0.1, "count": 3},
        {"low": 10.0, "high": 20.0, "loss": 0.2, "count": 3},
    ],
    "command": "vfn eval --guidance 0 && echo done",
}
PICTURES = ("sample/grid.png", "sample/denoising.webp", "sweep/sweep.png")


def write_log(run, lines):
    """The log of a run."""
    RunFiles(run).log.write_text("".join(json.dumps(line) + "\n" for line in lines))
