"""A run as one file of this library."""

from pathlib import Path

from vfn.runs import export_model, find_checkpoint


def export_safetensors(run: str | Path, out: str | Path) -> str:
    """Write the averaged parameters of a run, with its configuration, to one file.

    Args:
        run: run directory, checkpoint or exported file.
        out: file.

    Returns:
        a line about what was written.

    Raises:
        ValueError: if there is no checkpoint, or one that a run goes on from is in its place.
        OSError: if it cannot be written.

    >>> export_safetensors(Path("no/run"), Path("model.safetensors"))
    Traceback (most recent call last):
    ValueError: checkpoint no/run does not exist; expected a run directory or a file
    """
    checkpoint = find_checkpoint(run)
    export_model(checkpoint, out)
    return f"{out}: EMA parameters of step {checkpoint.step}"
