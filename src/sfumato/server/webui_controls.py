"""Units of the web UI's ControlNet extension, as control pictures for the server's own control models."""

from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from sfumato.server.failures import Refused
from sfumato.server.settings import Limits
from sfumato.server.submission import validated
from sfumato.server.uploads import from_base64

SCRIPT = "controlnet"  # of alwayson_scripts, in any case
NO_MODEL = ("", "none")
NO_EFFECT: Mapping[str, tuple[Any, ...]] = {  # values that say nothing, or ask for what is done anyway
    "guidance_start": (0,),
    "guidance_end": (1,),
    "control_mode": (0, "Balanced"),
    "resize_mode": (0, 1, "Just Resize", "Crop and Resize"),
    "pixel_perfect": (True, False),
    "processor_res": (-1, 512),
    "threshold_a": (-1,),
    "threshold_b": (-1,),
    "low_vram": (True, False),
}


class Unit(BaseModel):
    """One unit. Its other fields are named in `info`."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=False)

    enabled: bool = True
    image: str | None = Field(None, description="The control picture as base64.")
    input_image: str | None = None
    module: str | None = None
    model: str | None = None
    weight: float = Field(1.0, ge=0, le=2)


def script_of(scripts: Mapping[str, Any]) -> str | None:
    """Name under which a request gives units; None if it gives none."""
    return next((name for name in scripts if name.lower() == SCRIPT), None)


def units_of(scripts: Mapping[str, Any]) -> list[Unit]:
    """The enabled units with a picture.

    Raises:
        Refused: They are not in the extension's form.
    """
    name = script_of(scripts)
    given = scripts[name].get("args", []) if name is not None and isinstance(scripts[name], dict) else []
    read = [validated(Unit, {key: _picture(value) for key, value in unit.items()}) for unit in given if isinstance(unit, dict)]
    return [unit for unit in read if unit.enabled and (unit.image or unit.input_image)]


def _picture(value: Any) -> Any:
    """The extension takes a picture also with a mask beside it, which means nothing here: the edit has its own."""
    return value["image"] if isinstance(value, dict) and "image" in value else value


def controls_of(units: list[Unit], models: tuple[str, ...], limits: Limits) -> tuple[dict[str, bytes], list[float]]:
    """The control pictures, by the names of `EditRequest.pictures`, and their strengths.

    Args:
        units: With pictures, in the order of the control models.
        models: The server's control models.
        limits: Of the server.

    Raises:
        Refused: A preprocessor, or another model.
        ImageError: No picture.
    """
    pictures = {}
    for i, unit in enumerate(units):
        if (unit.module or "none").lower() != "none":
            raise _refused(
                f"unit {i + 1} asks for the preprocessor {unit.module!r}, and none is run here: send the finished picture"
            )
        asked = (unit.model or "").rpartition(" [")[0] or unit.model or ""
        if asked.lower() not in NO_MODEL and (i >= len(models) or asked.lower() != models[i].lower()):
            known = ", ".join(models)
            raise _refused(f"unit {i + 1} asks for the model {asked[:200]!r}; the units are for, in this order: {known}")
        pictures[f"control-{i + 1}"] = from_base64(unit.image or unit.input_image, f"picture of ControlNet unit {i + 1}", limits)
    return pictures, [unit.weight for unit in units]


def ignored(units: list[Unit], name: str) -> list[str]:
    """Names of what units say and means nothing here."""
    return [
        f"alwayson_scripts.{name}.{field}"
        for unit in units
        for field, value in (unit.model_extra or {}).items()
        if value not in (None, "", False, *NO_EFFECT.get(field, ()))
    ]


def _refused(sentence: str) -> Refused:
    return Refused(f"ControlNet {sentence}.", code="option-invalid", status=422, param=f"alwayson_scripts.{SCRIPT}")
