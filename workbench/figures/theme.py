"""How figures look: colours, fonts, sizes. Nothing else in the project sets them.

Categories take the palette of Okabe and Ito (2008), which people with any colour vision can tell apart; whatever has an
order takes a sequence that grows lighter, as far as white paper and beamers allow: training steps a part of plasma, layers one
of our own, from ink over blue, violet and rose to amber, since eight neighbours of one hue are one colour to the eye.
"""

import dataclasses
import functools
import textwrap
from collections.abc import Hashable, Iterable, Sequence
from typing import Any

import holoviews as hv
import holoviews.plotting.bokeh
import pandas as pd
from bokeh.core.property.descriptors import UnsetValueError
from bokeh.core.validation import silence
from bokeh.core.validation.warnings import FIXED_SIZING_MODE
from bokeh.models import BasicTickFormatter, ColorBar, CustomJS, Plot, Text, Title
from bokeh.palettes import Blues256, Plasma256, Viridis256, interp_palette
from bokeh.themes import Theme

__all__ = ["palette"]

# Okabe and Ito without yellow, which white paper swallows; from the ninth on, darker relatives
CATEGORIES = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#7F3C8D", "#4D4D4D")
CATEGORIES += ("#8FB300", "#8B4513", "#00B8A9", "#A0003A")
PAIR = CATEGORIES[:2]  # of what was chosen and what it is held against
DEPTH = interp_palette(("#08082E", "#2A32D0", "#7D7BE8", "#C77F9F", "#F5A623"), 256)
RAMPS = {"layer": DEPTH, "rank": Viridis256[8:205], "step": Plasma256[0:200]}
PALE = tuple(reversed(Blues256[130:]))  # white to a blue on which black numbers can be read
DEEP = tuple(reversed(Blues256))
INK, QUIET, GREY, GRID, PAPER = "#1F2933", "#6B7785", "#C4CBD3", "#E4E7EB", "#FFFFFF"
WRONG = ("#F2B48C", "#9CCBEA")  # pale orange and blue: a number that is too high, too low
FONT = "Helvetica"
SIZE = {"title": "17px", "label": "15px", "tick": "13px", "legend": "14px", "note": "11.5px"}
LOOKS = {  # by class of Bokeh
    "Plot": {"background_fill_color": PAPER, "border_fill_color": PAPER, "outline_line_color": None},
    "Title": {"text_font": FONT, "text_font_size": SIZE["title"], "text_font_style": "bold", "text_color": INK, "standoff": 12},
    "Grid": {"grid_line_color": GRID},
    "Axis": {
        "axis_label_text_font": FONT,
        "axis_label_text_font_size": SIZE["label"],
        "axis_label_text_font_style": "normal",
        "axis_label_text_color": INK,
        "axis_label_standoff": 8,
        "major_label_text_font": FONT,
        "major_label_text_font_size": SIZE["tick"],
        "major_label_text_color": INK,
        "axis_line_color": QUIET,
        "major_tick_line_color": QUIET,
        "major_tick_in": 0,
        "minor_tick_line_color": None,
    },
    "Legend": {
        "label_text_font": FONT,
        "label_text_font_size": SIZE["legend"],
        "label_text_color": INK,
        "title_text_font": FONT,
        "title_text_font_size": SIZE["legend"],
        "title_text_font_style": "normal",
        "title_text_color": QUIET,
        "border_line_color": None,
        "background_fill_alpha": 0,
        "inactive_fill_alpha": 0,
        "click_policy": "mute",
        "glyph_width": 22,
        "spacing": 2,
        "padding": 4,
        "margin": 4,
    },
    "BaseColorBar": {
        "major_label_text_font": FONT,
        "major_label_text_font_size": SIZE["tick"],
        "title_text_font": FONT,
        "title_text_font_size": SIZE["legend"],
        "title_text_font_style": "normal",
        "bar_line_color": None,
    },
}
DASHES = ("solid", "dashed", "dotted", "dashdot")
WIDTH, HEIGHT = 560, 380
LETTER = 6.2  # of a note, on average, in screen pixels
# a browser knows how wide a figure and its letters really are; some pages make every title large and bold
WRAP = """
const [said, size] = note.tags
if (note.text_font_size != size || note.text_font_style != 'normal') note.setv({text_font_size: size, text_font_style: 'normal'})
const pen = document.createElement('canvas').getContext('2d')
pen.font = `${size} ${note.text_font}`
const lines = []
for (const words of said.split('\\n')) {
  let line = ''
  for (const word of words.split(' ')) {
    const longer = line ? `${line} ${word}` : word
    if (line && pen.measureText(longer).width > figure.inner_width) { lines.push(line); line = word } else line = longer
  }
  lines.push(line)
}
const text = lines.join('\\n')
if (figure.inner_width > 0 && text != note.text) note.text = text
"""


def palette(values: Sequence[Hashable], kind: str = "run") -> dict[Hashable, str]:
    """Returns a colour for each of ``values``, in their order.

    Arguments:
        values: What the colours stand for.
        kind: The column that they come from: ``layer``, ``step`` and ``rank`` have an order and take a sequence of colours,
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


def frame(
    figure: Any,
    *,
    title: str = "",
    legend: str | None = None,
    width: int = WIDTH,
    height: int = HEIGHT,
    hooks: Sequence[Any] = (),
    note: str = "",
    **options: Any,
) -> Any:
    """Returns a HoloViews figure in the project's looks.

    Arguments:
        figure: An element or an overlay.
        title: What it shows, as a statement.
        legend: What its entries are; a legend stands to the right, where it catches no clicks.
        width, height: Of the frame between the axes, in screen pixels; ``responsive=True`` fills the width there is.
        hooks: Further hooks than :func:`dress`.
        note: Small print below the figure: what its numbers were taken of.
        options: Of HoloViews.
    """
    if isinstance(figure, hv.Overlay):
        options = {"legend_position": "right", "legend_opts": {"title": legend or ""}} | options
    options = {"active_tools": ["box_zoom"]} | options  # the wheel scrolls the page
    size = {"height": height} if options.get("responsive") else {"frame_width": width, "frame_height": height}
    hooks = [dress, *hooks, *([Note(note)] if note else [])]
    return figure.opts(title=title, hooks=hooks, shared_axes=False, backend="bokeh", **(size | options))


def row(figures: Sequence[Any], *, title: str = "", columns: int = 3) -> hv.Layout:
    """Returns small figures side by side under one title."""
    layout = hv.Layout(list(figures)).cols(min(columns, len(figures)))
    return layout.opts(title=title, fontsize={"title": SIZE["title"]}, shared_axes=False, toolbar=None, backend="bokeh")


def dress(plot: Any, element: Any) -> None:
    """The hook that every figure carries: fonts, axes and legend of the Bokeh figure that HoloViews made."""
    figure = plot.handles.get("plot", plot.state)
    if not isinstance(figure, Plot):
        return
    figure.toolbar.update(logo=None, autohide=True)
    for legend in figure.legend:
        if legend in figure.center:  # there it would catch the mouse
            figure.center = [x for x in figure.center if x is not legend]
            figure.add_layout(legend, "right")
        legend.location = "top_left"
    for renderer in figure.renderers:
        if isinstance(getattr(renderer, "glyph", None), Text):
            renderer.glyph.text_font = {"value": FONT}
    parts = {"Plot": [figure], "Title": [figure.title], "Axis": figure.axis, "Grid": figure.grid, "Legend": figure.legend}
    parts["BaseColorBar"] = [
        bar for side in (figure.right, figure.left, figure.below) for bar in side if isinstance(bar, ColorBar)
    ]
    for kind, looks in LOOKS.items():
        for part in parts[kind]:
            part.update(**looks)
    for axis in figure.axis:
        if isinstance(axis.formatter, BasicTickFormatter):
            axis.formatter.power_limit_low = -5  # a rate of 0.0005, not of 5.000e-4


def document_theme() -> Theme:
    """Returns the same looks as a theme of a Bokeh document, for pages that would otherwise lay theirs over the figures.

    What a figure sets to Bokeh's own default counts there as not set; so small print, a title too, is not of 13 pixels.
    """
    return Theme(json={"attrs": LOOKS})


@dataclasses.dataclass(frozen=True)
class Note:
    """The hook that writes small print below a figure; called again with other words, it replaces them."""

    words: str

    def __call__(self, plot: Any, element: Any) -> None:
        """Writes the words below the Bokeh figure that HoloViews made, as wide as its frame."""
        figure = plot.handles.get("plot", plot.state)
        fits = max(round((figure.frame_width or _shown_width(figure) or WIDTH * 0.7) / LETTER), 12)
        text = "\n".join(line for words in self.words.splitlines() for line in textwrap.wrap(words, fits))
        known = [part for part in figure.below if isinstance(part, Title)]
        if known:
            known[0].update(text=text, tags=[self.words, SIZE["note"]])
            return
        looks = {"text_font": FONT, "text_font_size": SIZE["note"], "text_font_style": "normal", "text_color": QUIET}
        note = Title(text=text, tags=[self.words, SIZE["note"]], standoff=8, **looks)
        wrap = CustomJS(args={"note": note, "figure": figure}, code=WRAP)
        figure.js_on_change("inner_width", wrap)
        note.js_on_change("tags", wrap)
        figure.add_layout(note, "below")


def _shown_width(figure: Plot) -> int:
    """How wide a browser drew the frame; 0 where none has yet."""
    try:
        return figure.inner_width
    except UnsetValueError:
        return 0


def bare(plot: Any, element: Any) -> None:
    """A further hook, for pictures whose axes mean nothing."""
    figure = plot.handles["plot"]
    figure.grid.grid_line_color = None
    for axis in figure.axis:
        axis.update(axis_line_color=None, major_tick_line_color=None)


@functools.cache
def ready() -> None:
    """Makes Bokeh the backend that draws, once; canvas and not WebGL, so that any machine shows the same picture."""
    hv.Store.set_current_backend("bokeh")
    hv.renderer("bokeh").webgl = False
    hv.renderer("bokeh").theme = document_theme()  # or titles of rows of figures were black
    silence(FIXED_SIZING_MODE)  # a frame's width is a width too


def need(table: pd.DataFrame, wanted: Iterable[str], figure: str) -> None:
    """Raises KeyError if a table lacks a column, ValueError if it has no rows, in the words of every figure."""
    missing = [c for c in wanted if c not in table]
    if missing:
        raise KeyError(f"{figure} needs the columns {list(wanted)}, but {missing} are missing; the table has {list(table)}")
    if table.empty:
        raise ValueError(f"{figure} got a table without rows; nothing was measured or logged yet")


def facts(table: pd.DataFrame, by: str | None = None) -> str:
    """Returns what the numbers of a table were taken of, from its columns ``n`` and ``d``: "N = 2,048, D = 128 (h), 64 (z)".

    Arguments:
        table: Any table; empty words where it has neither column.
        by: The column that names its parts, where these differ.
    """
    return ", ".join(words for name in ("n", "d") if name in table and (words := _size(table.dropna(subset=name), name, by)))


def _size(table: pd.DataFrame, name: str, by: str | None) -> str:
    values = sorted(set(table[name].astype(int)))
    if len(values) < 2:
        return "".join(f"{name.upper()} = {value:,}" for value in values)
    parts = table[[by, name]].drop_duplicates() if by in table else []
    if 0 < len(parts) <= 4:
        return f"{name.upper()} = " + ", ".join(f"{int(value):,} ({part})" for part, value in parts.to_numpy())
    return f"{name.upper()} = {values[0]:,} to {values[-1]:,}"


def lone(table: pd.DataFrame, one: Iterable[str | None], measured: Iterable[str] = ("value",)) -> None:
    """Raises ValueError if a table has several values where a figure has one place; only those of seeds are averaged.

    Arguments:
        table: What is to be drawn.
        one: Columns that name a place of the figure; None and absent ones do not count.
        measured: Columns that hold what is drawn.
    """
    one = [c for c in dict.fromkeys([*one, "seed"]) if c in table]
    many = table[table.duplicated(one, keep=False)]
    if many.empty:
        return
    groups = many.groupby(one, dropna=False, observed=True)
    at_most, taken = groups.size().max(), {*one, *measured, "floor", "low", "high"}
    differ = [c for c in many if c not in taken and groups[c].nunique().max() > 1 and many[c].nunique() <= at_most]
    said = f"choose one value of {differ}, or draw by one" if differ else "add a column that tells them apart, and draw by it"
    raise ValueError(f"several values for one {' and '.join(one)}: {said}. Only a column 'seed' is averaged.")
