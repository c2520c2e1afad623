"""Adapters of the embedded UNet: low-rank updates of its matrices, replaced small tensors (arXiv:2106.09685, equation 3).

W + B A for every matrix and convolution, the latter as (out, in k k) matrices; the first and last convolution, the time
embedding, norms and biases are replaced. It is merged into the UNet when that is loaded, so it costs nothing at a step.
"""

import hashlib
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
WHOLE = ("conv_in", "conv_out", "time_embedding")  # where a new task changes most, and few weights


def base_digest(folder: Path) -> str:
    """SHA-256 of the weights of the UNet in a model's folder."""
    return hashlib.sha256((folder / UNET_WEIGHTS).read_bytes()).hexdigest()


class Adapter(nn.Module):
    """The update of one UNet, without the UNet itself; initially zero.

    Args:
        unet: The base. The adapter is made on its device.
        digest: Of the base's weights, see `base_digest`.
        rank: Of each change.
    """

    base: Tensor

    def __init__(self, unet: nn.Module, digest: str, rank: int = RANK) -> None:
        super().__init__()
        self.digest, self.rank = digest, rank
        # in the state, so that a checkpoint says which base it is for
        self.register_buffer("base", torch.frombuffer(bytearray.fromhex(digest), dtype=torch.uint8))
        self.whole, self.down, self.up = nn.ParameterDict(), nn.ParameterDict(), nn.ParameterDict()
        for name, weight in unet.named_parameters():
            key = name.replace(".", "/")  # names of parameters hold no dots
            rows, columns = (len(weight), weight[0].numel()) if weight.ndim > 1 else (0, 0)
            if name.startswith(WHOLE) or rank * (rows + columns) >= rows * columns:
                self.whole[key] = weight.detach().clone()
            else:
                self.down[key] = (torch.randn(rank, columns) * columns**-0.5).to(weight.device)
                self.up[key] = torch.zeros(rows, rank, device=weight.device)

    def weights(self, unet: nn.Module) -> dict[str, Tensor]:
        """The updated weights, by their names in the base."""
        changed: dict[str, Tensor] = {}
        for name, weight in unet.named_parameters():
            key = name.replace(".", "/")
            low_rank = key in self.up
            changed[name] = weight + (self.up[key] @ self.down[key]).view(weight.shape) if low_rank else self.whole[key]
        return changed

    def forward(self, unet: nn.Module, x: Tensor, timesteps: Tensor, states: Tensor) -> Tensor:
        """Output of the updated UNet; gradients reach the adapter alone. x (B, C, h, w), timesteps (B,), states (B, T, D)."""
        answer: Any = functional_call(unet, self.weights(unet), (x, timesteps, states))
        return answer.sample.float()

    def check_base(self, source: Path) -> None:
        """Refuse an adapter that was trained for other weights than `digest`.

        Raises:
            BackboneError: adapter-mismatch.
        """
        found = bytes(self.base.tolist()).hex()
        if found != self.digest:
            raise BackboneError(
                f"{source} was made for a UNet with SHA-256 {found[:12]}, and this one has {self.digest[:12]}: load it with the "
                "denoiser it was trained from in the folder `unet` beside it, or train it anew with `sfumato train`.",
                code="adapter-mismatch",
            )

    def save(self, folder: Path) -> Path:
        """Write the adapter as float16 safetensors, with its rank and its base's digest as metadata; atomically."""
        path = folder / FILE
        tensors = {name: weight.detach().half().cpu().contiguous() for name, weight in self.named_parameters()}
        with written_whole(path) as temporary:
            temporary.write_bytes(save(tensors, {"format": "pt", "base_sha256": self.digest, "rank": str(self.rank)}))
        return path


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


@torch.no_grad()
def merge(unet: nn.Module, path: Path, digest: str) -> None:
    """Change a float32 UNet in place as the adapter in the file `path` says.

    Args:
        unet: The base.
        path: What `Adapter.save` wrote.
        digest: Of the base's weights, see `base_digest`.

    Raises:
        BackboneError: adapter-mismatch, model-invalid.
    """
    metadata, tensors = read(path)
    with torch.random.fork_rng(devices=[]):  # what a new adapter draws is overwritten: loading must not move the caller's noise
        adapter = Adapter(unet, digest, int(metadata["rank"]))
    adapter.base = torch.frombuffer(bytearray.fromhex(metadata["base_sha256"]), dtype=torch.uint8)
    adapter.check_base(path)
    adapter.load_state_dict(tensors | {"base": adapter.base})
    unet.load_state_dict(adapter.weights(unet))
