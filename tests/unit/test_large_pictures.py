"""Large pictures: what passes between Pillow and NumPy in strips, predictions that are made when asked for, and the limits."""

import hashlib
import pickle
import tracemalloc
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from sfumato.editing.finishing import Composed, put_back
from sfumato.editing.preparing import Inputs, prepare, sha256
from sfumato.errors import ImageError
from sfumato.masks.feather import soft_edge
from sfumato.pictures import strips
from sfumato.pictures.reading import MAX_PIXELS, read
from sfumato.request import EditRequest, one_by_one
from sfumato.server.settings import Limits

SENSORS = {"24 megapixels": (6000, 4000), "48": (8064, 6048), "61": (9504, 6336), "64": (9248, 6944), "102": (11648, 8736)}


def noise(*shape: int) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def small_strips(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(strips, "STRIP_PIXELS", 100)


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr"])
@pytest.mark.parametrize("size", [(30, 20), (7, 31), (250, 3)])
def test_strips_give_what_the_whole_picture_gives(mode: str, size: tuple[int, int]) -> None:
    image = Image.fromarray(noise(size[1], size[0], 4)).convert("RGB" if mode == "PA" else "RGBA").convert(mode)
    target = {"1": "L", "L": "LA", "P": "RGBA", "PA": "RGBA", "CMYK": "RGB", "YCbCr": "RGB"}.get(mode, mode)
    if mode in ("L", "P"):
        image.info["transparency"] = 3
    assert np.array_equal(strips.to_array(image, target), np.array(image.convert(target)))
    assert strips.sha256(image) == hashlib.sha256(f"{mode}{size}".encode() + image.tobytes()).hexdigest()


@pytest.mark.usefixtures("small_strips")
@pytest.mark.parametrize("shape", [(20, 30), (20, 30, 3), (3, 250, 4)])
def test_arrays_become_pictures_in_strips(shape: tuple[int, ...]) -> None:
    pixels = noise(*shape)
    image = strips.to_image(pixels)
    assert image.mode == Image.fromarray(pixels).mode
    assert np.array_equal(np.asarray(image), pixels)


def test_the_hash_of_a_file_is_that_of_its_bytes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(bytes(3_000_000) + b"end")
    assert sha256(tmp_path / "a") == hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest()


def made(folder: Path) -> tuple[list[Inputs], EditRequest, list[np.ndarray]]:
    """Inputs of an edit in a corner of a picture, and three predictions that a model could have made of its window."""
    Image.fromarray(noise(600, 900, 3)).save(folder / "a.png")
    request = EditRequest(image=folder / "a.png", prompt="a ball", box=(700, 400, 60, 50))
    parts = prepare(request, resolution=128, factor=8, context=1.6, max_pixels=10**6)
    return parts, request, [noise(3, 128, 128, 3) for _ in parts]


def test_predictions_are_a_list_made_late(tmp_path: Path) -> None:
    parts, request, windows = made(tmp_path)

    def composed() -> Composed:
        return Composed(partial(put_back, parts, request=request), windows, (900, 600))

    predictions = composed()
    wanted = [put_back(parts, [window[i] for window in windows], request) for i in range(3)]
    assert len(predictions) == 3
    assert [image.tobytes() for image in one_by_one(predictions)] == [image.tobytes() for image in wanted]
    assert predictions[0] is predictions[-3]  # so that what is drawn on it stays
    assert predictions[1:][1] is predictions[2]
    assert next(one_by_one(predictions)) is predictions[0]
    assert next(one_by_one(composed())) is not predictions[0]
    assert list(one_by_one(wanted)) == wanted
    with pytest.raises(IndexError):
        predictions[3]
    copy = pickle.loads(pickle.dumps(composed()))
    assert copy[2].tobytes() == wanted[2].tobytes()


@pytest.mark.parametrize(("given", "most"), [("box", 7), ("mask", 11)])
def test_what_is_kept_of_a_large_picture(given: str, most: int, tmp_path: Path) -> None:
    """Five bytes a pixel between reading and writing, the mask's soft edge in the window alone; NumPy's peak by what is given."""
    pixels = 12_000_000
    Image.new("RGB", (4000, 3000), (90, 120, 30)).save(tmp_path / "a.jpg")
    mask = Image.new("L", (4000, 3000))
    mask.paste(255, (700, 400, 1000, 700))
    mask.save(tmp_path / "mask.png")
    where = {"box": (700, 400, 300, 300)} if given == "box" else {"mask": tmp_path / "mask.png"}
    request = EditRequest(image=tmp_path / "a.jpg", prompt="a ball", **where)
    tracemalloc.start()
    try:
        (inputs,) = prepare(request, resolution=128, factor=8, context=1.6, max_pixels=pixels)
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < 6 * pixels
    assert peak < most * pixels
    assert inputs.alpha.shape == (inputs.window.height, inputs.window.width)
    whole = soft_edge(inputs.mask, 12.0)
    left, top, width, height = inputs.window.box
    assert np.array_equal(inputs.alpha, whole[top : top + height, left : left + width])


@pytest.mark.parametrize("size", SENSORS.values(), ids=SENSORS)
def test_the_defaults_admit_what_cameras_make(size: tuple[int, int]) -> None:
    assert size[0] * size[1] <= MAX_PIXELS
    assert size[0] * size[1] <= Limits().pixels or size == SENSORS["102"]


def test_a_refusal_names_the_option_to_raise() -> None:
    with pytest.raises(ImageError, match=r"--max-pixels .* sfumato serve, max_pixels in Python") as refusal:
        read(Image.new("L", (4, 3)), max_pixels=11)
    assert "4x3, 12 pixels, and at most 11" in refusal.value.message


def test_whole_requests_have_room_for_the_largest_picture() -> None:
    limits = Limits.of(picture_bytes=400 * 2**20)
    assert (limits.body_bytes, limits.bodies_bytes, limits.queue_bytes) == (800 * 2**20, 1600 * 2**20, 800 * 2**20)
    assert Limits.of() == Limits()
