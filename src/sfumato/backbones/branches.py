"""Branches: networks beside a UNet that see the mask or a control picture, and add residuals to the UNet's activations.

A ControlNet (arXiv:2302.05543) adds to the skip connections and to the middle, which diffusers' UNet takes as arguments. A
BrushNet (arXiv:2403.06976) adds to the stream, behind every layer of encoder and decoder: by hooks that are gone after the call.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import torch
from torch import Tensor, nn

from sfumato.backbones.capabilities import Capability
from sfumato.backbones.hooks import Hook, hooked

if TYPE_CHECKING:
    from sfumato.backbones.base import Conditions, Control


@dataclass(frozen=True, kw_only=True)
class Residuals:
    """What a branch adds, already scaled.

    Args:
        skips: To the skip connections, in the encoder's order, each (B, c, h, w); empty for none.
        mid: To the middle block's output, (B, c, h, w).
        stream: To the stream, one for each of `places` or of the first of them, each (B, c, h, w); empty for none.
    """

    skips: tuple[Tensor, ...] = ()
    mid: Tensor | None = None
    stream: tuple[Tensor, ...] = ()


def spread(residuals: Residuals, rows: Tensor, count: int) -> Residuals:
    """Residuals of some rows of a batch of `count`, by their indices (n,), as those of all; the others get zeros."""

    def full(part: Tensor) -> Tensor:
        zeros = part.new_zeros(count, *part.shape[1:]).contiguous(memory_format=torch.channels_last)
        return zeros.index_copy_(0, rows.to(part.device), part)

    return Residuals(
        skips=tuple(map(full, residuals.skips)),
        mid=None if residuals.mid is None else full(residuals.mid),
        stream=tuple(map(full, residuals.stream)),
    )


class Branch(Protocol):
    """Interface of branches."""

    capability: Capability
    """What the model can do with it, if it is the branch of a method."""

    notes: list[str]
    """Notes for the user on how it was loaded."""

    def __call__(self, x: Tensor, timestep: Tensor, given: "Conditions", control: "Control") -> Residuals:
        """The residuals of one forward pass.

        Args:
            x: (B, C, h, w) latents, scaled as the scheduler does, without further channels.
            timestep: Float32 scalar.
            given: Conditions of the denoiser, for a batch of B.
            control: This branch's own, for a batch of B.
        """


def places(unet: Any) -> list[nn.Module]:
    """The modules that a BrushNet is read at and added behind: 28 in Stable Diffusion 1.x, 21 in XL.

    `conv_in`; in each block of the encoder every layer (with its attention, where it has some) and the downsampler; the middle;
    in the decoder the same, with the upsampler.
    """

    def of(blocks: Sequence[Any]) -> Iterator[nn.Module]:
        for block in blocks:
            yield from getattr(block, "attentions", None) or block.resnets
            yield from getattr(block, "downsamplers", None) or getattr(block, "upsamplers", None) or ()

    return [unet.conv_in, *of(unet.down_blocks), unet.mid_block, *of(unet.up_blocks)]


@contextmanager
def reading(unet: Any) -> Iterator[list[Tensor]]:
    """Context manager that gives a list, to which a forward pass of `unet` in this thread adds the outputs of its `places`."""
    outputs: list[Tensor] = []

    def read(_module: nn.Module, _inputs: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    with hooked([(place.register_forward_hook, read, {}) for place in places(unet)]):
        yield outputs


@contextmanager
def adding(unet: Any, several: Sequence[Residuals]) -> Iterator[dict[str, Any]]:
    """Context manager in which a forward pass of `unet` in this thread adds the residuals, summed over branches.

    Yields:
        Keyword arguments for the forward pass.
    """
    skips = [residuals for residuals in several if residuals.skips]
    arguments: dict[str, Any] = {}
    if skips:
        arguments["down_block_additional_residuals"] = _summed([residuals.skips for residuals in skips])
        arguments["mid_block_additional_residual"] = _summed([(residuals.mid,) for residuals in skips])[0]
    streams = [residuals.stream for residuals in several if residuals.stream]
    if not streams:
        yield arguments
        return
    first, *others = _summed(streams)

    def before(_module: nn.Module, inputs: Any, given: dict[str, Any]) -> Any:
        # behind conv_in, but not in its skip connection, which the UNet has stored by then
        return inputs, {**given, "hidden_states": given["hidden_states"] + first}

    def behind(residual: Tensor) -> Callable[..., Any]:
        def add(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            return (output[0] + residual, *output[1:]) if isinstance(output, tuple) else output + residual

        return add

    hooks: list[Hook] = [(unet.down_blocks[0].register_forward_pre_hook, before, {"with_kwargs": True})]
    hooks += [
        (place.register_forward_hook, behind(residual), {}) for place, residual in zip(places(unet)[1:], others, strict=False)
    ]
    with hooked(hooks):
        yield arguments


def _summed(several: Sequence[Sequence[Any]]) -> tuple[Any, ...]:
    """Sums of the tensors at the same index."""
    return tuple(sum(same[1:], same[0]) for same in zip(*several, strict=True))
