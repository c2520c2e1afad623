"""Stable Diffusion 1.x, 2.x and XL, and what all latent UNet models share.

The networks are diffusers' and transformers' own; this module only says how they are called.
"""

import functools
from collections.abc import Callable
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from torch import Tensor

from sfumato.backbones.base import Conditioning, Conditions, Output, expand
from sfumato.backbones.checkpoints import unet_family
from sfumato.backbones.latent import LatentModel, freeze
from sfumato.errors import Unsupported

LONG_PRODUCT = 256  # of 576 numbers they were seen to differ, of 192 never


class LatentUNet(LatentModel):
    """A UNet that denoises the latents of an autoencoder; subclasses add the text. See `Backbone` for the interface.

    Args:
        name, family, vae, scheduler_config, device: As for `LatentModel`.
        unet: UNet2DConditionModel.

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
        super().__init__(name=name, family=family, vae=vae, scheduler_config=scheduler_config, device=device, dtype=unet.dtype)
        self.unet = freeze(unet)
        if device.type == "cpu" and unet.dtype != torch.float32:
            _multiply_one_by_one(self.unet)
        side = unet.config.sample_size
        self.resolution = self.factor * (side if isinstance(side, int) else min(side))

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`."""
        given = expand(given, len(x))
        assert given.text is not None
        x = x.to(self.device, self.dtype)
        if given.channels is not None:
            x = torch.cat([x, given.channels.to(x)], dim=1)
        added = {name.value: tensor for name, tensor in given.extras.items()}
        if given.text.pooled is not None:
            added["text_embeds"] = given.text.pooled
        prediction = self.unet(
            x.contiguous(memory_format=torch.channels_last),
            torch.tensor(timestep, dtype=torch.float32, device=self.device),
            encoder_hidden_states=given.text.states,
            added_cond_kwargs=added or None,
        ).sample
        return Output(prediction.float())


def _multiply_one_by_one(module: torch.nn.Module) -> None:
    """Let linear layers of many inputs take the samples of a batch one by one.

    Some CPUs add up long products in half precision as the size of the batch suits, and a picture must not depend on how many
    are made beside it.
    """
    for layer in module.modules():
        if isinstance(layer, torch.nn.Linear) and layer.in_features > LONG_PRODUCT:
            layer.forward = functools.partial(_one_by_one, layer.forward)  # type: ignore[method-assign]


def _one_by_one(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    return torch.cat([forward(one) for one in x.split(1)]) if len(x) > 1 else forward(x)


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
