"""A scene: what stands where, under which light, seen from where; drawn at random or built by hand."""

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from sfumato.embedded.world.shapes import KINDS, ROW
from sfumato.embedded.world.split import WHOLE, Part
from sfumato.embedded.world.split import unseen as held_out
from sfumato.embedded.world.surfaces import COLOURS, GROUNDS, MATERIALS


@dataclass(frozen=True, kw_only=True)
class Thing:
    """One object resting on the ground."""

    kind: str
    colour: str
    material: str
    x: float
    y: float
    size: float
    turn: float = 0.0
    shade: float = 1.0  # factor on the albedo

    def row(self) -> list[float]:
        r, g, b = (min(1.0, c * self.shade) for c in COLOURS[self.colour])
        kind, material = KINDS.index(self.kind), MATERIALS.index(self.material)
        return [kind, self.x, self.y, self.size, self.turn, material, r, g, b]


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Things on a ground. The first thing is the one that captions are about."""

    things: tuple[Thing, ...]
    ground: str
    ground_phase: float = 0.0
    ground_turn: float = 0.0
    warmth: float = 0.5
    light: tuple[float, float, float] = (-0.4, -0.5, 0.77)
    camera: tuple[float, float, float, float, float, float, float] = (0.0, -5.0, 2.4, 0.0, 0.0, 0.8, 2.2)

    def without(self, index: int) -> "Scene":
        """The counterfactual in which one thing was never there."""
        return replace(self, things=self.things[:index] + self.things[index + 1 :])

    def replaced(self, index: int, **changes: Any) -> "Scene":
        """The counterfactual in which one thing's fields are others."""
        things = (*self.things[:index], replace(self.things[index], **changes), *self.things[index + 1 :])
        return replace(self, things=things)

    def on(self, ground: str) -> "Scene":
        """The counterfactual on another ground."""
        return replace(self, ground=ground)

    def with_thing(self, thing: Thing) -> "Scene":
        """The counterfactual with one more thing."""
        return replace(self, things=(*self.things, thing))

    def render(self, size: int = 128, samples: int = 2) -> tuple[np.ndarray, np.ndarray]:
        """Draw the scene.

        Returns:
            image (size, size, 3) uint8 sRGB, and owner (size, size) int8: index of the thing in each pixel, -1 ground, -2 sky.
        """
        from sfumato.embedded.world.render import trace

        rows = np.array([t.row() for t in self.things], np.float64).reshape(-1, ROW)
        look = np.array([GROUNDS.index(self.ground), self.ground_phase, self.warmth, self.ground_turn])
        image, owner = np.empty((size, size, 3), np.uint8), np.empty((size, size), np.int8)
        trace(rows, look, np.array(self.light), np.array(self.camera), samples, image, owner)
        return image, owner


def _thing(rng: np.random.Generator, x: float, y: float, size: float) -> Thing:
    return Thing(
        kind=str(rng.choice(KINDS)),
        colour=str(rng.choice(list(COLOURS))),
        material=str(rng.choice(MATERIALS)),
        x=x,
        y=y,
        size=size,
        turn=rng.uniform(-0.6, 0.6),
        shade=rng.uniform(0.85, 1.12),
    )


def random_scene(rng: np.random.Generator, part: Part = WHOLE, unseen: bool = False) -> Scene:
    """A scene with one main thing that fills about a third to a half of the frame, and up to two others around it.

    One scene in twenty is empty, so that a model learns what the ground looks like under an object.
    """
    main = _thing(rng, 0.0, 0.0, rng.uniform(0.8, 1.0))
    while held_out(main.kind, main.colour) != unseen:
        main = _thing(rng, 0.0, 0.0, main.size)
    things = [main] if rng.random() > 0.05 else []
    for _ in range(int(rng.choice(3, p=(0.55, 0.32, 0.13)))):
        for _attempt in range(20):
            x, y, size = rng.uniform(-3.4, 3.4), rng.uniform(-1.4, 4.0), rng.uniform(0.65, 1.0)
            if all(math.hypot(x - t.x, y - t.y) > 1.15 * (size + t.size) for t in (main, *things[1:])):
                things.append(_thing(rng, x, y, size))
                break
    azimuth, elevation = rng.uniform(-2.5, -0.65), rng.uniform(0.6, 1.1)
    light = (math.cos(azimuth) * math.cos(elevation), math.sin(azimuth) * math.cos(elevation), math.sin(elevation))
    orbit, distance, pitch = rng.uniform(-0.2, 0.2) - math.pi / 2, rng.uniform(4.0, 6.4), rng.uniform(0.3, 0.6)
    tx, tz = rng.uniform(-0.7, 0.7), rng.uniform(0.45, 1.1)
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
        ground=str(rng.choice(GROUNDS)),
        ground_phase=rng.uniform(0, 50),
        ground_turn=rng.uniform(-0.5, 0.5),
        warmth=rng.uniform(),
        light=light,
        camera=camera,
    )
