"""Metadata: what goes from the source into results, in every format, and what `strip` leaves out."""

import struct
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

import sfumato
from sfumato.pictures.deep import DeepImage
from sfumato.pictures.encoding import Format, encode, losses
from sfumato.pictures.metadata import Metadata
from sfumato.pictures.picture import put_back
from sfumato.pictures.reading import read, read_metadata, write
from sfumato.pictures.strips import FILE_SHA256, sha256

RGB = np.random.default_rng(0).integers(0, 256, (30, 20, 3), dtype=np.uint8)
XMP = b'<x:xmpmeta xmlns:x="adobe:ns:meta/"><a tiff:Orientation="6" dc:title="T"/></x:xmpmeta>'
GPS = {1: "N", 2: (52.0, 30.0, 0.0)}


def exif(orientation: int | None = None, comment: bytes | None = None) -> Image.Exif:
    found = Image.Exif()
    found[ExifTags.Base.Make], found[ExifTags.Base.Artist] = "Camera", "Someone"
    if orientation:
        found[ExifTags.Base.Orientation] = orientation
    details = found.get_ifd(ExifTags.IFD.Exif)
    details[ExifTags.Base.ExposureTime] = 0.01
    details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight] = 20, 30
    if comment:
        details[ExifTags.Base.UserComment] = comment
    found.get_ifd(ExifTags.IFD.GPSInfo).update(GPS)
    return found


def source(path: Path, orientation: int | None = 6) -> Path:
    """A picture with everything that its format can carry."""
    image = Image.fromarray(RGB)
    given: dict[str, Any] = {"exif": exif(orientation), "dpi": (300, 300)}
    if path.suffix == ".png":
        info = PngImagePlugin.PngInfo()
        info.add_text("Author", "Someone")
        info.add_text("sfumato", "an earlier request")
        info.add_itxt("XML:com.adobe.xmp", XMP.decode())
        image.save(path, pnginfo=info, **given)
    elif path.suffix == ".tif":
        nested = {tag: dict(given["exif"].get_ifd(tag)) for tag in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)}
        image.save(path, tiffinfo=dict(given["exif"]) | nested | {700: XMP}, dpi=given["dpi"])
    elif path.suffix == ".webp":
        image.save(path, exif=given["exif"], xmp=XMP, lossless=True)
    else:
        image.save(path, comment=b"a comment", xmp=XMP, **given)
    return path


def result_of(path: Path, strip: bool = False) -> Image.Image:
    return put_back(read(path), [], strip=strip)


@pytest.mark.parametrize("target", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("origin", [".png", ".jpg", ".webp", ".tif"])
def test_exif_xmp_and_resolution_are_kept(tmp_path: Path, origin: str, target: str) -> None:
    result = result_of(source(tmp_path / f"a{origin}"))
    write(result, tmp_path / f"b{target}", keep=Metadata.of(result), metadata={"sfumato": "ours"})
    with Image.open(tmp_path / f"b{target}") as image:
        image.load()
        found = image.getexif()
        assert (found[ExifTags.Base.Make], found.get(ExifTags.Base.Orientation, 1)) == ("Camera", 1)
        details = found.get_ifd(ExifTags.IFD.Exif)
        assert details[ExifTags.Base.ExposureTime] == pytest.approx(0.01)
        assert (details[ExifTags.Base.ExifImageWidth], details[ExifTags.Base.ExifImageHeight]) == image.size == (30, 20)
        assert tuple(map(float, found.get_ifd(ExifTags.IFD.GPSInfo)[2])) == GPS[2]
        xmp = image.info["xmp"]
        assert b'dc:title="T"' in xmp
        assert b'Orientation="6"' not in xmp
        if target != ".webp" and origin != ".webp":
            assert image.info["dpi"][0] == pytest.approx(300, abs=0.1)
    assert read_metadata(tmp_path / f"b{target}")["sfumato"] == "ours"
    assert read(tmp_path / f"b{target}").size == (30, 20)


@pytest.mark.parametrize("target", [".png", ".jpg", ".webp", ".tif"])
@pytest.mark.parametrize("origin", [".png", ".jpg", ".webp", ".tif"])
def test_strip_leaves_nothing_of_it(tmp_path: Path, origin: str, target: str) -> None:
    result = result_of(source(tmp_path / f"a{origin}"), strip=True)
    write(result, tmp_path / f"b{target}", keep=Metadata.of(result))
    data = (tmp_path / f"b{target}").read_bytes()
    for secret in (b"Camera", b"Someone", b"a comment", b"dc:title", struct.pack(">II", 52, 1), struct.pack("<II", 52, 1)):
        assert secret not in data


def test_text_of_a_png_is_kept_beside_ours(tmp_path: Path) -> None:
    result = result_of(source(tmp_path / "a.png"))
    write(result, tmp_path / "b.png", keep=Metadata.of(result), metadata={"sfumato": "ours"})
    found = read_metadata(tmp_path / "b.png")
    assert (found["Author"], found["sfumato"]) == ("Someone", "ours")


def test_a_comment_becomes_text_and_text_that_is_lost_is_said(tmp_path: Path) -> None:
    result = result_of(source(tmp_path / "a.jpg"))
    write(result, tmp_path / "b.png", keep=Metadata.of(result))
    assert read_metadata(tmp_path / "b.png")["Comment"] == "a comment"
    assert losses(result, "PNG") == []
    assert "Comment" in losses(result, "WEBP")[0]


def test_save_writes_all_that_a_result_carries(tmp_path: Path) -> None:
    result = result_of(source(tmp_path / "a.png"))
    sfumato.save(result, tmp_path / "b.png")
    assert read_metadata(tmp_path / "b.png")["Author"] == "Someone"
    with pytest.warns(UserWarning, match="Author"):
        sfumato.save(result, str(tmp_path / "b.jpg"))
    with Image.open(tmp_path / "b.jpg") as image:
        assert image.getexif()[ExifTags.Base.Make] == "Camera"


def test_sixteen_bits_carry_metadata_too(tmp_path: Path) -> None:
    image = DeepImage(RGB.astype(np.uint16) * 257)
    image.save(tmp_path / "a.png", exif=exif(), dpi=(300, 300))
    result = result_of(tmp_path / "a.png")
    for name in ("b.png", "b.tif"):
        write(result, tmp_path / name, keep=Metadata.of(result), metadata={"sfumato": "ours"})
        with Image.open(tmp_path / name) as found:
            assert found.getexif()[ExifTags.Base.Make] == "Camera"
        assert read_metadata(tmp_path / name)["sfumato"] == "ours"
        assert read(tmp_path / name).depth == 16


def test_the_thumbnail_of_the_unedited_picture_is_dropped(tmp_path: Path) -> None:
    image = Image.fromarray(RGB)
    thumbnail = b"\xff\xd8THUMBNAIL\xff\xd9"
    head = b"Exif\0\0MM\0*\0\0\0\x08"
    first = struct.pack(">HHHI4sI", 1, 0x0112, 3, 1, b"\0\x01\0\0", 26)
    second = struct.pack(">HHHIIHHIII", 2, 0x0201, 4, 1, 56, 0x0202, 4, 1, len(thumbnail), 0)
    image.save(tmp_path / "a.jpg", exif=head + first + second + thumbnail)
    assert b"THUMBNAIL" in (tmp_path / "a.jpg").read_bytes()
    result = result_of(tmp_path / "a.jpg")
    write(result, tmp_path / "b.jpg", keep=Metadata.of(result))
    assert b"THUMBNAIL" not in (tmp_path / "b.jpg").read_bytes()


def test_blocks_too_long_for_a_jpeg_are_said(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.webp", xmp=XMP + b" " * 70_000, lossless=True)
    result = result_of(tmp_path / "a.webp")
    assert "XMP is too long" in losses(result, "JPEG")[1]
    write(result, tmp_path / "b.jpg", keep=Metadata.of(result))
    write(result, tmp_path / "b.png", keep=Metadata.of(result))
    with Image.open(tmp_path / "b.png") as found:
        assert len(found.info["xmp"]) > 70_000


def test_a_users_comment_makes_room_for_the_request_and_it_is_said(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.jpg", exif=exif(comment=b"ASCII\0\0\0mine"))
    result = result_of(tmp_path / "a.jpg")
    assert any("user comment" in note for note in losses(result, "JPEG", stored=True))
    assert not any("user comment" in note for note in losses(result, "JPEG"))
    assert losses(result, "PNG", stored=True) == []
    write(result, tmp_path / "b.jpg", keep=Metadata.of(result), metadata={"sfumato": "{}"})
    again = result_of(tmp_path / "b.jpg")  # what we wrote ourselves is not the user's
    assert not any("user comment" in note for note in losses(again, "JPEG", stored=True))


def test_only_jpeg_says_that_what_is_kept_is_not_exact() -> None:
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8))
    formats: tuple[Format, ...] = ("PNG", "WEBP", "TIFF", "JPEG")
    for format in formats:
        with Image.open(BytesIO(encode(image, format))) as found:
            exact = np.array_equal(np.asarray(found.convert("RGB")), np.asarray(image))
        assert exact == (not any("not exact" in note for note in losses(image, format)))


def test_an_iptc_block_is_not_kept_and_it_is_said(tmp_path: Path) -> None:
    block = b"Photoshop 3.0\08BIM\x04\x04\0\0" + struct.pack(">I", 8) + b"\x1c\x02\x05\0\x03abc"
    Image.fromarray(RGB).save(tmp_path / "a.jpg", extra=b"\xff\xed" + struct.pack(">H", len(block) + 2) + block)
    assert "IPTC" in read(tmp_path / "a.jpg").notes[0]


def test_broken_blocks_are_no_reason_to_refuse(tmp_path: Path) -> None:
    Image.fromarray(RGB).save(tmp_path / "a.png", exif=b"Exif\0\0nonsense")
    assert read(tmp_path / "a.png").metadata.exif is None


def test_a_file_cannot_say_its_own_digest(tmp_path: Path) -> None:
    """The digest of the file that a picture was opened from stands in `info`, beside what the file itself says."""
    said = PngImagePlugin.PngInfo()
    said.add_text(FILE_SHA256, "0" * 64)
    Image.new("RGB", (4, 4), "red").save(tmp_path / "a.png", pnginfo=said)
    with Image.open(tmp_path / "a.png") as opened:
        assert "0" * 64 in "".join(map(str, opened.info.values()))
        assert sha256(opened) == sha256(Image.new("RGB", (4, 4), "red"))
