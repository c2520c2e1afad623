"""Small pictures of rows for the contact sheet: source and best prediction side by side."""

import logging
from hashlib import sha256
from io import BytesIO

from PIL import Image, ImageOps

from sfumato.pictures.colour import shown
from sfumato.pictures.encoding import eight_bits
from sfumato.pictures.formats import open_header

FOLDER = "contact_sheet"
SIDE = 192  # pixels of a picture's longer side, at most
GAP = 4
PLAIN = ("L", "LA", "RGB", "RGBA")

log = logging.getLogger("sfumato.batch")


def thumbnail_path(key: str) -> str:
    """Where the small pictures of a row are, below the output."""
    return f"{FOLDER}/thumbnails/{sha256(key.encode('utf-8', 'surrogatepass')).hexdigest()[:32]}.jpg"


def thumbnails(source: bytes, best: bytes) -> bytes | None:
    """Source and best prediction side by side, as a JPEG; None if one cannot be drawn, which is logged."""
    try:
        tiles = [_tile(source), _tile(best)]
        height = max(tile.height for tile in tiles)
        sheet = Image.new("RGB", (tiles[0].width + GAP + tiles[1].width, height), "white")
        sheet.paste(tiles[0], (0, 0))
        sheet.paste(tiles[1], (tiles[0].width + GAP, 0))
        buffer = BytesIO()
        sheet.save(buffer, "JPEG", quality=80)
        return buffer.getvalue()
    except Exception:
        log.exception("the thumbnails of a row could not be drawn")
        return None


def _tile(data: bytes) -> Image.Image:
    image = open_header(BytesIO(data), "The picture")
    if image.mode not in PLAIN:  # palettes cannot be made smaller, and inks have profiles of their own
        image = eight_bits(image) if image.mode.startswith("I;16") else image.convert("RGBA")
        image.info.pop("icc_profile", None)
    image.thumbnail((SIDE, SIDE), Image.Resampling.LANCZOS)  # of a JPEG, no more is decoded than is shown
    layer = shown(ImageOps.exif_transpose(image)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
