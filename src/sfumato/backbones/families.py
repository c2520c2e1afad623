"""The families of models: what each can do, and the best defaults for it. Light: listed without torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sfumato.backbones.capabilities import Capability

PAPER_CLIP = "openai/clip-vit-base-patch16"
"""Ranks the predictions of real models, as in the paper, when it is cached; and guides Blended Diffusion."""

EMPTY_SCENE = "empty scene"
"""As PowerPaint (arXiv:2312.03594) tells Stable Diffusion where it is to remove or to outpaint."""

_LATENT = frozenset({Capability.TEXT, Capability.LATENTS, Capability.DECODER})
_CHAIN = frozenset({Capability.CHAIN, Capability.ANY_LEVEL})
_OPEN = frozenset({Capability.OPEN_VOCABULARY})
_CLIP = frozenset({Capability.CLIP_TEXT})
_FLOW = frozenset({Capability.ANY_LEVEL, Capability.FLOW})
_PIXEL = frozenset({Capability.PIXELS}) | _CHAIN

# A quarter of Stable Diffusion's steps ends at this noise-to-signal ratio. Schedules of flow matching are shifted to the noisy
# end, some with the picture's size, so there a share of the steps would say little.
_FLOW_START: dict[str, Any] = {"scheduler": "flow-euler", "start_sigma": 3.94, "start_fraction": 0.0}


@dataclass(frozen=True, kw_only=True)
class FamilyCard:
    """A family of models.

    Args:
        name: As in facts and messages.
        title: For people.
        capabilities: What its models can do.
        defaults: Values for fields of EditRequest that are left None.
        method_defaults: By method, its own options where the family wants others than its default preset has.
        clip: What ranks and guides by default.
        empty: What its models are told of a place where nothing stands, for tasks without words.
    """

    name: str
    title: str
    capabilities: frozenset[Capability]
    defaults: Mapping[str, Any]
    method_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clip: str = PAPER_CLIP
    empty: str = EMPTY_SCENE

    def can(self, *capabilities: Capability) -> bool:
        """Whether its models can do all of these."""
        return self.capabilities.issuperset(capabilities)


FAMILIES: tuple[FamilyCard, ...] = (
    FamilyCard(
        name="embedded",
        title="the embedded model",
        capabilities=_LATENT | _CHAIN,
        # What was there shows through much noise, so the embedded model starts from its blurred surroundings, and early. What
        # else was tried is right less often, or as often within noise (docs/bench.md).
        defaults={"steps": 20, "guidance_scale": 3.0, "start_fraction": 0.1, "fill": "blur"},
        clip="embedded",
        empty="empty",
    ),
    FamilyCard(
        name="embedded-fast",
        title="the embedded model in four steps",
        capabilities=_LATENT,
        # Distilled with guidance 4 built in.
        defaults={"scheduler": "lcm", "steps": 4, "guidance_scale": 1.0, "start_fraction": 0.0, "fill": "blur"},
        clip="embedded",
        empty="empty",
    ),
    FamilyCard(
        name="embedded-flow",
        title="the embedded model by flow matching",
        capabilities=_LATENT | _FLOW,
        defaults=_FLOW_START | {"steps": 20, "guidance_scale": 4.0, "start_sigma": 20.0, "fill": "blur"},
        clip="embedded",
        empty="empty",
    ),
    FamilyCard(
        name="sd1",
        title="Stable Diffusion 1.x",
        capabilities=_LATENT | _CHAIN | _OPEN | _CLIP,
        defaults={"steps": 30, "guidance_scale": 7.5, "start_fraction": 0.25},
    ),
    FamilyCard(
        name="sd2",
        title="Stable Diffusion 2.x",
        capabilities=_LATENT | _CHAIN | _OPEN | _CLIP,
        defaults={"steps": 30, "guidance_scale": 7.5, "start_fraction": 0.25},
    ),
    FamilyCard(
        name="sdxl",
        title="Stable Diffusion XL",
        capabilities=_LATENT | _CHAIN | _OPEN | _CLIP,
        defaults={"steps": 30, "guidance_scale": 5.0, "start_fraction": 0.25},
    ),
    FamilyCard(
        name="ldm",
        title="CompVis text-to-image latent diffusion",
        capabilities=_LATENT | _CHAIN | _OPEN,
        defaults={"steps": 50, "guidance_scale": 5.0, "start_fraction": 0.0},
    ),
    # Steps and guidance of each model's own pipeline in diffusers. Guidance 1 and a guidance embedding is for distilled models.
    FamilyCard(
        name="sd3",
        title="Stable Diffusion 3",
        capabilities=_LATENT | _FLOW | _OPEN,
        defaults=_FLOW_START | {"steps": 28, "guidance_scale": 7.0},
    ),
    FamilyCard(
        name="flux",
        title="FLUX.1",
        capabilities=_LATENT | _FLOW | _OPEN,
        defaults=_FLOW_START | {"steps": 28, "guidance_scale": 1.0},
    ),
    FamilyCard(
        name="flux2",
        title="FLUX.2 [klein]",
        capabilities=_LATENT | _FLOW | _OPEN,
        defaults=_FLOW_START | {"steps": 4, "guidance_scale": 1.0},
    ),
    FamilyCard(
        name="z-image",
        title="Z-Image",
        capabilities=_LATENT | _FLOW | _OPEN,
        defaults=_FLOW_START | {"steps": 9, "guidance_scale": 1.0},
    ),
    FamilyCard(
        name="qwen-image",
        title="Qwen-Image",
        capabilities=(_LATENT | _FLOW | _OPEN) - {Capability.DECODER},  # a video decoder
        defaults=_FLOW_START | {"steps": 50, "guidance_scale": 4.0},
    ),
    FamilyCard(name="pixel", title="pixel models", capabilities=_PIXEL, defaults={"steps": 100}),
    FamilyCard(
        name="embedded-pixel",
        title="the embedded pixel model",
        capabilities=_PIXEL,
        defaults={"steps": 100},
        # The embedded ranker was trained with black around the mask. Half the views are half the time, on 64 pixels.
        method_defaults={"blended-diffusion": {"outside": "black", "clip_augmentations": 4}},
        clip="embedded",
        empty="empty",
    ),
)


def family(name: str) -> FamilyCard:
    """A family by its name."""
    return next(card for card in FAMILIES if card.name == name)


def able(needs: frozenset[Capability]) -> list[str]:
    """Names of the families that can do all of these."""
    return [card.name for card in FAMILIES if card.capabilities >= needs]
