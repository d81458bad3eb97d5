"""A run as a folder in the hub's layout, and folders pushed to the hub."""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from vfn import __version__
from vfn.configs import Config
from vfn.configs.settings import from_tables, override, to_tables
from vfn.files import (
    given_path,
    make_directory,
    shortened,
    shown,
    without_places,
    write_atomic,
    write_json,
)
from vfn.interop.card import card, check_licence
from vfn.interop.diffusers_export import check_empty
from vfn.progress import say
from vfn.runs import export_model, find_checkpoint
from vfn.runs.foreign import OF_A_PERSON, foreign_config
from vfn.runs.hub import HUB, WEIGHTS, hub_name, hub_package
from vfn.sampling import Trained, load


def export_hub(run: str | Path, out: str | Path, licence: str | None = None) -> str:
    """Write the averaged network of a run as a folder in the hub's layout.

    ``model.safetensors`` is a file of `vfn.runs.export_model`, which `vfn.load` takes by itself;
    ``config.json`` says the same for people and the hub's pages, ``README.md`` is a card.

    Args:
        run: run directory, checkpoint or exported file.
        out: folder, new or empty.
        licence: of the weights, for the card.

    Returns:
        a line about what was written.

    Raises:
        ValueError: if there is no such run, something in its place, or it is not what it was when
            it is opened again.
        OSError: if it cannot be written.

    >>> export_hub(Path("no/run"), Path("out"))
    Traceback (most recent call last):
    ValueError: checkpoint no/run does not exist; expected a run directory or a file
    """
    out = given_path(out)
    check_empty(out)
    check_licence(licence)
    checkpoint, trained = find_checkpoint(run), load(run, "cpu")
    checkpoint = checkpoint._replace(config=for_others(checkpoint.config))
    legend = checkpoint.shape.legend
    described = {
        "library": "vfn",
        "version": __version__,
        "step": checkpoint.step,
        "size": list(checkpoint.shape.size),
        "class_names": list(legend.names),
        "multitags": legend.tags,
        "config": to_tables(checkpoint.config),
    }
    make_directory(out.parent)
    with TemporaryDirectory(dir=out.parent, prefix=f".{out.name}.", suffix=".tmp") as temporary:
        folder = Path(temporary) / "made"
        export_model(checkpoint, folder / WEIGHTS)
        write_json(folder / "config.json", described)
        write_atomic(folder / "README.md", _card(trained, Path(run), licence))
        if load(folder / WEIGHTS, "cpu").digest != trained.digest:
            raise ValueError("what was written is not what the run has; nothing was kept")
        if out.is_dir():
            out.rmdir()
        folder.rename(out)
    return f"{out}: averaged parameters of step {checkpoint.step}, configuration and card"


def _card(trained: Trained, run: Path, licence: str | None) -> str:
    """A card whose lines draw what this network draws, given what it takes."""
    asked = "8, condition=CONDITION" if trained.conditioned else "8"
    told = f"  # CONDITION: {trained.conditioned}" if trained.conditioned else ""
    shape = trained.shape
    drawn = "pil()" if shape.values.dtype == "uint8" and shape.channels in (1, 3) else "images"
    use = (
        "```python\nimport vfn\n\n"
        'model = vfn.load("hf://OWNER/NAME")  # or the path of model.safetensors\n'
        f"model.sample({asked}).{drawn}{told}\n```"
    )
    return card(trained, run, "vfn", [("Use", use)], licence)


def for_others(config: Config) -> Config:
    """A configuration without what is of this machine: the hub shows it to everybody.

    A line tells if the hub's side would refuse to open it.

    Args:
        config: of a run.

    Returns:
        Config; of absolute paths the last two parts are left.

    >>> from vfn.configs import DataConfig
    >>> for_others(Config(data=DataConfig(dataset="/home/me/cats", data_dir="/data"))).data.dataset
    'me/cats'
    """
    tables = to_tables(override(config, dict.fromkeys(OF_A_PERSON)))
    shared = from_tables(_without_places(tables), "the configuration")
    try:
        foreign_config(shared, "it", "others have to name the file itself")
    except ValueError as error:
        say(f"as hf://owner/name nobody can open what is written: {error}")
    return shared


def _without_places(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_places(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_without_places(item) for item in value]
    return without_places(value) if isinstance(value, str) else value


def check_push(name: str) -> str:
    """Owner and name on the hub, of a text.

    Args:
        name: ``owner/name``, perhaps after ``hf://``.

    Returns:
        ``owner/name``.

    Raises:
        ValueError: for something else, or if huggingface_hub is missing.

    >>> check_push("me/digits")
    'me/digits'
    """
    found = hub_name(name if name.startswith(HUB) else f"{HUB}/{name}")
    assert found is not None
    if found[1] is not None:
        raise ValueError(f"expected owner/name without a revision to push to, got {shown(name)}")
    hub_package()
    return found[0]


def push(folder: str | Path, name: str) -> str:
    """Upload a folder to the hub, to a repository that is made where it is missing, private.

    Args:
        folder: as an export has written it.
        name: owner and name.

    Returns:
        a line about what was done.

    Raises:
        ValueError: if the hub refuses it, or offline mode forbids it.

    >>> push(Path("."), "only-a-name")
    Traceback (most recent call last):
    ValueError: expected hf://owner/name or hf://owner/name@revision, got 'hf://only-a-name'
    """
    name, hub = check_push(name), hub_package()
    if hub.constants.HF_HUB_OFFLINE:
        raise ValueError(f"HF_HUB_OFFLINE forbids to push to {name}; {folder} has it all")
    api = hub.HfApi()
    try:
        api.create_repo(name, private=True, exist_ok=True)
        api.upload_folder(
            repo_id=name, folder_path=folder, commit_message=f"Export by vfn {__version__}"
        )
    except Exception as error:  # what carries its requests has errors of its own
        why = shortened(" ".join(str(error).split()), 200)
        raise ValueError(f"the hub did not take {name}: {why}; {folder} has it all") from None
    return f"{folder} is at hf://{name}"
