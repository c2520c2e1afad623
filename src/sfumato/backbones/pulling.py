"""Downloads into the hub's cache: what `sfumato models pull` fetches."""

import errno
from collections.abc import Collection, Iterable
from pathlib import Path

from sfumato.backbones.checkpoints import (
    KOLORS,
    POWERPAINT_FILES,
    POWERPAINT_V2,
    POWERPAINT_V2_TEXT,
    check_file,
    components,
    read_json,
)
from sfumato.backbones.hub import EMBEDDED, HUB_ID, locate, single_file_repository
from sfumato.backbones.single_file import REPOSITORIES
from sfumato.errors import BackboneError, EditError, ModelNotFound, ResourceError, UnsafeCheckpoint

CONFIG_PATTERNS = ["*.json", "*/*.json", "*/*.txt"]


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
        if not HUB_ID.fullmatch(model):
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
