"""Writer of PNG files from samples: of 16 bits, for which Pillow has no modes, and of large pictures, which it writes slowly.

Rows are filtered by "sub" and deflated as runs (zlib's Z_RLE), band by band (https://www.w3.org/TR/png-3/, sections 9 and 10).
The bands do not refer to each other, so those in which an edit changed nothing are packed once for all its predictions.
"""

import struct
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

from sfumato.pictures.samples import ROWS, Pixels, Samples

MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}
SOURCE = "sfumato\0source"  # key of a result's `info`: the source's `Bands`; keys in files hold no NUL
Rows = Callable[[slice], Samples]
_COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_DEFLATE, _END, _BASE = b"\x78\x01", b"\x03\x00", 65521  # header of zlib, its empty last block, and the modulus of its checksum


@dataclass(frozen=True)
class _Packed:
    """One band: its IDAT chunk, and checksum (Adler-32) and length of its bytes before they were packed."""

    chunk: bytes
    checksum: int
    length: int


@dataclass(eq=False)
class Bands:
    """The source of an edit, and the bands of it that have been packed.

    Args:
        rows: Its rows, (h, W, C).
    """

    rows: Rows
    packed: dict[tuple[int, int | None], _Packed] = field(default_factory=dict)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(None), ()  # what travels to another process is written there without it

    def get(self, place: slice, band: Samples, level: int | None) -> _Packed:
        """The band packed; if it is the source's, from before."""
        own = self.rows(place)
        if own.dtype != band.dtype or not np.array_equal(own, band):
            return _pack(band, level)
        key = place.start, level
        if key not in self.packed:
            self.packed[key] = _pack(band, level)
        return self.packed[key]


def encode_png(samples: Samples, info: dict[Any, Any], params: dict[str, Any]) -> bytes:
    """(H, W, C) samples, uint8 or uint16, as a PNG.

    Args:
        samples: C is 1 (grey), 2 (with alpha), 3 (RGB) or 4 (RGBA).
        info: As of a PIL image; the source's `Bands` may be among it.
        params: Pillow's, for what goes with the pixels, and `compress_level`; by default what is written fastest.
    """
    return _encode(lambda rows: samples[rows], samples.shape, 8 * samples.itemsize, info, params)


def encode_image(image: Image.Image, info: dict[Any, Any], params: dict[str, Any]) -> bytes:
    """As `encode_png`, of a PIL image of one of the `MODES`, without a copy of it."""
    width, height = image.size

    def rows(place: slice) -> Samples:
        band = np.asarray(image.crop((0, place.start, width, place.stop)))
        return band.reshape(place.stop - place.start, width, -1)

    return _encode(rows, (height, width, len(image.getbands())), 8, info, params)


def _encode(rows: Rows, shape: tuple[int, ...], bits: int, info: dict[Any, Any], params: dict[str, Any]) -> bytes:
    """Pillow writes what goes with the pixels (text, profile) into a PNG of one pixel, whose chunks are taken over."""
    height, width, channels = shape
    small = Image.new(MODES[channels], (1, 1))
    small.info = {key: value for key, value in info.items() if key != SOURCE}
    buffer = BytesIO()
    small.save(buffer, "PNG", **params)
    others = b"".join(whole for kind, whole in _chunks(buffer.getvalue()) if kind not in (b"IHDR", b"IDAT", b"IEND"))
    header = struct.pack(">IIBBBBB", width, height, bits, _COLOUR_TYPES[channels], 0, 0, 0)
    source, level = info.get(SOURCE), params.get("compress_level")
    parts, checksum = [_SIGNATURE, _chunk(b"IHDR", header), others, _chunk(b"IDAT", _DEFLATE)], 1
    for start in range(0, height, ROWS):
        place = slice(start, min(start + ROWS, height))
        band = rows(place)
        packed = _pack(band, level) if source is None else source.get(place, band, level)
        parts.append(packed.chunk)
        checksum = _joined(checksum, packed)
    parts += [_chunk(b"IDAT", _END + struct.pack(">I", checksum)), _chunk(b"IEND", b"")]
    return b"".join(parts)


def _pack(band: Samples, level: int | None) -> _Packed:
    raw = _filtered(band)
    strategy = zlib.Z_RLE if level is None else zlib.Z_DEFAULT_STRATEGY
    deflate = zlib.compressobj(1 if level is None else int(level), zlib.DEFLATED, -zlib.MAX_WBITS, 9, strategy)
    data = deflate.compress(raw.data) + deflate.flush(zlib.Z_FULL_FLUSH)
    return _Packed(_chunk(b"IDAT", data), zlib.adler32(raw.data), raw.size)


def _joined(checksum: int, band: _Packed) -> int:
    """Adler-32 (RFC 1950, section 8) of what has `checksum`, followed by a band."""
    total, weighted = checksum & 0xFFFF, checksum >> 16
    added = (band.checksum >> 16) + weighted + band.length * (total - 1)
    return (added % _BASE) << 16 | (total + (band.checksum & 0xFFFF) - 1) % _BASE


def _filtered(rows: Samples) -> Pixels:
    """Rows as big-endian bytes, each byte less the one of the pixel to the left, after the filter's number."""
    height, width, channels = rows.shape
    step = rows.itemsize * channels
    plain = (
        np.ascontiguousarray(rows.astype(rows.dtype.newbyteorder(">"), copy=False)).view(np.uint8).reshape(height, width * step)
    )
    result = np.empty((height, 1 + width * step), np.uint8)
    result[:, 0] = 1
    result[:, 1 : 1 + step] = plain[:, :step]
    np.subtract(plain[:, step:], plain[:, :-step], out=result[:, 1 + step :])
    return result


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(data, zlib.crc32(kind)))


def _chunks(png: bytes) -> list[tuple[bytes, bytes]]:
    """The kind and all bytes of each chunk."""
    found, place = [], len(_SIGNATURE)
    while place < len(png):
        end = place + 12 + int.from_bytes(png[place : place + 4], "big")
        found.append((png[place + 4 : place + 8], png[place:end]))
        place = end
    return found
