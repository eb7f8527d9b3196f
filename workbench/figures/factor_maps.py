"""What each code holds of each factor: a row a code, a column a factor."""

from collections.abc import Hashable
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd
from bokeh.models import BoxAnnotation

from workbench.figures import theme

__all__ = ["factor_map"]

PRINTED = 240  # cells up to which the numbers are printed


def factor_map(
    table: pd.DataFrame,
    *,
    code: str = "code",
    factor: str = "factor",
    value: str = "value",
    by: str | None = None,
    dead: str = "dead",
    framed: Hashable | None = None,
    quantity: str = "",
    top: float | None = None,
    title: str = "",
    **options: Any,
) -> hv.Overlay | hv.Layout:
    """A cell a code and factor, from 0 (white) to the greatest number (dark blue), printed where there are few; dead codes grey.

    A separated representation has one dark cell a row and one a column.

    Arguments:
        table: Columns ``code``, ``factor`` and ``value``; codes stand in their order from above, factors from the left. Where
            there is a column ``seed``, a cell is the mean over seeds.
        code, factor, value: Which columns of the table are meant.
        by: A column for each of whose values (runs, say) a map is drawn, side by side, all of one scale.
        dead: The column that says which codes are dead, if there is one: their row is grey, whatever it holds.
        framed: A code that gets a frame.
        quantity: What the numbers are, with their unit.
        top: The number that is darkest; by default the greatest of the table.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty, holds several or negative values for one cell, or has no code ``framed``.

    Example:
        Mutual information or importances, as measures hold them::

            matrix = wb.mig(codes, factors).matrix  # or that of wb.dci
            wb.factor_map(matrix.reset_index().melt("code", var_name="factor"), quantity="mutual information (nats)")
    """
    theme.ready()
    theme.need(table, [code, factor, value, *([by] if by else [])], "factor_map")
    if table[value].min() < 0:
        raise ValueError(f"factor_map shows what is at least 0, but got {table[value].min():g}; give absolute values")
    if framed is not None and framed not in set(table[code]):
        raise ValueError(f"there is no code {framed!r} to frame; there are {list(dict.fromkeys(table[code]))}")
    top = float(table[value].max() if top is None else top) or 1.0
    if by:
        how = {"code": code, "factor": factor, "value": value, "dead": dead, "quantity": quantity} | options
        maps = []
        for name, part in table.groupby(by, sort=False, observed=True):
            own = framed if framed in set(part[code]) else None  # not every run has it
            maps.append(factor_map(part, top=top, framed=own, title=str(name), **how))
        return theme.row(maps, title=title, columns=2 if len(maps) == 4 else 3)
    theme.lone(table, [code, factor], [value, dead])
    table = table if dead in table else table.assign(**{dead: False})
    cells = table.groupby([code, factor], sort=False, observed=True).agg(value=(value, "mean"), dead=(dead, "all")).reset_index()
    cells.columns = ["down", "across", "value", "dead"]
    row = list(dict.fromkeys(cells["down"])).index(framed) if framed is not None else None
    names = {name: f"{name} (dead)" if gone else str(name) for name, gone in cells[["down", "dead"]].to_numpy()}
    cells = cells.assign(down=cells["down"].map(names), across=cells["across"].astype(str))
    cells = cells.assign(alive=cells["value"].where(~cells["dead"]))
    cells = cells.assign(printed=[f"{v:.2f}" if np.isfinite(v) else "–" for v in cells["value"]])
    cells[["down", "across", "printed"]] = cells[["down", "across", "printed"]].astype(object)
    across = hv.Dimension("across", values=list(dict.fromkeys(cells["across"])))
    down = hv.Dimension("down", values=list(names.values())[::-1])
    wide, high = len(across.values), len(down.values)
    heat = hv.HeatMap(cells, [across, down], ["alive", "value"]).opts(clipping_colors={"NaN": theme.GRID})
    tips = [(code, "@down"), (factor, "@across"), (quantity or value, "@value{0.000}")]
    heat = heat.opts(cmap=list(theme.DEEP), clim=(0, top), colorbar=wide * high > PRINTED, clabel=" ")
    heat = heat.opts(line_color=theme.PAPER, line_width=2, tools=["hover"], hover_tooltips=tips)
    words = [_words(cells, [across, down], top, dark=dark) for dark in (False, True) if wide * high <= PRINTED]
    hooks = [theme.bare, *([] if row is None else [lambda plot, element: frame_row(plot, high - 1 - row, wide)])]
    looks = {
        "width": max(52 * wide, 260),
        "height": max(28 * high, 76),
        "xrotation": 40,
        "note": ", ".join(filter(None, [quantity, theme.facts(table)])),
    }
    looks |= {"xaxis": "top", "xlabel": "", "ylabel": code, "show_legend": False, "hooks": hooks} | options
    return theme.frame(hv.Overlay([heat, *words]), title=title, **looks)


def _words(cells: pd.DataFrame, dims: list[hv.Dimension], top: float, *, dark: bool) -> hv.Labels:
    """Returns the numbers of the dark or of the pale cells, in the colour that can be read there."""
    labels = hv.Labels(cells[(cells["alive"] > 0.6 * top) == dark], dims, "printed")
    return labels.opts(text_color=theme.PAPER if dark else theme.INK, text_font_size=theme.SIZE["note"])


def frame_row(plot: Any, row: int, wide: int) -> None:
    """Draws a frame around a row (from below) of a drawn :func:`factor_map` of ``wide`` factors; called again, it moves it."""
    figure = plot.handles["plot"]
    frames = [part for part in figure.center if isinstance(part, BoxAnnotation) and part.name == "framed"]
    if not frames:
        looks = {"fill_alpha": 0, "line_width": 3.5, "line_alpha": 1, "line_color": theme.PAIR[1]}
        frames = [BoxAnnotation(name="framed", **looks)]
        figure.add_layout(frames[0])
    frames[0].update(left=0, right=wide, bottom=row, top=row + 1)
