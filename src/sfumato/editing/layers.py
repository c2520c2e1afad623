"""Orientation of masks, scribbles and control pictures for a picture that its EXIF orientation rotates."""

from dataclasses import replace
from pathlib import Path

from PIL import Image

from sfumato.errors import MaskError
from sfumato.pictures import orientation
from sfumato.pictures.reading import Picture, inspect, load
from sfumato.request import EditRequest
from sfumato.values import Box

Source = Path | Image.Image


def align(request: EditRequest, picture: Picture, max_pixels: int) -> tuple[EditRequest, Picture]:
    """The request with its other pictures in the upright picture's orientation, and the picture with notes about it.

    Args:
        request: Names the layers, of any size.
        picture: What they belong to.
        max_pixels: As for `sfumato.pictures.reading.read`, whose errors are raised here too.
    """
    layers: dict[str, Source] = {}
    notes = list(picture.notes)
    for name, source in request.pictures().items():
        if name != "image":
            layers[name], said = fit_layer(source, picture, name, max_pixels)
            notes += said
    if request.box is not None and picture.orientation != orientation.UPRIGHT:
        notes.append(_on_box(request.box, picture))
    return request.with_pictures(layers), replace(picture, notes=tuple(notes))


def _on_box(box: Box, picture: Picture) -> str:
    """Check and notes for a box in a picture that was rotated.

    Raises:
        MaskError: mask-box: it lies in the stored picture alone.
    """
    x, y, width, height = box
    said = f"EXIF orientation {picture.orientation} turns the image upright, and the box counts in the upright image"

    def holds(size: tuple[int, int]) -> bool:
        return min(x, y) >= 0 and x + width <= size[0] and y + height <= size[1]

    if not holds(picture.size) and holds(orientation.stored_size(picture.size, picture.orientation)):
        given, size = ",".join(map(str, box)), "x".join(map(str, picture.size))
        raise MaskError(f"{said} of {size} pixels, in which {given} does not lie; give it as viewers show it.", code="mask-box")
    return f"{said}, as viewers show it."


def fit_layer(source: Source, picture: Picture, what: str, max_pixels: int) -> tuple[Source, list[str]]:
    """A layer turned so that it lies on the upright picture, where the sizes prove how it has to be; else as it was given.

    Proven is a layer without an orientation of its own that has the size of the picture's stored pixels, not of the upright ones;
    and one whose own orientation would spoil a size that fits, as editors leave it behind in files that are upright already.
    """
    size, own, notes = inspect(source, max_pixels=max_pixels, what=what)
    turned_by, stored = picture.orientation, orientation.stored_size(picture.size, picture.orientation)
    if orientation.stored_size(size, own) == picture.size:
        if own == orientation.UPRIGHT != turned_by and stored == picture.size:
            note = (
                f"EXIF orientation {turned_by} turns the image upright, and the {what} was taken to lie on the upright image, as "
                "viewers show it; their sizes cannot tell. Turn it first if it was made for the stored pixels."
            )
            notes = [*notes, note]
        return source, notes
    if size == picture.size:
        upright = load(source, max_pixels=max_pixels, what=what)
        note = f"The {what} fits the image as its pixels are stored, so its EXIF orientation {own} was not applied."
        return orientation.undo(upright, own), [*notes, note]
    if own == orientation.UPRIGHT and size == stored:
        note = (
            f"The {what} has the size of the image's stored pixels, and EXIF orientation {turned_by} turns the image upright: "
            f"the {what} must be turned too, and was, the same way."
        )
        return orientation.apply(load(source, max_pixels=max_pixels, what=what), turned_by), [*notes, note]
    return source, notes
