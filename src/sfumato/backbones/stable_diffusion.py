"""Stable Diffusion 1.x, 2.x and XL, and what all latent UNet models share.

The networks are diffusers' and transformers' own; this module only says how they are called. Latent Diffusion (Rombach et al.,
CVPR 2022, section 3.1): `z = (code - shift_factor) * scaling_factor`, with the code the mean of the autoencoder's posterior.
"""

import copy
from abc import ABC, abstractmethod
from typing import Any, cast

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from torch import Tensor

from sfumato.backbones.base import Conditioning
from sfumato.backbones.checkpoints import unet_family
from sfumato.errors import Unsupported


class LatentUNet(ABC):
    """A UNet that denoises the latents of an autoencoder; subclasses add the text. See `Backbone` for the interface.

    The modules are put into evaluation mode, frozen and laid out channels-last, in place. One thing is copied: an autoencoder
    whose configuration says that it overflows in float16 (SDXL's `force_upcast`) runs as a float32 copy.

    Args:
        name: What the user calls the model.
        family: "embedded", "sd1", "sd2", "sdxl" or "ldm".
        unet: UNet2DConditionModel.
        vae: Autoencoder with diffusers' `encode` and `decode`.
        scheduler_config: Of the checkpoint, in diffusers' keys.
        device: Where the networks run.

    Raises:
        Unsupported: If the UNet takes more channels than the autoencoder's code has, as inpainting checkpoints do.
    """

    def __init__(
        self, *, name: str, family: str, unet: Any, vae: Any, scheduler_config: dict[str, Any], device: torch.device
    ) -> None:
        channels = int(vae.config.latent_channels)
        if unet.config.in_channels != channels:
            raise Unsupported(
                f"The UNet of '{name}' takes {unet.config.in_channels} channels where its latents have {channels}, so it was "
                "trained for inpainting or another task; give a text-to-image checkpoint instead."
            )
        overflows = vae.dtype == torch.float16 and getattr(vae.config, "force_upcast", False)
        self.name = name
        self.family = family
        self.device = device
        self.dtype: torch.dtype = unet.dtype
        self.unet = _freeze(unet)
        self.vae = _freeze(copy.deepcopy(vae).float() if overflows else vae)
        self.scheduler_config = dict(scheduler_config)
        self.guidance_embedding = False
        self.prediction_type = str(scheduler_config.get("prediction_type", "epsilon"))
        self.latent_channels = channels
        self.factor = 2 ** (len(vae.config.block_out_channels) - 1)
        side = unet.config.sample_size
        self.resolution = self.factor * (side if isinstance(side, int) else min(side))
        self._scale = float(vae.config.scaling_factor)
        self._shift = float(getattr(vae.config, "shift_factor", None) or 0.0)

    @torch.no_grad()
    def encode(self, pixels: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """See `Backbone.encode`. The latents are float32, on the model's device.

        Args:
            pixels: (B, 3, H, W) in [-1, 1], sides divisible by `factor`.
            generator: Draws the posterior's sample; without it the posterior's mean is taken.
        """
        x = pixels.to(self.device, self.vae.dtype, memory_format=torch.channels_last)
        encoded = self.vae.encode(x)
        if hasattr(encoded, "latents"):  # VQModel: no posterior, and the code is quantised when it is decoded
            code = encoded.latents
        else:
            posterior = encoded.latent_dist
            code = posterior.mode() if generator is None else posterior.sample(generator)
        return cast(Tensor, (code.float() - self._shift) * self._scale)

    @torch.no_grad()
    def decode(self, latents: Tensor) -> Tensor:
        """See `Backbone.decode`."""
        pixels = self.vae.decode(self.unscale(latents)).sample
        return cast(Tensor, pixels.float().clamp(-1.0, 1.0))

    def unscale(self, latents: Tensor) -> Tensor:
        """See `Backbone.unscale`. The code has the autoencoder's device and dtype; the arithmetic keeps that of `latents`."""
        return (latents / self._scale + self._shift).to(self.device, self.vae.dtype)

    @torch.no_grad()
    def predict(self, latents: Tensor, timestep: float, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """See `Backbone.predict`. Guidance: Ho and Salimans, arXiv:2207.12598, in the form of Stable Diffusion.

        With guidance_scale 1 the unconditional branch cancels and only the conditional one runs.
        """
        guided = guidance_scale != 1.0
        branches = slice(0, 2) if guided else slice(1, 2)
        count = len(latents)
        x = latents.to(self.device, self.dtype).repeat(2 if guided else 1, 1, 1, 1)
        extra = {key: value[branches].repeat_interleave(count, 0) for key, value in conditioning.extra.items()}
        output = self.unet(
            x.contiguous(memory_format=torch.channels_last),
            torch.tensor(timestep, dtype=torch.float32, device=self.device),
            encoder_hidden_states=conditioning.states[branches].repeat_interleave(count, 0),
            added_cond_kwargs=extra or None,
        ).sample.float()
        if not guided:
            return cast(Tensor, output)
        unconditional, conditional = output.chunk(2)
        return cast(Tensor, unconditional + guidance_scale * (conditional - unconditional))

    @abstractmethod
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`."""

    def schedule(self, cells: tuple[int, int], steps: int) -> dict[str, Any]:
        """See `Backbone.schedule`."""
        return {}

    def unknown_words(self, prompt: str) -> list[str]:
        """None: the text encoders of these models split any word into pieces that they know."""
        return []

    def known_words(self) -> list[str]:
        """None in particular, for the same reason."""
        return []


class StableDiffusion(LatentUNet):
    """Stable Diffusion 1.x, 2.x (epsilon and v prediction) and XL.

    Args:
        text: A diffusers pipeline that holds tokenizers and text encoders, of which only `encode_prompt` is used.
        **parts: As for `LatentUNet`.
    """

    def __init__(self, text: StableDiffusionPipeline | StableDiffusionXLPipeline, **parts: Any) -> None:
        super().__init__(**parts)
        self._text = text
        for component in text.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval().requires_grad_(False)

    @classmethod
    def from_pipe(cls, pipe: Any, name: str | None = None) -> "StableDiffusion":
        """Build from a loaded diffusers pipeline (text-to-image, image-to-image or 4-channel inpainting).

        The pipeline's own modules are used, not copied: see `LatentUNet` for what changes about them.

        Raises:
            Unsupported: For a 9-channel UNet, or SDXL's refiner, which has no first text encoder.
        """
        name = name or pipe.config.get("_name_or_path") or type(pipe).__name__
        family = unet_family(pipe.unet.config)
        if pipe.text_encoder is None:
            raise Unsupported(f"'{name}' has no first text encoder, as SDXL's refiner; give a base checkpoint instead.")
        return cls(
            xl_text_pipeline(pipe) if family == "sdxl" else text_pipeline(pipe),
            name=name,
            family=family,
            unet=pipe.unet,
            vae=pipe.vae,
            scheduler_config=dict(pipe.scheduler.config),
            device=pipe._execution_device,
        )

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`.

        SDXL (Podell et al., arXiv:2307.01952, section 2.2) is told that image and target are `size`, uncropped. An empty
        negative prompt is all zeros there if the checkpoint says `force_zeros_for_empty_prompt`.
        """
        if self.family != "sdxl":
            conditional, unconditional = self._text.encode_prompt(prompt, self.device, 1, True, negative_prompt)
            return Conditioning(states=torch.cat([unconditional, conditional]).to(self.dtype), extra={})
        conditional, unconditional, pooled, unconditional_pooled = self._text.encode_prompt(
            prompt, device=self.device, negative_prompt=negative_prompt or None
        )
        width, height = size
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=self.device)
        extra = {
            "text_embeds": torch.cat([unconditional_pooled, pooled]).to(self.device, self.dtype),
            "time_ids": time_ids.repeat(2, 1),
        }
        return Conditioning(states=torch.cat([unconditional, conditional]).to(self.dtype), extra=extra)


def _freeze(module: Any) -> Any:
    return module.eval().requires_grad_(False).to(memory_format=torch.channels_last)


def text_pipeline(pipe: Any) -> StableDiffusionPipeline:
    """The text half of a pipeline, in the class whose `encode_prompt` we call."""
    return StableDiffusionPipeline(
        vae=None,
        text_encoder=pipe.text_encoder,
        tokenizer=pipe.tokenizer,
        unet=None,
        scheduler=None,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )


def xl_text_pipeline(pipe: Any) -> StableDiffusionXLPipeline:
    return StableDiffusionXLPipeline(
        vae=None,
        text_encoder=pipe.text_encoder,
        text_encoder_2=pipe.text_encoder_2,
        tokenizer=pipe.tokenizer,
        tokenizer_2=pipe.tokenizer_2,
        unet=None,
        scheduler=None,
        force_zeros_for_empty_prompt=pipe.config.get("force_zeros_for_empty_prompt", True),
        add_watermarker=False,
    )
