"""A quantity over two settings, with its lowest place and the place where it ought to be lowest."""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import pandas as pd

from workbench.figures import theme

__all__ = ["landscape"]


def landscape(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    value: str = "value",
    truth: Sequence[tuple[float, float]] = (),
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A cell a pair of settings, the darker the lower; a ring at the lowest, a cross at each place where it ought to be.

    Arguments:
        table: Columns ``x``, ``y`` and ``value``, a row a cell; cells that are missing stay white.
        x, y, value: Which columns of the table are meant.
        truth: Places (x, y) that get a cross.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty or holds several values for one cell.
    """
    theme.ready()
    theme.need(table, [x, y, value], "landscape")
    theme.lone(table, [x, y], [value])
    cells = table[[x, y, value]].astype(float)
    heat = hv.HeatMap(cells, [x, y], value).opts(cmap=list(reversed(theme.DEEP)), colorbar=True, tools=["hover"])
    low = cells.loc[[cells[value].idxmin()], [x, y]]
    look = {"size": 15, "line_width": 3, "fill_alpha": 0}
    ring = hv.Points(low, [x, y], label="lowest").opts(marker="circle", color=theme.PAIR[1], **look)
    parts = [heat, ring]
    if len(truth):
        cross = hv.Points(list(truth), [x, y], label="where it ought to be")
        parts.append(cross.opts(marker="x", color=theme.CATEGORIES[4], size=13, line_width=3))
    looks = {"width": 430, "height": 380, "legend_position": "top_left", "hooks": [theme.bare]} | options
    return theme.frame(hv.Overlay(parts), title=title, **looks)
