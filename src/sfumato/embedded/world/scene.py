"""Scenes: objects, light and camera, drawn at random or built by hand."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sfumato.embedded.world.shapes import KINDS, ROW
from sfumato.embedded.world.split import WHOLE, Part, unseen
from sfumato.embedded.world.surfaces import COLOURS, GROUNDS, MATERIALS

EMPTY = 0.05  # share of scenes without anything


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object resting on the ground.

    Args:
        kind, colour, material: Of `shapes.KINDS`, `surfaces.COLOURS` and `surfaces.MATERIALS`.
        x, y: Place on the ground; the camera looks along +y.
        size: About half its height.
        turn: Around the vertical, in radians.
        shade: Factor on the albedo.
    """

    kind: str
    colour: str
    material: str
    x: float
    y: float
    size: float
    turn: float = 0.0
    shade: float = 1.0

    def row(self) -> list[float]:
        r, g, b = (min(1.0, c * self.shade) for c in COLOURS[self.colour])
        kind, material = KINDS.index(self.kind), MATERIALS.index(self.material)
        return [kind, self.x, self.y, self.size, self.turn, material, r, g, b]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Things on a ground. The first thing is the one that captions are about.

    Args:
        things: What stands there.
        ground: Of `surfaces.GROUNDS`.
        ground_phase, ground_turn: Which piece of the ground, turned by how many radians.
        warmth: Of the sky, in [0, 1].
        light: Unit vector towards the light.
        camera: Position, the point it looks at, and its focal length in half frames.
        frame: Centre of what is seen, right and up of where the camera points, in half frames.
    """

    things: tuple[Thing, ...]
    ground: str
    ground_phase: float = 0.0
    ground_turn: float = 0.0
    warmth: float = 0.5
    light: tuple[float, float, float] = (-0.4, -0.5, 0.77)
    camera: tuple[float, float, float, float, float, float, float] = (0.0, -5.0, 2.4, 0.0, 0.0, 0.8, 2.2)
    frame: tuple[float, float] = (0.0, 0.0)

    def without(self, index: int) -> "Scene":
        """The counterfactual in which one thing was never there."""
        return replace(self, things=self.things[:index] + self.things[index + 1 :])

    def replaced(self, index: int, **changes: Any) -> "Scene":
        """The counterfactual in which one thing has another kind, colour, material or place."""
        things = list(self.things)
        things[index] = replace(things[index], **changes)
        return replace(self, things=tuple(things))

    def on(self, ground: str) -> "Scene":
        """The counterfactual on another ground."""
        return replace(self, ground=ground)

    def cropped(self, left: float, top: float, side: float) -> "Scene":
        """The same scene, of which a square part is seen, at the full number of pixels.

        Args:
            left, top, side: In sides of the present picture, from its upper left corner.
        """
        x, y = self.frame[0] + 2 * left + side - 1, self.frame[1] + 1 - 2 * top - side
        return replace(self, camera=(*self.camera[:6], self.camera[6] / side), frame=(x / side, y / side))

    def render(self, size: int = 128, samples: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """Draw the scene.

        Args:
            size: Side in pixels.
            samples: Anti-aliasing grid per axis.

        Returns:
            image (size, size, 3) uint8 sRGB, and owner (size, size) int8: index of the thing in each pixel, -1 ground, -2 sky.
        """
        from sfumato.embedded.world.render import trace

        rows = np.array([t.row() for t in self.things], np.float64).reshape(-1, ROW)
        look = np.array([GROUNDS.index(self.ground), self.ground_phase, self.warmth, self.ground_turn])
        image, owner = np.empty((size, size, 3), np.uint8), np.empty((size, size), np.int8)
        trace(rows, look, np.array(self.light), np.array((*self.camera, *self.frame)), samples, image, owner)
        return image, owner


def _thing(rng: np.random.Generator, x: float, y: float, size: float, part: Part, held_out: bool) -> Thing:
    while True:
        kind, colour = str(rng.choice(part.kinds)), str(rng.choice(part.colours))
        if unseen(kind, colour) == held_out:
            break
    return Thing(
        kind=kind,
        colour=colour,
        material=str(rng.choice(part.materials)),
        x=x,
        y=y,
        size=size,
        turn=rng.uniform(-0.6, 0.6),
        shade=rng.uniform(0.85, 1.12),
    )


def random_scene(rng: np.random.Generator, part: Part = WHOLE, unseen: bool = False) -> Scene:
    """A scene with one main thing that fills a third to three fifths of the frame, and up to two others around it.

    One scene in twenty is empty, so that a model learns what the ground looks like under an object.

    Args:
        rng: Decides everything.
        part: What may appear.
        unseen: Draw a main thing whose combination is held out from training; otherwise no such thing appears.
    """
    main = _thing(rng, 0.0, 0.0, rng.uniform(0.8, 1.0), part, unseen)
    things = [main] if unseen or rng.random() > EMPTY else []
    for _ in range(int(rng.choice(3, p=(0.55, 0.32, 0.13)))):
        for _attempt in range(20):
            x, y, size = rng.uniform(-3.4, 3.4), rng.uniform(-1.4, 4.0), rng.uniform(0.65, 1.0)
            if all(math.hypot(x - t.x, y - t.y) > 1.15 * (size + t.size) for t in (main, *things[1:])):
                things.append(_thing(rng, x, y, size, part, False))
                break
    azimuth, elevation = rng.uniform(-2.5, -0.65), rng.uniform(0.6, 1.1)
    light = (math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation), math.sin(elevation))
    orbit, distance, pitch = rng.uniform(-0.2, 0.2) - math.pi / 2, rng.uniform(3.5, 5.4), rng.uniform(0.3, 0.6)
    tx, tz = rng.uniform(-0.55, 0.55), rng.uniform(0.55, 1.1)
    camera = (
        tx + math.cos(orbit) * math.cos(pitch) * distance,
        math.sin(orbit) * math.cos(pitch) * distance,
        tz + math.sin(pitch) * distance,
        tx,
        0.0,
        tz,
        2.2,
    )
    return Scene(
        things=tuple(things),
        ground=str(rng.choice(part.grounds)),
        ground_phase=rng.uniform(0, 50),
        ground_turn=rng.uniform(-0.5, 0.5),
        warmth=rng.uniform(),
        light=light,
        camera=camera,
    )
