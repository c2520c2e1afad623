"""Shapes of the objects: their signed distance functions and the colour of each part.

An object is one row of an array: kind, x, y, size, turn, material, red, green, blue. It rests on the ground plane z = 0 and
is at most `REACH * size` away from the point (x, y, size). Local coordinates are in units of its size; things face -y.
"""

import math

import numpy as np

from sfumato.embedded.world import primitives as p
from sfumato.embedded.world.primitives import jit

KINDS = (
    *("ball", "cube", "cylinder", "cone", "ring", "star", "heart", "mushroom"),
    *("capsule", "pyramid", "mug", "bottle", "snowman", "tree", "house", "duck"),
)
KIND, X, Y, SIZE, TURN, MATERIAL, RED, GREEN, BLUE = range(9)
ROW = 9
REACH = 1.6

BALL, CUBE, CYLINDER, CONE, RING, STAR, HEART, MUSHROOM, CAPSULE, PYRAMID, MUG, BOTTLE, SNOWMAN, TREE, HOUSE, DUCK = range(16)


@jit
def _mug(x: float, y: float, z: float) -> float:
    q = math.sqrt(x * x + y * y)
    wall = max(p.cylinder(q, z - 0.8, 0.74, 0.8, 0.06), -p.cylinder(q, z - 1.0, 0.62, 0.85, 0.05))
    hx, hz = x - 0.78, z - 0.82
    return min(wall, max(p.torus(math.sqrt(hx * hx + hz * hz), y, 0.42, 0.12), 0.66 - q))


@jit
def _bottle(x: float, y: float, z: float) -> float:
    q = math.sqrt(x * x + y * y)
    body = p.joined(p.cylinder(q, z - 0.65, 0.52, 0.65, 0.1), p.cylinder(q, z - 1.35, 0.19, 0.55, 0.03), 0.45)
    return min(body, p.cylinder(q, z - 1.86, 0.25, 0.14, 0.04))


@jit
def _snowman(x: float, y: float, z: float) -> float:
    d = min(p.sphere(x, y, z - 0.62, 0.68), p.sphere(x, y, z - 1.38, 0.48))
    d = min(d, p.sphere(x, y, z - 1.92, 0.34))
    return min(d, p.capsule(y + 0.42, x, z - 1.9, 0.16, 0.07))


@jit
def _house(x: float, y: float, z: float) -> float:
    roof = max((abs(y) + (z - 1.75)) * math.sqrt(0.5), max(0.98 - z, abs(x) - 0.98))
    chimney = p.box(x - 0.5, y - 0.25, z - 1.5, 0.13, 0.13, 0.3, 0.01)
    return min(p.box(x, y, z - 0.5, 0.85, 0.62, 0.5, 0.02), min(roof, chimney))


@jit
def _duck(x: float, y: float, z: float) -> float:
    d = p.joined(p.ellipsoid(x, y, z - 0.6, 0.95, 0.68, 0.6), p.sphere(x - 0.82, y, z - 0.9, 0.2), 0.4)
    d = p.joined(d, p.sphere(x + 0.48, y, z - 1.38, 0.46), 0.2)
    return min(d, p.ellipsoid(x + 0.98, y, z - 1.3, 0.22, 0.2, 0.09))


@jit
def _solid(kind: int, x: float, y: float, z: float) -> float:
    """Distance to a solid of size 1 in local coordinates."""
    q = math.sqrt(x * x + y * y)
    if kind == BALL:
        return p.sphere(x, y, z - 1, 1.0)
    if kind == CUBE:
        return p.box(x, y, z - 0.82, 0.82, 0.82, 0.82, 0.07)
    if kind == CYLINDER:
        return p.cylinder(q, z - 1.0, 0.72, 1.0, 0.06)
    if kind == CONE:
        return p.cone(q, z, 0.92, 2.05)
    if kind == RING:
        return p.torus(q, z - 0.36, 0.76, 0.36)
    if kind == STAR:
        return p.extruded(p.star(x, z - 0.94, 1.12, 0.5), y, 0.26, 0.06)
    if kind == HEART:
        return p.extruded(1.8 * p.heart(x / 1.8, z / 1.8), y, 0.3, 0.1)
    if kind == MUSHROOM:
        cap = max(p.ellipsoid(x, y, z - 0.95, 1.05, 1.05, 0.95), 0.95 - z)
        return min(cap, p.cylinder(q, z - 0.5, 0.34, 0.55, 0.08))
    if kind == CAPSULE:
        return p.capsule(x, y, z - 0.56, 0.7, 0.56)
    if kind == PYRAMID:
        return p.cone(max(abs(x), abs(y)), z, 0.95, 1.75)
    if kind == MUG:
        return _mug(x, y, z)
    if kind == BOTTLE:
        return _bottle(x, y, z)
    if kind == SNOWMAN:
        return _snowman(x, y, z)
    if kind == TREE:
        leaves = min(p.cone(q, z - 0.5, 0.92, 1.1), p.cone(q, z - 1.1, 0.68, 1.0))
        return min(leaves, p.cylinder(q, z - 0.28, 0.22, 0.32, 0.02))
    if kind == HOUSE:
        return _house(x, y, z)
    return _duck(x, y, z)


@jit
def _part(kind: int, x: float, y: float, z: float) -> tuple[float, float, float]:
    """Linear RGB of the part at a point of the surface, if it has a colour of its own; else minus the shade of the thing's."""
    if kind == MUSHROOM and (z < 0.94 or (math.sin(5.2 * math.atan2(x, y)) * math.sin(5.5 * z) > 0.62 and z < 1.75)):
        return 0.78, 0.7, 0.56
    if kind == BOTTLE and z > 1.72:
        return 0.7, 0.68, 0.62
    if kind == SNOWMAN:
        if y < -0.3 and abs(x) < 0.1 and abs(z - 1.9) < 0.1:
            return 0.85, 0.25, 0.02
        if y < 0 and z > 1.95 and z < 2.08 and abs(abs(x) - 0.12) < 0.05:
            return 0.02, 0.02, 0.02
    if kind == TREE and z < 0.499:
        return 0.16, 0.08, 0.03
    if kind == HOUSE:
        if z > 0.985:  # the roof is most of what is seen from above: of the thing's material, and darker than the walls
            return -0.5, 0.0, 0.0
        if y < -0.55 and abs(x) < 0.17 and z < 0.62:
            return 0.14, 0.07, 0.03
        if y < -0.55 and abs(abs(x) - 0.52) < 0.15 and abs(z - 0.6) < 0.15:
            return 0.1, 0.16, 0.22
    if kind == DUCK:
        if x < -0.88 and z < 1.42:
            return 0.9, 0.3, 0.02
        if abs(x + 0.74) < 0.075 and abs(z - 1.52) < 0.075:
            return 0.02, 0.02, 0.02
    return -1.0, 0.0, 0.0


@jit
def local(o: np.ndarray, px: float, py: float, pz: float) -> tuple[float, float, float]:
    """A point of the world in an object's own coordinates."""
    s, c, n = o[SIZE], math.cos(o[TURN]), math.sin(o[TURN])
    dx, dy = px - o[X], py - o[Y]
    return (c * dx + n * dy) / s, (-n * dx + c * dy) / s, pz / s


@jit
def distance(o: np.ndarray, px: float, py: float, pz: float) -> float:
    """Signed distance from a point to one object, in world units."""
    x, y, z = local(o, px, py, pz)
    return _solid(int(o[KIND]), x, y, z) * o[SIZE]


@jit
def albedo(o: np.ndarray, px: float, py: float, pz: float) -> tuple[float, float, float, bool]:
    """Linear RGB of an object at a point of its surface, and whether this is the object's own colour or a part's."""
    x, y, z = local(o, px, py, pz)
    r, g, b = _part(int(o[KIND]), x, y, z)
    return (-r * o[RED], -r * o[GREEN], -r * o[BLUE], True) if r < 0 else (r, g, b, False)


@jit
def reaches(objects: np.ndarray, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, spread: float) -> int:
    """Bit mask of the objects that a ray may touch, or pass closer than `spread` times the distance travelled."""
    bits = 0
    for i in range(objects.shape[0]):
        o = objects[i]
        cx, cy, cz = o[X] - ox, o[Y] - oy, o[SIZE] - oz
        along = cx * dx + cy * dy + cz * dz
        radius = REACH * o[SIZE]
        if along < -radius:
            continue
        apart = cx * cx + cy * cy + cz * cz - along * along
        reach = radius + spread * max(along + radius, 0.0)
        if apart < reach * reach:
            bits |= 1 << i
    return bits


@jit
def nearest(objects: np.ndarray, bits: int, px: float, py: float, pz: float) -> tuple[float, int]:
    """Distance to the nearest of the objects in `bits` and its index; far ones are replaced by their bounding spheres."""
    best, index = 1e9, -1
    for i in range(objects.shape[0]):
        if not (bits >> i) & 1:
            continue
        o = objects[i]
        dx, dy, dz = px - o[X], py - o[Y], pz - o[SIZE]
        d = math.sqrt(dx * dx + dy * dy + dz * dz) - REACH * o[SIZE]
        d = d + 0.05 if d > 0.3 else distance(o, px, py, pz)
        if d < best:
            best, index = d, i
    return best, index
