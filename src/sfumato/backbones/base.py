"""The four roles of a model: traits, autoencoder, text encoder, denoiser."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sfumato.backbones.capabilities import Capability, Layout
from sfumato.masks.window import CONTEXT
from sfumato.noise.levels import Prediction
from sfumato.text.chunks import Embedding
from sfumato.text.clip import Parts
from sfumato.text.limits import TextReader


class Extra(Enum):
    """Conditions besides text and channels that some denoisers take."""

    TIME_IDS = "time_ids"  # (1|B, 6): height and width of the original, top and left of the crop, height and width of the target
    GUIDANCE = "guidance"  # (1|B,): the guidance scale that distilled models embed


def same_schedule(cells: tuple[int, int], steps: int) -> Mapping[str, Any]:
    """Of models whose schedule does not depend on the latents' size."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Traits:
    """What kind of model it is: what plans, loops and masks need to know of it.

    Args:
        name: What the user calls it.
        family: Name of its family.
        capabilities: What it can do; those of its family.
        prediction: What the denoiser's output stands for.
        scheduler_config: Of the checkpoint, in diffusers' keys.
        schedule: From the latents' (h, w) and the number of steps, further scheduler settings: a flow-matching model's shift.
        layout: What the denoiser's first layer reads.
        extras: What the denoiser takes besides text and channels.
        latent_channels: Of its latents.
        factor: Image pixels per latent cell.
        resolution: Native side in pixels.
        context: Side of the window that it works in, relative to the longer side of the mask's bounding box.
        stacks_branches: Whether both branches of guidance fit one batch (their texts have one length).
        keeps_norm: Whether guidance keeps the length of each token's prediction.
        device, dtype: Where the denoiser runs, and in which number format.
    """

    name: str
    family: str
    capabilities: frozenset[Capability]
    prediction: Prediction
    scheduler_config: Mapping[str, Any]
    schedule: Callable[[tuple[int, int], int], Mapping[str, Any]] = same_schedule
    layout: Layout = Layout.LATENTS
    extras: frozenset[Extra] = frozenset()
    latent_channels: int
    factor: int
    resolution: int
    context: float = CONTEXT
    stacks_branches: bool = True
    keeps_norm: bool = False
    device: torch.device
    dtype: torch.dtype

    def can(self, *capabilities: Capability) -> bool:
        """Whether it can do all of these."""
        return self.capabilities.issuperset(capabilities)


@dataclass(frozen=True, kw_only=True)
class Text:
    """One encoded prompt.

    Args:
        states: (1, tokens, width), without padding where the model takes texts of any length.
        pooled: (1, width) where the model has one vector for the whole prompt (SDXL, SD 3, FLUX.1).
    """

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """What one branch of guidance is conditioned on, made once per edit. Tensors lead with 1, or with the batch.

    Args:
        text: The encoded prompt; None for models that read none.
        channels: (1|B, k, h, w) concatenated behind the scaled latents (inpainting models).
        extras: See `Extra`.
    """

    text: Text | None = None
    channels: Tensor | None = None
    extras: Mapping[Extra, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Output:
    """What a denoiser says of (B, C, h, w) latents, float32. Guidance acts on `prediction` alone.

    Args:
        prediction: (B, C, h, w), of the model's prediction type.
        variance: (B, C, h, w) where the model has learned it.
        mask: (B, 1, h, w) where the model predicts one.
    """

    prediction: Tensor
    variance: Tensor | None = None
    mask: Tensor | None = None


class Denoiser(Protocol):
    """One forward pass: no guidance, no loop."""

    @property
    def traits(self) -> Traits:
        """What kind of model it is."""

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """Denoise (B, C, h, w) latents of one timestep. Runs in the model's dtype, answers in float32."""


def mapped(conditions: Conditions, change: Callable[[Tensor], Tensor]) -> Conditions:
    """The same conditions with every tensor changed."""
    text = conditions.text
    return Conditions(
        text=text and Text(states=change(text.states), pooled=None if text.pooled is None else change(text.pooled)),
        channels=None if conditions.channels is None else change(conditions.channels),
        extras={name: change(tensor) for name, tensor in conditions.extras.items()},
    )


def expand(conditions: Conditions, count: int) -> Conditions:
    """The same conditions for a batch of `count`; tensors that lead with the batch already stay."""
    return mapped(conditions, lambda tensor: tensor if len(tensor) == count else tensor.repeat_interleave(count, 0))


class Autoencoder(Protocol):
    """Pixels to latents and back. Latents are scaled (about unit variance); a pixel model's are the pixels themselves."""

    vae: Any  # for reconstructions that fit a copy of it: encoder, decode(), decoder.conv_out
    notes: list[str]  # what the user should know of how it ran

    @property
    def device(self) -> torch.device:
        """Where it runs."""

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to float32 latents (B, C, H/f, W/f): the posterior's mean, or a sample given a generator."""

    def decode(self, latents: Tensor) -> Tensor:
        """Latents (B, C, h, w) to float32 pixels (B, 3, f h, f w) in [-1, 1], clamped."""

    def unscale(self, latents: Tensor) -> Tensor:
        """Latents to the code that `vae.decode` takes."""


class TextEncoder(Protocol):
    """Prompts to states. Subclasses that read any word, and all of a text, have `encode` alone to write."""

    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        """One text for each prompt; those of one call fit one batch where the model's `traits.stacks_branches`.

        Args:
            prompts: None is no prompt at all: for most models the empty one, for some what they were trained to see instead.
        """

    def text_readers(self) -> list[TextReader]:
        """The encoders that leave out the end of a long prompt."""
        return []

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that the model has never seen; of a closed vocabulary only."""
        return []

    def known_words(self) -> list[str]:
        """The whole vocabulary of a model with a closed one."""
        return []


@runtime_checkable
class WeighingTextEncoder(TextEncoder, Protocol):
    """A text encoder that takes weights, learned words and fewer layers, as those by CLIP do."""

    def text_widths(self) -> list[int]:
        """Of the vectors that each of its encoders reads."""

    def encode_parts(self, prompts: Sequence[Parts], embeddings: Sequence[Embedding] = (), clip_skip: int = 0) -> list[Text]:
        """`encode` for parsed prompts.

        Args:
            prompts: As `text.grammar.parse` gives them.
            embeddings: Learned words.
            clip_skip: Layers to leave out.

        Raises:
            OptionError: option-clip-skip, prompt-long.
        """

    def no_prompt(self, empty: Text) -> Text:
        """What stands for no prompt, of the length of an empty one."""


@dataclass(kw_only=True)
class Backbone:
    """A loaded model, as the parts that play its roles.

    Args:
        denoiser: One forward pass; has the traits.
        autoencoder: Pixels to latents and back.
        text_encoder: Prompts to states; None for models that read none.
        loading_notes: What the user should know of how it was loaded.
    """

    denoiser: Denoiser
    autoencoder: Autoencoder
    text_encoder: TextEncoder | None = None
    loading_notes: list[str] = field(default_factory=list)

    @property
    def traits(self) -> Traits:
        """What kind of model it is."""
        return self.denoiser.traits

    @property
    def notes(self) -> list[str]:
        """What the user should know of how it was loaded and ran."""
        return [*self.loading_notes, *self.autoencoder.notes]
