"""Networks of the size of Stable Diffusion 1.5 without its weights: on the meta device, random, or computing nothing."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from diffusers import AutoencoderKL, PNDMScheduler, StableDiffusionInpaintPipeline, StableDiffusionPipeline, UNet2DConditionModel
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.unets.unet_2d_condition import UNet2DConditionOutput
from tokenizers.pre_tokenizers import ByteLevel
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from sfumato.bench.speed.ledger import Network, networks
from sfumato.errors import BackboneError

# The published configuration of Stable Diffusion 1.5; the rest are the libraries' defaults.
UNET: dict[str, Any] = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
}
VAE: dict[str, Any] = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "sample_size": 512,
}
TEXT: dict[str, Any] = {"hidden_size": 768, "intermediate_size": 3072, "num_hidden_layers": 12, "num_attention_heads": 12}
SCHEDULER: dict[str, Any] = {
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "skip_prk_steps": True,
    "steps_offset": 1,
}
Changes = Mapping[str, dict[str, Any]]
UNCHANGED: Changes = {}
BLOCK = 1_000_003  # random numbers that weights are tiled with; prime, so that no two rows of a matrix are equal


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a Stable Diffusion."""

    unet: Any
    vae: Any
    text_encoder: Any
    tokenizer: Any

    @property
    def networks(self) -> tuple[Network, ...]:
        """What is called."""
        return networks(self.unet, self.vae, self.text_encoder)

    def pipe(self, kind: Any = StableDiffusionPipeline, scheduler: Any = None) -> Any:
        """A pipeline of diffusers with these parts, the scheduler by default the one that Stable Diffusion 1.5 comes with."""
        made = kind(
            **vars(self),
            scheduler=scheduler or PNDMScheduler(**SCHEDULER),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
        made.set_progress_bar_config(disable=True)
        return made

    def inpaint_pipe(self, scheduler: Any = None) -> Any:
        """diffusers' inpainting pipeline of these parts."""
        return self.pipe(StableDiffusionInpaintPipeline, scheduler)


def on_meta(side: int = 512, channels: int = 4, changes: Changes = UNCHANGED) -> Parts:
    """Networks without weights, to count with.

    Args:
        side: Native side of pictures in pixels.
        channels: That the UNet reads: 4, or 9 for inpainting.
        changes: Of the configurations of `unet`, `vae` and `text`.
    """
    tokens = tokenizer()
    with torch.device("meta"):
        return Parts(
            unet=UNet2DConditionModel(**UNET | {"in_channels": channels, "sample_size": side // 8} | changes.get("unet", {})),
            vae=AutoencoderKL(**VAE | changes.get("vae", {})),
            text_encoder=CLIPTextModel(_text_config(tokens, changes.get("text", {}))),
            tokenizer=tokens,
        )


def random(dtype: torch.dtype, side: int = 512, channels: int = 4, changes: Changes = UNCHANGED) -> Parts:
    """Networks with random weights, the same on every call; arguments as of `on_meta`.

    Raises:
        BackboneError: numerics, if what they compute is not finite.
    """
    parts = on_meta(side, channels, changes)
    for module in (parts.unet, parts.vae, parts.text_encoder):
        nn.Module.to(module, dtype)
        _fill(module)
    with torch.inference_mode():
        states = parts.text_encoder(torch.zeros(1, 77, dtype=torch.long))[0]
        code = parts.vae.encode(torch.zeros(1, 3, 64, 64, dtype=dtype)).latent_dist.mode()
        given = torch.cat([code, code, code], 1)[:, :channels]
        made = parts.vae.decode(parts.unet(given, 500, encoder_hidden_states=states).sample).sample
    if not made.isfinite().all():
        raise BackboneError(f"The random networks give numbers that are not finite in {dtype}.", code="numerics")
    return parts


def _fill(module: nn.Module) -> None:
    """Give a module on the meta device random weights of variance 1 / fan-in, norms of scale 1 and biases of 0; in place."""
    module.to_empty(device="cpu").eval().requires_grad_(False)
    block = torch.randn(BLOCK, generator=torch.Generator().manual_seed(0))
    for name, weight in module.named_parameters():
        if weight.ndim < 2:
            weight.fill_(0.0 if name.endswith("bias") else 1.0)
            continue
        scaled = (block / math.sqrt(weight[0].numel())).to(weight.dtype)
        flat = weight.view(-1)
        for start in range(0, len(flat), BLOCK):
            flat[start : start + BLOCK] = scaled[: len(flat) - start]
    for name, buffer in module.named_buffers():
        if not name.endswith("position_ids"):
            raise BackboneError(f"No values are known for the buffer {name}.")
        buffer.copy_(torch.arange(buffer.shape[-1]).expand_as(buffer))


def tokenizer() -> Any:
    """CLIP's own kind of tokenizer over single bytes: no merges, so words become letters."""
    letters = sorted(ByteLevel.alphabet())
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    return CLIPTokenizer(vocab={token: i for i, token in enumerate(tokens)}, merges=[], model_max_length=77)


def _text_config(tokens: Any, changes: Mapping[str, Any]) -> CLIPTextConfig:
    ends = {"bos_token_id": tokens.bos_token_id, "eos_token_id": tokens.eos_token_id, "pad_token_id": tokens.pad_token_id}
    return CLIPTextConfig(**TEXT | {"vocab_size": len(tokens)} | ends | dict(changes))


def stand_ins(side: int = 512, channels: int = 4) -> Parts:
    """Networks that answer with zeros of the right shape at once, and a text encoder of one narrow layer."""
    tokens = tokenizer()
    with torch.device("meta"):
        unet = _UNet(**UNET | {"in_channels": channels, "sample_size": side // 8})
        vae = _VAE(**VAE)
    text = CLIPTextModel(_text_config(tokens, {"num_hidden_layers": 1, "intermediate_size": 64}))
    return Parts(unet=unet, vae=vae, text_encoder=text.eval(), tokenizer=tokens)


class _OnCPU:
    """Says that it is on the CPU in float32, though its weights are nowhere."""

    device, dtype = torch.device("cpu"), torch.float32

    def zeros(self, *shape: int) -> Tensor:
        """The same tensor for the same shape."""
        answers: dict[tuple[int, ...], Tensor] = vars(self).setdefault("answers", {})
        if shape not in answers:
            answers[shape] = torch.zeros(shape)
        return answers[shape]


class _UNet(_OnCPU, UNet2DConditionModel):
    def forward(self, sample: Tensor, timestep: Any, return_dict: bool = True, **given: Any) -> Any:  # type: ignore[override]
        made = self.zeros(len(sample), self.config["out_channels"], *sample.shape[2:])
        return UNet2DConditionOutput(sample=made) if return_dict else (made,)


class _VAE(_OnCPU, AutoencoderKL):
    def encode(self, x: Tensor) -> AutoencoderKLOutput:  # type: ignore[override]
        code = self.zeros(len(x), 8, x.shape[2] // 8, x.shape[3] // 8)
        return AutoencoderKLOutput(latent_dist=DiagonalGaussianDistribution(code))

    def decode(self, z: Tensor, return_dict: bool = True, generator: Any = None) -> Any:  # type: ignore[override]
        made = self.zeros(len(z), 3, 8 * z.shape[2], 8 * z.shape[3])
        return DecoderOutput(sample=made) if return_dict else (made,)
