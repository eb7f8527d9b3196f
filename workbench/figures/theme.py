"""How figures look: colours, fonts, sizes. Nothing else in the project sets them.

Categories take the palette of Okabe and Ito (2008), which people with any colour vision can tell apart; whatever has an
order (layer depth, training step) takes a part of viridis or plasma that is dark enough for white paper and beamers.
"""

import functools
from collections.abc import Hashable, Sequence
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
from bokeh.models import ColorBar, Legend, Plot, Text
from bokeh.palettes import Blues256, Plasma256, Viridis256

__all__ = ["palette"]

CATEGORIES = (
    "#0072B2",
    "#D55E00",
    "#009E73",
    "#CC79A7",
    "#E69F00",
    "#56B4E9",
    "#7F3C8D",
    "#4D4D4D",
    "#8FB300",
    "#8B4513",
    "#00B8A9",
    "#A0003A",
)
INK, QUIET, GRID, PAPER = "#1F2933", "#6B7785", "#E4E7EB", "#FFFFFF"
FONT = "Helvetica"
SIZE = {"title": "17px", "label": "15px", "tick": "13px", "legend": "14px", "note": "13px"}
WIDTH, HEIGHT = 560, 380
PALE = tuple(reversed(Blues256[130:]))  # white to a blue on which black numbers can be read
DEEP = tuple(reversed(Blues256))
RAMPS = {"layer": Viridis256[8:205], "step": Plasma256[0:200], "depth": Viridis256[8:205]}


def palette(values: Sequence[Hashable], kind: str = "run") -> dict[Hashable, str]:
    """Returns a colour for each of ``values``, in their order.

    Arguments:
        values: What the colours stand for.
        kind: The column that they come from: ``layer``, ``step`` and ``depth`` have an order and take a sequence of colours,
            all else takes categories (beyond twelve they repeat).

    Example:
        >>> palette(["vicreg", "simclr"])["vicreg"]
        '#0072B2'
    """
    ramp = RAMPS.get(kind)
    if ramp is None:
        return {v: CATEGORIES[i % len(CATEGORIES)] for i, v in enumerate(values)}
    last = max(len(values) - 1, 1)
    return {v: ramp[round(i / last * (len(ramp) - 1))] for i, v in enumerate(values)}


def dress(plot: Any, element: Any) -> None:
    """The hook that every figure carries: fonts, axes and legend of the Bokeh figure that HoloViews made."""
    figure = plot.handles.get("plot", plot.state)
    if not isinstance(figure, Plot):
        return
    figure.background_fill_color = figure.border_fill_color = PAPER
    figure.outline_line_color = None
    figure.sizing_mode = None if figure.sizing_mode == "fixed" else figure.sizing_mode  # else Bokeh warns about frame_width
    figure.title.update(
        text_font=FONT, text_font_size=SIZE["title"], text_font_style="bold", text_color=INK, offset=0, standoff=12
    )
    figure.title_location = "above"
    for axis in figure.axis:
        axis.update(axis_label_text_font=FONT, axis_label_text_font_size=SIZE["label"], axis_label_text_font_style="normal")
        axis.update(axis_label_text_color=INK, major_label_text_font=FONT, major_label_text_font_size=SIZE["tick"])
        axis.update(major_label_text_color=INK, axis_line_color=QUIET, major_tick_line_color=QUIET, minor_tick_line_color=None)
        axis.update(major_tick_in=0, axis_label_standoff=8)
    figure.grid.grid_line_color = GRID
    figure.toolbar.update(logo=None, autohide=True)
    for text in figure.select(Text):
        text.text_font = {"value": FONT}
    for bar in figure.select(ColorBar):
        bar.update(
            major_label_text_font=FONT,
            major_label_text_font_size=SIZE["tick"],
            title_text_font=FONT,
            title_text_font_style="normal",
        )
        bar.update(title_text_font_size=SIZE["legend"], bar_line_color=None, major_tick_line_color=None, width=14)
    for legend in figure.select(Legend):
        legend.update(label_text_font=FONT, label_text_font_size=SIZE["legend"], label_text_color=INK, border_line_color=None)
        legend.update(background_fill_alpha=0, click_policy="mute", glyph_width=22, spacing=2, padding=4, margin=4)
        legend.update(location="top_left" if legend in figure.right else legend.location, inactive_fill_alpha=0)
        legend.update(title_text_font=FONT, title_text_font_size=SIZE["legend"], title_text_color=QUIET)


def bare(plot: Any, element: Any) -> None:
    """A further hook, for pictures whose axes mean nothing."""
    figure = plot.handles["plot"]
    figure.grid.grid_line_color = None
    for axis in figure.axis:
        axis.update(axis_line_color=None, major_tick_line_color=None)


def frame(
    figure: Any, *, title: str = "", width: int = WIDTH, height: int = HEIGHT, hooks: Sequence[Any] = (), **options: Any
) -> Any:
    """Returns a HoloViews figure in the project's looks, with the title that states what it shows."""
    extra = {"legend_position": "right"} if isinstance(figure, hv.Overlay) else {}
    options = extra | {"frame_width": width, "frame_height": height} | options
    return figure.opts(title=title, hooks=[dress, *hooks], shared_axes=False, backend="bokeh", **options)


def row(figures: Sequence[Any], *, title: str = "", columns: int = 3) -> hv.Layout:
    """Returns small figures side by side under one title."""
    layout = hv.Layout(list(figures)).cols(min(columns, len(figures)))
    return layout.opts(title=title, fontsize={"title": SIZE["title"]}, shared_axes=False, toolbar=None, backend="bokeh")


@functools.cache
def ready() -> None:
    """Makes Bokeh the backend that draws, once; canvas and not WebGL, so that any machine shows the same picture."""
    hv.Store.set_current_backend("bokeh")
    hv.renderer("bokeh").webgl = False


def need(columns: Sequence[str], wanted: Sequence[str], figure: str) -> None:
    """Raises KeyError, in the words of every figure, if a table lacks a column."""
    missing = [c for c in wanted if c not in columns]
    if missing:
        raise KeyError(f"{figure} needs the columns {list(wanted)}, but {missing} are missing; the table has {list(columns)}")
