"""Server settings: what the operator configures and no request can change."""

from dataclasses import dataclass, field, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sfumato.backbones.options import LoadOptions
from sfumato.errors import OptionError

MEBIBYTE = 2**20
DAY = 24 * 3600.0


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request, and all together, may cost.

    Args:
        body_bytes: Of a whole request.
        bodies_bytes: Of all requests that are being read or answered, which are held in memory; one more is answered 503.
        picture_bytes: Of one picture as it was uploaded.
        pixels: Of one picture, judged by its header before it is decoded, and of the result.
        decoded: Jobs whose pictures are decoded at once to be checked; the edits, one per device, decode theirs besides.
        predictions, steps: Of one job.
        prompt_characters: Of prompt and negative prompt, each.
        queue: Jobs waiting; one more is answered 429.
        queue_bytes: Pictures of all waiting jobs together, which are held in memory.
        job_seconds: Time a job may run before it is stopped.
        shutdown_seconds: Time the running job gets to finish when the server is stopped.
        keep_seconds, keep_bytes: How long, and how many bytes of, results are kept.
    """

    body_bytes: int = 320 * MEBIBYTE
    bodies_bytes: int = 1024 * MEBIBYTE
    picture_bytes: int = 160 * MEBIBYTE
    pixels: int = 70_000_000
    decoded: int = 2
    predictions: int = 16
    steps: int = 250
    prompt_characters: int = 4000
    queue: int = 64
    queue_bytes: int = 512 * MEBIBYTE
    job_seconds: float = 600.0
    shutdown_seconds: float = 10.0
    keep_seconds: float = 7 * DAY
    keep_bytes: int = 2048 * MEBIBYTE

    @classmethod
    def of(cls, **given: Any) -> "Limits":
        """Limits in which whole requests, and all together, have room for the largest picture as base64 with its mask."""
        limits = cls(**given)
        body = max(limits.body_bytes, 2 * limits.picture_bytes)
        return replace(
            limits,
            body_bytes=body,
            bodies_bytes=max(limits.bodies_bytes, 2 * body),
            queue_bytes=max(limits.queue_bytes, 2 * limits.picture_bytes),
        )


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """Where edits run, if not in this process: in replicas on Ray Serve.

    Args:
        address: Of a Ray cluster; one is started on this machine if None.
        replicas: How many; by default one per GPU, or one.
        min_replicas, max_replicas: As many as there is work for, within these; instead of `replicas`.
    """

    address: str | None = None
    replicas: int | None = None
    min_replicas: int | None = None
    max_replicas: int | None = None

    def check(self) -> None:
        """Refuse numbers that contradict each other.

        Raises:
            OptionError: option-contradiction.
        """
        if self.replicas is not None and (self.min_replicas is not None or self.max_replicas is not None):
            raise OptionError("Give --replicas, or --min-replicas and --max-replicas, not both.", code="option-contradiction")
        if self.min_replicas is not None and (self.max_replicas is None or self.max_replicas < self.min_replicas):
            raise OptionError("--min-replicas needs a --max-replicas that is not smaller.", code="option-contradiction")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The operator's choices.

    Args:
        data: Folder of the results; made when missing, readable by its owner alone.
        database: Address of a PostgreSQL database for the jobs, which servers may share together with the folder; by default they
            are kept in SQLite in the folder, for this server alone.
        models: Models that requests may name; the first is the default.
        aliases: Further names of those models for OpenAI's API, whose clients may insist on one: alias to model.
        devices: One worker each; None is the best device present.
        cluster: Edits run on Ray Serve; in this process if None.
        share: Most jobs that are sampled in one batch; by default 8 on an accelerator, and 1, which is none, on a CPU.
        load: How models are loaded; each worker's device takes the place of its own.
        vae, prediction_type, branch: As in `sfumato.Editor`, of the only model.
        control_models: ControlNets for the control pictures of requests, beside the only model.
        host, port: Where to listen.
        tokens: Secrets, one of which each request must carry; none are needed when this is empty.
        insecure: Listen beyond this machine without a token.
        hosts: Further names that this server may be called by.
        origins: Web origins whose pages may call this server (CORS).
        limits: What requests may cost.
    """

    data: Path
    database: str | None = None
    models: tuple[str, ...] = ("embedded",)
    aliases: dict[str, str] = field(default_factory=dict)
    devices: tuple[str | None, ...] = (None,)
    cluster: Cluster | None = None
    share: int | None = None
    load: LoadOptions = field(default_factory=LoadOptions)
    vae: str | None = None
    prediction_type: str | None = None
    branch: str | None = None
    control_models: tuple[str, ...] = ()
    host: str = "127.0.0.1"
    port: int = 7860
    tokens: tuple[str, ...] = ()
    insecure: bool = False
    hosts: tuple[str, ...] = ()
    origins: tuple[str, ...] = ()
    limits: Limits = field(default_factory=Limits)

    def check(self) -> None:
        """Refuse what would open this machine to others by accident, and aliases that mean nothing.

        Raises:
            OptionError: token-needed, token-weak, alias-invalid, origin-invalid, option-prediction-type; option-contradiction for
                an autoencoder, a prediction type or branches of many models.
        """
        if len(self.models) > 1 and (self.vae or self.prediction_type or self.branch or self.control_models):
            raise OptionError(
                "--vae, --prediction-type, --branch and --control-model belong to one model, but "
                f"{len(self.models)} are served: give one --model.",
                code="option-contradiction",
            )
        if self.cluster is not None:
            self.cluster.check()
            if len(self.devices) > 1:
                raise OptionError(
                    "On Ray each replica takes its own device: give one --device at most.", code="option-contradiction"
                )
        if self.prediction_type is not None:
            from sfumato.backbones.prediction import check_given

            check_given(self.prediction_type)
        if not is_loopback(self.host) and not self.tokens and not self.insecure:
            raise OptionError(
                f"Listening on {self.host} lets other machines in: give a --token, or --insecure if they all may use it.",
                code="token-needed",
            )
        if any(len(token) < 16 for token in self.tokens):
            raise OptionError("A token needs at least 16 characters, so that nobody guesses it.", code="token-weak")
        for alias, model in self.aliases.items():
            self._check_alias(alias, model)
        for origin in self.origins:
            _check_origin(origin)

    def _check_alias(self, alias: str, model: str) -> None:
        if model not in self.models:
            raise OptionError(
                f"--model-alias {alias}={model} means a model that is not served; name one of: {', '.join(self.models)}.",
                code="alias-invalid",
            )
        if not alias or alias in self.models:
            raise OptionError(
                f"--model-alias {alias}={model}: {alias!r} is not free to be an alias; choose another name.", code="alias-invalid"
            )


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach an address; a name other than localhost may mean anything."""
    if host == "localhost":
        return True
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _check_origin(origin: str) -> None:
    """Refuse what no browser ever sends as an origin, so that it could match nothing.

    Raises:
        OptionError: origin-invalid.
    """
    place = urlsplit(origin)
    sent = f"{place.scheme}://{place.netloc}".lower()
    if origin == "null" or (place.netloc and origin == sent):  # null is a page opened from a file
        return
    advice = f"give {sent}" if place.netloc else "give each as https://page.example, without a path"
    raise OptionError(f"--allow-origin {origin} is no origin as browsers send it: {advice}.", code="origin-invalid")
