"""An edit as picklable data: validated options, and pictures as bytes."""

import hashlib
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
from sfumato.pictures.strips import FILE_SHA256
from sfumato.request import EditRequest, by_field

# Fields that may differ within a batch. Some of them change the batch key (see `PreparedWindow.key`), which is compared later.
OWN = frozenset(
    {
        *("prompt", "negative_prompt", "prompt_weights", "guard", "seed", "n", "fill"),
        *("box", "mask_mode", "invert_mask", "soft_mask", "mask_grow", "mask_feather", "window", "size", "shrink"),
        *("region", "region_start", "background", "keep_unmasked", "rank", "strip"),
    }
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One edit to run; its pictures are not decoded. Can be pickled.

    Args:
        options: Fields of `EditRequest` without its pictures, and the method's own options; validated JSON values.
        pictures: Their bytes by the names of `EditRequest.pictures`: "image", and what else is given.
        partials: Number of whole pictures to report while it runs.
        id: Unique, random.
        formats: Names of the formats that the pictures may have; strangers' have fewer than those of this machine.
    """

    options: dict[str, Any]
    pictures: dict[str, bytes]
    partials: int = 0
    id: str = field(default_factory=lambda: secrets.token_hex(12))
    formats: tuple[str, ...] = UPLOADED

    @property
    def size(self) -> int:
        """Bytes of its pictures."""
        return sum(map(len, self.pictures.values()))

    @property
    def model(self) -> str:
        """The model that it runs on."""
        return str(self.options.get("model", EditRequest.model_fields["model"].default))

    @property
    def n(self) -> int:
        """Number of predictions."""
        return int(self.options.get("n", EditRequest.model_fields["n"].default))

    def request(self) -> EditRequest:
        """The request; of its pictures only the headers have been read.

        Raises:
            ImageError, MaskError: A picture cannot be read.
            ValidationError: The fields contradict each other.
        """
        opened = {name: open_picture(data, name, self.formats) for name, data in self.pictures.items()}
        for name, picture in opened.items():
            picture.info[FILE_SHA256] = hashlib.sha256(self.pictures[name]).hexdigest()  # a replay has the file
        return self._checked.with_pictures(opened)

    @cached_property
    def _checked(self) -> EditRequest:
        """The request without its pictures, which are opened anew for each use so that none stays decoded."""
        return EditRequest.model_validate({**self.options, **by_field({name: Path(name) for name in self.pictures})})

    def pixels(self) -> int:
        """Pixels of the image, by its header, or of the result if that is larger."""
        size, request = open_picture(self.pictures["image"], "image", self.formats).size, self._checked
        left, top, right, bottom = (0, 0, 0, 0) if request.expand is None else in_pixels(request.expand, size)
        width, height = request.size or (left + size[0] + right, top + size[1] + bottom)
        return max(size[0] * size[1], width * height)

    def resembles(self, other: "Item") -> bool:
        """Whether both may fit one batch, judged by their options alone."""
        mine, yours = (
            {name: value for name, value in item.options.items() if name not in OWN and value is not None}
            for item in (self, other)
        )
        return mine == yours and self.pictures.keys() - {"mask"} == other.pictures.keys() - {"mask"}


def open_picture(data: bytes, what: str, formats: tuple[str, ...] = UPLOADED) -> Image.Image:
    """A picture of which only the header has been read; of these formats, AVIF and HEIC.

    Raises:
        ImageError: image-format, image-depth, image-damaged or extra-missing.
    """
    try:
        return open_header(BytesIO(data), f"The {what}", formats=formats)
    except ResourceError as error:
        raise ImageError(error.message, code=error.code) from error
