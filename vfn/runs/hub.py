"""Networks on the Hugging Face Hub: ``hf://owner/name`` wherever a run or checkpoint is named."""

import os
import re
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from vfn.files import shortened, shown
from vfn.runs.directory import HUB
from vfn.tables import how_to_install

WEIGHTS = "model.safetensors"
# A path has lost one of the two slashes.
_NAMED = re.compile(r"hf:/{1,2}([\w.-]+/[\w.-]+?)(?:@([\w./-]+))?/?")


def hub_name(path: str | Path) -> tuple[str, str | None] | None:
    """Owner and name, and the revision after ``@``, that a text or path stands for.

    Args:
        path: such as ``hf://owner/name`` or ``hf://owner/name@v1``.

    Returns:
        both; None for a path of files.

    Raises:
        ValueError: if it begins with ``hf:`` and goes on otherwise.

    >>> hub_name("hf://me/digits@v1"), hub_name(Path("hf://me/digits")), hub_name("runs/a")
    (('me/digits', 'v1'), ('me/digits', None), None)
    """
    text = path.as_posix() if isinstance(path, Path) else path
    if not text.startswith(HUB):
        return None
    found = _NAMED.fullmatch(text)
    if found is None:
        raise ValueError(f"expected hf://owner/name or hf://owner/name@revision, got {shown(text)}")
    return found[1], found[2]


def hub_package() -> Any:
    """The package huggingface_hub.

    Returns:
        it.

    Raises:
        ValueError: if it is not installed.
    """
    if find_spec("huggingface_hub") is None:
        raise ValueError(
            "the hub needs huggingface_hub, which is not installed; install it with: "
            f"{how_to_install('hub')}"
        )
    import huggingface_hub
    import huggingface_hub.constants  # noqa: F401 - the face of the package does not import it

    return huggingface_hub


def hub_file(name: str, revision: str | None = None) -> Path:
    """The file of a network on the hub, downloaded where it is not kept yet.

    Args:
        name: owner and name.
        revision: branch, tag or commit; the main branch if None.

    Returns:
        its place in huggingface_hub's cache.

    Raises:
        ValueError: if there is none, or it is not kept and ``HF_HUB_OFFLINE`` or ``VFN_OFFLINE``
            forbids a download.
    """
    hub = hub_package()
    offline = bool(os.environ.get("VFN_OFFLINE")) or hub.constants.HF_HUB_OFFLINE
    try:
        found = hub.hf_hub_download(name, WEIGHTS, revision=revision, local_files_only=offline)
    except (OSError, ValueError) as error:  # of the network, of missing and refused files
        why = (
            "it is not kept here, and offline mode forbids a download"
            if offline
            else shortened(" ".join(str(error).split()), 200)
        )
        at = f"@{revision}" if revision else ""
        raise ValueError(f"hf://{name}{at} has no {WEIGHTS} for us: {why}") from None
    return Path(found)
