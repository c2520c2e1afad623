"""CLIP text encoders of Stable Diffusion 1.x, 2.x and XL, with prompt weights, textual inversion and long prompts."""

import functools
from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion import StableDiffusionPipeline
from diffusers.pipelines.stable_diffusion_xl.pipeline_stable_diffusion_xl import StableDiffusionXLPipeline

from sfumato.backbones.base import Text, TextEncoder
from sfumato.text.chunks import Embedding
from sfumato.text.clip import Encoder, Parts, encode_all
from sfumato.text.grammar import Span
from sfumato.text.powerpaint import TaskText, TaskWords


class ClipText(TextEncoder):
    """One CLIP text encoder (1.x, 2.x), or two, the second of which has a pooled output (XL).

    Args:
        pipe: A pipeline with them and their tokenizers; they are set to evaluation mode and frozen, in place.
        device, dtype: Those of the denoiser.
        words: Learned words for tasks, of a model with one text encoder.
    """

    def __init__(self, pipe: Any, device: torch.device, dtype: torch.dtype, words: TaskWords | None = None) -> None:
        self._two = getattr(pipe, "text_encoder_2", None) is not None
        self._pipe = xl_text_pipeline(pipe) if self._two else text_pipeline(pipe)
        self._device, self._dtype = device, dtype
        for component in self._pipe.components.values():
            if isinstance(component, torch.nn.Module):
                component.eval().requires_grad_(False)
        self.tasks = None if words is None else TaskText(self._encoders()[0], words)

    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        """See `TextEncoder.encode`: brackets are literal; all prompts get as many chunks as the longest needs."""
        texts = self.encode_parts([[[Span(prompt or "")]] for prompt in prompts])
        return [self.no_prompt(text) if prompt is None else text for prompt, text in zip(prompts, texts, strict=True)]

    @torch.no_grad()
    def encode_parts(self, prompts: Sequence[Parts], embeddings: Sequence[Embedding] = (), clip_skip: int = 0) -> list[Text]:
        """See `WeighingTextEncoder.encode_parts`.

        SDXL's pooled output is always that of the last layer and the first chunk.
        """
        encoded = encode_all(self._encoders(), prompts, embeddings, clip_skip)
        to: dict[str, Any] = {"device": self._device, "dtype": self._dtype}
        return [Text(states=states.to(**to), pooled=pooled.to(**to) if self._two else None) for states, pooled in encoded]

    def no_prompt(self, empty: Text) -> Text:
        """Zeros if an XL checkpoint has `force_zeros_for_empty_prompt`, else the empty prompt."""
        if not self._two or not self._pipe.config.force_zeros_for_empty_prompt or empty.pooled is None:
            return empty
        return Text(states=torch.zeros_like(empty.states), pooled=torch.zeros_like(empty.pooled))

    def text_widths(self) -> list[int]:
        """Widths of the token embeddings of each encoder."""
        return [encoder.width for encoder in self._encoders()]

    def _encoders(self) -> list[Encoder]:
        pipe = self._pipe
        pairs = [(pipe.tokenizer, pipe.text_encoder), *([(pipe.tokenizer_2, pipe.text_encoder_2)] if self._two else [])]
        return [self._encoder(number, *pair) for number, pair in enumerate(pairs)]

    def _encoder(self, number: int, tokenizer: Any, model: Any) -> Encoder:
        convert = functools.partial(self._pipe.maybe_convert_prompt, tokenizer=tokenizer)
        return Encoder(tokenizer, model, number, self._two, self._device, convert)


def text_pipeline(pipe: Any) -> StableDiffusionPipeline:
    """A Stable Diffusion pipeline with the text encoder and tokenizer of another pipeline alone."""
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
    """The same for SDXL, with its setting for empty prompts."""
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
