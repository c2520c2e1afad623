"""Masks as tools and people make them: greys, labels, colours, brush layers, pictures with a hole."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image, ImageDraw

from sfumato.errors import MaskError
from sfumato.masks.reading import Area, read_area
from sfumato.pictures.reading import Picture, read

SHAPE = (96, 128)
BOX = np.zeros(SHAPE, np.uint8)
BOX[30:66, 40:80] = 1
OTHER = np.zeros(SHAPE, np.uint8)
OTHER[5:20, 5:20] = 1
PLAIN = read(Image.new("RGB", (128, 96), (120, 120, 120)))
PHOTO = read(Image.fromarray(np.random.default_rng(3).integers(0, 256, (*SHAPE, 3), dtype=np.uint8)))


def read_it(mask: Image.Image, picture: Picture = PLAIN, **options: object) -> Area:
    return read_area(picture.size, mask, None, picture, **options)  # type: ignore[arg-type]


def painted(colour: tuple[int, ...], where: np.ndarray = BOX, ground: tuple[int, ...] = (0, 0, 0)) -> np.ndarray:
    return np.where(where[..., None] > 0, colour, ground).astype(np.uint8)


def jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = BytesIO()
    image.save(buffer, "JPEG", quality=quality)
    return Image.open(buffer)


def softened(values: np.ndarray) -> np.ndarray:
    """With one pixel of grey around everything, as antialiasing leaves it."""
    image = Image.fromarray(values)
    double = image.resize((image.width * 4, image.height * 4), Image.Resampling.NEAREST)
    double = Image.fromarray(np.roll(np.asarray(double), 2, axis=(0, 1)))
    return np.asarray(double.resize(image.size, Image.Resampling.BOX))


def disc(radius: int) -> Image.Image:
    large = Image.new("L", (128 * 4, 96 * 4))
    ImageDraw.Draw(large).ellipse([4 * (60 - radius), 4 * (48 - radius), 4 * (60 + radius), 4 * (48 + radius)], fill=255)
    return large.resize((128, 96), Image.Resampling.LANCZOS)


def palette(classes: np.ndarray, colours: list[tuple[int, int, int]]) -> Image.Image:
    image = Image.fromarray(classes)
    image.putpalette([value for colour in colours for value in colour] + [0] * (768 - 3 * len(colours)))
    return image


SIXTEEN = BOX.astype(np.uint16)
TWO_VALUED = {
    "0 and 1": (Image.fromarray(BOX), True),
    "grey 100": (Image.fromarray(BOX * 100), True),
    "200 and 255": (Image.fromarray(BOX * 55 + 200), True),
    "3 and 120": (Image.fromarray(BOX * 117 + 3), True),
    "0 and 255": (Image.fromarray(BOX * 255), False),
    "100 and 200": (Image.fromarray(BOX * 100 + 100), False),
    "16 bit 0 and 1": (Image.fromarray(SIXTEEN), True),
    "16 bit 0 and 255": (Image.fromarray(SIXTEEN * 255), True),
    "16 bit 0 and 1000": (Image.fromarray(SIXTEEN * 1000), True),
    "16 bit": (Image.fromarray(SIXTEEN * 65535), False),
    "32 bit 0 and 1": (Image.fromarray(BOX.astype(np.int32)), True),
    "32 bit 0 and 65535": (Image.fromarray(BOX.astype(np.int32) * 65535), False),
    "float 0 and 1": (Image.fromarray(BOX.astype(np.float32)), False),
    "float 0 and 255": (Image.fromarray(BOX.astype(np.float32) * 255), False),
    "float 0 and 0.3": (Image.fromarray(BOX.astype(np.float32) * np.float32(0.3)), True),
    "bool": (Image.fromarray(BOX.astype(bool)), False),
    "CMYK": (Image.fromarray(BOX * 255).convert("RGB").convert("CMYK"), False),
    "RGBA, all opaque": (Image.fromarray(np.dstack([BOX, BOX, BOX, np.full(SHAPE, 255, np.uint8)])), True),
    "LA, all opaque": (Image.fromarray(BOX * 90).convert("LA"), True),
    "palette of labels": (palette(BOX, [(0, 0, 0), (1, 1, 1)]), True),
}


@pytest.mark.parametrize("mode", ["auto", "grey"])
@pytest.mark.parametrize("name", TWO_VALUED)
def test_of_two_values_the_higher_is_edited_and_said_if_it_is_not_plain(name: str, mode: str) -> None:
    mask, told = TWO_VALUED[name]
    found = read_it(mask, mode=mode)
    np.testing.assert_array_equal(found.change, BOX)
    assert bool(found.notes) is told
    np.testing.assert_array_equal(read_it(mask, mode=mode, invert=True).change, 1 - BOX)


COLOURS = [
    (255, 0, 0),
    (0, 255, 0),
    (0, 0, 255),
    (128, 0, 0),
    (0, 0, 100),
    (64, 0, 0),
    (255, 255, 0),
    (0, 255, 255),
    (90, 0, 140),
]


@pytest.mark.parametrize("colour", COLOURS)
def test_any_colour_on_black_is_edited_with_a_note(colour: tuple[int, int, int]) -> None:
    for mask in (Image.fromarray(painted(colour)), palette(BOX, [(0, 0, 0), colour])):
        found = read_it(mask)
        np.testing.assert_array_equal(found.change, BOX)
        assert "#{:02x}{:02x}{:02x}".format(*colour) in found.notes[0]
    for quality in (75, 95):
        change = read_it(jpeg(Image.fromarray(painted(colour)), quality)).change
        assert (change != BOX).sum() <= 0.15 * BOX.sum()  # JPEG halves the resolution of colours
        assert change[BOX > 0].mean() > 0.95


@pytest.mark.parametrize(
    ("one", "two"), [((255, 0, 0), (0, 255, 0)), ((255, 255, 255), (255, 0, 0)), ((64, 0, 0), (255, 255, 255))]
)
def test_no_island_is_dropped_for_its_colour(one: tuple[int, ...], two: tuple[int, ...]) -> None:
    mask = painted(one) + painted(two, OTHER)
    np.testing.assert_array_equal(read_it(Image.fromarray(mask)).change, BOX | OTHER)
    bright = read_it(Image.fromarray(mask), mode="grey")
    assert "colours" in bright.notes[0]  # brightness was asked for; what that means is said


@pytest.mark.parametrize("ground", [(255, 255, 255), (255, 255, 0), (0, 160, 200)])
def test_colours_on_another_ground_are_refused_but_brightness_can_be_asked_for(ground: tuple[int, ...]) -> None:
    mask = Image.fromarray(painted((255, 0, 0), ground=ground))
    with pytest.raises(MaskError, match="#ff0000") as caught:
        read_it(mask)
    assert caught.value.code == "mask-ambiguous"
    read_it(mask, mode="grey", invert=ground == (0, 160, 200))


def test_a_photograph_is_read_by_its_brightness_and_that_is_said() -> None:
    found = read_it(Image.fromarray(PHOTO.rgb), PHOTO)
    np.testing.assert_array_equal(found.change, np.asarray(Image.fromarray(PHOTO.rgb).convert("L")) > 127)
    assert "colours of a picture" in found.notes[0]


def test_dark_masks_with_soft_edges_or_compression_are_cut_between_their_two_greys() -> None:
    for radius in (4, 20):
        shape = disc(radius)
        expected = np.asarray(shape) > 127
        dark = shape.point(lambda value: value * 100 // 255)
        for mask in (dark, jpeg(dark, 95)):
            found = read_it(mask)
            assert (found.change != expected).sum() <= 4 * radius
            assert "was read as white" in found.notes[0]
    found = read_it(jpeg(Image.fromarray(BOX * 60), 75))
    np.testing.assert_array_equal(found.change, BOX)


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("colour", [(100, 100, 100), (60, 60, 60), (255, 0, 0), (128, 0, 0), (0, 0, 255), (64, 0, 0)])
def test_thin_dark_strokes_are_found(colour: tuple[int, int, int], width: int) -> None:
    """They have no even area, only edges: where they are softened, half of their strongest value counts."""
    large = Image.new("L", (128 * 4, 96 * 4))
    ImageDraw.Draw(large).line([20, 30, 480, 350], fill=255, width=4 * width)
    stroke = np.asarray(large.resize((128, 96), Image.Resampling.BOX))
    mask = Image.fromarray((stroke[..., None].astype(int) * np.array(colour) // 255).astype(np.uint8))
    found = read_it(mask)
    assert (found.change > 0)[stroke > 150].all()
    assert not (found.change > 0)[stroke < 60].any()
    assert found.notes


def test_compression_that_lifts_a_few_pixels_above_half_decides_nothing() -> None:
    mask = np.asarray(disc(20)) // 255 * np.uint8(100)
    mask[40:44, 60:64] = 131
    found = read_it(Image.fromarray(mask))
    np.testing.assert_array_equal(found.change, mask > 0)


def test_maps_of_labels_edit_every_class() -> None:
    for one, two in ((1, 2), (50, 100), (7, 15)):
        found = read_it(Image.fromarray(BOX * one + OTHER * two))
        np.testing.assert_array_equal(found.change, BOX | OTHER)
        assert f"{one}, {two}" in found.notes[0]


def test_what_is_grey_and_kept_is_said() -> None:
    mask = BOX * 255 + OTHER * 100
    found = read_it(Image.fromarray(mask))
    np.testing.assert_array_equal(found.change, BOX)
    assert "up to 100 of 255" in found.notes[0]
    touching = BOX * 255
    touching[30:66, 80:100] = 100
    assert "up to 100 of 255" in read_it(Image.fromarray(touching)).notes[0]
    assert read_it(disc(20)).notes == ()  # its edges are only softened
    assert read_it(jpeg(Image.fromarray(BOX * 255), 20)).notes == ()


@pytest.mark.parametrize("top", [0, 5, 90])
def test_an_empty_mask_is_told_its_brightest_value(top: int) -> None:
    ramp = np.linspace(0, top, 128).astype(np.uint8)[None].repeat(96, 0)
    with pytest.raises(MaskError, match=f"brightest value is {top} of 255") as caught:
        read_it(Image.fromarray(ramp))
    assert caught.value.code == "mask-empty"


def test_one_grey_alone_is_no_mask() -> None:
    with pytest.raises(MaskError, match="brightest value is 100"):
        read_it(Image.new("L", (128, 96), 100))


def test_soft_masks_are_not_stretched_unless_they_hold_0_and_1() -> None:
    np.testing.assert_allclose(read_it(Image.fromarray(BOX * 100), soft=True).change, BOX * np.float32(100 / 255))
    np.testing.assert_array_equal(read_it(Image.fromarray(BOX), soft=True).change, BOX)
    np.testing.assert_array_equal(read_it(Image.fromarray(SIXTEEN), soft=True).change, BOX)
    eighth = read_it(Image.fromarray(SIXTEEN * 100), soft=True)
    np.testing.assert_allclose(eighth.change, BOX * np.float32(100 / 255))
    assert "16 bits" in eighth.notes[0]
    blue = read_it(Image.fromarray(painted((0, 0, 128))), soft=True)
    np.testing.assert_allclose(blue.change, BOX * np.float32(128 / 255))
    assert "strongest channel" in blue.notes[0]
    labels = BOX + OTHER * 2
    with pytest.raises(MaskError, match="brightest value is 2"):
        read_it(Image.fromarray(labels), soft=True)


def layer(colour: tuple[int, int, int], alpha: np.ndarray, hidden: tuple[int, int, int] = (0, 0, 0)) -> Image.Image:
    """Strokes of a colour, as opaque as (H, W) says, on a transparent layer."""
    return Image.fromarray(np.dstack([painted(colour, alpha, hidden), alpha]).astype(np.uint8))


STROKES = np.asarray(disc(18))
WIDE = np.zeros(SHAPE, np.uint8)
WIDE[4:-4, 4:-4] = 255


@pytest.mark.parametrize("hidden", [(0, 0, 0), (255, 255, 255), (9, 80, 200)])
@pytest.mark.parametrize("colour", [(255, 255, 255), (255, 0, 0), (0, 0, 255), (120, 120, 120)])
@pytest.mark.parametrize("strokes", [BOX * 255, STROKES, OTHER * 100, (BOX | OTHER) * 255])
def test_of_a_brush_layer_the_strokes_are_edited(
    strokes: np.ndarray, colour: tuple[int, int, int], hidden: tuple[int, int, int]
) -> None:
    for picture in (PLAIN, PHOTO, read(Image.new("RGB", (128, 96), "white"))):
        found = read_it(layer(colour, strokes, hidden), picture)
        np.testing.assert_array_equal(found.change, strokes > strokes.max() // 2)
        assert "brush strokes" in found.notes[0]


def test_strokes_of_several_colours_are_strokes() -> None:
    mask = np.dstack([painted((255, 0, 0)) + painted((0, 0, 255), OTHER), (BOX | OTHER) * 255]).astype(np.uint8)
    found = read_it(Image.fromarray(mask), PHOTO)
    np.testing.assert_array_equal(found.change, BOX | OTHER)


@pytest.mark.parametrize(
    ("picture", "hole"), [(PLAIN, BOX), (PLAIN, BOX | OTHER), (PHOTO, BOX), (PHOTO, (WIDE > 0).astype(np.uint8))]
)
def test_of_a_copy_with_a_hole_the_hole_is_edited(picture: Picture, hole: np.ndarray) -> None:
    """Whatever its size, and whether or not the colours are still there in the hole."""
    for emptied in (False, True):
        rgb = picture.rgb * (1 - hole[..., None]) if emptied else picture.rgb
        found = read_it(Image.fromarray(np.dstack([rgb, 255 * (1 - hole)]).astype(np.uint8)), picture)
        np.testing.assert_array_equal(found.change, hole)
        assert "by its transparency" in found.notes[0]


@pytest.mark.parametrize("colour", [(255, 255, 255), (0, 0, 0)])
def test_of_an_even_sheet_with_a_hole_the_hole_is_edited(colour: tuple[int, int, int]) -> None:
    found = read_it(layer(colour, 255 - BOX * 255, colour), PHOTO)
    np.testing.assert_array_equal(found.change, BOX)
    assert "by its transparency" in found.notes[0]


@pytest.mark.parametrize(
    "mask",
    [
        layer((0, 0, 0), BOX * 255),  # black strokes, or a thing to keep
        layer((255, 255, 255), WIDE),  # most of it opaque, but not along the border
        Image.fromarray(np.dstack([painted((255, 255, 255)), 255 - OTHER * 255]).astype(np.uint8)),  # white on black, and a hole
    ],
)
def test_what_could_be_either_is_refused_and_explicit_modes_decide(mask: Image.Image) -> None:
    with pytest.raises(MaskError, match="mask mode alpha") as caught:
        read_it(mask, PHOTO)
    assert caught.value.code == "mask-ambiguous"
    opaque = np.asarray(mask)[..., 3] > 127
    np.testing.assert_array_equal(read_it(mask, mode="alpha").change, ~opaque)
    np.testing.assert_array_equal(read_it(mask, mode="paint").change, opaque)


def test_explicit_modes_always_win_and_say_nothing() -> None:
    mask = layer((255, 255, 255), BOX * 255)
    for mode, expected in (("alpha", 1 - BOX), ("paint", BOX), ("grey", BOX)):
        found = read_it(mask, mode=mode)
        np.testing.assert_array_equal(found.change, expected)
        assert found.notes == ()
    with pytest.raises(MaskError) as caught:
        read_it(Image.fromarray(BOX * 255), mode="paint")
    assert caught.value.code == "mask-no-alpha"


def test_transparency_of_two_values_is_stretched_too() -> None:
    hole = layer((10, 90, 30), 255 - BOX * 60, (10, 90, 30))
    found = read_it(hole, mode="alpha")
    np.testing.assert_array_equal(found.change, BOX)
    assert "60 of 255" in found.notes[0]
