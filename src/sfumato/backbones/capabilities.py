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
    TAKES_BRANCH = "can have a branch beside it, as UNets of Stable Diffusion can"
    INPAINTING = "reads the mask and the masked picture beside the latents"
    BRUSHNET = "has a BrushNet beside it"
    CONTROLNET = "has an inpainting ControlNet beside it"


TRAINED = frozenset({Capability.INPAINTING, Capability.BRUSHNET, Capability.CONTROLNET})
"""What a model has been trained for masks to do. A model has them itself, or with its branch, not by its family."""

BRANCHES = frozenset({Capability.BRUSHNET, Capability.CONTROLNET})
"""What a model can do with a method's branch beside it, whose input is the first of the conditions' controls."""


class Layout(Enum):
    """Input channels of a denoiser's first layer, in order.

    Args:
        reads: Description of the inputs.
        task: Task that models of this layout are trained for.
        latents: Number of inputs with as many channels as the latents.
        others: Number of further channels.
    """

    LATENTS = "latents alone", "text-to-image", 1, 0
    DEPTH = "latents and depth", "depth-to-image", 1, 1
    UPSCALING = "latents and a small picture", "upscaling", 1, 3
    INSTRUCTION = "latents and those of the picture", "instruction editing as InstructPix2Pix", 2, 0
    INPAINTING = "latents, mask and those of the masked picture", "inpainting", 2, 1

    def __init__(self, reads: str, task: str, latents: int, others: int) -> None:
        self.reads, self.task = reads, task
        self._latents, self._others = latents, others

    def channels(self, latent_channels: int) -> int:
        """Input channels of a denoiser of this layout."""
        return self._latents * latent_channels + self._others

    @classmethod
    def of(cls, channels: int, latent_channels: int) -> "Layout | None":
        """The layout with this number of input channels; None if there is none."""
        return next((layout for layout in cls if layout.channels(latent_channels) == channels), None)
