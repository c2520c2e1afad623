"""Capabilities of a model, which methods and background reconstructions require. Imports no torch."""

from enum import Enum


class Capability(Enum):
    """One thing that a model can do."""

    TEXT = "reads a prompt"
    OPEN_VOCABULARY = "reads any word, and may draw a prompt as written letters"
    CLIP_TEXT = "reads by CLIP's text encoders, which take weights, learned words and fewer layers"
    LATENTS = "denoises the latents of an autoencoder"
    PIXELS = "denoises pixels, and can be differentiated"
    DECODER = "has an image decoder that a background can be fitted with"
    CHAIN = "was trained on the levels of DDPM's chain"
    FLOW = "matches flows"
    ANY_LEVEL = "can be run at any of its noise levels, as distilled models cannot"
