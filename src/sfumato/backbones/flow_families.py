"""Backends of the flow-matching families: Stable Diffusion 3, FLUX.1, FLUX.2 [klein], Z-Image and Qwen-Image."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones import flow_text
from sfumato.backbones.autoencoder import LatentAutoencoder, freeze
from sfumato.backbones.base import Backbone, Conditions, Text
from sfumato.backbones.flow import FlowTransformer, TokenSites, flow_traits
from sfumato.backbones.packing import PATCH, pack, unpack


def text_of(given: Conditions) -> Text:
    """The prompt, which these models cannot do without."""
    assert given.text is not None
    return given.text


class StableDiffusion3(FlowTransformer):
    """Stable Diffusion 3 and 3.5: three text encoders, of which the largest may be left out."""

    packed = False
    sites = TokenSites(embedder="pos_embed", text_first=False)

    @classmethod
    def side(cls, transformer: Any) -> int:
        """As its configuration says."""
        return int(transformer.config.sample_size)

    def _velocity(self, x: Tensor, sigma: Tensor, given: Conditions) -> Tensor:
        velocity: Tensor = self.transformer(
            hidden_states=x,
            timestep=1000 * sigma,
            encoder_hidden_states=text_of(given).states,
            pooled_projections=text_of(given).pooled,
            return_dict=False,
        )[0]
        return velocity


class Flux(FlowTransformer):
    """FLUX.1: CLIP's pooled vector and T5's tokens; [dev] takes an embedded guidance scale, [schnell] none."""

    sites = TokenSites(embedder="x_embedder", rotary="pos_embed")

    def _velocity(self, x: Tensor, sigma: Tensor, given: Conditions) -> Tensor:
        text = text_of(given).states
        height, width = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        places = torch.cartesian_prod(torch.zeros(1), torch.arange(height).float(), torch.arange(width).float())
        tokens = self.transformer(
            hidden_states=pack(x),
            timestep=sigma.to(x.dtype),
            guidance=self._guidance(given),
            pooled_projections=text_of(given).pooled,
            encoder_hidden_states=text,
            txt_ids=torch.zeros(text.shape[1], 3, device=x.device, dtype=x.dtype),
            img_ids=places.to(x),
            return_dict=False,
        )[0]
        return unpack(tokens, (x.shape[-2], x.shape[-1]))


class Flux2Klein(FlowTransformer):
    """FLUX.2 [klein]: Qwen3 reads the prompt."""

    sites = TokenSites(embedder="x_embedder", rotary="pos_embed")

    def _velocity(self, x: Tensor, sigma: Tensor, given: Conditions) -> Tensor:
        text = text_of(given).states
        one, height, width = torch.arange(1), torch.arange(x.shape[-2] // PATCH), torch.arange(x.shape[-1] // PATCH)
        tokens = self.transformer(
            hidden_states=pack(x),
            timestep=sigma.to(x.dtype),
            guidance=None,
            encoder_hidden_states=text,
            txt_ids=torch.cartesian_prod(one, one, one, torch.arange(text.shape[1])).to(x.device).expand(len(x), -1, -1),
            img_ids=torch.cartesian_prod(one, height, width, one).to(x.device).expand(len(x), -1, -1),
            return_dict=False,
        )[0]
        return unpack(tokens, (x.shape[-2], x.shape[-1]))

    @classmethod
    def shift(cls, config: Mapping[str, Any], tokens: int, steps: int) -> float:
        """What diffusers' pipeline computes, fitted to the size and the number of steps."""
        return float(compute_empirical_mu(image_seq_len=tokens, num_steps=steps))


class ZImage(FlowTransformer):
    """Z-Image: Qwen3 reads the prompt; the transformer takes 1 - s as timestep and predicts z0 - eps."""

    packed = False

    def _velocity(self, x: Tensor, sigma: Tensor, given: Conditions) -> Tensor:
        texts = list(text_of(given).states)
        answers = self.transformer(list(x.unsqueeze(2)), 1 - sigma, texts, return_dict=False)[0]
        return -torch.stack(list(answers)).squeeze(2)


class QwenImage(FlowTransformer):
    """Qwen-Image: Qwen2.5-VL reads the prompt; guidance keeps the length of each token's velocity."""

    keeps_norm = True
    sites = TokenSites(embedder="img_in", rotary="pos_embed", rotated=1)

    def _velocity(self, x: Tensor, sigma: Tensor, given: Conditions) -> Tensor:
        shape = (1, x.shape[-2] // PATCH, x.shape[-1] // PATCH)
        tokens = self.transformer(
            hidden_states=pack(x),
            timestep=sigma.to(x.dtype),
            guidance=self._guidance(given),
            encoder_hidden_states=text_of(given).states,
            encoder_hidden_states_mask=None,
            img_shapes=[[shape]] * len(x),
            return_dict=False,
        )[0]
        return unpack(tokens, (x.shape[-2], x.shape[-1]))


class Flux2Autoencoder(LatentAutoencoder):
    """Latents are standardised per channel of a token."""

    def unscale(self, latents: Tensor) -> Tensor:
        """See `Autoencoder.unscale`: the batch norm's statistics, undone on packed channels."""
        mean, std = self._statistics(latents)
        return F.pixel_shuffle(F.pixel_unshuffle(latents, PATCH) * std + mean, PATCH).to(self.device, self.vae.dtype)

    def _scaled(self, code: Tensor) -> Tensor:
        mean, std = self._statistics(code)
        return F.pixel_shuffle((F.pixel_unshuffle(code, PATCH) - mean) / std, PATCH)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        std = (norm.running_var + self.vae.config.batch_norm_eps).sqrt()
        return norm.running_mean.view(1, -1, 1, 1).to(like), std.view(1, -1, 1, 1).to(like)


class QwenAutoencoder(LatentAutoencoder):
    """An autoencoder of videos, of which a picture is one frame."""

    def unscale(self, latents: Tensor) -> Tensor:
        """See `Autoencoder.unscale`: (B, C, h, w) to a video of one frame, (B, C, 1, h, w)."""
        mean, std = self._statistics(latents)
        return (latents * std + mean).unsqueeze(2).to(self.device, self.vae.dtype)

    def _scaled(self, code: Tensor) -> Tensor:
        mean, std = self._statistics(code)
        return (code.squeeze(2) - mean) / std

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        mean, std = like.new_tensor(self.vae.config.latents_mean), like.new_tensor(self.vae.config.latents_std)
        return mean.view(1, -1, 1, 1), std.view(1, -1, 1, 1)

    def _to_vae(self, pixels: Tensor) -> Tensor:
        return pixels.unsqueeze(2)

    def _from_vae(self, pixels: Tensor) -> Tensor:
        return pixels.squeeze(2)


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The classes that play a family's roles."""

    family: str
    denoiser: type[FlowTransformer]
    text: type[flow_text.PipelineText]
    autoencoder: type[LatentAutoencoder] = LatentAutoencoder


PARTS: dict[str, Parts] = {  # by the class of the transformer
    "SD3Transformer2DModel": Parts(family="sd3", denoiser=StableDiffusion3, text=flow_text.StableDiffusion3Text),
    "FluxTransformer2DModel": Parts(family="flux", denoiser=Flux, text=flow_text.FluxText),
    "Flux2Transformer2DModel": Parts(
        family="flux2", denoiser=Flux2Klein, text=flow_text.Flux2KleinText, autoencoder=Flux2Autoencoder
    ),
    "ZImageTransformer2DModel": Parts(family="z-image", denoiser=ZImage, text=flow_text.ZImageText),
    "QwenImageTransformer2DModel": Parts(
        family="qwen-image", denoiser=QwenImage, text=flow_text.QwenImageText, autoencoder=QwenAutoencoder
    ),
}


def from_pipe(pipe: Any, name: str) -> Backbone:
    """Wrap a loaded pipeline, whose modules are used, not copied, and are frozen in evaluation mode.

    Raises:
        Unsupported: See `flow_traits`.
    """
    parts = PARTS[type(pipe.transformer).__name__]
    autoencoder = parts.autoencoder(pipe.vae, name=name, device=pipe._execution_device)
    traits = flow_traits(pipe, parts.denoiser, autoencoder, name=name, family=parts.family)
    for component in pipe.components.values():
        if isinstance(component, torch.nn.Module):
            freeze(component)
    return Backbone(
        denoiser=parts.denoiser(pipe.transformer, traits),
        autoencoder=autoencoder,
        text_encoder=parts.text(pipe, traits.device, traits.dtype),
    )
