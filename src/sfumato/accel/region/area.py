"""The area of the latents that region mode computes."""

from dataclasses import dataclass

from torch import Tensor

from sfumato.masks.latent import dilate


@dataclass(frozen=True)
class Area:
    """A rectangle of latent cells: rows `top` to `bottom`, columns `left` to `right`, the ends excluded.

    Args:
        top, bottom, left, right: Its sides.
        size: (h, w) of the latents.
    """

    top: int
    bottom: int
    left: int
    right: int
    size: tuple[int, int]

    @property
    def shape(self) -> tuple[int, int]:
        """Its own (height, width)."""
        return self.bottom - self.top, self.right - self.left

    @property
    def share(self) -> float:
        """Its share of the latents."""
        return self.shape[0] * self.shape[1] / (self.size[0] * self.size[1])

    def of(self, x: Tensor) -> Tensor:
        """Its part of (..., h, w): a view."""
        return x[..., self.top : self.bottom, self.left : self.right]

    def at(self, size: tuple[int, int]) -> "Area":
        """The same area on a map of this size, which the network halved from the latents (ends rounded up) some times."""
        area = self
        while area.size != size:
            if area.size[0] < size[0] or area.size == (1, 1):
                raise ValueError(f"A map of {size} cells is none of the halves of {self.size}.")
            area = area.halved()
        return area

    def halved(self) -> "Area":
        """The cells of a map of half the size that it touches."""
        height, width = self.size
        size = -(-height // 2), -(-width // 2)
        return Area(self.top // 2, -(-self.bottom // 2), self.left // 2, -(-self.right // 2), size)


def area_around(mask: Tensor, margin: int) -> Area:
    """The smallest area that holds the mask with a margin around it.

    Args:
        mask: (1|B, 1, h, w), above 0 where anything may change.
        margin: Cells around it, cut at the latents' ends.
    """
    height, width = mask.shape[-2:]
    inside = dilate((mask > 0).float(), 2 * margin + 1).amax((0, 1)) > 0

    def side(line: Tensor) -> tuple[int, int]:
        places = line.nonzero().flatten()
        return int(places[0]), int(places[-1]) + 1

    return Area(*side(inside.any(1)), *side(inside.any(0)), (height, width))
