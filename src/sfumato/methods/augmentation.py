"""Random augmentations of CLIP's input, against adversarial gradients (Blended Diffusion, arXiv:2111.14818, section 4.3)."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

PROBABILITY = 0.7  # of each of the two warps
DEGREES, SHIFT, DISTORTION = 15.0, 0.1, 0.7  # the last two as shares of the side, and of half of it


def augment(pictures: Tensor, count: int, generators: Sequence[torch.Generator]) -> Tensor:
    """Warp each picture several times: turned and shifted, the border continued; then as if the plane were tilted.

    Args:
        pictures: (B, 3, S, S).
        count: Views of each, the first of them the picture itself.
        generators: One per picture, so that its views do not depend on the batch.

    Returns:
        (count, B, 3, S, S), differentiable.
    """
    views = [pictures]
    for _ in range(count - 1):
        turned = torch.stack([_affine(generator) for generator in generators])
        tilted = torch.stack([_perspective(generator) for generator in generators])
        views.append(_warp(_warp(pictures, turned, "border"), tilted, "zeros"))
    return torch.stack(views)


def _uniform(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.rand(shape, generator=generator)


def _affine(generator: torch.Generator) -> Tensor:
    """(3, 3) in coordinates from -1 to 1: where each pixel of the view comes from."""
    applied = float(_uniform(generator, 1)) < PROBABILITY
    angle, x, y = (2 * _uniform(generator, 3) - 1) * torch.tensor([DEGREES * torch.pi / 180, 2 * SHIFT, 2 * SHIFT])
    if not applied:
        return torch.eye(3)
    cos, sin, zero, one = angle.cos(), angle.sin(), torch.zeros(()), torch.ones(())
    return torch.stack([cos, -sin, x, sin, cos, y, zero, zero, one]).view(3, 3)


def _perspective(generator: torch.Generator) -> Tensor:
    """(3, 3): the map that takes four corners, drawn inwards, back to the picture's own."""
    applied = float(_uniform(generator, 1)) < PROBABILITY
    corners = torch.tensor([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    drawn_in = corners * (1 - DISTORTION * _uniform(generator, 4, 2))
    if not applied:
        return torch.eye(3)
    rows = []
    for (x, y), (u, v) in zip(drawn_in.tolist(), corners.tolist(), strict=True):
        rows += [[x, y, 1, 0, 0, 0, -u * x, -u * y], [0, 0, 0, x, y, 1, -v * x, -v * y]]
    solved = torch.linalg.solve(torch.tensor(rows, dtype=torch.float64), corners.double().flatten())
    return torch.cat([solved, solved.new_ones(1)]).view(3, 3).float()


def _warp(pictures: Tensor, sources: Tensor, padding: str) -> Tensor:
    """Look each pixel of (B, 3, S, S) up where the (B, 3, 3) maps say, bilinearly."""
    side = pictures.shape[-1]
    line = (torch.arange(side) + 0.5) * 2 / side - 1
    y, x = torch.meshgrid(line, line, indexing="ij")
    points = torch.stack([x, y, torch.ones_like(x)], -1)  # (S, S, 3)
    # picture by picture: of a batch the products may be rounded differently
    looked_up = torch.cat([torch.einsum("bij,hwj->bhwi", source, points) for source in sources.split(1)])
    grid = (looked_up[..., :2] / looked_up[..., 2:]).to(pictures)
    return F.grid_sample(pictures, grid, mode="bilinear", padding_mode=padding, align_corners=False)
