"""Pictures of 16 bits per channel, which Pillow holds only in grey.

Their samples are decoded by OpenCV, and believed if they agree with the 8 bits that Pillow sees of the same file.
"""

import struct
import warnings
from io import BytesIO
from pathlib import Path
from typing import Any, cast

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, TiffImagePlugin

from sfumato.errors import ImageError, ResourceError
from sfumato.pictures.png import encode_png
from sfumato.pictures.samples import Samples, narrow
from sfumato.pictures.strips import to_image
from sfumato.pictures.tiff import encode_tiff, read_by_tifffile


class DeepImage(Image.Image):
    """A picture of 16 bits per channel, of mode LA, RGB or RGBA.

    Pillow has no such modes: as a PIL image it shows the nearest 8-bit values. `samples` holds all bits, and `save` writes
    them as PNG and TIFF; as another format, or after its pixels were changed, it writes 8 bits and warns.

    Args:
        samples: (H, W, C) uint16, C in 2, 3 or 4.
        info: As of every PIL image: icc_profile, exif and the like.
    """

    def __init__(self, samples: NDArray[np.uint16], info: dict[Any, Any] | None = None) -> None:
        super().__init__()
        shown = Image.fromarray(narrow(samples))
        self.im, self._mode, self._size = shown.im, shown.mode, shown.size
        self.samples = samples
        self.info = dict(info or {})

    def copy(self) -> "DeepImage":
        """A copy that has 16 bits too."""
        return DeepImage(self.samples.copy(), self.info)

    def __reduce__(self) -> tuple[Any, ...]:
        return DeepImage, (self.samples, self.info)

    def save(self, fp: Any, format: str | None = None, **params: Any) -> None:
        """Write the picture, with 16 bits as PNG or TIFF; the arguments are Pillow's."""
        chosen = (format or _format_by_suffix(fp)).upper()
        if chosen not in ("PNG", "TIFF") or not np.array_equal(np.asarray(self), narrow(self.samples)):
            why = "its pixels were changed" if chosen in ("PNG", "TIFF") else f"{chosen} cannot hold more"
            warnings.warn(f"16 bits per channel are saved as 8: {why}.", UserWarning, stacklevel=2)
            super().save(fp, format, **params)
            return
        data = encode_png(self.samples, self.info, params) if chosen == "PNG" else _as_tiff(self, params)
        if hasattr(fp, "write"):
            fp.write(data)
        else:
            Path(fp).write_bytes(data)


def as_image(samples: Samples, info: dict[Any, Any] | None = None) -> Image.Image:
    """(H, W, C) samples as a PIL image: I;16 for grey of 16 bits, `DeepImage` for other 16 bits, else Pillow's own mode."""
    plain = samples[..., 0] if samples.shape[2] == 1 else samples
    if samples.dtype == np.uint16 and samples.shape[2] > 1:
        return DeepImage(cast("NDArray[np.uint16]", samples), info)
    image = to_image(plain) if plain.dtype == np.uint8 else Image.fromarray(plain)
    image.info = dict(info or {})
    return image


def undecoded(image: Image.Image) -> tuple[int, bytes] | None:
    """Channels and file of a colour picture of 16 bits of which only the header has been read; None of others.

    Pillow forgets both when it decodes, which a PNG's `getexif` makes it do.
    """
    channels = None if isinstance(image, DeepImage) else _deep_channels(image)
    data = _file_of(image) if channels else None
    return None if channels is None or data is None else (channels, data)


def samples_of(image: Image.Image, file: tuple[int, bytes] | None, orientation: int) -> NDArray[np.uint16] | None:
    """The 16-bit samples (H, W, C), upright, of a picture; None if it has only 8.

    Also of a `DeepImage`. Grey of 16 bits, which Pillow holds itself, is left to it.

    Args:
        image: The picture.
        file: What `undecoded` said of it.
        orientation: EXIF's, 1 to 8, by which it is turned upright.
    """
    if isinstance(image, DeepImage):
        return image.samples.copy()
    if file is None:
        return None
    channels, data = file
    if has_planes(image):
        return turned(_planes(data), orientation)
    found = cv2.imdecode(np.frombuffer(_as_stored(data), np.uint8), cv2.IMREAD_UNCHANGED)
    ordered: NDArray[np.uint16] | None = None
    if found is not None and found.dtype == np.uint16 and found.ndim == 3:
        ordered = found[..., [2, 1, 0] + [3] * (found.shape[2] == 4)].astype(np.uint16, copy=False)
    if ordered is None:
        return None
    upright = turned(ordered, orientation)
    if not _agrees(upright if image.format == "TIFF" else ordered, image):
        return None
    return np.ascontiguousarray(upright[..., [0, 3]] if channels == 2 else upright)


def turned(samples: NDArray[np.uint16], orientation: int) -> NDArray[np.uint16]:
    """Samples turned upright as `ImageOps.exif_transpose` turns a picture."""
    if orientation in (5, 6, 7, 8):
        samples = samples.transpose(1, 0, 2)
    if orientation in (2, 3, 6, 7):
        samples = samples[:, ::-1]
    if orientation in (3, 4, 7, 8):
        samples = samples[::-1]
    return np.ascontiguousarray(samples)


def _as_stored(data: bytes) -> bytes:
    """A TIFF that says it stands upright, as OpenCV fails on those that lie; other files as they are."""
    order = {b"II*\0": "<", b"MM\0*": ">"}.get(data[:4])
    if order is None:
        return data
    changed = bytearray(data)
    (start,) = struct.unpack_from(f"{order}I", data, 4)
    (count,) = struct.unpack_from(f"{order}H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        if struct.unpack_from(f"{order}H", data, entry)[0] == ExifTags.Base.Orientation:
            struct.pack_into(f"{order}H", changed, entry + 8, 1)
    return bytes(changed)


def is_deep(image: Image.Image) -> bool:
    """Whether the file of a picture that has not been decoded holds more than the 8 bits that Pillow reads of it."""
    return isinstance(image, DeepImage) or _deep_channels(image) is not None


def held_by_pillow(image: Image.Image) -> bool:
    """Whether Pillow itself has a mode for the picture's 16 bits: grey without alpha."""
    return image.mode[:1] in "IF" and "transparency" not in image.info


def has_planes(image: Image.Image) -> bool:
    """Whether a TIFF keeps its channels apart, which Pillow and OpenCV read wrongly at 16 bits."""
    return isinstance(image, TiffImagePlugin.TiffImageFile) and image.tag_v2.get(TiffImagePlugin.PLANAR_CONFIGURATION) == 2


def _planes(data: bytes) -> NDArray[np.uint16]:
    try:
        samples = read_by_tifffile(BytesIO(data))
    except ImportError:
        raise ResourceError(
            'The image is a 16-bit TIFF whose channels are stored apart, which needs an extra: pip install "sfumato[tiff]", '
            "or save it interleaved.",
            code="extra-missing",
        ) from None
    if samples is None:
        raise ImageError(
            "The image is a 16-bit TIFF whose channels are stored apart, packed in a way that is not read; save it interleaved.",
            code="image-depth",
        )
    return samples


def _deep_channels(image: Image.Image) -> int | None:
    """Channels of a colour picture of 16 bits by its header; None if it has 8, or is grey."""
    tiles = getattr(image, "tile", None)
    if not tiles:
        return None
    how = tiles[0][3]
    if image.format == "PNG" and ";16" in str(how) and image.mode != "I;16":
        return len(str(how).split(";")[0])
    if isinstance(image, TiffImagePlugin.TiffImageFile) and image.mode in ("RGB", "RGBA"):
        bits = image.tag_v2.get(TiffImagePlugin.BITSPERSAMPLE, (8,))
        return len(bits) if set(bits) == {16} else None
    if image.format == "JPEG2000" and image.info.get("bits_in_file") == 16 and image.mode in ("RGB", "RGBA"):
        return len(image.mode)
    if image.format == "PPM" and image.mode == "RGB" and isinstance(how, tuple) and isinstance(how[-1], int):
        return 3 if how[-1] > 255 else None
    return None


def _file_of(image: Image.Image) -> bytes | None:
    stream = getattr(image, "fp", None)
    if stream is None:
        return None
    place = stream.tell()
    stream.seek(0)
    data = bytes(stream.read())
    stream.seek(place)
    return data


def _agrees(samples: NDArray[np.uint16], image: Image.Image) -> bool:
    """Whether the upper bytes are, but for rounding, what Pillow sees: the same rows, channels and byte order."""
    seen = np.asarray(image)
    if seen.ndim != 3 or seen.shape[:2] != samples.shape[:2]:
        return False
    return int(np.abs((samples[..., :3] >> 8).astype(np.int16) - seen[..., :3]).max()) <= 1


def _as_tiff(image: DeepImage, params: dict[str, Any]) -> bytes:
    kept = {name: params.get(name, image.info.get(name)) for name in ("icc_profile", "exif", "xmp", "dpi")}
    return encode_tiff(image.samples, icc=kept["icc_profile"], exif=kept["exif"], xmp=kept["xmp"], dpi=kept["dpi"])


def _format_by_suffix(fp: Any) -> str:
    Image.init()
    name = fp if isinstance(fp, str | Path) else getattr(fp, "name", "")
    return Image.registered_extensions().get(Path(str(name)).suffix.lower(), "PNG")
