"""A corpus of hostile uploads: each is answered 4xx, and the server still edits afterwards."""

import base64
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO

import httpx
import numpy as np
import pytest
from PIL import Image

from sfumato.pictures.formats import open_header
from sfumato.pictures.reading import upright_size
from tests.server import pictures
from tests.server.stub import finished, serving, settings_for

LIMITS = {"body_bytes": 3_000_000, "picture_bytes": 1_000_000, "pixels": 1_000_000}


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def _png(width: int, height: int, body: bytes = b"", extra: bytes = b"", depth: int = 8, colour: int = 2) -> bytes:
    header = _chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + extra + _chunk(b"IDAT", zlib.compress(body)) + _chunk(b"IEND", b"")


def _saved(format: str, **options: object) -> bytes:
    buffer = BytesIO()
    pictures.photograph().save(buffer, format, **options)
    return buffer.getvalue()


def _animated(format: str) -> bytes:
    buffer = BytesIO()
    frames = [pictures.photograph().rotate(angle) for angle in (0, 90)]
    frames[0].save(buffer, format, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


JPEG, WEBP = _saved("JPEG"), _saved("WEBP")
SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>'
POLYGLOT = b"<html><script>alert(1)</script></html>" + pictures.PICTURE
TEXT_BOMB = _chunk(b"zTXt", b"a\0\0" + zlib.compress(b"a" * 64_000_000))
WRONG_SUM = pictures.PICTURE[:29] + b"\0\0\0\0" + pictures.PICTURE[33:]

IMAGES: dict[str, bytes] = {
    "empty": b"",
    "one byte": b"\x89",
    "text": b"hello",
    "zeros": bytes(5000),
    "svg": SVG,
    "html before a png": POLYGLOT,
    "bmp": _saved("BMP"),
    "tiff": _saved("TIFF"),
    "ico": _saved("ICO"),
    "ppm": _saved("PPM"),
    "pdf": b"%PDF-1.7\n%...",
    "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
    "fits": b"SIMPLE  =                    T" + b" " * 2850,
    "psd": b"8BPS\0\x01" + bytes(40),
    "zip": b"PK\3\4" + bytes(60),
    "elf": b"\x7fELF" + bytes(60),
    "pickle": b"\x80\x04cos\nsystem\n(S'true'\ntR.",
    "png signature alone": b"\x89PNG\r\n\x1a\n",
    "png cut in its header": pictures.PICTURE[:20],
    "png cut in its pixels": pictures.PICTURE[: len(pictures.PICTURE) // 2],
    "png of a wrong checksum": WRONG_SUM,
    "png without pixels": _png(10, 10),
    "png of no size": _png(0, 10, b"\0"),
    "png of 100000 x 100000": _png(100_000, 100_000, b"\0"),
    "png of 2^31 - 1 a side": _png(2**31 - 1, 2**31 - 1, b"\0"),
    "bomb that its header tells": _png(9460, 9460, bytes(9460 * 3 + 1) * 200),
    "bomb just above the limit": _png(1001, 1000, bytes(1001 * 3 + 1) * 1000),
    "png of a wrong colour type": _png(10, 10, bytes(400), colour=7),
    "png of a wrong depth": _png(10, 10, bytes(400), depth=3),
    "png with a text bomb": _png(10, 10, bytes(310), TEXT_BOMB),
    "png with a broken profile": _png(10, 10, b"\xff" * 310, _chunk(b"iCCP", b"x\0\0" + b"\xff" * 50)),
    "animated png": _animated("PNG"),
    "animated webp": _animated("WEBP"),
    "jpeg signature alone": b"\xff\xd8\xff",
    "jpeg cut in its header": JPEG[:60],
    "jpeg cut in its pixels": JPEG[: len(JPEG) - 200],
    "jpeg of 65535 x 65535": JPEG.replace(struct.pack(">HH", 32, 48), b"\xff\xff\xff\xff", 1),
    "webp signature alone": b"RIFF\0\0\0\0WEBP",
    "webp cut": WEBP[: len(WEBP) // 2],
    "webp that lies about its size": WEBP[:4] + b"\xff\xff\xff\x7f" + WEBP[8:20],
    "too many bytes": pictures.PICTURE + bytes(1_000_001),
}
MASKS: dict[str, bytes] = {
    "another size": pictures.encoded(pictures.grey_mask().resize((10, 10))),
    "empty": pictures.encoded(Image.new("L", (48, 32))),
    "full": pictures.encoded(Image.new("L", (48, 32), 255)),
    "sixteen bits of almost nothing": pictures.encoded(Image.fromarray(np.full((32, 48), 3, np.uint16))),
    "svg": SVG,
    "damaged": pictures.MASK[: len(pictures.MASK) // 2],
    "bomb": IMAGES["bomb that its header tells"],
}
JSON_BODIES: dict[str, bytes] = {
    "nothing": b"",
    "not json": b"{",
    "an array": b"[]",
    "a number": b"1",
    "deep": b"[" * 200_000,
    "not utf-8": b'{"prompt": "\xff"}',
    "utf-16": '{"prompt": "a"}'.encode("utf-16"),
    "infinite number": b'{"prompt": "a", "start_sigma": Infinity}',
    "lone surrogate": b'{"prompt": "\\ud800", "image": ""}',
    "huge number": b'{"prompt": "a", "seed": 1' + b"0" * 4000 + b"}",
    "number of 5000 digits": b'{"prompt": "a", "seed": ' + b"9" * 5000 + b"}",
}
JOBS: dict[str, dict[str, object]] = {
    "path as image": {"image": "/etc/passwd"},
    "address as image": {"image": "http://169.254.169.254/latest/meta-data"},
    "file address as image": {"image": "file:///etc/passwd"},
    "data address of svg": {"image": "data:image/svg+xml;base64," + base64.b64encode(SVG).decode()},
    "huge base64": {"image": "A" * 2_000_000},
    "base64 with rubbish": {"image": "$$$$"},
    "image as a number": {"image": 5},
    "image as an object": {"image": {"path": "/etc/passwd"}},
    "model as a path": {"model": "../../etc/passwd"},
    "model as an address": {"model": "https://evil.example/model"},
    "adapter of this machine": {"lora": ["/etc/passwd"]},
    "branch of this machine": {"branch": "/etc/passwd"},
    "control model of this machine": {"control_model": ["/etc/passwd"]},
    "control picture as a path": {"control": ["/etc/passwd"]},
    "control pictures without models": {"control": ["A" * 400] * 40},
    "autoencoder of this machine": {"vae": "/etc/passwd"},
    "unknown prediction type": {"prediction_type": "velocity"},
    "embedding of this machine": {"embedding": ["/etc/passwd"]},
    "unknown field": {"__proto__": {}},
    "box outside": {"box": [0, 0, 10**9, 10**9], "mask": None},
    "box as text": {"box": "1,2,3", "mask": None},
    "window outside": {"window": [-5, -5, 10**12, 3]},
    "size of nothing": {"size": [0, 0]},
    "negative size": {"size": [-5, 5]},
    "too large": {"size": [10**9, 10**9]},
    "too many": {"n": 1025},
    "more than allowed here": {"n": 17},
    "too many steps": {"steps": 999},
    "negative seed": {"seed": -2},
    "nul bytes for an id": {"id": "\0"},
    "no prompt": {"prompt": "\n"},
    "prompt of a megabyte": {"prompt": "a" * 1_000_000},
    "number as prompt": {"prompt": 1},
    "mask and box": {"box": [1, 1, 2, 2]},
}
FORM = {"Content-Type": "multipart/form-data; boundary=x"}
PART = b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n'
END = b"--x--\r\n"
FORMS: dict[str, tuple[dict[str, str], bytes]] = {
    "no boundary": ({"Content-Type": "multipart/form-data"}, b"--x--"),
    "no parts": (FORM, END),
    "cut": (FORM, b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\nabc'),
    "part without a name": (FORM, b"--x\r\nContent-Disposition: form-data\r\n\r\na\r\n" + END),
    "another boundary": (FORM, b"--y\r\n\r\n--y--\r\n"),
    "thousand fields": (FORM, b"".join(PART % (b"%d" % i, b"a") for i in range(999)) + END),
    "huge field": (FORM, PART % (b"prompt", b"a" * 200_000) + END),
    "odd charset": ({"Content-Type": "multipart/form-data; boundary=x; charset=rot13"}, PART % (b"a", b"b") + END),
    "escapes as charset": (
        {"Content-Type": "multipart/form-data; boundary=x; charset=unicode_escape"},
        PART % (b"prompt", b"\\ud800") + END,
    ),
    "headers without end": (FORM, b"--x\r\n" + b"A: b\r\n" * 50_000),
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(settings_for(tmp_path_factory.mktemp("data"), limits=LIMITS)) as address:
        yield address


@pytest.fixture(scope="module", autouse=True)
def still_edits(server: str) -> Iterator[None]:
    """After all of it, the server does what it did before."""
    yield
    with httpx.Client(base_url=server, timeout=30, verify=False) as client:
        assert finished(client, client.post("/v1/jobs", json=pictures.job()).json()["id"])["state"] == "succeeded"


def assert_refused(answer: httpx.Response) -> None:
    assert 400 <= answer.status_code < 500, answer.text[:300]
    error = answer.json()["error"]
    assert error["code"] != "internal"
    assert error["message"].endswith(".")
    assert len(error["message"]) < 1500


def test_there_are_enough() -> None:
    assert len(IMAGES) + len(MASKS) + len(JSON_BODIES) + len(JOBS) + len(FORMS) >= 40


@pytest.mark.parametrize("name", IMAGES)
@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/jobs"])
def test_images(client: httpx.Client, path: str, name: str) -> None:
    files = {"image": ("../../../etc/cron.d/x.png", IMAGES[name]), "mask": ("m", pictures.MASK)}
    assert_refused(client.post(path, files=files, data={"prompt": "red"}))


@pytest.mark.parametrize("name", MASKS)
def test_masks(client: httpx.Client, name: str) -> None:
    files = {"image": ("a\0b.svg", pictures.PICTURE), "mask": ("m", MASKS[name])}
    assert_refused(client.post("/v1/images/edits", files=files, data={"prompt": "red"}))


@pytest.mark.parametrize("name", JSON_BODIES)
def test_json(client: httpx.Client, name: str) -> None:
    assert_refused(client.post("/v1/jobs", content=JSON_BODIES[name], headers={"Content-Type": "application/json"}))


@pytest.mark.parametrize("name", JOBS)
def test_jobs(client: httpx.Client, name: str) -> None:
    assert_refused(client.post("/v1/jobs", json=pictures.job() | JOBS[name]))


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("path", ["/v1/images/edits", "/v1/jobs"])
def test_forms(client: httpx.Client, path: str, name: str) -> None:
    headers, body = FORMS[name]
    assert_refused(client.post(path, content=body, headers=headers))


def test_bodies_that_do_not_tell_their_size(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(100):
            yield b"a" * 100_000

    assert_refused(client.post("/v1/jobs", content=endless(), headers={"Content-Type": "application/json"}))
    assert_refused(client.post("/v1/images/edits", content=endless(), headers=FORM))


def test_bodies_that_tell_too_much(client: httpx.Client) -> None:
    assert client.post("/v1/jobs", content=bytes(3_000_001)).status_code == 413


def test_trailing_markup_is_not_kept(client: httpx.Client) -> None:
    """A sound PNG followed by markup is a picture; what is served is encoded anew."""
    files = {"image": pictures.PICTURE + POLYGLOT, "mask": pictures.MASK}
    answer = client.post("/v1/images/edits", files=files, data={"prompt": "red"})
    assert b"script" not in base64.b64decode(answer.json()["data"][0]["b64_json"])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGBA", "I;16"])
def test_every_mode_of_a_sound_picture_is_edited(client: httpx.Client, mode: str) -> None:
    grey = pictures.photograph().convert("L")
    image = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257) if mode == "I;16" else pictures.photograph().convert(mode)
    files = {"image": pictures.encoded(image), "mask": pictures.MASK}
    assert client.post("/v1/images/edits", files=files, data={"prompt": "red"}).status_code == 200


def test_cmyk_jpeg(client: httpx.Client) -> None:
    files = {"image": pictures.encoded(pictures.photograph().convert("CMYK"), "JPEG"), "mask": pictures.MASK}
    assert client.post("/v1/images/edits", files=files, data={"prompt": "red"}).status_code == 200


@pytest.mark.parametrize("name", ["png of 100000 x 100000", "bomb that its header tells", "jpeg of 65535 x 65535"])
def test_the_size_of_a_bomb_is_told_without_decoding_it(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    decoded: list[Image.Image] = []  # not an error: what reads orientation goes on after any
    image = open_header(BytesIO(IMAGES[name]), "The image", 10**12)
    monkeypatch.setattr(type(image), "load", lambda image: decoded.append(image))  # noqa: PLW0108, a method  # noqa: PLW0108, a method  # noqa: PLW0108, a method  # noqa: PLW0108, a method

    assert upright_size(image) == image.size
    assert not decoded
