"""`sfumato train`: trains the embedded model, or fine-tunes it or a checkpoint on your own pictures."""

import os
from importlib import import_module
from typing import Any

import typer

from sfumato.cli import train_checkpoint
from sfumato.cli.train_parts import CARDS, PARTS, SIZES, WORLD, PartCard, Settings, render_scenes
from sfumato.errors import OptionError, ResourceError


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
        render_scenes(settings, workers)
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
