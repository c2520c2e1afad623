"""ControlNets (Zhang, Rao, Agrawala, ICCV 2023, arXiv:2302.05543) beside a UNet: diffusers' ControlNetModel and its loading.

A copy of the UNet's encoder reads the latents and a picture, and adds to the skip connections and the middle through 1x1
convolutions that begin at zero. Published as a folder in diffusers' format, as a single file under the same names, or as a single
file under the original ones (`control_model.*`); only the header is read until it is known to belong to the base. That of the
embedded model ships as an adapter of its copy at birth.
"""

import inspect
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers.loaders.single_file_utils import convert_controlnet_checkpoint, load_single_file_checkpoint
from diffusers.models.controlnets.controlnet import ControlNetModel
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from torch import Tensor

from sfumato.backbones import hub
from sfumato.backbones.autoencoder import freeze
from sfumato.backbones.base import Conditions, Control
from sfumato.backbones.branches import Residuals
from sfumato.backbones.capabilities import Capability
from sfumato.backbones.checkpoints import PICKLE_SUFFIXES, check_file, read_json
from sfumato.backbones.headers import read_header
from sfumato.backbones.unet import added_conditions
from sfumato.embedded import adapter
from sfumato.errors import BackboneError, Unsupported

COLOURS = 3  # channels of the picture
SHOWN = 3  # weights named in an error
WIDTHS = (16, 32, 96, 256)  # published, of the layers that read the picture; each but the first halves its sides
GUESS = (-1.0, 0.0)  # logarithms of the first and the last factor of the guess mode

Shapes = Mapping[str, tuple[int, ...]]


class ControlNet:
    """A ControlNet as a branch; see `sfumato.backbones.branches.Branch` for the interface.

    Args:
        network: Its network. It is put into evaluation mode, frozen and laid out channels-last, in place.
    """

    capability = Capability.CONTROLNET

    def __init__(self, network: ControlNetModel) -> None:
        self.network = freeze(network)
        self.notes: list[str] = []

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: Tensor, given: Conditions, control: Control) -> Residuals:
        """See `Branch`. The picture `control.image` is (B, 3, H, W) in [0, 1], -1 where an inpainting ControlNet is to paint.

        In the guess mode the factors rise from 0.1 at the first layer to 1 at the middle, evenly in their logarithms.
        """
        assert given.text is not None
        skips, mid = self.network(
            x,
            timestep,
            encoder_hidden_states=given.text.states,
            controlnet_cond=control.image.to(x),
            added_cond_kwargs=added_conditions(given),
            return_dict=False,
        )
        layers = [*skips, mid]
        factors = torch.logspace(*GUESS, len(layers)) if control.guess else torch.ones(len(layers))
        scales = control.scale.to(x.device).view(-1, 1, 1, 1) * factors.to(x.device).view(-1, 1, 1, 1, 1)
        *scaled, middle = ((layer * scale).to(layer.dtype) for layer, scale in zip(layers, scales, strict=True))
        return Residuals(skips=tuple(scaled), mid=middle)


def load(source: Path, unet: Any, *, name: str, allow_pickle: bool) -> ControlNet:
    """Load a ControlNet for a UNet, on its device and in its number format.

    Args:
        source: Folder with config.json and weights, or with an adapter of the embedded model's; or a single file.
        unet: UNet2DConditionModel of the base.
        name: As the user gave it, for messages.
        allow_pickle: Whether weights may be pickles, which are read with `weights_only`.

    Raises:
        Unsupported: It belongs to another base, or reads something else than a picture.
        UnsafeCheckpoint: Only pickles, and they are not allowed.
        BackboneError: Weights that are missing, damaged or incomplete; adapter-mismatch.
    """
    if (source / adapter.FILE).is_file():
        return ControlNet(_from_adapter(source, unet, name))
    files = weights_files(source, name) if source.is_dir() else [source]
    for file in files:
        check_file(file, allow_pickle=allow_pickle)
    named = {key: torch.empty(shape, device="meta") for file in files for key, shape in read_header(file).shapes.items()}
    shapes = {key: tuple(tensor.shape) for key, tensor in _renamed(named, unet).items()}
    _check_base(shapes, unet, name)
    config = read_json(source / "config.json") if source.is_dir() else configuration(unet, _widths(shapes))
    if config.get("global_pool_conditions"):
        raise Unsupported(
            f"'{name}' is a ControlNet that reads a picture as a whole, for reference (shuffle), which is not supported; give "
            "one that reads a depth, line or pose picture."
        )
    with torch.device("meta"):
        network = ControlNetModel.from_config(config)
    _check_complete(shapes, _shapes_of(network), name)
    tensors = {key: tensor for file in files for key, tensor in load_single_file_checkpoint(str(file)).items()}
    network.load_state_dict({key: tensor.to(unet.dtype) for key, tensor in _renamed(tensors, unet).items()}, assign=True)
    return ControlNet(torch.nn.Module.to(network, unet.device))


def born(unet: Any, widths: Sequence[int] = WIDTHS) -> ControlNetModel:
    """The ControlNet that training starts from: it copies the encoder and the middle of a UNet, and adds nothing.

    Its new layers, whose names begin with `controlnet_`, are drawn from torch's generator where they are not zero.

    Args:
        unet: UNet2DConditionModel of the base. Further inputs of an inpainting model are left out.
        widths: Of the layers that read the picture.
    """
    network = ControlNetModel.from_config(configuration(unet, widths))
    weights = dict(unet.state_dict())
    weights["conv_in.weight"] = weights["conv_in.weight"][:, : network.config.in_channels]
    copied = {key: weights[key] for key in network.state_dict() if key in weights}
    network.load_state_dict(copied, strict=False)
    return torch.nn.Module.to(network, unet.device, unet.dtype)


def _from_adapter(source: Path, unet: Any, name: str) -> ControlNetModel:
    """The ControlNet that was born of the UNet in `source`, or else of the embedded one, changed by the adapter in `source`."""
    home = source if (source / "unet").is_dir() else hub.WEIGHTS
    base = UNet2DConditionModel.from_pretrained(
        home / "unet", use_safetensors=True, local_files_only=True, torch_dtype=torch.float32
    )
    widths = read_json(source / "config.json").get("conditioning_embedding_out_channels", WIDTHS)
    with torch.random.fork_rng(devices=[]):  # what it draws is replaced: loading must not move the caller's noise
        network = born(base, widths)
    _check_base(_shapes_of(network), unet, name)
    adapter.merge(network, source / adapter.FILE, adapter.base_digest(home))
    return torch.nn.Module.to(network, unet.device, unet.dtype)


def weights_files(folder: Path, name: str) -> list[Path]:
    """The files of weights in a folder of diffusers' format: safetensors, in full precision, where there are any.

    Raises:
        BackboneError: There are none.
    """
    found = sorted(path for path in folder.glob("diffusion_pytorch_model*") if path.suffix in {".safetensors", *PICKLE_SUFFIXES})
    safe = [path for path in found if path.suffix == ".safetensors"] or found
    whole = [path for path in safe if ".fp16" not in path.name]
    if not found:
        raise BackboneError(f"'{name}' has no weights (diffusion_pytorch_model.safetensors); fetch it again.")
    return whole or safe


def configuration(unet: Any, widths: Sequence[int]) -> dict[str, Any]:
    """The configuration of a ControlNetModel beside this UNet; it reads the latents without further channels.

    Args:
        unet: UNet2DConditionModel of the base.
        widths: Of the layers that read the picture.
    """
    known = inspect.signature(ControlNetModel.__init__).parameters
    config = {key: value for key, value in unet.config.items() if key in known}
    return config | {"in_channels": unet.config.out_channels, "conditioning_embedding_out_channels": tuple(widths)}


def _widths(shapes: Shapes) -> list[int]:
    """Widths of the layers that read the picture, from the shapes of all weights."""
    first = sorted(key for key in shapes if re.fullmatch(r"controlnet_cond_embedding\.(conv_in|blocks\.\d*[13579])\.weight", key))
    return [shapes[key][0] for key in sorted(first, key=lambda key: (key.count("."), len(key), key))]


def _renamed(weights: Mapping[str, Tensor], unet: Any) -> dict[str, Tensor]:
    """The weights under diffusers' names, which they may have already."""
    converted = convert_controlnet_checkpoint(dict(weights), {"layers_per_block": unet.config.layers_per_block})
    return {key: tensor for key, tensor in converted.items() if tensor is not None}


def _check_base(shapes: Shapes, unet: Any, name: str) -> None:
    """Refuse a ControlNet that reads no picture of three colours, other latents or texts than this UNet, or has other layers.

    Raises:
        Unsupported: One sentence that says what it reads, or that its layers differ.
    """
    texts = next((shape[1] for key, shape in shapes.items() if key.endswith("attn2.to_k.weight")), None)
    given = {
        "pictures of {} channels": (shapes.get("controlnet_cond_embedding.conv_in.weight"), COLOURS),
        "latents of {} channels": (shapes.get("conv_in.weight"), int(unet.config.out_channels)),
        "text of width {}": (None if texts is None else (0, texts), int(unet.config.cross_attention_dim)),
        "pooled text and sizes of width {}": (  # Kolors' and SDXL's differ in nothing else
            shapes.get("add_embedding.linear_1.weight"),
            unet.config.projection_class_embeddings_input_dim,
        ),
    }
    for what, (shape, wanted) in given.items():
        if shape is not None and shape[1] != wanted:
            raise Unsupported(
                f"The ControlNet '{name}' reads {what.format(shape[1])}, and beside this model it must read {wanted}: it was "
                "trained for another base; give one of this model's family."
            )
    with torch.device("meta"):
        network = ControlNetModel.from_config(configuration(unet, _widths(shapes)))
    if _added(shapes) != _added(_shapes_of(network)):
        raise Unsupported(
            f"The ControlNet '{name}' adds to layers of other sizes than this model has: it was trained for another base; give "
            "one of this model's family."
        )


def _shapes_of(network: ControlNetModel) -> Shapes:
    return {key: tuple(tensor.shape) for key, tensor in network.state_dict().items()}


def _added(shapes: Shapes) -> Shapes:
    """Shapes of the convolutions through which the residuals leave."""
    return {key: shape for key, shape in shapes.items() if key.startswith(("controlnet_down_blocks.", "controlnet_mid_block."))}


def _check_complete(shapes: Shapes, wanted: Shapes, name: str) -> None:
    """Refuse weights that are not exactly those of the network.

    Raises:
        BackboneError: Naming some that are missing, unknown or of another size.
    """
    complaints = {
        "lacks {}": sorted(wanted.keys() - shapes.keys()),
        "has {}, which a ControlNet of this base has not": sorted(shapes.keys() - wanted.keys()),
        "has another size than this base in {}": sorted(key for key, shape in wanted.items() if shapes.get(key, shape) != shape),
    }
    for complaint, keys in complaints.items():
        if keys:
            shown = ", ".join(keys[:SHOWN]) + (f" and {len(keys) - SHOWN} more" if len(keys) > SHOWN else "")
            raise BackboneError(f"The ControlNet '{name}' {complaint.format(shown)}; give a complete one of this model's family.")
