"""Traversals: what a picture does when one code is moved and all others stay."""

from collections.abc import Collection, Hashable, Sequence
from typing import Any

import holoviews as hv
import numpy as np

from workbench.figures import theme
from workbench.figures.grids import _bytes, _channels_last, image_sheet

__all__ = ["traversals"]

GAP = 4  # between images, in screen pixels
FADED = 0.35  # of a dead row's contrast


def traversals(
    images: np.ndarray,
    *,
    codes: Sequence[Hashable] | None = None,
    values: Sequence[float] | None = None,
    dead: Collection[Hashable] = (),
    framed: Hashable | None = None,
    size: int = 52,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A row a code, a column a value that it is set to; dead codes are pale and named so, one may have a frame.

    Arguments:
        images: (codes, steps, C, H, W) or (codes, steps, H, W, C), with 1 or 3 channels: uint8, or numbers from 0 to 1.
        codes: What the rows are; by default their numbers.
        values: What the columns are.
        dead: Those of ``codes`` that move nothing.
        framed: One of ``codes``.
        size: Width of an image in screen pixels.
        title: What the figure shows, as a statement.
        options: Further HoloViews options.

    Raises:
        ValueError: If the images have another shape or numbers beyond 0 and 1, or the names do not fit.

    Example:
        Of an autoencoder's run, around the code of one image::

            codes = np.repeat(code[None, None], len(code), 0).repeat(9, 1)  # codes steps codes
            for i, row in enumerate(codes):
                row[:, i] = np.linspace(-2, 2, 9)
            drawn = run.model().decode(codes.reshape(-1, len(code))).reshape(len(code), 9, *shape)
            traversals(drawn, values=np.linspace(-2, 2, 9))
    """
    theme.ready()
    images = np.asarray(images)
    if images.ndim != 5 or not images.size:
        raise ValueError(f"traversals needs images (codes, steps, channels, height, width), but got shape {images.shape}")
    rows, steps = images.shape[:2]
    codes = list(range(rows)) if codes is None else list(codes)
    for what, words, wanted in (("codes", codes, rows), ("values", values, steps)):
        if words is not None and len(words) != wanted:
            raise ValueError(f"{len(words)} {what} for images of {rows} codes and {steps} steps; give {wanted}")
    unknown = [name for name in (*dead, *([] if framed is None else [framed])) if name not in codes]
    if unknown:
        raise ValueError(f"there is no code {unknown[0]!r} to mark; the codes are {codes}")
    pixels = _channels_last(_bytes(images).reshape(rows * steps, *images.shape[2:]))
    gone = np.repeat([name in dead for name in codes], steps)[:, None, None, None]
    pixels = np.where(gone, 255 - FADED * (255.0 - pixels), pixels).astype(np.uint8)
    zoom = max(1, round(2 * size / pixels.shape[2]))  # twice the screen's pixels, so that a projector shows squares
    wide, high = size + GAP, round(size * pixels.shape[1] / pixels.shape[2]) + GAP
    gap = round(GAP * zoom * pixels.shape[2] / size)
    sheet = image_sheet(pixels, columns=steps, zoom=zoom, gap=gap)
    picture = hv.RGB(sheet, bounds=(0, -rows * high + GAP, steps * wide - GAP, 0), label="traversals")
    parts = [picture]
    if framed is not None:
        top = -codes.index(framed) * high
        box = hv.Rectangles([(-GAP / 2, top - high + GAP / 2, steps * wide - GAP / 2, top + GAP / 2)], label="framed")
        parts.append(box.opts(fill_alpha=0, line_color=theme.PAIR[1], line_width=3.5))
    said = [f"{name} (dead)" if name in dead else str(name) for name in codes]
    looks = {"yticks": [(-i * high - (high - GAP) / 2, words) for i, words in enumerate(said)], "ylabel": "code"}
    told = [] if values is None else [f"{value:.2g}".replace("-", "−") for value in values]
    ticks = [(i * wide + (wide - GAP) / 2, words) for i, words in enumerate(told)]
    looks |= {"xticks": ticks or 0, "xlabel": "value that the code is set to", "xaxis": "top" if ticks else None}
    looks |= {"width": steps * wide, "height": rows * high, "show_legend": False, "hooks": [theme.bare]}
    looks |= {"xlim": (-GAP / 2, steps * wide - GAP / 2), "ylim": (-rows * high + GAP / 2, GAP / 2)}
    return theme.frame(hv.Overlay(parts), title=title, **(looks | options))
