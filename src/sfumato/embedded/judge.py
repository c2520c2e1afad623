"""The judge: a small classifier of what is under a mask. It measures edits and never guides or ranks them.

It is trained apart from the other models, on renders of its own (`training/judge.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.modeling_utils import ModelMixin
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.errors import ModelNotFound

WEIGHTS = Path(__file__).parent / "weights" / "judge"
NOTHING = "nothing"  # the kind of a region without a thing
ATTRIBUTES = ("kind", "colour", "material", "ground")
SIDE = 64
CONTEXT = 1.25  # side of the crop, relative to the longer side of the mask's bounding box
BATCH_SIZE = 64


@dataclass(frozen=True, kw_only=True)
class Reading:
    """The judge's classification of one region.

    Args:
        kind: One of the world's kinds, or "nothing".
        colour, material: Of the thing; meaningless if there is none.
        ground: What the region lies on, or shows.
        probabilities: Of each of these, by attribute.
    """

    kind: str
    colour: str
    material: str
    ground: str
    probabilities: dict[str, float]


def crop(image: NDArray[np.uint8], mask: NDArray[np.bool_], context: float = CONTEXT) -> NDArray[np.float32]:
    """The square around a mask with some context, as the judge sees it.

    Args:
        image: (H, W, 3).
        mask: (H, W), not empty. What the square holds beyond the picture repeats the picture's border, outside the mask.
        context: Side of the square, relative to the longer side of the mask's bounding box.

    Returns:
        (SIDE, SIDE, 4): colours in [-1, 1] and the mask's coverage in [0, 1].
    """
    left, top, width, height = cv2.boundingRect(mask.astype(np.uint8))
    side = max(8.0, context * max(width, height))
    scale = SIDE / side
    x, y = left + width / 2 - side / 2, top + height / 2 - side / 2
    cover = mask.astype(np.float32)
    if scale < 1:  # area averaging first, because warping alone would skip pixels
        image, cover, x, y, scale = _shrunk(image, cover, x, y, scale)
    matrix = np.array([[scale, 0, -x * scale + 0.5 * scale - 0.5], [0, scale, -y * scale + 0.5 * scale - 0.5]])
    colours = cv2.warpAffine(image, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    cover = np.asarray(cv2.warpAffine(cover, matrix, (SIDE, SIDE), flags=cv2.INTER_LINEAR), np.float32)
    return np.concatenate([colours.astype(np.float32) / 127.5 - 1, cover[..., None]], axis=-1)


def _shrunk(
    image: NDArray[np.uint8], cover: NDArray[np.float32], x: float, y: float, scale: float
) -> tuple[NDArray[np.uint8], NDArray[np.float32], float, float, float]:
    """Picture and mask at about the crop's resolution, and the crop's corner and scale there."""
    height, width = cover.shape
    size = max(1, round(width * scale)), max(1, round(height * scale))
    share_x, share_y = size[0] / width, size[1] / height
    small = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)
    cover = np.asarray(cv2.resize(cover, size, interpolation=cv2.INTER_AREA), np.float32)
    return small, cover, x * share_x, y * share_y, scale / share_x


class _Residual(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.GroupNorm(8, channels), nn.GroupNorm(8, channels)
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return x + self.conv2(F.silu(self.norm2(self.conv1(F.silu(self.norm1(x))))))


class Judge(ModelMixin, ConfigMixin):
    """Classifier of kind, colour, material and ground of a masked region.

    Args:
        kinds, colours, materials, grounds: The labels, in the order of the outputs; "nothing" is added to the kinds.
        widths: Channels of the stages, from half the crop's resolution down.
    """

    @register_to_config
    def __init__(
        self,
        kinds: Sequence[str],
        colours: Sequence[str],
        materials: Sequence[str],
        grounds: Sequence[str],
        widths: Sequence[int] = (32, 64, 128, 176),
    ) -> None:
        super().__init__()
        self.labels = {"kind": (*kinds, NOTHING), "colour": colours, "material": materials, "ground": grounds}
        self.stem = nn.Conv2d(4, widths[0], 5, stride=2, padding=2)
        self.stages = nn.ModuleList()
        for i, width in enumerate(widths):
            down = [nn.Conv2d(widths[i - 1], width, 3, stride=2, padding=1)] if i else []
            self.stages.append(nn.Sequential(*down, _Residual(width)))
        self.norms = nn.ModuleList(nn.GroupNorm(8, width) for width in widths[-2:])
        # the mean over the crop describes the surroundings, mean and maximum under the mask the object: a highlight, which
        # marks a shiny object, is small, so the finer of two stages is read as well
        features = widths[-1] + 2 * sum(widths[-2:])
        self.heads = nn.Linear(features, sum(len(names) for names in self.labels.values()))

    @classmethod
    def load(cls, folder: Path | None = None, device: str | torch.device = "cpu") -> "Judge":
        """The judge of this installation, or of a folder.

        Raises:
            ModelNotFound: judge-missing.
        """
        folder = folder or WEIGHTS
        if not (folder / "config.json").is_file():
            where = "this installation" if folder == WEIGHTS else folder
            raise ModelNotFound(f"There is no judge in {where}; train one with: sfumato train judge", code="judge-missing")
        judge: Judge = cls.from_pretrained(folder, use_safetensors=True, local_files_only=True, torch_dtype=torch.float32)
        return judge.to(device).eval()

    def stages_of(self, crops: Tensor) -> list[Tensor]:
        """Feature maps of every stage: crops (B, 4, SIDE, SIDE) to (B, C_i, S_i, S_i), S_i = SIDE / 2, / 4, ..."""
        maps, x = [], self.stem(crops)
        for stage in self.stages:
            x = stage(x)
            maps.append(x)
        return maps

    def forward(self, crops: Tensor) -> dict[str, Tensor]:
        """Crops (B, 4, SIDE, SIDE) to logits (B, labels) by attribute."""
        maps = [F.silu(norm(x)) for norm, x in zip(self.norms, self.stages_of(crops)[-2:], strict=True)]
        features = [maps[-1].mean((2, 3))]
        for x in maps:
            cover = F.adaptive_avg_pool2d(crops[:, 3:], x.shape[-1])
            cover = cover / cover.amax((2, 3), keepdim=True).clamp(min=1e-3)
            features += [(x * cover).sum((2, 3)) / cover.sum((2, 3)).clamp(min=1e-3), (x * cover).amax((2, 3))]
        logits = self.heads(torch.cat(features, 1))
        return dict(zip(self.labels, logits.split([len(names) for names in self.labels.values()], 1), strict=True))

    @torch.inference_mode()
    def read(self, images: NDArray[np.uint8], masks: NDArray[np.bool_]) -> list[Reading]:
        """Read the masked region of each picture.

        Args:
            images: (n, H, W, 3).
            masks: (n, H, W), none of them empty.
        """
        readings: list[Reading] = []
        for start in range(0, len(images), BATCH_SIZE):
            part = slice(start, start + BATCH_SIZE)
            crops = crops_of(images[part], masks[part]).to(self.device)
            chances = {name: logits.float().softmax(1).cpu() for name, logits in self(crops).items()}
            for i in range(len(crops)):
                best = {name: int(chance[i].argmax()) for name, chance in chances.items()}
                readings.append(
                    Reading(
                        **{name: self.labels[name][k] for name, k in best.items()},
                        probabilities={name: float(chances[name][i, k]) for name, k in best.items()},
                    )
                )
        return readings


def crops_of(images: NDArray[np.uint8], masks: NDArray[np.bool_]) -> Tensor:
    """Pictures (n, H, W, 3) and masks (n, H, W) to the judge's input (n, 4, SIDE, SIDE)."""
    crops = np.stack([crop(image, mask) for image, mask in zip(images, masks, strict=True)])
    return torch.from_numpy(crops).permute(0, 3, 1, 2).contiguous()
