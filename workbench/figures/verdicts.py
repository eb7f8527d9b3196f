"""Numbers beside what they ought to be: a table in which the wrong ones stand out."""

from typing import Any

import holoviews as hv
import pandas as pd

from workbench.figures import theme

__all__ = ["verdict_table"]

MARKS = {"right": "", "too high": "▲ ", "too low": "▼ "}


def verdict_table(
    table: pd.DataFrame,
    *,
    rows: str = "code",
    columns: str = "measure",
    value: str = "value",
    verdict: str = "verdict",
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A cell a row and column, its number printed: grey where it is what it ought to be, ▲ orange too high, ▼ blue too low.

    Arguments:
        table: Columns ``rows``, ``columns``, ``value`` and ``verdict`` (``"right"``, ``"too high"`` or ``"too low"``); rows and
            columns keep their order, first on top and left.
        rows, columns, value, verdict: Which columns of the table are meant.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty, holds several values for one cell, or has another verdict.
    """
    theme.ready()
    theme.need(table, [rows, columns, value, verdict], "verdict_table")
    theme.lone(table, [rows, columns], [value, verdict])
    unknown = sorted(set(table[verdict]) - set(MARKS))
    if unknown:
        raise ValueError(f"a verdict is one of {list(MARKS)}, but got {unknown}")
    printed = [f"{MARKS[said]}{number:.2f}" for number, said in table[[value, verdict]].to_numpy()]
    cells = pd.DataFrame({"across": table[columns].astype(str), "down": table[rows].astype(str), "printed": printed})
    cells = cells.assign(said=[list(MARKS).index(said) for said in table[verdict]], verdict=list(table[verdict]))
    cells[["across", "down", "printed", "verdict"]] = cells[["across", "down", "printed", "verdict"]].astype(object)
    across = hv.Dimension("across", values=list(dict.fromkeys(cells["across"])))
    down = hv.Dimension("down", values=list(dict.fromkeys(cells["down"]))[::-1])
    heat = hv.HeatMap(cells, [across, down], ["said", "verdict", "printed"])
    tips = [(rows, "@down"), (columns, "@across"), (value, "@printed"), ("verdict", "@verdict")]
    looks = {"line_color": theme.PAPER, "line_width": 3, "tools": ["hover"], "hover_tooltips": tips, "colorbar": False}
    heat = heat.opts(cmap=[theme.GRID, *theme.WRONG], clim=(0, len(MARKS) - 1), **looks)
    words = hv.Labels(cells, [across, down], "printed").opts(text_color=theme.INK, text_font_size=theme.SIZE["tick"])
    note = "grey: as it ought to be; ▲ orange: too high; ▼ blue: too low"
    size = {"width": max(64 * len(across.values), 300), "height": max(34 * len(down.values), 76), "note": note}
    size |= {"xaxis": "top", "xlabel": "", "ylabel": "", "xrotation": 40, "show_legend": False, "hooks": [theme.bare]} | options
    return theme.frame(heat * words, title=title, **size)
