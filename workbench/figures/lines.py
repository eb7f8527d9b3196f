"""Curves: spectra against their rank, and what a run logged against its steps.

The spectrum plot is that of Jing, Vincent, LeCun, Tian: Understanding dimensional collapse in contrastive self-supervised
learning (ICLR 2022, figures 2, 3 and 6), with the floor of the arithmetic drawn, below which nothing is physics.
"""

from collections.abc import Hashable, Sequence
from typing import Literal

import holoviews as hv
import numpy as np
import pandas as pd

from workbench.figures import theme

__all__ = ["float32_floor", "spectra", "training_curves"]

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


def spectra(
    table: pd.DataFrame,
    *,
    by: str = "layer",
    floor: float | Literal["float32"] | None = "float32",
    quantity: str = "eigenvalue of the covariance",
    colours: dict[Hashable, str] | None = None,
    ylim: tuple[float, float] | None = None,
    title: str = "",
    **options: object,
) -> hv.Overlay:
    """Sorted values against their rank on a log axis, a curve for each value of ``by``; over seeds, mean and spread.

    Arguments:
        table: Columns ``rank`` (from 1), ``value`` and ``by``; where there is a column ``seed``, the curve is the geometric
            mean over seeds and the band one standard deviation of the logarithm to either side.
        by: What the curves differ in: ``layer``, ``step``, ``run`` or any other column.
        floor: Drawn as a dashed line: a number, ``"float32"`` (see :func:`float32_floor`), or None for no line. Values at
            or below zero, which a log axis cannot show, are drawn half a decade below the floor.
        quantity: What ``value`` is, for the axis.
        colours: By value of ``by``; those of :func:`palette` where None.
        ylim: Range of the values; from the data and, where they come near, the floor.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty or holds several spectra for one curve.
    """
    theme.ready()
    theme.need(table.columns, ["rank", "value", by], "spectra")
    if table.empty:
        raise ValueError("spectra got a table without rows; take the spectrum of at least one layer")
    one = [by, "rank", *(["seed"] if "seed" in table else [])]
    if table.duplicated(one).any():
        others = [c for c in table if c not in (*one, "value") and table[c].nunique() > 1]
        raise ValueError(
            f"several values for one {' and '.join(one)}: choose one value of {others or 'the other columns'}, or change by={by!r}"
        )
    bottom = float32_floor(table.value) if floor == "float32" else floor
    positive = table.value[table.value > 0]
    least = bottom / 3 if bottom else (positive.min() / 3 if len(positive) else 1e-30)
    kinds = list(dict.fromkeys(table[by]))
    colours = colours or theme.palette(kinds, by)
    shown = set(kinds) if len(kinds) <= 8 else {kinds[round(i)] for i in np.linspace(0, len(kinds) - 1, 6)}
    parts = []
    for kind in kinds:
        curve = _over_seeds(table[table[by] == kind], "rank", "value", least)
        parts += _line(curve, "rank", by, kind, colours[kind], legend=kind in shown and len(kinds) > 1)
    if bottom:
        parts += _floor(bottom, int(table["rank"].max()), "float32 floor" if floor == "float32" else "numerical floor")
    ylim = ylim or spectra_range(table.value, bottom)
    top = int(table["rank"].max())
    return theme.frame(
        hv.Overlay(parts),
        title=title,
        logy=True,
        xlabel="rank",
        ylabel=quantity,
        ylim=ylim,
        xlim=(0.5, top + 0.5),
        legend_opts={"title": by},
        **options,
    )


def spectra_range(values: pd.Series, floor: float | None) -> tuple[float, float]:
    """Returns the range of a log axis that holds the values, and the floor where they come within six decades of it."""
    values = values[values > 0]
    if values.empty:
        return 1e-3, 1.0
    low = values.min()
    if floor:
        low = floor if low < floor * 1e6 else low
    return low / 5, values.max() * 3


def _over_seeds(table: pd.DataFrame, x: str, y: str, least: float | None) -> pd.DataFrame:
    """Columns x, middle, below, above: mean and one standard deviation over seeds, of the logarithm where ``least`` is given."""
    values = table[y].astype(float)
    values = np.log(values.clip(lower=least)) if least else values
    groups = values.groupby(table[x])
    middle, spread = groups.mean(), groups.std(ddof=1).fillna(0)
    out = pd.DataFrame(
        {"middle": middle, "low": middle - spread, "high": middle + spread, "spread": spread, "seeds": groups.size()}
    )
    if least:
        out[["middle", "low", "high"]] = np.exp(out[["middle", "low", "high"]])
    out["below"], out["above"] = out.middle - out.low, out.high - out.middle
    return out.rename_axis(x).reset_index()


def _line(
    curve: pd.DataFrame, x: str, by: str, kind: Hashable, colour: str, *, legend: bool, points: int = 32
) -> list[hv.Element]:
    """One curve with its band, and its points where there are few."""
    curve = curve.assign(**{by: str(kind)})
    value = "@middle{0.000e+0}" if legend is not None else "@middle"
    tips = [(by, f"@{{{by}}}"), (x, f"@{{{x}}}{{0,0}}"), ("value", value)]
    parts = []
    if (curve.seeds > 1).any():
        tips.append(("seeds", "@seeds"))
        band = hv.Spread(curve, x, ["middle", "below", "above"], label=str(kind))
        parts.append(band.opts(color=colour, fill_alpha=0.18, line_alpha=0, show_legend=False, muted_alpha=0.03))
    line = hv.Curve(curve, x, ["middle", by, "seeds"], label=str(kind))
    parts.append(
        line.opts(color=colour, line_width=2.6, muted_alpha=0.12, show_legend=legend, tools=["hover"], hover_tooltips=tips)
    )
    if len(curve) <= points:
        dots = hv.Scatter(curve, x, ["middle", by, "seeds"], label=str(kind))
        parts.append(dots.opts(color=colour, size=6, muted_alpha=0.12, show_legend=False))
    return parts


def _floor(value: float, last: int, words: str) -> list[hv.Element]:
    line = hv.HLine(value, label="floor").opts(color=theme.QUIET, line_dash="dashed", line_width=1.6, show_legend=False)
    note = hv.Text(0.5 + last * 0.02, value * 1.2, f"{words}, {value:.0e}", halign="left", valign="bottom")
    return [line, note.opts(color=theme.QUIET, text_font_size=theme.SIZE["note"])]


def training_curves(
    metrics: pd.DataFrame,
    *,
    values: Sequence[str] = ("loss",),
    by: str = "run",
    x: str = "step",
    colours: dict[Hashable, str] | None = None,
    marker: float | None = None,
    title: str = "",
    **options: object,
) -> hv.Layout | hv.Overlay:
    """What runs logged against their steps, a plot for each of ``values``, a curve for each value of ``by``.

    Arguments:
        metrics: A row a logged step; columns ``x`` and ``values``, and, where several runs are overlaid, ``by``; where there
            is a column ``seed``, the curve is the mean over seeds and the band one standard deviation to either side.
        values: Columns to draw, each in its own plot; rows where a column is empty are left out of its plot.
        by: What the curves differ in.
        x: Column of the horizontal axis.
        colours: By value of ``by``.
        marker: Draws a vertical line at this ``x``.
        title: What the figure shows, as a statement; over the first plot.
        options: Further HoloViews options, such as ``width``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty.
    """
    theme.ready()
    theme.need(metrics.columns, [x, *values], "training_curves")
    if metrics.empty:
        raise ValueError("training_curves got a table without rows; nothing was logged yet")
    metrics = metrics if by in metrics else metrics.assign(**{by: ""})
    kinds = list(dict.fromkeys(metrics[by]))
    colours = colours or theme.palette(kinds, by)
    plots = []
    for i, name in enumerate(values):
        rows = metrics.dropna(subset=[name])
        parts = []
        for kind in kinds:
            curve = _over_seeds(rows[rows[by] == kind], x, name, None)
            if len(curve):
                parts += _line(curve, x, by, kind, colours[kind], legend=len(kinds) > 1 and i == len(values) - 1, points=24)
        if marker is not None:
            parts.append(hv.VLine(marker).opts(color=theme.INK, line_width=1.4, line_dash="dotted"))
        if not parts:
            parts = [hv.Curve([], x, "middle")]
        sized = {"width": 380, "height": 260} | options if len(values) > 1 else options
        sized |= {"title": title if len(values) == 1 else ""}
        plots.append(theme.frame(hv.Overlay(parts), xlabel=x, ylabel=name, legend_opts={"title": by}, **sized))
    return plots[0] if len(plots) == 1 else theme.row(plots, title=title)
