"""Stable Diffusion 1.x, 2.x (epsilon and v prediction) and XL.

The networks are diffusers' and transformers' own; how they are called is in `unet`, `clip_text` and `autoencoder`.
"""

from pathlib import Path
from typing import Any

from sfumato.backbones.autoencoder import LatentAutoencoder
from sfumato.backbones.base import Backbone
from sfumato.backbones.checkpoints import unet_family
from sfumato.backbones.clip_text import ClipText
from sfumato.backbones.edm import SCHEDULERS as EDM_SCHEDULERS
from sfumato.backbones.edm import EDMUNet, Schedule
from sfumato.backbones.powerpaint import learned_words, with_words
from sfumato.backbones.prediction import check_schedule
from sfumato.backbones.unet import UNet, unet_traits
from sfumato.errors import Unsupported


def from_pipe(pipe: Any, name: str) -> Backbone:
    """Wrap a loaded diffusers pipeline (text-to-image, image-to-image or inpainting, with a UNet of four channels or nine).

    The pipeline's own modules are used, not copied: see `UNet` and `LatentAutoencoder` for what changes about them.

    Raises:
        Unsupported: For a UNet that reads pictures but is none for inpainting, SDXL's refiner, which has no first text encoder,
            or a scheduler with noise levels of its own.
    """
    if pipe.text_encoder is None:
        raise Unsupported(f"'{name}' has no first text encoder, as SDXL's refiner; give a base checkpoint instead.")
    config = dict(pipe.scheduler.config)
    edm = Schedule.from_config(config, name) if type(pipe.scheduler).__name__ in EDM_SCHEDULERS else None
    if edm is None:
        check_schedule(pipe.scheduler, name)
    autoencoder = LatentAutoencoder(pipe.vae, name=name, device=pipe._execution_device)
    traits = unet_traits(
        pipe.unet,
        autoencoder,
        name=name,
        family=unet_family(pipe.unet.config),
        scheduler_config=config if edm is None else edm.config(),
    )
    one = getattr(pipe, "text_encoder_2", None) is None
    words = learned_words(pipe.tokenizer, pipe.text_encoder, Path(name)) if one else None
    return Backbone(
        denoiser=UNet(pipe.unet, with_words(traits, words)) if edm is None else EDMUNet(pipe.unet, traits, edm),
        autoencoder=autoencoder,
        text_encoder=ClipText(pipe, traits.device, traits.dtype, words),
    )
