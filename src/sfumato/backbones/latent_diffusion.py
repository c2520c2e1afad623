"""Backend of the Latent Diffusion text-to-image model: BERT-tokenised text, 256 pixels, latents scaled by 0.18215.

Rombach et al., CVPR 2022; the model that Blended Latent Diffusion (Avrahami et al., SIGGRAPH 2023) was published on. Loaded
from diffusers' LDMTextToImagePipeline layout: `vqvae`, `bert`, `tokenizer`, `unet`, `scheduler`.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.autoencoder import LatentAutoencoder
from sfumato.backbones.base import Backbone, Text, TextEncoder
from sfumato.backbones.prediction import check_schedule
from sfumato.backbones.unet import UNet, unet_traits
from sfumato.text.limits import TextReader

TOKENS = 77  # the text length that the model was trained with


class BertText(TextEncoder):
    """The text transformer that was trained with the UNet.

    Args:
        tokenizer: BertTokenizer.
        bert: LDMBertModel; put into evaluation mode and frozen, in place.
        device, dtype: Of the denoiser.
    """

    def __init__(self, tokenizer: Any, bert: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._tokenizer, self._bert = tokenizer, bert.eval().requires_grad_(False)
        self._device, self._dtype = device, dtype

    @torch.no_grad()
    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        """See `TextEncoder.encode`. No prompt is the empty one, as published."""
        texts = [prompt or "" for prompt in prompts]
        ids: Tensor = self._tokenizer(
            texts, padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        states = self._bert(ids.to(self._device), return_dict=True).last_hidden_state
        return [Text(states=one) for one in states.to(self._dtype).split(1)]

    def text_readers(self) -> list[TextReader]:
        """See `TextEncoder.text_readers`."""
        return [TextReader("its text transformer", self._tokenizer, TOKENS)]


def from_pipe(pipe: Any, name: str) -> Backbone:
    """Wrap a loaded LDMTextToImagePipeline, whose modules are used, not copied.

    Raises:
        Unsupported: For a scheduler with noise levels of its own.
    """
    check_schedule(pipe.scheduler, name)
    autoencoder = LatentAutoencoder(pipe.vqvae, name=name, device=pipe._execution_device)
    traits = unet_traits(pipe.unet, autoencoder, name=name, family="ldm", scheduler_config=dict(pipe.scheduler.config))
    return Backbone(
        denoiser=UNet(pipe.unet, traits),
        autoencoder=autoencoder,
        text_encoder=BertText(pipe.tokenizer, pipe.bert, traits.device, traits.dtype),
    )
