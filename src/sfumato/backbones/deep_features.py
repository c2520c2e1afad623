"""The outermost level of a UNet, apart from its deeper levels, whose features change little from step to step.

DeepCache (Ma, Fang, Wang, CVPR 2024, arXiv:2312.00858, section 3.3): the features that the decoder's outermost level is given by
the levels below are kept from an earlier step, and only what is outside of them is computed anew: the first layer of the encoder,
and the last two of the decoder, which its skip connections lead to.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.hooks import hooked

NEW = -2  # the decoder's layers from here on are computed anew


@contextmanager
def catching(unet: Any) -> Iterator[list[Tensor]]:
    """Context manager that gives a list, to which each call of the UNet in this thread adds its deeper levels' features.

    Args:
        unet: UNet2DConditionModel. Nothing is left on it.
    """
    caught: list[Tensor] = []
    layer, skipped = unet.up_blocks[-1].resnets[NEW], unet.config.block_out_channels[0]

    def catch(module: Any, given: tuple[Tensor, ...]) -> None:
        caught.append(given[0][:, :-skipped])  # the skip connection comes behind them

    with hooked([(layer.register_forward_pre_hook, catch, {})]):
        yield caught


def outermost(
    unet: Any, sample: Tensor, time: Tensor, states: Tensor, added: Mapping[str, Tensor] | None, features: Tensor
) -> Tensor:
    """The UNet's output (B, C, h, w), given the features of its deeper levels.

    Args:
        unet: UNet2DConditionModel.
        sample: (B, k, h, w), its input.
        time: The timestep.
        states: (B, tokens, width), encoded prompts.
        added: Further conditions, as diffusers' `added_cond_kwargs`.
        features: (B, C', h, w), as `catching` gives them.
    """
    embedded = unet.time_embedding(unet.get_time_embed(sample=sample, timestep=time))
    further = unet.get_aug_embed(emb=embedded, encoder_hidden_states=states, added_cond_kwargs=added)
    embedded = embedded if further is None else embedded + further

    def layer(block: Any, index: int, x: Tensor) -> Tensor:
        x = block.resnets[index](x, embedded)
        attentions = getattr(block, "attentions", None)
        made: Tensor = x if attentions is None else attentions[index](x, encoder_hidden_states=states, return_dict=False)[0]
        return made

    first = unet.conv_in(sample)
    skips = layer(unet.down_blocks[0], 0, first), first
    for index, skip in zip(range(NEW, 0), skips, strict=True):
        features = layer(unet.up_blocks[-1], index, torch.cat([features, skip], dim=1))
    if unet.conv_norm_out is not None:
        features = unet.conv_act(unet.conv_norm_out(features))
    made: Tensor = unet.conv_out(features)
    return made
