"""Denoiser of a cascade over pixels: a base that makes a small picture, and an upsampler that makes a large one of it.

Both read what is known of the picture: GLIDE (Nichol et al., ICML 2022, arXiv:2112.10741, section 2.3).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.autoencoder import freeze
from sfumato.backbones.base import Backbone, Conditions, Output, Text, TextEncoder, Traits, expand
from sfumato.backbones.families import family as family_card
from sfumato.backbones.pixel import COLOURS, Pixels
from sfumato.backbones.prediction import PREDICTIONS, read_prediction

BASE_READS = COLOURS + 1  # behind the noisy picture: what is known of the source, and where it is known
UPSAMPLER_READS = BASE_READS + COLOURS  # and the base's picture, enlarged
UPSCALING = 4  # sides of the upsampler's picture, relative to the base's


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One UNet of a cascade.

    Args:
        unet: A UNet of diffusers.
        call: Its output for an input (B, k, h, w), timesteps () and a text, if it reads one.
        patch: Side of the patches of pixels that are one place of the network; 1 for pixels.
        scheduler_config: Of the noise that it was trained on, with its prediction type.
    """

    unet: Any
    call: Callable[[Any, Tensor, Tensor, Text], Tensor]
    patch: int = 1
    scheduler_config: Mapping[str, Any]


class Cascade:
    """Both UNets; see `Denoiser` for the interface. The number of channels behind the latents says which of them runs.

    Args:
        stages: Base and upsampler. Their UNets are put into evaluation mode, frozen and laid out channels-last, in place.
        traits: What kind of model it is.
    """

    def __init__(self, stages: tuple[Stage, Stage], traits: Traits) -> None:
        self.traits = traits
        self.stages = dict(zip((BASE_READS, UPSAMPLER_READS), stages, strict=True))
        for stage in stages:
            freeze(stage.unet)

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`. The conditions' channels are those of the method, of x's size."""
        given, device = expand(given, len(x)), self.traits.device
        assert given.channels is not None
        assert given.text is not None
        stage = self.stages[given.channels.shape[1]]
        x = torch.cat([x.to(device), given.channels.to(device)], dim=1).to(self.traits.dtype)
        x = F.pixel_unshuffle(x, stage.patch).contiguous(memory_format=torch.channels_last)
        output = stage.call(stage.unet, x, torch.full((), timestep, dtype=torch.float32, device=device), given.text)
        output = F.pixel_shuffle(output.float(), stage.patch)
        return Output(output[:, :COLOURS], output[:, COLOURS:] if output.shape[1] > COLOURS else None)


def cascade_backbone(
    base: Stage,
    upsampler: Stage,
    text_encoder: TextEncoder,
    *,
    name: str,
    family: str,
    resolution: int,
    context: float,
    device: torch.device,
    dtype: torch.dtype,
) -> Backbone:
    """A model of two stages; it works at the upsampler's resolution, where pixels are their own latents.

    Raises:
        Unsupported: For an unknown prediction type.
    """
    traits = Traits(
        name=name,
        family=family,
        capabilities=family_card(family).capabilities,
        prediction=read_prediction(base.scheduler_config, name, PREDICTIONS),
        scheduler_config=base.scheduler_config,
        upsampler=upsampler.scheduler_config,
        latent_channels=COLOURS,
        factor=1,
        resolution=resolution,
        context=context,
        device=device,
        dtype=dtype,
    )
    return Backbone(denoiser=Cascade((base, upsampler), traits), autoencoder=Pixels(device), text_encoder=text_encoder)
