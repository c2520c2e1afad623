"""Base class of the flow-matching transformers; each family is in `flow_families`.

They are trained on x = (1 - s) z0 + s eps to say v = eps - z0 (arXiv:2210.02747; arXiv:2403.03206). The networks and the
encoding of prompts are diffusers' own; a family says how its own are called. Latents stay unpacked between calls, so that a mask
keeps its cells: packing 2x2 of them into tokens is part of the call.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor

from sfumato.backbones.autoencoder import LatentAutoencoder
from sfumato.backbones.base import Conditions, Extra, Output, Traits, expand
from sfumato.backbones.capabilities import Layout
from sfumato.backbones.families import family as family_card
from sfumato.backbones.packing import PATCH
from sfumato.backbones.prediction import read_prediction
from sfumato.errors import Unsupported

NATIVE_CELLS = 128  # latent cells a side of the pictures that all of them were trained for: 1024 pixels


@dataclass(frozen=True, kw_only=True)
class TokenSites:
    """Where a transformer of diffusers has the picture's tokens. Its last layer, for each token, is `proj_out`.

    Args:
        embedder: The module that makes them of the latents.
        rotary: The module that computes the angles of rotary embeddings, of the picture's tokens in its first call; None if
            positions are added by the embedder.
        rotated: How many of the tensors that it gives belong to the picture's tokens, with the text's in front or without.
        text_first: Whether the text's tokens come before them in joint attention.
    """

    embedder: str
    rotary: str | None = None
    rotated: int = 2
    text_first: bool = True


class FlowTransformer(ABC):
    """What the families share; see `Denoiser` for the interface.

    Args:
        transformer: Of diffusers.
        traits: See `flow_traits`.
    """

    packed: ClassVar[bool] = True  # whether tokens are made outside the transformer
    keeps_norm: ClassVar[bool] = False  # see `Traits`
    sites: ClassVar[TokenSites | None] = None  # None if its tokens cannot be left out

    def __init__(self, transformer: Any, traits: Traits) -> None:
        self.transformer, self.traits = transformer, traits

    @classmethod
    def side(cls, transformer: Any) -> int:
        """Native side in latent cells."""
        return NATIVE_CELLS

    @classmethod
    def shift(cls, config: Mapping[str, Any], tokens: int, steps: int) -> float:
        """The shift's logarithm: linear in the number of tokens (arXiv:2403.03206, section 5.3.2, as FLUX.1 has it)."""
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return float(low + (high - low) * (tokens - few) / (many - few))

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`."""
        sigma = torch.full((len(x),), timestep / 1000, dtype=torch.float32, device=self.traits.device)
        return Output(self._velocity(x.to(self.traits.device, self.traits.dtype), sigma, expand(given, len(x))).float())

    @abstractmethod
    def _velocity(self, x: Tensor, sigma: Tensor, given: Conditions) -> Tensor:
        """eps - z0 for (B, C, h, w) latents at levels `sigma` (B,)."""

    def _guidance(self, given: Conditions) -> Tensor | None:
        return given.extras.get(Extra.GUIDANCE) if Extra.GUIDANCE in self.traits.extras else None


def flow_traits(pipe: Any, kind: type[FlowTransformer], autoencoder: LatentAutoencoder, *, name: str, family: str) -> Traits:
    """The traits of a pipeline's transformer.

    Raises:
        Unsupported: If the transformer reads more than latents, as those of inpainting and editing checkpoints do.
    """
    transformer, config = pipe.transformer, dict(pipe.scheduler.config) | {"prediction_type": "flow"}
    given = transformer.config.in_channels
    expected = Layout.LATENTS.channels(autoencoder.latent_channels * (PATCH**2 if kind.packed else 1))
    if given != expected:
        raise Unsupported(
            f"The transformer of '{name}' takes {given} channels where its latents have {expected}, so it was trained for"
            " inpainting or another task; give a text-to-image checkpoint instead."
        )

    def schedule(cells: tuple[int, int], steps: int) -> dict[str, Any]:
        """The shift that diffusers' pipelines compute, for schedulers whose shift depends on the size."""
        if not config.get("use_dynamic_shifting"):
            return {}
        mu = kind.shift(config, cells[0] * cells[1] // PATCH**2, steps)
        return {"shift": mu if config.get("time_shift_type") == "linear" else math.exp(mu)}

    return Traits(
        name=name,
        family=family,
        capabilities=family_card(family).capabilities,
        prediction=read_prediction(config, name),
        scheduler_config=config,
        schedule=schedule,
        extras=frozenset({Extra.GUIDANCE} if getattr(transformer.config, "guidance_embeds", False) else ()),
        latent_channels=autoencoder.latent_channels,
        factor=autoencoder.factor,
        resolution=autoencoder.factor * kind.side(transformer),
        stacks_branches=False,  # texts differ in length
        keeps_norm=kind.keeps_norm,
        device=autoencoder.device,
        dtype=transformer.dtype,
    )
