"""Pictures of pictures: one sheet of images in rows and columns, with captions."""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np

from workbench.figures import theme

__all__ = ["image_grid", "image_sheet"]


def image_sheet(images: np.ndarray, *, columns: int = 8, zoom: int = 1, gap: int = 2) -> np.ndarray:
    """Returns one picture (height, width, 3), uint8, of images laid out in rows; the gaps and empty places are white.

    Arguments:
        images: uint8 (N, H, W, C), (N, C, H, W) or (N, H, W), with 1 or 3 channels.
        columns: Images a row.
        zoom: Screen pixels a pixel, without smoothing.
        gap: White pixels between images.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If they have another shape.

    Example:
        >>> image_sheet(np.zeros((3, 4, 4), np.uint8), columns=2, gap=1).shape
        (9, 9, 3)
    """
    images = _channels_last(np.asarray(images))
    n, h, w, _ = images.shape
    images = images.repeat(zoom, 1).repeat(zoom, 2)
    h, w, columns = h * zoom, w * zoom, min(columns, n)
    rows = -(-n // columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = i // columns * (h + gap), i % columns * (w + gap)
        sheet[top : top + h, left : left + w] = image
    return sheet


def _channels_last(images: np.ndarray) -> np.ndarray:
    if images.dtype != np.uint8:
        raise TypeError(f"images must be uint8 from 0 to 255, but got {images.dtype}; scale and convert them first")
    if images.ndim == 3:
        images = images[..., None]
    elif images.ndim == 4 and images.shape[-1] not in (1, 3) and images.shape[1] in (1, 3):
        images = images.transpose(0, 2, 3, 1)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(f"images must be (N, H, W), (N, H, W, C) or (N, C, H, W) with 1 or 3 channels, but got {images.shape}")
    return np.broadcast_to(images, (*images.shape[:3], 3))


def _bytes(images: np.ndarray) -> np.ndarray:
    if images.dtype == np.uint8:
        return images
    low, high = float(images.min()), float(images.max())
    if not 0 <= low <= high <= 1:
        raise ValueError(f"images must be uint8 or numbers from 0 to 1, but got {images.dtype} from {low:g} to {high:g}")
    return (255 * images).round().astype(np.uint8)


def image_grid(
    images: np.ndarray,
    captions: Sequence[str] | None = None,
    *,
    columns: int = 8,
    rows: Sequence[str] | None = None,
    headings: Sequence[str] | None = None,
    size: int = 72,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """Images in rows and columns, as one picture, each pixel drawn as a square.

    Arguments:
        images: uint8 (N, H, W, C), (N, C, H, W) or (N, H, W), with 1 or 3 channels.
        captions: A line below each image.
        columns: Images a row.
        rows, headings: Words left of each row and above each column.
        size: Width of an image in screen pixels, about.
        title: What the figure shows, as a statement.
        options: Further HoloViews options.

    Raises:
        TypeError: If the images are not uint8.
        ValueError: If their shape is wrong, or the numbers of captions, rows or headings do not fit.
    """
    theme.ready()
    pixels = _channels_last(np.asarray(images))
    n, h, w, _ = pixels.shape
    columns = min(columns, n)
    lines = -(-n // columns)
    for words, wanted, what in ((captions, n, "captions"), (rows, lines, "rows"), (headings, columns, "headings")):
        if words is not None and len(words) != wanted:
            raise ValueError(f"{len(words)} {what} for {n} images in {lines} rows of {columns}; give {wanted}")
    zoom = max(1, round(2 * size / w))  # twice the screen's pixels, so that a projector shows squares
    wide, high = size, round(size * h / w)
    below = 20 if captions is not None else 4
    places = [(i % columns * (wide + 6), -(i // columns) * (high + below)) for i in range(n)]
    parts = [
        hv.RGB(image.repeat(zoom, 0).repeat(zoom, 1), bounds=(x, y - high, x + wide, y))
        for image, (x, y) in zip(pixels, places, strict=True)
    ]
    if captions is not None:
        parts.append(
            _words([(x + wide / 2, y - high - 2, c) for (x, y), c in zip(places, captions, strict=True)], "center", "top")
        )
    if headings is not None:
        parts.append(_words([(x + wide / 2, 4, c) for (x, _), c in zip(places, headings, strict=False)], "center", "bottom"))
    if rows is not None:
        parts.append(
            _words([(-8, y - high / 2, c) for (_, y), c in zip(places[::columns], rows, strict=True)], "right", "middle")
        )
    left = 8 * max(map(len, rows)) + 12 if rows else 2
    span = (-left, columns * (wide + 6)), (-lines * (high + below), 24 if headings else 2)
    shape = {"width": int(span[0][1] - span[0][0]), "height": int(span[1][1] - span[1][0]), "xlim": span[0], "ylim": span[1]}
    return theme.frame(
        hv.Overlay(parts), title=title, xaxis=None, yaxis=None, show_legend=False, hooks=[theme.bare], **(shape | options)
    )


def _words(places: list[tuple[float, float, str]], align: str, baseline: str) -> hv.Labels:
    labels = hv.Labels([(x, y, str(c)) for x, y, c in places], ["x", "y"], "words")
    return labels.opts(text_align=align, text_baseline=baseline, text_color=theme.INK, text_font_size=theme.SIZE["note"])
