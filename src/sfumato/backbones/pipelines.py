"""Check of loaded diffusers pipelines: accepts those of which no component would be ignored."""

from typing import Any

from sfumato.backbones.families import base_pipeline, supported
from sfumato.errors import Unsupported

USED = frozenset(
    {
        *("vae", "vqvae", "unet", "transformer", "scheduler", "bert"),
        *("text_encoder", "text_encoder_2", "text_encoder_3", "tokenizer", "tokenizer_2", "tokenizer_3"),
    }
)
IDLE = frozenset({"safety_checker", "feature_extractor", "image_encoder"})  # act on results, or only together with an adapter


def check_pipeline(pipe: Any) -> list[str]:
    """Refuse a loaded pipeline some component of which an edit would ignore.

    Returns:
        Notes about what is left out and does not change what the model makes.

    Raises:
        Unsupported: Another class of pipelines, a ControlNet or another component that would be dropped, or a loaded IP-Adapter.
    """
    kind = type(pipe).__name__
    extra = sorted(name for name, part in pipe.components.items() if part is not None and name not in USED | IDLE)
    if extra:
        raise Unsupported(
            f"This {kind} has a {_called(extra[0])}, which would be left out; give its plain pipeline, which "
            "from_pipe of the text-to-image class makes of the same components."
        )
    if base_of(pipe) is None:
        raise Unsupported(
            f"A {kind} is not supported, as what it adds would be left out; the supported families are {supported()}. If its "
            "components are of one of these, give its plain text-to-image pipeline."
        )
    if _takes_pictures(getattr(pipe, "unet", None)) or _takes_pictures(getattr(pipe, "transformer", None)):
        raise Unsupported(f"This {kind} has an IP-Adapter loaded, which would be left out; call its unload_ip_adapter() first.")
    notes = []
    if pipe.components.get("safety_checker") is not None:
        notes.append(f"The safety checker of this {kind} is not run.")
    if getattr(pipe, "watermark", None) is not None:
        notes.append(f"The watermark that this {kind} adds is left out.")
    return notes


def base_of(pipe: Any) -> str | None:
    """The text-to-image class whose components these are; also of the user's own subclasses. None for those of no family."""
    return next((base for kind in type(pipe).__mro__ if (base := base_pipeline(kind.__name__))), None)


def _called(component: str) -> str:
    return {"controlnet": "ControlNet", "adapter": "T2I-Adapter", "motion_adapter": "motion adapter"}.get(component, component)


def _takes_pictures(denoiser: Any) -> bool:
    if denoiser is None or getattr(denoiser, "encoder_hid_proj", None) is None:
        return False
    return denoiser.config.get("encoder_hid_dim_type") != "text_proj"  # a layer that is there for texts, as in Kolors
