from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image

from sfumato.errors import MaskError, OptionError
from sfumato.masks.feather import default_feather, soft_edge
from sfumato.masks.fill import fill
from sfumato.masks.latent import is_thin, to_latent
from sfumato.masks.reading import grow_mask, is_full, read_area
from sfumato.masks.schedules import shrink_schedule
from sfumato.masks.window import Window, choose_window, resize, resize_soft_mask, target_size
from sfumato.pictures.reading import Picture, read

PICTURE = read(Image.new("RGB", (6, 4)))


def rectangle(height: int, width: int, x: int, y: int, box_width: int, box_height: int) -> np.ndarray:
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[y : y + box_height, x : x + box_width] = 1
    return mask


def mask_of(mask: Image.Image | None = None, picture: Picture = PICTURE, **options: Any) -> list[list[int]]:
    area = read_area(picture.size, mask, options.pop("box", None), picture, **options)
    return (area.change > 0).astype(int).tolist()


def code_of(*arguments: Any, **options: Any) -> str:
    with pytest.raises(MaskError) as caught:
        mask_of(*arguments, **options)
    assert str(caught.value).endswith(".")
    return caught.value.code


def strip(values: list[int], mode: str = "L") -> tuple[Image.Image, Picture]:
    """A mask of one row, and a picture that it fits."""
    return Image.fromarray(np.array([values], dtype=np.uint8)), read(Image.new("RGB", (len(values), 1)))


def test_brightness_above_half_is_edited() -> None:
    mask, picture = strip([0, 100, 127, 128, 255])
    assert mask_of(mask, picture) == [[0, 0, 0, 1, 1]]
    assert mask_of(mask, picture, invert=True) == [[1, 1, 1, 0, 0]]


def test_sixteen_bit_masks_are_scaled() -> None:
    mask = Image.fromarray(np.array([[0, 300, 65535]], dtype=np.uint16))
    assert mask_of(mask, read(Image.new("L", (3, 1)))) == [[0, 0, 1]]


def test_varying_transparency_decides_as_in_openais_masks() -> None:
    black = np.zeros((1, 3, 4), dtype=np.uint8)
    black[0, :, 3] = (255, 0, 127)
    picture = read(Image.new("RGB", (3, 1)))
    assert mask_of(Image.fromarray(black), picture) == [[0, 1, 1]]
    assert code_of(Image.fromarray(black), picture, mode="grey") == "mask-empty"


def test_constant_transparency_leaves_brightness_to_decide() -> None:
    mask = np.full((1, 2, 4), 255, dtype=np.uint8)
    mask[0, 0, :3] = 0
    picture = read(Image.new("RGB", (2, 1)))
    assert mask_of(Image.fromarray(mask), picture) == [[0, 1]]
    assert code_of(Image.fromarray(mask), picture, mode="alpha") == "mask-empty"


def test_an_empty_mask_with_transparency_names_the_other_reading() -> None:
    with pytest.raises(MaskError, match="mask mode alpha"):
        mask_of(Image.new("RGBA", (6, 4), (0, 0, 0, 255)))


def test_without_mask_the_pictures_transparent_pixels_are_edited() -> None:
    source = Image.fromarray(np.array([[[9, 9, 9, 0], [9, 9, 9, 1], [9, 9, 9, 255]]], dtype=np.uint8))
    assert mask_of(None, read(source)) == [[1, 0, 0]]


def test_refusals_have_their_codes() -> None:
    white = Image.new("L", (6, 4), 255)
    assert code_of() == "mask-missing"
    assert code_of(white, box=(0, 0, 1, 1)) == "mask-ambiguous"
    assert code_of(Image.new("L", (6, 5), 255)) == "mask-size"
    assert code_of(Image.new("L", (6, 4))) == "mask-empty"
    assert code_of(white, invert=True) == "mask-empty"
    assert code_of(white, mode="alpha") == "mask-no-alpha"
    assert code_of(box=(2, 1, 2, 2), grow=-3) == "mask-empty"


def test_a_mask_of_another_size_is_told_both_sizes() -> None:
    with pytest.raises(MaskError, match="4x6 but the image is 6x4"):
        mask_of(Image.new("L", (4, 6), 255))


@pytest.mark.parametrize("box", [(-1, 0, 3, 3), (4, 0, 3, 3), (0, 2, 2, 3), (9, 9, 1, 1), (0, 0, 0, 2)])
def test_boxes_that_leave_the_picture_are_refused(box: tuple[int, int, int, int]) -> None:
    assert code_of(box=box) == "mask-box"


def test_a_box_covers_its_pixels() -> None:
    assert mask_of(box=(4, 1, 2, 3)) == rectangle(4, 6, 4, 1, 2, 3).tolist()


def test_orientation_turns_the_mask_too() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    mask = Image.fromarray(rectangle(6, 4, 0, 0, 2, 1) * 255)
    mask.info["exif"] = exif.tobytes()
    assert mask_of(mask) == rectangle(4, 6, 5, 0, 1, 2).tolist()


def test_growing_is_a_disc_and_inverting_comes_first() -> None:
    point = rectangle(9, 9, 4, 4, 1, 1)
    assert [row.sum() for row in grow_mask(point, 2)] == [0, 0, 1, 3, 5, 3, 1, 0, 0]
    np.testing.assert_array_equal(grow_mask(grow_mask(point, 3), -3), point)
    picture = read(Image.new("L", (9, 9)))
    grown = mask_of(Image.fromarray(rectangle(9, 9, 0, 0, 9, 4) * 255), picture, invert=True, grow=2)
    assert grown == rectangle(9, 9, 0, 2, 9, 7).tolist()


def test_full_masks_are_seen() -> None:
    assert is_full(np.ones((3, 3), dtype=np.uint8))
    assert not is_full(rectangle(3, 3, 0, 0, 3, 2))
    assert is_full(grow_mask(np.ones((3, 3), dtype=np.uint8), -2))


@pytest.mark.parametrize(
    ("mask", "expected"),
    [
        (rectangle(600, 800, 300, 200, 100, 60), (270, 150, 160, 160)),  # 1.6 times the longer side, centred, whole cells
        (rectangle(600, 800, 0, 0, 100, 60), (0, 0, 160, 160)),  # shifted inside
        (rectangle(600, 800, 790, 590, 1, 1), (672, 472, 128, 128)),  # never below a quarter of 512
        (rectangle(600, 800, 100, 100, 400, 100), (0, 0, 600, 600)),  # cut to the largest square
        (rectangle(600, 800, 50, 100, 700, 100), (0, 0, 800, 600)),  # no square holds it
        (rectangle(500, 4000, 1000, 0, 600, 100), (820, 0, 960, 500)),  # a strip keeps its context only
        (rectangle(40, 30, 3, 3, 2, 2), (0, 0, 30, 30)),  # small pictures
    ],
)
def test_automatic_windows(mask: np.ndarray, expected: tuple[int, int, int, int]) -> None:
    assert choose_window(mask, 512, 4, "auto").box == expected


def test_asked_for_windows() -> None:
    mask = rectangle(60, 80, 30, 20, 10, 10)
    assert choose_window(mask, 64, 8, "whole").box == (0, 0, 80, 60)
    assert choose_window(mask, 64, 8, (30, 10, 20, 20)).box == (30, 10, 20, 20)
    for box in ((31, 10, 20, 20), (30, 10, 20, 19), (30, 10, 60, 20), (-1, 0, 60, 60), (35, 25, 0, 0)):
        with pytest.raises(OptionError) as caught:
            choose_window(mask, 64, 8, box)
        assert caught.value.code == "window-box"
    with pytest.raises(MaskError):
        choose_window(np.zeros((4, 4), dtype=np.uint8), 64, 8, "auto")


@pytest.mark.parametrize(
    ("width", "height", "expected"),
    [(100, 100, (512, 512)), (800, 600, (576, 448)), (600, 800, (448, 576)), (9000, 10, (15360, 64))],
)
def test_target_sizes_keep_area_and_aspect(width: int, height: int, expected: tuple[int, int]) -> None:
    assert target_size(Window(left=0, top=0, width=width, height=height), 512, 8) == expected


def test_target_size_honours_factor_and_multiple() -> None:
    assert target_size(Window(left=0, top=0, width=1, height=1), 100, 8, multiple=12) == (96, 96)


def test_resizing_a_flat_picture_keeps_its_colour() -> None:
    flat = np.full((10, 12, 3), (10, 20, 30), dtype=np.uint8)
    for size in ((5, 4), (25, 30), (24, 5)):
        resized = resize(flat, size)
        assert resized.shape == (size[1], size[0], 3)
        assert (resized == (10, 20, 30)).all()


def test_a_one_pixel_stroke_survives_shrinking() -> None:
    mask = rectangle(1000, 1000, 500, 0, 1, 1000)
    small = resize_soft_mask(mask.astype(np.float32), (64, 64))
    assert small.any(axis=1).all()
    assert small.sum(axis=1).max() <= 2
    assert to_latent(small, 8)[0, 0].amax(dim=1).min() == 1


def test_to_latent_takes_the_maximum_and_whole_cells() -> None:
    latent = to_latent(rectangle(16, 24, 9, 3, 1, 1), 8)
    assert latent.dtype == torch.float32
    assert latent.tolist() == [[[[0, 1, 0], [0, 0, 0]]]]
    with pytest.raises(ValueError, match="divisible"):
        to_latent(np.ones((15, 16), dtype=np.uint8), 8)


@pytest.mark.parametrize(
    ("box_width", "box_height", "thin"),
    [(1, 12, True), (2, 12, True), (3, 12, False), (12, 2, True), (12, 3, False), (5, 5, False), (2, 2, True)],
)
@pytest.mark.parametrize("corner", [0, 3])
def test_thinness(box_width: int, box_height: int, thin: bool, corner: int) -> None:
    mask = torch.from_numpy(rectangle(16, 16, corner, corner, box_width, box_height)).float()[None, None]
    assert is_thin(mask) is thin
    assert is_thin(mask, 5) is (min(box_width, box_height) < 5)


def areas(mask: torch.Tensor, steps: int, kernels: tuple[int, ...] = (7, 5, 3)) -> list[int]:
    return [int(step.sum()) for step in shrink_schedule(mask, steps, kernels)]


def test_shrinking_follows_the_published_table() -> None:
    point = torch.from_numpy(rectangle(16, 16, 8, 8, 1, 1)).float()[None, None]
    assert areas(point, 50) == [49] * 13 + [25] * 13 + [9] * 13 + [1] * 11
    assert areas(point, 50, (3,)) == [9] * 26 + [1] * 24
    assert areas(point, 50, (5, 3)) == [25] * 17 + [9] * 17 + [1] * 16
    assert areas(point, 38) == [49] * 10 + [25] * 10 + [9] * 10 + [1] * 8


def test_the_mask_itself_is_never_starved() -> None:
    point = torch.from_numpy(rectangle(16, 16, 8, 8, 1, 1)).float()[None, None]
    assert areas(point, 25, (11, 9, 7, 5, 3))[-4:] == [1, 1, 1, 1]
    for kernels in ((3,), (5, 3), (7, 5, 3), (11, 9, 7, 5, 3)):
        for steps in range(1, 80):
            schedule = areas(point, steps, kernels)
            assert len(schedule) == steps
            assert schedule[-1] == 1
            assert schedule == sorted(schedule, reverse=True)
            if steps > len(kernels):
                assert len(set(schedule)) == len(kernels) + 1


def test_soft_edge_ramps_inwards() -> None:
    mask = rectangle(5, 30, 5, 0, 25, 5)
    edge = soft_edge(mask, 8)[2]
    assert (edge[:5] == 0).all()
    assert (np.diff(edge[4:13]) > 0).all()
    assert edge[5] < 0.02
    assert edge[8] == pytest.approx(0.4067, abs=1e-4)  # 3.5 of 8 pixels in
    assert (edge[14:] == 1).all()  # no ramp at the picture's border
    np.testing.assert_array_equal(soft_edge(mask, 0), mask)
    np.testing.assert_array_equal(soft_edge(np.ones((4, 4), dtype=np.uint8), 3), 1)


def test_default_feather_scales_with_the_mask() -> None:
    assert default_feather(rectangle(400, 400, 100, 100, 100, 100)) == pytest.approx(4.0)
    assert default_feather(rectangle(900, 900, 50, 50, 800, 800)) == 12
    assert default_feather(rectangle(400, 400, 10, 200, 380, 3)) == pytest.approx(1.5 / 4)
    assert 0 < default_feather(rectangle(9, 9, 4, 4, 1, 1)) < 0.2
    assert soft_edge(rectangle(9, 9, 4, 4, 1, 1), default_feather(rectangle(9, 9, 4, 4, 1, 1)))[4, 4] == 1


@pytest.mark.parametrize("kind", ["original", "blur", "neutral", "noise"])
def test_fill_stays_under_the_mask(kind: Any) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (33, 40, 3), dtype=np.uint8)
    mask = rectangle(33, 40, 10, 8, 20, 15)
    filled = fill(rgb, mask, kind, np.random.default_rng(2))
    assert filled.dtype == np.uint8
    np.testing.assert_array_equal(filled[mask == 0], rgb[mask == 0])
    assert (filled[mask == 1] != rgb[mask == 1]).any() == (kind != "original")
    np.testing.assert_array_equal(filled, fill(rgb, mask, kind, np.random.default_rng(2)))


def test_blur_continues_a_gradient_without_a_seam() -> None:
    ramp = np.linspace(20, 230, 96)[None, :, None].repeat(96, 0).repeat(3, 2).astype(np.uint8)
    mask = rectangle(96, 96, 24, 24, 48, 48)
    painted = np.where(mask[..., None] > 0, np.uint8(255), ramp)
    filled = fill(painted, mask, "blur", np.random.default_rng(0)).astype(int)
    assert np.abs(filled - ramp).max() < 25
    assert np.abs(np.diff(filled[48, :, 0])).max() <= 12


def test_neutral_takes_the_colour_around_the_mask_only() -> None:
    rgb = np.full((60, 60, 3), (255, 0, 0), dtype=np.uint8)
    rgb[10:50, 10:50] = (10, 20, 30)
    mask = rectangle(60, 60, 25, 25, 10, 10)
    assert (fill(rgb, mask, "neutral", np.random.default_rng(0))[25:35, 25:35] == (10, 20, 30)).all()


@pytest.mark.parametrize("kind", ["blur", "neutral"])
@pytest.mark.parametrize("shape", [(12, 12), (1, 9), (2, 2)])
def test_fill_without_surroundings_is_grey(kind: Any, shape: tuple[int, int]) -> None:
    filled = fill(np.zeros((*shape, 3), dtype=np.uint8), np.ones(shape, dtype=np.uint8), kind, np.random.default_rng(0))
    assert np.unique(filled).tolist() == [128]
