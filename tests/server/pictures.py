"""Pictures as clients send them."""

import base64
from io import BytesIO
from typing import Any

import numpy as np
from PIL import Image

WIDTH, HEIGHT = 48, 32
MASKED = np.s_[8:24, 16:32]


def photograph() -> Image.Image:
    """A different colour in every pixel."""
    y, x = np.mgrid[0:HEIGHT, 0:WIDTH]
    return Image.fromarray(np.stack([x * 5, y * 7, (x + y) * 3], axis=-1).astype(np.uint8))


def inside() -> np.ndarray:
    """(H, W) bool: the square that the masks mark."""
    area = np.zeros((HEIGHT, WIDTH), bool)
    area[MASKED] = True
    return area


def grey_mask() -> Image.Image:
    """White is edited."""
    return Image.fromarray(inside().astype(np.uint8) * 255)


def transparent_mask() -> Image.Image:
    """Transparent is edited, as OpenAI's API has it; the colours say the opposite, to find out who reads them."""
    mask = Image.new("RGBA", (WIDTH, HEIGHT), "white")
    mask.putalpha(Image.fromarray(np.where(inside(), 0, 255).astype(np.uint8)))
    return mask


def drawing() -> Image.Image:
    """Blue strokes on a transparent layer, one of them hardly to be seen."""
    layer = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
    layer[4:12, 10:20] = (30, 60, 220, 255)
    layer[20:22, 5:40] = (30, 60, 220, 1)
    return Image.fromarray(layer)


def encoded(image: Image.Image, format: str = "PNG", **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, format, **options)
    return buffer.getvalue()


def decoded(data: bytes | str) -> Image.Image:
    image = Image.open(BytesIO(base64.b64decode(data) if isinstance(data, str) else data))
    image.load()
    return image


def text(image: Image.Image) -> str:
    return base64.b64encode(encoded(image)).decode()


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image.convert("RGB"))


def job(prompt: str = "a red ball", **fields: Any) -> dict[str, Any]:
    """The JSON of a small job."""
    return {"image": text(photograph()), "mask": text(grey_mask()), "prompt": prompt, "n": 1, **fields}


PICTURE = encoded(photograph())
MASK = encoded(transparent_mask())
