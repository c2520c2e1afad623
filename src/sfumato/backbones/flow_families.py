"""Backends of the flow-matching families: Stable Diffusion 3, FLUX.1, FLUX.2 [klein], Z-Image and Qwen-Image."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.base import Conditioning, Conditions, Text
from sfumato.backbones.flow import FlowTransformer, pad
from sfumato.backbones.packing import PATCH, pack, unpack
from sfumato.text.limits import TextReader

TOKENS, T5_TOKENS_SD3 = 512, 256  # of a prompt, that diffusers' pipelines encode by default


def text_of(given: Conditions) -> Text:
    """The prompt, which these models cannot do without."""
    assert given.text is not None
    return given.text


class StableDiffusion3(FlowTransformer):
    """Stable Diffusion 3 and 3.5: three text encoders, of which the largest may be left out."""

    family_name, packed = "sd3", False

    def __init__(self, pipe: Any, name: str) -> None:
        super().__init__(pipe, name)
        self.resolution = self.factor * int(self.transformer.config.sample_size)

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`."""
        positive, negative, pooled, negative_pooled = self._pipe.encode_prompt(
            prompt, prompt, prompt, device=self.device, negative_prompt=negative_prompt
        )
        extra = {"pooled": torch.cat([negative_pooled, pooled]).to(self.dtype)}
        return Conditioning(states=torch.cat([negative, positive]).to(self.dtype), extra=extra)

    def text_readers(self) -> list[TextReader]:
        """See `Backbone.text_readers`."""
        clip = TextReader("CLIP", self._pipe.tokenizer, self._pipe.tokenizer_max_length)
        return [clip] if self._pipe.text_encoder_3 is None else [clip, TextReader("T5", self._pipe.tokenizer_3, T5_TOKENS_SD3)]

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

    family_name = "flux"

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`."""
        encoded = [self._pipe.encode_prompt(text, None, self.device) for text in (negative_prompt, prompt)]
        extra = {"pooled": torch.cat([pooled for _, pooled, _ in encoded]).to(self.dtype)}
        return Conditioning(states=torch.cat([states for states, _, _ in encoded]).to(self.dtype), extra=extra)

    def text_readers(self) -> list[TextReader]:
        """See `Backbone.text_readers`."""
        clip = TextReader("CLIP", self._pipe.tokenizer, self._pipe.tokenizer_max_length)
        return [clip, TextReader("T5", self._pipe.tokenizer_2, TOKENS)]

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
    """FLUX.2 [klein]: Qwen3 reads the prompt; latents are standardised per channel of a token."""

    family_name = "flux2"

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`."""
        states = torch.cat([self._pipe.encode_prompt(text, self.device)[0] for text in (negative_prompt, prompt)])
        return Conditioning(states=states.to(self.dtype), extra={})

    def text_readers(self) -> list[TextReader]:
        """See `Backbone.text_readers`."""
        return [TextReader("Qwen3", self._pipe.tokenizer, TOKENS, _chat(self._pipe.tokenizer, enable_thinking=False))]

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

    def unscale(self, latents: Tensor) -> Tensor:
        """See `Backbone.unscale`: the batch norm's statistics, undone on packed channels."""
        mean, std = self._statistics(latents)
        return F.pixel_shuffle(F.pixel_unshuffle(latents, PATCH) * std + mean, PATCH).to(self.device, self.vae.dtype)

    def _scaled(self, code: Tensor) -> Tensor:
        mean, std = self._statistics(code)
        return F.pixel_shuffle((F.pixel_unshuffle(code, PATCH) - mean) / std, PATCH)

    def _statistics(self, like: Tensor) -> tuple[Tensor, Tensor]:
        norm = self.vae.bn
        std = (norm.running_var + self.vae.config.batch_norm_eps).sqrt()
        return norm.running_mean.view(1, -1, 1, 1).to(like), std.view(1, -1, 1, 1).to(like)

    def _mu(self, tokens: int, steps: int) -> float:
        """What diffusers' pipeline computes, fitted to the size and the number of steps."""
        from diffusers.pipelines.flux2.pipeline_flux2_klein import compute_empirical_mu

        return float(compute_empirical_mu(image_seq_len=tokens, num_steps=steps))


class ZImage(FlowTransformer):
    """Z-Image: Qwen3 reads the prompt; the transformer takes 1 - s as timestep and predicts z0 - eps."""

    family_name, packed = "z-image", False

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`."""
        positive, negative = self._pipe.encode_prompt(prompt, self.device, True, negative_prompt)
        states, lengths = pad([negative[0].to(self.dtype), positive[0].to(self.dtype)])
        return Conditioning(states=states, extra={"lengths": lengths})

    def text_readers(self) -> list[TextReader]:
        """See `Backbone.text_readers`."""
        return [TextReader("Qwen3", self._pipe.tokenizer, TOKENS, _chat(self._pipe.tokenizer, enable_thinking=True))]

    def _velocity(self, x: Tensor, sigma: Tensor, given: Conditions) -> Tensor:
        texts = list(text_of(given).states)
        answers = self.transformer(list(x.unsqueeze(2)), 1 - sigma, texts, return_dict=False)[0]
        return -torch.stack(list(answers)).squeeze(2)


class QwenImage(FlowTransformer):
    """Qwen-Image: Qwen2.5-VL reads the prompt; a video autoencoder; guidance keeps the length of each token's velocity."""

    family_name, keeps_norm = "qwen-image", True

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`. An empty negative prompt is a space, as in the model's own examples."""
        texts = [self._pipe.encode_prompt(text or " ", self.device)[0][0] for text in (negative_prompt, prompt)]
        states, lengths = pad([text.to(self.dtype) for text in texts])
        return Conditioning(states=states, extra={"lengths": lengths})

    def text_readers(self) -> list[TextReader]:
        """See `Backbone.text_readers`."""
        length = self._pipe.tokenizer_max_length + self._pipe.prompt_template_encode_start_idx
        return [TextReader("Qwen2.5-VL", self._pipe.tokenizer, length, self._pipe.prompt_template_encode.format)]

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

    def unscale(self, latents: Tensor) -> Tensor:
        """See `Backbone.unscale`: (B, C, h, w) to a video of one frame, (B, C, 1, h, w)."""
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


def _chat(tokenizer: Any, **options: bool) -> Callable[[str], str]:
    """What makes a prompt a user's message to a language model, as diffusers' pipelines do."""

    def template(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))

    return template


FLOW_MODELS: dict[str, type[FlowTransformer]] = {  # by the class of the transformer
    "SD3Transformer2DModel": StableDiffusion3,
    "FluxTransformer2DModel": Flux,
    "Flux2Transformer2DModel": Flux2Klein,
    "ZImageTransformer2DModel": ZImage,
    "QwenImageTransformer2DModel": QwenImage,
}
