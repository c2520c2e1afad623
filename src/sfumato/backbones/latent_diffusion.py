"""Backend of the Latent Diffusion text-to-image model: BERT-tokenised text, 256 pixels, latents scaled by 0.18215.

Rombach et al., CVPR 2022; the model that Blended Latent Diffusion (Avrahami et al., SIGGRAPH 2023) was published on. Loaded
from diffusers' LDMTextToImagePipeline layout: `vqvae`, `bert`, `tokenizer`, `unet`, `scheduler`.
"""

from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Conditioning
from sfumato.backbones.prediction import check_schedule
from sfumato.backbones.stable_diffusion import LatentUNet
from sfumato.text.limits import TextReader

TOKENS = 77  # the text length that the model was trained with


class LatentDiffusion(LatentUNet):
    """CompVis text-to-image Latent Diffusion.

    Args:
        tokenizer: BertTokenizer.
        bert: LDMBertModel, the text transformer trained with the UNet.
        **parts: As for `LatentUNet`.
    """

    def __init__(self, tokenizer: Any, bert: Any, **parts: Any) -> None:
        super().__init__(**parts)
        self._tokenizer = tokenizer
        self._bert = bert.eval().requires_grad_(False)

    @classmethod
    def from_pipe(cls, pipe: Any, name: str | None = None) -> "LatentDiffusion":
        """Build from a loaded LDMTextToImagePipeline, whose modules are used, not copied."""
        check_schedule(pipe.scheduler, name or type(pipe).__name__)
        return cls(
            pipe.tokenizer,
            pipe.bert,
            name=name or pipe.config.get("_name_or_path") or type(pipe).__name__,
            family="ldm",
            unet=pipe.unet,
            vae=pipe.vqvae,
            scheduler_config=dict(pipe.scheduler.config),
            device=pipe._execution_device,
        )

    @torch.no_grad()
    def encode_prompt(self, prompt: str, negative_prompt: str, size: tuple[int, int]) -> Conditioning:
        """See `Backbone.encode_prompt`. The published unconditional branch is the empty prompt."""
        ids: Tensor = self._tokenizer(
            [negative_prompt, prompt], padding="max_length", max_length=TOKENS, truncation=True, return_tensors="pt"
        ).input_ids
        states = self._bert(ids.to(self.device), return_dict=True).last_hidden_state
        return Conditioning(states=states.to(self.dtype), extra={})

    def text_readers(self) -> list[TextReader]:
        """See `Backbone.text_readers`."""
        return [TextReader("its text transformer", self._tokenizer, TOKENS)]
