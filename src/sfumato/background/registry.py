"""Registry of the background reconstructions; listing it loads no PyTorch."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from torch import Tensor

    from sfumato.backbones.base import Autoencoder
    from sfumato.request import EditRequest

Watch = Callable[[int, int], None]
"""Called after each unit of work with (units done, units in all); raises Cancelled to stop."""


class Reconstruct(Protocol):
    """The signature that all reconstructions share."""

    def __call__(
        self,
        autoencoder: "Autoencoder",
        latents: "Tensor",
        decoded: "Tensor",
        source: "Tensor",
        mask: "Tensor",
        watch: Watch | None = None,
    ) -> "Tensor":
        """Make the surroundings of the edit agree with the source.

        Args:
            autoencoder: Its `vae` and `unscale` are used; its weights are never changed.
            latents: (B, C, h, w) clean scaled latents of the predictions.
            decoded: (B, 3, H, W) what the autoencoder decodes them to, in [-1, 1], float32.
            source: (1, 3, H, W) the picture being edited, in [-1, 1].
            mask: (1, 1, H, W) in {0, 1}; 1 = edit.
            watch: Called with the progress; may raise Cancelled.

        Returns:
            (B, 3, H, W) pixels in [-1, 1], clamped; or layers, (B, 4, H, W): the same with their opacity, also in [-1, 1], which
            is 0 outside the mask.
        """


@dataclass(frozen=True, kw_only=True)
class BackgroundCard:
    """The row of one reconstruction: its module, description and cost.

    Args:
        module, description, cost: As said.
        pastes: Whether it copies pixels of the source, so that its picture no longer shows what the model made of them.
        steps: Denoising steps of one prediction that take about as long as decoding and restoring it, for a first guess at
            the time left. Measured with the embedded model on a CPU.
    """

    module: str
    description: str
    cost: str
    pastes: bool = False
    steps: float = 2.0

    def load(self) -> Reconstruct:
        """Import the module and give its function."""
        function: Reconstruct = import_module(self.module).reconstruct
        return function


BACKGROUNDS: dict[str, BackgroundCard] = {
    "paste": BackgroundCard(
        module="sfumato.background.paste",
        description="Puts the source's own pixels around the edit; exact outside, a seam may show.",
        cost="free",
        pastes=True,
    ),
    "blurred": BackgroundCard(
        module="sfumato.background.blurred",
        description="Lets the edit fade into the source over 10 pixels outside the mask, as published with BrushNet; to be seen "
        "with --no-keep-unmasked.",
        cost="free",
        pastes=True,
    ),
    "poisson": BackgroundCard(
        module="sfumato.background.poisson",
        description="Keeps the edit's gradients and the source's colours at the border; may tint the edit.",
        cost="milliseconds per prediction, on the CPU",
        pastes=True,
    ),
    "matte": BackgroundCard(
        module="sfumato.background.matte",
        description="Keeps the source's own pixels inside the mask too, wherever the edit does not mean to change them.",
        cost="one encoding and two decodings, and a tenth of a second per prediction on the CPU",
        pastes=True,
        steps=3.0,
    ),
    "latents": BackgroundCard(
        module="sfumato.background.latent_optimisation",
        description="Searches for latents whose picture has the source's surroundings; tends to blur them.",
        cost="75 passes forth and back through the decoder per prediction, and a float32 copy of it",
        steps=300.0,
    ),
    "decoder": BackgroundCard(
        module="sfumato.background.decoder_tuning",
        description="Fine-tunes a copy of the decoder on each prediction, as the paper does.",
        cost="75 passes forth and back through the decoder per prediction, and a float32 copy of it with its Adam state",
        steps=400.0,
    ),
    "decoder-solve": BackgroundCard(
        module="sfumato.background.decoder_solve",
        description="Solves the paper's objective exactly for the decoder's last convolution.",
        cost="one decoding and one small linear system per prediction",
        steps=10.0,
    ),
    "decoder-local": BackgroundCard(
        module="sfumato.background.decoder_local",
        description="Solves the paper's objective exactly place by place, for the decoder's last layer.",
        cost="one decoding and many tiny linear systems per prediction",
        steps=3.0,
    ),
    "none": BackgroundCard(
        module="sfumato.background.none",
        description="Leaves the decoded picture as it is; with keep_unmasked off, the model's own surroundings are seen.",
        cost="free",
    ),
}


def usual_times(request: "EditRequest") -> dict[str, float]:
    """Usual times of background reconstruction and ranking relative to denoising, for a request without open options."""
    steps = max(1.0, (request.steps or 1) * (1 - (request.start_fraction or 0.0)))
    return {
        "background": BACKGROUNDS[request.background or "paste"].steps / steps,
        "rank": 0.1 / steps if request.rank == "none" else 1 / steps,
    }
