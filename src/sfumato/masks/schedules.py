"""Mask schedules, one mask per step: progressive mask shrinking, and per-pixel edit strength.

Any method that blends with a mask per step takes these schedules.

- Progressive mask shrinking (Blended Latent Diffusion, arXiv:2206.02779, section 4.3): thin masks start dilated.
- Differential Diffusion (Levin and Fried, CGF 2025, arXiv:2306.00950): a grey mask c in [0, 1] is thresholded at another value at
  every step. A pixel is replaced by the source until the fraction 1 - c of the steps is done, and free from then on. White is
  free from the first step, black never; a grey pixel is denoised in the last steps only, as image-to-image of strength c would.
  Differs from the paper: its keep-map is 1 - c; it compares with >=, so that there black is free in the last step.
"""

from collections.abc import Sequence

from torch import Tensor

from sfumato.masks.latent import dilate


def shrink_schedule(mask_latent: Tensor, steps: int, kernels: Sequence[int] = (7, 5, 3)) -> list[Tensor]:
    """Progressive mask shrinking (arXiv:2206.02779, section 4.3): the most dilated mask first, the mask itself last.

    With n masks, step i of N takes mask i // (N // n + 1), as the published script does (13, 13, 13 and 11 steps of 50).
    Where that formula would never reach the mask itself (for example N = 25, n = 6), it is min(n - 1, i n // N) instead,
    and the last step always takes the mask itself.

    Args:
        mask_latent: (1|B, 1, h, w) in [0, 1]; dilation takes the maximum.
        steps: Steps that are run, N.
        kernels: Odd sides in cells of the all-ones kernels to dilate with, in the order they are used.

    Returns:
        N tensors of the mask's shape; equal ones are the same tensor.
    """
    masks = [*(dilate(mask_latent, kernel) for kernel in kernels), mask_latent]
    last = len(masks) - 1
    share = steps // len(masks) + 1
    if (steps - 1) // share == last:
        return [masks[step // share] for step in range(steps)]
    schedule = [masks[min(last, step * len(masks) // steps)] for step in range(steps)]
    schedule[-1] = mask_latent
    return schedule


def mask_schedule(change: Sequence[Tensor]) -> list[Tensor]:
    """The hard mask of every step, in effect after it.

    Fractions are of the steps that are run, so white acts as a hard mask would, wherever the run starts. Steps of shifted
    and unshifted noise schedules count alike.

    Args:
        change: For each of the N steps (1|B, 1, h, w) in [0, 1]: per-pixel edit strength. Usually N times the same map;
            progressive mask shrinking gives dilated ones first.

    Returns:
        N tensors of that shape in {0, 1}; equal to `change` where that is 0 or 1 already.
    """
    return [(share > 1 - done / len(change)).to(share.dtype) for done, share in enumerate(change, 1)]
