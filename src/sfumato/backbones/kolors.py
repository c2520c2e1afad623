"""Kolors (Kuaishou, 2024): the UNet of Stable Diffusion XL that reads ChatGLM3-6B, as text-to-image and for inpainting.

A linear layer of the UNet (`encoder_hid_proj`) brings the text's states to its width; the pooled text is as wide as the encoder.
The chain has 1,100 levels. The inpainting version is published part by part: without model_index.json, with the tokenizer's files
beside the text encoder's. The networks and the tokenizer are diffusers' own; the tokenizer needs the package sentencepiece.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.pipelines.kolors.pipeline_kolors import KolorsPipeline
from diffusers.pipelines.kolors.text_encoder import ChatGLMModel
from diffusers.pipelines.kolors.tokenizer import ChatGLMTokenizer
from torch import Tensor

from sfumato.backbones.autoencoder import LatentAutoencoder
from sfumato.backbones.base import Backbone
from sfumato.backbones.checkpoints import variant
from sfumato.backbones.flow_text import PipelineText
from sfumato.backbones.prediction import check_schedule
from sfumato.backbones.unet import UNet, unet_traits
from sfumato.text.limits import TextReader

TOKENS = 256  # default `max_sequence_length` of diffusers' pipeline; the first two are [gMASK] and sop


class KolorsText(PipelineText):
    """ChatGLM3: the input of its last layer, and that layer's output at the last token, before the final norm.

    Prompts are padded on the left to 256 tokens. No prompt is the empty one: zeros were not trained for.
    """

    def _encode(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        states, _, pooled, _ = self._pipe.encode_prompt(prompt, self._device, do_classifier_free_guidance=False)
        return states, pooled

    def text_readers(self) -> list[TextReader]:
        """See `TextEncoder.text_readers`."""
        return [TextReader("ChatGLM3", self._pipe.tokenizer, TOKENS)]


def from_pipe(pipe: Any, name: str) -> Backbone:
    """Wrap a loaded pipeline of diffusers, with a UNet of four channels or nine, whose modules are used, not copied.

    Raises:
        Unsupported: For a UNet that reads pictures but is none for inpainting, or a scheduler with noise levels of its own.
    """
    check_schedule(pipe.scheduler, name)
    autoencoder = LatentAutoencoder(pipe.vae, name=name, device=pipe._execution_device)
    config = dict(pipe.scheduler.config)
    traits = unet_traits(pipe.unet, autoencoder, name=name, family="kolors", scheduler_config=config)
    pipe.text_encoder.eval().requires_grad_(False)
    return Backbone(
        denoiser=UNet(pipe.unet, traits),
        autoencoder=autoencoder,
        text_encoder=KolorsText(pipe, traits.device, traits.dtype),
    )


def read_folder(
    folder: Path, index: Mapping[str, Any], *, dtype: torch.dtype, use_safetensors: bool | None, vae: Any = None
) -> KolorsPipeline:
    """Load the parts of a model in a folder, which may have no model_index.json.

    Args:
        folder: With a subfolder for each part; the tokenizer's files may be in that of the text encoder.
        index: See `checkpoints.read_index`.
        dtype: Number format.
        use_safetensors: True refuses pickles.
        vae: In place of the folder's own.
    """

    def part(kind: Any, name: str) -> Any:
        how = {"dtype": dtype, "use_safetensors": use_safetensors, "variant": variant(folder, (name,))}
        return kind.from_pretrained(folder / name, local_files_only=True, **how)

    vocabulary = "tokenizer" if (folder / "tokenizer").is_dir() else "text_encoder"
    return KolorsPipeline(
        vae=part(diffusers.AutoencoderKL, "vae") if vae is None else vae,
        text_encoder=part(ChatGLMModel, "text_encoder"),
        tokenizer=ChatGLMTokenizer.from_pretrained(folder / vocabulary, local_files_only=True),
        unet=part(diffusers.UNet2DConditionModel, "unet"),
        scheduler=getattr(diffusers, index["scheduler"][1]).from_pretrained(folder / "scheduler", local_files_only=True),
    )
