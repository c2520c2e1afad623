"""One picture that shows an edit at a glance: source, mask, predictions with their scores."""

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from sfumato.pictures.colour import shown

TILE = 320  # pixels of a tile's longer side
COLUMNS = 6
MOST_PREDICTIONS = 28  # with source and mask, five full rows
GAP = 12
FONT_SIZE = 15
MASK_COLOUR = (230, 40, 40)


def draw_grid(
    source: Image.Image,
    mask: Image.Image,
    predictions: Sequence[Image.Image],
    seeds: Sequence[int],
    scores: Sequence[dict[str, float]],
) -> Image.Image:
    """Source, source under a red mask, then the predictions, best first, each with a caption.

    Args:
        source: Of any mode that `restore` makes, any size.
        mask: Mode L, 255 = edit.
        predictions, seeds: Best first; only the first 28 are drawn.
        scores: One dictionary per prediction, or none at all.

    Returns:
        RGB picture of tiles of at most 320 pixels.
    """
    plain = _displayed(source).resize(mask.size, Image.Resampling.LANCZOS)
    tinted = Image.composite(Image.blend(plain, Image.new("RGB", plain.size, MASK_COLOUR), 0.6), plain, mask)
    tiles = [(plain, ["source"]), (tinted, ["mask"])]
    for i, prediction in enumerate(predictions[:MOST_PREDICTIONS]):
        tiles.append((_displayed(prediction), [f"{i:02d}   seed {seeds[i]}", *_caption(scores[i] if scores else {})]))
    return _arrange(tiles)


def _caption(scores: dict[str, float]) -> list[str]:
    total = [f"score {scores['total']:.3f}"] if "total" in scores else []
    parts = "   ".join(f"{name} {value:.3f}" for name, value in scores.items() if name != "total")
    return [*total, parts] if parts else total


def _displayed(image: Image.Image) -> Image.Image:
    """Grey or RGB of any depth, with or without alpha, as sRGB over white."""
    layer = shown(image).convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")


def _arrange(tiles: list[tuple[Image.Image, list[str]]]) -> Image.Image:
    font = ImageFont.load_default(size=FONT_SIZE)
    line = FONT_SIZE + 4
    scale = TILE / max(tiles[0][0].size)
    width, height = (max(1, round(side * scale)) for side in tiles[0][0].size)
    texts = [caption for _, caption in tiles]
    step_x = GAP + max(width, math.ceil(max(font.getlength(text) for caption in texts for text in caption)))
    step_y = GAP + height + line * max(map(len, texts)) + 4
    columns = min(COLUMNS, len(tiles))
    canvas = Image.new("RGB", (GAP + columns * step_x, GAP + math.ceil(len(tiles) / columns) * step_y), "white")
    draw = ImageDraw.Draw(canvas)
    for i, (image, caption) in enumerate(tiles):
        x, y = GAP + i % columns * step_x, GAP + i // columns * step_y
        canvas.paste(image.resize((width, height), Image.Resampling.LANCZOS), (x, y))
        for row, text in enumerate(caption):
            draw.text((x, y + height + 4 + row * line), text, fill=(40, 40, 40), font=font)
    return canvas
