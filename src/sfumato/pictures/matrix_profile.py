"""Matrix and grey ICC profiles as floating-point formulas (ICC.1:2022, 10.6 and 10.18).

Pillow's ImageCms works at 8 bits only, which would leave bands in the edit of a 16-bit picture.
"""

import struct
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sfumato.pictures.samples import ROWS, Samples, top_of

Curve = NDArray[np.float64]
_NODES = np.linspace(0, 1, 16385)  # a curve is held as its values here
# sRGB's primaries adapted to D50, in columns, as in its own profiles.
_SRGB_TO_XYZ = np.array([[0.43607, 0.38515, 0.14307], [0.22249, 0.71687, 0.06061], [0.01392, 0.09708, 0.71410]])


@dataclass(frozen=True, eq=False)
class MatrixProfile:
    """A profile as curves from samples to linear light, and a matrix from there to XYZ (D50).

    Args:
        curves: One for each channel.
        to_xyz: (3, 3), primaries in columns; None of grey.
    """

    curves: tuple[Curve, ...]
    to_xyz: NDArray[np.float64] | None

    @classmethod
    def parse(cls, icc: bytes, grey: bool) -> "MatrixProfile | None":
        """None if the profile has tables, or is not of this kind."""
        try:
            tags = _tags(icc)
            if b"A2B0" in tags or b"B2A0" in tags:
                return None
            if grey:
                return cls((_curve(tags[b"kTRC"]),), None)
            matrix = np.array([_xyz(tags[name]) for name in (b"rXYZ", b"gXYZ", b"bXYZ")]).T
            np.linalg.inv(matrix)
            return cls(tuple(_curve(tags[name]) for name in (b"rTRC", b"gTRC", b"bTRC")), matrix)
        except (KeyError, ValueError, struct.error, np.linalg.LinAlgError):
            return None

    def from_srgb(self, colours: Samples) -> Samples:
        """(H, W, 3) sRGB as (H, W, 1 or 3) samples of this profile, of the same depth; what it cannot show is clipped."""
        result = np.empty((*colours.shape[:2], len(self.curves)), colours.dtype)
        top = top_of(colours)
        matrix = _SRGB_TO_XYZ[1:2] if self.to_xyz is None else np.linalg.inv(self.to_xyz) @ _SRGB_TO_XYZ
        for start in range(0, len(colours), ROWS):
            linear = _srgb_to_linear(colours[start : start + ROWS] / top) @ matrix.T
            for channel, curve in enumerate(self.curves):
                values = np.interp(np.clip(linear[..., channel], 0, 1), curve, _NODES)
                result[start : start + ROWS, :, channel] = np.rint(values * top)
        return result


def _srgb_to_linear(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.asarray(np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4))


def _tags(icc: bytes) -> dict[bytes, bytes]:
    count = struct.unpack_from(">I", icc, 128)[0]
    rows = [struct.unpack_from(">4sII", icc, 132 + 12 * index) for index in range(min(count, 200))]
    return {name: icc[offset : offset + size] for name, offset, size in rows}


def _xyz(tag: bytes) -> list[float]:
    return [value / 65536 for value in struct.unpack_from(">3i", tag, 8)]


def _curve(tag: bytes) -> Curve:
    """A tone curve's values at `_NODES`, not falling, from linear light 0 upwards.

    Raises:
        ValueError: It is of no known kind, or flat.
    """
    kind, count = tag[:4], struct.unpack_from(">I", tag, 8)[0]
    if kind == b"curv":
        if count <= 1:
            values = _NODES ** (struct.unpack_from(">H", tag, 12)[0] / 256 if count else 1.0)
        else:
            stored = np.frombuffer(tag, ">u2", count, 12) / 65535
            values = np.interp(_NODES, np.linspace(0, 1, count), stored)
    elif kind == b"para":
        values = _parametric(tag)
    else:
        raise ValueError(f"unknown curve {kind!r}")
    values = np.maximum.accumulate(np.clip(values, 0, 1))
    if values[-1] <= values[0]:
        raise ValueError("flat curve")
    return np.asarray(values)


def _parametric(tag: bytes) -> Curve:
    """The five functions of parametricCurveType (ICC.1:2022)."""
    function = struct.unpack_from(">H", tag, 8)[0]
    counts = (1, 3, 4, 5, 7)
    if function >= len(counts):
        raise ValueError("unknown parametric curve")
    given = [value / 65536 for value in struct.unpack_from(f">{counts[function]}i", tag, 12)]
    g, a, b, c, d, e, f = (given + [0.0] * 7)[:7]
    x = _NODES
    power: Callable[[], Curve] = lambda: np.maximum(a * x + b, 0) ** g  # noqa: E731
    if function == 0:
        return np.asarray(x**g)
    if function == 1:
        return np.asarray(np.where(x >= -b / a, power(), 0))
    if function == 2:
        return np.asarray(np.where(x >= -b / a, power() + c, c))
    if function == 3:
        return np.asarray(np.where(x >= d, power(), c * x))
    return np.asarray(np.where(x >= d, power() + e, c * x + f))
