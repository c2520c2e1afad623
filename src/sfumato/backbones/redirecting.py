"""Self-attention that does not look at some places (Attentive Eraser, AAAI 2025, arXiv:2412.12974), by hooks on stock modules.

In each self-attention of the decoder no place looks at the hidden ones: their logits become minus infinity, as the mask that
diffusers' attention takes. Those of the hidden places themselves may be scaled as well, which is done to their queries.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.backbones.base import Redirection
from sfumato.backbones.hooks import Hook, hooked


def self_attentions(unet: Any) -> list[Any]:
    """The self-attentions of a UNet's decoder, in order: 9 in Stable Diffusion 1.x and 2.x, 36 in XL."""
    transformers = [each for block in unet.up_blocks for each in getattr(block, "attentions", None) or ()]
    return [block.attn1 for transformer in transformers for block in transformer.transformer_blocks]


@contextmanager
def redirecting(unet: Any, redirection: Redirection | None) -> Iterator[None]:
    """Context manager in which a forward pass of `unet` in this thread looks away from some places.

    Args:
        unet: UNet2DConditionModel.
        redirection: For the batch of the pass, B; None changes nothing, nor does one that hides nothing.
    """
    if redirection is None or not redirection.mask.any():
        yield
        return
    hidden = Hidden(redirection.mask)

    def look_away(_module: nn.Module, inputs: Any, given: dict[str, Any]) -> Any:
        states = inputs[0] if inputs else given["hidden_states"]
        places = hidden.among(states.shape[1]).to(states.device)
        bias = states.new_zeros(places.shape).masked_fill(places, -torch.inf)
        return inputs, {**given, "attention_mask": bias[:, None]}

    def suppress(similarity: float) -> Callable[..., Tensor]:
        def scaled(_module: nn.Module, _inputs: Any, queries: Tensor) -> Tensor:
            places = hidden.among(queries.shape[1]).to(queries.device)
            return torch.where(places[..., None], similarity * queries, queries)

        return scaled

    hooks: list[Hook] = []
    for attention in self_attentions(unet):
        hooks.append((attention.register_forward_pre_hook, look_away, {"with_kwargs": True}))
        if redirection.similarity != 1:
            hooks.append((attention.to_q.register_forward_hook, suppress(redirection.similarity), {}))
    with hooked(hooks):
        yield


class Hidden:
    """Hidden places at the sizes at which a UNet attends: halves of the latents' sides, rounded up.

    Args:
        mask: (B, 1, h, w) in {0, 1}.
    """

    def __init__(self, mask: Tensor) -> None:
        self._mask = mask.float()
        self._known: dict[int, Tensor] = {}

    def among(self, places: int) -> Tensor:
        """Which of so many places are hidden, (B, places) bool: those that touch the mask. In a row of all, none is."""
        if places not in self._known:
            mask = self._mask
            while mask[0].numel() > places:
                mask = F.max_pool2d(mask, 2, ceil_mode=True)
            found = mask.flatten(1) > 0
            self._known[places] = found & ~found.all(1, keepdim=True)
        return self._known[places]
