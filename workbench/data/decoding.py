"""A picture of any kind made a square of bytes: orientation, transparency, depth and shape are dealt with here, once."""

from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

import numpy as np

if TYPE_CHECKING:
    from PIL.Image import Image

__all__ = ["decode", "fit_square"]

Fit = Literal["crop", "pad", "stretch"]


def decode(
    path: str | Path | BinaryIO, *, size: int, fit: Fit = "crop", channels: int = 3, background: str = "white"
) -> np.ndarray:
    """Returns the pixels (uint8, channels size size) of an image file; the arguments are those of :func:`fit_square`.

    A large JPEG is decoded at the smallest of its built-in scales that still has twice the pixels wanted. Of an animation the
    first frame is taken.

    Raises:
        OSError, ValueError, SyntaxError: If the file is missing, cut short or no image.
    """
    from PIL import Image

    with Image.open(path) as image:
        image.draft(None, (2 * size, 2 * size))
        return fit_square(image, size=size, fit=fit, channels=channels, background=background)


def fit_square(
    image: "Image", *, size: int | None, fit: Fit = "crop", channels: int = 3, background: str = "white"
) -> np.ndarray:
    """Returns a PIL image as pixels (uint8, channels size size).

    It is turned upright where its EXIF says how it was held, its transparent parts are filled, 16 bits become 8, and it is
    resized (bicubic, anti-aliased).

    Arguments:
        image: Of any mode that PIL can make grey or RGB.
        size: Side of the square, or None to leave height and width as they are.
        fit: ``"crop"``: the short side becomes ``size``, and the centre is kept; ``"pad"``: the long side becomes ``size``, and
            the rest is ``background``; ``"stretch"``: both sides do.
        channels: 3 for RGB, 1 for grey.
        background: Colour of what is transparent or padded.

    Raises:
        ValueError: If the values of a floating-point image have no known range.
    """
    from PIL import Image, ImageOps

    image = _opaque(_eight_bits(ImageOps.exif_transpose(image)), background).convert("RGB" if channels == 3 else "L")
    width, height = image.size
    if size is not None and (width, height) != (size, size):
        if fit == "crop":
            side = min(width, height)
            left, top = (width - side) / 2, (height - side) / 2
            image = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
        elif fit == "pad":
            image = ImageOps.pad(image, (size, size), Image.Resampling.BICUBIC, color=background)
        else:
            image = image.resize((size, size), Image.Resampling.BICUBIC)
    pixels = np.asarray(image)
    return pixels.transpose(2, 0, 1) if pixels.ndim == 3 else pixels[None]


def _opaque(image: "Image", background: str) -> "Image":
    from PIL import Image

    if not image.has_transparency_data:
        return image
    ground = Image.new("RGBA", image.size, background)
    ground.alpha_composite(image.convert("RGBA"))
    return ground


def _eight_bits(image: "Image") -> "Image":
    from PIL import Image

    if image.mode == "F":
        raise ValueError("it holds floating-point values of unknown range; convert it to 8 bits first")
    if not image.mode.startswith("I"):
        return image
    return Image.fromarray((np.asarray(image).clip(0, 65535) >> 8).astype(np.uint8))
