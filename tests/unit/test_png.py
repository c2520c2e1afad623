"""Own PNG files: every depth and kind reads back as it was, and what an edit left is packed once."""

from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from sfumato.pictures import encoding, png
from sfumato.pictures.encoding import encode
from sfumato.pictures.picture import Part, put_back
from sfumato.pictures.png import SOURCE, Bands, encode_png
from sfumato.pictures.reading import read
from sfumato.pictures.samples import ROWS

RNG = np.random.default_rng(0)


def noise(channels: int, height: int = 600, width: int = 40) -> np.ndarray:
    return RNG.integers(0, 256, (height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("params", [{}, {"compress_level": 9}])
@pytest.mark.parametrize("height", [1, 256, 600])
def test_pixels_come_back(channels: int, params: dict[str, int], height: int) -> None:
    samples = noise(channels, height)
    image = Image.open(BytesIO(encode_png(samples, {}, params)))
    image.verify()  # every checksum of a chunk
    image = Image.open(BytesIO(encode_png(samples, {}, params)))
    assert np.array_equal(np.asarray(image).reshape(samples.shape), samples)


def packs(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    counted: list[int] = []
    pack = png._pack

    def counting(band: np.ndarray, level: int | None) -> png._Packed:
        counted.append(len(band))
        return pack(band, level)

    monkeypatch.setattr(png, "_pack", counting)
    return counted


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA"])
def test_what_an_edit_left_is_packed_once_for_all_predictions(mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A picture of five bands; two predictions change one of them each, three times."""
    monkeypatch.setattr(encoding, "FAST_FROM", 0)
    channels = len(mode)
    samples = noise(channels, 5 * ROWS)
    source = read(Image.fromarray(samples[..., 0] if channels == 1 else samples))
    colours, opacity = noise(3, 8, 8), np.ones((8, 8), np.float32)
    counted, written = packs(monkeypatch), []
    for _ in range(3):
        part = Part(colours=colours, left=3, top=700, opacity=opacity, cover=None)
        image = put_back(source, [part])
        written.append(encode(image, "PNG"))
        assert np.array_equal(np.asarray(Image.open(BytesIO(written[-1]))), np.asarray(image))
    assert len(counted) == 5 + 2  # the source's other four, and the changed one three times
    assert written[0] == written[1] == written[2]


def test_what_is_drawn_on_a_result_is_written(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoding, "FAST_FROM", 0)
    image = put_back(read(Image.fromarray(noise(3))), [])
    encode(image, "PNG")
    image.paste((1, 2, 3), (0, 0, 20, 590))
    assert np.array_equal(np.asarray(Image.open(BytesIO(encode(image, "PNG")))), np.asarray(image))


def test_a_picture_that_travels_leaves_the_source_behind() -> None:
    import pickle

    image = put_back(read(Image.fromarray(noise(3))), [])
    assert isinstance(image.info[SOURCE], Bands)
    copy = pickle.loads(pickle.dumps(image))
    assert copy.info[SOURCE] is None
    assert encode_png(np.asarray(copy), copy.info, {}) == encode_png(np.asarray(image), {}, {})


def test_large_and_small_pictures_have_the_same_pixels_and_metadata(monkeypatch: pytest.MonkeyPatch) -> None:
    image = Image.fromarray(noise(3))
    slow = encode(image, "PNG", stored={"sfumato": "{}"})
    monkeypatch.setattr(encoding, "FAST_FROM", 0)
    fast = encode(image, "PNG", stored={"sfumato": "{}"})
    ours, theirs = Image.open(BytesIO(fast)), Image.open(BytesIO(slow))
    assert ours.tobytes() == theirs.tobytes()
    assert ours.info == theirs.info
    assert ours.info == {"sfumato": "{}"}
