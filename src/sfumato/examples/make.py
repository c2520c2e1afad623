"""Render the bundled example and draw its masks: `python -m sfumato.examples.make`."""

import cv2
import numpy as np
from PIL import Image

from sfumato import examples
from sfumato.embedded.world.scene import Scene, Thing

SIZE = 256
STILL_LIFE = Scene(
    things=(
        Thing(kind="cube", colour="blue", material="shiny", x=-0.3, y=0.2, size=0.95, turn=0.35),
        Thing(kind="cone", colour="orange", material="matte", x=-3.2, y=1.6, size=1.0),
        Thing(kind="ball", colour="green", material="shiny", x=2.9, y=1.2, size=0.9),
        Thing(kind="ring", colour="purple", material="matte", x=2.0, y=-2.2, size=0.8),
    ),
    ground="wood",
    ground_phase=3.0,
    light=(-0.45, -0.42, 0.79),
    camera=(0.0, -9.2, 4.3, 0.0, 0.0, 0.55, 2.2),
)


def grown(mask: np.ndarray, pixels: int) -> np.ndarray:
    """The mask, grown by some pixels."""
    kernel = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * pixels + 1, 2 * pixels + 1))
    return cv2.dilate(mask.astype(np.uint8), kernel)


def rounded_box(left: int, top: int, right: int, bottom: int, radius: int = 16) -> np.ndarray:
    """A mask of a box with round corners."""
    box = np.zeros((SIZE, SIZE), np.uint8)
    box[top + radius : bottom - radius, left + radius : right - radius] = 1
    return grown(box, radius)


def save_mask(mask: np.ndarray, path: object) -> None:
    """Write a mask of 0 and 1 as black and white."""
    Image.fromarray((mask * 255).astype(np.uint8)).save(str(path), optimize=True)


def main() -> None:
    """Write all example pictures."""
    image, owner = STILL_LIFE.render(SIZE, samples=3)
    Image.fromarray(image).save(examples.SCENE, optimize=True)
    save_mask(rounded_box(76, 74, 168, 168), examples.MASK)  # the cube, its shadow, and room for other shapes
    save_mask(grown(owner >= 0, 1), examples.OBJECTS_MASK)
    save_mask(rounded_box(30, 144, 122, 232), examples.EMPTY_MASK)
    thin = np.zeros((SIZE, SIZE), np.uint8)
    cv2.line(thin, (70, 150), (76, 222), 1, 13)
    save_mask(thin, examples.THIN_MASK)
    scribble = np.zeros((SIZE, SIZE, 4), np.uint8)
    cv2.circle(scribble, (76, 188), 27, (190, 25, 20, 255), -1)
    Image.fromarray(scribble).save(examples.SCRIBBLE, optimize=True)


if __name__ == "__main__":
    main()
