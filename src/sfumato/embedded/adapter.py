"""Adapters of the embedded UNet: low-rank updates of its matrices, replaced small tensors (arXiv:2106.09685, equation 3).

W + B A for every matrix and convolution, the latter as (out, in k k) matrices; the first and last convolution, the time
embedding, norms and biases are replaced. It is merged into the UNet when that is loaded, so it costs nothing at a step.
A UNet whose ends were given further channels (`widen`) has adapters too, and so have modules born as copies of the
UNet: what the copy has besides is replaced.
"""

import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.func import functional_call

from sfumato.embedded.writing import written_whole
from sfumato.errors import BackboneError

FILE = "adapter.safetensors"
UNET_WEIGHTS = "unet/diffusion_pytorch_model.safetensors"
RANK = 32
LEARNED = "learned."  # how names of what is trained beside a network begin
WHOLE = ("conv_in", "conv_out", "time_embedding")  # where a new task changes most, and few weights


def base_digest(folder: Path) -> str:
    """SHA-256 of the weights of the UNet in a model's folder."""
    return hashlib.sha256((folder / UNET_WEIGHTS).read_bytes()).hexdigest()


@torch.no_grad()
def widen(unet: Any, in_channels: int, out_channels: int | None = None) -> None:
    """Give the ends of a UNet2DConditionModel further channels, in place.

    It answers as before, whatever further inputs hold; further outputs are zero.

    Args:
        unet: Its configuration says the new numbers then.
        in_channels: Of the first convolution, at least as many as it has.
        out_channels: Of the last convolution, at least as many as it has; None leaves it.
    """
    unet.conv_in = _wider(unet.conv_in, in_channels, unet.conv_in.out_channels)
    unet.register_to_config(in_channels=in_channels)
    if out_channels is not None:
        unet.conv_out = _wider(unet.conv_out, unet.conv_out.in_channels, out_channels)
        unet.register_to_config(out_channels=out_channels)


def _wider(old: nn.Conv2d, in_channels: int, out_channels: int) -> nn.Conv2d:
    kernel: Any = {"kernel_size": old.kernel_size, "stride": old.stride, "padding": old.padding}
    new = nn.Conv2d(in_channels, out_channels, **kernel, device=old.weight.device)
    weight, bias = torch.zeros_like(new.weight), new.weight.new_zeros(out_channels)
    assert old.bias is not None
    weight[: old.out_channels, : old.in_channels], bias[: old.out_channels] = old.weight, old.bias
    new.load_state_dict({"weight": weight, "bias": bias})
    return new.to(old.weight.dtype).requires_grad_(old.weight.requires_grad)


def _updated(
    module: nn.Module, whole: Mapping[str, Tensor], down: Mapping[str, Tensor], up: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """The weights of a module with an adapter's tensors (see `Adapter`), by their names in the module."""
    changed: dict[str, Tensor] = {}
    for name, weight in module.named_parameters():
        key = _key(name)
        changed[name] = weight + (up[key] @ down[key]).view(weight.shape) if key in up else whole[key]
    return changed


def _key(name: str) -> str:
    return name.replace(".", "/")  # names of parameters hold no dots


class Adapter(nn.Module):
    """The update of one UNet, without the UNet itself; initially zero.

    Args:
        unet: The base, widened or not, or a module born as a copy of it. The adapter is made on its device.
        digest: Of the base's weights, see `base_digest`.
        rank: Of each change.
        whole: How the names of weights begin that are replaced.
        learned: What is trained beside the network, such as vectors of words, as it begins.
    """

    base: Tensor

    def __init__(
        self,
        unet: nn.Module,
        digest: str,
        rank: int = RANK,
        whole: tuple[str, ...] = WHOLE,
        learned: Mapping[str, Tensor] | None = None,
    ) -> None:
        super().__init__()
        self.digest, self.rank = digest, rank
        # in the state, so that a checkpoint says which base it is for
        self.register_buffer("base", torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8))
        self.whole, self.down, self.up = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        self.learned = nn.ParameterDict({name: tensor.detach().clone() for name, tensor in (learned or {}).items()})
        for name, weight in unet.named_parameters():
            key = _key(name)
            rows, columns = (len(weight), weight[0].numel()) if weight.ndim > 1 else (0, 0)
            if name.startswith(whole) or rank * (rows + columns) >= rows * columns:
                self.whole[key] = weight.detach().clone()
            else:
                self.down[key] = (torch.randn(rank, columns) * columns**-0.5).to(weight.device)
                self.up[key] = torch.zeros(rows, rank, device=weight.device)

    def weights(self, unet: nn.Module) -> dict[str, Tensor]:
        """The updated weights, by their names in the base."""
        return _updated(unet, *(dict(part.items()) for part in (self.whole, self.down, self.up)))

    def call(self, network: nn.Module, *given: Any, **named: Any) -> Any:
        """What the updated network makes of its arguments; gradients reach the adapter alone if the network is frozen."""
        return functional_call(network, self.weights(network), given, named)

    def forward(self, unet: nn.Module, x: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """Output of the updated UNet for x (B, C, h, w), timesteps (B,) and states (B, T, D)."""
        answer: Tensor = self.call(unet, x, timesteps, states).sample
        return answer.float()

    def check_base(self, source: Path) -> None:
        """Refuse a state from `source`, loaded before, that was trained for other weights than `digest`.

        Raises:
            BackboneError: adapter-mismatch.
        """
        check_base(bytes(self.base.tolist()).hex(), self.digest, source)

    def save(self, folder: Path) -> Path:
        """Write the adapter as float16 safetensors, with its rank and its base's digest as metadata; atomically."""
        path = folder / FILE
        tensors = {name: weight.detach().half().cpu().contiguous() for name, weight in self.named_parameters()}
        with written_whole(path) as temporary:
            temporary.write_bytes(save(tensors, {"format": "pt", "base_sha256": self.digest, "rank": str(self.rank)}))
        return path


@torch.no_grad()
def grown(state: Mapping[str, Tensor], own: Adapter, network: nn.Module) -> dict[str, Tensor]:
    """The state of an adapter that begins as that of another network which shares weights with its own, by their names.

    Changes are brought to its rank: of a higher one the nearest is taken (Eckart and Young, 1936).

    Args:
        state: Of the other adapter; `whole` is of a network born of the same denoiser.
        own: The adapter, as made. What the other network has not, stays as it is.
        network: Its network.
    """
    begun = own.state_dict()
    for name, weight in network.named_parameters():
        key, rows = _key(name), len(weight)
        if f"up.{key}" in state:
            change = state[f"up.{key}"].to(weight) @ state[f"down.{key}"].to(weight)
        elif f"whole.{key}" in state:
            change = (state[f"whole.{key}"].to(weight) - weight).reshape(rows, -1)
        else:
            continue
        if key in own.whole:
            begun[f"whole.{key}"] = weight + change.view(weight.shape)
            continue
        left, values, right = torch.linalg.svd(change, full_matrices=False)
        roots = values[: own.rank].sqrt()
        begun[f"up.{key}"], begun[f"down.{key}"] = left[:, : own.rank] * roots, roots[:, None] * right[: own.rank]
    return begun


def check_base(found: str, digest: str, source: Path) -> None:
    """Refuse an adapter from `source` for weights of digest `found` where the UNet has `digest`.

    Raises:
        BackboneError: adapter-mismatch.
    """
    if found != digest:
        raise BackboneError(
            f"{source} was made for a UNet with SHA-256 {found[:12]}, and this one has {digest[:12]}: load it with the "
            "denoiser it was trained from in the folder `unet` beside it, or train it anew with `sfumato train`.",
            code="adapter-mismatch",
        )


def read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    """Metadata and float32 tensors of what `Adapter.save` wrote.

    Raises:
        BackboneError: model-invalid.
    """
    with safe_open(path, "pt") as file:
        metadata = file.metadata() or {}
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}
    if not {"base_sha256", "rank"} <= metadata.keys():
        raise BackboneError(f"{path} is not an adapter that `sfumato train` made; train one, or take another model.")
    return metadata, tensors


def learned(path: Path) -> dict[str, Tensor]:
    """What an adapter in a file learned beside its network, float32, by name; empty if nothing."""
    with safe_open(path, "pt") as file:
        return {name.removeprefix(LEARNED): file.get_tensor(name).float() for name in file.keys() if name.startswith(LEARNED)}


@torch.no_grad()
def merge(unet: Any, path: Path, digest: str) -> None:
    """Change a float32 UNet, or a module born as a copy of one, in place as the adapter in the file `path` says.

    Args:
        unet: The base. It is widened first if the adapter's first convolution reads more than its own.
        path: What `Adapter.save` wrote.
        digest: Of the base's weights, see `base_digest`.

    Raises:
        BackboneError: adapter-mismatch, model-invalid.
    """
    metadata, tensors = read(path)
    check_base(metadata["base_sha256"], digest, path)
    whole, down, up = (
        {name.removeprefix(part): tensor for name, tensor in tensors.items() if name.startswith(part)}
        for part in ("whole.", "down.", "up.")
    )
    first, last = whole.get("conv_in/weight"), whole.get("conv_out/weight")
    if first is not None and first.shape[1] > unet.conv_in.in_channels:
        widen(unet, first.shape[1], None if last is None else len(last))
    expected = {_key(name): weight.shape for name, weight in unet.named_parameters()}
    found = {key: tensor.shape for key, tensor in whole.items()}
    for key in up.keys() & down.keys() & expected.keys():  # of their product the rows, and the columns as the weight has them
        rows, *others = expected[key]
        if (len(up[key]), down[key].shape[1]) == (rows, math.prod(others)):
            found[key] = expected[key]
    if found != expected:
        raise BackboneError(f"{path} is an adapter of another kind of network; load it with the method it was trained for.")
    unet.load_state_dict(_updated(unet, whole, down, up))
