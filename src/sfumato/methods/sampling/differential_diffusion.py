"""Differential Diffusion (Levin and Fried, CGF 2025, arXiv:2306.00950): each place changes as much as it may.

A grey mask c in [0, 1] is cut at another height at every step: a place is tied to the source until the share 1 - c of the steps
is done, and free from then on. White is free from the first step, black never; what is grey goes through the last steps only, as
image-to-image of strength c would. Not a loop of its own: any method that blends with a mask per step takes this schedule.

Differs from the paper: its keep-map is 1 - c; it compares with >=, so that there black is free in the last step.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor


def mask_schedule(change: Sequence[Tensor]) -> list[Tensor]:
    """The hard mask of every step, in effect after it.

    Shares are of the steps that are run, so white does whatever a hard mask would, wherever the run starts. Steps of shifted
    and unshifted noise schedules count alike.

    Args:
        change: For each of the N steps (1, 1, h, w) in [0, 1]: how much each place may change. Usually N times the same map;
            progressive mask shrinking gives dilated ones first.

    Returns:
        N tensors of that shape in {0, 1}; equal to `change` where that is 0 or 1 already.
    """
    return [(share > 1 - done / len(change)).to(share.dtype) for done, share in enumerate(change, 1)]
