"""Capabilities of models, which methods and backgrounds require, and layouts of denoisers. Imports no torch."""

from enum import Enum


class Capability(Enum):
    """A capability of a model."""

    TEXT = "reads a prompt"
    OPEN_VOCABULARY = "reads any word, and may draw a prompt as written letters"
    LATENTS = "denoises the latents of an autoencoder"
    PIXELS = "denoises pixels, and can be differentiated"
    DECODER = "has an image decoder that a background can be fitted with"
    CASCADE = "denoises a small picture, then a large one of it, and reads the mask at both"
    CHAIN = "was trained on the levels of DDPM's chain"
    FLOW = "matches flows"
    ANY_LEVEL = "can be run at any of its noise levels, as distilled models cannot"
    SELF_ATTENTION = "has self-attention in its decoder, which can be told where not to look"
    TAKES_BRANCH = "can have a branch beside it, as UNets of Stable Diffusion can"
    INPAINTING = "reads the mask and the masked picture beside the latents"
    POWERPAINT = "reads the mask and the masked picture, and has PowerPaint's learned words for tasks"
    BRUSHNET = "has a BrushNet beside it"
    POWERPAINT_V2 = "has a PowerPaint v2 branch beside it"
    CONTROLNET = "has an inpainting ControlNet beside it"
    SMARTBRUSH = "reads the mask and its precision, and predicts the mask of what it draws"


BRANCHES = frozenset({Capability.BRUSHNET, Capability.POWERPAINT_V2, Capability.CONTROLNET})
"""What a model can do with a method's branch beside it, whose input is the first of the conditions' controls."""

TRAINED = frozenset({Capability.INPAINTING, Capability.POWERPAINT, Capability.SMARTBRUSH}) | BRANCHES
"""What a model has been trained for masks to do. A model has them itself, or with its branch, not by its family."""

ALONE = frozenset({Capability.SMARTBRUSH})
"""What no other method can run: its surroundings are clean while the rest is noisy, which other loops do not give."""


class Layout(Enum):
    """Input channels of a denoiser's first layer, in order, and how many channels it gives.

    Args:
        reads: Description of the inputs.
        task: Task that models of this layout are trained for.
        latents: Number of inputs with as many channels as the latents.
        others: Number of further channels.
        more: Number of outputs beside those of the latents.
    """

    LATENTS = "latents alone", "text-to-image", 1, 0
    DEPTH = "latents and depth", "depth-to-image", 1, 1
    UPSCALING = "latents and a small picture", "upscaling", 1, 3
    INSTRUCTION = "latents and those of the picture", "instruction editing as InstructPix2Pix", 2, 0
    INPAINTING = "latents, mask and those of the masked picture", "inpainting", 2, 1
    SMARTBRUSH = "latents, mask and its precision", "SmartBrush", 1, 2, 1

    def __init__(self, reads: str, task: str, latents: int, others: int, more: int = 0) -> None:
        self.reads, self.task = reads, task
        self._latents, self._others, self._more = latents, others, more

    def channels(self, latent_channels: int) -> int:
        """Input channels of a denoiser of this layout."""
        return self._latents * latent_channels + self._others

    def outputs(self, latent_channels: int) -> int:
        """Output channels of a denoiser of this layout."""
        return latent_channels + self._more

    @classmethod
    def of(cls, channels: int, latent_channels: int) -> "Layout | None":
        """The layout with this number of input channels; None if there is none."""
        return next((layout for layout in cls if layout.channels(latent_channels) == channels), None)
