"""Autoencoder of the embedded model: 8x8 patches projected on principal components, refined by small convolutions.

Both ends start as a linear projection (the best linear 8-channel code of 8x8 patches), and the convolutional branches start at
zero, so training begins near 29 dB instead of at noise. The interface is diffusers': `encode(x).latent_dist`, `decode(z).sample`,
`config.scaling_factor`, `config.shift_factor`, `decoder.conv_out`.

Eight numbers a patch cannot carry the blades of a lawn: the decoder gives their mean, a smooth green. As video codecs do with
film grain, what the latents have lost is synthesised, with the strength and direction given by the decoder's features, when
`decode` is given a generator.

A decoder may have a part that sees the picture around an edit, and adds to the decoder's features; see `seeing`.
"""

import itertools
from typing import cast

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models.autoencoders.vae import DecoderOutput, DiagonalGaussianDistribution
from diffusers.models.modeling_outputs import AutoencoderKLOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F

from sfumato.embedded.layers import Down, Residual, Up, silence
from sfumato.embedded.seeing import Seeing, Sight

LOG_VARIANCE = -30.0  # the code is deterministic; diffusers' posterior needs a variance all the same
GRAIN_FILTERS = 24
SEEING_WIDTHS = (16, 24, 48, 64)


class _Encoder(nn.Module):
    def __init__(self, latent_channels: int, widths: list[int]) -> None:
        super().__init__()
        patch = 2 ** (len(widths) - 1)
        self.linear = nn.Conv2d(3, latent_channels, patch, stride=patch)
        self.conv_in = nn.Conv2d(3, widths[0], 3, padding=1)
        blocks: list[nn.Module] = []
        for i, (a, b) in enumerate(itertools.pairwise(widths)):
            blocks += [Residual(a)] if i else []  # none at full resolution: costly, and it bought nothing
            blocks += [Down(a, b)]
        self.blocks = nn.Sequential(*blocks, Residual(widths[-1]), Residual(widths[-1]))
        self.conv_out = nn.Conv2d(widths[-1], latent_channels, 3, padding=1)
        silence(self.conv_out)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear(x) + self.conv_out(F.silu(self.blocks(self.conv_in(x))))


class _Decoder(nn.Module):
    def __init__(self, latent_channels: int, widths: list[int], seeing: Seeing | None) -> None:
        super().__init__()
        patch = 2 ** (len(widths) - 1)
        self.linear = nn.ConvTranspose2d(latent_channels, 3, patch, stride=patch)
        self.conv_in = nn.Conv2d(latent_channels, widths[-1], 3, padding=1)
        blocks: list[nn.Module] = [Residual(widths[-1]) for _ in range(3)]
        for a, b in zip(widths[:0:-1], widths[-2::-1], strict=True):
            blocks += [Up(a, b), Residual(b), Residual(b)]
        self.blocks = nn.Sequential(*blocks)
        self.conv_out = nn.Conv2d(widths[0], 3, 3, padding=1)
        silence(self.conv_out)
        self.seeing = seeing

    def forward(self, z: Tensor) -> Tensor:
        return self.drawn(z)[0]

    def drawn(self, z: Tensor, sight: Sight | None = None) -> tuple[Tensor, Tensor]:
        """The picture (B, 3, H, W) without grain, and the features (B, C, H, W) that it was made of.

        Args:
            z: The code.
            sight: What `seeing` adds on every level.
        """
        x = self.conv_in(z)
        if sight is not None:
            x = sight.join(x)
        for block in self.blocks:
            x = block(x)
            if sight is not None and isinstance(block, Up):
                x = sight.join(x)
        features = F.silu(x)
        picture = self.linear(z) + self.conv_out(features)
        return picture if sight is None else picture + sight.correction(), features


class _Grain(nn.Module):
    """White noise, filtered at every pixel by its features, which weight a few fixed filters."""

    def __init__(self, channels: int, filters: int = GRAIN_FILTERS, taps: int = 5) -> None:
        super().__init__()
        self.weigh = nn.Conv2d(channels, filters, 3, padding=1)
        self.filter = nn.Conv2d(filters, 3, taps, padding=taps // 2, bias=False)
        nn.init.normal_(self.filter.weight, std=0.01)  # not zero: the strength would have no gradient

    def forward(self, features: Tensor, noise: Tensor, sight: Sight | None = None) -> Tensor:
        weights = self.weigh(features)
        return self.filter(F.silu(weights if sight is None else weights + sight.grain()) * noise)


class PatchAutoencoder(ModelMixin, ConfigMixin):
    """Autoencoder with a factor-8 (one patch) latent grid. Pixels are in [-1, 1].

    Args:
        latent_channels: Channels of the code.
        block_out_channels: Widths from full resolution to the latent grid; one more than the number of halvings.
        scaling_factor: `(z - shift_factor) * scaling_factor` has about unit variance.
        shift_factor: Mean of the raw code over the training scenes.
        seeing_widths: Widths of the decoder's part that sees the picture around an edit, as many as `block_out_channels` has;
            None for none.
    """

    @register_to_config
    def __init__(
        self,
        latent_channels: int = 8,
        block_out_channels: tuple[int, ...] = (32, 64, 128, 128),
        scaling_factor: float = 1.0,
        shift_factor: float = 0.0,
        seeing_widths: tuple[int, ...] | None = None,
    ) -> None:
        super().__init__()
        widths = list(block_out_channels)
        seeing = None if seeing_widths is None else Seeing(widths, list(seeing_widths), GRAIN_FILTERS)
        self.encoder = _Encoder(latent_channels, widths)
        self.decoder = _Decoder(latent_channels, widths, seeing)
        self.grain = _Grain(widths[0])

    @property
    def sees(self) -> bool:
        """Whether the decoder has a part that sees the picture around an edit."""
        return self.decoder.seeing is not None

    def encode(self, x: Tensor, return_dict: bool = True) -> AutoencoderKLOutput | tuple[DiagonalGaussianDistribution]:
        """Pixels (B, 3, H, W) to a posterior whose mode is the code (B, C, H/8, W/8)."""
        mean = self.encoder(x)
        posterior = DiagonalGaussianDistribution(torch.cat([mean, torch.full_like(mean, LOG_VARIANCE)], 1))
        return AutoencoderKLOutput(latent_dist=posterior) if return_dict else (posterior,)

    def decode(
        self,
        z: Tensor,
        return_dict: bool = True,
        generator: torch.Generator | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> DecoderOutput | tuple[Tensor]:
        """`picture` as diffusers asks for it."""
        x = self.picture(z, generator, image, mask)
        return DecoderOutput(sample=x) if return_dict else (x,)

    def picture(
        self,
        z: Tensor,
        generator: torch.Generator | None = None,
        image: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Code (B, C, h, w), unscaled, to pixels (B, 3, 8h, 8w).

        Args:
            z: The code.
            generator: Draws the grain, the same noise for all pictures of the batch; without it they have none, and are the
                nearest to what was encoded.
            image: (1|B, 3, 8h, 8w) in [-1, 1]: the picture that is edited, for a decoder that sees; ignored by others.
            mask: (1|B, 1, 8h, 8w), 1 = hole; without it nothing is seen.
        """
        seeing = self.decoder.seeing
        sight = None if seeing is None or image is None or mask is None else seeing.look(image, mask)
        x, features = self.decoder.drawn(z, sight)
        if generator is None:
            return x
        noise = torch.randn(1, 1, *x.shape[-2:], generator=generator, device=generator.device)
        return x + self.grain(features, noise.to(x), sight)

    @torch.no_grad()
    def start_from_patches(self, pixels: Tensor) -> None:
        """Set the linear ends to the principal components of the patches of `pixels` (B, 3, H, W).

        Channels are divided by the square root of their standard deviation: enough for the small ones to be worth denoising,
        without giving grain the weight of shape.
        """
        patch, channels = self.encoder.linear.kernel_size[0], self.config.latent_channels
        flat = F.unfold(pixels, patch, stride=patch).transpose(1, 2).reshape(-1, 3 * patch * patch).double()
        mean = flat.mean(0)
        variances, basis = torch.linalg.eigh((flat - mean).T @ (flat - mean) / len(flat))
        basis, deviation = basis[:, -channels:], variances[-channels:].sqrt()
        gain = deviation**-0.5
        self.encoder.linear.weight.copy_((basis * gain).T.reshape_as(self.encoder.linear.weight))
        cast(Tensor, self.encoder.linear.bias).copy_(-(mean @ basis) * gain)
        self.decoder.linear.weight.copy_((basis / gain).T.reshape(channels, 3, patch, patch))
        # the mean patch is nearly flat: one value per colour is its share
        cast(Tensor, self.decoder.linear.bias).copy_(mean.reshape(3, -1).mean(1))

    def with_sight(self, widths: tuple[int, ...] = SEEING_WIDTHS) -> "PatchAutoencoder":
        """A copy, float32, whose decoder has a part that sees; until that is trained, it makes the same pictures to the bit."""
        own = {name: value for name, value in self.config.items() if not name.startswith("_")}
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # the same in all processes
            copy = PatchAutoencoder(**own | {"seeing_widths": widths})
        missing, unexpected = copy.load_state_dict(self.state_dict(), strict=False)
        assert not unexpected
        assert all(name.startswith("decoder.seeing.") for name in missing)
        return copy
