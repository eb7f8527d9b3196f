"""What is known without labels against what labels say: a point a setting, its spread over seeds, and what a choice costs."""

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import holoviews as hv
import pandas as pd

from workbench.figures import theme

__all__ = ["along_setting", "choice_scatter", "regret_table"]

ROOM = 0.35  # for words beside the last setting, in steps between two
NEAR = 0.16  # of the step between two settings: how far apart the points of two colours stand


def choice_scatter(
    table: pd.DataFrame,
    *,
    x: str,
    y: str,
    by: str = "sweep",
    setting: str = "setting",
    chosen: Sequence[object] = (),
    picked: object = None,
    floor: float | None = None,
    colours: Mapping[Hashable, str] | None = None,
    line: bool = True,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A measure against a probe: a point a setting, bars of one standard deviation over seeds, a line along the settings.

    Arguments:
        table: A row a run: columns ``x``, ``y``, ``by`` and ``setting``; where there is a column ``seed``, points are means.
        x: The measure, which needs no labels.
        y: What labels say.
        by: What the colours stand for; within each, a line follows the settings in their order.
        setting: The hyper-parameter's value, shown on hover.
        chosen: Pairs (``by``, ``setting``) that get a ring: what was chosen.
        picked: The setting that a reader picked; it gets a cross.
        floor: Standard deviation of ``y`` over seeds. The band that it draws, two to either side of the best mean, holds the
            settings that seeds alone do not tell from the best.
        colours: By value of ``by``.
        line: Whether a line joins the points of a colour.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``, ``xlabel``, ``logx``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty or holds several runs for one setting and seed.
    """
    theme.ready()
    theme.need(table, [x, y, by, setting], "choice_scatter")
    theme.lone(table, [by, setting], [x, y])
    points = table.groupby([by, setting], sort=False, observed=True)[[x, y]].agg(["mean", "std", "size"])
    points.columns = ["x", "dx", "nx", "y", "dy", "seeds"]
    points = points.drop(columns="nx").fillna({"dx": 0.0, "dy": 0.0}).reset_index(names=["group", "setting"])
    colours, parts = colours or theme.palette(list(dict.fromkeys(points["group"])), by), []
    if floor is not None:
        best = points["y"].max()
        parts.append(hv.HSpan(best - 2 * floor, best + 2 * floor).opts(color=theme.GREY, alpha=0.3, show_legend=False))
    digits = "0" * _digits(points["y"].max() - points["y"].min())
    tips = [(by, "@group"), (setting, "@setting"), (x, "@x{0.000a}"), (y, f"@y{{0.{digits}}}"), ("seeds", "@seeds")]
    for kind, colour in colours.items():
        own = points[points["group"] == kind]
        own = own.sort_values("setting", kind="stable") if pd.api.types.is_numeric_dtype(own["setting"]) else own
        looks = {"color": colour, "show_legend": False}
        if line:
            parts.append(hv.Curve(own, "x", "y").opts(line_width=1.4, alpha=0.5, **looks))
        bars = own.assign(
            left=own["x"] - own["dx"], right=own["x"] + own["dx"], low=own["y"] - own["dy"], high=own["y"] + own["dy"]
        )
        for across in (["left", "y", "right", "y"], ["x", "low", "x", "high"]):
            segments = hv.Segments([tuple(bar) for bar in bars[across].to_numpy()], ["x0", "y0", "x1", "y1"])
            parts.append(segments.opts(line_width=1.6, **looks))
        rings = own[[any((kind, s) == tuple(c) for c in chosen) for s in own["setting"]]]
        if len(rings):
            ring = hv.Points(rings, ["x", "y"]).opts(
                size=18, fill_alpha=0, line_color=theme.INK, line_width=1.6, show_legend=False
            )
            parts.append(ring)
        dots = hv.Points(own, ["x", "y"], ["group", "setting", "seeds"], label=str(kind))
        parts.append(dots.opts(color=colour, size=9, tools=["hover"], hover_tooltips=tips, show_legend=len(colours) > 1))
    if picked is not None:
        cross = hv.Points(points[points["setting"] == picked], ["x", "y"])
        parts.append(cross.opts(marker="cross", size=26, color=theme.INK, line_width=2, show_legend=False))
    looks = {"xlabel": x, "ylabel": y, "note": _note(points, floor, chosen, picked)} | options
    return theme.frame(hv.Overlay(parts), title=title, legend=by, **looks)


def along_setting(
    table: pd.DataFrame,
    value: str,
    *,
    by: str = "method",
    setting: str = "setting",
    chosen: str | None = None,
    band: tuple[float, float] | Mapping[Hashable, tuple[float, float]] | None = None,
    banded: str = "plateau",
    picked: tuple[object, object] | None = None,
    colours: Mapping[Hashable, str] | None = None,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """One number along a hyper-parameter, its settings at equal distances in their order; mean and deviation over seeds.

    Arguments:
        table: A row a run: columns ``value``, ``by``, ``setting`` and, where there are several, ``seed``.
        value: A measure, or what labels say.
        by: What the colours stand for.
        setting: The hyper-parameter; numbers are put in order, words stay as they come.
        chosen: A column that is true for the run that was taken in its seed, as :func:`workbench.choose_runs` gives it. Its
            setting gets a ring, and where seeds do not agree, in how many of them.
        band: The least and the greatest value that a band reaches to. By value of ``by`` it ends where the means of that do.
        banded: What the band is, for the small print.
        picked: The pair (``by``, ``setting``) that a reader picked; it gets a cross.
        colours: By value of ``by``.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``, ``xlabel``, ``ylim``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty or holds several runs for one setting and seed.
    """
    theme.ready()
    theme.need(table, [value, by, setting, *([chosen] if chosen else [])], "along_setting")
    theme.lone(table, [by, setting], [value, *([chosen] if chosen else [])])
    settings = list(dict.fromkeys(table[setting]))
    settings = sorted(settings) if pd.api.types.is_numeric_dtype(table[setting]) else settings
    table = table.assign(taken=table[chosen].astype(float) if chosen else 0.0)
    points = table.groupby([by, setting], sort=False, observed=True).agg(
        y=(value, "mean"), dy=(value, "std"), seeds=(value, "size"), taken=("taken", "sum")
    )
    points = points.fillna({"dy": 0.0}).reset_index(names=["group", "setting"])
    kinds = list(dict.fromkeys(points["group"]))
    colours = colours or theme.palette(kinds, by)
    apart = {kind: NEAR * (i - (len(kinds) - 1) / 2) for i, kind in enumerate(kinds)}
    points["x"] = points["setting"].map(settings.index) + points["group"].map(apart)
    low, high = (points["y"] - points["dy"]).min(), (points["y"] + points["dy"]).max()
    air = 0.08 * (high - low) or 0.05 * abs(high) or 1.0
    low, high = options.get("ylim") or (low - air, high + air)
    bands = band if isinstance(band, Mapping) else {None: band} if band else {}
    parts: list[Any] = []
    for kind, (bottom, top) in bands.items():
        own = points["y"] if kind is None else points.loc[points["group"] == kind, "y"]
        ends = (bottom, top) if kind is None else (max(bottom, own.min()), min(top, own.max()))
        parts.append(
            hv.HSpan(*ends).opts(color=colours.get(kind, theme.GREY), alpha=0.3 if kind is None else 0.14, show_legend=False)
        )
    disputed = points[points["taken"] > 0].groupby("group").size().max() > 1
    digits = "0" * _digits(points["y"].max() - points["y"].min())
    tips = [(by, "@group"), (setting, "@setting"), (value, f"@y{{0.{digits}}}"), ("seeds", "@seeds")]
    for kind in kinds:
        own, looks = points[points["group"] == kind].sort_values("x"), {"color": colours[kind], "show_legend": False}
        parts.append(hv.Curve(own, "x", "y").opts(line_width=1.8, alpha=0.6, **looks))
        bars = own.assign(low=own["y"] - own["dy"], high=own["y"] + own["dy"])[["x", "low", "x", "high"]]
        segments = hv.Segments([tuple(bar) for bar in bars.to_numpy()], ["x0", "y0", "x1", "y1"])
        parts.append(segments.opts(line_width=1.6, **looks))
        parts += _taken(own)
        dots = hv.Points(own.astype({"setting": str}), ["x", "y"], ["group", "setting", "seeds"], label=str(kind))
        parts.append(dots.opts(color=colours[kind], size=8, tools=["hover"], hover_tooltips=tips, show_legend=len(kinds) > 1))
    if picked is not None:
        cross = hv.Points(points[(points["group"] == picked[0]) & (points["setting"] == picked[1])], ["x", "y"])
        parts.append(cross.opts(marker="cross", size=26, color=theme.INK, line_width=2, show_legend=False))
    said = _note(points, None, points["taken"].tolist() if chosen and points["taken"].any() else (), picked)
    looks = {"xlabel": setting, "ylabel": value, "note": "; ".join(filter(None, [said, f"band: {banded}" if bands else ""]))}
    looks |= {
        "xticks": [(i, _written(s)) for i, s in enumerate(settings)],
        "xlim": (-0.5, len(settings) - 0.5 + ROOM * bool(disputed)),
    }
    return theme.frame(hv.Overlay(parts), title=title, legend=by, **looks | {"ylim": (low, high)} | options)


def _taken(own: pd.DataFrame) -> list[Any]:
    """Rings around what was chosen, and where seeds do not agree, in how many of them."""
    rings = own[own["taken"] > 0]
    if rings.empty:
        return []
    looks = {"fill_alpha": 0, "line_color": theme.INK, "line_width": 1.6, "show_legend": False}
    parts = [hv.Points(rings, ["x", "y"]).opts(size=18, **looks)]
    if len(rings) > 1:
        words = [f"{int(n)} of {int(rings['taken'].sum())}" for n in rings["taken"]]
        counts = hv.Labels(rings.assign(words=words), ["x", "y"], "words")
        looks = {"text_color": theme.INK, "text_font_size": theme.SIZE["tick"], "text_align": "left", "text_baseline": "bottom"}
        parts.append(counts.opts(hooks=[_aside], **looks))
    return parts


def _aside(plot: Any, element: Any) -> None:
    """The hook that moves words off the ring that they tell of."""
    plot.handles["glyph"].update(x_offset=10, y_offset=-6)


def _written(setting: object) -> str:
    return f"{setting:g}" if isinstance(setting, float) else str(setting)


def regret_table(table: pd.DataFrame, *, unit: str = "points", title: str = "", **options: Any) -> hv.Overlay:
    """What each measure's choices cost: a row a sweep, a column a measure, or, where there are more measures than sweeps, the
    other way round; the least costly is the palest.

    Arguments:
        table: As :func:`workbench.regret` gives it.
        unit: Of the regret.
        title: What the figure shows, as a statement.
        options: Further HoloViews options.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty, or holds several numbers for one cell.
    """
    theme.ready()
    theme.need(table, ["method", "sweep", "measure", "regret"], "regret_table")
    asked = table[table["measure"] != "oracle"].copy()
    alone = asked["sweep"].nunique() == 1 and asked["method"].nunique() > 1
    asked["sweep"] = asked["method"] if alone else asked["method"] + ", " + asked["sweep"].str.replace("_", " ")
    theme.lone(asked, ["sweep", "measure"], ["regret"])
    spread = asked["regret_std"] if "regret_std" in asked else float("nan")
    d = _digits(10 * float(asked["regret"].max()))
    words = [
        f"{r:.{d}f}" if s != s else f"{r:.{d}f} ± {s:.{d}f}" for r, s in zip(asked["regret"], _each(spread, asked), strict=True)
    ]
    if "told" in asked:
        words = [f"({w})" if told is False or told == 0 else w for w, told in zip(words, asked["told"], strict=True)]
    across, down = "measure", "sweep"
    if asked[across].nunique() > asked[down].nunique():
        across, down = down, across
    cells = asked[[across, down, "regret"]].assign(printed=words)
    cells[across] = cells[across].str.replace(" ", "\n") if across == "measure" else cells[across]
    columns, rows = list(dict.fromkeys(cells[across])), list(dict.fromkeys(cells[down]))
    dims = [hv.Dimension(across, values=columns), hv.Dimension(down, values=rows[::-1])]
    top = max(float(cells["regret"].max()), 1e-9)
    heat = hv.HeatMap(cells, dims, "regret")
    heat = heat.opts(cmap=list(theme.PALE), clim=(0, top), colorbar=False, line_color=theme.PAPER, line_width=3)
    text = hv.Labels(cells, dims, "printed").opts(text_color=theme.INK, text_font_size=theme.SIZE["label"])
    wide = max(120, 8 * max(len(line) for name in columns for line in name.split("\n")))
    looks = {"width": wide * len(columns), "height": max(38 * len(rows), 76), "xaxis": "top", "xlabel": "", "ylabel": ""}
    note = f"regret in {unit}: the best that labels would choose minus what was chosen"
    if "±" in "".join(words):
        note += ", mean ± deviation over seeds"
    if "(" in "".join(words):
        note += "\nin brackets: the measure differs less between settings than between seeds"
    looks |= {"show_legend": False, "hooks": [theme.bare], "note": note} | options
    return theme.frame(heat * text, title=title, **looks)


def _each(spread: Any, table: pd.DataFrame) -> list[float]:
    return list(spread) if hasattr(spread, "__len__") else [spread] * len(table)


def _digits(span: float) -> int:
    """Decimals enough to tell parts of a span."""
    return int(min(max(1 - math.floor(math.log10(span)), 1), 6)) if 0 < span < math.inf else 1


def _note(points: pd.DataFrame, floor: float | None, chosen: Sequence[object], picked: object) -> str:
    said = [f"mean and standard deviation of {int(points['seeds'].max())} seeds"] if points["seeds"].max() > 1 else []
    if floor is not None:
        said.append("grey: within two deviations over seeds of the best")
    if chosen:
        said.append("ring: chosen")
    if picked is not None:
        said.append("cross: looked at")
    return "; ".join(said)
