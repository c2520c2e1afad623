"""Models on this machine: those that ship, and the hub's cache.

An edit never downloads: it finds a model here or says which command fetches it (`pulling.py`).
"""

import os
import re
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sfumato.backbones.checkpoints import (
    PICKLE_SUFFIXES,
    check_no_branch,
    folder_family,
    holds_branch,
    holds_model,
)
from sfumato.backbones.headers import read_header
from sfumato.backbones.prediction import read_marks
from sfumato.backbones.single_file import ALTERNATIVES, check_kind, family_of, repository_of
from sfumato.errors import ModelNotFound

WEIGHTS = Path(__file__).parents[1] / "embedded" / "weights"
EMBEDDED = {  # models that ship, and where below WEIGHTS
    "embedded": ".",
    "embedded-pixel": "pixel",
    "embedded-flow": "flow",
    "embedded-fast": "fast",
    "embedded-inpainting": "inpainting",
    "embedded-powerpaint": "powerpaint",
    "embedded-smartbrush": "smartbrush",
    "embedded-glide": "glide",
}
TRAINED: dict[str, tuple[str, str | None]] = {  # family, and task that it was trained for besides
    "embedded-inpainting": ("embedded", "inpainting"),
    "embedded-powerpaint": ("embedded", "inpainting"),
    "embedded-smartbrush": ("embedded", "SmartBrush"),
    "embedded-glide": ("embedded-glide", "inpainting"),
}
BRANCHES = {  # branches of "embedded" that ship, and where below WEIGHTS
    "embedded-brushnet": "brushnet",
    "embedded-powerpaint-v2": "powerpaint-v2",
    "embedded-controlnet": "controlnet",
}
HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


def go_offline() -> None:
    """Keep this process from the network, whether or not huggingface_hub (which reads its setting once) is already loaded."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if "huggingface_hub" in sys.modules:
        from huggingface_hub import constants

        constants.HF_HUB_OFFLINE = True


def is_shipped(folder: str | Path | None, name: str) -> bool:
    """Whether a folder is that of a model that ships, by whatever path it was given."""
    return bool(folder) and Path(str(folder)).resolve() == (WEIGHTS / EMBEDDED[name]).resolve()


def locate(model: str) -> Path:
    """The folder or file of a model: 'embedded', a path, or a hub id (OWNER/NAME, OWNER/NAME@REVISION) in the cache.

    Raises:
        ModelNotFound: model-not-found for a path that is not there; model-not-cached for an id that is not in the cache.
    """
    if model in EMBEDDED:
        folder = WEIGHTS / EMBEDDED[model]
        if not folder.is_dir():
            raise ModelNotFound(
                f"The weights of '{model}' are missing here; install sfumato again, or make them as docs/training.md says."
            )
        return folder
    path = Path(model).expanduser()
    if path.exists():
        return path
    looks_like_file = path.suffix in {".safetensors", ".gguf", *PICKLE_SUFFIXES}
    if looks_like_file or not HUB_ID.fullmatch(model):
        raise ModelNotFound(
            f"There is no model '{model}'; give 'embedded', a folder in diffusers' format, a .safetensors or .gguf file, or a "
            "hub id (OWNER/NAME)."
        )
    return cached_snapshot(model)


def ships(name: str) -> bool:
    """Whether the weights of a model or branch with this name are in the package."""
    folder = (EMBEDDED | BRANCHES).get(name)
    return folder is not None and (WEIGHTS / folder).is_dir()


def locate_branch(branch: str) -> Path:
    """The folder or file of a branch: one that ships, a path, or a hub id in the cache.

    Raises:
        ModelNotFound: model-not-found, or model-not-cached.
    """
    if branch in BRANCHES:
        folder = WEIGHTS / BRANCHES[branch]
        if not folder.is_dir():
            raise ModelNotFound(f"The weights of '{branch}' are missing here; make them as docs/training.md says.")
        return folder
    path = Path(branch).expanduser()
    if path.exists():
        return path
    if path.suffix in {".safetensors", *PICKLE_SUFFIXES} or not HUB_ID.fullmatch(branch):
        raise ModelNotFound(
            f"There is no branch '{branch}'; give a folder with config.json, a .safetensors file, or a hub id (OWNER/NAME)."
        )
    return cached_snapshot(branch, holds=holds_branch)


def cached_snapshot(model: str, *, needed_by: str | None = None, holds: Callable[[Path], bool] = holds_model) -> Path:
    """The cached folder of a hub id, found without the network.

    Args:
        model: OWNER/NAME or OWNER/NAME@REVISION.
        needed_by: The single file whose configuration this is, to be named in the error.
        holds: Whether it holds what is wanted.

    Raises:
        ModelNotFound: model-not-cached.
        Unsupported: For a ControlNet or BrushNet.
    """
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    repository, _, revision = model.partition("@")
    try:
        folder = Path(snapshot_download(repository, revision=revision or None, local_files_only=True))
    except LocalEntryNotFoundError:
        folder = None
    if folder is not None:
        if holds(folder):
            return folder
        check_no_branch(folder)
    if needed_by is not None:
        message = (
            f"'{needed_by}' needs the configuration files of '{model}' (about 2 MB), which are not on this machine; "
            f"fetch them with: sfumato models pull {needed_by}"
        )
    else:
        message = f"Model '{model}' is not on this machine; fetch it with: sfumato models pull {model}"
    raise ModelNotFound(message, code="model-not-cached")


def single_file_repository(path: Path) -> str:
    """The hub id whose configuration files a single checkpoint file needs, detected from its header.

    Raises:
        Unsupported: If the file holds no text-to-image model of a family that we support; says what it holds.
    """
    header = read_header(path)
    check_kind(header)
    return repository_of(header, read_marks(header, family_of(header)))


def single_file_configuration(path: Path, repository: str) -> Path:
    """The cached folder of a single file's configuration, or of one that is as good.

    Raises:
        ModelNotFound: model-not-cached.
    """
    for other in ALTERNATIVES.get(repository, ()):
        with suppress(ModelNotFound):
            return cached_snapshot(other)
    return cached_snapshot(repository, needed_by=str(path))


def cached_models() -> list[dict[str, Any]]:
    """Models on this machine.

    Returns:
        Of each its name, family (None for one that is not for editing, such as a ranker), the task that it was trained for
        (text-to-image or inpainting; None where that is no question), bytes and folder.
    """
    from huggingface_hub import CacheNotFound, constants, scan_cache_dir

    rows: list[dict[str, Any]] = []
    for name, below in EMBEDDED.items():
        home = WEIGHTS / below
        if home.is_dir():
            size = sum(path.stat().st_size for path in home.rglob("*") if path.is_file())
            of, trained_for = TRAINED.get(name, (name, None))
            rows.append({"name": name, "family": of, "trained_for": trained_for, "bytes": size, "path": str(home)})
    try:
        repositories = scan_cache_dir(constants.HF_HUB_CACHE).repos
    except CacheNotFound:
        return rows
    for repository in sorted(repositories, key=lambda found: found.repo_id):
        if repository.repo_type != "model" or not repository.revisions:
            continue
        newest = max(repository.revisions, key=lambda found: ("main" in found.refs, found.last_modified))
        folder = Path(newest.snapshot_path)
        family, task = folder_family(folder) or (None, None)
        row = {"name": repository.repo_id, "family": family, "trained_for": task, "bytes": repository.size_on_disk}
        rows.append({**row, "path": str(folder)})
    return rows
