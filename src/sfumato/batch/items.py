"""Items of rows: their pictures' bytes, read when the row's turn comes."""

from hashlib import sha256

from sfumato.batch.locations import read_bytes
from sfumato.batch.row import Row
from sfumato.jobs.item import Item
from sfumato.pictures.formats import READ
from sfumato.pictures.reading import MAX_PIXELS


def item_of(row: Row, max_pixels: int = MAX_PIXELS) -> Item:
    """The item of a row without a fault.

    Args:
        row: Its key gives the item's id, so that all runs have the same.
        max_pixels: Files of more bytes than such a picture can have are refused.

    Raises:
        ImageError: image-missing, image-unreadable, image-format (empty) or image-too-large.
        ResourceError: extra-missing: a URL needs a package that is not installed.
    """
    pictures = {name: read_bytes(location, name, max_pixels) for name, location in row.pictures.items()}
    digest = sha256(row.key.encode("utf-8", "surrogatepass")).hexdigest()
    return Item(options=row.options, pictures=pictures, id=digest[:24], formats=READ)
