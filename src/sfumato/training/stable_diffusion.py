"""Training of the methods that see the mask on a checkpoint: Stable Diffusion 1.x, 2.x or XL, on a user's own pictures.

The lessons are those of the embedded model. What differs is the checkpoint's: prediction type, noise levels, autoencoder, text
encoder, size. Timesteps are drawn uniformly and weights trained with AdamW, as these models were.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DDPMScheduler
from numpy.typing import NDArray
from torch import Tensor, nn

from sfumato.backbones import loading
from sfumato.backbones.base import Backbone, Conditions, Extra
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.edm import EDMUNet
from sfumato.backbones.prediction import with_traits
from sfumato.errors import BackboneError, Unsupported
from sfumato.noise.levels import Prediction
from sfumato.training import publishing
from sfumato.training.autoencoder import to_pixels
from sfumato.training.denoiser import quick_attention
from sfumato.training.latents import BATCH, captions_of
from sfumato.training.loop import OnProgress, Run
from sfumato.training.low_rank import LowRank, Whole, digest_of
from sfumato.training.masked import MaskedPictures, draw_batch
from sfumato.training.masked_lessons import Lesson, examples_of, write_edits
from sfumato.training.precision import half_precision
from sfumato.training.samples import text_batch
from sfumato.training.trainable import check_base

EXAMPLES = 4  # on a sheet of samples
LR_LOW_RANK, LR_WHOLE = 1e-4, 1e-5


@dataclass(frozen=True, kw_only=True)
class Way:
    """What is trained.

    Args:
        rank: Of a low-rank change of all layers; None trains all weights.
        lora: Of the attention's layers alone, and saved as a LoRA.
    """

    rank: int | None
    lora: bool = False


class CheckpointTraining:
    """A run that trains a checkpoint's denoiser, or a network born of it; see `masked_lessons.Course`.

    Args:
        lesson: Of the method.
        backbone: The checkpoint, float32. Its modules are used, not copied.
        size: Side of its pictures.
        way: What is trained.
        out: Gets `checkpoint.pt`, sheets of samples, and the result in `model`.
        minutes, lr, cooldown, on_progress: See `loop.Run`.
        sheet: Draws samples of the model as it is into a file.

    Raises:
        BackboneError: checkpoint-mismatch.
    """

    def __init__(
        self,
        *,
        lesson: Lesson,
        backbone: Backbone,
        size: int,
        way: Way,
        out: Path,
        minutes: float,
        lr: float,
        sheet: Callable[[Backbone, Path], None],
        cooldown: float = 0.3,
        on_progress: OnProgress = print,
    ) -> None:
        self.lesson, self.backbone, self.size, self.way, self.out, self.sheet = lesson, backbone, size, way, out, sheet
        self.device, denoiser = backbone.traits.device, backbone.denoiser
        self.base: Any = denoiser.unet  # type: ignore[attr-defined]
        digest = digest_of(self.base)
        _check_begun(out / "checkpoint.pt", digest)
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.network: Any = lesson.adapted.born(self.base).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            self.change = self._change(digest)
        if self.device.type != "cpu":
            recompute(self.base)
            recompute(self.network)
            if self.network is not self.base:
                nn.Module.to(self.base, torch.bfloat16)
        self.run = Run(self.change, out / "checkpoint.pt", minutes, lr, cooldown, self._on_save, on_progress, muon=False)
        config = dict(backbone.traits.scheduler_config) | {"prediction_type": backbone.traits.prediction.value}
        self.scheduler: Any = DDPMScheduler.from_config(config)
        self._saved = False

    def _change(self, digest: str) -> Whole | LowRank:
        if self.way.rank is None:
            return Whole(self.network, digest)
        if self.way.lora:
            return LowRank(self.network, digest, self.way.rank, takes=_of_attention)
        return LowRank(self.network, digest, self.way.rank, self.lesson.adapted.whole)

    def changed(self, *given: Any, **named: Any) -> Any:
        """What the network that is trained makes of its arguments."""
        return self.network(*given, **named)

    def conditions(self, captions: list[str]) -> Conditions:
        """Captions, encoded, and what else the denoiser takes, for a batch of them. Without a caption there is no prompt."""
        encoder = self.backbone.text_encoder
        assert encoder is not None
        texts = encoder.encode([caption or None for caption in captions])
        return Conditions(text=text_batch(texts), extras=self.extras(len(captions)))

    def extras(self, count: int) -> dict[Extra, Tensor]:
        """As `methods.conditioning.extras_of` makes them of a whole picture."""
        if Extra.TIME_IDS not in self.backbone.traits.extras:
            return {}
        sizes = [self.size, self.size, 0, 0, self.size, self.size]
        return {Extra.TIME_IDS: torch.tensor([sizes] * count, dtype=torch.float32, device=self.device)}

    def loss(self, x: Tensor, weights: Tensor, pixels: Tensor, mask: Tensor, captions: list[str]) -> Tensor:
        """Of a batch as `masked.draw_batch` gives it, on the run's device, with the samples' captions."""
        with half_precision(self.device), quick_attention(self.device):
            seen = self.lesson.see(self.backbone.autoencoder.encode, pixels, mask).to(x)
            given = self.conditions(captions)
            return denoising_loss(lambda noisy, at: self.lesson.predict(self, noisy, at, seen, given), self.scheduler, x, weights)

    def learn(self, source: MaskedPictures, batch_size: int) -> None:
        """Train until the minutes are over."""
        rng = np.random.default_rng()
        for _ in self.run.steps():
            *given, samples = draw_batch(source, batch_size, rng)
            x, weights, pixels, mask = (tensor.to(self.device) for tensor in given)
            self.run.update(self.loss(x, weights, pixels, mask, [sample.caption for sample in samples]), batch_size)

    def _on_save(self, run: Run) -> None:
        folder = self.out / "model"
        if self.way.lora:
            assert isinstance(self.change, LowRank)
            publishing.write_lora(self.change.changes(), folder)
        else:
            assert self.lesson.publish is not None
            self.lesson.publish(self.network, self.change.weights(), folder)
            if self.lesson.gives is Capability.INPAINTING and not self._saved:
                publishing.write_rest(self.backbone, self.network, folder)
        self._saved = True
        with half_precision(self.device):
            self.sheet(self.lesson.beside(self.backbone, self.network), self.out / f"samples-{run.samples:08d}.png")
        for weight in self.change.parameters():
            weight.requires_grad_(True)  # a model that samples are drawn with is frozen


def recompute(network: Any) -> None:
    """Hold few of a network's activations, and compute the others again where gradients need them."""
    getattr(network, "unet", network).enable_gradient_checkpointing()


def _of_attention(name: str, layer: nn.Module) -> bool:
    """Whether a layer is one of those that LoRAs of these models change."""
    return "attentions." in name and isinstance(layer, nn.Linear)


def _check_begun(checkpoint: Path, digest: str) -> None:
    """Refuse to go on from the checkpoint of another base.

    Raises:
        BackboneError: checkpoint-mismatch.
    """
    if not checkpoint.exists():
        return
    found = torch.load(checkpoint, map_location="cpu", weights_only=True, mmap=True)["model"].get("base")
    if found is None or bytes(found.tolist()).hex() != digest:
        raise BackboneError(
            f"{checkpoint} was begun with another model: give that --model again, or another --dir.", code="checkpoint-mismatch"
        )


def denoising_loss(predict: Callable[[Tensor, Tensor], Tensor], scheduler: Any, x: Tensor, weights: Tensor) -> Tensor:
    """Squared error of what a model predicts, at noise levels drawn uniformly, weighted by cell.

    Args:
        predict: The model's output for noisy latents (B, C, h, w) at timesteps (B,).
        scheduler: diffusers' DDPMScheduler with the model's levels and prediction type.
        x: Clean latents (B, C, h, w).
        weights: (B, 1, h, w).
    """
    noise = torch.randn_like(x)
    timesteps = torch.randint(scheduler.config.num_train_timesteps, (len(x),), device=x.device)
    noisy = scheduler.add_noise(x, noise, timesteps).contiguous(memory_format=torch.channels_last)
    kind = Prediction(scheduler.config.prediction_type)
    if kind is Prediction.V:
        target = scheduler.get_velocity(x, noise, timesteps)
    else:
        target = noise if kind is Prediction.EPSILON else x
    error = (predict(noisy, timesteps).float() - target) ** 2
    return (weights * error).mean() / weights.mean()


def encode_pictures(backbone: Backbone, images: NDArray[np.uint8]) -> Tensor:
    """(n, H, W, 3) uint8 to scaled latents (n, C, h, w) float16 on the CPU, a few pictures at a time."""
    parts = (to_pixels(images[i : i + BATCH]) for i in range(0, len(images), BATCH))
    return torch.cat([backbone.autoencoder.encode(part).half().cpu() for part in parts])


def train(
    lesson: Lesson,
    *,
    model: str,
    data: Path,
    way: Way,
    device: str = "cpu",
    size: int | None = None,
    batch_size: int = 4,
    lr: float | None = None,
    prediction_type: str | None = None,
    allow_pickle: bool = False,
    on_progress: OnProgress = print,
    **settings: Any,
) -> None:
    """Train a method that sees the mask on a checkpoint; the result is what the field publishes of it.

    Args:
        lesson: Of the method.
        model, prediction_type, allow_pickle: See `loading.load`.
        data: Pictures with captions, some with masks; see `latents.load_pictures`.
        way: What is trained.
        device: cpu or cuda.
        size: Side that pictures are brought to; the model's own by default.
        batch_size: Pictures a step.
        lr: Peak learning rate; lower by default where all weights are trained.
        on_progress, settings: Of `CheckpointTraining`.

    Raises:
        OptionError: option-invalid, training-no-step.
        InputError: no-pictures, no-caption.
        MaskError: mask-size, mask-empty.
        BackboneError: A model that cannot be loaded, or cannot be trained so; checkpoint-mismatch.
    """
    check_base(model, lesson.gives, lora=way.lora, allow_pickle=allow_pickle)
    captions_of(data)  # refuses before the model is loaded
    loaded = loading.load(model, device=device, dtype="float32", prediction_type=prediction_type, allow_pickle=allow_pickle)
    if isinstance(loaded.denoiser, EDMUNet):
        raise Unsupported(f"'{model}' is an EDM model, which is not trained here; give another Stable Diffusion XL.")
    for note in loaded.notes:
        on_progress(f"note: {note}")
    size = size or loaded.traits.resolution
    backbone = with_traits(loaded, replace(loaded.traits, resolution=size), [])
    source = MaskedPictures(lambda images: encode_pictures(backbone, images), data, size)
    examples = examples_of(source, EXAMPLES)

    def sheet(trained: Backbone, path: Path) -> None:
        write_edits(trained, path, examples, lesson, course.extras(1), rows=1)

    course = CheckpointTraining(
        lesson=lesson,
        backbone=backbone,
        size=size,
        way=way,
        lr=lr or (LR_WHOLE if way.rank is None else LR_LOW_RANK),
        sheet=sheet,
        on_progress=on_progress,
        **settings,
    )
    course.learn(source, batch_size)
