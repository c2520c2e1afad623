"""Flow-matching transformers: Stable Diffusion 3, FLUX.1, FLUX.2 [klein], Z-Image and Qwen-Image.

They are trained on x = (1 - s) z0 + s eps to say v = eps - z0 (arXiv:2210.02747; arXiv:2403.03206). The networks and the
encoding of prompts are diffusers' own; this module says how each is called. Latents stay unpacked between calls, so that a mask
keeps its cells: packing 2x2 of them into tokens is part of the call.
"""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from sfumato.backbones.base import Conditioning
from sfumato.backbones.latent import LatentModel, freeze, guided
from sfumato.errors import Unsupported

NATIVE_CELLS = 128  # latent cells a side of the pictures that all of them were trained for: 1024 pixels
PATCH = 2  # side in latent cells of what becomes one token


class FlowTransformer(LatentModel):
    """What the families share; see `Backbone` for the interface.

    Args:
        pipe: The loaded pipeline, whose modules are used, not copied, and are frozen in evaluation mode.
        name: What the user calls the model.

    Raises:
        Unsupported: If the transformer takes more channels than the latents have, as inpainting and editing checkpoints do.
    """

    family_name: str
    packed = True  # whether tokens are made outside the transformer

    def __init__(self, pipe: Any, name: str) -> None:
        transformer = pipe.transformer
        super().__init__(
            name=name,
            family=self.family_name,
            vae=pipe.vae,
            scheduler_config=dict(pipe.scheduler.config),
            device=pipe._execution_device,
            dtype=transformer.dtype,
        )
        given = transformer.config.in_channels
        expected = self.latent_channels * (PATCH**2 if self.packed else 1)
        if given != expected:
            raise Unsupported(
                f"The transformer of '{name}' takes {given} channels where its latents have {expected}, so it was trained for"
                " inpainting or another task; give a text-to-image checkpoint instead."
            )
        self._pipe, self.transformer = pipe, transformer
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                freeze(component)
        self.prediction_type = "flow"
        self.guidance_embedding = bool(getattr(transformer.config, "guidance_embeds", False))
        self.resolution = self.factor * NATIVE_CELLS

    @torch.no_grad()
    def predict(self, latents: Tensor, timestep: float, conditioning: Conditioning, guidance_scale: float) -> Tensor:
        """See `Backbone.predict`. The branches run one after the other: their texts differ in length."""
        x = latents.to(self.device, self.dtype)
        sigma = torch.full((len(x),), timestep / 1000, dtype=torch.float32, device=self.device)
        conditional = self._velocity(x, sigma, conditioning, 1).float()
        if guidance_scale == 1.0:
            return conditional
        return self._guided(conditional, self._velocity(x, sigma, conditioning, 0).float(), guidance_scale)

    @abstractmethod
    def _velocity(self, x: Tensor, sigma: Tensor, conditioning: Conditioning, branch: int) -> Tensor:
        """eps - z0 for (B, C, h, w) latents at levels `sigma` (B,), told the text of one branch: 0 negative, 1 prompt."""

    def _guided(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        return guided(conditional, unconditional, scale)

    def schedule(self, cells: tuple[int, int], steps: int) -> dict[str, Any]:
        """See `Backbone.schedule`: schedulers that shift with the size are told the shift that diffusers' pipelines compute."""
        config = self.scheduler_config
        if not config.get("use_dynamic_shifting"):
            return {}
        mu = self._mu(cells[0] * cells[1] // PATCH**2, steps)
        return {"shift": mu if config.get("time_shift_type") == "linear" else math.exp(mu)}

    def _mu(self, tokens: int, steps: int) -> float:
        """The shift's logarithm: linear in the number of tokens (arXiv:2403.03206, section 5.3.2, as FLUX.1 has it)."""
        config = self.scheduler_config
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return float(low + (high - low) * (tokens - few) / (many - few))

    def _guidance(self, conditioning: Conditioning, count: int) -> Tensor | None:
        told = conditioning.extra.get("guidance")
        return None if told is None or not self.guidance_embedding else told[:1].expand(count)


def pack(latents: Tensor) -> Tensor:
    """(B, C, h, w) to tokens (B, h/2 w/2, 4 C), channels of a token in the order channel, row, column."""
    return F.pixel_unshuffle(latents, PATCH).flatten(2).transpose(1, 2)


def unpack(tokens: Tensor, size: tuple[int, int]) -> Tensor:
    """The inverse of `pack`; `size` is the latents' (h, w)."""
    return F.pixel_shuffle(tokens.transpose(1, 2).unflatten(2, (size[0] // PATCH, size[1] // PATCH)), PATCH)


def _pad(texts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Texts (tokens, width) of different lengths as one tensor (n, most tokens, width), and their lengths (n,)."""
    return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True), torch.tensor([len(text) for text in texts])


def _text(conditioning: Conditioning, branch: int, count: int) -> Tensor:
    """One branch's text states for a batch, (count, tokens, width), without padding."""
    states = conditioning.states[branch : branch + 1]
    if "lengths" in conditioning.extra:
        states = states[:, : int(conditioning.extra["lengths"][branch])]
    return states.expand(count, -1, -1)


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

    def _velocity(self, x: Tensor, sigma: Tensor, conditioning: Conditioning, branch: int) -> Tensor:
        velocity: Tensor = self.transformer(
            hidden_states=x,
            timestep=1000 * sigma,
            encoder_hidden_states=_text(conditioning, branch, len(x)),
            pooled_projections=conditioning.extra["pooled"][branch : branch + 1].expand(len(x), -1),
            return_dict=False,
        )[0]
        return velocity


class Flux(FlowTransformer):
    """FLUX.1: CLIP's pooled vector and T5's tokens; [dev] is told a guidance, [schnell] none."""

    family_name = "flux"

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`."""
        encoded = [self._pipe.encode_prompt(text, None, self.device) for text in (negative_prompt, prompt)]
        extra = {"pooled": torch.cat([pooled for _, pooled, _ in encoded]).to(self.dtype)}
        return Conditioning(states=torch.cat([states for states, _, _ in encoded]).to(self.dtype), extra=extra)

    def _velocity(self, x: Tensor, sigma: Tensor, conditioning: Conditioning, branch: int) -> Tensor:
        text = _text(conditioning, branch, len(x))
        height, width = x.shape[-2] // PATCH, x.shape[-1] // PATCH
        places = torch.cartesian_prod(torch.zeros(1), torch.arange(height).float(), torch.arange(width).float())
        tokens = self.transformer(
            hidden_states=pack(x),
            timestep=sigma.to(x.dtype),
            guidance=self._guidance(conditioning, len(x)),
            pooled_projections=conditioning.extra["pooled"][branch : branch + 1].expand(len(x), -1),
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

    def _velocity(self, x: Tensor, sigma: Tensor, conditioning: Conditioning, branch: int) -> Tensor:
        text = _text(conditioning, branch, len(x))
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
    """Z-Image: Qwen3 reads the prompt; the transformer is told 1 - s and answers z0 - eps."""

    family_name, packed = "z-image", False

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`."""
        positive, negative = self._pipe.encode_prompt(prompt, self.device, True, negative_prompt)
        states, lengths = _pad([negative[0].to(self.dtype), positive[0].to(self.dtype)])
        return Conditioning(states=states, extra={"lengths": lengths})

    def _velocity(self, x: Tensor, sigma: Tensor, conditioning: Conditioning, branch: int) -> Tensor:
        texts = list(_text(conditioning, branch, len(x)))
        answers = self.transformer(list(x.unsqueeze(2)), 1 - sigma, texts, return_dict=False)[0]
        return -torch.stack(list(answers)).squeeze(2)


class QwenImage(FlowTransformer):
    """Qwen-Image: Qwen2.5-VL reads the prompt; a video autoencoder; guidance keeps the length of each token's velocity."""

    family_name = "qwen-image"

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`. An empty negative prompt is a space, as in the model's own examples."""
        texts = [self._pipe.encode_prompt(text or " ", self.device)[0][0] for text in (negative_prompt, prompt)]
        states, lengths = _pad([text.to(self.dtype) for text in texts])
        return Conditioning(states=states, extra={"lengths": lengths})

    def _velocity(self, x: Tensor, sigma: Tensor, conditioning: Conditioning, branch: int) -> Tensor:
        shape = (1, x.shape[-2] // PATCH, x.shape[-1] // PATCH)
        tokens = self.transformer(
            hidden_states=pack(x),
            timestep=sigma.to(x.dtype),
            guidance=self._guidance(conditioning, len(x)),
            encoder_hidden_states=_text(conditioning, branch, len(x)),
            encoder_hidden_states_mask=None,
            img_shapes=[[shape]] * len(x),
            return_dict=False,
        )[0]
        return unpack(tokens, (x.shape[-2], x.shape[-1]))

    def _guided(self, conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
        combined, size = pack(guided(conditional, unconditional, scale)), (conditional.shape[-2], conditional.shape[-1])
        wanted = pack(conditional).norm(dim=-1, keepdim=True)
        return unpack(combined * (wanted / combined.norm(dim=-1, keepdim=True)), size)

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


FLOW_MODELS: dict[str, type[FlowTransformer]] = {  # by the class of the transformer
    "SD3Transformer2DModel": StableDiffusion3,
    "FluxTransformer2DModel": Flux,
    "Flux2Transformer2DModel": Flux2Klein,
    "ZImageTransformer2DModel": ZImage,
    "QwenImageTransformer2DModel": QwenImage,
}
