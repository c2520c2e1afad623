"""`POST /v1/masks`: reports how a mask would be read, before anything is edited. The page loads masks through it."""

import base64
from typing import Any

import numpy as np
from anyio import to_thread
from fastapi import APIRouter
from PIL import Image
from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request

from sfumato.errors import ImageError
from sfumato.jobs.item import open_picture
from sfumato.masks.levels import Mode
from sfumato.pictures.formats import UPLOADED, listed
from sfumato.request import EditRequest
from sfumato.server.failures import Refused
from sfumato.server.previews import encode
from sfumato.server.service import JobServiceDep
from sfumato.server.settings import Limits
from sfumato.server.submission import validated
from sfumato.server.uploads import Form, read_form


class MaskOptions(BaseModel):
    """What may be said of a mask."""

    model_config = ConfigDict(extra="forbid")

    mask_mode: Mode = Field("auto", description=EditRequest.model_fields["mask_mode"].description)


class MaskView(BaseModel):
    """How a mask is read."""

    mask: str = Field(description="PNG of one channel as base64: white = edit.", json_schema_extra={"contentEncoding": "base64"})
    notes: list[str] = Field(description="What was guessed or converted.")


_FILE = {"type": "string", "format": "binary"}
BODY: dict[str, Any] = {
    "required": True,
    "content": {
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "additionalProperties": False,
                "required": ["image", "mask"],
                "properties": {
                    "image": {**_FILE, "description": f"{listed(UPLOADED)} to edit."},
                    "mask": {**_FILE, "description": "Where to edit; of the image's size."},
                    **MaskOptions.model_json_schema()["properties"],
                },
            }
        }
    },
}

router = APIRouter(prefix="/v1", tags=["jobs"])


@router.post("/masks", summary="How a mask is understood", openapi_extra={"requestBody": BODY})
async def describe_mask(service: JobServiceDep, request: Request) -> MaskView:
    """Send an image and its mask; the answer is the mask as an edit would read it, and what was guessed."""
    limits = service.settings.limits
    return await to_thread.run_sync(_understood, await read_form(request, limits), limits)


def _understood(form: Form, limits: Limits) -> MaskView:
    from sfumato.editing.layers import fit_layer
    from sfumato.masks.reading import read_area
    from sfumato.pictures.reading import read

    options = validated(MaskOptions, form.fields)
    for name, files in form.files.items():
        if name not in ("image", "mask") or len(files) > 1:
            raise Refused(f"Unknown or repeated file {name[:100]!r}.", code="option-unknown", status=422, param=name[:100])
    for name in ("image", "mask"):
        if name not in form.files:
            raise ImageError(f"The {name} is missing: send a file named {name}.", code="image-missing")
    image, mask = (open_picture(form.files[name][0], name) for name in ("image", "mask"))
    picture = read(image, max_pixels=limits.pixels)
    layer, notes = fit_layer(mask, picture, "mask", limits.pixels)
    area = read_area(picture.size, layer, None, picture, options.mask_mode, max_pixels=limits.pixels)
    data = encode(Image.fromarray((area.change > 0) * np.uint8(255)), "PNG")
    return MaskView(mask=base64.b64encode(data).decode(), notes=[*notes, *area.notes])
