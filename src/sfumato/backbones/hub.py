"""The local model cache: its contents, and the only command that downloads into it.

An edit never downloads: it finds a model in the cache or says which command fetches it.
"""

import errno
import os
import re
import sys
from collections.abc import Callable, Collection, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

from sfumato.backbones.checkpoints import (
    KOLORS,
    PICKLE_SUFFIXES,
    POWERPAINT_FILES,
    POWERPAINT_V2,
    POWERPAINT_V2_TEXT,
    check_file,
    check_no_branch,
    components,
    folder_family,
    holds_branch,
    holds_model,
    read_json,
)
from sfumato.backbones.headers import read_header
from sfumato.backbones.prediction import read_marks
from sfumato.backbones.single_file import ALTERNATIVES, REPOSITORIES, check_kind, family_of, repository_of
from sfumato.errors import BackboneError, EditError, ModelNotFound, ResourceError, UnsafeCheckpoint

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
CONFIG_PATTERNS = ["*.json", "*/*.json", "*/*.txt"]
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*(@[\w./-]+)?")


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
    looks_like_file = path.suffix in {".safetensors", *PICKLE_SUFFIXES}
    if looks_like_file or not _HUB_ID.fullmatch(model):
        raise ModelNotFound(
            f"There is no model '{model}'; give 'embedded', a folder in diffusers' format, a .safetensors file, or a hub id "
            "(OWNER/NAME)."
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
    if path.suffix in {".safetensors", *PICKLE_SUFFIXES} or not _HUB_ID.fullmatch(branch):
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


def pull(model: str, revision: str | None = None, *, allow_pickle: bool = False) -> Path:
    """Download a model into the cache, as far as it is needed; what is there already is not fetched again.

    Args:
        model: A hub id (OWNER/NAME or OWNER/NAME@REVISION), of which only safe weights, configurations and vocabularies are
            fetched; or a local .safetensors file, for which the configuration files it needs are fetched.
        revision: Branch, tag or commit.
        allow_pickle: Whether weights that are published only as pickles may be fetched.

    Returns:
        The folder in the cache.

    Raises:
        ModelNotFound: If the hub has no such model, or it may not be read.
        UnsafeCheckpoint: If some weights are published only as pickles and they are not allowed.
        ResourceError: If the disk is full.
        BackboneError: If the hub cannot be reached.
    """
    from huggingface_hub import snapshot_download

    path = Path(model).expanduser()
    if model in EMBEDDED or path.is_dir():
        return locate(model)
    try:
        if path.is_file():
            check_file(path, allow_pickle=allow_pickle)
            return Path(snapshot_download(single_file_repository(path), allow_patterns=CONFIG_PATTERNS))
        if not _HUB_ID.fullmatch(model):
            raise ModelNotFound(f"'{model}' is neither a hub id (OWNER/NAME) nor a local .safetensors file.")
        repository, _, tagged = model.partition("@")
        return _pull_repository(repository, revision or tagged or None, allow_pickle)
    except EditError:
        raise
    except Exception as error:  # the hub's transport library, and so its errors, differs between versions
        raise _failure(model, error) from error


def _failure(model: str, error: Exception) -> EditError:
    """What the user can do about a download that failed."""
    from huggingface_hub.errors import OfflineModeIsEnabled, RepositoryNotFoundError, RevisionNotFoundError

    if isinstance(error, RepositoryNotFoundError | RevisionNotFoundError):
        return ModelNotFound(f"The hub has no model '{model}' that you may read; check its name, or log in with: hf auth login")
    if isinstance(error, OfflineModeIsEnabled):
        return BackboneError(f"'{model}' cannot be fetched offline; run without --offline.", code="model-offline")
    if isinstance(error, OSError) and error.errno == errno.ENOSPC:
        return ResourceError(f"The disk is full, so '{model}' was not fetched; free some space and run the command again.")
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    return BackboneError(f"'{model}' could not be fetched ({reason}); check the network and run the command again.")


def _pull_repository(repository: str, revision: str | None, allow_pickle: bool) -> Path:
    from huggingface_hub import HfApi, hf_hub_download, snapshot_download

    files = HfApi().list_repo_files(repository, revision=revision)
    if set(POWERPAINT_FILES) <= set(files):  # whose other parts are its base's
        _pull_repository(REPOSITORIES["sd1-inpainting"], None, allow_pickle)
        return Path(snapshot_download(repository, revision=revision, allow_patterns=list(POWERPAINT_FILES)))
    parts = None
    if "model_index.json" in files:
        parts = components(read_json(Path(hf_hub_download(repository, "model_index.json", revision=revision))))
    elif {"text_encoder/tokenizer.model", "unet/config.json"} <= set(files):
        parts = [*components(KOLORS), "scheduler"]
    elif any(file.startswith(f"{POWERPAINT_V2}/") for file in files):
        parts = [POWERPAINT_V2, *POWERPAINT_V2_TEXT]
    wanted = wanted_files(files, parts, allow_pickle=allow_pickle)
    text = f"{POWERPAINT_V2}/pytorch_model.bin"  # as published, where the branch itself is no pickle
    if text in files and not any(file.startswith(POWERPAINT_V2_TEXT[0]) for file in files):
        wanted += [f"{POWERPAINT_V2}/{name}" for name in _weights(POWERPAINT_V2, ["pytorch_model.bin"], allow_pickle)]
    return Path(snapshot_download(repository, revision=revision, allow_patterns=wanted))


def wanted_files(files: Iterable[str], parts: Collection[str] | None, *, allow_pickle: bool) -> list[str]:
    """Files of a repository that a model needs: no copies in other formats or precisions, no unused components.

    Args:
        files: All files of the repository.
        parts: Its pipeline's components, or None for a repository of one model, such as a CLIP ranker.
        allow_pickle: Whether pickles are taken where there is nothing else.

    Raises:
        UnsafeCheckpoint: If a component has only pickles and they are not allowed.
    """
    folders: dict[str, list[str]] = {part: [] for part in ("", *(parts or ()))}
    for file in files:
        folder, _, name = file.rpartition("/")
        if folder in folders:
            folders[folder].append(name)
    wanted: list[str] = []
    for folder, names in folders.items():
        chosen = [name for name in names if name.endswith((".json", ".txt", ".model", ".jinja"))]
        if folder or parts is None:  # next to the components of a pipeline, weights are a copy in one file
            chosen += _weights(folder, names, allow_pickle)
        wanted += [f"{folder}/{name}" if folder else name for name in chosen]
    return sorted(wanted)


def _weights(folder: str, names: list[str], allow_pickle: bool) -> list[str]:
    safe = [name for name in names if name.endswith(".safetensors")]
    plain = [name for name in safe if name.count(".") == 1]
    if safe:
        return plain or [name for name in safe if ".fp16" in name]
    pickled = [name for name in names if name.endswith(".bin") and name.count(".") == 1]
    if pickled and not allow_pickle:
        where = f" of '{folder}'" if folder else ""
        raise UnsafeCheckpoint(
            f"The weights{where} are published only as pickles ({pickled[0]}), which can run code when they are read; "
            "choose another model, or --allow-pickle if you trust its author."
        )
    return pickled


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
