"""One decoder of pictures: every kind has its right value in bytes, or is refused by name."""

import io
import os
import struct
import tracemalloc
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from dpsnn.data import pictures
from dpsnn.data.pictures import read_picture
from dpsnn.errors import UsageError
from dpsnn.secure.commands import images_from

GREY = np.arange(12, dtype=np.uint8).reshape(3, 4) * 20


def saved(picture: Image.Image, kind: str, **options: Any) -> bytes:
    content = io.BytesIO()
    picture.save(content, kind, **options)
    return content.getvalue()


def grey(content: bytes) -> np.ndarray:
    return read_picture(content, 1, "x")


def refusal(content: bytes, channels: int = 1) -> str:
    with pytest.raises(UsageError) as refused:
        read_picture(content, channels, "x")
    assert str(refused.value).startswith("picture x ") and "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "GIF", "TIFF"])
def test_grey_stays_as_it_is(kind: str) -> None:
    content = saved(Image.fromarray(GREY), kind)
    assert np.array_equal(grey(content), GREY) and grey(content).dtype == np.uint8
    assert np.array_equal(read_picture(content, 3, "x"), np.repeat(GREY[..., None], 3, 2))


# ---------------------------------------------------------------- more than 8 bits

DEEP = np.array([[0, 128, 129, 257, 385, 386], [32767, 32768, 65278, 65406, 65407, 65535]], np.uint16)  # fmt: skip
SHALLOW = [[0, 0, 1, 1, 1, 2], [127, 128, 254, 254, 255, 255]]
"""`DEEP` by 257, rounded."""


def pgm(values: np.ndarray, largest: int) -> bytes:
    head = f"P5 {values.shape[1]} {values.shape[0]} {largest}\n".encode()
    return head + values.astype(">u2").tobytes()


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PGM"])
def test_16_bits_become_8(kind: str) -> None:
    deep = Image.fromarray(DEEP)
    content = pgm(DEEP, 65535) if kind == "PGM" else saved(deep, kind)
    assert grey(content).tolist() == SHALLOW
    assert read_picture(content, 3, "x")[..., 2].tolist() == SHALLOW


def test_a_pgm_is_white_at_its_own_largest_value() -> None:
    assert grey(pgm(np.array([[0, 500, 1000]]), 1000)).tolist() == [[0, 128, 255]]
    assert grey(b"P5 3 1 100\n\x00\x32\x64").tolist() == [[0, 128, 255]]


def tiff(values: bytes, bits: int, interpretation: int, width: int, kind: int = 1) -> bytes:
    """A TIFF of one row, uncompressed."""
    tags = [(256, 3, width), (257, 3, 1), (258, 3, bits), (259, 3, 1), (262, 3, interpretation),
            (273, 4, 0), (277, 3, 1), (278, 3, 1), (279, 4, len(values)), (339, 3, kind)]  # fmt: skip
    start = 8 + 2 + 12 * len(tags) + 4
    body = struct.pack("<H", len(tags))
    for tag, form, value in tags:
        body += struct.pack("<HHII", tag, form, 1, start if tag == 273 else value)
    return b"II*\0" + struct.pack("<I", 8) + body + struct.pack("<I", 0) + values


def test_tiffs_of_12_bits_and_of_black_upon_white() -> None:
    # Two values of 12 bits in three bytes: 0xFFF and 0x800.
    assert grey(tiff(b"\xff\xf8\x00", 12, 1, 2)).tolist() == [[255, 128]]
    values = np.array([0, 65535, 257], "<u2").tobytes()
    assert grey(tiff(values, 16, 1, 3)).tolist() == [[0, 255, 1]]
    assert grey(tiff(values, 16, 0, 3)).tolist() == [[255, 0, 254]]
    assert grey(tiff(b"\x00\xff\x01", 8, 0, 3)).tolist() == [[255, 0, 254]]


@pytest.mark.parametrize(
    "content",
    [
        saved(Image.fromarray(np.ones((2, 2), np.float32) / 2), "TIFF"),
        saved(Image.fromarray(np.full((2, 2), 70_000, np.int32)), "TIFF"),
        tiff(np.zeros(2, "<i2").tobytes(), 16, 1, 2, kind=2),
        b"Pf\n1 1\n-1.0\n" + struct.pack("<f", 0.5),
    ],
)
def test_values_without_a_known_white_are_refused(content: bytes) -> None:
    assert "save it with 8 or 16 bits" in refusal(content)


# ---------------------------------------------------------------- colours


def test_colours_become_the_grey_of_their_luma() -> None:
    colours = np.array([[[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255]]], np.uint8)
    content = saved(Image.fromarray(colours), "PNG")
    assert grey(content).tolist() == [[76, 150, 29, 255]], "0.299 R + 0.587 G + 0.114 B"
    assert np.array_equal(read_picture(content, 3, "x"), colours)
    palette = saved(Image.fromarray(colours).quantize(4), "PNG")
    assert Image.open(io.BytesIO(palette)).mode == "P"
    assert np.array_equal(read_picture(palette, 3, "x"), colours)
    assert grey(palette).tolist() == [[76, 150, 29, 255]]


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "TIFF"])
def test_one_bit_is_black_or_white(kind: str) -> None:
    bits = np.array([[True, False, True]])
    assert grey(saved(Image.fromarray(bits), kind)).tolist() == [[255, 0, 255]]


def test_cmyk_is_ink() -> None:
    ink = Image.new("CMYK", (8, 8), (0, 0, 0, 0))
    ink.paste((0, 255, 255, 0), (4, 0, 8, 8))
    found = read_picture(saved(ink, "TIFF"), 3, "x")
    assert found[0, 0].tolist() == [255, 255, 255] and found[0, 7].tolist() == [255, 0, 0]
    assert read_picture(saved(ink, "JPEG", quality=100), 1, "x")[0, 0] == 255


def test_an_opaque_alpha_is_dropped() -> None:
    for mode in ("RGBA", "LA"):
        opaque = Image.fromarray(GREY).convert(mode)
        assert np.array_equal(grey(saved(opaque, "PNG")), GREY)


def one_clear(mode: str) -> bytes:
    picture = Image.fromarray(GREY).convert(mode)
    clear = Image.new("L", picture.size, 255)
    clear.putpixel((1, 1), 254)
    picture.putalpha(clear)
    return saved(picture, "PNG")


@pytest.mark.parametrize(
    "content",
    [
        one_clear("RGB"),
        one_clear("L"),
        saved(Image.fromarray(GREY), "PNG", transparency=40),
        saved(Image.fromarray(GREY).convert("RGB"), "PNG", transparency=(40, 40, 40)),
        saved(Image.fromarray(GREY).convert("P"), "PNG", transparency=40),
        saved(Image.fromarray(DEEP), "PNG", transparency=257),
    ],
)
def test_transparent_pixels_are_refused(content: bytes) -> None:
    assert "save it without transparency" in refusal(content)


# ---------------------------------------------------------------- upright, and one

TURNED = {
    1: GREY, 2: GREY[:, ::-1], 3: GREY[::-1, ::-1], 4: GREY[::-1], 5: GREY.T, 6: np.rot90(GREY, -1),
    7: GREY[::-1, ::-1].T, 8: np.rot90(GREY),
}  # fmt: skip
"""How a picture is to be shown, by the number of its EXIF orientation."""


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("kind", ["PNG", "TIFF", "JPEG", "WEBP"])
def test_the_orientation_of_the_camera_is_applied_once(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[274] = orientation
    options: dict[str, Any] = {"JPEG": {"quality": 100}, "WEBP": {"lossless": True}}.get(kind, {})
    content = saved(Image.fromarray(GREY), kind, exif=exif, **options)
    found, expected = grey(content), TURNED[orientation]
    assert found.shape == expected.shape
    assert np.abs(found.astype(int) - expected).max() <= (3 if kind == "JPEG" else 0)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "TIFF", "WEBP"])
def test_several_pictures_are_refused(kind: str) -> None:
    first, second = Image.fromarray(GREY), Image.fromarray(255 - GREY)
    content = saved(first, kind, save_all=True, append_images=[second])
    assert "holds several pictures" in refusal(content)


def test_of_a_stereo_photograph_the_first_is_it() -> None:
    first, second = Image.new("L", (8, 8), 200), Image.new("L", (8, 8), 10)
    content = saved(first, "MPO", save_all=True, append_images=[second])
    assert Image.open(io.BytesIO(content)).format == "MPO"
    assert grey(content).tolist() == [[200] * 8] * 8


# ---------------------------------------------------------------- damage and limits


def test_a_flipped_bit_of_a_png_is_never_read() -> None:
    """Pillow itself decodes many of these to other pixels."""
    noise = np.random.default_rng(0).integers(0, 256, (20, 20), dtype=np.uint8)
    whole = saved(Image.fromarray(noise), "PNG")
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1 << position % 8
        assert "damaged" in refusal(bytes(damaged)) or position < 8


@pytest.mark.parametrize("kind", ["PNG", "PPM", "BMP", "GIF", "TIFF", "JPEG", "WEBP"])
def test_damaged_pictures_are_refused_in_one_line_or_are_pictures(kind: str) -> None:
    whole = saved(Image.fromarray(np.kron(GREY, np.ones((8, 8), np.uint8))), kind)
    generator = np.random.default_rng(0)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(200):
            damaged = bytearray(whole)
            for _ in range(int(generator.integers(1, 4))):
                damaged[int(generator.integers(len(whole)))] = int(generator.integers(256))
            try:
                assert grey(bytes(damaged[: int(generator.integers(1, 2 * len(whole)))])).ndim == 2
            except UsageError as error:
                assert str(error).startswith("picture x ") and "\n" not in str(error)
                assert "object at 0x" not in str(error)


@pytest.mark.parametrize("content", [b"no picture", b"%!PS-Adobe-3.0 EPSF-3.0\n", b"\x89PNG\r\n\x1a\n"])  # fmt: skip
def test_what_is_no_picture_is_refused(content: bytes) -> None:
    assert "is damaged or not a picture (PNG," in refusal(content)
    assert refusal(b"") == "picture x is empty; replace it or take it out"


def png_of(width: int, height: int, pixels: bytes = b"", interlaced: int = 0) -> bytes:
    """A PNG with right checksums that states any size."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))  # fmt: skip

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, interlaced)
    return (
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")
    )


ADAM7 = """
16462646
77777777
56565656
77777777
36463646
77777777
56565656
77777777
""".split()
"""Which pass a pixel of an interlaced PNG is in (ISO 15948, figure 4.8)."""


@pytest.mark.parametrize("width, height", [(1, 1), (3, 2), (5, 5), (8, 8), (13, 11)])
@pytest.mark.parametrize("interlaced", [0, 1])
def test_rows_that_a_png_lacks_are_not_black(width: int, height: int, interlaced: int) -> None:
    rows: set[tuple[str, int]] = set()
    for y in range(height):
        rows |= {(ADAM7[y % 8][x % 8] if interlaced else "", y) for x in range(width)}
    size = width * height + len(rows)
    whole = png_of(width, height, zlib.compress(bytes(size)), interlaced)
    assert grey(whole).tolist() == [[0] * width] * height
    for cut in (size - 1, size // 2, 0):
        lacking = png_of(width, height, zlib.compress(bytes(cut)), interlaced)
        assert "rows of pixels are missing" in refusal(lacking)


@pytest.mark.parametrize("size", [(4097, 4096), (10_000, 10_000), (2**31 - 1, 2**31 - 1)])
def test_a_few_bytes_do_not_become_gigabytes(size: tuple[int, int]) -> None:
    tracemalloc.start()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert "has more pixels than 4096x4096" in refusal(png_of(*size))
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()


def test_a_file_of_too_many_bytes_is_not_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pictures, "MOST_BYTES", 50)
    Image.fromarray(GREY).save(tmp_path / "a.png")
    with pytest.raises(UsageError, match="a.png has more than 50 bytes"):
        read_picture(tmp_path / "a.png", 1)


def test_another_size_is_refused_before_it_is_decoded() -> None:
    with pytest.raises(UsageError, match=r"x is 9x7 \(height x width\), not 3x4"):
        read_picture(png_of(7, 9), 1, "x", (3, 4))


# ---------------------------------------------------------------- as clients of encrypted inference read them


def test_a_picture_for_a_query(tmp_path: Path) -> None:
    Image.fromarray(DEEP).save(tmp_path / "deep.png")
    images, labels = images_from(str(tmp_path / "deep.png"), "data", (1, 2, 6), 3)
    assert images.shape == (1, 1, 2, 6) and labels is None
    assert (images * 255).round().int().tolist() == [[SHALLOW]]
    colours = np.random.default_rng(0).integers(0, 256, (4, 5, 3), dtype=np.uint8)
    Image.fromarray(colours).save(tmp_path / "colours.png")
    images, _ = images_from(str(tmp_path / "colours.png"), "data", (3, 4, 5), 1)
    assert (images[0].permute(1, 2, 0) * 255).round().int().tolist() == colours.tolist()
    np.save(tmp_path / "a.npy", colours.transpose(2, 0, 1)[:, None])
    images, _ = images_from(str(tmp_path / "a.npy"), "data", (1, 4, 5), 2)
    assert (images[1, 0] * 255).round().int().tolist() == colours[..., 1].tolist()


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("none.png", None, "is neither a file nor a data set; choose from"),
        ("a.png", b"oops", "a.png is damaged or not a picture"),
        ("a.npy", b"oops", "a.npy is damaged or not an array of numbers"),
        ("a.npy", b"\x80\x04K\x01.", "a.npy is damaged or not an array"),
        ("a.png", saved(Image.fromarray(GREY), "PNG"), "the model takes"),
    ],
)
def test_what_a_query_refuses(
    tmp_path: Path, name: str, content: bytes | None, reason: str
) -> None:
    if content is not None:
        (tmp_path / name).write_bytes(content)
    with pytest.raises(UsageError, match=reason):
        images_from(str(tmp_path / name), "data", (1, 28, 28), 1)


@pytest.mark.parametrize("name", ["a.png", "a.npy"])
def test_a_query_waits_for_no_pipe(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(UsageError, match="is a pipe, a socket or a device"):
        images_from(str(tmp_path / name), "data", (1, 28, 28), 1)
