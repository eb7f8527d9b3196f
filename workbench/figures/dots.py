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
    colour: str | None = None,
    lines: Mapping[str, float] | None = None,
    colours: Mapping[Hashable, str] | None = None,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A line a setting, in groups: a dot at its mean, and a stroke a seed, on a line from the least to the greatest.

    Arguments:
        table: Columns ``by``, ``setting`` and ``value``; where there is a column ``seed``, dots are means over seeds.
        value: What is drawn.
        by: What the groups stand for; in their order from above.
        setting: What the lines of a group are; in their order.
        colour: What the colours stand for: ``by``, as they do by default, and settings are named at the axis; or ``setting``,
            so that one setting can be followed through the groups, which are named at the axis then.
        lines: Values that get a vertical line, by what is written above it: ``{"raw pixels": 23.4}``.
        colours: By value of ``by``, or of ``setting`` where they stand for that.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``, ``xlabel``, ``logx``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty or holds several values for one setting and seed, or colours stand for neither.
    """
    theme.ready()
    theme.need(table, [by, setting, value], "setting_dots")
    theme.lone(table, [by, setting], [value])
    if colour not in (None, by, setting):
        raise ValueError(f"colours stand for {by!r} or {setting!r}, but got colour={colour!r}")
    asked = {"mean": "mean", "low": "min", "high": "max", "size": "size"}
    seeds = table[[by, setting, value]].set_axis(["group", "setting", "value"], axis=1)
    points = seeds.groupby(["group", "setting"], sort=False, observed=True)["value"].agg(**asked).reset_index()
    groups = list(dict.fromkeys(points["group"]))
    points = pd.concat([points[points["group"] == g] for g in groups], ignore_index=True)
    gap = points["group"].map({g: i for i, g in enumerate(groups)})
    points["place"] = -(points.index + 0.6 * gap)
    seeds = seeds.merge(points[["group", "setting", "place"]], on=["group", "setting"])
    shown = "setting" if colour == setting else "group"
    kinds, parts = list(dict.fromkeys(points[shown])), []
    colours = colours or theme.palette(kinds, colour or by)
    tips = [(by, "@group"), (setting, "@setting"), (value, "@mean{0.00a}, seeds @low{0.00a} to @high{0.00a}"), ("seeds", "@size")]
    top, bottom = 0.8, float(points["place"].min()) - 0.8
    for i, (words, at) in enumerate(sorted((lines or {}).items(), key=lambda line: -line[1])):
        end = top + 0.9 * (i % 3)  # the words of neighbours stand above one another
        look = {"color": theme.QUIET, "line_width": 1.4, "line_dash": "dashed", "show_legend": False}
        parts.append(hv.Segments([(at, bottom, at, end)], ["x0", "y0", "x1", "y1"]).opts(**look))
        text = hv.Text(at, end, f" {words}", halign="left", valign="bottom")
        parts.append(text.opts(text_color=theme.QUIET, text_font_size=theme.SIZE["note"]))
    top += 0.9 * min(len(lines or ()), 3)
    for kind in kinds:
        own = points[points[shown] == kind]
        spread = own[own["size"] > 1]
        each = seeds.loc[seeds["place"].isin(spread["place"]), ["value", "place"]].to_numpy(float)
        bars = [(r.low, r.place, r.high, r.place) for r in spread.itertuples()]
        strokes = [(x, at - 0.28, x, at + 0.28) for x, at in each]
        for ends, look in ((bars, {"line_width": 2.4, "alpha": 0.35}), (strokes, {"line_width": 1.8})):
            drawn = hv.Segments(ends, ["x0", "y0", "x1", "y1"])
            parts.append(drawn.opts(color=colours[kind], show_legend=False, **look))
        dots = hv.Points(own, ["mean", "place"], ["group", "setting", "low", "high", "size"], label=str(kind))
        looks = {"color": colours[kind], "size": 9, "tools": ["hover"], "hover_tooltips": tips}
        parts.append(dots.opts(show_legend=len(kinds) > 1, **looks))
    named = points if shown == "group" else points.groupby("group", as_index=False)["place"].mean()
    ticks = list(zip(named["place"], named["setting" if shown == "group" else "group"].astype(str), strict=True))
    many = int(points["size"].max())
    note = f"dots: means of {many} seeds, strokes: the seeds" if many > 1 else "one seed"
    looks = {"xlabel": value, "ylabel": "", "yticks": ticks, "ylim": (bottom, top), "note": note}
    looks |= {"height": round(24 * (top - bottom)), "xlim": _range(points, lines or {}, log=options.get("logx", False))} | options
    return theme.frame(hv.Overlay(parts), title=title, legend=colour or by, **looks)


def _range(points: pd.DataFrame, lines: Mapping[str, float], *, log: bool) -> tuple[float | None, float | None]:
    """Holds all bars and lines, and leaves room for the words that stand to the right of the last line."""
    if log:
        return None, None
    low, high = min([points["low"].min(), *lines.values()]), max([points["high"].max(), *lines.values()])
    span = (high - low) or 1.0
    ends = [high + 0.04 * span, *(at + (0.02 + 0.016 * len(words)) * span for words, at in lines.items())]
    return low - 0.04 * span, max(ends)
