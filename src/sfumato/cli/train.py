"""`sfumato train`: trains the embedded model, or fine-tunes it on your own pictures."""

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from sfumato.errors import InputError, OptionError, ResourceError

PARTS = ("world", "autoencoder", "decoder", "denoiser", "flow", "distilled", "ranker", "judge", "pixel")
SIZES = ("small", "large")
JUDGE_SHARDS, JUDGE_HELD_OUT, JUDGE_IMAGE = 56, 4, 128  # renders of its own, 250 pairs a shard
MINUTES = {"autoencoder": 8.0, "decoder": 10.0, "denoiser": 60.0, "flow": 20.0, "distilled": 30.0}
MINUTES |= {"ranker": 10.0, "judge": 15.0, "pixel": 60.0}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Settings of a training call.

    Args:
        folder: Holds `scenes` and a folder for each part.
        minutes: Of this call; each part has its own default.
        resume: Go on from the part's checkpoint.
        device: cpu or cuda.
        size: Of the denoiser and the scenes: small for two CPU cores (128 px), large for a GPU (256 px).
        data: Folder of pictures with captions to train the denoiser on, instead of scenes.
        start_from: Folder of weights to begin with; the shipped ones are "embedded".
        shards, held_out: Thousands of scenes to train on, and to measure on.
        workers: Processes; one a core by default.
        lr: Peak learning rate; each part has its own default.
        cooldown: Share of the minutes over which the learning rate falls.
    """

    folder: Path
    minutes: float | None
    resume: bool
    device: str
    size: str
    data: Path | None
    start_from: str | None
    shards: int
    held_out: int
    workers: int | None
    lr: float | None
    cooldown: float | None


def run(part: str, settings: Settings) -> None:
    """Train one part.

    Raises:
        OptionError: part-unknown, size-unknown, option-contradiction, option-invalid, checkpoint-exists, training-no-step.
        InputError: no-scenes, no-autoencoder, no-denoiser.
        BackboneError: checkpoint-mismatch.
        ResourceError: disk-full, extra-missing, no-device.
    """
    _check(part, settings)
    workers = settings.workers or (1 if settings.device != "cpu" else os.cpu_count() or 1)
    if part == "world":
        from sfumato.training.denoiser import SIZES as SHAPES
        from sfumato.training.scenes import render, render_shard

        size = SHAPES[settings.size].image
        render(render_shard, settings.folder / "scenes", settings.shards, settings.held_out, size, workers, typer.echo)
        return
    if part == "judge":
        from sfumato.training.pairs import render_pairs
        from sfumato.training.scenes import render

        render(render_pairs, settings.folder / "pairs", JUDGE_SHARDS, JUDGE_HELD_OUT, JUDGE_IMAGE, workers, typer.echo)
    if part == "ranker":
        from functools import partial

        from sfumato.embedded.world.split import OTHERS
        from sfumato.training.denoiser import SIZES as SHAPES
        from sfumato.training.ranker import OTHER_SHARDS
        from sfumato.training.scenes import render, render_shard, training_shards

        training_shards(settings.folder / "scenes")  # refuses before the others are rendered
        one, size = partial(render_shard, part=OTHERS), SHAPES[settings.size].image
        render(one, settings.folder / "others", OTHER_SHARDS, 1, size, workers, typer.echo)
    from sfumato.training.workers import spawn

    out = settings.folder / part
    out.mkdir(parents=True, exist_ok=True)
    spawn(_train, (part, settings), workers, out)
    typer.echo(f"{out / 'model'}  trained {part}")


def _train(part: str, settings: Settings) -> None:
    """Body of each worker process."""
    folder = settings.folder
    chosen: dict[str, Any] = {"lr": settings.lr, "cooldown": settings.cooldown}
    given = {name: value for name, value in chosen.items() if value is not None}
    common = {"out": folder / part, "minutes": _minutes(part, settings), "device": settings.device, **given}
    if part == "autoencoder":
        from sfumato.training import autoencoder

        autoencoder.train(scenes=folder / "scenes", start_from=_weights(settings, "vae"), on_progress=typer.echo, **common)
    elif part == "decoder":
        from sfumato.training import autoencoder

        autoencoder.train(
            scenes=folder / "scenes", start_from=_autoencoder(settings), decoder_only=True, on_progress=typer.echo, **common
        )
    elif part == "denoiser":
        from sfumato.training import denoiser

        denoiser.train(
            vae=_autoencoder(settings),
            scenes=folder / "scenes",
            data=settings.data,
            size=denoiser.SIZES[settings.size],
            start_from=_weights(settings),
            on_progress=typer.echo,
            **common,
        )
    elif part in ("flow", "distilled"):
        from sfumato.embedded.adapter import FILE
        from sfumato.training import distilled, flow

        train, shipped = {"flow": (flow.train, "flow"), "distilled": (distilled.train, "fast")}[part]
        shipped_weights = _weights(settings, shipped)
        start = shipped_weights and shipped_weights / FILE
        train(
            model=_teacher(settings),
            vae=_autoencoder(settings),
            scenes=folder / "scenes",
            start=start,
            on_progress=typer.echo,
            **common,
        )
    elif part == "judge":
        from sfumato.training import judge

        judge.train(pairs=folder / "pairs", start_from=_weights(settings, "judge"), on_progress=typer.echo, **common)
    elif part == "ranker":
        from sfumato.training import ranker

        ranker.train(
            scenes=folder / "scenes",
            others=folder / "others",
            start_from=_weights(settings, "ranker"),
            on_progress=typer.echo,
            **common,
        )
    else:
        from sfumato.training import pixel

        pixel.train(scenes=folder / "scenes", on_progress=typer.echo, **common)


def _minutes(part: str, settings: Settings) -> float | None:
    return MINUTES.get(part) if settings.minutes is None else settings.minutes


def _weights(settings: Settings, part: str = "") -> Path | None:
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


def _check(part: str, settings: Settings) -> None:
    if part not in PARTS:
        raise OptionError(f"Unknown part {part!r}; choose one of: {', '.join(PARTS)}.", code="part-unknown")
    if settings.size not in SIZES:
        raise OptionError(f"Unknown size {settings.size!r}; choose one of: {', '.join(SIZES)}.", code="size-unknown")
    if settings.data is not None and part != "denoiser":
        raise OptionError("--data is for the denoiser; the other parts are trained on scenes.", code="option-contradiction")
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
