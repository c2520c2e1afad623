"""The published BrushNet's arithmetic, walked block by block, independently of the hooks and of the branch's own network.

Weights are read under the published names. The branch: the decoder takes the branch's own skips, before the 1x1 convolutions. The
base: skip 0 is stored before the first residual is added; what later layers give is changed first and stored then.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F


def time_embedding(unet: Any, timestep: Tensor, x: Tensor, added: dict[str, Tensor] | None) -> Tensor:
    """(B, 4 width), with sizes and pooled text for Stable Diffusion XL."""
    embedding = unet.time_embedding(unet.time_proj(timestep.expand(len(x))).to(x.dtype))
    if added is None:
        return embedding
    sizes = unet.add_time_proj(added["time_ids"].flatten()).reshape(len(x), -1)
    return embedding + unet.add_embedding(torch.cat([added["text_embeds"], sizes], dim=1).to(x.dtype))


class Weights:
    """Published tensors by name, as layers."""

    def __init__(self, tensors: dict[str, Tensor], groups: int) -> None:
        self.tensors, self.groups = tensors, groups

    def convolution(self, name: str, x: Tensor, **how: Any) -> Tensor:
        return F.conv2d(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"], **how)

    def linear(self, name: str, x: Tensor) -> Tensor:
        return F.linear(x, self.tensors[f"{name}.weight"], self.tensors[f"{name}.bias"])

    def residual_block(self, name: str, x: Tensor, embedding: Tensor) -> Tensor:
        def normed(norm: str, x: Tensor) -> Tensor:
            weight, bias = (self.tensors[f"{name}.{norm}.{kind}"] for kind in ("weight", "bias"))
            return F.silu(F.group_norm(x, self.groups, weight, bias, eps=1e-5))

        h = self.convolution(f"{name}.conv1", normed("norm1", x), padding=1)
        h = h + self.linear(f"{name}.time_emb_proj", F.silu(embedding))[:, :, None, None]
        h = self.convolution(f"{name}.conv2", normed("norm2", h), padding=1)
        if f"{name}.conv_shortcut.weight" in self.tensors:
            x = self.convolution(f"{name}.conv_shortcut", x)
        return x + h

    def has(self, name: str) -> bool:
        return f"{name}.weight" in self.tensors


def branch_residuals(weights: Weights, x: Tensor, embedding: Tensor, scales: Tensor) -> tuple[list[Tensor], Tensor, list[Tensor]]:
    """Residuals of encoder, middle and decoder.

    Args:
        x: (B, 9, h, w): noisy latents, those of the masked picture, mask.
        embedding: Of the branch.
        scales: One for each residual, in the order of encoder, middle, decoder.
    """
    levels = len({name.split(".")[1] for name in weights.tensors if name.startswith("down_blocks.")})
    h = weights.convolution("conv_in_condition", x, padding=1)
    down = [h]
    for i in range(levels):
        for j in range(2):
            h = weights.residual_block(f"down_blocks.{i}.resnets.{j}", h, embedding)
            down.append(h)
        if weights.has(f"down_blocks.{i}.downsamplers.0.conv"):
            h = weights.convolution(f"down_blocks.{i}.downsamplers.0.conv", h, padding=1, stride=2)
            down.append(h)
    for j in range(2):
        h = weights.residual_block(f"mid_block.resnets.{j}", h, embedding)
    middle, up, skips = h, [], list(down)
    for i in range(levels):
        for j in range(3):
            h = weights.residual_block(f"up_blocks.{i}.resnets.{j}", torch.cat([h, skips.pop()], dim=1), embedding)
            up.append(h)
        if weights.has(f"up_blocks.{i}.upsamplers.0.conv"):
            h = F.interpolate(h, size=skips[-1].shape[-2:], mode="nearest")
            h = weights.convolution(f"up_blocks.{i}.upsamplers.0.conv", h, padding=1)
            up.append(h)
    factors = iter(scales)
    return (
        [next(factors) * weights.convolution(f"brushnet_down_blocks.{k}", h) for k, h in enumerate(down)],
        next(factors) * weights.convolution("brushnet_mid_block", middle),
        [next(factors) * weights.convolution(f"brushnet_up_blocks.{k}", h) for k, h in enumerate(up)],
    )


def added_base(
    unet: Any, x: Tensor, embedding: Tensor, states: Tensor, residuals: tuple[list[Tensor], Tensor, list[Tensor]]
) -> Tensor:
    """Output of the base with the residuals added to its stream."""
    down, middle, up = residuals

    def layer(block: Any, j: int, h: Tensor) -> Tensor:
        h = block.resnets[j](h, embedding)
        attentions = getattr(block, "attentions", None)
        return attentions[j](h, encoder_hidden_states=states, return_dict=False)[0] if attentions else h

    def further(block: Any, name: str) -> Iterator[Any]:
        yield from getattr(block, name, None) or ()

    given = iter(down)
    h = unet.conv_in(x)
    skips = [h]
    h = h + next(given)
    for block in unet.down_blocks:
        for j in range(len(block.resnets)):
            h = layer(block, j, h) + next(given)
            skips.append(h)
        for downsampler in further(block, "downsamplers"):
            h = downsampler(h) + next(given)
            skips.append(h)
    h = unet.mid_block(h, embedding, encoder_hidden_states=states) + middle
    given = iter(up)
    for block in unet.up_blocks:
        for j in range(len(block.resnets)):
            h = layer(block, j, torch.cat([h, skips.pop()], dim=1)) + next(given)
        for upsampler in further(block, "upsamplers"):
            h = upsampler(h, skips[-1].shape[-2:]) + next(given)
    return unet.conv_out(F.silu(unet.conv_norm_out(h)))
