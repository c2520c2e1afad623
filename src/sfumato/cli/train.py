"""`sfumato train`: trains the embedded model, or fine-tunes it or a checkpoint on your own pictures."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import typer

from sfumato.cli import train_checkpoint
from sfumato.cli.train_checkpoint import Checkpoint
from sfumato.errors import InputError, OptionError, ResourceError

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


def _render_scenes(settings: Settings, workers: int) -> None:
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
    PartCard(
        name="inpainting",
        module="sfumato.training.inpainting",
        minutes=90.0,
        given=partial(_masked, shipped="inpainting"),
        takes_data=True,
    ),
    PartCard(
        name="powerpaint",
        module="sfumato.training.powerpaint",
        minutes=50.0,
        given=partial(_after, shipped="powerpaint", sibling="inpainting"),
        takes_data=True,
    ),
    PartCard(
        name="smartbrush",
        module="sfumato.training.smartbrush",
        minutes=60.0,
        given=partial(_after, shipped="smartbrush", sibling="inpainting"),
        takes_data=True,
    ),
    PartCard(
        name="brushnet",
        module="sfumato.training.brushnet",
        minutes=60.0,
        given=partial(_masked, shipped="brushnet"),
        takes_data=True,
    ),
    PartCard(
        name="powerpaint-v2",
        module="sfumato.training.powerpaint_v2",
        minutes=40.0,
        given=partial(_after, shipped="powerpaint-v2", sibling="brushnet"),
        takes_data=True,
    ),
    PartCard(
        name="controlnet",
        module="sfumato.training.controlnet",
        minutes=80.0,
        given=partial(_masked, shipped="controlnet"),
        takes_data=True,
    ),
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


def run(part: str, settings: Settings) -> None:
    """Train one part.

    Raises:
        OptionError: part-unknown, size-unknown, option-contradiction, option-invalid, checkpoint-exists, training-no-step.
        InputError: no-scenes, no-autoencoder, no-denoiser, no-pictures, no-caption.
        BackboneError: checkpoint-mismatch; of a checkpoint also that it cannot be loaded, or cannot be trained so.
        ResourceError: disk-full, extra-missing, no-device.
    """
    _check(part, settings)
    alone = settings.device != "cpu" or settings.checkpoint.model is not None
    workers = settings.workers or (1 if alone else os.cpu_count() or 1)
    if part == WORLD:
        _render_scenes(settings, workers)
        return
    _card(part).render(settings, workers)
    from sfumato.training.workers import spawn

    out = settings.folder / part
    out.mkdir(parents=True, exist_ok=True)
    spawn(_train, (part, settings), workers, out)
    typer.echo(f"{out / 'model'}  trained {part}")


def _train(part: str, settings: Settings) -> None:
    """Body of each worker process."""
    card = _card(part)
    chosen: dict[str, Any] = {"lr": settings.lr, "cooldown": settings.cooldown}
    common = {name: value for name, value in chosen.items() if value is not None} | {"on_progress": typer.echo}
    common |= {"out": settings.folder / part, "minutes": _minutes(part, settings), "device": settings.device}
    if settings.checkpoint.model is not None:
        lesson = import_module(card.module).LESSON
        train_checkpoint.run(lesson, settings.checkpoint, size=settings.size, data=settings.data, **common)
        return
    card.load()(**card.given(settings), **common)


def _card(part: str) -> PartCard:
    return next(card for card in CARDS if card.name == part)


def _minutes(part: str, settings: Settings) -> float | None:
    return _card(part).minutes if settings.minutes is None and part != WORLD else settings.minutes


def _check(part: str, settings: Settings) -> None:
    if part not in PARTS:
        raise OptionError(f"Unknown part {part!r}; choose one of: {', '.join(PARTS)}.", code="part-unknown")
    train_checkpoint.check(
        part,
        settings.checkpoint,
        size=settings.size,
        data=settings.data,
        start_from=settings.start_from,
        workers=settings.workers,
    )
    if settings.checkpoint.model is None and settings.size not in (None, *SIZES):
        raise OptionError(f"Unknown size {settings.size!r}; choose one of: {', '.join(SIZES)}.", code="size-unknown")
    takers = [card.name for card in CARDS if card.takes_data]
    if settings.data is not None and part not in takers:
        raise OptionError(
            f"--data is for {' and '.join(takers)}; the other parts are trained on scenes.", code="option-contradiction"
        )
    checkpoint = settings.folder / part / "checkpoint.pt"
    if checkpoint.exists() and not settings.resume:
        raise OptionError(
            f"{checkpoint} is there already: go on from it with --resume, or choose another --dir.", code="checkpoint-exists"
        )
    if settings.workers is not None and settings.workers < 1:
        raise OptionError(f"--workers {settings.workers} is too few; give 1 or more.")
    _check_installed(settings.device)
    from sfumato.training.loop import check_plan

    check_plan(_minutes(part, settings), settings.lr, settings.cooldown)


def _check_installed(device: str) -> None:
    import importlib.util

    if importlib.util.find_spec("numba") is None:
        raise ResourceError(
            "Training needs an optional package; install it with: pip install 'sfumato[train]'", code="extra-missing"
        )
    if device != "cpu":
        import torch

        if not torch.cuda.is_available():
            raise ResourceError(f"There is no device {device!r} here; train with --device cpu.", code="no-device")
