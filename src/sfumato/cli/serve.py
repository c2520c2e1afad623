"""`sfumato serve`: runs the web page and the HTTP APIs until interrupted."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import typer

from sfumato.errors import OptionError, ResourceError


def run(
    models: Sequence[str],
    aliases: Sequence[str],
    tokens: Sequence[str],
    data: Path | None,
    database: str | None,
    limits: dict[str, Any],
    cluster: dict[str, Any] | None,
    **options: Any,
) -> None:
    """Serve until a signal comes.

    Args:
        models: Models that requests may name; the embedded one by default. Each must be on this machine.
        aliases: Further names of them for OpenAI's API, each ALIAS=MODEL.
        tokens: Secrets; SFUMATO_TOKEN by default, so that none need be seen in the list of processes.
        data: Folder of the results; the user's own by default.
        database: Address of a PostgreSQL database; SFUMATO_DATABASE by default, as it may hold a password.
        limits: Those of `sfumato.server.settings.Limits` that are not the default.
        cluster: Fields of `sfumato.server.settings.Cluster`, if edits run on one.
        options: Further fields of `sfumato.server.settings.Settings`.

    Raises:
        OptionError: alias-invalid.
        ResourceError: extra-missing, or what `sfumato.server.run.serve` raises.
    """
    try:
        from sfumato.server.run import serve
        from sfumato.server.settings import Cluster, Limits, Settings
    except ModuleNotFoundError as error:
        raise ResourceError(
            f"The server needs further packages ({error.name}); install them with: pip install 'sfumato[server]'",
            code="extra-missing",
        ) from error
    from sfumato.backbones.hub import locate, locate_branch
    from sfumato.backbones.vae import find_vae

    for model in models:
        locate(model)
    if options.get("vae"):
        find_vae(options["vae"])
    for branch in (options.get("branch"), *options.get("control_models", ())):
        if branch:
            locate_branch(branch)
    environment = os.environ.get("SFUMATO_TOKEN")
    settings = Settings(
        models=tuple(models) or ("embedded",),
        aliases=_pairs(aliases),
        tokens=tuple(tokens) or ((environment,) if environment else ()),
        data=data or data_folder(),
        database=database or os.environ.get("SFUMATO_DATABASE") or None,
        limits=Limits.of(**{name: value for name, value in limits.items() if value is not None}),
        cluster=None if cluster is None else Cluster(**cluster),
        **options,
    )
    settings.check()
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    logging.getLogger("sfumato.server").setLevel(logging.INFO)
    serve(settings, lambda address: _say(address, bool(settings.tokens)))


def cluster_of(engine: str, **given: Any) -> dict[str, Any] | None:
    """What was said about the cluster, or None if edits run in this process.

    Raises:
        OptionError: option-engine, option-contradiction.
    """
    if engine not in ("local", "ray"):
        raise OptionError(f"--engine {engine} is unknown; choose local or ray.", code="option-engine")
    if engine == "ray":
        return given
    names = [f"--{name.replace('_', '-')}" for name, value in given.items() if value is not None]
    if names:
        raise OptionError(f"{', '.join(names)} means replicas on Ray: add --engine ray.", code="option-contradiction")
    return None


def _pairs(aliases: Sequence[str]) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in aliases:
        alias, equals, model = text.partition("=")
        if not equals or pairs.get(alias, model) != model:
            what = "means two models" if equals else "is not of the form ALIAS=MODEL"
            raise OptionError(f"--model-alias {text} {what}; give for example gpt-image-2=embedded.", code="alias-invalid")
        pairs[alias] = model
    return pairs


def _say(address: str, needs_token: bool) -> None:
    typer.echo(f"sfumato is at {address}  (stop with Ctrl-C)")
    if needs_token:
        typer.echo("The page asks for the token; programs send it as: Authorization: Bearer TOKEN")
    sys.stdout.flush()


def data_folder() -> Path:
    """Default folder of the results: the user's data folder, by the convention of the system."""
    if sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA", Path.home() / "AppData" / "Local"))
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "sfumato" / "server"
