"""The part of the embedded decoder that sees the picture around the edit.

The idea is that of Zhu et al., "Designing a Better Asymmetric VQGAN for StableDiffusion" (arXiv:2306.04632, section 3): a decoder
that is given the masked picture at every level continues its grain, colours and edges, while the latents stay what they are.
Theirs is another, larger decoder, trained anew, in which features of the picture replace the decoder's outside the hole. Here the
decoder stays as it is: a small network beside it reads the picture and the decoder's features, and adds to them through
convolutions that start at zero (arXiv:2302.05543, section 3.1). Without a picture the decoder makes what it always made.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.embedded.layers import Residual, silence

LEAST_KNOWN = 1e-3  # cells


class Seeing(nn.Module):
    """Features of the masked picture on all levels, which meet the decoder's own on the way up; see `Sight`.

    Args:
        decoder_widths: Channels of the decoder, from full resolution to the latent grid.
        widths: The same of this part.
        filters: Of the grain, whose strengths it changes.
    """

    def __init__(self, decoder_widths: list[int], widths: list[int], filters: int) -> None:
        super().__init__()
        self.conv_in = nn.Conv2d(4, widths[0], 3, padding=1)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.spread = Residual(widths[-1])
        self.mean = nn.Conv2d(widths[-1], widths[-1], 1)
        self.meet = nn.ModuleList(nn.Conv2d(a + b, b, 3, padding=1) for a, b in zip(decoder_widths, widths, strict=True))
        self.above = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in itertools.pairwise(widths))
        self.out = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in zip(decoder_widths, widths, strict=True))
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        self.grain = nn.Conv2d(widths[0], filters, 3, padding=1)
        for layer in (self.out, self.conv_out, self.grain):
            silence(layer)

    def look(self, image: Tensor, mask: Tensor) -> "Sight":
        """See a picture (1|B, 3, H, W) in [-1, 1] outside a mask (1|B, 1, H, W), 1 = hole; what is in the hole has no effect."""
        known = 1 - mask
        x = self.conv_in(torch.cat([image * known, mask], 1))
        levels = [x]
        for down in self.down:
            x = down(F.silu(x))
            levels.append(x)
        levels[-1] = x = self.spread(x)
        share = F.avg_pool2d(known.float(), 2 ** len(self.down))
        total = (x.float() * share).sum((2, 3), keepdim=True)  # in float32: large pictures have thousands of cells
        mean = total / share.sum((2, 3), keepdim=True).clamp(min=LEAST_KNOWN)
        return Sight(self, levels, self.mean(mean.to(x)))


class Sight:
    """What was seen of a picture, on its way through one decoding.

    Args:
        seeing: The part that saw it.
        levels: Features (1|B, C_l, H / 2^l, W / 2^l) from full resolution to the latent grid.
        mean: (1|B, C, 1, 1): what the whole picture adds on the latent grid, from the mean of the features over what is known:
            it reaches the middle of the largest hole.
    """

    def __init__(self, seeing: Seeing, levels: list[Tensor], mean: Tensor) -> None:
        self._seeing, self._levels, self._above = seeing, levels, mean
        self._own = mean  # this part's own features on the level where the decoder is

    def join(self, x: Tensor) -> Tensor:
        """The decoder's features (B, C, h, w) on the next level, from the latent grid on, with what is added to them."""
        known = self._levels.pop()
        level = len(self._levels)
        own = self._seeing.meet[level](torch.cat([x, known.expand(len(x), *known.shape[1:])], 1))
        self._own = F.silu(own + self._above)
        if level:
            self._above = F.interpolate(self._seeing.above[level - 1](self._own), scale_factor=2, mode="bilinear")
        return x + self._seeing.out[level](self._own)

    def correction(self) -> Tensor:
        """What is added to the picture (B, 3, H, W), once all levels are joined."""
        corrected: Tensor = self._seeing.conv_out(self._own)
        return corrected

    def grain(self) -> Tensor:
        """What is added to the weights (B, filters, H, W) of the grain's filters, once all levels are joined."""
        weights: Tensor = self._seeing.grain(self._own)
        return weights
