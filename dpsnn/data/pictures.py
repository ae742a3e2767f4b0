"""The one decoder of pictures: whatever their kind, they become bytes of grey or colour, or are refused by name.

- 16 bits become 8 by division by 257, rounded (12 bits likewise by their own range); of 16-bit *colours* Pillow keeps the
  upper byte.
- 32-bit whole numbers and floating point are refused: no file says which value is white.
- The orientation that a camera notes in EXIF is applied.
- Palettes, CMYK (without a colour profile) and black-and-white are turned into grey or colour. An opaque alpha channel is
  dropped; transparent pixels have no colour and are refused.
- Files with several pictures (animations, pages) are refused; of a camera's MPO the first one is its photograph.
"""

import contextlib
import io
import math
import struct
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps

from dpsnn.errors import UsageError, reading, regular

FORMATS = ("PNG", "PPM", "JPEG", "BMP", "GIF", "TIFF", "WEBP")
"""Pillow's names of what is read; others, some of which start programs of their own, are not."""

MOST_BYTES = 2**26
"""Of a file."""

MOST_PIXELS = 2**24
"""Of a picture, 4,096×4,096; a few bytes may state a billion."""

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "RGBX", "CMYK", "YCbCr")
"""Pillow's names of 8-bit pixels that it turns into grey and colour correctly."""

ADAM7 = (
    (0, 0, 8, 8),
    (4, 0, 8, 8),
    (0, 4, 4, 8),
    (2, 0, 4, 4),
    (0, 2, 2, 4),
    (1, 0, 2, 2),
    (0, 1, 1, 2),
)
"""First column, first row and both steps of the passes of an interlaced PNG."""

REMEDY = "replace it or take it out"


def read_picture(
    source: Path | bytes, channels: int, name: str = "", size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "..."]:
    """Decode one picture.

    Args:
        source: A file, or the content of one.
        channels: 1 for grey (ITU-R 601 luma of colours), 3 for red, green and blue.
        name: What messages call a content; a file goes by its path.
        size: `(H, W)` that it must have, if any.

    Returns:
        `(H, W)` for grey or `(H, W, 3)` for colour.

    Raises:
        UsageError: If it is damaged, too large, or of a kind that has no right value as 8 bits; the line names it.
    """
    name = f"picture {source if isinstance(source, Path) else name}"
    with reading(name, f"a picture ({', '.join(FORMATS)})", REMEDY), quietly():
        content = source if isinstance(source, bytes) else _content(source, name)
        if not content:
            raise UsageError(f"{name} is empty; {REMEDY}")
        try:
            return decoded(content, channels, name, size)
        except Image.DecompressionBombError as error:
            raise _too_large(name) from error


@contextlib.contextmanager
def quietly() -> Iterator[None]:
    """Without Pillow's warnings: what they are about is refused."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def decoded(
    content: bytes, channels: int, name: str, size: tuple[int, int] | None = None
) -> UInt8[np.ndarray, "..."]:
    """As `read_picture`, for many in a row: the caller handles what Pillow raises and warns of."""
    with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
        _check_header(picture, name, size)
        if picture.format == "PNG":
            _check_png(content)
        kind, depth = picture.format, _depth(picture)
        picture.load()
        # Reading EXIF takes longer than decoding a small picture.
        if picture.info:
            ImageOps.exif_transpose(picture, in_place=True)
        return _as_bytes(picture, kind, depth, channels, name)


def _too_large(name: str) -> UsageError:
    side = math.isqrt(MOST_PIXELS)
    return UsageError(f"{name} has more pixels than {side}x{side}; scale it down or take it out")


def _content(path: Path, name: str) -> bytes:
    regular(path)
    with open(path, "rb") as file:
        content = file.read(MOST_BYTES + 1)
    if len(content) > MOST_BYTES:
        raise UsageError(f"{name} has more than {MOST_BYTES:,} bytes; {REMEDY}")
    return content


def _check_png(content: bytes) -> None:
    """Pillow does not look at the checksums of pixels, and would decode damaged ones; rows that lack it leaves black."""
    position, kind, most, packed = 8, b"", 0, []
    while kind != b"IEND":
        length, kind = struct.unpack_from(">I4s", content, position)
        start, end = position + 8, position + 8 + length
        if zlib.crc32(content[position + 4 : end]) != struct.unpack_from(">I", content, end)[0]:
            raise ValueError("a checksum is wrong")
        if kind == b"IHDR":
            most = _unpacked_png(*struct.unpack_from(">IIBBxxB", content, start))
        elif kind == b"IDAT":
            packed.append(content[start:end])
        position = end + 4
    if len(zlib.decompressobj().decompress(b"".join(packed), most + 1)) < most:
        raise ValueError("rows of pixels are missing")


def _unpacked_png(width: int, height: int, bits: int, colours: int, interlaced: int) -> int:
    """Bytes of the pixels of a PNG with a filter byte per row, as its header states them (ISO 15948, sections 8 and 9).

    0 for more pixels than are read: such a picture is refused by its header.
    """
    if width * height > MOST_PIXELS:
        return 0
    depth = bits * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colours]
    passes = ADAM7 if interlaced else ((0, 0, 1, 1),)
    total = 0
    for left, top, across, down in passes:
        columns, rows = -(-(width - left) // across), -(-(height - top) // down)
        if columns > 0:
            total += max(rows, 0) * (1 + -(-columns * depth // 8))
    return total


def _check_header(picture: Image.Image, name: str, size: tuple[int, int] | None) -> None:
    """What is known before any pixel is decoded."""
    width, height = picture.size
    if size and (height, width) != size:
        raise UsageError(
            f"{name} is {height}x{width} (height x width), not {size[0]}x{size[1]}; {REMEDY}"
        )
    if width * height > MOST_PIXELS:
        raise _too_large(name)
    if picture.format != "MPO" and getattr(picture, "is_animated", False):
        raise UsageError(f"{name} holds several pictures; save the one that is meant")


def _depth(picture: Image.Image) -> tuple[int, bool]:
    """Largest value of 16-bit grey, and whether it is black rather than white."""
    if picture.format != "TIFF":
        return 65535, False
    tags = getattr(picture, "tag_v2")
    bits, interpretation = tags.get(258, (16,))[0], tags.get(262, 1)
    return 2**bits - 1, interpretation == 0


def _as_bytes(
    picture: Image.Image, kind: str | None, depth: tuple[int, bool], channels: int, name: str
) -> np.ndarray:
    key = picture.info.get("transparency")
    # The 16 bits of a PNG or PGM have the mode of 32 in some versions of Pillow.
    if picture.mode.startswith("I;16") or picture.mode == "I" and kind in ("PNG", "PPM"):
        values, (largest, inverted) = np.asarray(picture).astype(np.int64), depth
        if key is not None and (values == key).any():
            raise _transparent(name)
        grey = (values * 255 + largest // 2) // largest
        picture = Image.fromarray((255 - grey if inverted else grey).astype(np.uint8))
    elif picture.mode not in MODES:
        raise UsageError(
            f"{name} has values of mode {picture.mode}, whose black and white no file states; save it with 8 or 16 bits"
        )
    elif picture.has_transparency_data:
        picture = picture.convert("RGBA")
        if picture.getchannel("A").getextrema() != (255, 255):
            raise _transparent(name)
    return np.asarray(picture.convert("L" if channels == 1 else "RGB"))


def _transparent(name: str) -> UsageError:
    return UsageError(
        f"{name} has transparent pixels, which have no colour; save it without transparency"
    )
