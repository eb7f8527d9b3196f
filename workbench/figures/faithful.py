"""Numbers of samples: the place of their source along a setting, and which factors they keep beside what a probe reads."""

from collections.abc import Hashable, Mapping
from typing import Any

import holoviews as hv
import numpy as np
import pandas as pd

from workbench.figures import theme

__all__ = ["agreement_bars", "rank_curve"]

RANKS = ("mean rank", "median rank")
CHANCE = "chance"
SHARES = {
    "kept": "share of samples with their source's value",
    "shared": "share of pairs of samples with one value",
    "changed": "share of samples whose value changes",
}


def rank_curve(
    table: pd.DataFrame,
    *,
    x: str,
    measure: str = "mean rank",
    by: str | None = None,
    colours: Mapping[Hashable, str] | None = None,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """The place of the source against a setting, such as the strength of an attack: a curve for each value of ``by``, and chance.

    Ranks have a log axis. Bands are the table's intervals; where there is a column ``seed`` with several, one standard deviation
    over seeds to either side of the mean.

    Arguments:
        table: As ``rank_summary`` gives it, a column ``x`` beside: columns ``measure``, ``value``, ``chance``, and where they are
            known ``low``, ``high``, ``candidates``.
        x: The column of the horizontal axis, numbers.
        measure: ``"mean rank"``, ``"median rank"``, ``"MRR"`` or any other of the table.
        by: What the curves differ in; by default ``layer``, where there is that column; else the table is one curve.
        colours: By value of ``by``.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width``, ``xlabel`` or ``logx``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty, has no such measure, or holds several values for one place.

    Example:
        ::

            table = pd.concat([wb.rank_summary(ranks[eps]).assign(eps=eps) for eps in ranks])
            rank_curve(table, x="eps", xlabel="strength of the attack (largest change of a pixel)")
    """
    theme.ready()
    by = by or "layer"
    table = table if by in table else table.assign(**{by: ""})
    theme.need(table, [x, by, "measure", "value", CHANCE], "rank_curve")
    points, over_seeds = _spread(_only(table, measure, "rank_curve"), [by, x])
    log = measure in RANKS
    kinds, parts = list(dict.fromkeys(points[by])), []
    colours = colours or theme.palette(kinds, "run")
    number = "0,0.0" if log else "0.000"
    tips = [(by, "@kind"), (x, "@at{0.0000}"), (measure, f"@value{{{number}}}"), ("interval", "@said")]
    for kind in kinds:
        own = points[points[by] == kind].sort_values(x)
        said = [f"{low:,.3g} to {high:,.3g}" for low, high in own[["low", "high"]].to_numpy()]
        own = own.assign(at=own[x].astype(float), kind=np.array(str(kind), object), said=said)
        looks = {"color": colours[kind], "muted_alpha": 0.12}
        if own["low"].notna().any():
            band = hv.Area(own, "at", ["low", "high"], label=str(kind))
            parts.append(band.opts(color=colours[kind], fill_alpha=0.18, line_alpha=0, show_legend=False, muted_alpha=0.03))
        dims = ["value", "kind", "said"]
        line = hv.Curve(own, "at", dims, label=str(kind)).opts(line_width=2.6, show_legend=len(kinds) > 1, **looks)
        dots = hv.Scatter(own, "at", dims, label=str(kind)).opts(size=7, show_legend=False, tools=["hover"], **looks)
        parts += [line, dots.opts(hover_tooltips=tips)]
    guess = points.groupby(x, as_index=False)[CHANCE].mean()
    level = hv.Curve(guess.rename(columns={x: "at", CHANCE: "value"}), "at", "value", label=CHANCE)
    parts.append(level.opts(color=theme.QUIET, line_dash="dashed", line_width=1.6))
    room = points[["value", "low", "high", CHANCE]]
    least, most = float(room.min().min()), float(room.max().max())
    ylim = (max(least / 2, 0.85), 1.5 * most) if log else (min(0.0, least), 1.04 * most)
    among = f" among {int(table['candidates'].max()):,} images" if "candidates" in table else ""
    looks = {"yticks": [(k * 10**i, f"{k * 10**i:,}") for i in range(8) for k in (1, 2, 5)]} if log else {}
    looks |= {"ylim": ylim, "padding": (0.04, 0), "logy": log, "xlabel": x, "ylabel": f"{measure} of the source{among}"}
    looks["note"] = " ".join(filter(None, [_said_of(table, "bands", seeds=over_seeds), "1 is the best rank." if log else ""]))
    return theme.frame(hv.Overlay(parts), title=title, legend=by, **(looks | options))


def agreement_bars(
    table: pd.DataFrame,
    *,
    measure: str = "kept",
    beside: str | None = "probe",
    by: str | None = None,
    colours: Mapping[Hashable, str] | None = None,
    title: str = "",
    **options: Any,
) -> hv.Overlay:
    """A bar a factor and layer: how many samples keep their source's value; a diamond, what a probe reads; a line, chance.

    Where the diamond stands far beyond the bar, the factor is in the representation, and its samples do not show it.

    Arguments:
        table: Columns ``factor``, ``measure``, ``value`` and, where they are known, ``low``, ``high``, ``chance``: rows of
            ``factor_agreement``, and rows of ``probe_layers`` whose ``measure`` is set to ``"probe"``. Where there is a column
            ``seed`` with several, bars are means and whiskers one standard deviation over seeds.
        measure: What the bars are; ``"changed"`` for ``factor_changes``.
        beside: What the diamonds are, or None for none.
        by: What the bars of a factor differ in; by default ``layer``, where there is that column; else there is one a factor.
        colours: By value of ``by``.
        title: What the figure shows, as a statement.
        options: Further HoloViews options, such as ``width`` or ``xlabel``.

    Raises:
        KeyError: If the table lacks a column.
        ValueError: If the table is empty, has no such measure, or holds several values for one place.

    Example:
        ::

            read = wb.probe_layers(train, test).assign(measure="probe")
            kept = pd.concat([wb.factor_agreement(oracle(drawn[k]), factors).assign(layer=k) for k in drawn])
            agreement_bars(pd.concat([kept, read]), title="The projector's samples forget the side, which a probe still reads")
    """
    theme.ready()
    by = by or "layer"
    table = table if by in table else table.assign(**{by: ""})
    theme.need(table, ["factor", "measure", "value", by], "agreement_bars")
    bars, over_seeds = _spread(_only(table, measure, "agreement_bars"), ["factor", by])
    factors, kinds = list(dict.fromkeys(bars["factor"])), list(dict.fromkeys(bars[by]))
    colours = colours or theme.palette(kinds, "run")
    thick = 0.76 / len(kinds)
    down = {factor: -i for i, factor in enumerate(factors)}
    shift = {kind: 0.38 - (i + 0.5) * thick for i, kind in enumerate(kinds)}

    def placed(rows: pd.DataFrame) -> pd.DataFrame:
        rows = rows[rows["factor"].isin(factors) & rows[by].isin(kinds)]
        said = ["–" if np.isnan(low) else f"{low:.2f} to {high:.2f}" for low, high in rows[["low", "high"]].to_numpy()]
        place = rows["factor"].map(down).astype(float) + rows[by].map(shift).astype(float)
        return rows.assign(place=place, kind=rows[by].astype(str), said=said, factor=rows["factor"].astype(str))

    bars = placed(bars)
    tips = [("factor", "@factor"), (by, "@kind"), (measure, "@value{0.000}"), ("interval", "@said")]
    tips += [(CHANCE, "@chance{0.000}")] if bars[CHANCE].notna().any() else []
    parts = []
    for kind in kinds:
        own = bars[bars[by] == kind].assign(zero=0.0)
        own = own.assign(bottom=own["place"] - 0.46 * thick, top=own["place"] + 0.46 * thick)
        dims = ["kind", "factor", "value", "said", CHANCE]
        boxes = hv.Rectangles(own.assign(right=own["value"]), ["zero", "bottom", "right", "top"], dims, label=str(kind))
        looks = {"fill_color": colours[kind], "line_color": theme.PAPER, "fill_alpha": 0.85, "tools": ["hover"]}
        parts.append(boxes.opts(hover_tooltips=tips, show_legend=len(kinds) > 1, **looks))
    ends = bars.dropna(subset=["low", "high"])
    if len(ends):
        lines = [tuple(row) for row in ends[["low", "place", "high", "place"]].to_numpy()]
        whiskers = hv.Segments(lines, ["x0", "y0", "x1", "y1"], label="interval")
        parts.append(whiskers.opts(color=theme.INK, line_width=1.8, show_legend=False))
    known = bars.dropna(subset=[CHANCE])
    if len(known):
        lines = [(v, p - thick / 2, v, p + thick / 2) for v, p in known[[CHANCE, "place"]].to_numpy()]
        guess = hv.Segments(lines, ["x0", "y0", "x1", "y1"], label=CHANCE)
        parts.append(guess.opts(color=theme.INK, line_width=2, line_dash="dotted", show_legend=True))
    read = placed(_spread(table[table["measure"] == beside], ["factor", by])[0]) if beside in set(table["measure"]) else bars[:0]
    if len(read):
        diamonds = hv.Points(
            read, ["value", "place"], ["kind", "factor", "said"], label="linear probe" if beside == "probe" else str(beside)
        )
        looks = {"marker": "diamond", "size": 13, "fill_color": theme.PAPER, "line_color": theme.INK, "line_width": 1.8}
        tips = [("factor", "@factor"), (by, "@kind"), (beside, "@value{0.000}")]
        parts.append(diamonds.opts(tools=["hover"], hover_tooltips=tips, show_legend=True, **looks))
    low = min(0.0, float(bars[["value", "low"]].min().min()), float(read["value"].min()) if len(read) else 0.0)
    looks = {"yticks": [(y, str(factor)) for factor, y in down.items()], "ylim": (-len(factors) + 0.5, 0.5), "ylabel": ""}
    looks |= {"xlim": (low * 1.04, 1.03), "xlabel": SHARES.get(measure, measure), "height": max(54 * len(factors), 120)}
    looks["note"] = _said_of(table, "whiskers", seeds=over_seeds)
    return theme.frame(hv.Overlay(parts), title=title, legend="" if kinds == [""] else by, **(looks | options))


def _only(table: pd.DataFrame, measure: str, figure: str) -> pd.DataFrame:
    rows = table[table["measure"] == measure]
    if rows.empty:
        raise ValueError(f"{figure} finds no {measure!r}; the table has the measures {sorted(set(table['measure']), key=str)}")
    return rows


def _spread(rows: pd.DataFrame, place: list[str]) -> tuple[pd.DataFrame, bool]:
    """Returns a row a place with ``low``, ``high`` and ``chance``, and whether these ends are of seeds."""
    theme.lone(rows, place)
    rows = rows.assign(**{name: np.nan for name in ("low", "high", CHANCE) if name not in rows})
    many = "seed" in rows and rows.duplicated(place).any()
    if not many:
        return rows, False
    got = rows.groupby(place, sort=False, observed=True).agg(
        value=("value", "mean"), off=("value", "std"), chance=(CHANCE, "mean")
    )
    return got.assign(low=got["value"] - got["off"], high=got["value"] + got["off"]).reset_index(), True


def _said_of(table: pd.DataFrame, what: str, *, seeds: bool) -> str:
    if seeds:
        return f"{what}: one standard deviation over {table['seed'].nunique()} seeds to either side of the mean."
    if "low" not in table or table["low"].isna().all():
        return ""
    of = f" over {int(table['sources'].max()):,} sources" if "sources" in table and table["sources"].notna().any() else ""
    share = f"{100 * table['interval'].max():g} % " if "interval" in table and table["interval"].notna().any() else ""
    return f"{what}: {share}intervals{of}."
