"""Training of the methods that see the mask: one loop, and what each brings to it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.backbones.base import Backbone, Conditions, Text
from sfumato.embedded.adapter import FILE
from sfumato.pictures.tensors import to_uint8
from sfumato.training import samples
from sfumato.training.adapting import Adapted, AdapterTraining
from sfumato.training.autoencoder import to_pixels
from sfumato.training.denoiser import make_scheduler, velocity_loss
from sfumato.training.latents import encode, load_vae
from sfumato.training.masked import MaskedBatches, MaskedSource, Tell, captions, masked_source
from sfumato.training.mixture import THINGS, Mixture, Sample

EXAMPLES = 8  # on a sheet of samples

See = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
"""What a network sees of pixels (B, 3, H, W) and their mask (B, 1, H, W), given how pixels are encoded: as in editing."""

Texts = Callable[[Backbone, Sequence[Sample]], tuple[Sequence[Text], Sequence[Text]]]
"""What is said against and for samples, encoded by a model: the texts of both branches of guidance."""


def caption_texts(model: Backbone, examples: Sequence[Sample]) -> tuple[list[Text], list[Text]]:
    """Nothing, and the captions."""
    return samples.texts_of(model, [sample.caption for sample in examples])


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How a method that sees the mask is trained: what is learnt, what it reads, and what it makes of that.

    Args:
        adapted: The network that changes.
        see: What it reads.
        velocity: Of noisy latents (B, C, h, w) at timesteps (B,), given what is seen and text states (B, T, D), in a run.
        edited: The model in the folder of the denoiser, on a device, with the network in place that a file changes.
        condition: Adds what is seen to conditions of text alone.
        mixture: Of masks and captions.
        tell: What the network is told of them.
        states: Text states of that, in a run; by default what the frozen encoder makes of captions.
        texts: For sheets, what is said against and for each sample.
    """

    adapted: Adapted
    see: See
    velocity: Callable[[AdapterTraining, Tensor, Tensor, Tensor, Tensor], Tensor]
    edited: Callable[[Path, torch.device, Path], Backbone]
    condition: Callable[[Conditions, Tensor], Conditions]
    mixture: Mixture = THINGS
    tell: Tell = captions
    states: Callable[[AdapterTraining, Any], Tensor] = lambda course, tokens: course.teacher.states(tokens)
    texts: Texts = caption_texts

    def train(
        self, *, vae: Path, scenes: Path, data: Path | None = None, lr: float = 2e-3, batch_size: int = 16, **settings: Any
    ) -> None:
        """Train until the minutes are over: the loss is the denoiser's, of latents of whole pictures, more in the hole.

        Args:
            vae, scenes, data: See `masked.masked_source`.
            lr, batch_size: Peak learning rate, and samples a step.
            settings: Of `AdapterTraining`.

        Raises:
            BackboneError: checkpoint-mismatch, adapter-mismatch.
            InputError: no-scenes, no-pictures, no-caption.
            MaskError: mask-size, mask-empty.
        """
        source, scheduler = masked_source(vae, scenes, data, self.mixture), make_scheduler()
        examples = examples_of(source)

        def sheet(folder: Path, path: Path) -> None:
            model = self.edited(course.model, device, folder / FILE)
            write_edits(model, path, examples, self)

        course = AdapterTraining(adapted=self.adapted, lr=lr, sheet=sheet, **settings)
        device = course.teacher.device
        encoder = partial(encode, load_vae(vae).to(device))

        def loss(x: Tensor, weights: Tensor, pixels: Tensor, mask: Tensor, states: Tensor) -> Tensor:
            seen = self.see(encoder, pixels, mask).to(x)
            return velocity_loss(lambda noisy, at: self.velocity(course, noisy, at, seen, states), scheduler, x, weights)

        batches = MaskedBatches(source, course.teacher.tokenizer, batch_size, device, self.tell)
        for _ in course.learn(batches, loss, partial(self.states, course)):
            pass


def examples_of(source: MaskedSource) -> list[tuple[NDArray[np.uint8], Sample]]:
    """The first pictures of a source, each with a mask and a caption, the same on every call."""
    rng = np.random.default_rng(0)
    return [source.draw(i % len(source.latents), rng) for i in range(EXAMPLES)]


@torch.inference_mode()
def write_edits(
    model: Backbone,
    path: Path,
    examples: Sequence[tuple[NDArray[np.uint8], Sample]],
    lesson: Lesson,
) -> None:
    """Fill the masks of examples, from the same noise on every call; one column an example.

    Args:
        model: With the network in place.
        path: Gets a row of masked pictures, and below it what the model makes of all of them: nothing is pasted.
        examples: Pictures (H, W, 3), each with a mask and a caption.
        lesson: That it was trained by.
    """
    device = model.traits.device
    pixels = to_pixels(np.stack([image for image, _ in examples])).to(device)
    mask = torch.stack([torch.from_numpy(sample.mask)[None] for _, sample in examples]).to(device).float()
    seen = lesson.see(model.autoencoder.encode, pixels, mask)
    texts, count = lesson.texts(model, [sample for _, sample in examples]), len(examples)
    drawn = [
        samples.sampled(model, texts, range(k * count, (k + 1) * count), lambda given: lesson.condition(given, seen))
        for k in range(samples.PER_PROMPT)
    ]
    samples.write_rows([np.stack([to_uint8(row) for row in pixels * (mask < 0.5)]), *drawn], path)
