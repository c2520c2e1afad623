"""BrushNet (Ju et al., ECCV 2024, arXiv:2403.06976, section 3): a branch that reads noisy latents, masked picture and mask.

It is a UNet of the base's widths without attention. At each of `branches.places` it is read through a 1x1 convolution that is
zero at birth, and added to the stream of the frozen base, in the decoder too, where a ControlNet reaches skip connections alone.
The text is left to the base, so any base of the same widths can be put beside it.

`brushnet_files` reads its weights.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2D
from safetensors.torch import save_file
from torch import Tensor, nn

from sfumato.backbones.base import Conditions, Control
from sfumato.backbones.branches import Residuals, places, reading
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.unet import added_conditions
from sfumato.embedded.writing import written_whole

Injection = Literal["all", "encoder", "skips"]
BranchT = TypeVar("BranchT", bound="BrushNet")

CLASS_NAME = "BrushNetModel"  # in config.json
WEIGHTS = "diffusion_pytorch_model.safetensors"
VARIANTS = ("injection", "attention", "mask_channel")  # further arguments, of which published configurations have none


class BrushNet(nn.Module):
    """The branch; see `branches.Branch` for the interface. Without weights (on the meta device) until it is loaded or born.

    The arguments behind the first are the paper's ablations; published checkpoints have none of them.

    Args:
        config: Of the base, a UNet2DConditionModel.
        injection: Where it adds: to the stream at all places, at those of encoder and middle alone (half of the branch is then
            not there), or as a ControlNet to the skip connections and the middle.
        attention: Whether it keeps the base's attention, and so reads the text.
        mask_channel: Whether it reads the mask behind the masked picture's latents.
    """

    capability = Capability.BRUSHNET

    def __init__(
        self,
        config: Mapping[str, Any],
        *,
        injection: Injection = "all",
        attention: bool = False,
        mask_channel: bool = True,
    ) -> None:
        super().__init__()
        self.injection, self.attention, self.mask_channel = injection, attention, mask_channel
        self.notes: list[str] = []
        changes: dict[str, Any] = {"in_channels": 2 * config["out_channels"] + mask_channel}
        if not attention:
            levels = len(config["block_out_channels"])
            changes |= {"down_block_types": ("DownBlock2D",) * levels, "up_block_types": ("UpBlock2D",) * levels}
            changes |= {"mid_block_type": "UNetMidBlock2D"}
        given = {key: value for key, value in config.items() if key != "_use_default_values"}  # which from_config forgets
        with torch.device("meta"):  # drawing weights that are replaced would take long, and move the caller's noise
            self.unet: Any = UNet2DConditionModel.from_config(given | changes)
            if not attention:
                self.unet.mid_block = _middle(self.unet)
            self.unet.conv_norm_out = self.unet.conv_act = None
            self.unet.conv_out = nn.Identity()
            if injection != "all":
                self.unet.up_blocks = nn.ModuleList()
            self.convolutions = nn.ModuleList(nn.Conv2d(width, width, 1) for width in _widths(self.unet))

    @classmethod
    def born(cls: "type[BranchT]", base: Any, **variant: Any) -> "BranchT":
        """A branch that begins as a copy of a base and adds nothing: what training starts from.

        The first convolution reads both the noisy and the masked picture's latents as the base reads latents, and no mask.

        Args:
            base: UNet2DConditionModel, unchanged and sharing nothing with the branch. Further inputs of an inpainting model are
                left out.
            variant: The constructor's further arguments.
        """
        branch = cls(base.config, **variant)
        given = {f"unet.{name}": tensor for name, tensor in base.state_dict().items()}
        like = base.conv_in.weight.detach()
        first = torch.zeros(branch.unet.conv_in.weight.shape, dtype=like.dtype, device=like.device)
        latents = base.config.out_channels
        first[:, :latents] = first[:, latents : 2 * latents] = like[:, :latents]
        given["unet.conv_in.weight"] = first
        weights = {
            name: given[name].detach().clone()
            if name in given
            else torch.zeros(tensor.shape, dtype=like.dtype, device=like.device)
            for name, tensor in branch.state_dict().items()
        }
        branch.load_state_dict(weights, assign=True)
        return branch

    def forward(self, x: Tensor, timestep: Tensor, given: Conditions, control: Control) -> Residuals:
        """See `branches.Branch`. Differentiable, for training.

        Args:
            x: (B, C, h, w) latents, scaled as the scheduler does.
            timestep: Float32, a scalar or (B,).
            given: The base's conditions, for a batch of B. Of the text it reads what is joined to the time embedding; with
                attention all of it, or the control's own text if there is one.
            control: Its image is (B, C + 1, h, w), as `methods.conditioning.brushnet_channels` gives it. In guess mode, residual
                k of n has the factor 10^(k / (n - 1) - 1), as published.
        """
        channels = control.image if self.mask_channel else control.image[:, :-1]
        x = torch.cat([x, channels.to(x)], dim=1).contiguous(memory_format=torch.channels_last)
        assert given.text is not None
        states = given.text.states if control.states is None else control.states
        with reading(self.unet) as outputs:
            self.unet(x, timestep, encoder_hidden_states=states, added_cond_kwargs=added_conditions(given))
        count = len(outputs)
        factors = torch.logspace(-1, 0, count) if control.guess else torch.ones(count)
        scales = control.scale.to(x.device)[:, None] * factors.to(x.device)  # (B, n)
        residuals = tuple(
            convolution(output) * scale[:, None, None, None].to(output.dtype)
            for convolution, output, scale in zip(self.convolutions, outputs, scales.unbind(1), strict=True)
        )
        if self.injection == "skips":
            return Residuals(skips=residuals[:-1], mid=residuals[-1])
        return Residuals(stream=residuals)

    def published_names(self) -> dict[str, str]:
        """The names of the published checkpoints, by those of `state_dict`."""
        middle = places(self.unet).index(self.unet.mid_block)

        def published(name: str) -> str:
            part, _, rest = name.partition(".")
            if part == "unet":
                return rest.replace("conv_in.", "conv_in_condition.") if rest.startswith("conv_in.") else rest
            index, _, kind = rest.partition(".")
            place = int(index)
            if place == middle:
                return f"brushnet_mid_block.{kind}"
            if place < middle:
                return f"brushnet_down_blocks.{place}.{kind}"
            return f"brushnet_up_blocks.{place - middle - 1}.{kind}"

        return {name: published(name) for name in self.state_dict()}

    def configuration(self) -> dict[str, Any]:
        """What config.json says of it, with the published names."""
        latents = self.unet.config.out_channels
        own = {name: getattr(self, name) for name in VARIANTS}
        names = {"_class_name": CLASS_NAME, "in_channels": latents, "conditioning_channels": latents + 1}
        given = {name: value for name, value in self.unet.config.items() if not name.startswith("_")}
        return {**given, **names, "mid_block_type": given["mid_block_type"].replace("UNet", ""), **own}

    def save(self, folder: Path, weights: Mapping[str, Tensor] | None = None) -> None:
        """Write config.json and the weights in the published form: its own, or others by the same names."""
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.json").write_text(json.dumps(self.configuration(), indent=2) + "\n", encoding="utf-8")
        names, state = self.published_names(), self.state_dict() if weights is None else weights
        renamed = {names[name]: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        with written_whole(folder / WEIGHTS) as temporary:
            save_file(renamed, temporary, {"format": "pt"})


def _middle(unet: Any) -> UNetMidBlock2D:
    """Two residual blocks without attention, where diffusers gives a UNet without attention one."""
    config = unet.config
    return UNetMidBlock2D(
        in_channels=config.block_out_channels[-1],
        temb_channels=unet.time_embedding.linear_2.out_features,
        resnet_eps=config.norm_eps,
        resnet_act_fn=config.act_fn,
        output_scale_factor=config.mid_block_scale_factor,
        resnet_groups=config.norm_num_groups,
        resnet_time_scale_shift=config.resnet_time_scale_shift,
        add_attention=False,
    )


def _widths(unet: Any) -> list[int]:
    """Channels of the output at each of `places`; middle blocks alone do not say theirs."""
    return [getattr(place, "out_channels", unet.config.block_out_channels[-1]) for place in places(unet)]
