"""Samples of a representation beside their source: what stays is in the representation, what varies is not."""

from collections.abc import Mapping, Sequence
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from workbench.figures import theme
from workbench.figures.grids import _bytes, _channels_last, _words

__all__ = ["mean_and_deviation", "sample_rows"]

EMPTY = 236  # grey of a place that is not filled yet
SAYS = {"distance": "distance to the condition", "rank": "rank of the source", "nearest": "nearest real image"}
LETTERS = 16  # screen pixels that a line of small words takes

Pictures = np.ndarray | Mapping[str, np.ndarray]


def sample_rows(
    sources: np.ndarray,
    samples: Pictures,
    *,
    targets: np.ndarray | None = None,
    ranks: pd.DataFrame | Mapping[str, pd.DataFrame] | None = None,
    rows: Sequence[str] | None = None,
    headings: Sequence[str] | None = None,
    ends: tuple[str, str] = ("source", "target"),
    size: int = 52,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A row a source: at the left the real image, then, after a gap, the samples of its representation.

    Samples of several representations stand side by side under their names. With ``targets`` and ``headings`` it is a strip
    from one image to another. The mouse frames an image and says what it is.

    Arguments:
        sources: Real images (S, C, H, W), (S, H, W, C) or (S, H, W), with 1 or 3 channels: uint8, or numbers from 0 to 1.
        samples: Images (n, ...) of the same shape, those of a source together, or several such by name:
            ``{"backbone": ..., "projector": ...}``. Images of NaN are places that are not filled yet.
        targets: Images at the right end (S, ...).
        ranks: What the mouse reads of each sample, n rows as ``source_ranks`` gives them; by the same names where there are
            several. Columns ``distance``, ``rank``, ``nearest``, of which it need not have all.
        rows: Words left of each row.
        headings: Words above each sample of a row.
        ends: What stands above the sources and the targets.
        size: Width of an image in screen pixels, about: every pixel of it is a square of whole screen pixels.
        title: What the figure shows, as a statement.
        options: Further HoloViews options.

    Raises:
        ValueError: If images are of another shape or beyond 0 and 1, or numbers of images, words or ranks do not fit.

    Example:
        Two layers of a run side by side::

            drawn = {layer: pipes[layer](h[layer][:6], num_images_per_rep=8).images for layer in ("backbone", "projector")}
            sample_rows(images.pixels[:6], drawn, title="The projector forgets where things stand")
    """
    theme.ready()
    named = dict(samples) if isinstance(samples, Mapping) else {"samples": samples}
    real = _pixels(sources)
    blocks = {name: _pixels(np.asarray(images)) for name, images in named.items()}
    last = None if targets is None else _pixels(targets)
    shown = [real, *blocks.values(), *([] if last is None else [last])]
    count, (h, w) = len(real), real.shape[1:3]
    if not blocks or any(part.shape[1:] != real.shape[1:] or len(part) % count or not len(part) for part in shown):
        said = {name: part.shape for name, part in blocks.items()} | ({} if last is None else {"targets": last.shape})
        raise ValueError(
            f"each of {count} sources, {real.shape}, has as many samples of its size, and one target, but got {said}"
        )
    copies = {name: len(part) // count for name, part in blocks.items()}
    for words, wanted, what in ((rows, count, "rows"), (headings, max(copies.values()), "headings")):
        if words is not None and len(words) != wanted:
            raise ValueError(f"{len(words)} {what} for {count} sources of {max(copies.values())} samples; give {wanted}")
    gap, wide = max(1, w // 16), max(2, w // 4)
    place, cells, names = w + wide, [(0, real, ends[0], 1)], [(w / 2, ends[0])]
    for name, part in blocks.items():
        cells.append((place, part, name, copies[name]))
        across = copies[name] * (w + gap) - gap
        names.append((place + across / 2, name))
        place += across + wide
    if last is not None:
        cells.append((place, last, ends[1], 1))
        names.append((place + w / 2, ends[1]))
        place += w + wide
    across, down, scale = place - wide, count * (h + gap) - gap, max(1, round(size / w))
    sheet = np.full((down, across, 3), 255, np.uint8)
    boxes, told = [], _told(ranks, blocks)
    for left, part, name, many in cells:
        for i, image in enumerate(part):
            x, y = left + i % many * (w + gap), i // many * (h + gap)
            sheet[y : y + h, x : x + w] = image
            what = f"{name}, {i % many + 1} of {many}" if name in blocks else name
            told_of = told[name][i] if name in told else ["–"] * len(told.get("", ()))
            boxes.append((x, -y - h, x + w, -y, what, i // many + 1 if rows is None else str(rows[i // many]), *told_of))
    columns = ["what", "row", *told.get("", ())]
    tips = [(SAYS.get(c, "image" if c == "what" else c), f"@{c}") for c in columns]
    frames = hv.Rectangles(boxes, ["x0", "y0", "x1", "y1"], columns, label="images")
    looks = {"fill_alpha": 0, "line_alpha": 0, "hover_fill_alpha": 0, "hover_line_alpha": 1, "hover_line_color": theme.PAIR[1]}
    frames = frames.opts(line_width=3, tools=["hover"], hover_tooltips=tips, **looks)
    parts = [hv.RGB(sheet, bounds=(0, -down, across, 0), label="sheet"), frames]
    above = 0.0
    if headings is not None:
        above = LETTERS / scale
        starts = [left for left, _, name, _ in cells if name in blocks]
        middles = [start + i * (w + gap) + w / 2 for start in starts for i in range(len(headings))]
        parts.append(
            _words(
                [(x, above / 8, words) for x, words in zip(middles, [*headings] * len(starts), strict=True)], "center", "bottom"
            )
        )
    ticks = [(-i * (h + gap) - h / 2, str(words)) for i, words in enumerate(rows or ())]
    looks = {"xlim": (0, across), "ylim": (-down, above), "width": scale * across, "height": round(scale * (down + above))}
    looks |= {"xticks": names, "xaxis": "top", "xlabel": "", "ylabel": "", "hooks": [theme.bare], "show_legend": False}
    looks |= {"yticks": ticks} if ticks else {"yaxis": None}
    return theme.frame(hv.Overlay(parts), title=title, **(looks | options))


def mean_and_deviation(
    sources: np.ndarray,
    maps: tuple[np.ndarray, np.ndarray] | Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    rows: Sequence[str] | None = None,
    high: float | None = None,
    size: int = 80,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A row a source: the real image, the mean of its samples, and how far they deviate from it, pixel by pixel.

    Where the mean is sharp and the deviation white, the representation tells; where the mean is a blur, it leaves a choice.

    Arguments:
        sources: Real images (S, C, H, W), (S, H, W, C) or (S, H, W), with 1 or 3 channels: uint8, or numbers from 0 to 1.
        maps: Means (S, C, H, W) and deviations (S, H, W) in [0, 1], as ``sample_maps`` gives them, or several such by name:
            ``{"backbone": ..., "projector": ...}``.
        rows: Words left of each row.
        high: Deviation at the dark end of the colours; by default the largest.
        size: Width of an image in screen pixels, about.
        title: What the figure shows, as a statement.
        options: Further HoloViews options.

    Raises:
        ValueError: If images are of another shape or beyond 0 and 1, or numbers of images or words do not fit.

    Example:
        ::

            maps = {layer: wb.sample_maps(drawn[layer], copies=8) for layer in drawn}
            mean_and_deviation(images.pixels[:6], maps, title="The projector's samples differ in where the garment stands")
    """
    theme.ready()
    named = dict(maps) if isinstance(maps, Mapping) else {"": maps}
    real = _pixels(sources)
    count, (h, w) = len(real), real.shape[1:3]
    gap, wide = max(1, w // 16), max(2, w // 4)
    step, pictures = w + gap, {0: real}
    across, down = w + len(named) * (wide + w + step), count * (h + gap) - gap
    spread, ticks = np.full((down, across), np.nan), [(w / 2, "source")]
    for k, (name, (mean, deviation)) in enumerate(named.items()):
        left, deviation = w + wide + k * (w + step + wide), np.asarray(deviation, float)
        pictures[left] = _pixels(mean)
        if pictures[left].shape != real.shape or deviation.shape != (count, h, w):
            raise ValueError(
                f"means and deviations are of the {count} sources, {h} x {w} pixels, "
                f"but got {np.shape(mean)} and {deviation.shape}"
            )
        for i, values in enumerate(deviation):
            spread[i * (h + gap) : i * (h + gap) + h, left + step : left + step + w] = values
        ticks += [(left + w / 2, f"{name}\nmean" if name else "mean"), (left + step + w / 2, "deviation")]
    if rows is not None and len(rows) != count:
        raise ValueError(f"{len(rows)} rows for {count} sources; give {count}")
    sheet = np.full((down, across, 3), 255, np.uint8)
    for left, images in pictures.items():
        for i, image in enumerate(images):
            sheet[i * (h + gap) : i * (h + gap) + h, left : left + w] = image
    bounds, scale = (0, -down, across, 0), max(1, round(size / w))
    heat = hv.Image(spread, ["x", "y"], "deviation", bounds=bounds, label="deviation")
    heat = heat.opts(cmap=list(theme.DEEP), clim=(0, high or float(np.nanmax(spread)) or 1.0), colorbar=True, clabel="deviation")
    heat = heat.opts(clipping_colors={"NaN": (0, 0, 0, 0)}, tools=["hover"], hover_tooltips=[("deviation", "@image{0.000}")])
    looks = {"xlim": (0, across), "ylim": (-down, 0), "width": scale * across, "height": scale * down, "xticks": ticks}
    looks |= {"xaxis": "top", "xlabel": "", "ylabel": "", "hooks": [theme.bare], "show_legend": False}
    looks["note"] = "deviation: standard deviation of a pixel over the samples of a source, pixels from 0 to 1"
    places = [(-i * (h + gap) - h / 2, str(words)) for i, words in enumerate(rows or ())]
    looks |= {"yticks": places} if places else {"yaxis": None}
    return theme.frame(hv.RGB(sheet, bounds=bounds, label="sheet") * heat, title=title, **(looks | options))


def _pixels(images: np.ndarray) -> np.ndarray:
    """Returns (N, H, W, 3) uint8; grey, where there are no numbers yet."""
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return _channels_last(images)
    empty = np.isnan(images)
    return np.where(_channels_last(empty.astype(np.uint8)) > 0, EMPTY, _channels_last(_bytes(np.where(empty, 0, images)))).astype(
        np.uint8
    )


def _told(ranks: pd.DataFrame | Mapping[str, pd.DataFrame] | None, blocks: Mapping[str, np.ndarray]) -> dict[str, list]:
    """Returns what is said of each sample by block, and under the empty name which columns that is."""
    if ranks is None:
        return {}
    named = ranks if isinstance(ranks, Mapping) else dict.fromkeys(blocks, ranks)
    wrong = {name: len(table) for name, table in named.items() if name not in blocks or len(table) != len(blocks[name])}
    if wrong:
        raise ValueError(f"ranks have a row a sample, { ({k: len(v) for k, v in blocks.items()}) }, but got {wrong}")
    columns = [c for c in SAYS if all(c in table for table in named.values())]
    numbers = {"distance": "{:.3g}", "rank": "{:,g}", "nearest": "{:,}"}
    told = {
        name: [[numbers[c].format(v) for c, v in zip(columns, row, strict=True)] for row in table[columns].to_numpy(object)]
        for name, table in named.items()
    }
    return told | {"": columns}
