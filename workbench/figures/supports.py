"""Two codes against each other, and which of their combinations never occur."""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from workbench.figures import theme
from workbench.figures.points import _scale

__all__ = ["support_scatter"]

MOST = 4_000  # points drawn


def support_scatter(
    codes: np.ndarray,
    *,
    factor: Sequence[Any] | None = None,
    name: str = "factor",
    witness: tuple[Sequence[float], Sequence[float]] | None = None,
    near: float = 0.15,
    axes: tuple[str, str] = ("one code", "another code"),
    unit: str = "",
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A point a row; dashed, the product of what the two codes take; a cross at each of its corners that no row comes near.

    The witness of the Hausdorff distance is a line from the place of the product that is emptiest to the row nearest to it; its
    length stands beside it.

    Arguments:
        codes: (N, 2); of more than 4,000 rows, evenly many apart are drawn.
        factor: N values that colour the points: floats, and more than 12 different ones, are a scale, others categories.
        name: Of the factor.
        witness: Two places, such as ``point`` and ``nearest`` of ``wb.missing_corner``, in the codes' own units: give it and the
            figure the same codes, and it ``standardise=False``.
        near: How far a row may be from a corner that counts as taken, in sides of the product.
        axes: What the two codes are.
        unit: Of the witness's length, such as ``"standard deviations"``.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``.

    Raises:
        ValueError: If the codes are no finite (N, 2), the rows do not agree, or the witness is not two places.

    Example:
        ::

            z = (codes - codes.mean(0)) / codes.std(0)
            gap = wb.missing_corner(z, 0, 1, standardise=False)
            wb.support_scatter(z[:, [0, 1]], witness=(gap.point, gap.nearest), unit="standard deviations")
    """
    theme.ready()
    xy = np.asarray(codes, dtype=float)
    bad = int((~np.isfinite(xy)).sum())
    if xy.ndim != 2 or xy.shape[1] != 2 or not len(xy) or bad:
        raise ValueError(f"support_scatter needs finite codes (rows, 2), but got {xy.shape} with {bad} not finite")
    if factor is not None and len(factor) != len(xy):
        raise ValueError(f"{len(xy)} rows but {len(factor)} values of {name}; give one a row")
    places = np.zeros((0, 2)) if witness is None else np.asarray(witness, dtype=float)
    if witness is not None and places.shape != (2, 2):
        raise ValueError(f"a witness is a place and the row nearest to it, two numbers each, but got shape {places.shape}")
    low, high = xy.min(0), xy.max(0)
    side = np.where(high > low, high - low, 1)
    corners = np.array([(x, y) for x in (low[0], high[0]) for y in (low[1], high[1])])
    apart = (np.abs(corners[:, None] - xy) / side).max(2).min(1)
    missing = corners[apart > near]
    shown = np.unique(np.linspace(0, len(xy) - 1, min(len(xy), MOST)).round().astype(int))
    table = pd.DataFrame(xy[shown], columns=["x", "y"]).assign(row=shown)
    parts = _points(table, None if factor is None else pd.Series(list(factor)).iloc[shown].to_numpy(), name)
    box = hv.Path([dict(zip("xy", corners[[0, 1, 3, 2, 0]].T, strict=True))], ["x", "y"], label="product")
    parts.append(box.opts(color=theme.QUIET, line_dash="dashed", line_width=1.6, show_legend=False))
    cross = hv.Points(missing, ["x", "y"], label="missing")
    parts.append(cross.opts(marker="x", color=theme.INK, size=15, line_width=3, show_legend=False))
    parts += _witness(places)
    pad = 0.09 * side
    fit = 400 / side.max() if 0.4 < side[0] / side[1] < 2.5 else None  # lengths are true, unless one code is far wider
    looks = {"width": 400, "height": 400} if fit is None else {"width": round(fit * side[0]), "height": round(fit * side[1])}
    looks |= {"xlim": (low[0] - pad[0], high[0] + pad[0]), "ylim": (low[1] - pad[1], high[1] + pad[1])}
    looks |= {"xlabel": axes[0], "ylabel": axes[1], "hooks": [theme.bare]}
    looks["note"] = _note(len(xy), len(shown), len(missing), places, unit)
    return theme.frame(hv.Overlay(parts), title=title, legend=name, **(looks | options))


def _points(table: pd.DataFrame, factor: np.ndarray | None, name: str) -> list[hv.Element]:
    looks = {"size": 4, "alpha": 0.7, "line_color": None, "tools": ["hover"], "hover_tooltips": [("row", "@row")]}
    if factor is None:
        points = hv.Points(table, ["x", "y"], "row", label="rows")
        return [points.opts(color=theme.CATEGORIES[0], show_legend=False, **looks)]
    scale, table = _scale(table.assign(factor=factor), "factor", name)
    if pd.api.types.is_float_dtype(factor):  # quantities have an order, however few they are
        table = table.assign(factor=factor)
        scale = {"color": "factor", "cmap": list(theme.RAMPS["layer"]), "colorbar": True, "clabel": name}
    looks["hover_tooltips"] = [("row", "@row"), (name, "@factor")]
    if not isinstance(scale["cmap"], dict):
        points = hv.Points(table, ["x", "y"], ["factor", "row"], label="rows")
        return [points.opts(show_legend=False, **looks, **scale)]
    return [
        hv.Points(table[table["factor"] == value], ["x", "y"], ["factor", "row"], label=value).opts(color=colour, **looks)
        for value, colour in scale["cmap"].items()
    ]


def _witness(places: np.ndarray) -> list[hv.Element]:
    if not len(places):
        return []
    line = hv.Segments([(*places[0], *places[1])], ["x0", "y0", "x1", "y1"], label="witness")
    line = line.opts(color=theme.INK, line_width=3)
    start, end = (hv.Points(places[[i]], ["x", "y"], label=label) for i, label in enumerate(("emptiest", "nearest")))
    start = start.opts(color=theme.PAPER, line_color=theme.INK, size=12, line_width=3)
    end = end.opts(color=theme.INK, line_color=theme.PAPER, size=12)
    rises = np.prod(places[1] - places[0]) > 0  # the words stand to the right of the line
    word = hv.Labels([(*places.mean(0), f" {_length(places):.2f}")], ["x", "y"], "words", label="length")
    look = {"text_color": theme.INK, "text_font_style": "bold", "text_font_size": theme.SIZE["label"]}
    word = word.opts(text_align="left", text_baseline="top" if rises else "bottom", **look)
    return [*(part.opts(show_legend=False) for part in (line, start, end)), word]


def _length(places: np.ndarray) -> float:
    return float(np.linalg.norm(places[0] - places[1]))


def _note(n: int, drawn: int, missing: int, places: np.ndarray, unit: str) -> str:
    said = f"N = {n:,}" + (f", of which {drawn:,} are drawn" if drawn < n else "")
    said += f". Dashed: all combinations of what the two take; ×: its corners that no row comes near ({missing} of 4)."
    if len(places):
        said += f" The line leads from its emptiest place to the nearest row; {_length(places):.2f} {unit}".rstrip() + " long."
    return said
