"""Renderer: sphere tracing with soft shadows, ambient occlusion, one reflection and adaptive anti-aliasing.

Everything is a pure function of its arguments, so a scene looks the same wherever it is rendered.
"""

import math

import numpy as np

from sfumato.embedded.world.primitives import jit
from sfumato.embedded.world.shapes import KIND, MATERIAL, albedo, distance, local, nearest, reaches
from sfumato.embedded.world.surfaces import (
    MATTE,
    METAL,
    NIGHT,
    POLISHED,
    SHINY,
    WET,
    WOODEN,
    backdrop,
    grain,
    ground_albedo,
    ground_material,
    ground_normal,
)

FAR = 1e9
GROUND, SKY = -1, -2  # identifiers beside the objects' own indices
CONTRAST = 0.06  # a pixel that differs more than this from a neighbour, in display levels of [0, 1], is anti-aliased
COAT = 0.08  # share that a shiny thing mirrors when seen straight on; water and polished stone: a twentieth


@jit
def _march(
    objects: np.ndarray, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, limit: float
) -> tuple[float, int]:
    bits = reaches(objects, ox, oy, oz, dx, dy, dz, 0.0)
    if bits == 0:
        return FAR, GROUND
    t = 0.02
    for _ in range(64):
        d, k = nearest(objects, bits, ox + dx * t, oy + dy * t, oz + dz * t)
        if d < 0.0015 * t + 0.0005:
            return t, k
        t += d
        if t > limit:
            break
    return FAR, GROUND


@jit
def _shadow(objects: np.ndarray, px: float, py: float, pz: float, light: np.ndarray) -> float:
    """Share of the light that arrives, by the narrowest passage along the ray."""
    bits = reaches(objects, px, py, pz, light[0], light[1], light[2], 0.125)
    if bits == 0:
        return 1.0
    lit, t = 1.0, 0.03
    for _ in range(24):
        d, _k = nearest(objects, bits, px + light[0] * t, py + light[1] * t, pz + light[2] * t)
        lit = min(lit, 8.0 * d / t)
        if lit < 0.01:
            return 0.0
        t += max(d, 0.04)
        if t > 7:
            break
    return max(lit, 0.0)


@jit
def _occlusion(objects: np.ndarray, px: float, py: float, pz: float, nx: float, ny: float, nz: float) -> float:
    everything = (1 << objects.shape[0]) - 1
    total, weight = 0.0, 1.0
    for i in range(4):
        h = 0.05 + 0.17 * i
        d, _k = nearest(objects, everything, px + nx * h, py + ny * h, pz + nz * h)
        total += (h - min(d, pz + nz * h)) * weight
        weight *= 0.65
    return max(0.0, min(1.0, 1 - 1.05 * total))


@jit
def _normal(o: np.ndarray, px: float, py: float, pz: float) -> tuple[float, float, float]:
    e = 0.002
    nx = distance(o, px + e, py, pz) - distance(o, px - e, py, pz)
    ny = distance(o, px, py + e, pz) - distance(o, px, py - e, pz)
    nz = distance(o, px, py, pz + e) - distance(o, px, py, pz - e)
    q = 1 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
    return nx * q, ny * q, nz * q


@jit
def _paint(o: np.ndarray, px: float, py: float, pz: float) -> tuple[float, float, float, int]:
    """Albedo and material of an object at a point of its surface; parts with a colour of their own are matte."""
    r, g, b, own = albedo(o, px, py, pz)
    if not own:
        return r, g, b, MATTE
    material = int(o[MATERIAL])
    if material == WOODEN:
        x, y, z = local(o, px, py, pz)
        tone = grain(x + 0.3 * o[KIND], y, z)
        r, g, b = r * tone + 0.02, g * tone + 0.012, b * tone + 0.004
    return r, g, b, material


@jit
def _surface(
    objects: np.ndarray,
    look: np.ndarray,
    light: np.ndarray,
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
) -> tuple[float, float, float, int, float, float, float, float, float, float, int, float, float, float]:
    """First hit of a ray: its colour without reflection, identifier, point, normal, material and reflection tint."""
    ground, warmth = int(look[0]), look[2]
    ground_t = -oz / dz if dz < -1e-4 else FAR
    t, k = _march(objects, ox, oy, oz, dx, dy, dz, min(ground_t, 30.0))
    if k < 0 and ground_t > 60:
        r, g, b = backdrop(ground, dx, dy, dz, warmth)
        return r, g, b, SKY, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, MATTE, 0.0, 0.0, 0.0
    if k >= 0 and t < ground_t:
        px, py, pz = ox + dx * t, oy + dy * t, oz + dz * t
        nx, ny, nz = _normal(objects[k], px, py, pz)
        ar, ag, ab, material = _paint(objects[k], px, py, pz)
    else:
        k = GROUND
        t = ground_t
        px, py, pz = ox + dx * t, oy + dy * t, 0.0
        c, s = math.cos(look[3]), math.sin(look[3])
        gx, gy = c * px - s * py + look[1], s * px + c * py + 0.37 * look[1]
        ar, ag, ab = ground_albedo(ground, gx, gy)
        nx, ny, nz = ground_normal(ground, gx, gy)
        material = ground_material(ground)
    bx, by, bz = px + nx * 0.01, py + ny * 0.01, pz + nz * 0.01
    lit = _shadow(objects, bx, by, bz, light)
    open_sky = _occlusion(objects, px, py, pz, nx, ny, nz)
    direct = max(0.0, nx * light[0] + ny * light[1] + nz * light[2]) * lit
    ambient = (0.34 + 0.2 * nz) * open_sky
    if ground == NIGHT:  # a lamp, and little light from the sky
        direct, ambient = direct * 0.75, ambient * 0.3
    r, g, b = ar * (direct * 1.15 + ambient * 0.95), ag * (direct * 1.1 + ambient), ab * (direct + ambient * 1.1)
    if material == SHINY or material == METAL or material == WET:
        vn = -(dx * nx + dy * ny + dz * nz)
        rl = (dx + 2 * vn * nx) * light[0] + (dy + 2 * vn * ny) * light[1] + (dz + 2 * vn * nz) * light[2]
        gleam = 1.3 * max(0.0, rl) ** 55 * lit
        if material == METAL:
            r, g, b = 0.15 * r, 0.15 * g, 0.15 * b
        elif material == SHINY:  # under a clear coat: deeper, with a wide gleam, so that even white ones differ from matte
            r, g, b = 0.72 * r, 0.72 * g, 0.72 * b
            gleam += 0.5 * max(0.0, rl) ** 12 * lit
        r, g, b = r + gleam, g + gleam, b + gleam
    if k == GROUND:
        fog = 1 - math.exp(-max(0.0, t - 9.0) * 0.05)
        sr, sg, sb = backdrop(ground, dx, dy, 0.0, warmth)
        r, g, b = r * (1 - fog) + sr * fog, g * (1 - fog) + sg * fog, b * (1 - fog) + sb * fog
    return r, g, b, k, bx, by, bz, nx, ny, nz, material, ar, ag, ab


@jit
def _radiance(
    objects: np.ndarray,
    look: np.ndarray,
    light: np.ndarray,
    ox: float,
    oy: float,
    oz: float,
    dx: float,
    dy: float,
    dz: float,
) -> tuple[float, float, float, int]:
    r, g, b, k, px, py, pz, nx, ny, nz, material, ar, ag, ab = _surface(objects, look, light, ox, oy, oz, dx, dy, dz)
    if material == MATTE or material == WOODEN:
        return r, g, b, k
    vn = -(dx * nx + dy * ny + dz * nz)
    grazing = 1 - max(vn, 0.0)
    fresnel = COAT + (1 - COAT) * grazing**3.5 if material == SHINY else 0.05 + 0.95 * grazing**5
    mx, my, mz = dx + 2 * vn * nx, dy + 2 * vn * ny, dz + 2 * vn * nz
    if k == GROUND and mz < 0.02:
        mz = 0.02
    rr, rg, rb = _surface(objects, look, light, px, py, pz, mx, my, mz)[:3]
    if material == METAL:
        return r + 0.92 * rr * (0.05 + 0.95 * ar), g + 0.92 * rg * (0.05 + 0.95 * ag), b + 0.92 * rb * (0.05 + 0.95 * ab), k
    if material == POLISHED:
        fresnel *= 0.5
    return r + fresnel * rr, g + fresnel * rg, b + fresnel * rb, k


@jit
def _view(camera: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Forward, right and up of a camera that looks from its first three numbers to the next three."""
    forward = camera[3:6] - camera[:3]
    forward /= math.sqrt((forward * forward).sum())
    right = np.array([forward[1], -forward[0], 0.0])
    right /= math.sqrt((right * right).sum())
    up = np.array([right[1] * forward[2], -right[0] * forward[2], right[0] * forward[1] - right[1] * forward[0]])
    return forward, right, up


@jit
def _sample(
    objects: np.ndarray, look: np.ndarray, light: np.ndarray, camera: np.ndarray, axes: np.ndarray, u: float, v: float
) -> tuple[float, float, float, int]:
    """What the camera sees at (u, v) in [-1, 1], as display values in [0, 1] before gamma, and whose it is."""
    direction = axes[0] * camera[6] + axes[1] * (u + camera[7]) + axes[2] * (v + camera[8])
    direction /= math.sqrt((direction * direction).sum())
    return _radiance(objects, look, light, camera[0], camera[1], camera[2], direction[0], direction[1], direction[2])


@jit
def _display(value: float) -> float:
    value = value / (1 + 0.2 * value)
    return min(1.0, max(0.0, value)) ** (1 / 2.2)


@jit
def _rough(seen: np.ndarray, owner: np.ndarray, j: int, i: int) -> bool:
    """Whether a pixel differs from a neighbour so much that one ray is not enough for its colour."""
    size = seen.shape[0]
    for b, a in ((j - 1, i), (j + 1, i), (j, i - 1), (j, i + 1)):
        if 0 <= b < size and 0 <= a < size:
            if owner[b, a] != owner[j, i]:
                return True
            for channel in range(3):
                if abs(_display(seen[b, a, channel]) - _display(seen[j, i, channel])) > CONTRAST:
                    return True
    return False


@jit
def trace(
    objects: np.ndarray,
    look: np.ndarray,
    light: np.ndarray,
    camera: np.ndarray,
    samples: int,
    image: np.ndarray,
    owner: np.ndarray,
) -> None:
    """Render into `image` (size, size, 3) uint8 sRGB and `owner` (size, size) int8, the object seen in each pixel.

    Args:
        objects: (n, 9) rows as described in `shapes`.
        look: ground index, ground phase, warmth of the light, turn of the ground.
        light: unit vector towards the light.
        camera: position, target, focal length and centre of the frame in half frames.
        samples: anti-aliasing grid per axis, where neighbours differ; elsewhere one ray a pixel.
    """
    size = image.shape[0]
    axes = np.empty((3, 3))
    axes[0], axes[1], axes[2] = _view(camera)
    seen = np.empty((size, size, 3))
    for j in range(size):
        for i in range(size):
            u, v = (i + 0.5) / size * 2 - 1, 1 - (j + 0.5) / size * 2
            seen[j, i, 0], seen[j, i, 1], seen[j, i, 2], owner[j, i] = _sample(objects, look, light, camera, axes, u, v)
    for j in range(size):
        for i in range(size):
            r, g, b = seen[j, i, 0], seen[j, i, 1], seen[j, i, 2]
            if samples > 1 and _rough(seen, owner, j, i):
                r, g, b = 0.0, 0.0, 0.0
                for a in range(samples * samples):
                    u = (i + (a % samples + 0.5) / samples) / size * 2 - 1
                    v = 1 - (j + (a // samples + 0.5) / samples) / size * 2
                    sr, sg, sb, _k = _sample(objects, look, light, camera, axes, u, v)
                    r, g, b = r + sr / samples**2, g + sg / samples**2, b + sb / samples**2
            image[j, i, 0] = int(255 * _display(r) + 0.5)
            image[j, i, 1] = int(255 * _display(g) + 0.5)
            image[j, i, 2] = int(255 * _display(b) + 0.5)
