"""Curves: spectra against their rank, and what a run logged against its steps.

The spectrum plot is that of Jing, Vincent, LeCun, Tian: Understanding dimensional collapse in contrastive self-supervised
learning (ICLR 2022, figures 2, 3 and 6), with the floor of each curve drawn, below which it is the rounding of the features.
"""

from collections.abc import Hashable, Mapping, Sequence
from typing import Any, Literal

import holoviews as hv
import numpy as np
import pandas as pd

from workbench.figures import theme

__all__ = ["spectra", "spectra_range", "training_curves"]

NOTHING = float(np.finfo(np.float64).eps) ** 2
NEAR = 1e3  # times its floor, below which a value comes near it


def spectra_range(table: pd.DataFrame) -> tuple[float, float]:
    """Returns the range of a log axis that holds the values of a table of spectra, and the floors that they come near.

    Values under 5e-32 of the largest, which is nothing to arithmetic in float64, do not stretch it.

    Arguments:
        table: Column ``value``; where there is a column ``floor``, those are held that lie less than three decades below a
            positive value.
    """
    value = table["value"]
    top = value.max()
    if not top > 0:
        return 1e-3, 1.0
    low = value[value >= top * NOTHING].min() / 5
    if "floor" in table and (near := (table["floor"] > 0) & (value > 0) & (value < NEAR * table["floor"])).any():
        low = min(low, table["floor"][near].min() / 50)  # with room for its name
    return low, top * 3


def spectra(
    table: pd.DataFrame,
    *,
    by: str | None = None,
    dash: str | None = None,
    floor: float | Literal["table"] | None = "table",
    marks: Mapping[str, float] | None = None,
    quantity: str | None = None,
    colours: Mapping[Hashable, str] | None = None,
    ylim: tuple[float, float] | None = None,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """Sorted values against their rank on a log axis, a curve for each value of ``by``; over seeds, mean and spread.

    Below the figure stands what the table says of N and D, and of floors that lie below what is drawn.

    Arguments:
        table: Columns ``rank`` (from 1), ``value`` and ``by``, such as those of ``spectrum``, ``over_layers``, ``replay``; rows
            without a rank are left out. Where there is a column ``seed``, the curve is the geometric mean over seeds and the
            band one standard deviation of the logarithm to either side.
        by: What the curves differ in: ``layer``, ``step``, ``run`` or any other column. By default ``layer``, where there is that
            column; else the table is one curve.
        dash: A second column in which they may differ: its first value is drawn solid, the next dashed, dotted, dash-dotted.
        floor: The value under which a curve is rounding, drawn as a thin line in its colour (grey where all have the same):
            ``"table"`` for the column ``floor``, where there is one; a number for all; or None for no line.
        marks: Further dashed lines, by their words.
        quantity: What ``value`` is, for the axis; by default the table's ``convention``.
        colours: By value of ``by``; those of :func:`palette` where None.
        ylim: Range of the values; by default :func:`spectra_range`.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width`` and ``height`` of the frame.

    Zeros and negative values, which have no place on a log axis, are drawn below the floor of their curve, at a third of it;
    without a floor at a third of the least value; a curve that ends in zeros falls out of the figure where its floor does.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty, holds several spectra for one curve, or ``dash`` has more values than there are styles.
    """
    theme.ready()
    table, by = _named(table, by, "layer")
    theme.need(table, [by, *([dash] if dash else []), "rank", "value"], "spectra")
    table = table[table["rank"].notna()]
    theme.need(table, [], "spectra")
    theme.lone(table, [by, dash, "rank"])
    table = table if floor == "table" else table.assign(floor=np.nan if floor is None else floor)
    curve, last = [by, *([dash] if dash else [])], int(table["rank"].max())
    colours = colours or theme.palette(_kinds(table, by), by)
    parts = _lines(table.assign(value=_drawable(table, curve)), "rank", "value", by, dash, colours, log=True)
    parts += _floors(table, curve, colours, last)
    parts += [part for words, value in (marks or {}).items() for part in _level(value, words, last)]
    ylim = ylim or spectra_range(table)
    looks = {"ylim": ylim, "xlim": (0.5, last + 0.5), "note": _note(table, by, ylim[0])}
    looks |= {"xlabel": "rank", "ylabel": quantity or _convention(table)} | options
    return theme.frame(hv.Overlay(parts), title=title, legend=by, logy=True, **looks)


def training_curves(
    metrics: pd.DataFrame,
    *,
    values: Sequence[str] = ("loss",),
    by: str | None = None,
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
            is a column ``seed``, the curve is the mean over seeds and the band one standard deviation to either side. Of
            columns ``n`` and ``d`` the small print below tells.
        values: Columns to draw, each in its own plot; rows where a column is empty are left out of its plot.
        by: What the curves differ in; by default ``run``, where there is that column; else the table is one curve.
        dash: A second column in which they may differ: its first value is drawn solid, the next dashed, dotted, dash-dotted.
        x: Column of the horizontal axis.
        colours: By value of ``by``.
        marker: Draws a vertical line at this ``x``.
        points: Where there are at most so many steps, each is a dot too.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``, ``logx`` or ``ylim``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty, holds several values for one place, or ``dash`` has more values than there are styles.
    """
    theme.ready()
    metrics, by = _named(metrics, by, "run")
    theme.need(metrics, [x, *values, by, *([dash] if dash else [])], "training_curves")
    plots = []
    for i, name in enumerate(values):
        named = options.get("show_legend", i == len(values) - 1)
        known = colours or theme.palette(_kinds(metrics, by), by)
        logged = metrics.dropna(subset=[name])
        theme.lone(logged, [by, dash, x], values)
        parts = _lines(logged, x, name, by, dash, known, points=points, legend=named)
        parts = parts or [hv.Curve([], x, "middle").opts(show_legend=False)]
        if marker is not None:
            parts.append(hv.VLine(marker).opts(color=theme.INK, line_width=1.4, line_dash="dotted", show_legend=False))
        looks = {"width": 380, "height": 260, "show_legend": named} if len(values) > 1 else {"title": title}
        looks["note"] = "\n".join(filter(None, [theme.facts(logged, by), _bands(parts)]))
        looks |= {"xlabel": x, "ylabel": name, "padding": (0.02, 0.1)}
        plots.append(theme.frame(hv.Overlay(parts), legend=by, **(looks | options)))
    return plots[0] if len(plots) == 1 else theme.row(plots, title=title)


def _bands(parts: Sequence[hv.Element]) -> str:
    """What the bands are, where there are any."""
    seeds = max((int(part.data["seeds"].max()) for part in parts if isinstance(part, hv.Spread)), default=0)
    return f"bands: one standard deviation over {seeds} seeds" if seeds else ""


def _named(table: pd.DataFrame, by: str | None, usual: str) -> tuple[pd.DataFrame, str]:
    """The column that the curves differ in, and the table with it, should it be one curve without a name."""
    return (table, by or usual) if by or usual in table else (table.assign(**{usual: ""}), usual)


def _drawable(table: pd.DataFrame, curve: list[str]) -> pd.Series:
    """The values; those that a log axis cannot show at a third of the floor, or of the least value, of their curve."""
    value = table["value"].astype(float)
    least = value.where(value > 0).groupby([table[c] for c in curve], dropna=False).transform("min")
    least = np.fmin(least, table["floor"].where(table["floor"] > 0)) if "floor" in table else least
    return value.where(~(value <= 0), least.fillna(3e-30) / 3)


def _floors(table: pd.DataFrame, curve: list[str], colours: Mapping[Hashable, str], last: int) -> list[hv.Element]:
    """A thin line a curve as far as it reaches, and a word below the lowest."""
    known = table[table["floor"] > 0] if "floor" in table else table[:0]
    if known.empty:
        return []
    known = known.groupby(curve, sort=False, observed=True).agg(at=("floor", "max"), end=("rank", "max"))
    low, high = known["at"].min(), known["at"].max()
    same = high < 1.05 * low
    kinds = known.index.get_level_values(0)
    paths = [
        {"rank": np.array([0.5, end + 0.5]), "middle": np.array([at, at]), "colour": theme.QUIET if same else colours[kind]}
        for kind, at, end in zip(kinds, known["at"], known["end"], strict=True)
    ]
    lines = hv.Contours(paths, ["rank", "middle"], ["colour"], label="floor")
    lines = lines.opts(color=hv.dim("colour"), line_dash="dashed", line_width=1.6, show_legend=False)
    return [lines, _words(low / 1.2, _floor_words(low, high), last, valign="top")]


def _floor_words(low: float, high: float) -> str:
    return f"numerical floor {low:.0e}" if high < 1.05 * low else f"numerical floors {low:.0e} to {high:.0e}"


def _note(table: pd.DataFrame, by: str, low: float) -> str:
    """N and D, and the floors, if their name stands below ``low``, where nothing is drawn."""
    known = table["floor"][table["floor"] > 0] if "floor" in table else table["value"][:0]
    said = [f"{_floor_words(known.min(), known.max())}, below what is drawn"] if len(known) and known.min() <= low else []
    return "; ".join(filter(None, [theme.facts(table, by), *said]))


def _convention(table: pd.DataFrame) -> str:
    """What the values are, where the table says one thing of it."""
    said = set(table["convention"].dropna()) - {""} if "convention" in table else ()
    return next(iter(said)).replace(", ", ",\n", 1) if len(said) == 1 else "value"


def _kinds(table: pd.DataFrame, column: str | None) -> list[Hashable]:
    return list(dict.fromkeys(table[column])) if column else [None]


def _lines(
    table: pd.DataFrame,
    x: str,
    y: str,
    by: str,
    dash: str | None,
    colours: Mapping[Hashable, str],
    *,
    log: bool = False,
    points: int = 24,
    legend: bool = True,
) -> list[hv.Element]:
    """The curves of all kinds and dashes: up to eight each an element of its own, more as one bundle a dash."""
    kinds, dashes = _kinds(table, by), _kinds(table, dash)
    if len(dashes) > len(theme.DASHES):
        raise ValueError(
            f"dash={dash!r} has {len(dashes)} values, but there are {len(theme.DASHES)} styles of line; "
            f"draw by={dash!r}, or choose some of {dashes}"
        )
    number = "0.000e+0" if log else "0.0000"
    many = len(kinds) * len(dashes) > 8
    points = points if table[x].nunique() <= points else 0  # dots on the short curves alone would look like a difference
    parts = []
    for style, which in zip(theme.DASHES, dashes, strict=False):
        rows = table[table[dash] == which] if dash else table
        curves = {kind: _over_seeds(rows[rows[by] == kind], x, y, log=log) for kind in kinds}
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


def _over_seeds(table: pd.DataFrame, x: str, y: str, *, log: bool) -> pd.DataFrame:
    """Columns x, middle, below, above, seeds: mean and deviation over seeds, of the logarithm if ``log``."""
    x_values, y_values = table[x].to_numpy(), table[y].to_numpy(float)
    y_values = np.log(y_values) if log else y_values
    at, place, seeds = np.unique(x_values, return_inverse=True, return_counts=True)
    middle = np.bincount(place, y_values) / seeds
    squares = np.bincount(place, (y_values - middle[place]) ** 2)
    spread = np.sqrt(squares / np.maximum(seeds - 1, 1))
    back = np.exp if log else np.asarray
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
    return [line, _words(value * 1.2, words, last)]


def _words(value: float, words: str, last: int, *, valign: str = "bottom") -> hv.Text:
    note = hv.Text(0.5 + last * 0.02, value, words, halign="left", valign=valign)
    return note.opts(color=theme.QUIET, text_font_size=theme.SIZE["note"])
