"""Base class of the flow-matching transformers; each family is in `flow_families`.

They are trained on x = (1 - s) z0 + s eps to say v = eps - z0 (arXiv:2210.02747; arXiv:2403.03206). The networks and the
encoding of prompts are diffusers' own; a family says how its own are called. Latents stay unpacked between calls, so that a mask
keeps its cells: packing 2x2 of them into tokens is part of the call.
"""

import math
from abc import abstractmethod
from typing import Any

import torch
from torch import Tensor

from sfumato.backbones.base import Conditions, Extra, Output, expand
from sfumato.backbones.latent import LatentModel, freeze
from sfumato.backbones.packing import PATCH
from sfumato.errors import Unsupported

NATIVE_CELLS = 128  # latent cells a side of the pictures that all of them were trained for: 1024 pixels


class FlowTransformer(LatentModel):
    """Base class of the flow-matching families; see `Backbone` for the interface.

    Args:
        pipe: The loaded pipeline, whose modules are used, not copied, and are frozen in evaluation mode.
        name: What the user calls the model.

    Raises:
        Unsupported: If the transformer takes more channels than the latents have, as inpainting and editing checkpoints do.
    """

    family_name: str
    stacks_branches = False  # texts differ in length
    packed = True  # whether tokens are made outside the transformer

    def __init__(self, pipe: Any, name: str) -> None:
        transformer = pipe.transformer
        super().__init__(
            name=name,
            family=self.family_name,
            vae=pipe.vae,
            scheduler_config=dict(pipe.scheduler.config) | {"prediction_type": "flow"},
            device=pipe._execution_device,
            dtype=transformer.dtype,
        )
        given = transformer.config.in_channels
        expected = self.latent_channels * (PATCH**2 if self.packed else 1)
        if given != expected:
            raise Unsupported(
                f"The transformer of '{name}' takes {given} channels where its latents have {expected}, so it was trained for"
                " inpainting or another task; give a text-to-image checkpoint instead."
            )
        self._pipe, self.transformer = pipe, transformer
        for component in pipe.components.values():
            if isinstance(component, torch.nn.Module):
                freeze(component)
        self.guidance_embedding = bool(getattr(transformer.config, "guidance_embeds", False))
        self.resolution = self.factor * NATIVE_CELLS

    @torch.no_grad()
    def __call__(self, x: Tensor, timestep: float, given: Conditions) -> Output:
        """See `Denoiser`."""
        sigma = torch.full((len(x),), timestep / 1000, dtype=torch.float32, device=self.device)
        return Output(self._velocity(x.to(self.device, self.dtype), sigma, expand(given, len(x))).float())

    @abstractmethod
    def _velocity(self, x: Tensor, sigma: Tensor, given: Conditions) -> Tensor:
        """eps - z0 for (B, C, h, w) latents at levels `sigma` (B,)."""

    def schedule(self, cells: tuple[int, int], steps: int) -> dict[str, Any]:
        """See `Backbone.schedule`: schedulers that shift with the size get the shift that diffusers' pipelines compute."""
        config = self.scheduler_config
        if not config.get("use_dynamic_shifting"):
            return {}
        mu = self._mu(cells[0] * cells[1] // PATCH**2, steps)
        return {"shift": mu if config.get("time_shift_type") == "linear" else math.exp(mu)}

    def _mu(self, tokens: int, steps: int) -> float:
        """The shift's logarithm: linear in the number of tokens (arXiv:2403.03206, section 5.3.2, as FLUX.1 has it)."""
        config = self.scheduler_config
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", 1.15)
        return float(low + (high - low) * (tokens - few) / (many - few))

    def _guidance(self, given: Conditions) -> Tensor | None:
        return given.extras.get(Extra.GUIDANCE) if self.guidance_embedding else None


def pad(texts: list[Tensor]) -> tuple[Tensor, Tensor]:
    """Texts (tokens, width) of different lengths as one tensor (n, most tokens, width), and their lengths (n,)."""
    return torch.nn.utils.rnn.pad_sequence(texts, batch_first=True), torch.tensor([len(text) for text in texts])
