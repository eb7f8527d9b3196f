"""Settings under one another, a dot each: what turning a knob moves, against what seeds move and what was not trained."""

from collections.abc import Hashable, Mapping
from typing import Any

import holoviews as hv
import pandas as pd

from workbench.figures import theme

__all__ = ["setting_dots"]


def setting_dots(
    table: pd.DataFrame,
    *,
    value: str,
    by: str = "knob",
    setting: str = "setting",
    lines: Mapping[str, float] | None = None,
    colours: Mapping[Hashable, str] | None = None,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A line a setting, in groups: a dot at its mean, a bar of one standard deviation over seeds.

    Arguments:
        table: Columns ``by``, ``setting`` and ``value``; where there is a column ``seed``, dots are means over seeds.
        value: What is drawn.
        by: What the groups, and the colours, stand for; in their order from above.
        setting: What the lines of a group are; in their order.
        lines: Values that get a vertical line, by what is written above it: ``{"raw pixels": 23.4}``.
        colours: By value of ``by``.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``, ``xlabel``, ``logx``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty or holds several values for one setting and seed.
    """
    theme.ready()
    theme.need(table, [by, setting, value], "setting_dots")
    theme.lone(table, [by, setting], [value])
    points = table.groupby([by, setting], sort=False, observed=True)[value].agg(["mean", "std", "size"]).reset_index()
    groups = list(dict.fromkeys(points[by]))
    points = pd.concat([points[points[by] == g] for g in groups], ignore_index=True).fillna({"std": 0.0})
    gap = points[by].map({g: i for i, g in enumerate(groups)})
    points["place"] = -(points.index + 0.6 * gap)
    points = points.rename(columns={by: "group", setting: "setting"})
    points = points.assign(low=points["mean"] - points["std"], high=points["mean"] + points["std"])
    colours, parts = colours or theme.palette(groups, by), []
    tips = [(by, "@group"), (setting, "@setting"), (value, "@mean{0.00a} ± @std{0.00a}"), ("seeds", "@size")]
    top, bottom = 0.8, float(points["place"].min()) - 0.8
    for i, (words, at) in enumerate(sorted((lines or {}).items(), key=lambda line: -line[1])):
        end = top + 0.9 * (i % 3)  # the words of neighbours stand above one another
        look = {"color": theme.QUIET, "line_width": 1.4, "line_dash": "dashed", "show_legend": False}
        parts.append(hv.Segments([(at, bottom, at, end)], ["x0", "y0", "x1", "y1"]).opts(**look))
        text = hv.Text(at, end, f" {words}", halign="left", valign="bottom")
        parts.append(text.opts(text_color=theme.QUIET, text_font_size=theme.SIZE["note"]))
    top += 0.9 * min(len(lines or ()), 3)
    for group in groups:
        own = points[points["group"] == group]
        bars = hv.Segments([tuple(b) for b in own[["low", "place", "high", "place"]].to_numpy()], ["x0", "y0", "x1", "y1"])
        parts.append(bars.opts(color=colours[group], line_width=2.4, show_legend=False))
        dots = hv.Points(own, ["mean", "place"], ["group", "setting", "std", "size"], label=str(group))
        looks = {"color": colours[group], "size": 10, "tools": ["hover"], "hover_tooltips": tips}
        parts.append(dots.opts(show_legend=len(groups) > 1, **looks))
    ticks = list(zip(points["place"], points["setting"].astype(str), strict=True))
    seeds = int(points["size"].max())
    note = f"dots are means of {seeds} seeds, bars one standard deviation to either side" if seeds > 1 else "one seed"
    looks = {"xlabel": value, "ylabel": "", "yticks": ticks, "ylim": (bottom, top), "note": note}
    looks |= {"height": round(24 * (top - bottom)), "xlim": _range(points, lines or {}, log=options.get("logx", False))} | options
    return theme.frame(hv.Overlay(parts), title=title, legend=by, **looks)


def _range(points: pd.DataFrame, lines: Mapping[str, float], *, log: bool) -> tuple[float | None, float | None]:
    """Holds all bars and lines, and leaves room for the words that stand to the right of the last line."""
    if log:
        return None, None
    low, high = min([points["low"].min(), *lines.values()]), max([points["high"].max(), *lines.values()])
    span = (high - low) or 1.0
    ends = [high + 0.04 * span, *(at + (0.02 + 0.016 * len(words)) * span for words, at in lines.items())]
    return low - 0.04 * span, max(ends)
