"""Page and server see every picture the same way up, whether EXIF, misplaced EXIF or XMP alone names an orientation."""

import base64
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngInfo

from sfumato.pictures.reading import read
from tests.server.page import download, make_edit, open_picture, paint

FORMATS = {"JPEG": "image/jpeg", "PNG": "image/png", "WEBP": "image/webp"}
SIZE = (40, 24)
SHOWN = """async ([encoded, type]) => {
  const {upright} = await import("/ui/js/orientation.js");
  const bytes = Uint8Array.from(atob(encoded), (letter) => letter.charCodeAt(0));
  const {bitmap} = await upright(new Blob([bytes], {type}));
  const canvas = Object.assign(document.createElement("canvas"), {width: bitmap.width, height: bitmap.height});
  const pen = canvas.getContext("2d");
  pen.drawImage(bitmap, 0, 0);
  return [bitmap.width, bitmap.height, [...pen.getImageData(0, 0, bitmap.width, bitmap.height).data]];
}"""


def picture() -> Image.Image:
    """Four quarters of different colours, so that every turn is seen."""
    pixels = np.zeros((SIZE[1], SIZE[0], 3), np.uint8)
    pixels[:12, :20], pixels[:12, 20:], pixels[12:, :20] = (250, 0, 0), (0, 250, 0), (0, 0, 250)
    return Image.fromarray(pixels)


def encoded(format: str, **options: Any) -> bytes:
    buffer = BytesIO()
    exact: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95, "subsampling": 0}, "WEBP": {"lossless": True}}
    picture().save(buffer, format, **exact.get(format, {}), **options)
    return buffer.getvalue()


def exif(orientation: int) -> bytes:
    block = Image.Exif()
    block[ExifTags.Base.Orientation] = orientation
    return block.tobytes()


def xmp_alone(format: str) -> bytes:
    """A picture whose XMP alone says orientation 6."""
    packet = (
        '<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">'
        '<rdf:Description rdf:about="" xmlns:tiff="http://ns.adobe.com/tiff/1.0/" tiff:Orientation="6"/></rdf:RDF></x:xmpmeta>'
    )
    if format != "PNG":
        return encoded(format, xmp=packet.encode())
    chunks = PngInfo()
    chunks.add_itxt("XML:com.adobe.xmp", packet)
    return encoded(format, pnginfo=chunks)


def misplaced() -> bytes:
    """A PNG whose EXIF follows its pixels."""
    block = exif(6).removeprefix(b"Exif\0\0")
    chunk = struct.pack(">I", len(block)) + b"eXIf" + block + struct.pack(">I", zlib.crc32(b"eXIf" + block))
    plain = encoded("PNG")
    end = plain.index(b"IEND") - 4
    return plain[:end] + chunk + plain[end:]


def shown(page: Any, data: bytes, format: str) -> np.ndarray:
    width, height, values = page.evaluate(SHOWN, [base64.b64encode(data).decode(), FORMATS[format]])
    return np.array(values, np.uint8).reshape(height, width, 4)[..., :3]


def test_page_and_server_agree(server: str, open_page: Any, tmp_path: Path) -> None:
    page = open_page(server)
    cases = {(format, f"exif {i}"): encoded(format, exif=exif(i)) for format in FORMATS for i in range(1, 9)}
    cases |= {(format, "xmp"): xmp_alone(format) for format in FORMATS} | {("PNG", "misplaced"): misplaced()}
    for (format, name), data in cases.items():
        path = tmp_path / "picture"
        path.write_bytes(data)
        seen = read(path)
        on_page = shown(page, data, format)
        assert on_page.shape == seen.rgb.shape, (format, name)
        assert np.abs(on_page.astype(int) - seen.rgb).max() <= (8 if format == "JPEG" else 0), (format, name)
        turned = name.startswith("exif") and int(name[-1]) >= 5
        assert seen.size == (SIZE[::-1] if turned else SIZE), (format, name)
        assert bool(seen.notes) == (not name.startswith("exif")), (format, name)


@pytest.mark.parametrize("kind", ["webp", "xmp"])
def test_an_edit_lies_where_it_was_painted(server: str, open_page: Any, tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("turned.webp" if kind == "webp" else "named.jpg")
    path.write_bytes(encoded("WEBP", exif=exif(6)) if kind == "webp" else xmp_alone("JPEG"))
    page = open_page(server)
    open_picture(page, path)
    paint(page)
    page.fill("#prompt", "a red ball")
    make_edit(page)
    result = np.asarray(download(page, "#download").convert("RGB"))
    page.click("#close-results")
    mask = np.asarray(download(page, "#save-mask").convert("L")) > 127
    source = read(path).rgb
    assert result.shape == source.shape == (*mask.shape, 3)
    assert np.array_equal(result[~mask], source[~mask])
    assert (result[mask] == (200, 20, 30)).all()


def test_a_mask_of_the_stored_pixels_is_turned_on_the_page(server: str, open_page: Any, tmp_path: Path) -> None:
    path, mask = tmp_path / "turned.jpg", tmp_path / "mask.png"
    path.write_bytes(encoded("JPEG", exif=exif(6)))
    layer = Image.new("L", SIZE)
    layer.paste(255, (0, 0, 10, 6))
    layer.save(mask)
    page = open_page(server)
    open_picture(page, path)
    with page.expect_file_chooser() as chooser:
        page.click("#load-mask")
    chooser.value.set_files(mask)
    page.wait_for_selector("text=the mask must be turned too, and was")
    seen = np.asarray(download(page, "#save-mask").convert("L"))
    assert np.array_equal(seen, np.asarray(layer.transpose(Image.Transpose.ROTATE_270)))
