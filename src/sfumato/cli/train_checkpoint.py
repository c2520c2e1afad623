"""`sfumato train inpainting|brushnet|controlnet --model`: trains a method that sees the mask on a Stable Diffusion checkpoint."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sfumato.errors import OptionError

PARTS = ("inpainting", "brushnet", "controlnet")
CELLS = 64  # pixels that a side must be a multiple of
RANK = 32


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What is trained of which checkpoint.

    Args:
        model: Folder, single file or id in the cache; None trains the embedded model.
        rank: Of a low-rank change; 32 by default.
        lora: Whether the change is one of the attention's layers alone, saved as a LoRA.
        full: Whether all weights are trained.
        batch_size: Pictures a step; 4 by default.
        prediction_type: In place of what the model says of itself.
        allow_pickle: Whether the model's weights may be pickles.
    """

    model: str | None = None
    rank: int | None = None
    lora: bool = False
    full: bool = False
    batch_size: int | None = None
    prediction_type: str | None = None
    allow_pickle: bool = False

    def given(self) -> list[str]:
        """The options that are for a checkpoint alone, as far as they were given."""
        flags = {
            "--rank": self.rank is not None,
            "--lora": self.lora,
            "--full": self.full,
            "--batch-size": self.batch_size is not None,
            "--prediction-type": self.prediction_type is not None,
            "--allow-pickle": self.allow_pickle,
        }
        return [flag for flag, is_given in flags.items() if is_given]


def check(
    part: str, checkpoint: Checkpoint, *, size: str | None, data: Path | None, start_from: str | None, workers: int | None
) -> None:
    """Refuse options that contradict each other.

    Raises:
        OptionError: option-contradiction, option-invalid, size-unknown.
    """
    if checkpoint.model is None:
        if given := checkpoint.given():
            raise OptionError(f"{given[0]} is for training a checkpoint: give it with --model.", code="option-contradiction")
        return
    chosen = [flag for flag in checkpoint.given() if flag in ("--rank", "--full")]
    complaints = {
        f"--model is for {', '.join(PARTS)}; '{part}' is a part of the embedded model.": part not in PARTS,
        "With --model the pictures are yours: give their folder with --data.": data is None,
        "--start-from is for the embedded model; leave it out, --model is what the training starts from.": start_from is not None,
        f"A {part} is saved whole, not as a LoRA: give --rank N to train a low-rank change of it, or --full.": checkpoint.lora
        and part != "inpainting",
        f"A checkpoint is trained in one process; leave out --workers {workers}.": workers not in (None, 1),
        "--full trains all weights, and --lora and --rank a few: give one of them.": "--full" in chosen
        and (checkpoint.lora or len(chosen) > 1),
    }
    for complaint, holds in complaints.items():
        if holds:
            raise OptionError(complaint, code="option-contradiction")
    if size is not None and not (size.isdecimal() and int(size) > 0 and int(size) % CELLS == 0):
        raise OptionError(
            f"--size {size} is no side of pictures for a checkpoint; give pixels, a multiple of {CELLS} such as 512.",
            code="size-unknown",
        )


def run(lesson: Any, checkpoint: Checkpoint, *, size: str | None, **settings: Any) -> None:
    """Train.

    Args:
        lesson: Of the method.
        checkpoint: Checked, with a model.
        size: Pixels, as text; the model's own if None.
        settings: Further arguments of `stable_diffusion.train`.
    """
    from sfumato.training.stable_diffusion import Way, train

    optional: dict[str, Any] = {"batch_size": checkpoint.batch_size, "size": None if size is None else int(size)}
    train(
        lesson,
        model=checkpoint.model or "",
        way=Way(rank=None if checkpoint.full else checkpoint.rank or RANK, lora=checkpoint.lora),
        prediction_type=checkpoint.prediction_type,
        allow_pickle=checkpoint.allow_pickle,
        **{name: value for name, value in optional.items() if value is not None},
        **settings,
    )
