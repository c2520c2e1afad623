"""Pictures as answers: in the format that a client asks for, opaque where that has no transparency."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from PIL import Image

from sfumato.jobs.previews import Previewer
from sfumato.pictures import encoding as pictures
from sfumato.pictures.deep import DeepImage, as_image
from sfumato.pictures.encoding import Format
from sfumato.pictures.metadata import Metadata
from sfumato.pictures.transparency import flat_on_white

__all__ = ["Previewer", "encode", "on_white"]


def encode(
    image: Image.Image,
    format: Format,
    quality: int = 95,
    *,
    keep: bool = False,
    texts: Mapping[str, str] = MappingProxyType({}),
) -> bytes:
    """A picture's bytes as PNG, JPEG or WEBP, with its colour profile, and the metadata that a result carries if `keep`.

    `texts` are stored in the picture too.

    PNG is lossless and keeps 16 bits; WebP of quality 100 is lossless too. JPEG has no transparency: it is put on white.
    """
    kept = Metadata.of(image) if keep else None
    if format == "JPEG" and image.has_transparency_data:
        image = on_white(image)
    options: dict[str, dict[str, Any]] = {
        "PNG": {},
        "JPEG": {"quality": quality},
        "WEBP": {"quality": quality, "lossless": quality == 100},
    }
    return pictures.encode(image, format, stored=dict(texts), keep=kept, **options[format])


def on_white(image: Image.Image) -> Image.Image:
    """A picture without its transparency, of as many bits, with its colour profile and metadata."""
    info = {name: value for name, value in image.info.items() if name != "transparency"}
    if isinstance(image, DeepImage):
        return as_image(flat_on_white(image.samples), info)
    white = Image.new("RGBA", image.size, "white")
    white.alpha_composite(image.convert("RGBA"))
    opaque = white.convert("L" if image.mode == "LA" else "RGB")
    opaque.info = info
    return opaque
