"""Pictures of the web UI's img2img request."""

from typing import Any

import numpy as np
from PIL import Image
from pydantic import ValidationError

from sfumato.errors import EditError, MaskError
from sfumato.jobs.item import Item, open_picture
from sfumato.server.failures import Refused
from sfumato.server.previews import encode
from sfumato.server.settings import Limits
from sfumato.server.uploads import from_base64


def pictures_of(images: list[str], mask: str, limits: Limits) -> dict[str, bytes]:
    """Image and mask of a request, from their base64 text.

    Raises:
        ImageError, MaskError, Refused: What is wrong with them.
    """
    if len(images) != 1:
        raise Refused(
            f"init_images has {len(images)} pictures; one is edited at a time, so send one in each request.",
            code="image-count",
            status=422,
            param="init_images",
        )
    image = from_base64(images[0], "picture in init_images", limits)
    if not mask:
        raise MaskError(
            "Send a mask, white where the picture is to change: to repaint a whole picture, as the web UI does without one, "
            "is not offered here.",
            code="mask-missing",
        )
    return {"image": image, "mask": _grey_mask(from_base64(mask, "mask", limits), limits.pixels)}


def _grey_mask(data: bytes, most: int) -> bytes:
    """The mask without transparency: where it has varying transparency, what is opaque is edited, as the web UI reads it."""
    from sfumato.pictures.reading import read

    picture = read(open_picture(data, "mask"), max_pixels=most, what="mask")
    alpha = picture.alpha
    return data if alpha is None or alpha.min() == alpha.max() else encode(Image.fromarray(alpha), "PNG")


def padded(given: Item, padding: int, most: int) -> Any:
    """The window that many pixels around the mask, cut to the picture: x, y, width, height; "auto" if no mask can be read."""
    from sfumato.editing.reading import read_pictures
    from sfumato.masks.window import bounding_box

    try:
        picture, change, _ = read_pictures(given.request(), most)
    except (EditError, ValidationError):  # said when the edit is checked
        return "auto"
    x, y, width, height = bounding_box((change > 0).astype(np.uint8))
    left, top = max(x - padding, 0), max(y - padding, 0)
    right, bottom = min(x + width + padding, picture.size[0]), min(y + height + padding, picture.size[1])
    return left, top, right - left, bottom - top
