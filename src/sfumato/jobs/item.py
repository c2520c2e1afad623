"""An edit as data: options that have been checked, and pictures as bytes."""

import secrets
from dataclasses import dataclass, field
from functools import cached_property
from io import BytesIO
from pathlib import Path
from typing import Any

from PIL import Image

from sfumato.errors import ImageError, ResourceError
from sfumato.masks.canvas import in_pixels
from sfumato.pictures.formats import UPLOADED, open_header
from sfumato.request import EditRequest

# Fields that may differ between the edits of one batch; of these, some decide what the model sees, which is looked at later.
OWN = frozenset(
    {
        *("prompt", "negative_prompt", "prompt_weights", "guard", "seed", "n", "fill"),
        *("box", "mask_mode", "invert_mask", "soft_mask", "mask_grow", "mask_feather", "window", "size", "shrink"),
        *("background", "keep_unmasked", "rank", "strip"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """What is to be done, without anything decoded. Can be pickled.

    Args:
        options: Fields of `EditRequest` besides its pictures, and the method's own options; JSON values, checked.
        pictures: Bytes of "image", "mask" and "scribble", as far as they were given.
        id: Tells it from others.
    """

    options: dict[str, Any]
    pictures: dict[str, bytes]
    id: str = field(default_factory=lambda: secrets.token_hex(12))

    @property
    def size(self) -> int:
        """Bytes that it holds in memory."""
        return sum(map(len, self.pictures.values()))

    @property
    def model(self) -> str:
        """The model that it runs on."""
        return str(self.options.get("model", EditRequest.model_fields["model"].default))

    @property
    def n(self) -> int:
        """Predictions."""
        return int(self.options.get("n", EditRequest.model_fields["n"].default))

    def request(self) -> EditRequest:
        """The edit, with pictures of which only the headers have been read.

        Raises:
            ImageError, MaskError: A picture cannot be read.
            ValidationError: The fields do not go together.
        """
        pictures = {name: open_picture(data, name) for name, data in self.pictures.items()}
        return self._checked.model_copy(update=pictures)

    @cached_property
    def _checked(self) -> EditRequest:
        """The edit without its pictures: these are opened anew for each use, so that none stays decoded in the queue."""
        return EditRequest.model_validate({**self.options, **{name: Path(name) for name in self.pictures}})

    def pixels(self) -> int:
        """Of the image by its header, or of the result if that is larger."""
        size, request = open_picture(self.pictures["image"], "image").size, self._checked
        left, top, right, bottom = (0, 0, 0, 0) if request.expand is None else in_pixels(request.expand, size)
        width, height = request.size or (left + size[0] + right, top + size[1] + bottom)
        return max(size[0] * size[1], width * height)

    def resembles(self, other: "Item") -> bool:
        """Whether both may fit one batch, as far as their options tell."""
        mine, yours = (
            {name: value for name, value in item.options.items() if name not in OWN and value is not None}
            for item in (self, other)
        )
        return mine == yours and ("scribble" in self.pictures) == ("scribble" in other.pictures)


def open_picture(data: bytes, what: str) -> Image.Image:
    """A picture of which only the header has been read, detected by its first bytes; fewer formats than for files.

    Raises:
        ImageError: image-format, image-depth, image-damaged, or extra-missing, which is the sender's to mend here.
    """
    try:
        return open_header(BytesIO(data), f"The {what}", formats=UPLOADED)
    except ResourceError as error:
        raise ImageError(error.message, code=error.code) from error
