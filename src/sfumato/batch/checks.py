"""Checks of rows before anything is edited: files, sizes, models and formats, by the pictures' headers alone."""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from itertools import islice

from PIL import Image

from sfumato.backbones.hub import locate
from sfumato.batch import faults
from sfumato.batch.files import FileOptions
from sfumato.batch.locations import is_url, opened, unreadable
from sfumato.batch.row import Fault, Row
from sfumato.errors import EditError, ImageError, MaskError
from sfumato.masks.canvas import in_pixels
from sfumato.pictures import orientation
from sfumato.pictures.capacity import Canvas, check_format
from sfumato.pictures.formats import open_header
from sfumato.pictures.reading import MAX_PIXELS, inspect, written_format
from sfumato.pictures.sizing import fitted
from sfumato.request import EditRequest, by_field

THREADS = 16  # most of their time they wait for a disk or a network
CHUNK = 1024  # rows in hand at a time

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a picture's header says.

    Args:
        size: Width and height as stored.
        turned_by: EXIF orientation.
        transparent: Whether it may have transparent pixels.
        image: The picture, closed.
    """

    size: Size
    turned_by: int
    transparent: bool
    image: Image.Image

    @property
    def upright(self) -> Size:
        """Width and height as people see it."""
        return orientation.stored_size(self.size, self.turned_by)


@dataclass(frozen=True, kw_only=True)
class Checks:
    """Checks rows as far as headers tell; pixels are not decoded and models not loaded.

    Args:
        files: How results are to be written.
        max_pixels: As in `sfumato.Editor`.
    """

    files: FileOptions = field(default_factory=FileOptions)
    max_pixels: int = MAX_PIXELS

    def faults(self, rows: Iterable[Row]) -> Iterator[tuple[Row, Fault | None]]:
        """Each row with what is wrong with it, in their order; several are looked at at once, and few are in memory."""
        left = iter(rows)
        with ThreadPoolExecutor(THREADS, "sfumato-checks") as pool:
            while chunk := list(islice(left, CHUNK)):
                yield from zip(chunk, pool.map(self.fault, chunk), strict=True)

    def fault(self, row: Row) -> Fault | None:
        """What is wrong with a row."""
        if row.fault is not None:
            return row.fault
        try:
            self._check(row)
        except Exception as error:
            return faults.of_row(row, error)
        return None

    def _check(self, row: Row) -> None:
        request = EditRequest.model_validate({**row.options, **by_field({name: name for name in row.pictures})})
        _check_model(request.model)
        headers = {name: self._header(location, name) for name, location in row.pictures.items()}
        image = headers.pop("image")
        margins = (0, 0, 0, 0) if request.expand is None else in_pixels(request.expand, image.upright)
        for name, header in headers.items():
            _check_layer(name, header, image, (0, 0, 0, 0) if name == "mask" else margins)
        _check_place(request, image)
        left, top, right, bottom = margins
        size = fitted((left + image.upright[0] + right, top + image.upright[1] + bottom), request.size)
        canvas = Canvas(size=size, transparent=image.transparent, format=written_format(image.image))
        check_format(self.files.format or canvas.format or "PNG", canvas, "The result")

    def _header(self, location: str, what: str) -> Header:
        label = f"The {what} {location}"
        try:
            with opened(location, what, self.max_pixels) as stream:
                image = open_header(stream, label, self.max_pixels)
                size, turned_by, _ = inspect(image, max_pixels=self.max_pixels, what=what)
                return Header(size=size, turned_by=turned_by, transparent=image.has_transparency_data, image=image)
        except EditError:
            raise
        except Exception as error:
            if is_url(location):  # file systems of networks raise errors of every class
                raise unreadable(label, error) from error
            raise


def _check_layer(name: str, layer: Header, image: Header, margins: tuple[int, int, int, int]) -> None:
    """Refuse a picture that cannot lie on the image: see `sfumato.editing.layers.fit_layer`.

    Raises:
        MaskError, ImageError: mask-size, scribble-size or control-size.
    """
    left, top, right, bottom = margins
    wanted = left + image.upright[0] + right, top + image.upright[1] + bottom
    as_stored = layer.turned_by == orientation.UPRIGHT and layer.size == image.size and not any(margins)
    if wanted in (layer.upright, layer.size) or as_stored:
        return
    found, needed = ("x".join(map(str, size)) for size in (layer.upright, wanted))
    message = f"The {name} is {found} but the image, with its margins if it has any, is {needed}; resize the {name} to {needed}."
    if name == "mask":
        raise MaskError(message, code="mask-size")
    raise ImageError(message, code="scribble-size" if name == "scribble" else "control-size")


def _check_place(request: EditRequest, image: Header) -> None:
    """Refuse a request that does not say where to edit, or outside the image.

    Raises:
        MaskError: mask-ambiguous, mask-box or mask-missing.
    """
    if request.mask is not None and request.box is not None:
        raise MaskError("Both a mask and a box were given; give only one of them.", code="mask-ambiguous")
    if request.box is not None:
        x, y, width, height = request.box
        if min(x, y) < 0 or min(width, height) < 1 or x + width > image.upright[0] or y + height > image.upright[1]:
            shown, size = ",".join(map(str, request.box)), "x".join(map(str, image.upright))
            raise MaskError(
                f"The box {shown} (x,y,width,height) does not lie inside the image of {size} pixels; choose one that does.",
                code="mask-box",
            )
    if request.mask is None and request.box is None and request.expand is None and not image.transparent:
        raise MaskError("There is no mask, and the image has no transparent pixels; say where to edit.", code="mask-missing")


@cache
def _located(model: str) -> EditError | None:
    try:
        locate(model)
    except EditError as error:
        return error
    return None


def _check_model(model: str) -> None:
    """Refuse a model that is not on this machine.

    Raises:
        ModelNotFound: model-not-found, model-not-cached.
    """
    if (error := _located(model)) is not None:
        raise error
