"""Interfaces of a model's four roles: traits, autoencoder, text encoder, denoiser."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from sfumato.backbones.capabilities import Capability, Layout
from sfumato.backbones.encodings import Encodings
from sfumato.backbones.former import FormerNames
from sfumato.masks.window import CONTEXT
from sfumato.noise.levels import Prediction
from sfumato.text.chunks import Embedding
from sfumato.text.clip import Encoder, Parts
from sfumato.text.limits import TextReader
from sfumato.text.powerpaint import TaskText


class Extra(Enum):
    """Conditions besides text and channels that some denoisers take."""

    TIME_IDS = "time_ids"  # (1|B, 6): height and width of the original, top and left of the crop, height and width of the target
    GUIDANCE = "guidance"  # (1|B,): the guidance scale that distilled models embed


def same_schedule(cells: tuple[int, int], steps: int) -> Mapping[str, Any]:
    """No further scheduler settings: for models whose schedule does not depend on the latents' size."""
    return {}


@dataclass(frozen=True, kw_only=True)
class Traits:
    """Properties of a model that plans, loops and masks depend on.

    Args:
        name: Name that the user gave.
        family: Name of its family.
        capabilities: Capabilities of its family.
        prediction: Prediction type of the denoiser.
        scheduler_config: Scheduler configuration of the checkpoint, with diffusers' keys.
        schedule: Scheduler settings that depend on the latents' (h, w) and the number of steps, such as a flow-matching shift.
        upsampler: Scheduler configuration, with its prediction type, of the second stage of a cascade; None without one.
        layout: Input channels of the denoiser's first layer.
        extras: Conditions that the denoiser takes besides text and channels.
        latent_channels: Channels of its latents.
        factor: Image pixels per latent cell.
        resolution: Native side in pixels.
        context: Side of the default window, relative to the longer side of the mask's bounding box.
        stacks_branches: Whether both branches of guidance fit one batch, as their texts have equal lengths.
        keeps_norm: Whether guidance preserves the norm of each token's prediction.
        hole: What the hole of the masked picture is, in [-1, 1], for models that read one; mid-grey by default.
        device, dtype: Device and number format of the denoiser.
    """

    name: str
    family: str
    capabilities: frozenset[Capability]
    prediction: Prediction
    scheduler_config: Mapping[str, Any]
    schedule: Callable[[tuple[int, int], int], Mapping[str, Any]] = same_schedule
    upsampler: Mapping[str, Any] | None = None
    layout: Layout = Layout.LATENTS
    extras: frozenset[Extra] = frozenset()
    latent_channels: int
    factor: int
    resolution: int
    context: float = CONTEXT
    stacks_branches: bool = True
    keeps_norm: bool = False
    hole: float = 0.0
    device: torch.device
    dtype: torch.dtype

    def can(self, *capabilities: Capability) -> bool:
        """Whether it has all of these capabilities."""
        return self.capabilities.issuperset(capabilities)


@dataclass(frozen=True, kw_only=True)
class Text:
    """One encoded prompt.

    Args:
        states: (1|B, tokens, width), without padding if the model takes texts of any length.
        pooled: (1|B, width) for models with one vector per prompt (SDXL, SD 3, FLUX.1).
    """

    states: Tensor
    pooled: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class Control:
    """Input of one branch (a ControlNet, a BrushNet). Leading dimensions are 1 or the batch size B.

    Args:
        image: (1|B, k, H, W), as the branch reads it: a picture, or latents with a mask.
        scale: (1|B,) factor of its residuals; with 0 it adds nothing.
        guess: Whether deeper layers count more, as published for use without a prompt (ControlNet's "guess mode").
        states: (1|B, tokens, width) text that a branch with a text encoder of its own reads in place of the denoiser's.
    """

    image: Tensor
    scale: Tensor
    guess: bool = False
    states: Tensor | None = None

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "Control":
        """The same with a function applied to every tensor."""
        states = None if self.states is None else change(self.states)
        return replace(self, image=change(self.image), scale=change(self.scale), states=states)


@dataclass(frozen=True, kw_only=True)
class Redirection:
    """Places that the decoder's self-attention does not look at. Leading dimensions are 1 or the batch size B.

    Args:
        mask: (1|B, 1, h, w) in {0, 1} on the latents' cells: where it is 1 no place looks. A row of zeros changes nothing.
        similarity: Factor of the logits of these places themselves: below 1 they look at the others more evenly.
    """

    mask: Tensor
    similarity: float = 1.0


@dataclass(frozen=True, kw_only=True)
class Conditions:
    """Conditions of one branch of guidance, made once per edit. Leading dimensions are 1 or the batch size B.

    Args:
        text: The encoded prompt; None for models that read none.
        channels: (1|B, k, h, w), concatenated to the scaled latents (inpainting models).
        extras: By `Extra`, with the shapes given there.
        controls: Of the denoiser's branches, in order; those for which there is none, or None, are not run.
        redirection: Of the self-attention of models that can (`Capability.SELF_ATTENTION`).
    """

    text: Text | None = None
    channels: Tensor | None = None
    extras: Mapping[Extra, Tensor] = field(default_factory=dict)
    controls: tuple[Control | None, ...] = ()
    redirection: Redirection | None = None


@dataclass(frozen=True)
class Output:
    """Output of a denoiser, float32. Guidance acts on `prediction` alone.

    Args:
        prediction: (B, C, h, w), in the model's prediction type.
        variance: (B, C, h, w) of models with learned variance.
        mask: (B, 1, h, w) of models that predict a mask.
    """

    prediction: Tensor
    variance: Tensor | None = None
    mask: Tensor | None = None


class Denoiser(Protocol):
    """Interface of denoisers: one forward pass, without guidance or loop."""

    @property
    def traits(self) -> Traits:
        """Properties of the model."""

    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """Denoise latents.

        Args:
            x: (B, C, h, w) latents, scaled as the scheduler does.
            timestep: Of all rows, as the model was trained: 0 to 999 for a UNet.
            given: Conditions of one branch of guidance.

        Returns:
            The output in float32, whatever the model's dtype.
        """


def mapped(conditions: Conditions, change: Callable[[Tensor], Tensor]) -> Conditions:
    """The conditions with a function applied to every tensor."""
    text = conditions.text
    return Conditions(
        text=text and Text(states=change(text.states), pooled=None if text.pooled is None else change(text.pooled)),
        channels=None if conditions.channels is None else change(conditions.channels),
        extras={name: change(tensor) for name, tensor in conditions.extras.items()},
        controls=tuple(each and each.mapped(change) for each in conditions.controls),
        redirection=conditions.redirection and replace(conditions.redirection, mask=change(conditions.redirection.mask)),
    )


def expand(conditions: Conditions, count: int) -> Conditions:
    """The conditions for a batch of `count`; tensors that have that batch size already are unchanged."""
    return mapped(conditions, lambda tensor: tensor if len(tensor) == count else tensor.repeat_interleave(count, 0))


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What a decoder may see of the picture that is edited. Leading dimensions are 1 or the batch size B.

    Args:
        pixels: (1|B, 3, H, W) in [-1, 1]: the picture; what lies under the mask is not looked at.
        mask: (1|B, 1, H, W) in {0, 1}; 1 = edit.
    """

    pixels: Tensor
    mask: Tensor

    def rows(self, count: int) -> list["Seen"]:
        """What each of a batch of `count` sees."""
        pixels, mask = (part.expand(count, *part.shape[1:]).split(1) for part in (self.pixels, self.mask))
        return [Seen(pixels=one, mask=other) for one, other in zip(pixels, mask, strict=True)]


class Autoencoder(Protocol):
    """Interface of autoencoders. Latents are scaled to about unit variance; a pixel model's latents are the pixels."""

    vae: Any  # for reconstructions that fit a copy of it: encoder, decode(), decoder.conv_out
    notes: list[str]  # notes for the user

    @property
    def device(self) -> torch.device:
        """Device of the module."""

    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """(B, 3, H, W) in [-1, 1] to float32 latents (B, C, H/f, W/f): the posterior's mean, or a sample given a generator."""

    def decode(self, latents: Tensor, seen: Seen | None = None) -> Tensor:
        """Latents (B, C, h, w) to float32 pixels (B, 3, f h, f w) in [-1, 1], clamped.

        Args:
            latents: Scaled.
            seen: The picture around the edit, for decoders that see it; the others ignore it.
        """

    def preview(self, latents: Tensor) -> Tensor:
        """About what `decode` makes of latents (B, C, h, w), at their size and almost for nothing: (B, 3, h, w) in [-1, 1]."""

    def unscale(self, latents: Tensor) -> Tensor:
        """Latents to the code that `vae.decode` takes."""


class TextEncoder(Protocol):
    """Interface of text encoders. Those with an open vocabulary and no length limit only have to implement `encode`."""

    encoder: Encoder | None = None  # the first CLIP, if there is one, for what has learned words
    tasks: TaskText | None = None  # learned words for tasks, if the model has any

    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        """One encoded text for each prompt; those of one call have equal lengths if `traits.stacks_branches`.

        Args:
            prompts: None is no prompt: for most models the empty string, for some zeros, as they were trained.
        """

    def text_readers(self) -> list[TextReader]:
        """The tokenizers that truncate long prompts, with their lengths."""
        return []

    def unknown_words(self, prompt: str) -> list[str]:
        """Words of the prompt that are not in a closed vocabulary; empty for an open one."""
        return []

    def known_words(self) -> list[str]:
        """The words of a closed vocabulary; empty for an open one."""
        return []


@runtime_checkable
class WeighingTextEncoder(TextEncoder, Protocol):
    """Interface of text encoders with prompt weights, textual inversion and clip skip, such as CLIP's."""

    def text_widths(self) -> list[int]:
        """Widths of the token embeddings of each encoder."""

    def encode_parts(self, prompts: Sequence[Parts], embeddings: Sequence[Embedding] = (), clip_skip: int = 0) -> list[Text]:
        """`encode` for parsed prompts.

        Args:
            prompts: As `text.grammar.parse` gives them.
            embeddings: Textual inversion embeddings.
            clip_skip: Last layers to skip.

        Raises:
            OptionError: option-clip-skip, prompt-long.
        """

    def no_prompt(self, empty: Text) -> Text:
        """The encoding of no prompt, with the shape of an empty one."""


@dataclass(kw_only=True)
class Backbone(FormerNames):
    """A loaded model: the parts that implement its roles.

    Args:
        denoiser: The network, with the traits.
        autoencoder: Encodes pixels and decodes latents.
        text_encoder: Encodes prompts; None for models without text.
        branch_tasks: The text encoder of the method's branch, with learned words for tasks, if that has one of its own.
        loading_notes: Notes for the user on how it was loaded.
        encoded_texts: Where encoded prompts are kept; None keeps none, as the user may change a pipeline of their own.
    """

    denoiser: Denoiser
    autoencoder: Autoencoder
    text_encoder: TextEncoder | None = None
    branch_tasks: TaskText | None = None
    loading_notes: list[str] = field(default_factory=list)
    encoded_texts: Encodings | None = None

    @property
    def traits(self) -> Traits:
        """Properties of the model."""
        return self.denoiser.traits

    @property
    def notes(self) -> list[str]:
        """Notes for the user on how it was loaded and ran."""
        return [*self.loading_notes, *self.autoencoder.notes]
