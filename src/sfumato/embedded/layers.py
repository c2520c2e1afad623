"""Layers that the parts of the embedded autoencoder share."""

from torch import Tensor, nn
from torch.nn import functional as F


def silence(layer: nn.Module) -> None:
    """Set all weights to zero, so that the layer starts without effect."""
    for parameter in layer.parameters():
        nn.init.zeros_(parameter)


class Residual(nn.Module):
    """Two convolutions, added to what they are given; nothing at first."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        silence(self.conv2)

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to the same shape."""
        return x + self.conv2(F.silu(self.conv1(F.silu(x))))


class Down(nn.Module):
    """Strided convolution beside a space-to-channel shortcut (Deep Compression Autoencoder, arXiv:2410.10733)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, 2, stride=2)
        self.group = 4 * channels_in // channels_out

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', H/2, W/2)."""
        return self.conv(x) + F.pixel_unshuffle(x, 2).unflatten(1, (-1, self.group)).mean(2)


class Up(nn.Module):
    """Convolution and pixel shuffle beside a channel-to-space shortcut (arXiv:2410.10733)."""

    def __init__(self, channels_in: int, channels_out: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, 4 * channels_out, 3, padding=1)
        self.repeat = 4 * channels_out // channels_in

    def forward(self, x: Tensor) -> Tensor:
        """(B, C, H, W) to (B, C', 2H, 2W)."""
        return F.pixel_shuffle(self.conv(x) + x.repeat_interleave(self.repeat, 1), 2)
