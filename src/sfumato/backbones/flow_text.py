"""Text encoders of the flow-matching families, through `encode_prompt` of diffusers' pipelines."""

from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Text, TextEncoder
from sfumato.text.limits import TextReader

TOKENS, T5_TOKENS_SD3 = 512, 256  # default `max_sequence_length` of diffusers' pipelines


class PipelineText(TextEncoder):
    """Base of the text encoders: one call of `encode_prompt` per prompt.

    Args:
        pipe: The pipeline.
        device, dtype: Those of the denoiser.
    """

    def __init__(self, pipe: Any, device: torch.device, dtype: torch.dtype) -> None:
        self._pipe, self._device, self._dtype = pipe, device, dtype

    @torch.no_grad()
    def encode(self, prompts: Sequence[str | None]) -> list[Text]:
        """See `TextEncoder.encode`. No prompt is the empty one."""
        encoded = [self._encode(prompt or "") for prompt in prompts]
        return [
            Text(states=states.to(self._dtype), pooled=None if pooled is None else pooled.to(self._dtype))
            for states, pooled in encoded
        ]

    @abstractmethod
    def _encode(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        """States (1, tokens, width), and the pooled output (1, width) or None."""


class StableDiffusion3Text(PipelineText):
    """Stable Diffusion 3: two CLIPs, and T5 if it is loaded."""

    def _encode(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        options = {"device": self._device, "do_classifier_free_guidance": False}
        states, _, pooled, _ = self._pipe.encode_prompt(prompt, prompt, prompt, **options)
        return states, pooled

    def text_readers(self) -> list[TextReader]:
        """See `TextEncoder.text_readers`."""
        clip = TextReader("CLIP", self._pipe.tokenizer, self._pipe.tokenizer_max_length)
        return [clip] if self._pipe.text_encoder_3 is None else [clip, TextReader("T5", self._pipe.tokenizer_3, T5_TOKENS_SD3)]


class FluxText(PipelineText):
    """FLUX.1: CLIP's pooled output and T5's states."""

    def _encode(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        states, pooled, _ = self._pipe.encode_prompt(prompt, None, self._device)
        return states, pooled

    def text_readers(self) -> list[TextReader]:
        """See `TextEncoder.text_readers`."""
        clip = TextReader("CLIP", self._pipe.tokenizer, self._pipe.tokenizer_max_length)
        return [clip, TextReader("T5", self._pipe.tokenizer_2, TOKENS)]


class Flux2KleinText(PipelineText):
    """FLUX.2 [klein]: Qwen3."""

    def _encode(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        return self._pipe.encode_prompt(prompt, self._device)[0], None

    def text_readers(self) -> list[TextReader]:
        """See `TextEncoder.text_readers`."""
        return [TextReader("Qwen3", self._pipe.tokenizer, TOKENS, _chat(self._pipe.tokenizer, enable_thinking=False))]


class ZImageText(PipelineText):
    """Z-Image: Qwen3, without padding."""

    def _encode(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        return self._pipe.encode_prompt(prompt, self._device, False)[0][0].unsqueeze(0), None

    def text_readers(self) -> list[TextReader]:
        """See `TextEncoder.text_readers`."""
        return [TextReader("Qwen3", self._pipe.tokenizer, TOKENS, _chat(self._pipe.tokenizer, enable_thinking=True))]


class QwenImageText(PipelineText):
    """Qwen-Image: Qwen2.5-VL. An empty prompt is encoded as a space, as in the model's own examples."""

    def _encode(self, prompt: str) -> tuple[Tensor, Tensor | None]:
        return self._pipe.encode_prompt(prompt or " ", self._device)[0], None

    def text_readers(self) -> list[TextReader]:
        """See `TextEncoder.text_readers`."""
        length = self._pipe.tokenizer_max_length + self._pipe.prompt_template_encode_start_idx
        return [TextReader("Qwen2.5-VL", self._pipe.tokenizer, length, self._pipe.prompt_template_encode.format)]


def _chat(tokenizer: Any, **options: bool) -> Callable[[str], str]:
    """A function that applies the chat template to a prompt, as diffusers' pipelines do."""

    def template(text: str) -> str:
        messages = [{"role": "user", "content": text}]
        return str(tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True, **options))

    return template
