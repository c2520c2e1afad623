"""Table of the model families: capabilities and defaults of each. Imports no torch."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from sfumato.backbones.capabilities import TRAINED, Capability

PAPER_CLIP = "openai/clip-vit-base-patch16"
"""Ranks the predictions of real models, as in the paper, when it is cached; and guides Blended Diffusion."""

EMPTY_SCENE = "empty scene"
"""As PowerPaint (arXiv:2312.03594) tells Stable Diffusion where it is to remove or to outpaint."""

_LATENT = frozenset({Capability.TEXT, Capability.LATENTS, Capability.DECODER})
_CHAIN = frozenset({Capability.CHAIN, Capability.ANY_LEVEL})
_OPEN = frozenset({Capability.OPEN_VOCABULARY})
_BESIDE = frozenset({Capability.TAKES_BRANCH})
_ATTENDS = frozenset({Capability.SELF_ATTENTION})
_FLOW = frozenset({Capability.ANY_LEVEL, Capability.FLOW})
_PIXEL = frozenset({Capability.PIXELS}) | _CHAIN
_CASCADE = frozenset({Capability.TEXT, Capability.CASCADE})

_STABLE_DIFFUSION, _FLOW_FAMILIES = "sfumato.backbones.stable_diffusion", "sfumato.backbones.flow_families"
_SD_PIPELINES = {"StableDiffusionPipeline": ("StableDiffusionImg2ImgPipeline", "StableDiffusionInpaintPipeline")}
_SD_UNUSED = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
_ERASED = {"remove": "attentive-eraser"}  # they have no word for nothing
_NO_PICTURES = {"image_encoder": None, "feature_extractor": None}

# A quarter of Stable Diffusion's steps ends at this noise-to-signal ratio. Schedules of flow matching are shifted to the noisy
# end, some with the picture's size, so there a fraction of the steps would say little.
_FLOW_START: dict[str, Any] = {"scheduler": "flow-euler", "start_sigma": 3.94, "start_fraction": 0.0}


@dataclass(frozen=True, kw_only=True)
class FamilyCard:
    """A family of models.

    Args:
        name: As in facts and messages.
        title: For people.
        capabilities: What its models can do.
        defaults: Values for fields of EditRequest that are left None.
        module: Where `from_pipe(pipe, name) -> Backbone` wraps its pipelines.
        pipelines: diffusers' text-to-image pipelines that its components are loaded with, and of each the other pipelines of
            the same components.
        unused: Keyword arguments of diffusers' loader that leave out what is not used.
        method_defaults: By method, its own options where the family wants others than its default preset has.
        task_defaults: By method, values in place of those that its tasks bring (`TaskCard.defaults`).
        clip: What ranks and guides by default.
        empty: What its models are told of a place where nothing stands, for tasks without words.
        models, branches: By method, what ships with the model of this name for the methods that need further training.
        fast: By method, what `EditRequest.fast` sets of the fields that are left None.
        prefers: By task, the method of requests that name none, for the model of this name; for others of the family, of those
            that have no words either, where the model was not trained for the task.
    """

    name: str
    title: str
    capabilities: frozenset[Capability]
    defaults: Mapping[str, Any]
    module: str = ""
    pipelines: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    unused: Mapping[str, Any] = field(default_factory=dict)
    method_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    task_defaults: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    clip: str = PAPER_CLIP
    empty: str = EMPTY_SCENE
    models: Mapping[str, str] = field(default_factory=dict)
    branches: Mapping[str, str] = field(default_factory=dict)
    fast: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    prefers: Mapping[str, str] = field(default_factory=dict)

    def can(self, *capabilities: Capability) -> bool:
        """Whether its models have all of these capabilities."""
        return self.capabilities.issuperset(capabilities)


FAMILIES: tuple[FamilyCard, ...] = (
    FamilyCard(
        name="embedded",
        title="the embedded model",
        capabilities=_LATENT | _CHAIN | _BESIDE | _ATTENDS,
        # What was there shows through much noise, so the embedded model starts from its blurred surroundings, and early. What
        # else was tried is right less often, or as often within noise (docs/bench.md).
        defaults={"steps": 20, "guidance_scale": 3.0, "start_fraction": 0.1, "fill": "blur"},
        # The authors' 10 is for Stable Diffusion; here it tints the ground that is left (docs/methods/powerpaint.md).
        task_defaults={"powerpaint": {"guidance_scale": 3.0}, "powerpaint-v2": {"guidance_scale": 3.0}},
        clip="embedded",
        empty="empty",
        models={
            "stable-inpainting": "embedded-inpainting",
            "powerpaint": "embedded-powerpaint",
            "smartbrush": "embedded-smartbrush",
            "glide": "embedded-glide",
        },
        branches={
            "brushnet": "embedded-brushnet",
            "powerpaint-v2": "embedded-powerpaint-v2",
            "controlnet-inpainting": "embedded-controlnet",
        },
        fast={
            # Both pass scripts/fast_gate.py.
            "stable-inpainting": {"scheduler": "dpm++", "steps": 6},
            "blended-latent-diffusion": {"scheduler": "dpm++", "steps": 8},
        },
        prefers={"edit": "stable-inpainting", "shape": "smartbrush", "remove": "powerpaint"},
    ),
    FamilyCard(
        name="embedded-fast",
        title="the embedded model in four steps",
        capabilities=_LATENT | _BESIDE,
        # Distilled with guidance 4 built in.
        defaults={"scheduler": "lcm", "steps": 4, "guidance_scale": 1.0, "start_fraction": 0.0, "fill": "blur"},
        clip="embedded",
        empty="empty",
        branches={"brushnet": "embedded-brushnet"},  # trained beside the embedded model, and as good here
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
        capabilities=_LATENT | _CHAIN | _OPEN | _BESIDE | _ATTENDS,
        defaults={"steps": 30, "guidance_scale": 7.5, "start_fraction": 0.25},
        module=_STABLE_DIFFUSION,
        pipelines=_SD_PIPELINES,
        unused=_SD_UNUSED,
        prefers=_ERASED,
    ),
    FamilyCard(
        name="sd2",
        title="Stable Diffusion 2.x",
        capabilities=_LATENT | _CHAIN | _OPEN | _BESIDE | _ATTENDS,
        defaults={"steps": 30, "guidance_scale": 7.5, "start_fraction": 0.25},
        module=_STABLE_DIFFUSION,
        pipelines=_SD_PIPELINES,
        unused=_SD_UNUSED,
        prefers=_ERASED,
    ),
    FamilyCard(
        name="sdxl",
        title="Stable Diffusion XL",
        capabilities=_LATENT | _CHAIN | _OPEN | _BESIDE | _ATTENDS,
        defaults={"steps": 30, "guidance_scale": 5.0, "start_fraction": 0.25},
        module=_STABLE_DIFFUSION,
        pipelines={
            "StableDiffusionXLPipeline": ("StableDiffusionXLImg2ImgPipeline", "StableDiffusionXLInpaintPipeline"),
        },
        unused={"feature_extractor": None, "add_watermarker": False},
        # From noise alone the inpainting checkpoint does less well (diffusers' issues 4858, 5647, 8450).
        method_defaults={"stable-inpainting": {"init": "source"}},
        prefers=_ERASED,
    ),
    FamilyCard(
        name="kolors",
        title="Kolors",
        capabilities=_LATENT | _CHAIN | _OPEN | _BESIDE,
        defaults={"steps": 25, "guidance_scale": 6.0, "start_fraction": 0.25},
        module="sfumato.backbones.kolors",
        pipelines={"KolorsPipeline": ("KolorsImg2ImgPipeline",)},
        method_defaults={"stable-inpainting": {"init": "source"}},  # its strength is below 1
    ),
    FamilyCard(
        name="ldm",
        title="CompVis text-to-image latent diffusion",
        capabilities=_LATENT | _CHAIN | _OPEN,
        defaults={"steps": 50, "guidance_scale": 5.0, "start_fraction": 0.0},
        module="sfumato.backbones.latent_diffusion",
        pipelines={"LDMTextToImagePipeline": ()},
    ),
    # Steps and guidance of each model's own pipeline in diffusers. Guidance 1 and a guidance embedding is for distilled models.
    FamilyCard(
        name="sd3",
        title="Stable Diffusion 3",
        capabilities=_LATENT | _FLOW | _OPEN,
        defaults=_FLOW_START | {"steps": 28, "guidance_scale": 7.0},
        module=_FLOW_FAMILIES,
        pipelines={"StableDiffusion3Pipeline": ("StableDiffusion3Img2ImgPipeline", "StableDiffusion3InpaintPipeline")},
        unused=_NO_PICTURES,
    ),
    FamilyCard(
        name="flux",
        title="FLUX.1",
        capabilities=_LATENT | _FLOW | _OPEN,
        defaults=_FLOW_START | {"steps": 28, "guidance_scale": 1.0},
        module=_FLOW_FAMILIES,
        pipelines={"FluxPipeline": ("FluxImg2ImgPipeline", "FluxInpaintPipeline")},
        unused=_NO_PICTURES,
    ),
    FamilyCard(
        name="flux2",
        title="FLUX.2 [klein]",
        capabilities=_LATENT | _FLOW | _OPEN,
        defaults=_FLOW_START | {"steps": 4, "guidance_scale": 1.0},
        module=_FLOW_FAMILIES,
        pipelines={"Flux2KleinPipeline": ("Flux2KleinInpaintPipeline",)},
    ),
    FamilyCard(
        name="z-image",
        title="Z-Image",
        capabilities=_LATENT | _FLOW | _OPEN,
        defaults=_FLOW_START | {"steps": 9, "guidance_scale": 1.0},
        module=_FLOW_FAMILIES,
        pipelines={"ZImagePipeline": ("ZImageImg2ImgPipeline", "ZImageInpaintPipeline")},
    ),
    FamilyCard(
        name="qwen-image",
        title="Qwen-Image",
        capabilities=(_LATENT | _FLOW | _OPEN) - {Capability.DECODER},  # a video decoder
        defaults=_FLOW_START | {"steps": 50, "guidance_scale": 4.0},
        module=_FLOW_FAMILIES,
        pipelines={"QwenImagePipeline": ("QwenImageImg2ImgPipeline", "QwenImageInpaintPipeline")},
    ),
    FamilyCard(
        name="pixel",
        title="unconditional pixel models (DDPM)",
        capabilities=_PIXEL,
        defaults={"steps": 100},
        module="sfumato.backbones.pixel",
        pipelines={"DDPMPipeline": ()},
    ),
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
    # Though it reads any word it is not said to, so that nothing is added to the negative prompt, which it was published without.
    FamilyCard(
        name="glide-inpainting",
        title="GLIDE for inpainting",
        capabilities=_CASCADE,
        defaults={"steps": 100, "guidance_scale": 5.0},
    ),
    FamilyCard(
        name="embedded-glide",
        title="the embedded model as a small cascade",
        capabilities=_CASCADE,
        defaults={"steps": 40, "guidance_scale": 3.0},
        clip="embedded",
        empty="empty",
    ),
)


def family(name: str) -> FamilyCard:
    """A family by its name."""
    return next(card for card in FAMILIES if card.name == name)


def able(needs: frozenset[Capability]) -> list[str]:
    """Names of the families whose models have all of these capabilities, with further training for masks if it needs that."""
    return [card.name for card in FAMILIES if card.capabilities >= needs - TRAINED]


def loaded_with(pipeline: str) -> list[FamilyCard]:
    """The families whose components diffusers loads with a pipeline of this class."""
    return [card for card in FAMILIES if pipeline in card.pipelines]


def base_pipeline(pipeline: str) -> str | None:
    """The text-to-image pipeline of the same components as this one, or itself; None for those of no family."""
    bases = {name: base for card in FAMILIES for base, others in card.pipelines.items() for name in (base, *others)}
    return bases.get(pipeline)


def supported() -> str:
    """The families that can be loaded, for messages."""
    *titles, last = [card.title for card in FAMILIES if card.pipelines]
    return f"{', '.join(titles)} and {last}"
