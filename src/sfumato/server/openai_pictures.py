"""Pictures of an OpenAI images-edit request, and the check that the requested output format can hold the result."""

from typing import Any

import numpy as np
from PIL import Image

from sfumato.errors import ImageError
from sfumato.jobs.item import open_picture
from sfumato.masks.canvas import in_pixels
from sfumato.pictures.encoding import Format
from sfumato.pictures.reading import read, upright_size
from sfumato.pictures.sizing import fitted
from sfumato.request import SEVERAL
from sfumato.server.failures import Refused
from sfumato.server.previews import encode
from sfumato.server.settings import Limits
from sfumato.server.submission import numbered
from sfumato.server.uploads import Form, check_size

FORMATS: dict[str, Format] = {"png": "PNG", "jpeg": "JPEG", "webp": "WEBP"}
LONGEST_SIDE = {"png": 2**31 - 1, "jpeg": 65_500, "webp": 16_383}  # that the formats can hold


def refused(message: str, param: str, code: str = "option-invalid") -> Refused:
    """A field whose value is not possible."""
    return Refused(message, code=code, status=422, param=param)


def pictures_of(form: Form, limits: Limits) -> dict[str, bytes]:
    """The image, under either of the names that clients use, and what goes with it: mask or markup, scribble, controls."""
    images = [data for name in ("image", "image[]") for data in form.files.get(name, [])]
    names = [name for field in ("image", "image[]") for name in form.names.get(field, [])]
    if len(images) > 1:
        others = ", ".join(f"image {i + 1} ({name[:100]!r})" for i, name in enumerate(names) if i)
        raise Refused(
            f"The first image is the one that is edited, and further ones mean nothing here yet: leave out {others}.",
            code="image-count",
            status=422,
            param="image",
        )
    pictures = {"image": images[0]} if images else {}
    for name, files in form.files.items():
        if name in ("image", "image[]"):
            continue
        bare = name.removesuffix("[]")  # some clients write every file as a list
        if bare in SEVERAL:
            pictures |= numbered(bare, files)
            continue
        if bare not in ("mask", "markup", "scribble") or len(files) > 1 or bare in pictures:
            raise Refused(f"Unknown or repeated file {name[:100]!r}.", code="option-unknown", status=422, param=name[:100])
        if not files[0]:
            raise refused(f"The {bare} is an empty file; send a picture, or leave it out.", bare, "image-format")
        pictures[bare] = files[0]
    if "image" not in pictures:
        raise ImageError("The image is missing: send a file named image.", code="image-missing")
    for name, data in pictures.items():
        check_size(len(data), name, limits)
    return pictures


def from_markup(pictures: dict[str, bytes], most: int) -> dict[str, bytes]:
    """Mask and scribble of a drawing over the image: where it is not transparent, it is edited, starting from its colours.

    Raises:
        Refused: With a mask or a scribble, of another size than the image, without transparency, or with nothing on it.
        ImageError: It cannot be read.
    """
    other = next((name for name in ("mask", "scribble") if name in pictures), None)
    if other is not None:
        raise refused(f"markup is mask and scribble in one, so it cannot be combined with {other}; send one of them.", "markup")
    layer = read(open_picture(pictures["markup"], "markup"), max_pixels=most, what="markup")
    size = upright_size(open_picture(pictures["image"], "image"))
    if layer.size != size:
        given, needed = ("x".join(map(str, pair)) for pair in (layer.size, size))
        raise refused(f"The markup is {given} but the image is {needed}; draw it on a canvas of {needed}.", "markup", "mask-size")
    if layer.alpha is None or layer.alpha.min() == 255:
        sentence = "The markup has no transparent pixels, so it would cover the whole image; draw on a transparent PNG."
        raise refused(sentence, "markup", "mask-no-alpha")
    if layer.alpha.max() == 0:
        raise refused("The markup is all transparent; draw where the image is to change.", "markup", "mask-empty")
    drawn = Image.fromarray((layer.alpha > 0) * np.uint8(255))
    return {"mask": encode(drawn, "PNG"), "scribble": pictures["markup"]}


def check_output(asked: Any, pictures: dict[str, bytes], options: dict[str, Any]) -> None:
    """Refuse an output format that could not hold the result, before the edit is made.

    Args:
        asked: An `OpenAIEdit`.
        pictures: As sent.
        options: The job's; `size` and `expand` say how large the result is.
    """
    if asked.response_format == "url" and asked.output_format != "png":
        raise refused("Addresses are of PNG pictures; ask for b64_json.", "output_format")
    image = open_picture(pictures["image"], "image")
    if asked.background == "transparent" and not image.has_transparency_data:
        raise refused(
            "background=transparent cannot be made here: an edit keeps the image's transparency, and this image has none; "
            "leave it out.",
            "background",
        )
    if asked.background == "transparent" and asked.output_format == "jpeg":
        raise refused("background=transparent needs output_format png or webp: JPEG has no transparency.", "background")
    width, height = fitted(upright_size(image), options.get("size"))
    if options.get("expand"):
        left, top, right, bottom = in_pixels(options["expand"], (width, height))
        width, height = left + width + right, top + height + bottom
    longest, most = max(width, height), LONGEST_SIDE[asked.output_format]
    if longest > most:
        raise refused(
            f"{asked.output_format} holds at most {most} pixels a side, and {longest} are needed; use png.", "output_format"
        )
