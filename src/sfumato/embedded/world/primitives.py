"""Signed distances of simple solids (Hart 1996; formulas after Quilez's distance-function notes), for numba.

Points are (x, y, z) with z up; every function returns a lower bound of the distance, negative inside.
"""

import math
from typing import Any

import numba

jit: Any = numba.njit(fastmath=True, cache=True, error_model="numpy")


@jit
def sphere(x: float, y: float, z: float, radius: float) -> float:
    """Distance to a sphere around the origin."""
    return math.sqrt(x * x + y * y + z * z) - radius


@jit
def ellipsoid(x: float, y: float, z: float, a: float, b: float, c: float) -> float:
    """Semi-axes a, b, c; a bound that is exact on the surface."""
    k = math.sqrt((x / a) ** 2 + (y / b) ** 2 + (z / c) ** 2)
    g = math.sqrt((x / (a * a)) ** 2 + (y / (b * b)) ** 2 + (z / (c * c)) ** 2)
    return k * (k - 1) / max(g, 1e-6)


@jit
def box(x: float, y: float, z: float, a: float, b: float, c: float, edge: float) -> float:
    """Half sides a, b, c with edges rounded by a radius of `edge`."""
    qx, qy, qz = abs(x) - a + edge, abs(y) - b + edge, abs(z) - c + edge
    mx, my, mz = max(qx, 0.0), max(qy, 0.0), max(qz, 0.0)
    return math.sqrt(mx * mx + my * my + mz * mz) + min(max(qx, max(qy, qz)), 0.0) - edge


@jit
def cylinder(q: float, z: float, radius: float, half: float, edge: float) -> float:
    """Around the z axis, at distance q from it; rounded edges."""
    a, b = q - radius + edge, abs(z) - half + edge
    ma, mb = max(a, 0.0), max(b, 0.0)
    return math.sqrt(ma * ma + mb * mb) + min(max(a, b), 0.0) - edge


@jit
def cone(q: float, z: float, radius: float, height: float) -> float:
    """Base of `radius` at z = 0, apex at `height`; q is the distance from the axis (or, for a pyramid, max(|x|, |y|))."""
    slope = radius / height
    return max((q - (height - z) * slope) / math.sqrt(1 + slope * slope), -z)


@jit
def capsule(x: float, y: float, z: float, half: float, radius: float) -> float:
    """Along the x axis, from -half to half."""
    x = x - min(max(x, -half), half)
    return math.sqrt(x * x + y * y + z * z) - radius


@jit
def torus(q: float, z: float, major: float, minor: float) -> float:
    """Around the z axis, at distance q from it."""
    q = q - major
    return math.sqrt(q * q + z * z) - minor


@jit
def star(x: float, z: float, outer: float, inner: float) -> float:
    """In the plane, a five-pointed star with a tip up: fold onto half a point, then to one edge."""
    angle = math.atan2(x, z)
    sector = 2 * math.pi / 5
    angle = abs(angle - sector * math.floor(angle / sector + 0.5))
    r = math.sqrt(x * x + z * z)
    px, pz = r * math.sin(angle), r * math.cos(angle)
    # edge from the tip (0, outer) to the notch (inner sin 36, inner cos 36)
    ex, ez = inner * math.sin(sector / 2), inner * math.cos(sector / 2) - outer
    wx, wz = px, pz - outer
    h = min(max((wx * ex + wz * ez) / (ex * ex + ez * ez), 0.0), 1.0)
    dx, dz = wx - ex * h, wz - ez * h
    return math.sqrt(dx * dx + dz * dz) * (1.0 if ex * wz - ez * wx > 0 else -1.0)


@jit
def heart(x: float, z: float) -> float:
    """In the plane, a heart about 1.1 high with its tip at the origin."""
    x = abs(x)
    if x + z > 1:
        return math.sqrt((x - 0.25) ** 2 + (z - 0.75) ** 2) - math.sqrt(2) / 4
    m = max(x + z, 0.0) / 2
    d = min(x * x + (z - 1) ** 2, (x - m) ** 2 + (z - m) ** 2)
    return math.sqrt(d) * (1.0 if x > z else -1.0)


@jit
def extruded(flat: float, y: float, half: float, edge: float) -> float:
    """A plane figure at distance `flat`, made `2 half` thick along y, with rounded edges."""
    a, b = flat + edge, abs(y) - half + edge
    ma, mb = max(a, 0.0), max(b, 0.0)
    return math.sqrt(ma * ma + mb * mb) + min(max(a, b), 0.0) - edge


@jit
def joined(a: float, b: float, blend: float) -> float:
    """The union of two solids with a fillet of about `blend`."""
    h = max(blend - abs(a - b), 0.0) / blend
    return min(a, b) - h * h * blend / 4
