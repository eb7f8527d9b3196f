"""Two models side by side: how alike each layer of the one is to each layer of the other."""

from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from workbench.figures import theme

__all__ = ["similarity_map"]

WORDS = {"cka": "CKA", "mutual_knn": "shared neighbours"}
PRINTED = 16  # layers across, up to which the numbers fit their cells


def similarity_map(
    table: pd.DataFrame,
    *,
    rows: str = "layer",
    columns: str = "other",
    by: str | None = None,
    value: str = "value",
    null: str = "null",
    xlabel: str | None = None,
    ylabel: str | None = None,
    title: str = "",
    **options: Any,
) -> hv.Overlay | hv.Layout:
    """A cell a pair of layers, from 0 (white) to 1 (dark blue), the numbers printed; the first layers meet at the bottom left.

    A number that unrelated images reach too stands in brackets on grey; the note says what they reach.

    Arguments:
        table: Columns ``rows``, ``columns`` and ``value``, such as ``cka_map`` gives; where there is a column ``seed``, a cell
            is the mean over seeds.
        rows, columns, value: Which columns of the table are meant; layers keep their order.
        by: A column for each of whose values a map is drawn, side by side.
        null: The column with the value that unrelated images stay below, or come to on average (``"chance"``), if there is one.
        xlabel, ylabel: What the columns and the rows are, such as the names of two models.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty, or holds several values for one pair.
    """
    theme.ready()
    theme.need(table, [rows, columns, value, *([by] if by else [])], "similarity_map")
    if by:
        how = {"rows": rows, "columns": columns, "value": value, "null": null, "xlabel": xlabel, "ylabel": ylabel} | options
        parts = table.groupby(by, sort=False, observed=True)
        maps = [similarity_map(part, title=str(name), **how) for name, part in parts]
        return theme.row(maps, title=title, columns=2 if len(maps) == 4 else 3)
    theme.lone(table, [rows, columns], [value, null, "p", "null_map"])
    table = table if null in table else table.assign(**{null: np.nan})
    cells = table.groupby([rows, columns], sort=False, observed=True)[[value, null]].mean().reset_index()
    cells.columns = ["down", "across", "value", "null"]
    cells = cells.assign(printed=[_printed(*pair) for pair in cells[["value", "null"]].to_numpy()])
    cells = cells.assign(beyond=cells["value"].where(~(cells["value"] <= cells["null"])))
    cells[["down", "across"]] = cells[["down", "across"]].astype(str).astype(object)
    dims = [hv.Dimension(name, values=list(dict.fromkeys(cells[name]))) for name in ("across", "down")]
    wide, high = (len(dim.values) for dim in dims)
    tips = [(rows, "@down"), (columns, "@across"), (value, "@value{0.0000}")]
    unrelated = "unrelated images share" if null == "chance" else "unrelated images stay below"
    tips += [(unrelated, "@null{0.0000}")] if cells["null"].notna().any() else []
    heat = hv.HeatMap(cells, dims, ["beyond", "value", "null"]).opts(clipping_colors={"NaN": theme.GRID})
    heat = heat.opts(cmap=list(theme.DEEP), clim=(0, 1), colorbar=True, clabel=_measure(table, value))
    heat = heat.opts(line_color=theme.PAPER, line_width=1, tools=["hover"], hover_tooltips=tips)
    heat = heat.opts(xrotation=45 if max(map(len, dims[0].values)) > 4 else 0)
    words = [_words(cells, dims, dark=dark) for dark in (False, True) if wide <= PRINTED]
    looks = {"width": max(46 * wide, 260), "height": max(34 * high, 120), "note": _note(table, null)}
    looks |= {"xlabel": columns if xlabel is None else xlabel, "ylabel": rows if ylabel is None else ylabel}
    looks |= {"show_legend": False, "hooks": [theme.bare]} | options
    return theme.frame(hv.Overlay([heat, *words]), title=title, **looks)


def _printed(value: float, null: float) -> str:
    if not np.isfinite(value):
        return "–"
    text = f"{value:.2f}".replace("-0.00", "0.00")
    return f"({text})" if value <= null else text


def _words(cells: pd.DataFrame, dims: list[hv.Dimension], *, dark: bool) -> hv.Labels:
    """Returns the numbers of the dark or of the pale cells, in the colour that can be read there."""
    labels = hv.Labels(cells[(cells["value"] > 0.6) == dark], dims, "printed")
    return labels.opts(text_color=theme.PAPER if dark else theme.INK, text_font_size=theme.SIZE["note"])


def _measure(table: pd.DataFrame, value: str) -> str:
    said = list(dict.fromkeys(table["measure"])) if "measure" in table else []
    return " and ".join(WORDS.get(name, str(name)) for name in said) or value


def _note(table: pd.DataFrame, null: str) -> str:
    """N and the convention, then the null."""
    how = [h for h in dict.fromkeys(table["convention"].dropna()) if h] if "convention" in table else []
    lines = [", ".join(words for words in (theme.facts(table), "; ".join(how)) if words)]
    if table[null].notna().any() and null == "chance":
        lines.append(f"Unrelated images share {table[null].max():.2g}.")
    elif table[null].notna().any():
        low, high = table[null].min(), table[null].max()
        between = f"{high:.2g}" if f"{low:.2g}" == f"{high:.2g}" else f"{low:.2g} to {high:.2g} (by the pair)"
        often = f" in {table['level'].iloc[0]:.0%} of permutations" if "level" in table else ""
        anywhere = f", the largest of the whole map below {table['null_map'].max():.2g}" if "null_map" in table else ""
        lines.append(f"Unrelated images stay below {between}{often}{anywhere}.")
    return "\n".join(line for line in lines if line)
