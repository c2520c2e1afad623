"""Backend of Stable Diffusion 1.x, 2.x and XL, and the base class of all latent UNet models.

The networks are diffusers' and transformers' own; this module only says how they are called.
"""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline
from torch import Tensor

from sfumato.backbones.base import Conditioning, Conditions, Output, expand
from sfumato.backbones.checkpoints import unet_family
from sfumato.backbones.latent import LatentModel, freeze
from sfumato.backbones.single_file import TASKS, TEXT_TO_IMAGE
from sfumato.errors import Unsupported
from sfumato.text.chunks import Embedding
from sfumato.text.clip import Encoder, Parts, encode_pair
from sfumato.text.grammar import Span, words


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
        channels, given = int(vae.config.latent_channels), unet.config.in_channels
        if given != channels:
            task = TASKS.get(given, f"another task (its UNet takes {given} channels where its latents have {channels})")
            raise Unsupported(f"'{name}' was trained for {task}; {TEXT_TO_IMAGE}.")
        super().__init__(name=name, family=family, vae=vae, scheduler_config=scheduler_config, device=device, dtype=unet.dtype)
        self.unet = freeze(unet)
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


class StableDiffusion(LatentUNet):
    """Stable Diffusion 1.x, 2.x (epsilon and v prediction) and XL.

    Args:
        text: A diffusers pipeline that holds tokenizers and text encoders, which are used but not changed.
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

    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`: the texts as they stand, brackets and all, in as many chunks as they need."""
        return self.encode_parts([[Span(prompt)]], [[Span(negative_prompt)]], size)

    @torch.no_grad()
    def encode_parts(
        self, prompt: Parts, negative: Parts, size: tuple[int, int], embeddings: Sequence[Embedding] = (), clip_skip: int = 0
    ) -> Conditioning:
        """Encode parsed prompts (see `text.grammar.parse`), unconditional first.

        Both branches leave out the same layers; SDXL's pooled text is always the last layer's, of the first chunk. SDXL (Podell
        et al., arXiv:2307.01952, section 2.2) gets `size` as the original and the target size, uncropped. An empty negative
        prompt is all zeros there if the checkpoint says `force_zeros_for_empty_prompt`.

        Args:
            prompt, negative: Their parts; each is encoded in chunks of CLIP's length, one after the other.
            size: The window's (width, height).
            embeddings: Learned words.
            clip_skip: Layers of the text encoders to leave out, as in diffusers: 1 is the web UI's 2.

        Raises:
            OptionError: option-clip-skip, if there are not enough layers.
        """
        states, pooled = encode_pair(self._encoders(), prompt, negative, embeddings, clip_skip)
        if self.family != "sdxl":
            return Conditioning(states=states.to(self.device, self.dtype), extra={})
        if not words(negative) and self._text.config.force_zeros_for_empty_prompt:
            states, pooled = (torch.cat([torch.zeros_like(both[:1]), both[1:]]) for both in (states, pooled))
        width, height = size
        time_ids = torch.tensor([[height, width, 0, 0, height, width]], dtype=torch.float32, device=self.device)
        extra = {"text_embeds": pooled.to(self.device, self.dtype), "time_ids": time_ids.repeat(2, 1)}
        return Conditioning(states=states.to(self.device, self.dtype), extra=extra)

    def text_widths(self) -> list[int]:
        """Of the vectors that each text encoder reads."""
        return [encoder.width for encoder in self._encoders()]

    def _encoders(self) -> list[Encoder]:
        text, xl = self._text, self.family == "sdxl"
        pairs = [(text.tokenizer, text.text_encoder), *([(text.tokenizer_2, text.text_encoder_2)] if xl else [])]
        return [
            Encoder(tokenizer, model, number, xl, self.device, functools.partial(text.maybe_convert_prompt, tokenizer=tokenizer))
            for number, (tokenizer, model) in enumerate(pairs)
        ]


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
