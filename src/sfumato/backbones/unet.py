"""Denoiser and traits of latent models with a UNet of diffusers."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.autoencoder import LatentAutoencoder, freeze
from sfumato.backbones.base import Conditions, Control, Extra, Output, Traits, expand, mapped
from sfumato.backbones.branches import Branch, Residuals, adding, spread
from sfumato.backbones.capabilities import Capability, Layout
from sfumato.backbones.checkpoints import check_layout
from sfumato.backbones.deep_features import outermost
from sfumato.backbones.families import family as family_card
from sfumato.backbones.prediction import read_prediction
from sfumato.backbones.redirecting import redirecting
from sfumato.masks.window import CONTEXT


def unet_traits(
    unet: Any,
    autoencoder: LatentAutoencoder,
    *,
    name: str,
    family: str,
    scheduler_config: Mapping[str, Any],
    context: float = CONTEXT,
) -> Traits:
    """The traits of a UNet2DConditionModel on the latents of an autoencoder.

    Raises:
        Unsupported: The UNet reads something else than `check_layout` allows, or the prediction type is unknown.
    """
    channels = int(unet.config.in_channels)
    layout = check_layout(channels, int(unet.config.out_channels), autoencoder.latent_channels, name)
    side = unet.config.sample_size
    return Traits(
        name=name,
        family=family,
        capabilities=family_card(family).capabilities | _trained(layout),
        prediction=read_prediction(scheduler_config, name),
        scheduler_config=scheduler_config,
        layout=layout,
        extras=frozenset({Extra.TIME_IDS} if unet.config.addition_embed_type == "text_time" else ()),
        latent_channels=autoencoder.latent_channels,
        factor=autoencoder.factor,
        resolution=autoencoder.factor * (side if isinstance(side, int) else min(side)),
        context=context,
        device=autoencoder.device,
        dtype=unet.dtype,
    )


def _trained(layout: Layout) -> frozenset[Capability]:
    gained = {Layout.INPAINTING: Capability.INPAINTING, Layout.SMARTBRUSH: Capability.SMARTBRUSH}.get(layout)
    return frozenset(() if gained is None else {gained})


class UNet:
    """A UNet that denoises latents; see `Denoiser` for the interface.

    Args:
        unet: UNet2DConditionModel. It is put into evaluation mode, frozen and laid out channels-last, in place.
        traits: See `unet_traits`.
        branches: Networks beside it whose residuals it adds, each for one of the conditions' controls.
    """

    def __init__(self, unet: Any, traits: Traits, branches: Sequence[Branch] = ()) -> None:
        self.unet, self.traits, self.branches = freeze(unet), traits, tuple(branches)

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`."""
        x, time, given = self._placed(x, timestep, given)
        assert given.text is not None
        controls = zip(self.branches, given.controls, strict=False)
        added = [_residuals(branch, x, time, given, control) for branch, control in controls if control is not None]
        residuals = [each for each in added if each is not None]
        with adding(self.unet, residuals) as further, redirecting(self.unet, given.redirection):
            output = self.unet(
                _with_channels(x, given),
                time,
                encoder_hidden_states=given.text.states,
                added_cond_kwargs=added_conditions(given),
                **further,
            ).sample
        return self._output(output)

    @torch.no_grad()
    def outermost(self, x: Tensor, timestep: float, given: Conditions, features: Tensor) -> Output:
        """`__call__` with the features of the deeper levels given, without branches; see `backbones.deep_features`.

        Args:
            x, timestep, given: As of `__call__`.
            features: (B, C, h, w) caught by `deep_features.catching` in an earlier call.
        """
        x, time, given = self._placed(x, timestep, given)
        assert given.text is not None
        added = added_conditions(given)
        return self._output(outermost(self.unet, _with_channels(x, given), time, given.text.states, added, features))

    def _placed(self, x: Tensor, timestep: float, given: Conditions) -> tuple[Tensor, Tensor, Conditions]:
        """Latents and timestep as the network takes them, and the conditions of every row."""
        device = self.traits.device
        x = x.to(device, self.traits.dtype).contiguous(memory_format=torch.channels_last)
        return x, torch.full((), timestep, dtype=torch.float32, device=device), expand(given, len(x))

    def _output(self, made: Tensor) -> Output:
        channels = self.traits.latent_channels
        prediction, mask = made.float().split((channels, made.shape[1] - channels), dim=1)
        return Output(prediction, mask=mask if mask.shape[1] else None)


def _with_channels(x: Tensor, given: Conditions) -> Tensor:
    """The network's input: the latents, and behind them what inpainting models read."""
    x = x if given.channels is None else torch.cat([x, given.channels.to(x)], dim=1)
    return x.contiguous(memory_format=torch.channels_last)


def _residuals(branch: Branch, x: Tensor, time: Tensor, given: Conditions, control: Control) -> Residuals | None:
    """What a branch adds. In guess mode it is run for the rows alone that have a scale; None if there are none."""
    if not control.guess or control.scale.all():
        return branch(x, time, given, control)
    rows = control.scale.nonzero().flatten()
    if len(rows) == 0:
        return None
    some = mapped(replace(given, controls=(control,)), lambda tensor: tensor[rows])
    (own,) = some.controls
    assert own is not None
    return spread(branch(x[rows], time, some, own), rows, len(x))


def added_conditions(given: Conditions) -> dict[str, Tensor] | None:
    """Extras and pooled text as diffusers' UNets and ControlNets take them, in `added_cond_kwargs`."""
    added = {name.value: tensor for name, tensor in given.extras.items()}
    if given.text is not None and given.text.pooled is not None:
        added["text_embeds"] = given.text.pooled
    return added or None
