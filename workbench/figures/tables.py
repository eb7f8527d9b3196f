"""Tables and matrices as heat-maps with their numbers printed."""

from collections.abc import Sequence
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from workbench.figures import theme

__all__ = ["alignment_map", "layer_table"]

HEADING = 7.2  # of a column's heading, on average a letter, in screen pixels
LETTER = 9.0  # of a number


def layer_table(
    table: pd.DataFrame,
    *,
    rows: str = "layer",
    columns: str = "measure",
    value: str = "value",
    digits: int = 3,
    least: Sequence[str] = (),
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A row a layer, a column a measure (or factor), the numbers printed, each column darker from its least to its greatest.

    Below stands what the table says of N and D, and of the convention of each measure.

    Arguments:
        table: Columns ``rows``, ``columns`` and ``value``; where there is a column ``seed``, a cell shows mean and standard
            deviation over seeds, else, where there are columns ``low`` and ``high``, the interval.
        rows, columns, value: Which columns of the table are meant; rows and columns keep their order, first on top and left.
        digits: Significant digits printed; a deviation has the decimal places of its mean.
        least: Columns in which the least is the darkest, such as ranks.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty, or holds several values for one cell.
    """
    theme.ready()
    theme.need(table, [rows, columns, value], "layer_table")
    theme.lone(table, [rows, columns], [value])
    table = table.assign(**{c: np.nan for c in ("low", "high") if c not in table})
    wanted = {
        "mean": (value, "mean"),
        "std": (value, "std"),
        "size": (value, "size"),
        "low": ("low", "min"),
        "high": ("high", "max"),
    }
    cells = table.groupby([rows, columns], sort=False, observed=True).agg(**wanted).reset_index()
    spans = cells.groupby(columns, observed=True)["mean"].agg(["min", "max"]).loc[cells[columns]].to_numpy()
    width = spans[:, 1] - spans[:, 0]
    share = np.divide(cells["mean"] - spans[:, 0], width, out=np.full(len(cells), 0.5), where=width > 0)
    share = np.where(cells[columns].isin(least), 1 - share, share)
    cells = cells.assign(share=share, printed=[_printed(*cell, digits) for cell in cells[[*wanted]].to_numpy()])
    cells[[rows, columns, "printed"]] = cells[[rows, columns, "printed"]].astype(str).astype(object)
    down, across = list(dict.fromkeys(cells[rows]))[::-1], list(dict.fromkeys(cells[columns]))
    across_dim, down_dim = hv.Dimension(columns, values=across), hv.Dimension(rows, values=down)
    heat = hv.HeatMap(cells, [across_dim, down_dim], "share")
    heat = heat.opts(cmap=list(theme.PALE), clim=(0, 1), colorbar=False, line_color=theme.PAPER, line_width=3)
    words = hv.Labels(cells, [across_dim, down_dim], "printed")
    words = words.opts(text_color=theme.INK, text_font_size=theme.SIZE["label"])
    wide, high = (150, 52) if cells["printed"].str.contains("\n").any() else (90, 38)
    wide = max(wide, int(LETTER * cells["printed"].str.split("\n").explode().str.len().max()))
    room = max(wide, options.get("width", 0) / len(across))
    tilted = 35 if max(map(len, across)) * HEADING > room else 0  # or one heading would run into the next
    looks = {"width": max(wide * len(across), 300), "height": max(high * len(down), 76), "note": _note(table, rows, columns)}
    looks |= {"xaxis": "top", "xlabel": "", "ylabel": "", "xrotation": tilted, "show_legend": False, "hooks": [theme.bare]}
    return theme.frame(heat * words, title=title, **(looks | options))


def _printed(mean: float, spread: float, n: float, low: float, high: float, digits: int) -> str:
    if not np.isfinite(mean):
        return "–"
    text = _number(mean, digits)
    if n > 1 and spread > 0:
        first = int(np.floor(np.log10(abs(mean)))) if mean else 0
        last = digits - 1 - first  # the decimal place of the last digit; below 0 that of tens, of hundreds
        last = last if last >= 0 else min(max(last, -int(np.floor(np.log10(spread)))), 0)  # 103 ± 5, not 100 ± 0
        return " ± ".join(f"{round(x, last):,.{max(last, 0)}f}" for x in (mean, spread))
    return f"{text}\n{_number(low, digits)} to {_number(high, digits)}" if np.isfinite([low, high]).all() else text


def _number(value: float, digits: int) -> str:
    """Returns so many significant digits, thousands set apart."""
    return f"{float(f'{value:.{digits}g}'):,.12g}"


def _note(table: pd.DataFrame, rows: str, columns: str) -> str:
    """N and D, then a line a column: its convention, where it has one."""
    seeds = table["seed"].nunique() if "seed" in table else 0
    lines = [theme.facts(table, rows), f"mean ± one standard deviation over {seeds} seeds" if seeds > 1 else ""]
    if "convention" in table:
        said = table[[columns, "convention"]].dropna().drop_duplicates()
        lines += [f"{name}: {how}" for name, how in said[said["convention"] != ""].to_numpy()]
    return "\n".join(line for line in lines if line)


def alignment_map(
    matrix: np.ndarray,
    *,
    xlabel: str = "left singular vector of the first layer",
    ylabel: str = "right singular vector of the second layer",
    width: int = 340,
    title: str = "",
    **options: Any,
) -> hv.Image:
    """The absolute values of an alignment matrix, from 0 (white) to 1, first row on top.

    Arguments:
        matrix: (n, m) of cosines between two bases; V2^T U1 for two linear layers.
        xlabel, ylabel: What columns and rows are.
        width: Of the frame, in screen pixels; the cells are squares.
        title: What the figure shows, as a statement.
        options: Further HoloViews options.

    Raises:
        ValueError: If it is not a matrix.
    """
    theme.ready()
    matrix = np.abs(np.asarray(matrix, dtype=float))
    if matrix.ndim != 2:
        raise ValueError(f"alignment_map needs a matrix (rows, columns), but got an array of shape {matrix.shape}")
    n, m = matrix.shape
    image = hv.Image((np.arange(1, m + 1), np.arange(1, n + 1), matrix), ["column", "row"], "|cosine|")
    looks = {
        "cmap": list(theme.DEEP),
        "clim": (0, 1),
        "colorbar": True,
        "invert_yaxis": True,
        "tools": ["hover"],
        "hooks": [theme.bare],
    }
    return theme.frame(
        image, title=title, xlabel=xlabel, ylabel=ylabel, width=width, height=round(width * n / m), **(looks | options)
    )
