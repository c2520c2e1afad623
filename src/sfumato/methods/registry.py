"""Registry of all editing methods: one row per method."""

from typing import Any

from sfumato.backbones.capabilities import ALONE, Capability
from sfumato.errors import OptionError
from sfumato.methods.base import START_FIELDS, TEXT_FIELDS, MethodCard, Task, TaskCard

_EDIT = TaskCard(wordless=None)
_FROM_BLUR = {"fill": "blur"}  # neither what was there nor sharp surroundings are to show through
# Without a prompt there is nothing to guide to; and the blurred surroundings of a hole are close to what belongs there.
_CONTINUE = {"guidance_scale": 1.0, "start_fraction": 0.5}
_EMPTY = TaskCard(defaults=_FROM_BLUR, says_empty=True)
_CONTINUED = TaskCard(defaults=_FROM_BLUR, wordless=_CONTINUE)
# A model that was trained to see the mask starts from noise, through which nothing of what was there shows.
_TRAINED: dict[Task, TaskCard] = {
    "edit": _EDIT,
    "remove": TaskCard(says_empty=True),
    "fill": TaskCard(wordless={"guidance_scale": 1.0}),
    "outpaint": TaskCard(says_empty=True),
}
# One that has words of its own for tasks needs none. Where nothing is to be drawn its authors ask for a guidance of 10 or more.
_GUIDED = TaskCard(defaults={"guidance_scale": 10.0})
_TOLD: dict[Task, TaskCard] = {"edit": _EDIT, "shape": _EDIT, "remove": _GUIDED, "fill": TaskCard(), "outpaint": _GUIDED}
# It was trained without words too, and then continues what is around.
_ALONE = TaskCard(wordless={"guidance_scale": 1.0})
_GLIDE: dict[Task, TaskCard] = {"edit": _EDIT, "remove": _ALONE, "fill": _ALONE, "outpaint": _ALONE}
_TASKS: dict[Task, TaskCard] = {"edit": _EDIT, "remove": _EMPTY, "fill": _CONTINUED, "outpaint": _EMPTY}

CARDS: tuple[MethodCard, ...] = (
    MethodCard(
        name="blended-latent-diffusion",
        kind="sampling",
        title="Blended Latent Diffusion",
        paper="Avrahami, Fried, Lischinski: Blended Latent Diffusion, SIGGRAPH 2023, arXiv:2206.02779",
        module="sfumato.methods.sampling.blended_latent_diffusion",
        needs=frozenset({Capability.TEXT, Capability.LATENTS}),
        uses=(*TEXT_FIELDS, *START_FIELDS, "scheduler", "step_cache", "shrink", "soft_mask"),
        tasks=_TASKS,
    ),
    MethodCard(
        name="blended-diffusion",
        kind="sampling",
        title="Blended Diffusion",
        paper="Avrahami, Lischinski, Fried: Blended Diffusion for Text-driven Editing of Natural Images, CVPR 2022, "
        "arXiv:2111.14818",
        module="sfumato.methods.sampling.blended_diffusion",
        needs=frozenset({Capability.PIXELS}),
        uses=START_FIELDS,
        tasks={"edit": _EDIT, "outpaint": TaskCard(defaults=_FROM_BLUR, wordless=None)},
        guided=True,
    ),
    MethodCard(
        name="repaint",
        kind="sampling",
        title="RePaint",
        paper="Lugmayr et al.: RePaint, Inpainting using Denoising Diffusion Probabilistic Models, CVPR 2022, arXiv:2201.09865",
        module="sfumato.methods.sampling.repaint",
        needs=frozenset({Capability.CHAIN}),
        uses=TEXT_FIELDS,
        tasks=_TASKS,
    ),
    MethodCard(
        name="lanpaint",
        kind="sampling",
        title="LanPaint",
        paper="Zheng et al.: LanPaint, Training-Free Diffusion Inpainting with Asymptotically Exact and Fast Conditional "
        "Sampling, TMLR 2025, arXiv:2502.03491",
        module="sfumato.methods.sampling.lanpaint",
        needs=frozenset({Capability.TEXT, Capability.LATENTS, Capability.ANY_LEVEL}),
        uses=(*TEXT_FIELDS, *START_FIELDS, "scheduler"),
        tasks=_TASKS,
    ),
    MethodCard(
        name="attentive-eraser",
        kind="sampling",
        title="Attentive Eraser",
        paper="Sun et al.: Attentive Eraser, Unleashing Diffusion Model's Object Removal Potential via Self-Attention "
        "Redirection Guidance, AAAI 2025, arXiv:2412.12974",
        module="sfumato.methods.sampling.attentive_eraser",
        needs=frozenset({Capability.TEXT, Capability.LATENTS, Capability.ANY_LEVEL, Capability.SELF_ATTENTION}),
        uses=("guidance_scale", *START_FIELDS, "scheduler"),
        tasks={"remove": TaskCard(defaults=_FROM_BLUR)},
    ),
    MethodCard(
        name="powerpaint",
        kind="finetuned",
        title="PowerPaint",
        paper="Zhuang et al.: A Task is Worth One Word, Learning with Task Prompts for High-Quality Versatile Image Inpainting, "
        "ECCV 2024, arXiv:2312.03594",
        module="sfumato.methods.finetuned.powerpaint",
        needs=frozenset({Capability.TEXT, Capability.LATENTS, Capability.CHAIN, Capability.POWERPAINT}),
        uses=(*TEXT_FIELDS, *START_FIELDS, "scheduler", "step_cache", "soft_mask"),
        tasks=_TOLD,
    ),
    MethodCard(
        name="stable-inpainting",
        kind="finetuned",
        title="Stable Diffusion inpainting",
        paper="Rombach et al.: High-Resolution Image Synthesis with Latent Diffusion Models, CVPR 2022, arXiv:2112.10752, "
        "section 4.5; the checkpoints of RunwayML, Stability AI and diffusers",
        module="sfumato.methods.finetuned.stable_inpainting",
        needs=frozenset({Capability.TEXT, Capability.LATENTS, Capability.CHAIN, Capability.INPAINTING}),
        uses=(*TEXT_FIELDS, *START_FIELDS, "scheduler", "step_cache", "soft_mask"),
        tasks=_TRAINED,
    ),
    MethodCard(
        name="smartbrush",
        kind="finetuned",
        title="SmartBrush",
        paper="Xie et al.: SmartBrush, Text and Shape Guided Object Inpainting with Diffusion Model, CVPR 2023, arXiv:2212.05034",
        module="sfumato.methods.finetuned.smartbrush",
        needs=frozenset({Capability.TEXT, Capability.LATENTS, Capability.CHAIN, Capability.SMARTBRUSH}),
        uses=(*TEXT_FIELDS, *START_FIELDS, "scheduler", "step_cache"),
        tasks={"edit": _EDIT, "shape": _EDIT},
    ),
    MethodCard(
        name="glide",
        kind="finetuned",
        title="GLIDE inpainting",
        paper="Nichol et al.: GLIDE, Towards Photorealistic Image Generation and Editing with Text-Guided Diffusion Models, "
        "ICML 2022, arXiv:2112.10741",
        module="sfumato.methods.finetuned.glide",
        needs=frozenset({Capability.TEXT, Capability.CASCADE}),
        uses=TEXT_FIELDS,
        tasks=_GLIDE,
    ),
    MethodCard(
        name="controlnet-inpainting",
        kind="branch",
        title="ControlNet inpainting",
        paper="Zhang, Rao, Agrawala: Adding Conditional Control to Text-to-Image Diffusion Models, ICCV 2023, arXiv:2302.05543",
        module="sfumato.methods.branch.controlnet",
        needs=frozenset({Capability.TEXT, Capability.LATENTS, Capability.TAKES_BRANCH, Capability.CONTROLNET}),
        uses=(*TEXT_FIELDS, *START_FIELDS, "scheduler"),
        tasks=_TRAINED,
    ),
    MethodCard(
        name="powerpaint-v2",
        kind="branch",
        title="PowerPaint v2",
        paper="Zhuang et al.: A Task is Worth One Word, Learning with Task Prompts for High-Quality Versatile Image Inpainting, "
        "ECCV 2024, arXiv:2312.03594; the authors' second version",
        module="sfumato.methods.branch.powerpaint_v2",
        needs=frozenset({Capability.TEXT, Capability.LATENTS, Capability.TAKES_BRANCH, Capability.POWERPAINT_V2}),
        uses=(*TEXT_FIELDS, *START_FIELDS, "scheduler"),
        tasks=_TOLD,
    ),
    MethodCard(
        name="brushnet",
        kind="branch",
        title="BrushNet",
        paper="Ju et al.: BrushNet, A Plug-and-Play Image Inpainting Model with Decomposed Dual-Branch Diffusion, ECCV 2024, "
        "arXiv:2403.06976",
        module="sfumato.methods.branch.brushnet",
        needs=frozenset({Capability.TEXT, Capability.LATENTS, Capability.TAKES_BRANCH, Capability.BRUSHNET}),
        uses=(*TEXT_FIELDS, *START_FIELDS, "scheduler"),
        tasks=_TRAINED,
    ),
)


def fields_of(card: MethodCard) -> tuple[str, ...]:
    """Fields of EditRequest that a method uses, of those that not all methods use, and its own options. Imports the method."""
    return (*card.uses, *card.load().Options.exposed())


def method_fields() -> set[str]:
    """Fields of EditRequest that some methods use, but not all."""
    return {field for card in CARDS for field in card.uses}


def option_names(*, remote: bool = False) -> tuple[str, ...]:
    """Names of all methods' own options; if `remote`, of those accepted over HTTP. Imports the methods, and torch."""
    return tuple(dict.fromkeys(name for card in CARDS for name in card.load().Options.exposed(remote=remote)))


def options_schema(card: MethodCard, *, remote: bool = False) -> dict[str, Any]:
    """JSON schemas of a method's own options, by name; `default` is that of the default preset."""
    options, preset = card.load().Options, card.load().PRESETS["default"].options
    properties = options.given().model_json_schema()["properties"]
    defaults = preset.model_dump(mode="json")
    return {name: properties[name] | {"default": defaults[name]} for name in options.exposed(remote=remote)}


def runs_on(card: MethodCard, capabilities: frozenset[Capability]) -> bool:
    """Whether a method runs on a model with these capabilities."""
    return capabilities >= card.needs >= capabilities & ALONE


def suited(task: Task, capabilities: frozenset[Capability], words: bool) -> list[MethodCard]:
    """Methods that do a task on a model with these capabilities, in the registry's order.

    Args:
        task: The task.
        capabilities: Those of the model's family.
        words: Whether the request has a prompt.
    """
    able = [card for card in CARDS if runs_on(card, capabilities) and task in card.tasks]
    return [card for card in able if words or card.tasks[task].wordless is not None]


def get(name: str) -> MethodCard:
    """Card of a method.

    Raises:
        OptionError: method-unknown.
    """
    for card in CARDS:
        if card.name == name:
            return card
    allowed = ", ".join(card.name for card in CARDS)
    raise OptionError(f"Unknown method '{name}': choose one of {allowed}.", code="method-unknown")
