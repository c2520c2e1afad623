"""Registry of all editing methods: one row per method."""

from typing import Any

from sfumato.backbones.capabilities import Capability
from sfumato.errors import OptionError
from sfumato.methods.base import START_FIELDS, TEXT_FIELDS, MethodCard

CARDS: tuple[MethodCard, ...] = (
    MethodCard(
        name="blended-latent-diffusion",
        kind="sampling",
        title="Blended Latent Diffusion",
        paper="Avrahami, Fried, Lischinski: Blended Latent Diffusion, SIGGRAPH 2023, arXiv:2206.02779",
        module="sfumato.methods.sampling.blended_latent_diffusion",
        needs=frozenset({Capability.TEXT, Capability.LATENTS}),
        uses=(*TEXT_FIELDS, *START_FIELDS, "scheduler", "shrink", "soft_mask"),
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
    ),
)


def fields_of(card: MethodCard) -> tuple[str, ...]:
    """What a method uses of all that not all methods do: fields of EditRequest, and its own options."""
    return (*card.uses, *card.load().Options.exposed())


def method_fields() -> set[str]:
    """Fields of EditRequest that some methods use and others do not."""
    return {field for card in CARDS for field in card.uses}


def option_names(*, remote: bool = False) -> tuple[str, ...]:
    """Names of the methods' own options; with `remote`, of those that may come over HTTP. Loads the methods, and torch."""
    return tuple(dict.fromkeys(name for card in CARDS for name in card.load().Options.exposed(remote=remote)))


def options_schema(card: MethodCard, *, remote: bool = False) -> dict[str, Any]:
    """The JSON schemas of a method's own options, by name. A `default` is that of the default preset."""
    options, preset = card.load().Options, card.load().PRESETS["default"].options
    properties = options.given().model_json_schema()["properties"]
    defaults = preset.model_dump(mode="json")
    return {name: properties[name] | {"default": defaults[name]} for name in options.exposed(remote=remote)}


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
