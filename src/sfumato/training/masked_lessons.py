"""Training of the methods that see the mask: one loop, and what each brings to it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.backbones.base import Backbone, Conditions, Extra, Text
from sfumato.backbones.branches import Branch
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.unet import UNet
from sfumato.embedded.adapter import FILE, base_digest, merge
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


class Course(Protocol):
    """The networks of a run, as lessons predict with them."""

    @property
    def base(self) -> Any:
        """The denoiser, a UNet2DConditionModel: frozen beside a branch."""

    def changed(self, *given: Any, **named: Any) -> Any:
        """What the network that changes makes of its arguments."""


def beside(backbone: Backbone, branch: Branch) -> Backbone:
    """The model with a branch beside its UNet."""
    denoiser: Any = backbone.denoiser
    return replace(backbone, denoiser=UNet(denoiser.unet, backbone.traits, [branch]))


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """How a method that sees the mask is trained: what is learnt, what it reads, and what it makes of that.

    Args:
        gives: What the trained network makes possible.
        adapted: The network that changes.
        see: What it reads.
        predict: The denoiser's output (B, C, h, w) for noisy latents of that shape at timesteps (B,), given what is seen and
            conditions of text alone.
        beside: A model with the network in place.
        condition: Adds what is seen to conditions of text alone.
        publish: Writes weights (by their names in the network) into a folder, in the layout that the field publishes them in;
            None for what is trained on the embedded model alone.
        mixture: Of masks and captions.
        tell: What the network is told of them.
        states: Text states of that, in a run; by default what the frozen encoder makes of captions.
        texts: For sheets, what is said against and for each sample.
        with_words: The model with what else the file of the adapter holds.
    """

    gives: Capability
    adapted: Adapted
    see: See
    predict: Callable[[Course, Tensor, Tensor, Tensor, Conditions], Tensor]
    beside: Callable[[Backbone, Any], Backbone]
    condition: Callable[[Conditions, Tensor], Conditions]
    publish: Callable[[Any, Mapping[str, Tensor], Path], None] | None = None
    mixture: Mixture = THINGS
    tell: Tell = captions
    states: Callable[[AdapterTraining, Any], Tensor] = lambda course, tokens: course.teacher.states(tokens)
    texts: Texts = caption_texts
    with_words: Callable[[Backbone, Path], Backbone] = lambda backbone, change: backbone

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
            given = Conditions(text=Text(states=states))
            return velocity_loss(lambda noisy, at: self.predict(course, noisy, at, seen, given), scheduler, x, weights)

        batches = MaskedBatches(source, course.teacher.tokenizer, batch_size, device, self.tell)
        for _ in course.learn(batches, loss, partial(self.states, course)):
            pass

    def edited(self, model: Path, device: torch.device, change: Path) -> Backbone:
        """The embedded model in a folder with the network in place that the file `change` makes."""
        backbone: Any = samples.loaded(model, device)
        with torch.random.fork_rng():  # what is drawn is replaced
            network = self.adapted.born(backbone.denoiser.unet)
        merge(network, change, base_digest(model))
        return self.with_words(self.beside(backbone, network), change)


def examples_of(source: MaskedSource, count: int = EXAMPLES) -> list[tuple[NDArray[np.uint8], Sample]]:
    """The first pictures of a source, each with a mask and a caption, the same on every call."""
    rng = np.random.default_rng(0)
    return [source.draw(i % len(source.latents), rng) for i in range(count)]


@torch.inference_mode()
def write_edits(
    model: Backbone,
    path: Path,
    examples: Sequence[tuple[NDArray[np.uint8], Sample]],
    lesson: Lesson,
    extras: Mapping[Extra, Tensor] | None = None,
    rows: int | None = None,
) -> None:
    """Fill the masks of examples, from the same noise on every call; one column an example.

    Args:
        model: With the network in place.
        path: Gets a row of masked pictures, and below it what the model makes of all of them: nothing is pasted.
        examples: Pictures (H, W, 3), each with a mask and a caption.
        lesson: That it was trained by.
        extras: What else the denoiser takes, each with leading dimension 1.
        rows: How often each is filled; as other sheets have it by default.
    """
    device = model.traits.device
    pixels = to_pixels(np.stack([image for image, _ in examples])).to(device)
    mask = torch.stack([torch.from_numpy(sample.mask)[None] for _, sample in examples]).to(device).float()
    seen = lesson.see(model.autoencoder.encode, pixels, mask)
    texts, count = lesson.texts(model, [sample for _, sample in examples]), len(examples)

    def conditioned(given: Conditions) -> Conditions:
        return replace(lesson.condition(given, seen), extras=extras or {})

    drawn = [
        samples.sampled(model, texts, range(k * count, (k + 1) * count), conditioned) for k in range(rows or samples.PER_PROMPT)
    ]
    samples.write_rows([np.stack([to_uint8(row) for row in pixels * (mask < 0.5)]), *drawn], path)
