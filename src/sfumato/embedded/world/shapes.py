"""The solids of the world, as signed distance functions (Hart 1996; formulas after Quilez's distance-function notes).

An object is one row of an array: kind, x, y, size, turn, material, red, green, blue. It rests on the ground plane z = 0 and
is at most `REACH * size` away from the point (x, y, size).
"""

import math
from typing import Any

import numba
import numpy as np

KINDS = ("ball", "cube", "cylinder", "cone", "ring", "star")
KIND, X, Y, SIZE, TURN, MATERIAL, RED, GREEN, BLUE = range(9)
ROW = 9
REACH = 1.6

jit: Any = numba.njit(fastmath=True, cache=True, error_model="numpy")


@jit
def _rounded_box(x: float, y: float, z: float, half: float, edge: float) -> float:
    qx, qy, qz = abs(x) - half + edge, abs(y) - half + edge, abs(z) - half + edge
    mx, my, mz = max(qx, 0.0), max(qy, 0.0), max(qz, 0.0)
    return math.sqrt(mx * mx + my * my + mz * mz) + min(max(qx, max(qy, qz)), 0.0) - edge


@jit
def _rounded_cylinder(q: float, z: float, radius: float, half: float, edge: float) -> float:
    a, b = q - radius + edge, abs(z) - half + edge
    ma, mb = max(a, 0.0), max(b, 0.0)
    return math.sqrt(ma * ma + mb * mb) + min(max(a, b), 0.0) - edge


@jit
def _star(x: float, z: float, outer: float, inner: float) -> float:
    """Distance in the plane to a five-pointed star: fold onto half a point, then to one edge."""
    angle = math.atan2(x, z)
    sector = 2 * math.pi / 5
    angle = abs(angle - sector * math.floor(angle / sector + 0.5))
    r = math.sqrt(x * x + z * z)
    px, pz = r * math.sin(angle), r * math.cos(angle)
    # edge from the tip (0, outer) to the notch (inner sin 36, inner cos 36)
    nx, nz = inner * math.sin(sector / 2), inner * math.cos(sector / 2)
    ex, ez = nx, nz - outer
    wx, wz = px, pz - outer
    h = min(max((wx * ex + wz * ez) / (ex * ex + ez * ez), 0.0), 1.0)
    dx, dz = wx - ex * h, wz - ez * h
    side = ex * wz - ez * wx
    return math.sqrt(dx * dx + dz * dz) * (1.0 if side > 0 else -1.0)


@jit
def distance(o: np.ndarray, px: float, py: float, pz: float) -> float:
    """Signed distance from a point to one object, in world units."""
    s = o[SIZE]
    c, n = math.cos(o[TURN]), math.sin(o[TURN])
    dx, dy = px - o[X], py - o[Y]
    x, y, z = (c * dx + n * dy) / s, (-n * dx + c * dy) / s, pz / s
    kind = int(o[KIND])
    if kind == 0:
        d = math.sqrt(x * x + y * y + (z - 1) * (z - 1)) - 1
    elif kind == 1:
        d = _rounded_box(x, y, z - 0.82, 0.82, 0.07)
    elif kind == 2:
        d = _rounded_cylinder(math.sqrt(x * x + y * y), z - 1.0, 0.72, 1.0, 0.06)
    elif kind == 3:
        q = math.sqrt(x * x + y * y)
        slope = 0.92 / 2.05
        d = max((q - (2.05 - z) * slope) / math.sqrt(1 + slope * slope), -z)
    elif kind == 4:
        q = math.sqrt(x * x + y * y) - 0.76
        d = math.sqrt(q * q + (z - 0.36) * (z - 0.36)) - 0.36
    else:
        flat = _star(x, z - 0.94, 1.12, 0.5)
        thick = abs(y) - 0.26
        a, b = max(flat + 0.06, 0.0), max(thick + 0.06, 0.0)
        d = math.sqrt(a * a + b * b) + min(max(flat + 0.06, thick + 0.06), 0.0) - 0.06
    return d * s


@jit
def nearest(objects: np.ndarray, px: float, py: float, pz: float) -> tuple[float, int]:
    """Distance to the nearest object and its index; far objects are replaced by their bounding sphere."""
    best, index = 1e9, -1
    for i in range(objects.shape[0]):
        o = objects[i]
        dx, dy, dz = px - o[X], py - o[Y], pz - o[SIZE]
        d = math.sqrt(dx * dx + dy * dy + dz * dz) - REACH * o[SIZE]
        d = d + 0.05 if d > 0.3 else distance(o, px, py, pz)
        if d < best:
            best, index = d, i
    return best, index
