"""Background reconstruction by Poisson blending (Perez et al., SIGGRAPH 2003, section 3, seamless cloning)."""

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from sfumato.backbones.base import Autoencoder
from sfumato.background.registry import Watch

EROSION_PX = 3  # OpenCV takes the edit's gradients only this far inside the mask it is given
PADDING_PX = EROSION_PX + 2  # room for the grown mask and for the border that OpenCV ignores
NEAR_PX = 2 * PADDING_PX  # a mask this close to the frame is mirrored across it, whole


def reconstruct(
    autoencoder: Autoencoder, latents: Tensor, decoded: Tensor, source: Tensor, mask: Tensor, watch: Watch | None = None
) -> Tensor:
    """Clone each prediction into the source with OpenCV's `seamlessClone` (normal cloning, 8 bits).

    The arguments are those of `sfumato.background.registry.Reconstruct`; the autoencoder and the latents are not used.

    The system is solved on the mask's bounding box, so pixels outside the mask but inside the box may change too.

    Differs from the official script: the whole bounding box is used and it is not moved by a pixel; the mask is grown by what
    OpenCV erodes, so that a stroke of a few pixels is cloned too; where the mask is near the frame, everything is mirrored
    across it, so that the frame does not tint the edit. A mask without a border leaves the prediction as it is.
    """
    region = mask[0, 0].cpu().numpy() > 0.5
    background = levels(source[0])
    results = []
    for i, picture in enumerate(decoded):
        results.append(torch.from_numpy(clone(levels(picture), background, region)))
        if watch is not None:
            watch(i + 1, len(decoded))
    pixels = torch.stack(results).permute(0, 3, 1, 2)
    return (pixels.float() / 127.5 - 1).to(decoded.device)


def levels(pixels: Tensor) -> NDArray[np.uint8]:
    """(3, H, W) in [-1, 1] to (H, W, 3) in 0..255."""
    rounded = ((pixels.detach().float() + 1) * 127.5).round().clamp(0, 255)
    return np.ascontiguousarray(rounded.permute(1, 2, 0).cpu().numpy().astype(np.uint8))


def clone(edit: NDArray[np.uint8], source: NDArray[np.uint8], region: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """The edit's gradients in the region with the source's colours around it; all (H, W, 3) but the region, (H, W)."""
    height, width = region.shape
    top, bottom, left, right = (
        side if edge.any() else PADDING_PX
        for side, edge in (
            (height, region[:NEAR_PX]),
            (height, region[-NEAR_PX:]),
            (width, region[:, :NEAR_PX]),
            (width, region[:, -NEAR_PX:]),
        )
    )
    parts = (edit, source, region.astype(np.uint8) * 255)
    edit, source, grown = (
        np.asarray(cv2.copyMakeBorder(x, top, bottom, left, right, cv2.BORDER_REFLECT), np.uint8) for x in parts
    )
    # where the mirrored mask reaches even the padded frame, the edit agrees with itself
    rim = np.pad(np.zeros_like(grown[PADDING_PX:-PADDING_PX, PADDING_PX:-PADDING_PX]), PADDING_PX, constant_values=1)
    source = np.where((rim * grown)[..., None] > 0, edit, source)
    grown = np.asarray(cv2.dilate(grown, np.ones((3, 3), np.uint8), iterations=EROSION_PX), np.uint8)
    grown[[0, -1]] = grown[:, [0, -1]] = 0  # as OpenCV does before it takes the bounding box
    x, y, box_width, box_height = cv2.boundingRect(grown)
    centre = (x + box_width // 2, y + box_height // 2)  # with it OpenCV puts the box back where it was cut out
    cloned = cv2.seamlessClone(edit, source, grown, centre, cv2.NORMAL_CLONE)
    return np.asarray(cloned[top : top + height, left : left + width], np.uint8)
