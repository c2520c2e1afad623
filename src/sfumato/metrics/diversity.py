"""Diversity: mean pairwise LPIPS of the correct predictions of one edit (arXiv:1801.03924).

LPIPS compares unit-length feature vectors of a trained network, place by place. The published networks and their weights are
large and come from elsewhere; where they are not installed, the features are those of the embedded judge: the same formula
without learnt channel weights. Its numbers compare with each other only, so results name the distance they were made with.
"""

import itertools
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, Protocol

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from sfumato.embedded.judge import SIDE, Judge
from sfumato.errors import EditError, ModelNotFound, ResourceError
from sfumato.masks.window import bounding_box

TRUNKS = {"alex": "alexnet-owt-7be5be79.pth", "vgg": "vgg16-397923af.pth", "squeeze": "squeezenet1_1-b8a52dc0.pth"}
LEAST_SIDE = 64  # the published trunks need about this much


class Distance(Protocol):
    """A perceptual distance of pictures."""

    name: str

    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """(B, 3, h, w) in [-1, 1], twice, to (B,)."""


class FeatureDistance:
    """LPIPS's formula on the judge's feature maps; the picture counts as all under the mask.

    Args:
        judge: Whose features; only its convolutions are used.
    """

    name = "lpips-style on the judge's features"

    def __init__(self, judge: Judge) -> None:
        self.judge = judge

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Distance`."""
        pairs = zip(self._maps(a), self._maps(b), strict=True)
        return torch.stack([(mine - other).square().sum(1).mean((1, 2)) for mine, other in pairs]).mean(0).cpu()

    def _maps(self, pictures: Tensor) -> list[Tensor]:
        fitted = F.interpolate(pictures, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        crops = torch.cat([fitted, torch.ones_like(fitted[:, :1])], 1).to(self.judge.device)
        return [F.normalize(features, dim=1) for features in self.judge.stages_of(crops)]


class PublishedLPIPS:
    """LPIPS with its published weights, through the `lpips` package.

    Args:
        network: Whose features.
        device: Where to run; pictures are to be there.

    Raises:
        ResourceError: extra-missing: the package or torchvision is not installed.
        ModelNotFound: model-not-cached: the trunk's weights are not in torch's hub folder; nothing is downloaded.
    """

    def __init__(self, network: Literal["alex", "vgg", "squeeze"] = "alex", device: torch.device | str = "cpu") -> None:
        if find_spec("lpips") is None or find_spec("torchvision") is None:
            raise ResourceError("The published LPIPS needs: pip install lpips torchvision", code="extra-missing")
        weights = Path(torch.hub.get_dir()) / "checkpoints" / TRUNKS[network]
        if not weights.is_file():
            raise ModelNotFound(
                f"The published LPIPS needs torchvision's {TRUNKS[network]} in {weights.parent}.", code="model-not-cached"
            )
        from lpips import LPIPS

        self.name = f"LPIPS ({network})"
        self._model: Any = LPIPS(net=network, verbose=False).eval().requires_grad_(False).to(device)

    @torch.inference_mode()
    def __call__(self, a: Tensor, b: Tensor) -> Tensor:
        """See `Distance`."""
        return self.differentiable(a, b)

    def differentiable(self, a: Tensor, b: Tensor) -> Tensor:
        """The same with gradients where they are enabled; `b` may be one picture, (1, 3, h, w), for all of `a`."""
        return self._model(a, b).flatten(1).mean(1)


def best_distance(load_judge: Callable[[], Judge]) -> tuple[Distance | None, list[str]]:
    """The published LPIPS if it is installed, else the one on the judge's features, else none; and notes for the user."""
    try:
        return PublishedLPIPS(), []
    except EditError as missing:
        reason = missing.message
    try:
        return FeatureDistance(load_judge()), [f"Diversity is measured on the judge's features. {reason}"]
    except ModelNotFound as error:
        return None, [f"Diversity is left out. {reason} {error.message}"]


def pairwise(distance: Distance, predictions: Sequence[NDArray[np.uint8]], mask: NDArray[np.bool_]) -> float | None:
    """Mean distance of all pairs of predictions, within the mask's bounding box, all outside the mask black.

    Args:
        distance: What to compare with.
        predictions: (H, W, 3) each.
        mask: (H, W), true = edit, not empty.

    Returns:
        The mean; None with fewer than two predictions.
    """
    if len(predictions) < 2:
        return None
    regions = torch.stack([_region(picture, mask) for picture in predictions])
    first, second = zip(*itertools.combinations(range(len(predictions)), 2), strict=True)
    return float(distance(regions[list(first)], regions[list(second)]).mean())


def _region(picture: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Tensor:
    """(3, h, w) in [-1, 1]: what is under the mask, enlarged if it is very small."""
    x, y, width, height = bounding_box(mask.astype(np.uint8))
    part = np.where(mask[..., None], picture, 0)[y : y + height, x : x + width].astype(np.float32)
    factor = LEAST_SIDE / min(width, height)
    if factor > 1:
        size = max(LEAST_SIDE, round(width * factor)), max(LEAST_SIDE, round(height * factor))
        part = np.asarray(cv2.resize(part, size), np.float32)
    return torch.from_numpy(part).permute(2, 0, 1) / 127.5 - 1


def guiding_lpips(device: torch.device) -> Callable[[Tensor, Tensor], Tensor]:
    """The published LPIPS, on VGG as in Blended Diffusion. There is no substitute: the judge measures, so it may not guide."""
    try:
        with torch.inference_mode(False):  # its weights take part in gradients
            return PublishedLPIPS("vgg", device).differentiable
    except EditError as missing:
        needs = missing.message.rstrip(".")
        raise type(missing)(f"{needs}; or leave LPIPS out with background_lpips_weight=0.", code=missing.code) from None
