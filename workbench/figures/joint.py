"""How often two factors take each two values together: what a correlation of factors looks like."""

from typing import Any

import holoviews as hv
import pandas as pd

from workbench.figures import theme

__all__ = ["joint_map"]


def joint_map(
    table: pd.DataFrame, *, x: str = "x", y: str = "y", share: str = "share", title: str = "", **options: Any
) -> hv.HeatMap:
    """A cell a combination of two factors' values, from 0 (white) to the most frequent (dark blue); what never occurs is white.

    Arguments:
        table: A row a combination that occurs: the two values, counted from 0, and its share of all images.
        x, y, share: Which columns are meant.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``xlabel``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If it is empty, or has several shares for one combination.
    """
    theme.ready()
    theme.need(table, [x, y, share], "joint_map")
    theme.lone(table, [x, y], [share])
    cells = pd.DataFrame({"across": table[x].astype(int), "up": table[y].astype(int), "share": 100 * table[share].astype(float)})
    most = {name: int(cells[name].max()) for name in ("across", "up")}
    heat = hv.HeatMap(cells, ["across", "up"], "share").opts(cmap=list(theme.DEEP), clim=(0, float(cells["share"].max())))
    tips = [("values", "@across, @up"), ("of all images", "@share{0.00} %")]
    heat = heat.opts(colorbar=False, line_color=theme.PAPER, line_width=1, tools=["hover"], hover_tooltips=tips)
    looks = {"width": 150, "height": 150, "xlabel": x, "ylabel": y, "hooks": [theme.bare]}
    looks |= {"xlim": (-0.5, most["across"] + 0.5), "ylim": (-0.5, most["up"] + 0.5), "xticks": 0, "yticks": 0}
    return theme.frame(heat, title=title, **(looks | options))
