"""From a file's bytes to pixels: the one way that every command takes, whatever it wants them for."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image
from PIL.TiffImagePlugin import BITSPERSAMPLE, PHOTOMETRIC_INTERPRETATION, TiffImageFile

from wfbench.errors import InputError

#: Modes of one channel, and of three, that Pillow converts to grey and to RGB of 8 bits, transparency dropped.
_GREY, _COLOUR = {"1", "L", "LA", "La"}, {"P", "PA", "RGB", "RGBX", "RGBA", "RGBa", "CMYK", "YCbCr", "HSV"}
#: Formats whose mode "I" has 16 bits.
_SIXTEEN_BITS = {"PNG", "PPM", "JPEG2000"}


def decode(content: bytes, name: str, value_range: tuple[float, float] | None = None) -> Image.Image:
    """The picture that a file holds, as `to_pixels`; of several frames the first.

    Raises:
        InputError: as `to_pixels`.
        Whatever Pillow raises for a damaged file (`splits.UNREADABLE`).
    """
    image = Image.open(io.BytesIO(content))
    image.load()
    return to_pixels(image, name, value_range)


def to_pixels(image: Image.Image, name: str, value_range: tuple[float, float] | None = None) -> Image.Image:
    """A decoded picture with 8 bits in each channel: mode "L" if it is grey, else "RGB".

    Palettes are looked up and transparency is dropped. Of more bits, such as 16 or a TIFF's 12, the upper eight are kept. A
    picture of 32-bit integers or floats has no agreed range, and needs one.

    Args:
        image: as Pillow decodes it.
        name: of the file, for an error.
        value_range: for pictures of more than 8 bits, the values that become black and white.

    Raises:
        InputError: for a mode that has no agreed meaning in 8 bits.
    """
    if image.mode in ("L", "RGB"):
        return image
    if image.mode in _GREY:
        return image.convert("LA").convert("L") if image.mode == "La" else image.convert("L")
    if image.mode in _COLOUR:
        through = image.mode == "RGBa" or (image.mode in ("P", "PA") and "transparency" in image.info)
        return (image.convert("RGBA") if through else image).convert("RGB")
    sixteen = image.mode.startswith("I;16") or (image.mode == "I" and image.format in _SIXTEEN_BITS)
    ranged = sixteen or image.mode in ("I", "F")
    got = f"{name}: {image.format or 'a picture'} of mode {image.mode}"
    if ranged and value_range is not None:
        low, high = value_range
        shares = (np.asarray(image, dtype=np.float64) - low) / (high - low)
        if not np.isfinite(shares).all():
            raise InputError(
                "a picture with values that are not finite", got=got, expected="finite values", remedy="convert it"
            )
        return Image.fromarray(np.rint(255 * shares.clip(0, 1)).astype(np.uint8))
    if sixteen:
        values = np.asarray(image).astype(np.int64) >> (_bits(image) - 8)
        values = values.clip(0, 255).astype(np.uint8)
        return Image.fromarray(255 - values if _is_white_zero(image) else values)
    raise InputError(
        "a picture whose values have no agreed meaning in 8 bits",
        got=got,
        expected="grey, a palette, RGB, CMYK, YCbCr or HSV of 8 bits, with or without transparency, or grey of 16 bits",
        remedy="say which values are black and white: data.range=[0,1]" if ranged else "convert it",
    )


def _bits(image: Image.Image) -> int:
    """How many bits of 16 the values of a grey picture fill: Pillow gives those of a TIFF as they are stored."""
    found = _tiff_tag(image, BITSPERSAMPLE)
    return min(max(int(found), 8), 16) if found is not None else 16


def _is_white_zero(image: Image.Image) -> bool:
    """Whether 0 is white. Pillow turns a TIFF of 8 bits round, and not one of more."""
    return _tiff_tag(image, PHOTOMETRIC_INTERPRETATION) == 0


def _tiff_tag(image: Image.Image, tag: int) -> int | None:
    if not isinstance(image, TiffImageFile):
        return None
    found = image.tag_v2.get(tag)
    return found[0] if isinstance(found, tuple) else found
