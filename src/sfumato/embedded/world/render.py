"""Sphere tracing of a scene: soft shadows, ambient occlusion, one reflection, 2x2 anti-aliasing.

Everything is a pure function of its arguments, so a scene looks the same wherever it is rendered.
"""

import math

import numpy as np

from sfumato.embedded.world.shapes import BLUE, GREEN, MATERIAL, RED, distance, jit, nearest
from sfumato.embedded.world.surfaces import MATTE, METAL, POLISHED, SHINY, backdrop, ground_albedo

FAR = 1e9
GROUND, SKY = -1, -2  # identifiers beside the objects' own indices


@jit
def _march(
    objects: np.ndarray, ox: float, oy: float, oz: float, dx: float, dy: float, dz: float, limit: float
) -> tuple[float, int]:
    t = 0.02
    for _ in range(64):
        d, k = nearest(objects, ox + dx * t, oy + dy * t, oz + dz * t)
        if d < 0.0015 * t + 0.0005:
            return t, k
        t += d
        if t > limit:
            break
    return FAR, GROUND


@jit
def _shadow(objects: np.ndarray, px: float, py: float, pz: float, light: np.ndarray) -> float:
    """Share of the light that arrives, by the narrowest passage along the ray."""
    lit, t = 1.0, 0.03
    for _ in range(24):
        d, _k = nearest(objects, px + light[0] * t, py + light[1] * t, pz + light[2] * t)
        lit = min(lit, 8.0 * d / t)
        if lit < 0.01:
            return 0.0
        t += max(d, 0.04)
        if t > 7:
            break
    return max(lit, 0.0)


@jit
def _occlusion(objects: np.ndarray, px: float, py: float, pz: float, nx: float, ny: float, nz: float) -> float:
    total, weight = 0.0, 1.0
    for i in range(4):
        h = 0.05 + 0.17 * i
        d, _k = nearest(objects, px + nx * h, py + ny * h, pz + nz * h)
        total += (h - min(d, pz + nz * h)) * weight
        weight *= 0.65
    return max(0.0, min(1.0, 1 - 1.05 * total))


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
    ground_t = -oz / dz if dz < -1e-4 else FAR
    t, k = _march(objects, ox, oy, oz, dx, dy, dz, min(ground_t, 30.0))
    if k < 0 and ground_t > 60:
        r, g, b = backdrop(dx, dy, dz, look[2])
        return r, g, b, SKY, 0.0, 0.0, 0.0, 0.0, 0.0, 1.0, MATTE, 0.0, 0.0, 0.0
    if k >= 0 and t < ground_t:
        px, py, pz = ox + dx * t, oy + dy * t, oz + dz * t
        o, e = objects[k], 0.002
        nx = distance(o, px + e, py, pz) - distance(o, px - e, py, pz)
        ny = distance(o, px, py + e, pz) - distance(o, px, py - e, pz)
        nz = distance(o, px, py, pz + e) - distance(o, px, py, pz - e)
        q = 1 / math.sqrt(nx * nx + ny * ny + nz * nz + 1e-12)
        nx, ny, nz = nx * q, ny * q, nz * q
        ar, ag, ab, material = o[RED], o[GREEN], o[BLUE], int(o[MATERIAL])
    else:
        k = GROUND
        t = ground_t
        px, py, pz = ox + dx * t, oy + dy * t, 0.0
        nx, ny, nz = 0.0, 0.0, 1.0
        ground = int(look[0])
        c, s = math.cos(look[3]), math.sin(look[3])
        ar, ag, ab = ground_albedo(ground, c * px - s * py + look[1], s * px + c * py + 0.37 * look[1])
        material = POLISHED if ground >= 3 else MATTE
    bx, by, bz = px + nx * 0.01, py + ny * 0.01, pz + nz * 0.01
    lit = _shadow(objects, bx, by, bz, light)
    open_sky = _occlusion(objects, px, py, pz, nx, ny, nz)
    direct = max(0.0, nx * light[0] + ny * light[1] + nz * light[2]) * lit
    ambient = (0.34 + 0.2 * nz) * open_sky
    r, g, b = ar * (direct * 1.15 + ambient * 0.95), ag * (direct * 1.1 + ambient), ab * (direct + ambient * 1.1)
    if material == SHINY or material == METAL:
        vn = -(dx * nx + dy * ny + dz * nz)
        rl = (dx + 2 * vn * nx) * light[0] + (dy + 2 * vn * ny) * light[1] + (dz + 2 * vn * nz) * light[2]
        gleam = 1.3 * max(0.0, rl) ** 55 * lit
        if material == METAL:
            r, g, b = 0.15 * r, 0.15 * g, 0.15 * b
        r, g, b = r + gleam, g + gleam, b + gleam
    if k == GROUND:
        fog = 1 - math.exp(-max(0.0, t - 9.0) * 0.05)
        sr, sg, sb = backdrop(dx, dy, 0.0, look[2])
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
    if material == MATTE:
        return r, g, b, k
    vn = -(dx * nx + dy * ny + dz * nz)
    fresnel = 0.05 + 0.95 * (1 - max(vn, 0.0)) ** 5
    mirrored = _surface(objects, look, light, px, py, pz, dx + 2 * vn * nx, dy + 2 * vn * ny, dz + 2 * vn * nz)
    rr, rg, rb = mirrored[0], mirrored[1], mirrored[2]
    if material == METAL:
        return r + 0.92 * rr * (0.05 + 0.95 * ar), g + 0.92 * rg * (0.05 + 0.95 * ag), b + 0.92 * rb * (0.05 + 0.95 * ab), k
    if material == POLISHED:
        fresnel *= 0.5
    return r + fresnel * rr, g + fresnel * rg, b + fresnel * rb, k


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
        camera: position, target, focal length in half frames.
        samples: anti-aliasing grid per axis.
    """
    size = image.shape[0]
    fx, fy, fz = camera[3] - camera[0], camera[4] - camera[1], camera[5] - camera[2]
    q = 1 / math.sqrt(fx * fx + fy * fy + fz * fz)
    fx, fy, fz = fx * q, fy * q, fz * q
    q = 1 / math.sqrt(fx * fx + fy * fy)
    rx, ry = fy * q, -fx * q
    ux, uy, uz = ry * fz, -rx * fz, rx * fy - ry * fx
    for j in range(size):
        for i in range(size):
            sr, sg, sb = 0.0, 0.0, 0.0
            for a in range(samples * samples):
                u = (i + (a % samples + 0.5) / samples) / size * 2 - 1
                v = 1 - (j + (a // samples + 0.5) / samples) / size * 2
                dx, dy, dz = fx * camera[6] + rx * u + ux * v, fy * camera[6] + ry * u + uy * v, fz * camera[6] + uz * v
                q = 1 / math.sqrt(dx * dx + dy * dy + dz * dz)
                r, g, b, k = _radiance(objects, look, light, camera[0], camera[1], camera[2], dx * q, dy * q, dz * q)
                sr, sg, sb = sr + r, sg + g, sb + b
                if a == 0:
                    owner[j, i] = k
            n = 1.0 / (samples * samples)
            for channel, value in ((0, sr * n), (1, sg * n), (2, sb * n)):
                value = value / (1 + 0.2 * value)
                image[j, i, channel] = int(255 * min(1.0, max(0.0, value)) ** (1 / 2.2) + 0.5)
