"""Curves: spectra against their rank, and what a run logged against its steps.

The spectrum plot is that of Jing, Vincent, LeCun, Tian: Understanding dimensional collapse in contrastive self-supervised
learning (ICLR 2022, figures 2, 3 and 6), with the floor of the arithmetic drawn, below which nothing is physics.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import holoviews as hv
import numpy as np
import pandas as pd

from workbench.figures import theme

__all__ = ["float32_floor", "spectra", "spectra_range", "training_curves"]

EPSILON = float(np.finfo(np.float32).eps)


def float32_floor(values: np.ndarray | pd.Series, *, power: int = 2) -> float:
    """Returns the value below which a spectrum of float32 numbers is rounding alone: the largest of ``values`` * eps ** power.

    Arguments:
        values: A spectrum.
        power: 2 for eigenvalues of a covariance (squares of singular values), 1 for singular values.

    Example:
        >>> round(float(np.log(float32_floor(np.array([1.0])))), 1)
        -31.9
    """
    return float(np.max(values)) * EPSILON**power


def spectra_range(values: pd.Series, floor: float | None = None) -> tuple[float, float]:
    """Returns the range of a log axis that holds the values, and the floor where they come within six decades of it."""
    values = values[values > 0]
    if values.empty:
        return 1e-3, 1.0
    low = values.min()
    if floor and low < floor * 1e6:
        low = floor
    return low / 5, values.max() * 3


def spectra(
    table: pd.DataFrame,
    *,
    by: str = "layer",
    dash: str | None = None,
    floor: float | Literal["float32"] | None = "float32",
    marks: Mapping[str, float] | None = None,
    quantity: str = "eigenvalue of the covariance",
    colours: Mapping[Hashable, str] | None = None,
    ylim: tuple[float, float] | None = None,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """Sorted values against their rank on a log axis, a curve for each value of ``by``; over seeds, mean and spread.

    Arguments:
        table: Columns ``rank`` (from 1), ``value`` and ``by``; where there is a column ``seed``, the curve is the geometric
            mean over seeds and the band one standard deviation of the logarithm to either side.
        by: What the curves differ in: ``layer``, ``step``, ``run`` or any other column.
        dash: A second column in which they may differ: its first value is drawn solid, the next dashed, then dotted.
        floor: Drawn as a dashed line: a number, ``"float32"`` (see :func:`float32_floor`), or None for no line. Values below
            it, and those that a log axis cannot show, are drawn at a third of it.
        marks: Further dashed lines, by their words.
        quantity: What ``value`` is, for the axis.
        colours: By value of ``by``; those of :func:`palette` where None.
        ylim: Range of the values; by default :func:`spectra_range`.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width`` and ``height`` of the frame.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty or holds several spectra for one curve.
    """
    theme.ready()
    theme.need(table, [by, *([dash] if dash else []), "rank", "value"], "spectra")
    one = [by, "rank", *[c for c in (dash, "seed") if c in table]]
    if table.duplicated(one).any():
        others = [c for c in table if c not in (*one, "value") and table[c].nunique() > 1] or "the other columns"
        raise ValueError(f"several values for one {' and '.join(one)}: choose one value of {others}, or change by={by!r}")
    floor = float32_floor(table["value"]) if floor == "float32" else floor
    positive = table["value"][table["value"] > 0]
    least = floor / 3 if floor else float(positive.min(skipna=True)) / 3 if len(positive) else 1e-30
    last = int(table["rank"].max())
    parts = _lines(table, "rank", "value", by, dash, colours, least=least, points=32)
    marks = dict(marks or {}) | ({f"numerical floor {floor:.0e}": floor} if floor else {})
    parts += [part for words, value in marks.items() for part in _level(value, words, last)]
    looks = {"ylim": ylim or spectra_range(table["value"], floor), "xlim": (0.5, last + 0.5)} | options
    return theme.frame(hv.Overlay(parts), title=title, legend=by, logy=True, xlabel="rank", ylabel=quantity, **looks)


def training_curves(
    metrics: pd.DataFrame,
    *,
    values: Sequence[str] = ("loss",),
    by: str = "run",
    dash: str | None = None,
    x: str = "step",
    colours: Mapping[Hashable, str] | None = None,
    marker: float | None = None,
    points: int = 24,
    title: str = "",
    **options: Any,
) -> hv.Layout | hv.Overlay:
    """What runs logged against their steps, a plot for each of ``values``, a curve for each value of ``by``.

    Arguments:
        metrics: A row a logged step; columns ``x`` and ``values``, and, where several runs are overlaid, ``by``; where there
            is a column ``seed``, the curve is the mean over seeds and the band one standard deviation to either side.
        values: Columns to draw, each in its own plot; rows where a column is empty are left out of its plot.
        by: What the curves differ in.
        dash: A second column in which they may differ: its first value is drawn solid, the next dashed, then dotted.
        x: Column of the horizontal axis.
        colours: By value of ``by``.
        marker: Draws a vertical line at this ``x``.
        points: Curves of at most so many steps show each as a dot.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``, ``logx`` or ``ylim``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty.
    """
    theme.ready()
    metrics = metrics if by in metrics else metrics.assign(**{by: ""})
    theme.need(metrics, [x, *values, *([dash] if dash else [])], "training_curves")
    plots = []
    for i, name in enumerate(values):
        named = options.get("show_legend", i == len(values) - 1)
        known = colours or theme.palette(_kinds(metrics, by), by)
        parts = _lines(metrics.dropna(subset=[name]), x, name, by, dash, known, points=points, legend=named)
        parts = parts or [hv.Curve([], x, "middle").opts(show_legend=False)]
        if marker is not None:
            parts.append(hv.VLine(marker).opts(color=theme.INK, line_width=1.4, line_dash="dotted", show_legend=False))
        looks = {"width": 380, "height": 260, "show_legend": named} if len(values) > 1 else {"title": title}
        plots.append(theme.frame(hv.Overlay(parts), legend=by, xlabel=x, ylabel=name, **(looks | options)))
    return plots[0] if len(plots) == 1 else theme.row(plots, title=title)


def _kinds(table: pd.DataFrame, column: str | None) -> list[Hashable]:
    return list(dict.fromkeys(table[column])) if column else [None]


def _lines(
    table: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    dash: str | None,
    colours: Mapping[Hashable, str] | None,
    *,
    least: float | None = None,
    points: int = 24,
    legend: bool = True,
) -> list[hv.Element]:
    """The curves of all kinds and dashes: up to eight each an element of its own, more as one bundle a dash."""
    kinds = _kinds(table, by)
    colours = colours or theme.palette(kinds, by)
    number = "0.000e+0" if least else "0.0000"
    dashes = _kinds(table, dash)
    many = len(kinds) * len(dashes) > 8
    parts = []
    for style, which in zip(theme.DASHES, dashes, strict=False):
        rows = table[table[dash] == which] if dash else table
        curves = {kind: _over_seeds(rows[rows[by] == kind], x, y, least) for kind in kinds}
        curves = {kind: curve for kind, curve in curves.items() if len(curve)}
        if many:
            named = legend and style == "solid" and len(kinds) > 1
            parts += _bundle(curves, x, by, "" if which is None else f" ({which})", number, colours, style, named=named)
            continue
        for kind, curve in curves.items():
            looks = {"color": colours[kind], "line_dash": style, "show_legend": len(kinds) > 1 and style == "solid"}
            name = str(kind) if style == "solid" else f"{kind} ({which})"
            parts += _line(curve.assign(**{by: np.array(name, object)}), x, by, name, number, points=points, **looks)
    return parts


def _bundle(
    curves: Mapping[Hashable, pd.DataFrame],
    x: str,
    by: str,
    which: str,
    number: str,
    colours: Mapping[Hashable, str],
    style: str,
    *,
    named: bool,
) -> list[hv.Element]:
    """Many curves as one element, which is quick to draw; up to eight of them, from the first to the last, are named."""
    kinds = list(curves)
    paths = [
        {x: c[x].to_numpy(), "middle": c["middle"].to_numpy(), by: f"{k}{which}", "colour": colours[k]} for k, c in curves.items()
    ]
    tips = [(by, f"@{{{by}}}"), (x, "$snap_x{0,0}"), ("value", f"$snap_y{{{number}}}")]
    looks = {"line_width": 2.2, "line_dash": style, "tools": ["hover"], "hover_tooltips": tips, "show_legend": False}
    parts = [hv.Contours(paths, [x, "middle"], [by, "colour"], label=f"bundle {style}").opts(color=hv.dim("colour"), **looks)]
    places = range(len(kinds)) if len(kinds) <= 8 else [round(i) for i in np.linspace(0, len(kinds) - 1, 6)]
    for k in [kinds[i] for i in places] if named else []:
        start = curves[k][[x, "middle"]].iloc[:1]  # a point alone draws no line, but the legend shows its colour
        parts.append(hv.Curve(start, x, "middle", label=str(k)).opts(color=colours[k], line_width=2.6))
    return parts


def _over_seeds(table: pd.DataFrame, x: str, y: str, least: float | None) -> pd.DataFrame:
    """Columns x, middle, below, above, seeds: mean and deviation over seeds, of the logarithm if ``least``."""
    x_values, y_values = table[x].to_numpy(), table[y].to_numpy(float)
    y_values = np.log(np.maximum(y_values, least)) if least else y_values
    at, place, seeds = np.unique(x_values, return_inverse=True, return_counts=True)
    middle = np.bincount(place, y_values) / seeds
    squares = np.bincount(place, (y_values - middle[place]) ** 2)
    spread = np.sqrt(squares / np.maximum(seeds - 1, 1))
    back = np.exp if least else np.asarray
    below, above = back(middle) - back(middle - spread), back(middle + spread) - back(middle)
    return pd.DataFrame({x: at, "middle": back(middle), "below": below, "above": above, "seeds": seeds})


def _line(
    curve: pd.DataFrame, x: str, by: str, label: str, number: str, *, color: str, line_dash: str, show_legend: bool, points: int
) -> list[hv.Element]:
    """One curve with its band, where there are seeds, and its points, where there are few."""
    tips = [(by, f"@{{{by}}}"), (x, f"@{{{x}}}{{0,0}}"), ("value", f"@middle{{{number}}}"), ("seeds", "@seeds")]
    parts = []
    if (curve["seeds"] > 1).any():
        band = hv.Spread(curve, x, ["middle", "below", "above"], label=label)
        parts.append(band.opts(color=color, fill_alpha=0.18, line_alpha=0, show_legend=False, muted_alpha=0.03))
    looks = {"color": color, "muted_alpha": 0.12}
    line = hv.Curve(curve, x, ["middle", by, "seeds"], label=label)
    line = line.opts(line_width=2.6, line_dash=line_dash, show_legend=show_legend, tools=["hover"], hover_tooltips=tips, **looks)
    parts.append(line)
    if len(curve) <= points:
        parts.append(hv.Scatter(curve, x, ["middle", by, "seeds"], label=label).opts(size=6, show_legend=False, **looks))
    return parts


def _level(value: float, words: str, last: int) -> list[hv.Element]:
    line = hv.HLine(value, label="level").opts(color=theme.QUIET, line_dash="dashed", line_width=1.6, show_legend=False)
    note = hv.Text(0.5 + last * 0.02, value * 1.2, words, halign="left", valign="bottom")
    return [line, note.opts(color=theme.QUIET, text_font_size=theme.SIZE["note"])]
