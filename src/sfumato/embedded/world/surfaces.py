"""Colours, materials and grounds of the world."""

import math

from sfumato.embedded.world.primitives import jit

COLOURS: dict[str, tuple[float, float, float]] = {  # linear RGB albedo in [0, 1]
    "red": (0.72, 0.04, 0.04),
    "green": (0.05, 0.42, 0.08),
    "blue": (0.04, 0.12, 0.72),
    "yellow": (0.85, 0.66, 0.03),
    "purple": (0.36, 0.05, 0.55),
    "orange": (0.9, 0.27, 0.02),
    "white": (0.84, 0.84, 0.84),
    "black": (0.025, 0.025, 0.03),
    "pink": (0.88, 0.34, 0.48),
    "turquoise": (0.03, 0.56, 0.55),
}
MATERIALS = ("matte", "shiny", "metal", "wooden")
GROUNDS = ("wood", "grass", "sand", "marble", "tiles", "snow", "water", "night")
MATTE, SHINY, METAL, WOODEN, POLISHED, WET = range(6)  # the last two are grounds that reflect: faintly, and like water
WOOD, GRASS, SAND, MARBLE, TILES, SNOW, WATER, NIGHT = range(8)


@jit
def _hash(x: int, y: int) -> float:
    h = (x * 374761393 + y * 668265263) & 0xFFFFFFFF
    h = ((h ^ (h >> 13)) * 1274126177) & 0xFFFFFFFF
    return ((h ^ (h >> 16)) & 0xFFFFFF) / 16777216.0


@jit
def value_noise(x: float, y: float) -> float:
    """Smoothly interpolated random values on the integer grid, in [0, 1]."""
    ix, iy = math.floor(x), math.floor(y)
    fx, fy = x - ix, y - iy
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    i, j = int(ix), int(iy)
    low = _hash(i, j) * (1 - fx) + _hash(i + 1, j) * fx
    high = _hash(i, j + 1) * (1 - fx) + _hash(i + 1, j + 1) * fx
    return low * (1 - fy) + high * fy


@jit
def cloud(x: float, y: float) -> float:
    """Three octaves of value noise, in [0, 0.875]."""
    total, amplitude = 0.0, 0.5
    for _ in range(3):
        total += amplitude * value_noise(x, y)
        x, y, amplitude = x * 2.03 + 17.7, y * 2.01 - 9.3, amplitude * 0.5
    return total


@jit
def grain(x: float, y: float, z: float) -> float:
    """Factor on the albedo of a wooden thing at a point in its own coordinates: rings around a slanted trunk."""
    bend = cloud(x * 1.3 + 3.1, z * 1.1 + y)
    rings = 0.5 + 0.5 * math.sin(26 * math.sqrt((x + 0.4 * z + 0.35 * bend) ** 2 + (y + 1.7) ** 2))
    fine = value_noise(x * 22 + y * 9, z * 3 + y * 5)
    return 0.6 + 0.32 * rings + 0.14 * fine


@jit
def ground_albedo(ground: int, x: float, y: float) -> tuple[float, float, float]:
    """Linear RGB of the ground at a point of the plane."""
    if ground == WOOD:  # planks with grain
        plank = math.floor(y * 0.8)
        knots = cloud(x * 0.7 + plank * 5.1, y * 5.0)
        v = 0.5 + 0.5 * math.sin((x * 0.25 + knots * 2.4) * 6.0)
        tone = 0.78 + 0.22 * _hash(int(plank), 7)
        edge = y * 0.8 - plank
        if edge < 0.03:
            tone *= 0.6
        return (0.40 + 0.15 * v) * tone, (0.22 + 0.09 * v) * tone, (0.10 + 0.05 * v) * tone
    if ground == GRASS:
        n = value_noise(x * 13, y * 13) * 0.6 + value_noise(x * 27, y * 27) * 0.4
        f = cloud(x, y)
        return 0.06 + 0.10 * n + 0.05 * f, 0.16 + 0.24 * n + 0.1 * f, 0.03 + 0.05 * n
    if ground == SAND:
        n = value_noise(x * 21, y * 21)
        wave = 0.5 + 0.5 * math.sin(y * 4.5 + cloud(x * 0.9, y * 0.9) * 7)
        return 0.62 + 0.09 * n + 0.07 * wave, 0.47 + 0.08 * n + 0.06 * wave, 0.29 + 0.06 * n + 0.04 * wave
    if ground == MARBLE:
        v = abs(math.sin((x * 0.6 + y * 0.35 + cloud(x * 0.9, y * 0.9) * 6.0) * 1.6)) ** 0.35
        return 0.42 + 0.34 * v, 0.42 + 0.34 * v, 0.45 + 0.33 * v
    if ground == TILES:
        cx, cy = math.floor(x * 0.8), math.floor(y * 0.8)
        ex, ey = x * 0.8 - cx, y * 0.8 - cy
        if min(min(ex, 1 - ex), min(ey, 1 - ey)) < 0.025:
            return 0.25, 0.25, 0.25
        if (int(cx) + int(cy)) % 2 == 0:
            return 0.66, 0.68, 0.70
        return 0.15, 0.30, 0.42
    if ground == SNOW:
        n = value_noise(x * 24, y * 24)
        drift = cloud(x * 0.5, y * 0.5)
        return 0.70 + 0.10 * n + 0.12 * drift, 0.74 + 0.09 * n + 0.12 * drift, 0.82 + 0.08 * n + 0.08 * drift
    if ground == WATER:
        f = cloud(x * 0.6, y * 0.6)
        return 0.015 + 0.02 * f, 0.10 + 0.06 * f, 0.13 + 0.07 * f
    stone = cloud(x * 2.2, y * 2.2)  # night
    return 0.20 + 0.14 * stone, 0.21 + 0.14 * stone, 0.25 + 0.14 * stone


@jit
def ground_normal(ground: int, x: float, y: float) -> tuple[float, float, float]:
    """Unit normal of the ground: ripples on water, soft drifts on snow, flat elsewhere."""
    if ground == WATER:
        height, e = 0.045, 0.05
        hx = cloud(x * 1.4 + e, y * 3.2) - cloud(x * 1.4 - e, y * 3.2)
        hy = cloud(x * 1.4, y * 3.2 + e) - cloud(x * 1.4, y * 3.2 - e)
    elif ground == SNOW:
        height, e = 0.05, 0.1
        hx, hy = cloud(x + e, y) - cloud(x - e, y), cloud(x, y + e) - cloud(x, y - e)
    else:
        return 0.0, 0.0, 1.0
    nx, ny = -hx * height / (2 * e) * 2, -hy * height / (2 * e) * 2
    q = 1 / math.sqrt(nx * nx + ny * ny + 1)
    return nx * q, ny * q, q


@jit
def ground_material(ground: int) -> int:
    """How a ground reflects."""
    if ground == WATER:
        return WET
    return POLISHED if ground == MARBLE or ground == TILES else MATTE


@jit
def backdrop(ground: int, dx: float, dy: float, dz: float, warmth: float) -> tuple[float, float, float]:
    """Linear RGB of the surroundings in a direction: a soft studio sky with one bright window; at night dark, with stars."""
    t = math.sqrt(max(dz, 0.0))
    window = max(0.0, dz * 0.8 - dx * 0.5 - dy * 0.33)
    if ground == NIGHT:
        sparkle = 0.0
        if dz > 0.02 and _hash(math.floor(dx / (dz + 1.2) * 90), math.floor(dy / (dz + 1.2) * 90)) > 0.985:
            sparkle = 0.5
        light = sparkle + 0.5 * window**24
        return 0.042 - 0.012 * t + light, 0.06 - 0.02 * t + light, 0.15 - 0.06 * t + light
    r = 0.72 * (1 - t) + (0.28 + 0.2 * warmth) * t
    g = 0.76 * (1 - t) + 0.40 * t
    b = 0.80 * (1 - t) + (0.72 - 0.25 * warmth) * t
    glow = 0.8 * window**24
    return r + glow, g + glow, b + glow
