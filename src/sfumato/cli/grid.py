"""Overview image of an edit: source, mask and predictions with their scores."""

import math
from collections.abc import Iterable, Sequence
from itertools import islice

from PIL import Image, ImageDraw, ImageFont

from sfumato.masks.canvas import with_plain_margins
from sfumato.masks.reading import Box
from sfumato.pictures.colour import shown

TILE = 320  # pixels of a tile's longer side
COLUMNS = 6
MOST_PREDICTIONS = 28  # with source and mask, five full rows
GAP = 12
REDUCING_GAP = 3.0  # Pillow's: from three times the size on, the result is hardly to be told from a single resizing
FONT_SIZE = 15
MASK_COLOUR = (230, 40, 40)


def tile_size(size: tuple[int, int]) -> tuple[int, int]:
    """Width and height of the tile of a picture of this size."""
    scale = TILE / max(size)
    width, height = (max(1, round(side * scale)) for side in size)
    return width, height


def tile(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """A picture of any kind that `restore` makes, as sRGB over white, at a tile's size."""
    # large pictures are halved and so on by their mean first, which is much faster; some of Pillow's modes cannot be
    gap = REDUCING_GAP if image.mode in ("L", "RGB") else None
    layer = shown(image.resize(size, Image.Resampling.LANCZOS, reducing_gap=gap)).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", size, "white"), layer).convert("RGB")


def source_tile(image: Image.Image, original: Box | None) -> Image.Image:
    """The tile of a source, with plain grey margins where it is to be extended.

    Args:
        image: Of any kind that `restore` makes, with margins if there are any.
        original: Where the source lies in it, as x, y, width, height; None if it has no margins.
    """
    size = tile_size(image.size)
    small = tile(image, size)
    if original is None:
        return small
    scale = size[0] / image.width, size[1] / image.height
    (left, right), (top, bottom) = (
        (round(original[axis] * scale[axis]), round((original[axis] + original[axis + 2]) * scale[axis])) for axis in (0, 1)
    )
    return with_plain_margins(small, (left, top, right - left, bottom - top))


def draw_grid(
    source: Image.Image,
    mask: Image.Image,
    predictions: Iterable[Image.Image],
    seeds: Sequence[int],
    scores: Sequence[dict[str, float]],
) -> Image.Image:
    """Source, source under a red mask, then the predictions, best first, each with a caption.

    Args:
        source: A tile, or a picture of any kind that `restore` makes, of any size.
        mask: Mode L, 255 = edit, of the result's size.
        predictions: As source, best first; only the first 28 are drawn.
        seeds: Of the predictions.
        scores: One dictionary per prediction, or none at all.

    Returns:
        RGB picture of tiles of at most 320 pixels.
    """
    size = tile_size(mask.size)
    plain = tile(source, size)
    red = Image.blend(plain, Image.new("RGB", size, MASK_COLOUR), 0.6)
    tinted = Image.composite(red, plain, mask.resize(size, Image.Resampling.BOX))
    tiles = [(plain, ["source"]), (tinted, ["mask"])]
    for i, prediction in enumerate(islice(predictions, MOST_PREDICTIONS)):
        tiles.append((tile(prediction, size), [f"{i:02d}   seed {seeds[i]}", *_caption(scores[i] if scores else {})]))
    return _arrange(tiles)


def _caption(scores: dict[str, float]) -> list[str]:
    total = [f"score {scores['total']:.3f}"] if "total" in scores else []
    parts = "   ".join(f"{name} {value:.3f}" for name, value in scores.items() if name != "total")
    return [*total, parts] if parts else total


def _arrange(tiles: list[tuple[Image.Image, list[str]]]) -> Image.Image:
    font = ImageFont.load_default(size=FONT_SIZE)
    line = FONT_SIZE + 4
    width, height = tiles[0][0].size
    texts = [caption for _, caption in tiles]
    step_x = GAP + max(width, math.ceil(max(font.getlength(text) for caption in texts for text in caption)))
    step_y = GAP + height + line * max(map(len, texts)) + 4
    columns = min(COLUMNS, len(tiles))
    canvas = Image.new("RGB", (GAP + columns * step_x, GAP + math.ceil(len(tiles) / columns) * step_y), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (image, caption) in enumerate(tiles):
        x, y = GAP + i % columns * step_x, GAP + i // columns * step_y
        canvas.paste(image, (x, y))
        for row, text in enumerate(caption):
            draw.text((x, y + height + 4 + row * line), text, fill=(40, 40, 40), font=font)
    return canvas
