"""The embedded cascade: a base of 32 pixels and an upsampler to 128, as GLIDE's (arXiv:2112.10741), small.

The base is the embedded denoiser with other first and last layers: 2 x 2 pixels are one place of the network, so its places lie
as they do on latents, and it reads the same text. The upsampler is the embedded pixel model with more inputs, without text. One
adapter holds the changes of both.
"""

import hashlib
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor, nn
from transformers import CLIPTextModel, PreTrainedTokenizerFast

from sfumato.backbones import hub
from sfumato.backbones.base import Backbone, Text
from sfumato.backbones.cascade import BASE_READS, UPSAMPLER_READS, UPSCALING, Stage, cascade_backbone
from sfumato.backbones.checkpoints import read_json
from sfumato.backbones.embedded import EmbeddedText
from sfumato.backbones.pixel import COLOURS
from sfumato.embedded import WINDOW, adapter

CLASS_NAME = "EmbeddedGlide"
BASE_PATCH, UPSAMPLER_PATCH = 2, 4  # pixels


class Networks(nn.Module):
    """Both networks, born of the denoiser and the pixel model.

    Args:
        denoiser: UNet2DConditionModel, float32. Its first and last layers are replaced, in place, by ones that are zero.
        pixel: UNet2DModel, float32. Its first layer gets further inputs, in place; it answers as before, whatever they hold.
    """

    def __init__(self, denoiser: Any, pixel: Any) -> None:
        super().__init__()
        cells = BASE_PATCH**2
        denoiser.conv_in = _zero(denoiser.conv_in, (COLOURS + BASE_READS) * cells, denoiser.conv_in.out_channels)
        denoiser.conv_out = _zero(denoiser.conv_out, denoiser.conv_out.in_channels, COLOURS * cells)
        denoiser.register_to_config(in_channels=(COLOURS + BASE_READS) * cells, out_channels=COLOURS * cells)
        adapter.widen(pixel, (COLOURS + UPSAMPLER_READS) * UPSAMPLER_PATCH**2)
        self.base, self.upsampler = denoiser, pixel

    def forward(self, part: str, *given: Tensor) -> Tensor:
        """Output of "base" for patches (B, 28, h, w), timesteps and text states, or of "upsampler" for (B, 160, h, w)."""
        answer: Tensor = getattr(self, part)(*given).sample
        return answer


def _zero(like: nn.Conv2d, inputs: int, outputs: int) -> nn.Conv2d:
    """A convolution as wide as another one in places, all zero; draws nothing."""
    made = nn.utils.skip_init(nn.Conv2d, inputs, outputs, like.kernel_size, padding=like.padding, device=like.weight.device)
    for weight in made.parameters():
        nn.init.zeros_(weight)
    return made


def digest(model: Path, pixel: Path) -> str:
    """SHA-256 of the digests of the denoiser and the pixel model in these folders."""
    both = adapter.base_digest(model) + adapter.base_digest(pixel)
    return hashlib.sha256(both.encode()).hexdigest()


def from_folder(
    folder: Path,
    *,
    name: str,
    device: torch.device,
    dtype: torch.dtype,
    model: Path | None = None,
    pixel: Path | None = None,
) -> Backbone:
    """Load the adapter in `folder` with the denoiser and the pixel model that it changes.

    Args:
        folder: Holds the adapter, and other models than the embedded ones in its folders `unet`, `text_encoder`, `tokenizer` and
            `scheduler`, and `pixel`.
        name: Name that the user gave.
        device, dtype: Where, and in which number format.
        model, pixel: Folders of the denoiser and of the pixel model, in place of those.

    Raises:
        BackboneError: adapter-mismatch.
    """
    model = model or (folder if (folder / "unet").is_dir() else hub.WEIGHTS)
    pixel = pixel or (folder / "pixel" if (folder / "pixel").is_dir() else hub.WEIGHTS / "pixel")

    def part(kind: Any, path: Path, dtype: torch.dtype = torch.float32) -> Any:
        return kind.from_pretrained(path, use_safetensors=True, local_files_only=True, dtype=dtype)

    networks = Networks(part(UNet2DConditionModel, model / "unet"), part(UNet2DModel, pixel / "unet"))
    adapter.merge(networks, folder / adapter.FILE, digest(model, pixel))
    networks.to(device, dtype)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(model / "tokenizer", local_files_only=True)
    text_encoder = part(CLIPTextModel, model / "text_encoder", dtype).to(device)
    base = Stage(unet=networks.base, call=_base, patch=BASE_PATCH, scheduler_config=_scheduler(model))
    upsampler = Stage(unet=networks.upsampler, call=_upsampler, patch=UPSAMPLER_PATCH, scheduler_config=_scheduler(pixel))
    return cascade_backbone(
        base,
        upsampler,
        EmbeddedText(tokenizer, text_encoder, device, dtype),
        name=name,
        family="embedded-glide",
        resolution=UPSCALING * BASE_PATCH * int(networks.base.config.sample_size),
        context=WINDOW,
        device=device,
        dtype=dtype,
    )


def _scheduler(folder: Path) -> dict[str, Any]:
    return read_json(folder / "scheduler" / "scheduler_config.json")


def _base(unet: Any, x: Tensor, timestep: Tensor, text: Text) -> Tensor:
    answer: Tensor = unet(x, timestep, text.states).sample
    return answer


def _upsampler(unet: Any, x: Tensor, timestep: Tensor, text: Text) -> Tensor:
    answer: Tensor = unet(x, timestep).sample
    return answer
