"""The parts of `sfumato train`: one row each, with what it is trained on and begins with."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from sfumato.cli.train_checkpoint import Checkpoint
from sfumato.errors import InputError

SIZES = ("small", "large")
JUDGE_SHARDS, JUDGE_HELD_OUT, JUDGE_IMAGE = 56, 4, 128  # renders of its own, 250 pairs a shard


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a training call.

    Args:
        folder: Holds `scenes` and a folder for each part.
        minutes: Of this call; each part has its own default.
        resume: Go on from the part's checkpoint.
        device: cpu or cuda.
        size: Of the denoiser and the scenes: small for two CPU cores (128 px), the default, large for a GPU (256 px). For a
            checkpoint, pixels; its own by default.
        data: Folder of pictures with captions to train on instead of scenes, for the parts that can be.
        start_from: Folder of weights to begin with; the shipped ones are "embedded".
        shards, held_out: Thousands of scenes to train on, and to measure on.
        workers: Processes; one a core by default.
        lr: Peak learning rate; each part has its own default.
        cooldown: Share of the minutes over which the learning rate falls.
        checkpoint: What is trained instead of the embedded model.
    """

    folder: Path
    minutes: float | None
    resume: bool
    device: str
    size: str | None
    data: Path | None
    start_from: str | None
    shards: int
    held_out: int
    workers: int | None
    lr: float | None
    cooldown: float | None
    checkpoint: Checkpoint

    def shape(self) -> Any:
        """The embedded denoiser's."""
        from sfumato.training.denoiser import SIZES as SHAPES

        return SHAPES[self.size or SIZES[0]]


@dataclass(frozen=True, kw_only=True)
class PartCard:
    """The row of one part: its trainer's module, which is loaded when the part is trained.

    Args:
        name, module: As said; the module has a function `train`.
        minutes: By default.
        given: What the part is trained on and begins with: arguments of `train` besides those that all parts have.
        render: Makes pictures of the part's own before it is trained, in so many processes.
        takes_data: Whether it can be trained on a user's pictures, with --data.
    """

    name: str
    module: str
    minutes: float
    given: Callable[[Settings], dict[str, Any]]
    render: Callable[[Settings, int], None] = lambda settings, workers: None
    takes_data: bool = False

    def load(self) -> Callable[..., None]:
        """Import the module and give its function."""
        function: Callable[..., None] = import_module(self.module).train
        return function


def _weights(settings: Settings, part: str = "") -> Path | None:
    """The folder of the weights to begin with."""
    if settings.start_from is None:
        return None
    from sfumato.backbones.hub import WEIGHTS

    return (WEIGHTS if settings.start_from == "embedded" else Path(settings.start_from)) / part


def _teacher(settings: Settings) -> Path:
    teacher = _weights(settings) or settings.folder / "denoiser" / "model"
    if not (teacher / "unet").exists():
        raise InputError(
            f"There is no denoiser in {teacher}: train one with `sfumato train denoiser`, or pass --start-from embedded.",
            code="no-denoiser",
        )
    return teacher


def _autoencoder(settings: Settings) -> Path:
    """The autoencoder that was trained in this folder, or the one that belongs to the weights to start from."""
    trained = settings.folder / "autoencoder" / "model"
    found = trained if trained.exists() else _weights(settings, "vae")
    if found is None or not found.exists():
        raise InputError(
            f"There is no autoencoder in {trained}: train one with `sfumato train autoencoder`, or pass --start-from embedded.",
            code="no-autoencoder",
        )
    return found


def _scenes(settings: Settings) -> dict[str, Any]:
    return {"scenes": settings.folder / "scenes"}


def _denoiser(settings: Settings) -> dict[str, Any]:
    chosen = {"data": settings.data, "size": settings.shape(), "start_from": _weights(settings)}
    return _scenes(settings) | {"vae": _autoencoder(settings)} | chosen


def _adapter(settings: Settings, shipped: str) -> dict[str, Any]:
    from sfumato.embedded.adapter import FILE

    weights = _weights(settings, shipped)
    start = weights and weights / FILE
    return _scenes(settings) | {"model": _teacher(settings), "vae": _autoencoder(settings), "start": start}


def _masked(settings: Settings, shipped: str) -> dict[str, Any]:
    return _adapter(settings, shipped) | {"data": settings.data}


def _after(settings: Settings, shipped: str, sibling: str) -> dict[str, Any]:
    """As `_masked`, but begun as a sibling where there is no adapter of its own: that of this folder, or the shipped one."""
    from sfumato.embedded.adapter import FILE

    given, other = _masked(settings, shipped), _weights(settings, sibling)
    found = [given["start"], settings.folder / sibling / "model" / FILE, other and other / FILE]
    return given | {"start": next((file for file in found if file is not None and file.exists()), None)}


def _glide(settings: Settings) -> dict[str, Any]:
    pixel = _weights(settings, "pixel") or settings.folder / "pixel" / "model"
    if not (pixel / "unet").exists():
        raise InputError(
            f"There is no pixel model in {pixel}: train one with `sfumato train pixel`, or pass --start-from embedded.",
            code="no-pixel-model",
        )
    return _masked(settings, "glide") | {"pixel": pixel}


def render_scenes(settings: Settings, workers: int) -> None:
    """Render what most parts are trained on, as far as it is not there."""
    from sfumato.training.scenes import render, render_shard

    size = settings.shape().image
    render(render_shard, settings.folder / "scenes", settings.shards, settings.held_out, size, workers, typer.echo)


def _render_pairs(settings: Settings, workers: int) -> None:
    from sfumato.training.pairs import render_pairs
    from sfumato.training.scenes import render

    render(render_pairs, settings.folder / "pairs", JUDGE_SHARDS, JUDGE_HELD_OUT, JUDGE_IMAGE, workers, typer.echo)


def _render_others(settings: Settings, workers: int) -> None:
    from sfumato.embedded.world.split import OTHERS
    from sfumato.training.ranker import OTHER_SHARDS
    from sfumato.training.scenes import render, render_shard, training_shards

    training_shards(settings.folder / "scenes")  # refuses before the others are rendered
    one, size = partial(render_shard, part=OTHERS), settings.shape().image
    render(one, settings.folder / "others", OTHER_SHARDS, 1, size, workers, typer.echo)


def _masked_card(name: str, minutes: float, sibling: str | None = None) -> PartCard:
    """The row of a method that sees the mask, whose adapter may begin as a sibling's."""
    given = partial(_masked, shipped=name) if sibling is None else partial(_after, shipped=name, sibling=sibling)
    module = f"sfumato.training.{name.replace('-', '_')}"
    return PartCard(name=name, module=module, minutes=minutes, given=given, takes_data=True)


CARDS: tuple[PartCard, ...] = (
    PartCard(
        name="autoencoder",
        module="sfumato.training.autoencoder",
        minutes=8.0,
        given=lambda settings: _scenes(settings) | {"start_from": _weights(settings, "vae")},
    ),
    PartCard(
        name="plain-decoder",
        module="sfumato.training.autoencoder",
        minutes=10.0,
        given=lambda settings: _scenes(settings) | {"start_from": _autoencoder(settings), "decoder_only": True},
    ),
    PartCard(
        name="decoder",
        module="sfumato.training.decoder",
        minutes=30.0,
        given=lambda settings: _scenes(settings) | {"start_from": _autoencoder(settings)},
    ),
    PartCard(name="denoiser", module="sfumato.training.denoiser", minutes=60.0, given=_denoiser, takes_data=True),
    PartCard(name="flow", module="sfumato.training.flow", minutes=20.0, given=partial(_adapter, shipped="flow")),
    PartCard(name="distilled", module="sfumato.training.distilled", minutes=30.0, given=partial(_adapter, shipped="fast")),
    _masked_card("inpainting", 90.0),
    _masked_card("powerpaint", 50.0, sibling="inpainting"),
    _masked_card("smartbrush", 60.0, sibling="inpainting"),
    _masked_card("brushnet", 60.0),
    _masked_card("powerpaint-v2", 40.0, sibling="brushnet"),
    _masked_card("controlnet", 80.0),
    PartCard(
        name="ranker",
        module="sfumato.training.ranker",
        minutes=10.0,
        given=lambda settings: (
            _scenes(settings) | {"others": settings.folder / "others", "start_from": _weights(settings, "ranker")}
        ),
        render=_render_others,
    ),
    PartCard(
        name="judge",
        module="sfumato.training.judge",
        minutes=15.0,
        given=lambda settings: {"pairs": settings.folder / "pairs", "start_from": _weights(settings, "judge")},
        render=_render_pairs,
    ),
    PartCard(name="pixel", module="sfumato.training.pixel", minutes=60.0, given=_scenes),
    PartCard(name="glide", module="sfumato.training.glide", minutes=90.0, given=_glide, takes_data=True),
)
WORLD = "world"  # rendered, not trained
PARTS = (WORLD, *(card.name for card in CARDS))
